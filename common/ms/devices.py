"""Everything that differs between cpu, gpu and npu, and between one process and several.

Only this file knows that an NPU exists. A scheduler, by which the ranks of a CPU or an NPU find each other, is a small
process of rank 0: `python3 -m common.ms.devices`, which only this file starts. A directory's own context file adds to
Device which of its layers a device runs.
"""
import contextlib
import glob
import logging
import os
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass

import mindspore as ms
import numpy as np
from mindspore import Tensor, log, nn, ops
from mindspore.communication import get_group_size, get_rank, init

from common.ms.kernels import open_library

KINDS = ('cpu', 'gpu', 'npu')
TARGETS = {'cpu': 'CPU', 'gpu': 'GPU', 'npu': 'Ascend'}  # MindSpore's names
NODES = {'gpu': '/dev/nvidia[0-9]*', 'npu': '/dev/davinci[0-9]*'}
HOME = os.path.abspath(os.path.join(os.path.dirname(__file__), '..', '..'))  # of common: a model's directory mostly
KERNELS = ('auto', 'builtin', 'native')


@dataclass(frozen=True)
class Device:
    """No rank may keep the others waiting for a minute: the all-reduce of MindSpore's CPU gives up then."""

    kind: str
    rank: int = 0
    world_size: int = 1

    def native(self, kernels='auto'):
        """Whether our own CPU kernels, those of common/native.py, are to be used, which compiles them.

        kernels: MindSpore's 'builtin', or on a CPU our compiled 'native' ones; 'auto' is native where a C++ compiler is
        there. Raises ValueError for 'native' where they cannot be had.
        """
        if kernels not in KERNELS:
            raise ValueError(f'unknown kernels {kernels!r}; known: {", ".join(KERNELS)}')
        if kernels == 'builtin' or (kernels == 'auto' and self.kind != 'cpu'):
            return False
        if self.kind != 'cpu':
            raise ValueError(f'--kernels=native: written for the CPU, not for {self.kind}; leave it out')
        try:
            open_library()
        except ValueError as error:
            if kernels == 'native':
                raise
            if self.rank == 0:
                print(f"note: MindSpore's own kernels are used: {error}", flush=True)
            return False
        return True

    def average(self):
        """A Cell from a tuple of float32 tensors to their means over the ranks, in one all-reduce; one rank: None."""
        return Average(self.world_size) if self.world_size > 1 else None

    def share(self, parameters):
        """Give every rank the values that rank 0 has, in one broadcast."""
        parameters = list(parameters)
        if self.world_size == 1 or not parameters:
            return
        flat = np.concatenate([parameter.asnumpy().ravel() for parameter in parameters])
        flat = Broadcast()(Tensor(flat)).asnumpy()
        ends = np.cumsum([parameter.size for parameter in parameters])
        for parameter, values in zip(parameters, np.split(flat, ends[:-1])):
            parameter.set_data(Tensor(values.reshape(parameter.shape)))

    def agree(self, number, what):
        """ValueError on a rank that comes here with another number than rank 0; what: its name in the message."""
        if self.world_size > 1:
            first = int(Broadcast()(Tensor(np.float32([number]))).asnumpy()[0])
            if first != number:
                raise ValueError(f'rank {self.rank} has {what} {number}, rank 0 {first}: they must be equal')

    def close(self):
        """Leave when all ranks have come here: one that ends early takes its connections with it."""
        if self.world_size > 1:
            Average(self.world_size)((Tensor(np.zeros(1, np.float32)),))[0].asnumpy()
            sys.stderr.flush()
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # MindSpore's threads log their end, whatever GLOG_v says


class Average(nn.Cell):
    def __init__(self, world_size):
        super().__init__()
        self.reduce, self.share = ops.AllReduce(), 1 / world_size

    def construct(self, tensors):
        flat = self.reduce(ops.concat([tensor.reshape(-1) for tensor in tensors])) * self.share
        means, start = (), 0
        for tensor in tensors:
            means += (flat[start:start + tensor.size].reshape(tensor.shape),)
            start += tensor.size
        return means


class Broadcast(nn.Cell):
    def __init__(self):
        super().__init__()
        self.broadcast = ops.Broadcast(0)

    def construct(self, tensor):
        return self.broadcast((tensor,))[0]


def available(kind, device_id=None):
    """Whether the installed MindSpore can use `kind` on this machine; from then on it does."""
    logger = log._get_logger()  # there is no public way to say less than GLOG_v
    before = logger.level
    logger.setLevel(logging.CRITICAL)  # a screen of missing libraries, for every kind that is not there
    try:
        select(kind, device_id)
        return True
    except RuntimeError:
        return False
    finally:
        logger.setLevel(before)


def select(kind, device_id=None):
    """Have MindSpore use that device; RuntimeError where it cannot. It lets itself be told once in a process."""
    current = ms.get_context('device_target'), ms.get_context('device_id')
    if current[0] != TARGETS[kind] or (kind != 'cpu' and device_id not in (None, current[1])):
        ms.set_device(TARGETS[kind], device_id)


