"""What surrounds a training loop in every framework: the folder of a run, losses and speed, signals."""
import contextlib
import math
import os
import re
import signal
import time

from common import checkpoints

EXPLODED = 100.0  # a loss so many times its running mean is no longer training


class Explosion(ValueError):
    """A training that has ended by itself; what: the step and what is wrong with it; remedy: what helps."""

    def __init__(self, what, remedy):
        super().__init__(f'{what}; stopped, a checkpoint there may be is from before. {remedy}')
        self.what, self.remedy = what, remedy


class Run:
    """A folder BASE[_2, _3 ...] with the checkpoints of one training: these or train.jsonl mark it as taken.

    last, best: names of the checkpoints. resume: the option that asks to go on, '' where it is not given. To go on it
    is the highest number that has a checkpoint: a later run may have ended before its first. Else it is the one after
    the highest that is taken, and claim() takes it. Raises ValueError when there is nothing to go on from.
    """

    def __init__(self, base, last, best, resume=''):
        self._base, self._last, self._best, self._number = os.path.normpath(base), last, best, 1
        numbers = list(self._numbers())
        if not resume:
            self._number = 1 + max((n for n, saved, recorded in numbers if saved or recorded), default=0)
            return
        self._number = max((n for n, saved, _ in numbers if saved), default=1)
        if not any(saved for _, saved, _ in numbers):
            raise ValueError(f'{resume}: no run with {last} in {self._base}; to start a run, leave it out')

    def _numbers(self):
        """(number, whether it has checkpoints, whether it has records) of each folder of a run."""
        place, stem = os.path.split(self._base)
        for name in os.listdir(place or '.') if os.path.isdir(place or '.') else ():
            match = re.fullmatch(re.escape(stem) + r'(?:_([2-9]|[1-9]\d+))?', name)
            if match:
                self._number = int(match.group(1) or 1)
                yield self._number, self.saved(), os.path.exists(self._record)

    @property
    def folder(self):
        return self._base if self._number == 1 else f'{self._base}_{self._number}'

    @property
    def last(self):
        return os.path.join(self.folder, self._last)

    @property
    def best(self):
        return os.path.join(self.folder, self._best)

    @property
    def _record(self):
        return os.path.join(self.folder, 'train.jsonl')

    def saved(self):
        """Whether the folder has a checkpoint."""
        return bool(checkpoints.versions(self.last) or checkpoints.versions(self.best))

    def claim(self):
        """Make the folder; of runs that start at the same time each gets its own."""
        while True:
            os.makedirs(self.folder, exist_ok=True)
            try:
                open(self._record, 'x').close()
                return
            except FileExistsError:
                self._number += 1

    def newest(self, load):
        """(path, load(path)) of the newest checkpoint that loads."""
        try:
            return checkpoints.newest_valid(self.last, load)
        except (OSError, ValueError):
            if not os.path.exists(self.best):
                raise
        return checkpoints.newest_valid(self.best, load)  # not by time: a copied folder has times of its own


class Meter:
    """Losses, speed and waiting between two readings; the clock of pause() does not count.

    batch_size: over all ranks; batches: what counts the seconds `waited`. remedy: what helps against losses that
    explode. Losses stay on the device until they are read, unless at_once: then every one is looked at as it comes.
    """

    def __init__(self, batches, batch_size, remedy, at_once=True):
        self.batch_size, self._batches, self._remedy, self._at_once = batch_size, batches, remedy, at_once
        self._pending, self._losses, self._running = [], [], None
        self._intervals = []  # (steps, seconds) of each reading
        self._restart()

    def _restart(self):
        self._losses, self._steps, self._paused = [], 0, 0.0
        self._waited, self._since = self._batches.waited, time.perf_counter()

    def values(self, losses):
        """Losses as numbers; a framework's own kind may need more."""
        return [float(loss) for loss in losses]

    def synchronize(self):
        """Wait until the device has done all steps, as reading the losses does."""
        self.check()

    def mean(self, loss):
        """The mean over the ranks of a number."""
        return loss

    def count(self, step, loss):
        """A step has been given to the device."""
        self._pending.append((step, loss))
        self._steps += 1
        if self._at_once:
            self.check()

    def check(self, *after):
        """Raises Explosion naming the step whose loss is not finite, or EXPLODED times the running mean.

        after: a step and the loss that its weights give, looked at too but not part of what read() gives.
        """
        pending = self._pending + [after] * bool(after)
        values = self.values([loss for _, loss in pending]) if pending else []
        for (step, _), value in zip(pending, values):
            if not math.isfinite(value) or (self._running and value > EXPLODED * self._running):
                raise Explosion(f'step {step}: the loss is {value:g}, its running mean was {self._running or 0:g}',
                                self._remedy)
            self._running = value if self._running is None else 0.9 * self._running + 0.1 * value
        self._losses += values[:len(self._pending)]
        self._pending = []

    def read(self):
        """{'loss', 'images/sec', 'data_wait'} since the last reading; loss is the mean over steps and ranks."""
        self.check()
        self.synchronize()
        seconds = max(time.perf_counter() - self._since - self._paused, 1e-9)
        self._intervals.append((self._steps, seconds))
        fields = {'loss': self.mean(sum(self._losses) / max(len(self._losses), 1)),
                  'images/sec': self._steps * self.batch_size / seconds,
                  'data_wait': (self._batches.waited - self._waited) / seconds}
        self._restart()
        return fields

    @contextlib.contextmanager
    def pause(self):
        """Time in this block is not training."""
        self.synchronize()
        start = time.perf_counter()
        yield
        self._paused += time.perf_counter() - start

    @property
    def seconds_per_step(self):
        """Mean over all readings but the first, in which memory is allocated and kernels are chosen or compiled."""
        steps, seconds = zip(*(self._intervals[1:] or self._intervals))
        return sum(seconds) / sum(steps)


class StopRequest:  # with StopRequest() as stop: ... if stop.asked: ...
    """Ctrl-C and SIGTERM as a wish that the loop grants between two steps; a second one stops at once.

    asked: 0, or the number of the signal.
    """

    asked = 0

    def __enter__(self):
        self._before = {number: signal.signal(number, self._ask) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_):
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number, _frame):
        if self.asked:
            raise KeyboardInterrupt
        self.asked = number
