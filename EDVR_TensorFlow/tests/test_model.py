"""The network against runs of the authors' code and of the released port (golden/), and tables of names and shapes."""
import json
from pathlib import Path

import numpy as np
import pytest
from conftest import SIZE, weights_of

import import_weights
from ascendcv.layers.convolution import Builtin
from ascendcv.runner.sess_config import open_device, tf
from ascendvsr.models.edvr import EDVR
from ascendvsr.models.layers import SIZES, check_size, initial_weights, shapes, size_of
from common.tf.checkpoint import assign

GOLDEN = Path(__file__).parent / 'golden'
GOLDEN_SIZE = {'num_frames': 5, 'mid_channels': 16, 'num_deform_groups': 4, 'num_blocks_extraction': 2,
               'num_blocks_reconstruction': 2, 'with_tsa': True, 'upsampling': 'bilinear'}
SIZE_NAMES = ('mid_channels', 'num_deform_groups', 'num_blocks_extraction', 'num_blocks_reconstruction')


def full_size(name, **more):
    return dict(zip(SIZE_NAMES, SIZES[name]), **dict({'num_frames': 5, 'with_tsa': True, 'compat': 'paper',
                                                      'upsampling': 'bilinear'}, **more))


def read(name):
    with np.load(GOLDEN / name) as file:
        return dict(file)


def below(golden, prefix):
    return {name[len(prefix):]: value for name, value in golden.items() if name.startswith(prefix)}


