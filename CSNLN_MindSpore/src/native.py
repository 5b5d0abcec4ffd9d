"""The layers of CSNLN by our own CPU kernels, those of common/native.py, as MindSpore's custom operators.

    network = CSNLN(scale=2, layers=Native())
"""
import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from common.ms.kernels import Operator, open_library
from src.attention import Conv


class Native:
    """The layers of CSNLN(layers=...) in float32 on a CPU; attention takes little memory beside its input and result.

    Raises ValueError where the kernels cannot be compiled, or do not compute what they should.
    """

    def __init__(self):
        self.path = path = open_library()
        self.convolution, self.pointwise, self.prelu = Convolution(path), Conv(0), PReLU(path)
        self.in_scale, self.cross_scale = InScale(path), CrossScale(path)

    def shuffle(self, factor):
        """A Cell [N,C*factor*factor,H,W] to [N,C,factor*H,factor*W]."""
        return Shuffle(self.path, f'Shuffle{factor}', f'Unshuffle{factor}')

    def unshuffle(self, factor):
        """A Cell that undoes it."""
        return Shuffle(self.path, f'Unshuffle{factor}', f'Shuffle{factor}')


class Convolution(nn.Cell):  # x [N,C,H,W], weight [O,C,3,3], bias [O] or None to [N,O,H,W]
    def __init__(self, path):
        super().__init__()
        self.operator = Operator(path)

    def construct(self, x, weight, bias):
        if bias is None:
            bias = Tensor(np.zeros(weight.shape[0], np.float32))
        return self.operator(x, weight, bias)


class PReLU(nn.Cell):  # x [N,C,H,W], slopes [1] or [C]
    def __init__(self, path):
        super().__init__()
        self.prelu = inferring(path, 'PReLU')
        self.gradients = ops.Custom(f'{path}:PReLUGradients', lambda dy, x, slopes: (x, slopes), (ms.float32,) * 2,
                                    'aot')

    def construct(self, x, slopes):
        return self.prelu(x, slopes)

    def bprop(self, x, slopes, y, dy):
        return self.gradients(dy, x, slopes)


class Shuffle(nn.Cell):  # its gradient is what undoes it
    def __init__(self, path, name, inverse):
        super().__init__()
        self.shuffle, self.inverse = inferring(path, name), inferring(path, inverse)

    def construct(self, x):
        return self.shuffle(x)

    def bprop(self, x, y, dy):
        return (self.inverse(dy),)


class InScale(nn.Cell):  # query and key [N,D,H,W], v [N,C,H,W] to [N,C,H,W]
    def __init__(self, path):
        super().__init__()
        self.attention = inferring(path, 'InScaleAttention')
        self.gradients = ops.Custom(f'{path}:InScaleAttentionGradients', lambda dy, q, k, v, y: (q, k, v),
                                    (ms.float32,) * 3, 'aot')

    def construct(self, query, key, v):
        return self.attention(query, key, v)

    def bprop(self, query, key, v, y, dy):
        return self.gradients(dy, query, key, v, y)


class CrossScale(nn.Cell):  # query [N,D,H,W], key [N,D,H/s,W/s], v [N,C,H,W] to [N,C,sH,sW]
    def __init__(self, path):
        super().__init__()
        self.attention = inferring(path, 'CrossScaleAttention')
        self.gradients = ops.Custom(f'{path}:CrossScaleAttentionGradients', lambda dy, q, k, v: (q, k, v),
                                    (ms.float32,) * 3, 'aot')

    def construct(self, query, key, v):
        return self.attention(query, key, v)

    def bprop(self, query, key, v, y, dy):
        return self.gradients(dy, query, key, v)


def inferring(path, name):
    """An operator whose C++ part tells its shape, also where pictures are of any size."""
    operator = ops.Custom(f'{path}:{name}', None, ms.float32, 'aot')
    operator.add_prim_attr('reg_op_name', name)
    return operator
