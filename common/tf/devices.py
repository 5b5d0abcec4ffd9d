"""The devices of this machine: which there are, the precisions and kernels of each, the sessions on them.

A directory's own session file adds to Device what its release asks of an NPU.
"""
import os
from dataclasses import dataclass

import tensorflow.compat.v1 as tf
from tensorflow.core.protobuf.rewriter_config_pb2 import RewriterConfig

from common import cli, native

KINDS = ('cpu', 'gpu', 'npu')
PRECISIONS = ('fp32', 'bf16', 'mixed')
PRECISION_HELP = ('of the convolutions: fp32, bf16 (32-bit sums of 16-bit products), or mixed (what the device '
                  'chooses); empty: mixed on an NPU as released, else fp32')
KERNELS = ('auto', 'builtin', 'native')
MIXED_ON_CPU = next((name for name in ('auto_mixed_precision_onednn_bfloat16', 'auto_mixed_precision_mkl')
                     if name in RewriterConfig.DESCRIPTOR.fields_by_name), None)  # the second before TensorFlow 2.9


def base_config(kind, precision='fp32', world_size=1):
    """The ConfigProto of a session on 'cpu' or 'gpu', one of world_size."""
    assert kind in ('cpu', 'gpu'), kind
    config = tf.ConfigProto()
    rewrite = config.graph_options.rewrite_options
    config.allow_soft_placement = True
    if kind == 'gpu':
        config.gpu_options.allow_growth = True
        if precision == 'mixed':
            rewrite.auto_mixed_precision = RewriterConfig.ON
        return config
    config.device_count['GPU'] = 0
    if precision == 'mixed':
        setattr(rewrite, MIXED_ON_CPU, RewriterConfig.ON)
    if world_size > 1:  # ranks share the cores
        config.intra_op_parallelism_threads = max(processors() // world_size, 1)
    return config


@dataclass(frozen=True)
class Device:
    """A device of this machine, and what sessions on it are like."""

    kind: str
    precision: str = 'fp32'
    kernels: str = 'builtin'

    def config(self, world_size=1):
        """The ConfigProto of a session, one of world_size; a directory that runs on NPUs overrides it for them."""
        return base_config(self.kind, self.precision, world_size)

    def native(self):
        """Whether our own CPU kernels, those of common/native.py, are to be used, which compiles them.

        kernels: TensorFlow's 'builtin', or on a CPU our compiled 'native' ones; 'auto' is native where they can be had.
        Raises ValueError for 'native' where they cannot.
        """
        fitting = (self.kind, self.precision) == ('cpu', 'fp32')
        if self.kernels == 'builtin' or (self.kernels == 'auto' and not fitting):
            return False
        if not fitting:
            raise ValueError(f'--kernels=native: written for the CPU in fp32, not for {self.kind} in {self.precision}; '
                             'leave it out')
        try:
            native.open_library()
        except ValueError as error:
            if self.kernels == 'native':
                raise
            print(f"note: TensorFlow's own convolutions are used: {error}", flush=True)
            return False
        return True

    @property
    def loss_scale(self):
        """What a loss is multiplied by before its gradients are computed, and they are divided by.

        In the 16 bit of a GPU, a pixel's share of the loss (1e-6) would vanish; 65504 is the largest number, and
        gradients of the first kernel reach 200.
        """
        return 128 if (self.kind, self.precision) == ('gpu', 'mixed') else 1

    def session(self, graph):
        """A session on this device alone; it is to be closed."""
        return tf.Session(graph=graph, config=self.config())


def add_options(add):
    """The options of every program that say where and how it computes; add: parser.add_argument."""
    add('--device', '--chip', default='auto', help='npu, gpu, cpu or auto (the best there is)')
    add('--cuda_device', default='', help='CUDA_VISIBLE_DEVICES: which GPU, or -1 for none; of several, one for each '
        'rank; empty: as the environment has it')
    add('--precision', default='', choices=('', *PRECISIONS), help=PRECISION_HELP)
    add('--kernels', default='auto', choices=KERNELS, help="convolutions on a CPU: TensorFlow's own (builtin) or ours, "
        'compiled once (native)')


def open_device(name='auto', precision='', kernels='auto', cuda_device='', kind_of_device=Device):
    """The Device of that name, or the best there is. Raises ValueError for one that is not there, with the remedy."""
    show_gpus(cuda_device)
    if kernels not in KERNELS:
        raise ValueError(f'unknown kernels {kernels!r}; known: {", ".join(KERNELS)}')
    if name == 'auto':
        name = next(kind for kind in ('npu', 'gpu', 'cpu') if available(kind))
    if name not in KINDS:
        raise ValueError(f'unknown device {name!r}; known: auto, {", ".join(KINDS)}')
    if not available(name):
        needed = {'npu': 'an Ascend NPU with CANN and its TF Adapter (README, Quick start)',
                  'gpu': 'a GPU, its CUDA and a TensorFlow built for it'}
        raise ValueError(f'--device={name}: TensorFlow {tf.__version__} finds none here; it needs {needed[name]}, or '
                         'choose --device=cpu')
    return kind_of_device(name, chosen_precision(name, precision), kernels)


def show_gpus(cuda_device=''):
    """Set CUDA_VISIBLE_DEVICES to cuda_device, where it is given, and to one GPU for each of several ranks."""
    rank, world_size = rank_of()
    listed = cuda_device or os.environ.get('CUDA_VISIBLE_DEVICES', '')
    if world_size > 1:
        gpus = listed.split(',') if listed else [str(index) for index in range(world_size)]
        listed = gpus[rank % len(gpus)]
    if listed:
        os.environ['CUDA_VISIBLE_DEVICES'] = listed


def rank_of():
    """(rank, number of ranks) that the environment names, (0, 1) where it names none."""
    environment = os.environ
    numbers = [environment.get(first, environment.get(second, default)) for first, second, default in (
        ('RANK_ID', 'RANK', '0'), ('RANK_SIZE', 'WORLD_SIZE', '1'))]
    if not all(number.isdecimal() for number in numbers) or int(numbers[0]) >= int(numbers[1]):
        raise ValueError(f'RANK_ID={numbers[0]} of RANK_SIZE={numbers[1]}: expected a number from 0 to below RANK_SIZE')
    return int(numbers[0]), int(numbers[1])


def chosen_precision(kind, precision):
    """That precision, or where it is empty the usual one; ValueError where the device does not compute so."""
    precision = precision or ('mixed' if kind == 'npu' else 'fp32')
    if precision not in PRECISIONS:
        raise ValueError(f'unknown precision {precision!r}; known: {", ".join(PRECISIONS)}')
    if precision == 'fp32' or (precision == 'mixed' and kind != 'cpu'):
        return precision
    if kind == 'npu':
        raise ValueError('--precision=bf16: not on an NPU; mixed computes in 16 bit there')
    if MIXED_ON_CPU is None:
        raise ValueError(f'--precision={precision} needs TensorFlow 2.4 or later on {kind}, this is {tf.__version__}')
    if kind == 'cpu' and not processor_flags() & {'avx512_bf16', 'amx_bf16', 'bf16'}:
        raise ValueError(f'--precision={precision}: this processor has no instructions for bfloat16; leave it out')
    return precision


def processors():
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1


def processor_flags():
    """The features that Linux names of this processor, a set of words."""
    try:
        with open('/proc/cpuinfo', encoding='utf-8') as file:
            lines = [line.split(':', 1) for line in file if line.startswith(('flags', 'Features'))]
    except OSError:
        return set()
    return set(lines[0][1].split()) if lines else set()


def available(kind):
    """Whether the installed TensorFlow can use `kind` on this machine."""
    if kind == 'npu':
        if not any(name.startswith('davinci') and name[7:].isdigit() for name in os.listdir('/dev')):
            return False
        try:
            import npu_bridge.npu_init  # noqa: F401 - teaches TensorFlow what an NpuOptimizer is
        except ImportError:
            return False
        return True
    # Not tf.test.is_gpu_available(), which takes all memory of the GPUs in TensorFlow 1.15.
    return kind == 'cpu' or bool(tf.config.experimental.list_physical_devices('GPU'))


def print_config(doc, device_class, argv=None):
    """A program that prints the ConfigProto of device_class; doc: its docstring."""
    parser = cli.Parser(description=doc)
    parser.add_argument('kind', nargs='?', default='npu', choices=KINDS, help='of device')
    parser.add_argument('--precision', default='', choices=('', *PRECISIONS), help=PRECISION_HELP)
    parser.add_argument('--ranks', type=int, default=1, help='processes of a training')
    options = parser.parse_args(argv)
    device = device_class(options.kind, chosen_precision(options.kind, options.precision))
    print(device.config(options.ranks), end='')
