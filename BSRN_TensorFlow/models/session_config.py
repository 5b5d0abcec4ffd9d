"""What sessions of this network are like: the released NpuOptimizer options, and whose convolutions are used.

`python3 -m models.session_config npu` prints a ConfigProto. The rest is in common/tf/devices.py.
"""
import functools

import tensorflow.compat.v1 as tf
from tensorflow.core.protobuf.rewriter_config_pb2 import RewriterConfig

from common import cli
from common.tf import devices
from models.convolution import Builtin
from models.native import Native


class Device(devices.Device):
    def config(self, world_size=1):
        """The ConfigProto of a session, one of world_size."""
        if self.kind != 'npu':
            return super().config(world_size)
        config = tf.ConfigProto()  # as the released port has it
        rewrite = config.graph_options.rewrite_options
        optimizer = rewrite.custom_optimizers.add()
        optimizer.name = 'NpuOptimizer'
        mode = b'allow_mix_precision' if self.precision == 'mixed' else b'must_keep_origin_dtype'
        optimizer.parameter_map['precision_mode'].s = mode
        optimizer.parameter_map['dynamic_input'].b = True
        optimizer.parameter_map['dynamic_graph_execute_mode'].s = b'lazy_recompile'
        if world_size > 1:
            optimizer.parameter_map['hcom_parallel'].b = True
        rewrite.remapping = RewriterConfig.OFF
        rewrite.memory_optimization = RewriterConfig.OFF  # a 2, which is called MANUAL here
        return config

    def convolutions(self):
        """How a network computes its convolutions here, for BSRN(conv=...). Raises ValueError as native() does."""
        return Native() if self.native() else Builtin(tf.bfloat16 if self.precision == 'bf16' else None)


open_device = functools.partial(devices.open_device, kind_of_device=Device)


if __name__ == '__main__':
    cli.run(lambda: devices.print_config(__doc__, Device))
