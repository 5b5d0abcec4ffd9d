"""What surrounds a training loop in TensorFlow: the folder of a run with its checkpoints, a stop of all ranks."""
import contextlib
import os
import signal

from common import checkpoints, runs
from common.tf import checkpoint


class Run(runs.Run):
    """A folder BASE[_2, _3 ...] with its checkpoints STEM-STEP and STEM-best.

    resume: as common.runs has it; check: as common.tf.checkpoint.notes has it; remedy: what to do where no checkpoint
    loads.
    """

    def __init__(self, base, stem, resume='', check=None, remedy=''):
        self._stem, self._resume, self._check, self._remedy = stem, resume, check, remedy
        super().__init__(base, f'{stem}-STEP', f'{stem}-best', resume)

    def saved(self):
        return bool(checkpoint.numbered(self.folder, self._stem)) or os.path.exists(self.best + checkpoint.INDEX)

    def prefix(self, step):
        return os.path.join(self.folder, f'{self._stem}-{step}')

    def remove(self, step):
        """Delete a checkpoint that this run wrote, if it is still there; its index first, which makes it one."""
        prefix = self.prefix(step)
        for path in (prefix + checkpoint.INDEX, prefix + checkpoint.NOTES, prefix + checkpoint.DATA):
            with contextlib.suppress(FileNotFoundError):
                os.remove(path)

    def resume(self):
        """(prefix, state) of the newest checkpoint that loads, the state as load_state() has it. ValueError: none."""
        def load(path):
            return load_state(path, self._check)
        for prefix in [*(prefix for _, prefix in checkpoint.numbered(self.folder, self._stem)), self.best]:
            with contextlib.suppress(ValueError, FileNotFoundError):  # newest_valid has said why
                return prefix, checkpoints.newest_valid(prefix + checkpoint.INDEX, load)[1]
        raise ValueError(f'{self._resume or self.folder}: no checkpoint in {self.folder} could be loaded; '
                         f'{self._remedy}')


def load_state(path, check=None):
    """{'progress', 'options', 'size', 'arrays'} of a checkpoint of a training. ValueError: it is none."""
    prefix, arrays = checkpoint.load_variables(path)
    notes = checkpoint.notes(prefix, check)
    missing = [name for name in ('progress', 'options', 'size') if name not in notes]
    if missing:
        raise ValueError(f'{prefix}{checkpoint.NOTES} has no {", ".join(missing)}: not a checkpoint of a training')
    return dict(notes, arrays=arrays)


def granted(stop, asked, ranks):
    """The number of the signal when this step is the last, else 0. asked: the mean over the ranks, of this step."""
    if ranks.world_size == 1:
        return stop.asked  # it may have come during the step
    return (stop.asked or signal.SIGTERM) if asked > 0 else 0
