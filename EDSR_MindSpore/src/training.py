"""What surrounds the training loop of train.py: the folder of a run, its checkpoints, losses, speed and signals."""
import contextlib
import json
import math
import os
import re
import signal
import time

from mindspore import Tensor

from common import checkpoints
from import_weights import agree, load_checkpoint, save_checkpoint
from src.model import load_weights, size_of, weights_of

EXPLODED = 100.0  # a loss so many times its running mean is no longer training
OPTIMISER = ('beta1_power', 'beta2_power', 'global_step')  # of nn.Adam, beside the moments


class Run:
    """A folder CKPT_SAVE_PATH/X{scale}[_2, _3 ...] with its checkpoints. train.jsonl or one of these marks it as taken.

    With --resume it is the highest number that has a checkpoint: a later run may have ended before its first. Else it
    is the one after the highest that is taken, and claim() takes it.
    """

    def __init__(self, options):
        self._base, self._number = os.path.join(options.ckpt_save_path, f'X{options.scale}'), 1
        numbers = list(self._numbers())
        if not options.resume:
            self._number = 1 + max((n for n, saved, recorded in numbers if saved or recorded), default=0)
            return
        self._number = max((n for n, saved, _ in numbers if saved), default=1)
        if not any(saved for _, saved, _ in numbers):
            raise ValueError(f'--resume: no run with {os.path.basename(self.last)} in {self._base}; to start a run, '
                             'leave it out')

    def _numbers(self):
        """(number, whether it has checkpoints, whether it has records) of each folder of a run."""
        place, stem = os.path.split(self._base)
        for name in os.listdir(place or '.') if os.path.isdir(place or '.') else ():
            match = re.fullmatch(re.escape(stem) + r'(?:_([2-9]|[1-9]\d+))?', name)
            if match:
                self._number = int(match[1] or 1)
                saved = checkpoints.versions(self.last) or checkpoints.versions(self.best)
                yield self._number, bool(saved), os.path.exists(self._record)

    @property
    def folder(self):
        return self._base if self._number == 1 else f'{self._base}_{self._number}'

    @property
    def last(self):
        return os.path.join(self.folder, 'edsr_last.ckpt')

    @property
    def best(self):
        return os.path.join(self.folder, 'edsr_best.ckpt')

    @property
    def _record(self):
        return os.path.join(self.folder, 'train.jsonl')

    def claim(self):
        """Make the folder; of runs that start at the same time each gets its own."""
        while True:
            os.makedirs(self.folder, exist_ok=True)
            try:
                open(self._record, 'x').close()
                return
            except FileExistsError:
                self._number += 1

    def remove(self, name):
        """Delete a checkpoint that this run wrote, if it is still there."""
        with contextlib.suppress(FileNotFoundError):
            os.remove(os.path.join(self.folder, name))

    def resume(self):
        """(path, state) of the newest checkpoint that loads."""
        try:
            return checkpoints.newest_valid(self.last, load_state)
        except (OSError, ValueError):
            if not os.path.exists(self.best):
                raise
        return checkpoints.newest_valid(self.best, load_state)  # not by time: a copied folder has times of its own


def save_state(path, network, adam, progress, options, keep):
    """Write everything that a resumed run needs; `keep` - 1 earlier versions stay beside it."""
    parameters = [*network.get_parameters(), *adam.moment1, *adam.moment2, *(getattr(adam, n) for n in OPTIMISER)]
    values = [{'name': parameter.name, 'data': parameter} for parameter in parameters]
    more = {'res_scale': options.res_scale, 'rgb_range': options.rgb_range, 'progress': json.dumps(progress),
            'options': json.dumps(vars(options))}
    save_checkpoint(path, values, more, keep)


def load_state(path):
    """{'progress', 'options', 'parameters': {name: array}} of a checkpoint of train.py. ValueError: it is none."""
    found = load_checkpoint(path)
    missing = [name for name in ('progress', 'options', *OPTIMISER) if name not in found]
    if missing:
        raise ValueError(f'holds no {", ".join(missing)}: not a checkpoint of train.py; to start from its weights use '
                         '--ckpt_path without --resume')
    return {'parameters': found, **{name: json.loads(found.pop(name)) for name in ('progress', 'options')}}


def restore(network, adam, parameters):
    """Copy the arrays of load_state into the network and its optimiser."""
    for parameter in [*network.get_parameters(), *adam.moment1, *adam.moment2, *(getattr(adam, n) for n in OPTIMISER)]:
        parameter.set_data(Tensor(parameters[parameter.name]))


