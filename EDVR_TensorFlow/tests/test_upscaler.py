"""The one interface: RGB [T,H,W,3] in 0..255 to float32 RGB [4H,4W,3] of the middle one, and a clip of any length."""
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import save, weights_of

import upscaler
from ascendcv.runner.sess_config import open_device, tf
from ascendvsr.clip import PADDINGS, indices
from ascendvsr.models.edvr import EDVR
from common.metrics import psnr
from common.resize import imresize
from common.tf import checkpoint as files
from common.tf.checkpoint import assign


def clip_of(count, height=16, width=20, seed=0):
    """float32 RGB [count,H,W,3] in 0..255."""
    return np.random.default_rng(seed).uniform(0, 255, (count, height, width, 3)).astype(np.float32)


@pytest.fixture(scope='module')
def upscale(checkpoint):
    return upscaler.load(checkpoint, kernels='builtin')


@pytest.fixture(scope='module')
def direct():
    """The sr of a window by the network itself."""
    weights, size = weights_of()
    with tf.Graph().as_default() as graph, open_device('cpu', kernels='builtin').session(graph) as session:
        network, window = EDVR(**size), tf.placeholder(tf.float32, [None, None, None, 3])
        assign(session, network.variables, weights)
        sr = network.sr(window[None] / 255)
        yield lambda frames: 255 * session.run(sr, {window: frames})[0]


@pytest.mark.parametrize('kernels', ['builtin', 'native'])
def test_contract(kernels, checkpoint, direct):
    try:
        upscale = upscaler.load(checkpoint, kernels=kernels)
    except ValueError as error:
        assert 'no C++ compiler' in str(error)  # kernels that are wrong are no reason to skip
        pytest.skip(str(error))
    assert upscale.scale == 4 and upscale.frames == 3 and upscale.size['mid_channels'] == 8
    for height, width in ((16, 20), (13, 9), (1, 1), (2, 30)):
        frames = clip_of(3, height, width)
        kept = frames.copy()
        sr = upscale(frames)
        assert sr.dtype == np.float32 and sr.shape == (4 * height, 4 * width, 3)
        assert np.array_equal(frames, kept) and np.array_equal(upscale(frames), sr)
        np.testing.assert_allclose(sr, direct(frames), rtol=0, atol=2e-3)
        *_, middle, _ = upscale.clip(frames)
        np.testing.assert_allclose(middle, sr, rtol=0, atol=2e-3)
        *_, middle, _ = upscale.clip(frames, tile=8, halo=40)
        np.testing.assert_allclose(middle, sr, rtol=0, atol=2e-3)


def test_neither_clipped_nor_rounded(tmp_path):
    weights, size = weights_of()
    weights['G/reconstruction/conv_last/bias'] += np.float32(0.5)
    files.write(tmp_path / 'edvr', weights, {'size': size}, 'EDVR')
    sr = upscaler.load(tmp_path / 'edvr')(clip_of(3))
    assert sr.max() > 255 and not np.array_equal(sr, np.rint(sr))


def test_other_inputs_of_numpy(upscale):
    frames = clip_of(3).astype(np.uint8)
    assert np.array_equal(upscale(frames), upscale(frames.astype(np.float64)))
    assert np.array_equal(upscale(frames[::-1, ::-1, ::2]), upscale(np.ascontiguousarray(frames[::-1, ::-1, ::2])))


@pytest.mark.parametrize('shape', [(3, 8, 8), (8, 8, 3), (5, 8, 8, 3), (3, 8, 8, 4), (3, 0, 8, 3)], ids=str)
def test_wrong_shapes(shape, upscale):
    with pytest.raises(ValueError) as error:
        upscale(np.zeros(shape, np.float32))
    assert str(shape) in str(error.value) and '[3,H,W,3]' in str(error.value)


@pytest.mark.parametrize('padding', PADDINGS)
def test_a_clip_equals_its_windows(upscale, padding):
    for count in (1, 2, 6):
        frames = clip_of(count, 13, 18)
        found = list(upscale.clip(iter(frames), padding))
        assert len(found) == count and found[0].dtype == np.float32
        for middle, sr in enumerate(found):
            window = frames[indices(middle, count, 3, padding)]
            np.testing.assert_allclose(sr, upscale(window), rtol=0, atol=1e-3)


