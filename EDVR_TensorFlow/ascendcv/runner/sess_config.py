"""What sessions of this network are like: the released NpuOptimizer options, and whose layers are used.

`python3 -m ascendcv.runner.sess_config npu` prints a ConfigProto. The rest is in common/tf/devices.py.
"""
import functools
from dataclasses import dataclass

import tensorflow.compat.v1 as tf
from tensorflow.core.protobuf.rewriter_config_pb2 import RewriterConfig

from ascendcv.layers.convolution import Builtin
from ascendcv.layers.native import Native
from common import cli
from common.tf import devices

GRAPH_MEMORY, VARIABLE_MEMORY = 28 << 30, 3 << 30  # bytes of an NPU, as the port divides them
OF_RANKS = ('pruning', 'function', 'constfold', 'shape', 'arithmetic', 'loop', 'dependency', 'layout', 'memory',
            'GradFusionOptimizer')


@dataclass(frozen=True)
class Device(devices.Device):
    xla: bool = False
    training: bool = False

    def config(self, world_size=1):
        """The ConfigProto of a session, one of world_size."""
        if self.kind != 'npu':
            config = super().config(world_size)
            if self.xla:
                config.graph_options.optimizer_options.global_jit_level = tf.OptimizerOptions.ON_1
            if self.training:  # TensorFlow 2.21 fails to fuse what a gradient needs, too, and says so on the screen
                config.graph_options.rewrite_options.remapping = RewriterConfig.OFF
            return config
        config = tf.ConfigProto()  # as the released port has it, but for its ten steps in a session's run
        rewrite = config.graph_options.rewrite_options
        optimizer = rewrite.custom_optimizers.add()
        optimizer.name = 'NpuOptimizer'
        values = optimizer.parameter_map
        values['mix_compile_mode'].b = False
        values['use_off_line'].b = True
        values['graph_memory_max_size'].s = str(GRAPH_MEMORY).encode()
        values['variable_memory_max_size'].s = str(VARIABLE_MEMORY).encode()
        mode = b'allow_mix_precision' if self.precision == 'mixed' else b'must_keep_origin_dtype'
        values['precision_mode'].s = mode
        values['enable_data_pre_proc'].b = True
        values['iterations_per_loop'].i = 1
        if world_size > 1:
            rewrite.optimizers.extend(OF_RANKS)
        rewrite.remapping = RewriterConfig.OFF
        return _adapted(config)

    @property
    def loss_scale(self):
        """1: a training scales its loss itself, as solver.loss_scale says."""
        return 1

    @property
    def half_gradients(self):
        """Whether gradients are of float16, in which small ones vanish and large ones become infinite."""
        return self.precision == 'mixed' and self.kind != 'cpu'

    def layers(self, impl='auto'):
        """How a network computes its layers here, for EDVR(conv=...).

        impl: of deformable convolutions, 'npu' (the Ascend operator), 'tf', or 'auto': the operator where an NPU is.
        Raises ValueError for the operator elsewhere, and as native() does.
        """
        if impl == 'npu' and self.kind != 'npu':
            raise ValueError(f'edvr.impl npu: the operator of Ascend NPUs, but the device is {self.kind}; choose auto')
        if self.native():
            return Native()
        half = tf.bfloat16 if self.precision == 'bf16' else None
        return Builtin(half, npu=self.kind == 'npu' and impl != 'tf')


def _adapted(config):
    """What the TF Adapter makes of a ConfigProto, where it is there and has a function for that."""
    try:
        from npu_bridge.npu_init import npu_config_proto
    except ImportError:
        return config
    return npu_config_proto(config_proto=config)


open_device = functools.partial(devices.open_device, kind_of_device=Device)


def device_of(config):
    """The Device that a configuration names. Raises ValueError as open_device() does."""
    solver = config.solver
    return open_device(config.device, solver.precision or 'mixed' * solver.mix_precision, solver.kernels,
                       ','.join(map(str, config.device_ids)),
                       kind_of_device=functools.partial(Device, xla=solver.xla, training=config.mode == 'train'))


if __name__ == '__main__':
    cli.run(lambda: devices.print_config(__doc__, Device))
