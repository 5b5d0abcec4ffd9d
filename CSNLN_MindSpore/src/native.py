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
        path = open_library()
        self.convolution, self.pointwise = Convolution(path), Conv(0)
        self.in_scale, self.cross_scale = InScale(path), CrossScale(path)


class Convolution(nn.Cell):  # x [N,C,H,W], weight [O,C,3,3], bias [O] or None to [N,O,H,W]
    def __init__(self, path):
        super().__init__()
        self.operator = Operator(path)

    def construct(self, x, weight, bias):
        if bias is None:
            bias = Tensor(np.zeros(weight.shape[0], np.float32))
        return self.operator(x, weight, bias)


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
