"""The network against the authors' own numbers (golden/), and against tables of names and shapes."""
import gzip
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mindspore import Tensor, nn, ops

from common.evaluation import Protocol
from common.ms.checkpoint import load_weights, weights_of
from common.tiles import self_ensemble
from import_weights import read_weights
from src.context import open_device
from src.metrics import protocols
from src.model import EDSR, RGB_MEAN, shapes_of, size_of
from upscaler import Upscaler

GOLDEN = Path(__file__).parent / 'golden'
BASELINE, PAPER = (16, 64, 1.0), (32, 256, 0.1)  # n_resblocks, n_feats, res_scale
TRAINABLE = {(2, PAPER): 40_729_603, (3, PAPER): 43_680_003, (4, PAPER): 43_089_923,
             (2, BASELINE): 1_369_859, (3, BASELINE): 1_554_499, (4, BASELINE): 1_517_571}
TABLES = json.loads(gzip.decompress((GOLDEN / 'names_and_shapes.json.gz').read_bytes()))


@pytest.fixture(scope='module', params=['builtin', 'native'])
def convolution(request):
    """Makes the 3x3 convolutions of a network: by MindSpore's kernels, and by ours."""
    try:
        return open_device('cpu').convolution(request.param)
    except ValueError as error:
        assert 'no C++ compiler' in str(error)  # kernels that are wrong are no reason to skip
        pytest.skip(str(error))


@pytest.fixture(scope='module', params=[2, 3, 4])
def golden(request):
    """{name: array} of a run of the authors' code, its `meta` read."""
    with np.load(GOLDEN / f'authors_x{request.param}_b4f32.npz') as file:
        arrays = dict(file)
    return dict(arrays, meta=json.loads(str(arrays['meta'])))


def made(golden, conv):
    """The network with the weights of the golden run."""
    config = golden['meta']['config']
    network = EDSR(config['scale'], config['n_resblocks'], config['n_feats'], config['res_scale'], conv=conv)
    load_weights(network, golden_weights(network))
    return network


def golden_weights(network):
    """{name: array}, as the run drew them from numpy's RandomState: its numbers never change, so no file holds them."""
    weights = weights_of(network)
    for i, name in enumerate(sorted(weights)):
        if '_mean.' in name:
            continue
        shape = weights[name].shape
        drawn = np.random.RandomState(1000 * (network.scale - 1) + i).randn(*shape)
        ends = name.startswith(('head.', 'tail.1.'))  # the first and the last convolution, between 0..255 and about 1
        bound = (1.0 if ends else 1.2) / np.sqrt(np.prod(shape[1:])) if name.endswith('weight') else 0.1
        factor = 1 / 64 if name == 'head.0.weight' else 32 if name.startswith('tail.1.') else 1
        weights[name] = (drawn * bound).astype(np.float32) * np.float32(factor)
    return weights


def copied(network):
    """Its weights as they are now; those of weights_of may change with the network."""
    return {name: value.copy() for name, value in weights_of(network).items()}


def tensor(array):
    return Tensor(array.astype(np.float32))


def assert_near(found, expected, share=3e-6):
    np.testing.assert_allclose(found, expected, rtol=0, atol=share * np.abs(expected).max())


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


class Traced(nn.Cell):
    """A network's output, and what its head, its first block and its upsampler give on the way."""

    def __init__(self, network):
        super().__init__(auto_prefix=False)
        self.network, self.first, self.upsampler = network, network.body[0], network.tail[0]

    def construct(self, lr):
        head = self.network.head(self.network.sub_mean(lr))
        return self.network(lr), head, self.first(head), self.upsampler(head + self.network.body(head))


def test_output_and_what_leads_to_it(golden, convolution):
    output, *on_the_way = Traced(made(golden, convolution))(tensor(golden['input']))
    assert_near(output.asnumpy(), golden['output'])
    for name, activation in zip(('head', 'body0', 'up'), on_the_way):
        assert_near(activation.asnumpy()[:1, ::8], golden[f'act/{name}'])


def test_self_ensemble_and_scores(golden, convolution):
    """As the authors' code: the mean of 8 before rounding; PSNR in both of its protocols."""
    upscale = Upscaler(made(golden, convolution))
    lr, hr = (golden[name][0].transpose(1, 2, 0) for name in ('input', 'target'))
    assert_near(self_ensemble(upscale, lr).transpose(2, 0, 1), golden['output_x8'][0])
    assert np.abs(golden['output_x8'][0] - golden['output'][0]).max() > 1  # the golden data can tell
    sr, expected = upscale(lr), golden['meta']['psnr_after_quantize_sample0']
    rgb, y = protocols('DIV2K', upscale.scale)
    assert y.measure(sr, hr)['psnr'] == pytest.approx(expected['y_benchmark'], abs=1e-3)
    assert rgb.measure(sr, hr)['psnr'] == pytest.approx(expected['rgb_div2k'], abs=1e-3)


def test_three_steps_of_adam(golden, convolution):
    network = made(golden, convolution)
    before, training = golden_weights(network), Training(network)
    lr, hr = tensor(golden['input']), tensor(golden['target'])
    losses = []
    for step in range(4):
        loss, gradients = training(lr, hr)
        losses.append(float(loss.asnumpy()))
        if step == 0:
            norms = {parameter.name: np.linalg.norm(gradient.asnumpy())
                     for parameter, gradient in zip(network.trainable_params(), gradients)}
        if step == 2:
            after = copied(network)
    np.testing.assert_allclose(losses, golden['loss_trace'], rtol=1e-6, atol=5e-5)
    expected = golden['meta']['grad_norm0']
    assert set(norms) == set(expected)
    np.testing.assert_allclose(list(norms.values()), [expected[name] for name in norms], rtol=1e-4)
    for name in norms:
        difference = np.abs(after[name] - before[name] - 2.5e-6 * golden[f'moved/{name}'])
        # Adam begins with the sign of a gradient, which rounding decides near 0
        assert np.median(difference) < 2e-6 and difference.max() < 7e-5, name


