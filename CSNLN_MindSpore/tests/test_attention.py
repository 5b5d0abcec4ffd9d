"""Both attentions against their definition in plain numbers; by blocks and by our kernels they give the same."""
import numpy as np
import pytest
import torch
from mindspore import Tensor, nn, ops
from torch.nn import functional as F

from common.ms.devices import open_device
from src.attention import Builtin
from src.native import Native

open_device('cpu')


def in_scale(query, key, v):
    """The definition; torch, float64."""
    scores = query.flatten(2).transpose(1, 2) @ key.flatten(2)
    return (v.flatten(2) @ scores.softmax(-1).transpose(1, 2)).reshape(v.shape)


def cross_scale(query, key, v):
    """The definition: patches that are normalised, compared, weighed and pasted as they are; torch, float64."""
    s = v.shape[2] // key.shape[2]
    keys = F.unfold(key, 3, padding=1)
    keys = keys / keys.norm(dim=1, keepdim=True).clamp_min(1e-4)
    weights = (10 * keys.transpose(1, 2) @ F.unfold(query, 3, padding=1)).softmax(1)
    values = F.unfold(v, 3 * s, stride=s, padding=s)
    return F.fold(values @ weights, (s * v.shape[2], s * v.shape[3]), 3 * s, stride=s, padding=s) / 6


class WithGradients(nn.Cell):
    """(result, gradients of query, key and v) of an attention, in one graph."""

    def __init__(self, attention):
        super().__init__()
        self.attention, self.gradients = attention, ops.GradOperation(get_all=True, sens_param=True)

    def construct(self, query, key, v, dy):
        return (self.attention(query, key, v), *self.gradients(self.attention)(query, key, v, dy))


def inputs(name, n, depth, channels, height, width, s, spread=0.5, seed=0):
    """float64 query, key, v and the gradient of the result."""
    rng = np.random.default_rng(seed)
    key = (n, depth, height, width) if name == 'in_scale' else (n, depth, height // s, width // s)
    result = (n, channels, height, width) if name == 'in_scale' else (n, channels, s * height, s * width)
    return [spread * rng.standard_normal(shape) for shape in ((n, depth, height, width), key,
                                                              (n, channels, height, width), result)]


def defined(name, arrays):
    """[result, gradients] by the definition."""
    *tensors, dy = (torch.from_numpy(array) for array in arrays)
    for value in tensors:
        value.requires_grad_()
    y = globals()[name](*tensors)
    return [value.detach().numpy() for value in (y, *torch.autograd.grad(y, tensors, dy))]


def computed(attention, arrays):
    return [value.asnumpy() for value in WithGradients(attention)(*(Tensor(a.astype(np.float32)) for a in arrays))]


def assert_near(found, expected, share=5e-6):
    for what, one, other in zip(('result', 'query', 'key', 'v'), found, expected):
        np.testing.assert_allclose(one, other, rtol=0, atol=share * max(np.abs(other).max(), 0.05), err_msg=what)


@pytest.fixture(scope='module')
def native():
    try:
        return Native()
    except ValueError as error:
        assert 'no C++ compiler' in str(error)
        pytest.skip(str(error))


@pytest.mark.parametrize('name, size', [('in_scale', (2, 6, 5, 14, 10, 2)), ('cross_scale', (2, 6, 5, 14, 10, 2)),
                                        ('cross_scale', (1, 4, 4, 9, 12, 3))])
@pytest.mark.parametrize('memory', [None, 60_000, 1])
def test_mindspore_s_operators(name, size, memory):
    """memory: all rows at once; a few of them, the last block not full; one row at a time."""
    arrays = inputs(name, *size)
    assert_near(computed(getattr(Builtin(memory=memory), name), arrays), defined(name, arrays))


def test_blocks_are_as_large_as_memory_allows():
    blocks = Builtin(memory=60_000).cross_scale.weigh.by_blocks
    query, keys, values = np.zeros((2, 54, 14, 10)), np.zeros((2, 54, 35)), np.zeros((2, 180, 35))
    row = 4 * 2 * 10 * 2 * (35 + 180)
    assert blocks.count(query, keys, values) == 14 and 2 * row > 60_000
    blocks.memory = 5 * row
    assert blocks.count(query, keys, values) == 3


@pytest.mark.parametrize('size', [(2, 6, 5, 14, 10, 2), (1, 4, 4, 21, 30, 3)])
def test_our_kernels(native, size):
    """In a graph; more sizes, without one, in common/tests/test_attention.py."""
    for name in ('in_scale', 'cross_scale'):
        arrays = inputs(name, *size)
        assert_near(computed(getattr(native, name), arrays), defined(name, arrays))


def test_a_key_that_is_zero_gives_no_nan(native):
    """Its patch has norm 0, where the authors' square root has an infinite slope."""
    arrays = inputs('cross_scale', 1, 3, 4, 12, 12, 2)
    arrays[1][:, :, :4, :4] = 0
    found = [computed(layers.cross_scale, arrays) for layers in (Builtin(), native)]
    assert all(np.isfinite(value).all() for value in (*found[0], *found[1]))
    assert_near(found[1], found[0])


def test_scores_far_from_zero(native):
    """Softmax takes off the largest score first: nothing overflows, and a key that fits best by far gets it all."""
    arrays = inputs('cross_scale', 1, 3, 4, 8, 8, 2, spread=100)
    arrays[2] /= 100
    for name in ('in_scale', 'cross_scale'):
        given = arrays if name == 'cross_scale' else [arrays[0], arrays[0][:, :, ::-1].copy(), arrays[2], arrays[2]]
        expected = defined(name, given)[0]
        for layers in (Builtin(), native):
            np.testing.assert_allclose(computed(getattr(layers, name), given)[0], expected, atol=1e-3)


def test_not_a_number_is_handed_on(native):
    for name in ('in_scale', 'cross_scale'):
        arrays = inputs(name, 1, 3, 4, 8, 8, 2)
        arrays[0][0, 0, 4, 4] = np.nan
        assert np.isnan(computed(getattr(native, name), arrays)[0]).any()
