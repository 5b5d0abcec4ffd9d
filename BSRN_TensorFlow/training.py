"""What surrounds the training loop of train.py: the folder of a run, its checkpoints, losses and speed, its copy."""
from common import runs
from common.tf import runs as tf_runs
from models import checkpoint


def add_store(add):
    """The options of train.py and validate_bsrn.py that say where else results go; add: parser.add_argument."""
    add('--platform', default='linux', choices=('linux', 'modelarts'), help='modelarts: copy the results to --obs_dir')
    add('--obs_dir', default='obs://bsrn-test/', help='folder of an object store')


def object_store():
    """What copies folders to an object store. ValueError: this is not ModelArts."""
    try:
        import moxing
    except ImportError:
        raise ValueError('--platform=modelarts: the package moxing is missing, which ModelArts has; elsewhere leave '
                         'it out') from None
    return moxing.file


class Run(tf_runs.Run):
    """A folder TRAIN_PATH[_2, _3 ...] with its checkpoints model.ckpt-STEP and model.ckpt-best."""

    def __init__(self, options):
        super().__init__(options.train_path, checkpoint.STEM, '--resume' if options.resume else '', checkpoint.check,
                         'to start from the weights of another one use --restore_path')


class Meter(runs.Meter):
    def __init__(self, batches, batch_size):
        super().__init__(batches, batch_size, 'A smaller --bsrn_learning_rate helps, or --bsrn_clip_norm=5')
