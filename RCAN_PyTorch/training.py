"""What surrounds the training loop of main.py: the folder of a run, its checkpoints, losses, speed and signals."""

import contextlib
import math
import os
import re
import signal
import time

import torch

from common import checkpoints
from import_weights import load_file, read_weights
from model import RCAN, size_of

EXPLODED = 100.0  # a loss so many times its running mean is no longer training


class Run:
    """A folder OUTPUTS_DIR/X{scale}[_2, _3 ...] with its checkpoints, last and best: these or train.jsonl mark it as
    taken.

    With --ifcontinue it is the highest number that has a checkpoint: a later run may have ended before its first. Else
    it is the one after the highest that is taken, and claim() takes it.
    """

    def __init__(self, options):
        self._base = os.path.join(options.outputs_dir, f'X{options.scale}')
        self._arch, self._suffix, self._number = options.arch, '_amp' * options.amp, 1
        numbers = list(self._numbers())
        if not options.ifcontinue:
            self._number = 1 + max((n for n, saved, recorded in numbers if saved or recorded), default=0)
            return
        self._number = max((n for n, saved, _ in numbers if saved), default=1)
        if not any(saved for _, saved, _ in numbers):
            raise ValueError(f'--ifcontinue: no run with {os.path.basename(self.last)} in {self._base}; to start a '
                             'run, leave it out')

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
        return os.path.join(self.folder, f'{self._arch}_epoch_last{self._suffix}.pth')

    @property
    def best(self):
        return os.path.join(self.folder, f'model_best{self._suffix}.pth')

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

    @staticmethod
    def save(path, state, keep):
        """Write a checkpoint; `keep` - 1 earlier ones stay beside it."""
        checkpoints.save(path, lambda temporary: torch.save(state, temporary), keep=keep)

    def resume(self, checkpoint_path=''):
        """(path, state) of the newest checkpoint that loads, or of the one named."""
        if checkpoint_path:
            return checkpoints.newest_valid(os.path.join(self.folder, checkpoint_path), load_state)
        try:
            return checkpoints.newest_valid(self.last, load_state)
        except (OSError, ValueError):
            if not os.path.exists(self.best):
                raise
        return checkpoints.newest_valid(self.best, load_state)  # not by time: a copied folder has times of its own


def load_state(path):
    """A checkpoint of main.py. Raises ValueError for one that cannot be resumed from."""
    state = load_file(path)
    needed = {'model', 'optimizer', 'scaler', 'step', 'validated', 'best', 'ck_performance', 'options'}
    missing = needed - set(state) if isinstance(state, dict) else needed
    if missing:
        raise ValueError(f'holds no {", ".join(sorted(missing))}: not a checkpoint of main.py; '
                         'to start from its weights use --iffinetuning')
    return state


def start_finetuning(network, path):
    """Copy the weights of any readable checkpoint into the network; of another scale, all but the upsampler.

    Raises ValueError for a trunk of another size or style.
    """
    weights, found, dialect = read_weights(path)
    size = size_of(network.state_dict())  # as it is read from weights, where one width has several reductions
    differing = [f'{key} {found[key]} (here {size[key]})' for key in size if key != 'scale' and found[key] != size[key]]
    if differing:
        raise ValueError(f'{path}: cannot fine-tune from it, its network has {", ".join(differing)}')
    same_scale = found['scale'] == size['scale']
    kept = {name: value for name, value in weights.items() if same_scale or not name.startswith('upscale.')}
    network.load_state_dict(kept, strict=False)
    return (f'start finetuning from {path} ({dialect}, x{found["scale"]}): '
            + ('all layers kept' if same_scale else f'all kept but the upsampler, which is new for x{size["scale"]}'))


def restore(optimiser, scaler, resumed):
    """Load the state of both from a checkpoint, which may be of another device, precision or torch."""
    groups = optimiser.state_dict()['param_groups']  # the saved ones name the kernel (fused) of where they were made
    optimiser.load_state_dict({'state': resumed['optimizer']['state'], 'param_groups': groups})
    for parameter, state in optimiser.state.items():
        for name, value in state.items():
            if torch.is_tensor(value) and value.shape == parameter.shape and value.stride() != parameter.stride():
                state[name] = torch.empty_like(parameter).copy_(value)  # the fused kernel reads memory, not indices
    if resumed['scaler']:  # empty: the run was not in fp16
        scaler.load_state_dict(resumed['scaler'])


def share_weights(network, size, compiled):
    """A second RCAN over the same parameters, its residual groups compiled; the first one stays free for any size."""
    if not compiled:
        return network
    if not hasattr(torch.nn.Module, 'compile'):
        raise ValueError(f'--compile needs torch 2.2 or later, this is {torch.__version__}; leave it out')
    twin = RCAN(**size)
    twin.load_state_dict(network.state_dict(keep_vars=True), assign=True)
    for group in twin.rgs:
        group.compile()
    return twin


class Meter:
    """Losses, speed and waiting between two readings; the clock of pause() does not count.

    Losses stay on the device until they are read, since reading waits for it; on CPU every loss is looked at at once.
    """

    def __init__(self, device, batch_size, batches):
        self._device, self._batch_size, self._batches = device, batch_size, batches
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
        if not pending:
            return
        values = torch.stack([loss for _, loss in pending]).float().tolist()
        for (step, _), value in zip(pending, values):
            if not math.isfinite(value) or (self._running and value > EXPLODED * self._running):
                raise ValueError(f'step {step}: the loss is {value:g}, its running mean was {self._running or 0:g}; '
                                 'stopped, a checkpoint there may be is from before. A smaller --lr helps, or '
                                 '--amp_dtype=bf16, or a lower --loss_scale')
            self._running = value if self._running is None else 0.9 * self._running + 0.1 * value
        self._losses += values[:len(self._pending)]
        self._pending = []

    def read(self):
        """{'loss', 'images/sec', 'data_wait'} since the last reading; loss is the mean over steps and ranks."""
        self.check()
        self._device.synchronize()
        seconds = max(time.perf_counter() - self._since - self._paused, 1e-9)
        self._intervals.append((self._steps, seconds))
        mean = torch.tensor(sum(self._losses) / max(len(self._losses), 1), device=self._device.torch)
        fields = {'loss': self._device.mean_over_ranks(mean).item(),
                  'images/sec': self._steps * self._batch_size / seconds,
                  'data_wait': (self._batches.waited - self._waited) / seconds}
        self._restart()
        return fields

    @contextlib.contextmanager
    def pause(self):
        """Time in this block is not training."""
        self._device.synchronize()
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

    asked: 0, or the number of the signal. Rank 0 saves and leaves; that breaks off what the other ranks do, quietly.
    """

    def __init__(self, device):
        self.asked, self._follows = 0, device.rank > 0

    def __enter__(self):
        self._before = {number: signal.signal(number, self._ask) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, kind, error, trace):
        for number, handler in self._before.items():
            signal.signal(number, handler)
        return bool(self.asked and self._follows and isinstance(error, RuntimeError))

    def _ask(self, number, _frame):
        if self.asked:
            raise KeyboardInterrupt
        self.asked = number