def start_from(network, path, weights, found, dialect):
    """Copy what read_weights found at the path into the network; of another scale, all but the tail.

    Returns what to say about it. Raises ValueError for a body of another size, or another rgb_range.
    """
    size = size_of(weights_of(network))
    differing = [f'{key} {found[key]} (here {size[key]})' for key in size
                 if key != 'scale' and not agree(found[key], size[key])]
    if differing:
        raise ValueError(f'{path}: cannot start from it, its network has {", ".join(differing)}')
    same_scale = found['scale'] == size['scale']
    kept = {name: value for name, value in weights.items() if same_scale or not name.startswith('tail.')}
    load_weights(network, {**weights_of(network), **kept})
    return (f'start from {path} ({dialect}, x{found["scale"]}, res_scale {found["res_scale"]:g}): '
            + ('all layers kept' if same_scale else f'all kept but the tail, which is new for x{size["scale"]}'))


class Meter:
    """Losses, speed and waiting between two readings; the clock of pause() does not count.

    Losses stay on the device until they are read, since reading waits for it; on CPU every loss is looked at at once.
    """

    def __init__(self, device, batch_size, batches):
        self._device, self.batch_size, self._batches = device, batch_size, batches
        self._pending, self._losses, self._running = [], [], None
        self._intervals = []  # (steps, seconds) of each reading
        self._restart()

    def _restart(self):
        self._losses, self._steps, self._paused = [], 0, 0.0
        self._waited, self._since = self._batches.waited, time.perf_counter()

    def count(self, step, loss):
        """A step has been given to the device."""
        self._pending.append((step, loss))
        self._steps += 1
        if self._device.kind == 'cpu':
            self.check()

    def check(self, *after):
        """Raises ValueError naming the step whose loss is not finite, or EXPLODED times the running mean.

        after: a step and the loss that its weights give, looked at too but not part of what read() gives.
        """
        pending = self._pending + [after] * bool(after)
        values = [float(loss.asnumpy()) for _, loss in pending]
        for (step, _), value in zip(pending, values):
            if not math.isfinite(value) or (self._running and value > EXPLODED * self._running):
                raise ValueError(f'step {step}: the loss is {value:g}, its running mean was {self._running or 0:g}; '
                                 'stopped, a checkpoint there may be is from before. A smaller --lr helps, or '
                                 '--amp_level=O0, or a lower --loss_scale')
            self._running = value if self._running is None else 0.9 * self._running + 0.1 * value
        self._losses += values[:len(self._pending)]
        self._pending = []

    def read(self):
        """{'loss', 'images/sec', 'data_wait'} since the last reading; loss is the mean over the steps."""
        self.check()
        seconds = max(time.perf_counter() - self._since - self._paused, 1e-9)
        self._intervals.append((self._steps, seconds))
        fields = {'loss': sum(self._losses) / max(len(self._losses), 1),
                  'images/sec': self._steps * self.batch_size / seconds,
                  'data_wait': (self._batches.waited - self._waited) / seconds}
        self._restart()
        return fields

    @contextlib.contextmanager
    def pause(self):
        """Time in this block is not training."""
        self.check()  # waits for the device
        start = time.perf_counter()
        yield
        self._paused += time.perf_counter() - start

    @property
    def seconds_per_step(self):
        """Mean over all readings but the first, in which the graph is compiled."""
        steps, seconds = zip(*(self._intervals[1:] or self._intervals))
        return sum(seconds) / sum(steps)


class StopRequest:  # with StopRequest() as stop: ... if stop.asked: ...
    """Ctrl-C and SIGTERM as a wish that the loop grants between two steps; a second one stops at once.

    asked: 0, or the number of the signal; MindSpore passes a Ctrl-C on as SIGTERM.
    """

    def __init__(self, device):
        self.asked, self._alone, self._earlier = 0, device.world_size == 1, None

    def __enter__(self):
        self._before = {number: signal.signal(number, self._ask) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_):
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def granted(self, asked):
        """The number of the signal when this step is the last, else 0. asked: the mean over the ranks, of this step.

        Several ranks go by that of the step before: all of them know it, and no device need be waited for.
        """
        earlier, self._earlier = self._earlier, asked
        if self._alone:
            return self.asked
        return (self.asked or signal.SIGTERM) if earlier is not None and earlier.asnumpy() > 0 else 0

    def _ask(self, number, _frame):
        if self.asked:
            raise KeyboardInterrupt
        self.asked = number
