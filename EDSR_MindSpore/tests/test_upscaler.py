"""The one interface: float32 RGB [H,W,3] in 0..255 to float32 RGB [sH,sW,3], neither clipped nor rounded."""
import sys
from types import SimpleNamespace

import mindspore as ms
import numpy as np
import pytest
from conftest import call, tiny
from mindspore import Tensor

import upscaler
from common.metrics import psnr
from common.ms.checkpoint import load_weights, weights_of
from common.resize import imresize
from common.tiles import self_ensemble
from src.context import open_device
from src.model import EDSR

KERNELS = ('builtin', 'native')
LIMITED = '''
import resource, sys
import numpy as np
import upscaler
from common.tiles import upscale_tiled

upscale = upscaler.load(sys.argv[1], kernels=sys.argv[2])
lr = np.random.default_rng(0).uniform(0, 255, (1000, 1000, 3)).astype(np.float32)
expected = upscale_tiled(upscale, lr, 2, 200, upscale.halo)
with open('/proc/self/status') as file:
    used = next(int(line.split()[1]) for line in file if line.startswith('VmSize')) * 1024
limit = resource.getrlimit(resource.RLIMIT_AS)
resource.setrlimit(resource.RLIMIT_AS, (used + 200 * 2 ** 20, limit[1]))  # the whole picture needs 400 MB
sr = upscale_tiled(upscale, lr, 2, 0, upscale.halo)
resource.setrlimit(resource.RLIMIT_AS, limit)
print('largest difference', np.abs(sr - expected).max())
'''


def picture(height, width, seed=0):
    """float32 RGB [H,W,3] in 0..255."""
    return np.random.default_rng(seed).uniform(0, 255, (height, width, 3)).astype(np.float32)


@pytest.fixture(params=KERNELS)
def kernels(request):
    try:
        open_device('cpu').convolution(request.param)
    except ValueError as error:
        assert 'no C++ compiler' in str(error)  # kernels that are wrong are no reason to skip
        pytest.skip(str(error))
    return request.param


@pytest.fixture(scope='module')
def lr(photo):
    return imresize(photo[:240, :320], 1 / 2).astype(np.float32)


def saved(network, path):
    ms.save_checkpoint(network, str(path), append_dict={'res_scale': 1.0})
    return path


@pytest.mark.parametrize('scale, rgb_range', [(2, 255.0), (3, 1.0), (4, 255.0)])
def test_contract(scale, rgb_range, kernels, tmp_path):
    network = tiny(scale, rgb_range=rgb_range)
    upscale = upscaler.load(saved(network, tmp_path / 'edsr.ckpt'), kernels=kernels)
    assert upscale.scale == scale and upscale.halo == network.halo and upscale.network.rgb_range == rgb_range
    for height, width in ((13, 9), (1, 1), (2, 30)):
        lr = picture(height, width)
        kept = lr.copy()
        sr = upscale(lr)
        assert sr.dtype == np.float32 and sr.shape == (scale * height, scale * width, 3) and sr.flags['C_CONTIGUOUS']
        assert np.array_equal(lr, kept)
        expected = network(Tensor(lr.transpose(2, 0, 1)[None] * (rgb_range / 255))).asnumpy()[0] * (255 / rgb_range)
        np.testing.assert_allclose(sr.transpose(2, 0, 1), expected, rtol=0, atol=1e-3)
        assert sr.max() > 10  # of 255, not of rgb_range
    assert np.array_equal(upscale(lr), sr)


def test_neither_clipped_nor_rounded(tmp_path):
    network = tiny()
    load_weights(network, {n: v * (1 if 'mean' in n else 3) for n, v in weights_of(network).items()})
    sr = upscaler.load(saved(network, tmp_path / 'edsr.ckpt'))(picture(8, 8))
    assert sr.min() < 0 and sr.max() > 255 and not np.array_equal(sr, np.rint(sr))


def test_other_inputs_of_numpy(checkpoint):
    upscale, lr = upscaler.load(checkpoint), picture(10, 12)
    assert np.array_equal(upscale(lr[::-1, ::2]), upscale(np.ascontiguousarray(lr[::-1, ::2])))
    assert np.array_equal(upscale(lr[:1, :1][::-1]), upscale(lr[:1, :1].copy()))
    eight_bit = lr.astype(np.uint8)
    assert np.array_equal(upscale(eight_bit), upscale(eight_bit.astype(np.float64)))


@pytest.mark.parametrize('shape', [(8, 8), (8, 8, 1), (8, 8, 4), (1, 8, 8, 3), (3, 8, 8), (0, 8, 3)], ids=str)
def test_wrong_shapes(shape, checkpoint):
    with pytest.raises(ValueError) as error:
        upscaler.load(checkpoint)(np.zeros(shape, np.float32))
    assert str(shape) in str(error.value) and '[H,W,3]' in str(error.value)