@pytest.mark.parametrize('scale, size', TRAINABLE, ids=str)
def test_full_size_names_and_shapes(scale, size):
    network = EDSR(scale, *size)
    table = TABLES[f'authors_edsr{"_baseline" if size == BASELINE else ""}_x{scale}']
    shapes = [(name, value.shape) for name, value in network.parameters_and_names()]
    assert {name: list(shape) for name, shape in shapes} == table['params']
    assert sorted(shapes_of(scale, *size[:2]).items()) == sorted(shapes)
    assert sum(value.size for value in network.trainable_params()) == TRAINABLE[scale, size]
    assert table['config'] == {'scale': scale, 'n_resblocks': size[0], 'n_feats': size[1], 'res_scale': size[2]}


@pytest.mark.parametrize('name', [name for name in TABLES if '_edsr_x' not in name or name.endswith('2')])
def test_full_size_files_are_read(name, tmp_path):
    """Files with the names of the table, all of whose numbers are one number."""
    torch.save({key: torch.zeros(()).expand(shape) for key, shape in TABLES[name]['params'].items()},
               tmp_path / 'full.pth')
    _, size, dialect = read_weights(tmp_path / 'full.pth')
    blocks, features, res_scale = BASELINE if 'baseline' in name or 'basicsr_M' in name else PAPER
    assert dialect == ('BasicSR' if 'basicsr' in name else 'authors')
    assert size == {'scale': int(name[-1]), 'n_resblocks': blocks, 'n_feats': features, 'res_scale': res_scale,
                    'rgb_range': 255}


@pytest.mark.parametrize('rgb_range', [255.0, 1.0])
def test_the_mean_shift_is_frozen_and_the_authors(rgb_range):
    network = EDSR(2, 1, 8, rgb_range=rgb_range)
    frozen = {name for name, value in network.parameters_and_names() if not value.requires_grad}
    assert frozen == {f'{way}_mean.{part}' for way in ('sub', 'add') for part in ('weight', 'bias')}
    expected = np.float32(rgb_range * np.array(RGB_MEAN))
    weights = weights_of(network)
    assert np.array_equal(weights['add_mean.bias'], expected) and np.array_equal(weights['sub_mean.bias'], -expected)
    assert np.array_equal(weights['sub_mean.weight'][:, :, 0, 0], np.eye(3))


def test_initial_weights():
    """Uniform within 1/sqrt(fan in), weight and bias, as torch draws them; one seed gives one network."""
    network = EDSR(2, 2, 16)
    network.initialise(np.random.default_rng(3))
    first = copied(network)
    for name, value in first.items():
        if '_mean.' not in name:
            bound = 1 / np.sqrt(np.prod(first[name.replace('bias', 'weight')].shape[1:]))
            assert np.abs(value).max() <= bound and (value.size < 100 or np.abs(value).max() > 0.95 * bound), name
            assert value.size < 100 or abs(value.mean()) < 0.1 * bound
    network.initialise(np.random.default_rng(3))
    assert all(np.array_equal(first[name], value) for name, value in weights_of(network).items())
    network.initialise(np.random.default_rng(4))
    assert not np.array_equal(first['head.0.weight'], weights_of(network)['head.0.weight'])


@pytest.mark.parametrize('scale', [0, 1, 5, 6, 8])
def test_impossible_scales(scale):
    with pytest.raises(ValueError, match=f'scale {scale}: EDSR has 2, 3, 4'):
        EDSR(scale, 1, 8)


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_size_is_read_back_from_the_weights(data):
    made = {'scale': data.draw(st.sampled_from((2, 3, 4))), 'n_resblocks': data.draw(st.integers(1, 12)),
            'n_feats': data.draw(st.integers(1, 12)), 'rgb_range': data.draw(st.sampled_from((255.0, 1.0, 100.0)))}
    assert size_of(weights_of(EDSR(**made))) == made


def test_the_halo_is_how_far_a_pixel_sees():
    """Exactly: a change that far away still counts, one pixel further it does not."""
    for scale in (2, 3, 4):
        network = EDSR(scale, 1, 4, 1.0)
        network.initialise(np.random.default_rng(0))
        load_weights(network, {name: np.abs(value) for name, value in weights_of(network).items()})  # nothing cancels
        lr = np.full((1, 3, 1, 40), 100, np.float32)
        changed = lr.copy()
        changed[:, :, :, 20] = 200
        upscaled = network(Tensor(np.concatenate([lr, changed]))).asnumpy()
        columns = np.flatnonzero(np.abs(upscaled[0] - upscaled[1]).max((0, 1))) // scale
        assert 20 - network.halo <= columns.min() and columns.max() <= 20 + network.halo
        assert columns.max() - 20 >= network.halo - 1, scale


def test_protocols():
    assert protocols('Set5', 3) == [Protocol('y', 3)]
    assert protocols('DIV2K', 4) == protocols('div2k_valid_HR', 4) == [Protocol('rgb', 10), Protocol('y', 4)]
