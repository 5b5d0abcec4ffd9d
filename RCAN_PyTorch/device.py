"""Everything that differs between cpu, gpu and npu: choice, process group, precision, optimiser, memory, timing.

Only this file knows that an NPU exists; torch_npu is imported in its branch alone.
"""

import contextlib
import datetime
import logging
import os
import sys
from dataclasses import dataclass

import torch
import torch.distributed as dist

KINDS = ('cpu', 'gpu', 'npu')
BACKENDS = {'cpu': 'gloo', 'gpu': 'nccl', 'npu': 'hccl'}
TORCH_NAMES = {'cpu': 'cpu', 'gpu': 'cuda', 'npu': 'npu'}
JOIN_TIMEOUT = datetime.timedelta(hours=2)  # the other ranks wait while rank 0 validates


@dataclass(frozen=True)
class Device:
    kind: str
    torch: torch.device
    rank: int = 0
    world_size: int = 1

    @property
    def memory_format(self):
        """NHWC where convolutions gain by it; torch_npu keeps its own blocked layout."""
        return torch.contiguous_format if self.kind == 'npu' else torch.channels_last

    def half(self, wanted='auto'):
        """The 16-bit type for mixed precision: wanted 'bf16', 'fp16', or 'auto': what the device multiplies natively.

        None, that is fp32, for 'auto' on a processor that only emulates both, several times slower.
        """
        if wanted == 'auto':
            if self.kind == 'cpu':
                wanted = 'bf16' if cpu_has_bf16() else None
            elif self.kind == 'gpu':  # not is_bf16_supported(), which says yes to cards below 8.0 that emulate it
                wanted = 'bf16' if torch.cuda.get_device_capability(self.torch) >= (8, 0) else 'fp16'
            else:
                wanted = 'fp16'  # an Ascend 910 multiplies in fp16
        return {'bf16': torch.bfloat16, 'fp16': torch.float16, None: None}[wanted]

    def autocast(self, dtype=None):
        """A context in which convolutions run in `dtype`; None: everything stays fp32."""
        return torch.autocast(TORCH_NAMES[self.kind], dtype) if dtype else contextlib.nullcontext()

    def scaler(self, dtype, loss_scale):
        """A gradient scaler; it scales for fp16 only, since bf16 has the range of fp32.

        loss_scale: a number, held, or 'dynamic', which also grows. Both skip a step that overflows and halve the scale.
        """
        growing = loss_scale == 'dynamic'
        settings = {'init_scale': 65536.0 if growing else float(loss_scale),
                    'growth_interval': 2000 if growing else 2**31 - 1, 'enabled': dtype == torch.float16}
        if self.kind == 'npu':
            return self._npu().npu.amp.GradScaler(**settings)
        if hasattr(torch.amp, 'GradScaler'):
            return torch.amp.GradScaler(TORCH_NAMES[self.kind], **settings)
        return torch.cuda.amp.GradScaler(**settings)  # torch before 2.3 scales on CUDA only

    def adam(self, parameters, learning_rate):
        """Adam(0.9, 0.999, eps 1e-8), in one fused kernel where the device has it."""
        if self.kind == 'npu':
            return self._npu().optim.NpuFusedAdam(parameters, lr=learning_rate)
        fused = self.kind == 'gpu' or torch_version() >= (2, 4)  # fused on CPU since 2.4
        return torch.optim.Adam(parameters, lr=learning_rate, fused=fused)

    def synchronize(self):
        """Wait for the device, so that a clock read next tells the truth."""
        if self.kind == 'gpu':
            torch.cuda.synchronize(self.torch)
        elif self.kind == 'npu':
            torch.npu.synchronize()

    def profiler_activities(self, activities):
        """What torch.profiler records here: on an NPU the host's part alone."""
        return [activities.CPU, activities.CUDA] if self.kind == 'gpu' else [activities.CPU]

    @property
    def profiler_order(self):
        """The column that the table of operators is sorted by."""
        return 'self_cuda_time_total' if self.kind == 'gpu' else 'self_cpu_time_total'

    def mean_over_ranks(self, value):
        """The mean of a scalar tensor over all ranks."""
        if self.world_size > 1:
            dist.all_reduce(value)
            value = value / self.world_size
        return value

    def parallel(self, network):
        """The network with gradients averaged over the ranks; one process: the network itself."""
        if self.world_size == 1:
            return network
        ids = None if self.kind == 'cpu' else [self.torch.index]
        # NpuFusedAdam gathers the gradients in a buffer of its own, so that they cannot lie in DDP's
        return torch.nn.parallel.DistributedDataParallel(network, device_ids=ids,
                                                         gradient_as_bucket_view=self.kind != 'npu')

    def close(self):
        """Leave the process group, when all ranks have come here: a rank must not end while its peers still need it,
        nor while gloo's threads hold on to tensors, which aborts the interpreter.
        """
        if dist.is_initialized():
            dist.barrier()
            dist.destroy_process_group()

    @staticmethod
    def _npu():
        import torch_npu
        return torch_npu


