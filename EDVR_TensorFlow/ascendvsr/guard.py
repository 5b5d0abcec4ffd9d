"""What watches over a training: offsets that grow too large, losses that explode, the way back to a good checkpoint."""
import math

from ascendvsr.models import checkpoint
from common import runs
from common.tf import checkpoint as files
from common.tf import runs as tf_runs

TIMES = 3  # rollbacks of a run at most
REMEDY = 'A smaller solver.lr_schedule.base_lr helps, or solver.on_explosion rollback'


class Run(tf_runs.Run):
    """A folder OUTPUT_DIR[_2, _3 ...] with its checkpoints EDVR-STEP and EDVR-best."""

    def __init__(self, config):
        super().__init__(config.output_dir, checkpoint.STEM, 'continue_training True' * config.continue_training,
                         checkpoint.check, 'to start from the weights of another one use the key checkpoint')


class Guard(runs.Meter):
    """A Meter that looks at the offsets of the deformable convolutions, too; offsets are in pixels."""

    def __init__(self, batches, batch_size, solver, line):
        super().__init__(batches, batch_size, REMEDY)
        self._warning, self._limit, self._line = solver.offset_warning, solver.offset_limit, line
        self._offset, self._warned = 0.0, False

    def count(self, step, loss, offset):
        """A step with this loss and largest mean offset. Raises Explosion as check() does."""
        super().count(step, loss)
        self._offset = max(self._offset, float(offset))
        self._look(step, offset)

    def check_weights(self, step, look):
        """The same of what Model.look() gives after a step, which is in no reading. Raises Explosion."""
        self.check(step, look['loss'])
        self._look(step, look['offset'])

    def _look(self, step, offset):
        if not math.isfinite(offset) or offset > self._limit:
            raise runs.Explosion(f'step {step}: the mean offset of a deformable convolution is {offset:g} pixels, the '
                                 f'limit (solver.offset_limit) {self._limit:g}', REMEDY)
        if offset > self._warning and not self._warned:
            self._warned = True
            self._line(f'warning: step {step}: the mean offset of a deformable convolution is {offset:.1f} pixels, '
                       f'more than solver.offset_warning {self._warning:g}: the alignment may be failing')

    def read(self):
        """What Meter reads, and 'offset': the largest of the steps."""
        fields = dict(super().read(), offset=self._offset)
        self._offset, self._warned = 0.0, False
        return fields


def roll_back(config, run, ranks, rollbacks, error):
    """(prefix, state) of the newest good checkpoint, its progress told of one rollback more than there were.

    The notes of the checkpoint say so, too: a run that is killed now goes on exactly so. Raises ValueError, with the
    step of the Explosion, the checkpoint and the remedy, where solver.on_explosion is stop, or it was the last time.
    """
    if config.solver.on_explosion != 'rollback' or rollbacks == TIMES or not run.saved():
        prefix = run.resume()[0] if run.saved() else 'not there yet'
        after = f', after {TIMES} rollbacks' if rollbacks == TIMES else ''
        raise ValueError(f'{error.what}; stopped{after}. The last good checkpoint is {prefix}. '
                         f'{error.remedy}') from None
    prefix, state = run.resume()
    state['progress']['rollbacks'] = rollbacks + 1
    if ranks.rank == 0:
        files.write_notes(prefix, {name: value for name, value in state.items() if name != 'arrays'})
    return prefix, state