def choose(name, device_id=None):
    """'cpu', 'gpu' or 'npu' for that name or 'auto' (the best there is), now in use. ValueError with the remedy."""
    if name == 'auto':
        name = next((kind for kind in ('npu', 'gpu') if glob.glob(NODES[kind]) and available(kind, device_id)), 'cpu')
    if name not in KINDS:
        raise ValueError(f'unknown device {name!r}; known: auto, {", ".join(KINDS)}')
    if not available(name, device_id):
        needed = {'npu': 'an Ascend NPU with CANN (README, Quick start)',
                  'gpu': 'a GPU and a MindSpore built for it, which later releases are not', 'cpu': 'a CPU'}
        raise ValueError(f'--device={name}: MindSpore {ms.__version__} finds none here; it needs {needed[name]}, or '
                         'choose --device=cpu')
    return name


def open_device(name='auto', device_id=0, join=False, kind_of_device=Device):
    """Choose the device and set MindSpore up for it, in GRAPH mode; with join, join the other ranks if there are any.

    device_id: index of the one device; of several ranks each takes what DEVICE_ID says. Raises ValueError for a device
    that is not there.
    """
    quiet()
    several = join and rank_count() > 1
    if several:  # where no launcher says it, MindSpore chooses
        device_id = int(os.environ['DEVICE_ID']) if 'DEVICE_ID' in os.environ else None
    kind = choose(name, device_id)
    ms.set_context(mode=ms.GRAPH_MODE)
    return kind_of_device(kind, *(join_ranks(kind) if several else ()))


def quiet():
    """Of MindSpore's log, keep the errors; a user's GLOG_v says otherwise. (Its C++ part asks before any import does:
    the launchers have set GLOG_v.)
    """
    if 'GLOG_v' not in os.environ:
        os.environ['GLOG_v'] = '3'  # noqa: SIM112 - that is its name; for the scheduler
        log._get_logger().setLevel(logging.ERROR)
    version = tuple(int(part) for part in ms.__version__.split('.')[:2])
    if version > (2, 8):
        print(f'warning: MindSpore {ms.__version__}: its convolutions on a CPU were measured to take 170 times as long '
              'as those of 2.8', file=sys.stderr)


def rank_count():
    """How many ranks the environment speaks of: set by msrun, by a launcher, or for HCCL's rank table."""
    given = [os.environ[name] for name in ('MS_WORKER_NUM', 'RANK_SIZE', 'WORLD_SIZE') if name in os.environ]
    return int(given[0]) if given else 1


def join_ranks(kind):
    """(rank, number of ranks), after all have found each other: by msrun, an NPU's RANK_TABLE_FILE or a scheduler.

    Ours listens at MASTER_ADDR:MASTER_PORT; RANK_ID or RANK says which rank this is.
    """
    environment = os.environ
    table = kind == 'npu' and 'RANK_TABLE_FILE' in environment
    if 'MS_ROLE' not in environment and not table:
        rank = environment.get('RANK_ID', environment.get('RANK'))
        missing = [name for name in ('MASTER_ADDR', 'MASTER_PORT') if name not in environment]
        if missing or rank is None:
            raise ValueError(f'{rank_count()} ranks, but {", ".join(missing) or "RANK_ID"} is not set: start them by '
                             'test/train_full_8p.sh or by msrun')
        environment.update(MS_ROLE='MS_WORKER', MS_NODE_ID=rank, MS_WORKER_NUM=str(rank_count()),
                           MS_SCHED_HOST=environment['MASTER_ADDR'], MS_SCHED_PORT=environment['MASTER_PORT'])
        if int(rank) == 0:
            subprocess.Popen([sys.executable, '-m', 'common.ms.devices'], cwd=HOME, stdin=subprocess.PIPE,
                             stdout=subprocess.DEVNULL,
                             env=dict(environment, MS_ROLE='MS_SCHED', MS_NODE_ID='scheduler'))
    if environment.get('MS_ROLE') == 'MS_SCHED':  # msrun starts the program once more, for this
        init()
        sys.exit()
    if not table:
        wait_for_scheduler(environment['MS_SCHED_HOST'], int(environment['MS_SCHED_PORT']))
    init()
    rank, count = get_rank(), get_group_size()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else 1
    environment.setdefault('OMP_NUM_THREADS', str(max(cores // count, 1)))  # of common/native.py: they share the cores
    ms.set_auto_parallel_context(parallel_mode=ms.ParallelMode.DATA_PARALLEL, gradients_mean=True, device_num=count,
                                 global_rank=rank)
    return rank, count


def wait_for_scheduler(host, port):
    """A rank that asks before the scheduler listens pauses for long: some 30 seconds were seen, instead of 3."""
    deadline = time.time() + 120
    while time.time() < deadline:
        with contextlib.suppress(OSError), socket.create_connection((host, port), 1):
            return
        time.sleep(0.1)
    raise ValueError(f'no scheduler answers at {host}:{port}; it is started by rank 0, or by msrun')


def schedule():
    """Be the scheduler until all ranks have left, or until 10 s after the end of rank 0, which holds our stdin open."""
    def watch():
        sys.stdin.read()
        time.sleep(10)
        os._exit(0)
    threading.Thread(target=watch, daemon=True).start()
    ms.set_context(mode=ms.GRAPH_MODE)
    init()


if __name__ == '__main__':
    schedule()
