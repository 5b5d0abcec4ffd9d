"""What surrounds the training loop of train.py: the folder of a run, its checkpoints, losses and speed, its copy."""
import contextlib
import os

from common import checkpoints, runs
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


class Run(runs.Run):
    """A folder TRAIN_PATH[_2, _3 ...] with its checkpoints model.ckpt-STEP and model.ckpt-best."""

    def __init__(self, options):
        super().__init__(options.train_path, 'model.ckpt-STEP', 'model.ckpt-best', '--resume' if options.resume else '')

    def saved(self):
        return bool(checkpoint.numbered(self.folder)) or os.path.exists(self.best + checkpoint.INDEX)

    def prefix(self, step):
        return os.path.join(self.folder, f'model.ckpt-{step}')

    def remove(self, step):
        """Delete a checkpoint that this run wrote, if it is still there; its index first, which makes it one."""
        prefix = self.prefix(step)
        for path in (prefix + checkpoint.INDEX, prefix + checkpoint.NOTES, prefix + checkpoint.DATA):
            with contextlib.suppress(FileNotFoundError):
                os.remove(path)

    def resume(self):
        """(prefix, state) of the newest checkpoint that loads."""
        for prefix in [*(prefix for _, prefix in checkpoint.numbered(self.folder)), self.best]:
            with contextlib.suppress(ValueError, FileNotFoundError):  # newest_valid has said why
                return prefix, checkpoints.newest_valid(prefix + checkpoint.INDEX, load_state)[1]
        raise ValueError(f'--resume: no checkpoint in {self.folder} could be loaded; to start from the weights of '
                         'another one use --restore_path')


def load_state(path):
    """{'progress', 'options', 'size', 'arrays'} of a checkpoint of train.py. ValueError: it is none."""
    prefix, arrays = checkpoint.load(path)
    notes = checkpoint.notes(prefix)
    missing = [name for name in ('progress', 'options', 'size') if name not in notes]
    if missing:
        raise ValueError(f'{prefix}{checkpoint.NOTES} has no {", ".join(missing)}: not a checkpoint of train.py; to go '
                         'on from it use --restore_path and --global_step')
    return dict(notes, arrays=arrays)


class Meter(runs.Meter):
    def __init__(self, batches, batch_size):
        super().__init__(batches, batch_size, 'A smaller --bsrn_learning_rate helps, or --bsrn_clip_norm=5')