def test_paddings_differ_at_the_ends_alone(upscale):
    frames = clip_of(6)
    one, other = (np.stack(list(upscale.clip(frames, padding))) for padding in PADDINGS)
    assert [not np.array_equal(a, b) for a, b in zip(one, other)] == [True] + [False] * 4 + [True]


class Counting:
    """Layers that count the frames whose features are begun."""

    def __init__(self, of):
        self._of, self.axis, self.frames = of, of.axis, 0

    def __getattr__(self, name):
        return getattr(self._of, name)

    def convolve(self, x, kernel, bias):
        def count(x):
            self.frames += len(x)
            return x
        if kernel.shape.as_list()[2] == 3:
            shape, x = x.shape, tf.numpy_function(count, [x], tf.float32)
            x.set_shape(shape)
        return self._of.convolve(x, kernel, bias)


def test_features_of_a_frame_are_computed_once():
    weights, size = weights_of(num_frames=5)
    device = open_device('cpu', kernels='builtin')
    counting = Counting(device.layers())
    with tf.Graph().as_default() as graph, device.session(graph) as session:
        network = EDVR(**size, conv=counting)
        assign(session, network.variables, weights)
        upscale = upscaler.Upscaler(network, session)
        for options in ({}, {'tile': 8, 'halo': 4}):
            assert len(list(upscale.clip(clip_of(9), **options))) == 9
            assert counting.frames == 9
            counting.frames = 0
        upscale(clip_of(5))
        assert counting.frames == 5  # the test can tell


def test_without_memory_for_them_tiles_compute_features_anew(checkpoint):
    small, whole = upscaler.load(checkpoint, memory=0.6), upscaler.load(checkpoint)
    frames = clip_of(3, 20, 68)
    assert small.plan(20 * 68) == (False, upscaler.SMALLEST_TILE) and whole.plan(20 * 68) == (True, 0)
    for sr, expected in zip(small.clip(frames, halo=200), whole.clip(frames)):
        np.testing.assert_allclose(sr, expected, rtol=0, atol=2e-3)


def test_tiles(upscale):
    frames = clip_of(3, 39, 50)
    whole = list(upscale.clip(frames))
    for tile, halo in ((16, 60), (13, 60), (100, 0)):
        for sr, expected in zip(upscale.clip(frames, tile=tile, halo=halo), whole):
            np.testing.assert_allclose(sr, expected, rtol=0, atol=2e-3)
    bare = next(upscale.clip(frames, tile=16, halo=0))
    assert np.abs(bare - whole[0]).max() > 0.1  # the test can tell


def test_tiles_fit_into_memory(checkpoint):
    upscale = upscaler.load(checkpoint)
    upscale.size.update(mid_channels=64, num_deform_groups=8)
    upscale.frames = 5
    assert upscale.plan(180 * 320) == (True, 0)
    kept, tile = upscale.plan(720 * 1280)
    assert kept and 200 < tile < 720
    assert not upscale.plan(2160 * 3840)[0]
    sides = []
    for upscale.memory in (4.0, 8.0, 16.0):
        sides.append(upscale.plan(720 * 1280)[1])
    assert sides == sorted(sides) and len(set(sides)) == 3


def test_out_of_memory_makes_tiles_smaller(upscale, monkeypatch, capsys):
    frames, whole = clip_of(3, 128, 136), upscaler.Upscaler._restore
    expected, tried = list(upscale.clip(frames)), []

    def limited(self, window, cells):
        tried.append(cells.shape[:2])
        if cells.shape[0] * cells.shape[1] > 600:
            raise MemoryError
        return whole(self, window, cells)
    monkeypatch.setattr(upscaler.Upscaler, '_restore', limited)
    for sr, wanted in zip(upscale.clip(frames, halo=16), expected):
        assert np.abs(sr - wanted).mean() < 0.05
    assert sum(rows * columns > 600 for rows, columns in tried) == 1  # the next frame begins with what fitted
    assert 'out of memory' in capsys.readouterr().err


def test_no_memory_for_features(upscale, monkeypatch):
    def fail(*_):
        raise tf.errors.ResourceExhaustedError(None, None, 'OOM when allocating tensor')
    monkeypatch.setattr(upscale, '_session', SimpleNamespace(run=fail))
    with pytest.raises(ValueError, match='features of a frame of 20x16 .*data.eval_memory, now 8 GB'):
        next(upscale.clip(clip_of(3)))