def cpu_has_bf16():
    """Whether the processor multiplies bf16 itself, by its flags: avx512_bf16, amx_bf16, or bf16 of aarch64."""
    try:
        with open('/proc/cpuinfo') as file:
            return 'bf16' in file.read()
    except OSError:
        return False


def available(kind):
    """Whether this machine can run on `kind`."""
    if kind == 'npu':
        try:
            import torch_npu  # noqa: F401 - registers torch.npu
        except ImportError:
            return False
        return torch.npu.is_available()
    return kind == 'cpu' or torch.cuda.is_available()


def choose(name):
    """'cpu', 'gpu' or 'npu' for that name or 'auto' (the best there is). Raises ValueError with the remedy."""
    if name == 'auto':
        return next(kind for kind in ('npu', 'gpu', 'cpu') if available(kind))
    if name not in KINDS:
        raise ValueError(f'unknown device {name!r}; known: auto, {", ".join(KINDS)}')
    if not available(name):
        needed = {'npu': 'torch_npu and the CANN toolkit (test/env_npu.sh)', 'gpu': 'a CUDA build of torch'}
        raise ValueError(f'--device={name}: none found here; it needs {needed[name]}, or choose --device=cpu')
    return name


def open_device(name='auto', device_id=0, device_list=None, join=False):
    """Choose the device; with join and under torchrun (RANK and WORLD_SIZE set), join the process group.

    device_id: index of the one device; device_list: indices by local rank, instead of 0, 1, 2, ...
    Raises ValueError for a device that is not there.
    """
    kind = choose(name)
    world_size = int(os.environ.get('WORLD_SIZE', 1)) if join else 1
    rank = int(os.environ.get('RANK', 0)) if join else 0
    if world_size > 1:
        local_rank = int(os.environ.get('LOCAL_RANK', rank))
        device_id = device_list[local_rank] if local_rank < len(device_list or ()) else local_rank
    if kind == 'cpu':
        device = torch.device('cpu')
    else:
        device = torch.device(TORCH_NAMES[kind], device_id or 0)
        module = torch.npu if kind == 'npu' else torch.cuda
        if device.index >= module.device_count():
            raise ValueError(f'{kind} device {device.index}: this machine has {module.device_count()}, counted from 0')
        module.set_device(device)
    if kind == 'gpu':
        torch.backends.cudnn.benchmark = True
    if world_size > 1:
        dist.init_process_group(BACKENDS[kind], timeout=JOIN_TIMEOUT)
    return Device(kind, device, rank, world_size)


def run_ranks(count, command):
    """Run `command` (script and arguments) in `count` processes under torchrun; returns the exit status.

    The first that fails ends all; it is named in one line, and its status returned (1 when a signal killed it).
    """
    from torch.distributed import run as torchrun
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    logging.getLogger('torch.distributed').setLevel(logging.CRITICAL)  # its own words for the same take a screen
    try:
        torchrun.main(['--standalone', f'--nproc_per_node={count}', *command])
    except SignalException as stopped:
        return 128 + stopped.sigval
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        how = f'exited with status {failure.exitcode}' if failure.exitcode > 0 else \
            f'was killed by signal {-failure.exitcode}'
        print(f'error: rank {rank} (pid {failure.pid}) {how}; the other ranks were ended', file=sys.stderr, flush=True)
        return max(failure.exitcode, 1)
    return 0


def torch_version():
    """(major, minor) of the installed torch."""
    return tuple(int(part) for part in torch.__version__.split('.')[:2])
