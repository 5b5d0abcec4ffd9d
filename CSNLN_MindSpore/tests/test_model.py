"""The network against the authors' own numbers (golden/), in both kinds of layers, and against the paper's sizes."""
import json
from pathlib import Path

import numpy as np
import pytest
from mindspore import Tensor, nn, ops

from common.ms.checkpoint import load_weights, weights_of
from common.ms.devices import open_device
from src.attention import Builtin
from src.context import layers
from src.CSNLN import CSNLN, RGB_MEAN
from tests.conftest import tiny

GOLDEN = Path(__file__).parent / 'golden'
TRAINABLE = {2: 3_061_265, 3: 6_010_385, 4: 6_568_603}


@pytest.fixture(scope='module', params=['builtin', 'native'])
def kernels(request):
    try:
        open_device('cpu').native(request.param)
    except ValueError as error:
        assert 'no C++ compiler' in str(error)  # kernels that are wrong are no reason to skip
        pytest.skip(str(error))
    return request.param


@pytest.fixture(scope='module', params=[2, 3, 4])
def golden(request):
    """{name: array} of a run of the authors' code, its `meta` read."""
    with np.load(GOLDEN / f'authors_x{request.param}.npz') as file:
        arrays = dict(file)
    return dict(arrays, meta=json.loads(str(arrays['meta'])))


def made(golden, kernels):
    """The network with the weights of the golden run."""
    network = CSNLN(**config(golden['meta']), layers=layers(open_device('cpu'), kernels))
    load_weights(network, dict(weights_of(network), **golden_weights(golden['meta'])))
    return network


def config(meta):
    """The arguments of CSNLN(...)."""
    return {name: meta['config'][name] for name in ('scale', 'depth', 'n_feats', 'rgb_range')}


def ours(name):
    """Our name of a parameter of the authors: the slopes, of one number, are called w."""
    return name[:-len('weight')] + 'w' if name.endswith('.1.weight') else name


def golden_weights(meta):
    """{our name: array}, as the run drew them from numpy's RandomState: its numbers never change, so no file holds
    them.
    """
    shapes = {name: value.shape for name, value in weights_of(CSNLN(**config(meta))).items()}
    weights = {}
    for name, rule in meta['rule'].items():
        drawn = np.random.RandomState(meta['seed'] + rule['index']).randn(*shapes[ours(name)])
        weights[ours(name)] = (drawn * rule['std'] + rule['mean']).astype(np.float32)
    return weights


def tensor(array):
    return Tensor(array.astype(np.float32))


def assert_near(found, expected, share=3e-6):
    np.testing.assert_allclose(found, expected, rtol=0, atol=share * np.abs(expected).max())


class Traced(nn.Cell):
    """A network's output, and what its first recurrent cell gives on the way."""

    def __init__(self, network):
        super().__init__(auto_prefix=False)
        self.network, self.projection = network, network.SEM.multi_source_projection

    def construct(self, lr):
        x = self.network.head(self.network.sub_mean(lr))
        within, across = self.projection.down_attention(x), self.projection.up_attention(x)
        kernels = self.network.SEM.kernels()
        return (self.network(lr), within, across, self.projection(x, kernels[0]), *self.network.SEM(x, kernels))


class Training(nn.Cell):
    """(loss, gradients) of a step of Adam on the mean L1 loss, as the authors train."""

    def __init__(self, network):
        super().__init__(auto_prefix=False)
        loss = nn.WithLossCell(network, nn.L1Loss())
        self.adam = nn.Adam(network.trainable_params(), learning_rate=1e-4)
        self.gradient = ops.value_and_grad(loss, None, self.adam.parameters)

    def construct(self, lr, hr):
        loss, gradients = self.gradient(lr, hr)
        return ops.depend(loss, self.adam(gradients)), gradients


def test_output_and_what_leads_to_it(golden, kernels):
    output, *on_the_way = Traced(made(golden, kernels))(tensor(golden['input']))
    assert_near(output.asnumpy(), golden['output'])
    for name, found in zip(('in_scale_out', 'cross_scale_out', 'msp_out', 'sem0_x', 'sem0_h'), on_the_way):
        assert_near(found.asnumpy()[1:, ::4], golden[name], 5e-6)


def test_three_steps_of_adam(golden, kernels):
    """Losses, norms of all gradients, and at x2 the attentions' gradients and what the steps made of the weights."""
    if kernels == 'builtin' and golden['meta']['config']['scale'] != 2:
        pytest.skip('half a minute each; the layers are compared with our own in test_attention.py')
    network = made(golden, kernels)
    training, losses = Training(network), []
    for step in range(4):
        loss, gradients = training(tensor(golden['input']), tensor(golden['target']))
        losses.append(float(loss.asnumpy()))
        if step == 0:
            first = {p.name: value.asnumpy() for p, value in zip(network.trainable_params(), gradients)}
        if step == 2:
            after = {name: value.copy() for name, value in weights_of(network).items()}
    np.testing.assert_allclose(losses, golden['loss_trace'], rtol=0, atol=2e-5)
    expected = {ours(name): norm for name, norm in golden['meta']['grad_norm0'].items()}
    assert set(first) == set(expected)
    for name, norm in expected.items():
        assert np.linalg.norm(first[name]) == pytest.approx(norm, rel=1e-4, abs=1e-6), name
    for key, value in golden.items():
        kind, _, name = key.partition('/')
        if kind == 'grad0':
            assert_near(first[ours(name)], value, 1e-4)
        elif kind == 'after':  # Adam begins with the sign of a gradient, which rounding decides near 0
            difference = np.abs(after[ours(name)] - value)
            assert np.median(difference) < 2e-6 and difference.max() < 7e-5, name