def test_frames_that_do_not_fit_together(upscale):
    frames = [*clip_of(2), clip_of(1, 16, 24)[0]]
    with pytest.raises(ValueError, match='frame 3 is 24x16 .width x height., expected 20x16'):
        list(upscale.clip(frames))
    with pytest.raises(ValueError, match='frame 1 is 20x16 .width x height., expected 320x180'):
        list(upscale.clip(frames, size=[180, 320]))
    with pytest.raises(ValueError, match=r'frame 1 of shape \(16, 20\)'):
        list(upscale.clip(frames[0][None, :, :, 0]))
    with pytest.raises(ValueError, match='expected replicate or reflection_circle'):
        list(upscale.clip(frames, 'reflect'))
    assert not list(upscale.clip([]))


def test_nan_is_an_error(tmp_path):
    weights, size = weights_of()
    weights['G/reconstruction/conv_last/bias'][:] = 3e38
    files.write(tmp_path / 'edvr', weights, {'size': size}, 'EDVR')
    with pytest.raises(ValueError, match='NaN'):
        next(upscaler.load(tmp_path / 'edvr').clip(clip_of(1)))
    weights['G/reconstruction/conv_last/bias'][:] = np.nan
    files.write(tmp_path / 'edvr', weights, {'size': size}, 'EDVR')
    with pytest.raises(ValueError, match='edvr: NaN or infinite numbers in G/reconstruction/conv_last/bias'):
        upscaler.load(tmp_path / 'edvr')


@pytest.mark.parametrize('named, words', [
    ({'kernels': 'fast'}, "unknown kernels 'fast'; known: auto"), ({'checkpoint': ''}, 'no checkpoint is named')])
def test_load_names_what_is_wrong(named, words, checkpoint):
    with pytest.raises(ValueError, match=words):
        upscaler.load(**dict({'checkpoint': checkpoint}, **named))


def test_load_refuses(checkpoint, tmp_path):
    assert upscaler.load(checkpoint, scale=4).scale == 4
    for words, options in (('a network of scale 4, not 2', {'scale': 2}), ('--device=npu', {'device': 'npu'}),
                           ('compat paper, not port', {'size': {'compat': 'port'}})):
        with pytest.raises(ValueError, match=words):
            upscaler.load(checkpoint, **options)
    with pytest.raises(ValueError, match='no such checkpoint'):
        upscaler.load(tmp_path / 'nothing')


def test_weights_that_change_are_seen(checkpoint):
    """As while a network is trained, and measured in between."""
    weights, size = weights_of()
    device = open_device('cpu', kernels='builtin')
    with tf.Graph().as_default() as graph, device.session(graph) as session:
        network = EDVR(**size)
        assign(session, network.variables, weights)
        upscale, frames = upscaler.Upscaler(network, session), clip_of(3)
        before = upscale(frames)
        assign(session, network.variables, weights_of(seed=2)[0])
        assert not np.array_equal(before, upscale(frames))
        assign(session, network.variables, weights)
        assert np.array_equal(before, upscale(frames))


@pytest.mark.parametrize('size', [{'with_tsa': False, 'num_frames': 5, 'compat': 'port'},
                                  {'num_frames': 1, 'upsampling': 'bicubic', 'mid_channels': 16}])
def test_other_networks(size, tmp_path):
    upscale = upscaler.load(save(tmp_path / 'edvr', **size))
    frames = clip_of(5)
    assert upscale.frames == size.get('num_frames', 3)
    for middle, sr in enumerate(upscale.clip(frames)):
        window = frames[indices(middle, 5, upscale.frames, 'replicate')]
        np.testing.assert_allclose(sr, upscale(window), rtol=0, atol=1e-3)


def test_checkpoint_of_these_tests_gives_a_picture(checkpoint, photo):
    truths = [photo[t:t + 160, t:t + 200] for t in range(3)]
    lr = np.stack([imresize(truth, 1 / 4) for truth in truths])
    assert psnr(upscaler.load(checkpoint)(lr), truths[1], crop_border=0, channel='y') > 25