def test_a_checkpoint_of_another_size(checkpoint):
    assert upscaler.load(checkpoint, scale=2, size=[('n_feats', 8), ('n_resblocks', None)]).scale == 2
    with pytest.raises(ValueError, match='scale 2, not 4; leave --scale out'):
        upscaler.load(checkpoint, scale=4)
    with pytest.raises(ValueError, match='n_feats 8, not 64; leave --n_feats out'):
        upscaler.load(checkpoint, size=[('n_feats', 64)])


def test_pictures_of_all_sizes_share_a_graph(checkpoint, kernels):
    upscale = upscaler.load(checkpoint, kernels=kernels)
    for side in range(5, 25):
        upscale(picture(side, 30 - side))
    assert len(upscale._graph.compile_cache) == 1


def test_weights_that_change_are_seen(kernels):
    """As while a network is trained, and measured in between."""
    network, other = (tiny(seed=seed, conv=open_device('cpu').convolution(kernels)) for seed in (1, 2))
    upscale, theirs, lr = upscaler.Upscaler(network), upscaler.Upscaler(other), picture(7, 8)
    assert not np.array_equal(upscale(lr), theirs(lr))
    load_weights(network, weights_of(other))
    assert np.array_equal(upscale(lr), theirs(lr))


def test_networks_in_half_precision():
    network = tiny()
    exact = upscaler.Upscaler(tiny())(picture(9, 9))
    half = upscaler.Upscaler(network.to_float(ms.float16))(picture(9, 9))
    assert half.dtype == np.float32 and not np.array_equal(half, exact)
    assert psnr(half, exact, crop_border=0, channel='rgb') > 40


def test_checkpoint_of_these_tests_gives_a_picture(checkpoint, lr, photo):
    assert psnr(upscaler.load(checkpoint)(lr), photo[:240, :320], crop_border=2, channel='y') > 25


def options(**changed):
    given = {'scale': None, 'device': 'cpu', 'device_id': 0, 'kernels': 'auto', 'res_scale': None,
             'self_ensemble': False, 'halo': None}
    return SimpleNamespace(**dict(given, **changed))


@pytest.mark.parametrize('tile', [32, 50, 119, 1000, 0])
def test_tiles_equal_the_whole_picture(tile, kernels, tmp_path, lr):
    """To 1e-3 of 255: our kernels round by where a pixel lies; MindSpore's give the same bits."""
    path = saved(tiny(), tmp_path / 'edsr.ckpt')
    whole = upscaler.load(path, kernels=kernels)(lr)
    upscale, scale = upscaler.load_with(options(kernels=kernels), path, tile)
    sr = upscale(lr)
    assert scale == 2 and sr.dtype == np.float32
    np.testing.assert_allclose(sr, whole, rtol=0, atol=1e-3)
    if tile < 60 and tile:
        narrow = upscaler.load_with(options(kernels=kernels, halo=2), path, tile)[0](lr)
        assert np.abs(narrow - whole).max() > 1e-2  # the test can tell


@pytest.mark.parametrize('tile, halo', [(-1, None), (32, -2)])
def test_negative_tiles(tile, halo, checkpoint):
    with pytest.raises(ValueError, match='--tile -1|--halo -2'):
        upscaler.load_with(options(halo=halo), checkpoint, tile)


def test_self_ensemble(checkpoint, lr):
    whole = upscaler.load(checkpoint)
    ensemble, _ = upscaler.load_with(options(self_ensemble=True), checkpoint, 0)
    assert np.array_equal(ensemble(lr[:30, :40]), self_ensemble(whole, lr[:30, :40]))
    assert not np.array_equal(ensemble(lr[:30, :40]), whole(lr[:30, :40]))


@pytest.mark.skipif(not sys.platform.startswith('linux'), reason='limits memory as Linux does')
def test_tiles_shrink_when_memory_runs_out(checkpoint, kernels):
    done = call(sys.executable, '-c', LIMITED, checkpoint, kernels)
    assert done.returncode == 0, done.stderr
    assert 'warning: out of memory; going on with tiles of 500 pixels' in done.stderr
    assert float(done.stdout.split()[-1]) < 1e-3


@pytest.mark.parametrize('scale, n_resblocks, n_feats', [(2, 32, 256), (4, 32, 256), (3, 16, 64), (2, 1, 8)])
def test_tiles_are_as_large_as_memory_allows(scale, n_resblocks, n_feats):
    upscale = upscaler.Upscaler(EDSR(scale, n_resblocks, n_feats))
    window = upscale.tile + 2 * upscale.halo
    assert 0.97 * upscaler.MEMORY < 21 * n_feats * (scale * window) ** 2 <= upscaler.MEMORY