@pytest.mark.parametrize('scale', TRAINABLE)
def test_full_size(scale):
    network = CSNLN(scale)
    assert (network.depth, network.n_feats) == (12, 128)
    assert sum(parameter.size for parameter in network.trainable_params()) == TRAINABLE[scale]
    assert network.tail[0].weight.shape == (3, 12 * 128, 3, 3)


def test_depth_counts_in_the_tail_alone():
    shapes = [{name: value.shape for name, value in CSNLN(2, depth, 8).parameters_and_names()} for depth in (1, 3)]
    assert {name for name in shapes[0] if shapes[0][name] != shapes[1][name]} == {'tail.0.weight'}


def test_a_deeper_network_is_the_sum_over_its_recurrences():
    """With zeros in the tail for the second one, depth 2 gives what depth 1 gives."""
    one, two = tiny(depth=1), tiny(depth=2)
    weights = weights_of(one)
    tail = np.concatenate([weights['tail.0.weight'], np.zeros_like(weights['tail.0.weight'])], 1)
    load_weights(two, dict(weights, **{'tail.0.weight': tail}))
    lr = tensor(np.random.default_rng(0).random((1, 3, 8, 10)))
    np.testing.assert_allclose(two(lr).asnumpy(), one(lr).asnumpy(), atol=1e-6)


@pytest.mark.parametrize('rgb_range', [1.0, 255.0])
def test_the_mean_shift_is_frozen_and_the_authors(rgb_range):
    network = CSNLN(2, 1, 8, rgb_range)
    frozen = {name for name, value in network.parameters_and_names() if not value.requires_grad}
    assert frozen == {f'{way}_mean.{part}' for way in ('sub', 'add') for part in ('weight', 'bias')}
    expected, weights = np.float32(rgb_range * np.array(RGB_MEAN)), weights_of(network)
    assert np.array_equal(weights['add_mean.bias'], expected) and np.array_equal(weights['sub_mean.bias'], -expected)


def test_initial_weights():
    """Uniform within 1/sqrt(fan in), weight and bias, as torch draws them; slopes a quarter; one seed, one network."""
    first = {name: value.copy() for name, value in weights_of(tiny(seed=3, n_feats=16)).items()}
    for name, value in first.items():
        if name.endswith('.w'):
            assert (value == 0.25).all() and value.shape == (1,)
        elif '_mean.' not in name:
            bound = 1 / np.sqrt(np.prod(first[name.replace('bias', 'weight')].shape[1:]))
            assert np.abs(value).max() <= bound and (value.size < 100 or np.abs(value).max() > 0.95 * bound), name
    again, other = (weights_of(tiny(seed=seed, n_feats=16)) for seed in (3, 4))
    assert all(np.array_equal(first[name], value) for name, value in again.items())
    assert not np.array_equal(first['head.0.0.weight'], other['head.0.0.weight'])


def test_the_released_port_s_network(kernels):
    """What the paper's is with those biases at zero, equal slopes, the mean taken off outside; the other reduction."""
    paper, port = tiny(n_feats=6), CSNLN(2, 1, 6, compat='port', layers=layers(open_device('cpu'), kernels))
    shapes = {name: value.shape for name, value in port.parameters_and_names()}
    weights = {name: value.copy() for name, value in weights_of(paper).items()}
    missing = {name for name in weights if name not in shapes}
    assert missing == {f'SEM.{part}.0.bias' for part in (
        'multi_source_projection.upsample', 'down_sample_1', 'down_sample_2', 'error_encode')} | {'tail.0.bias'}
    weights.update({name: np.zeros_like(weights[name]) for name in missing})
    weights.update({name: np.float32([0.1]) for name in weights if name.endswith('.w')})
    assert shapes['SEM.error_encode.1.w'] == (1,) and shapes['SEM.post_conv.1.w'] == (6,)
    load_weights(paper, weights)
    load_weights(port, {name: np.broadcast_to(weights[name], shape) if name.endswith('.w') else weights[name]
                        for name, shape in shapes.items()})
    lr = np.random.default_rng(0).random((1, 3, 8, 6), np.float32)
    mean = np.float32(RGB_MEAN).reshape(3, 1, 1)
    paper.SEM.multi_source_projection.up_attention.paper = False
    np.testing.assert_allclose(port(tensor(lr - mean)).asnumpy() + mean, paper(tensor(lr)).asnumpy(), atol=2e-6)


@pytest.mark.parametrize('wrong, message', [
    ({'scale': 5}, 'scale 5: CSNLN has 2, 3, 4'), ({'n_feats': 7}, 'n_feats 7: expected an even number'),
    ({'compat': 'other'}, "compat 'other'; known: paper, port")])
def test_impossible_networks(wrong, message):
    with pytest.raises(ValueError, match=message):
        CSNLN(**dict({'depth': 1}, **wrong))


def test_all_layers_are_asked_of_one_place():
    """A network by other layers has them everywhere: no convolution or attention goes past them."""
    calls = []

    class Counting(Builtin):
        def __getattribute__(self, name):
            calls.append(name)
            return super().__getattribute__(name)
    CSNLN(4, 1, 8, layers=Counting())
    assert {name: calls.count(name) for name in ('in_scale', 'cross_scale', 'shuffle', 'unshuffle')} == {
        'in_scale': 2, 'cross_scale': 2, 'shuffle': 4, 'unshuffle': 3}