def sampled(x, count):
    """What a golden file keeps of x."""
    return x.ravel()[::max(x.size // count, 1) | 1]


@pytest.fixture(scope='module', params=['builtin', 'native'])
def device(request):
    opened = open_device('cpu', kernels=request.param)
    try:
        opened.layers()
    except ValueError as error:
        assert 'no C++ compiler' in str(error)  # kernels that are wrong are no reason to skip
        pytest.skip(str(error))
    return opened


@pytest.fixture(scope='module')
def fast():
    """The faster layers that are there, for what both kinds have in common."""
    return open_device('cpu')


class Recorded(EDVR):
    """Keeps what its parts give."""

    def features(self, lr):
        self.levels = super().features(lr)
        return self.levels

    def align(self, levels, middle):
        self.aligned = super().align(levels, middle)
        return self.aligned

    def fuse(self, aligned):
        self.fused = super().fuse(aligned)
        return self.fused


def run(device, size, weights, build, layers=None):
    """The values of build(network, layers): tensors, or a dict or list of them."""
    with tf.Graph().as_default() as graph:
        layers = layers or device.layers()
        network = Recorded(**size, conv=layers)
        fetches = build(network, layers)
        with device.session(graph) as session:
            assign(session, network.variables, weights)
            return session.run(fetches)


def upscaled(device, size, weights, frames, layers=None):
    return run(device, size, weights, lambda network, _: network.sr(tf.constant(frames, tf.float32)), layers)


def everything(frames, target, loss):
    """A build for run(): what the parts of the network give, the picture, the loss, gradients of all variables."""
    def build(network, layers):
        sr = network.sr(tf.constant(frames, tf.float32))
        pictures = {f'feat_l{number}': level for number, level in enumerate(network.levels, 1)}
        pictures.update(aligned=network.aligned, fused=network.fused)
        value = loss(sr, tf.constant(target, tf.float32))
        gradients = dict(zip([variable.op.name for variable in network.variables],
                             tf.gradients(value, network.variables)))
        return {name: layers.leave(x) for name, x in pictures.items()}, sr, value, gradients
    return build


def check_gradients(golden, gradients, tolerance):
    """gradients: {name as in the golden file: array}; tolerance: share of the largest."""
    assert len(gradients) == len(below(golden, 'grad/')) == 100
    for name, gradient in gradients.items():
        expected = golden['grad/' + name]
        np.testing.assert_allclose(sampled(gradient, 128), expected, rtol=0, atol=tolerance * abs(expected).max())
        norm = np.linalg.norm(gradient.astype(np.float64))
        assert norm == pytest.approx(float(golden['norm/' + name]), rel=tolerance)


@pytest.fixture(scope='module')
def authors(tmp_path_factory):
    """(golden file of the authors' code, its weights in our names, read as an imported file is)."""
    golden = read('authors_small.npz')
    path = tmp_path_factory.mktemp('authors') / 'weights.npz'
    np.savez(str(path), **below(golden, 'param/'))
    weights, size, dialect = import_weights.read_weights(path)
    assert size == dict(GOLDEN_SIZE, compat='paper') and dialect == 'BasicSR'
    return golden, weights, size


def in_the_authors_names(arrays, names):
    """{our name: array} in their names and layouts; names: {their name: shape}."""
    found = {}
    for name, shape in names.items():
        _, places = import_weights.translated('', {name: np.arange(np.prod(shape)).reshape(shape)})
        (ours, places), = places.items()
        found[name] = np.empty(int(np.prod(shape)), np.float32)
        found[name][places.astype(int).ravel()] = arrays[ours].ravel()
    return {name: value.reshape(names[name]) for name, value in found.items()}


def test_the_authors_network(authors, device):
    golden, weights, size = authors
    pictures, sr, loss, gradients = run(device, size, weights, everything(
        golden['input'].transpose(0, 1, 3, 4, 2), golden['target'].transpose(0, 2, 3, 1),
        lambda sr, hr: tf.reduce_sum(tf.sqrt((sr - hr) ** 2 + 1e-12))))
    for name in ('aligned', 'fused'):
        np.testing.assert_allclose(sampled(pictures[name].transpose(0, 3, 1, 2), 4096), golden[name], rtol=0, atol=2e-5)
    np.testing.assert_allclose(sampled(sr.transpose(0, 3, 1, 2), 4096), golden['output'], rtol=0, atol=2e-5)
    assert loss == pytest.approx(float(golden['loss/charbonnier_sum']), rel=1e-6)
    names = {name: value.shape for name, value in below(golden, 'param/').items()}
    # the loss is bent at an error of 0: where that is 1e-6, other roundings change the sign of a pixel's gradient
    check_gradients(golden, in_the_authors_names(gradients, names), 1e-4 if device.kernels == 'builtin' else 1e-3)


def test_the_authors_network_without_tsa(authors, fast):
    golden, weights, size = authors
    _, fusion = import_weights.translated('', below(golden, 'notsa/param/'))
    weights = dict({name: value for name, value in weights.items() if 'tsa_fusion' not in name}, **fusion)
    assert size_of(weights)['with_tsa'] is False
    sr = upscaled(fast, dict(size, with_tsa=False), weights, golden['input'].transpose(0, 1, 3, 4, 2))
    np.testing.assert_allclose(sampled(sr.transpose(0, 3, 1, 2), 4096), golden['notsa/output'], rtol=0, atol=2e-5)


@pytest.fixture(scope='module')
def port():
    """(golden file of the released port, its weights, size)."""
    golden = read('port_small.npz')
    weights = below(golden, 'var/')
    assert size_of(weights) == {name: value for name, value in dict(GOLDEN_SIZE, compat='port').items()
                                if name != 'upsampling'}
    return golden, weights, dict(GOLDEN_SIZE, compat='port')


def test_the_released_port(port, device):
    golden, weights, size = port
    pictures, sr, loss, gradients = run(device, size, weights, everything(
        golden['input'], golden['target'],
        lambda sr, hr: tf.reduce_mean(tf.reduce_sum(tf.sqrt((sr - hr) ** 2 + 1e-6), [1, 2, 3]))))
    for name, picture in dict(pictures, output=sr).items():
        np.testing.assert_allclose(sampled(picture, 4096), golden[name], rtol=0, atol=2e-5)
    assert loss == pytest.approx(float(golden['loss/charbonnier_mean']), rel=1e-6)
    if device.kernels == 'builtin':  # one point lies on a pixel, where the gradient jumps: rounding decides its side
        check_gradients(golden, gradients, 1e-4)


def test_the_released_port_in_other_forms(port, fast):
    golden, weights, size = port
    sr = upscaled(fast, dict(size, upsampling='bicubic'), weights, golden['input'])
    np.testing.assert_allclose(sampled(sr, 4096), golden['bicubic/output'], rtol=0, atol=2e-5)
    weights = {name: value for name, value in weights.items() if 'tsa_fusion' not in name}
    weights.update(below(golden, 'notsa/var/'))
    sr = upscaled(fast, dict(size, with_tsa=False), weights, golden['input'])
    np.testing.assert_allclose(sampled(sr, 4096), golden['notsa/output'], rtol=0, atol=2e-5)


def frames_of(n, height, width, seed=0):
    return np.random.default_rng(seed).uniform(0, 1, (n, 3, height, width, 3)).astype(np.float32)


def reflected(length):
    """Which rows a picture of that many is continued by, to a multiple of 4."""
    there = list(range(length))
    back_and_forth = (there + there[-2:0:-1]) * 4
    return back_and_forth[:-(-length // 4) * 4]


@pytest.mark.parametrize('compat', ['paper', 'port'])
def test_any_batch_and_size(compat, fast):
    """One graph for all; a picture gives what it gives alone, and what its continuation by reflection does, cropped."""
    weights, size = weights_of(compat=compat)
    with tf.Graph().as_default() as graph:
        network, frames = EDVR(**size, conv=fast.layers()), tf.placeholder(tf.float32, [None, 3, None, None, 3])
        sr = network.sr(frames)
        assert sr.shape.as_list() == [None, None, None, 3]
        with fast.session(graph) as session:
            assign(session, network.variables, weights)
            for n, height, width in ((1, 1, 1), (2, 1, 2), (1, 3, 5), (3, 7, 6), (1, 9, 13), (2, 8, 12)):
                lr = frames_of(n, height, width)
                found = session.run(sr, {frames: lr})
                assert found.shape == (n, 4 * height, 4 * width, 3)
                continued = lr[:, :, reflected(height)][:, :, :, reflected(width)]
                for one, expected in zip(continued, found):
                    alone = session.run(sr, {frames: one[None]})[0, :4 * height, :4 * width]
                    np.testing.assert_allclose(alone, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize('frames', [1, 7])
def test_windows_of_other_lengths(frames, fast):
    weights, size = weights_of(num_frames=frames)
    lr = np.random.default_rng(0).uniform(0, 1, (2, frames, 8, 8, 3))
    assert upscaled(fast, size, weights, lr).shape == (2, 32, 32, 3)


def test_bfloat16(authors):
    if tf.__version__.startswith('1.'):
        pytest.skip('TensorFlow 1.15 does not compute in bfloat16 on CPUs')
    golden, weights, size = authors
    frames, device = golden['input'].transpose(0, 1, 3, 4, 2), open_device('cpu', kernels='builtin')
    sr = upscaled(device, size, weights, frames, Builtin(tf.bfloat16)).transpose(0, 3, 1, 2)
    assert sr.dtype == np.float32 and 1e-4 < (sampled(sr, 4096) - golden['output']).std() < 0.01


def test_names_and_shapes_of_the_released_networks():
    names = json.loads((GOLDEN / 'authors_edvr_m.json').read_text())
    _, theirs = import_weights.translated('', {name: np.zeros(shape) for name, shape in names.items()})
    size = full_size('EDVR-M')
    assert shapes(size) == {name: value.shape for name, value in theirs.items()}
    assert shapes(dict(size, compat='port')) == shapes(size)
    assert len(theirs) == 144 and sum(value.size for value in theirs.values()) == 3_300_131
    assert count(full_size('EDVR-M', num_deform_groups=1)) == 2_863_919  # the port's edvr.yaml


def count(size):
    return sum(int(np.prod(shape)) for shape in shapes(size).values())


@pytest.mark.parametrize('name, more', [('EDVR-L', {}), ('EDVR-L', {'num_frames': 7}), ('EDVR-M', {'with_tsa': False})])
def test_variables_of_a_graph(name, more):
    size = full_size(name, **more)
    with tf.Graph().as_default():
        network = EDVR(**size)
    found = {variable.op.name: tuple(variable.shape.as_list()) for variable in network.variables}
    assert found == shapes(size)
    assert size_of({name: np.broadcast_to(np.float32(0), shape) for name, shape in found.items()}) == {
        name: None if name == 'compat' and size['mid_channels'] == 64 else value for name, value in size.items()
        if name != 'upsampling'}


def test_first_weights_of_the_authors():
    weights = initial_weights(full_size('EDVR-M'), np.random.default_rng(0))
    for name, value in weights.items():
        if '/conv_offset/' in name or name.endswith('/b') or ('/ResBlock/' in name and name.endswith('/bias')):
            assert not value.any(), name
        elif '/ResBlock/' in name:
            assert value.std() == pytest.approx(0.1 * (2 / 576) ** 0.5, rel=0.03)
        elif value.size > 3:
            check_uniform(value, fan_in(weights, name) ** -0.5)


def test_first_weights_of_the_port():
    weights = initial_weights(full_size('EDVR-M', compat='port'), np.random.default_rng(0))
    bare = ('conv_offset', 'level1/feat_conv', 'temporal_attn1', 'temporal_attn2', 'spatial_attn5', 'add2', 'upsample1',
            'upsample2', 'conv_last')  # no activation follows
    for name, value in weights.items():
        layer, _, part = name.rpartition('/')
        if part == 'b':
            assert not value.any(), name
        elif part == 'kernel' and '/ResBlock/' in name:
            assert value.std() == pytest.approx(0.0125, rel=0.03)
        elif value.size > 3:
            fan = fan_in(weights, name)
            check_uniform(value, fan ** -0.5 if part != 'kernel' or layer.endswith(bare) else (6 / 1.01 / fan) ** 0.5)


def fan_in(weights, name):
    kernel = weights[name[:-len('bias')] + 'kernel'] if name.endswith('/bias') else weights[name]
    return np.prod(kernel.shape[:3])


def check_uniform(value, bound):
    """Of values drawn from -bound to bound, the largest and the deviation are about what they should be."""
    assert 0.9 * bound < abs(value).max() <= bound
    assert value.std() == pytest.approx(bound / 3 ** 0.5, rel=0.3 if value.size < 200 else 0.06)


def test_the_first_offsets(fast):
    """The authors' network begins with none; the mean of each deformable convolution is watched in training."""
    def offsets(network, _):
        network.sr(tf.constant(frames_of(1, 8, 8)))
        return network.offsets
    for compat, expected in (('paper', False), ('port', True)):
        size = dict(SIZE, compat=compat)
        found = run(fast, size, initial_weights(size, np.random.default_rng(0)), offsets)
        assert len(found) == 4 and [value > 0 for value in found] == [expected] * 4


@pytest.mark.parametrize('change, words', [
    ({'num_frames': 4}, 'model.num_frames 4: expected an odd number'),
    ({'num_frames': -1}, 'model.num_frames -1'), ({'num_deform_groups': 3}, 'edvr.num_deform_groups 3: .* divide'),
    ({'mid_channels': 0}, 'edvr.mid_channels 0'), ({'num_blocks_reconstruction': -1}, 'num_blocks_reconstruction -1'),
    ({'compat': 'torch'}, "edvr.compat 'torch': expected paper or port"),
    ({'upsampling': 'area'}, "edvr.upsampling 'area': expected bilinear or bicubic")])
def test_sizes_that_cannot_be(change, words):
    with pytest.raises(ValueError, match=words):
        check_size(**dict(SIZE, **change))
