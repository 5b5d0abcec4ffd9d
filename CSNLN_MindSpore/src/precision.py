"""The levels of mixed precision: what is computed in 16 bits. Weights, gradients, loss and Adam stay in 32.

MindSpore's own levels cannot serve: they would have norms, exponentials and weights of other types meet in one sum.
"""
import mindspore as ms
from mindspore import nn, ops

from src import context
from src.attention import Conv

LEVELS = {'O0': 'all in float32', 'O1': 'convolutions in float16',
          'O2': "convolutions and the attention's products in float16",
          'O3': 'the same as O2, since CSNLN has no normalisation', 'auto': 'the same as O2'}


def layers(options, device):
    """What computes a network at --amp_level, for CSNLN(layers=...)."""
    if options.amp_level == 'O0':
        return context.layers(device, options.kernels, options.memory_limit)
    product = ops.bmm if options.amp_level == 'O1' else HalfProduct()
    half = context.layers(device, 'builtin', options.memory_limit, product)
    half.convolution, half.pointwise = HalfConv(1), HalfConv(0)
    return half


class HalfConv(Conv):  # as Conv: float32 to float32
    def construct(self, x, weight, bias):
        y = ops.cast(super().construct(ops.cast(x, ms.float16), ops.cast(weight, ms.float16), None), ms.float32)
        return y if bias is None else y + bias.reshape(1, -1, 1, 1)


class HalfProduct(nn.Cell):  # [N,i,j] by [N,j,k] to [N,i,k]: float32 to float32
    def construct(self, one, other):
        return ops.cast(ops.bmm(ops.cast(one, ms.float16), ops.cast(other, ms.float16)), ms.float32)
