"""Our own CPU kernels, those of common/native.py, as MindSpore's custom operators.

    layer = kernels.native_convolution(n_in, n_out)
    y = kernels.Operator(kernels.open_library())(x, weight, bias)
"""
import errno

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops

from common import native


def native_convolution(n_in, n_out):
    """nn.Conv2d(n_in, n_out, 3, pad_mode='pad', padding=1, has_bias=True) in float32; zeros until weights are loaded.

    Raises ValueError where the kernels cannot be compiled, or do not compute what they should.
    """
    return NativeConvolution(open_library(), n_in, n_out)


class NativeConvolution(nn.Cell):  # x [N,n_in,H,W] to [N,n_out,H,W]
    def __init__(self, path, n_in, n_out):
        super().__init__()
        self.weight = Parameter(Tensor(np.zeros((n_out, n_in, 3, 3), np.float32)), name='weight')
        self.bias = Parameter(Tensor(np.zeros(n_out, np.float32)), name='bias')
        self.operator = Operator(path)

    def construct(self, x):
        return self.operator(x, self.weight, self.bias)


class Operator(nn.Cell):  # x [N,C,H,W], weight [O,C,3,3], bias [O] to y [N,O,H,W], and its gradients
    def __init__(self, path):
        super().__init__()
        self.convolution = ops.Custom(f'{path}:Convolution', None, ms.float32, 'aot')
        self.convolution.add_prim_attr('reg_op_name', 'Convolution')  # without it MindSpore 2.8 infers no shape in C++
        self.input_gradient = ops.Custom(f'{path}:InputGradient', _input_gradient_shape, ms.float32, 'aot')
        self.kernel_gradient = ops.Custom(f'{path}:KernelGradient', _kernel_gradient_shapes,
                                          (ms.float32, ms.float32), 'aot')

    def construct(self, x, weight, bias):
        return self.convolution(x, weight, bias)

    def bprop(self, x, weight, bias, y, dy):
        dweight, dbias = self.kernel_gradient(dy, x)
        return self.input_gradient(dy, weight), dweight, dbias


def _input_gradient_shape(dy, weight):
    return dy[0], weight[1], dy[2], dy[3]


def _kernel_gradient_shapes(dy, x):
    return (dy[1], x[1], 3, 3), (dy[1],)


def open_library():
    """Path of the compiled kernels. Raises common.native.open_library()'s ValueError, and its own for a colon in it."""
    path = native.open_library()._name  # MindSpore will load the same
    if ':' in path:
        raise ValueError(f'{path}: MindSpore takes no library with a colon in its path; set XDG_CACHE_HOME to another')
    return path


def lacked_memory(error):
    """Whether MindSpore's error is that our kernels found no memory: it knows their status alone, not what it means."""
    return 'AOT kernel' in str(error) and f') is {errno.ENOMEM}.' in str(error)
