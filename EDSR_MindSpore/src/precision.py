"""The levels of mixed precision: what is computed in 16 bits. Weights, gradients, loss and Adam stay in 32."""
import mindspore as ms
from mindspore import amp, nn, ops

LEVELS = {'O0': 'all in float32', 'O1': 'convolutions in float16', 'O2': 'the network in float16',
          'O3': 'the same as O2, since EDSR has no normalisation', 'auto': "float16 by MindSpore's list of operators"}


class HalfConvolution(nn.Conv2d):
    """The 3x3 convolution of src/model.py in float16, its input and result in float32."""

    def __init__(self, n_in, n_out):
        super().__init__(n_in, n_out, 3, pad_mode='pad', padding=1, has_bias=True, weight_init='zeros',
                         bias_init='zeros')

    def construct(self, x):
        y = self.conv2d(ops.cast(x, ms.float16), ops.cast(self.weight, ms.float16))
        return ops.cast(self.bias_add(y, ops.cast(self.bias, ms.float16)), ms.float32)


def convolution(level, device, kernels):
    """The convolution for EDSR(conv=...) at this level; kernels: of Device.convolution, for float32."""
    if level == 'O0':
        return device.convolution(kernels)
    return HalfConvolution if level == 'O1' else device.convolution('builtin')


def lower(network, level):
    """Has the network compute as the level says; its results may be float16."""
    if level in ('O2', 'O3'):
        network.to_float(ms.float16)
    elif level == 'auto':
        amp.auto_mixed_precision(network, 'auto')
