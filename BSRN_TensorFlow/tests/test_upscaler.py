"""The one interface: float32 RGB [H,W,3] in 0..255 to float32 RGB [sH,sW,3], neither clipped nor rounded."""
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import SIZE, call, picture_weights, save

import upscaler
from common.metrics import psnr
from common.resize import imresize
from common.tiles import is_out_of_memory, self_ensemble
from models import checkpoint as files
from models.bsrn import BSRN
from models.restored import restored, tf, upscaling
from models.session_config import open_device

KERNELS = ('builtin', 'native')
LIMITED = '''
import resource, sys
import numpy as np
import upscaler
from common.tiles import upscale_tiled

upscale = upscaler.load(sys.argv[1], kernels='native')
lr = np.random.default_rng(0).uniform(0, 255, (1000, 1000, 3)).astype(np.float32)
expected = upscale_tiled(upscale, lr, 2, 200, upscale.halo)
with open('/proc/self/status') as file:
    used = next(int(line.split()[1]) for line in file if line.startswith('VmSize')) * 1024
limit = resource.getrlimit(resource.RLIMIT_AS)
resource.setrlimit(resource.RLIMIT_AS, (used + 250 * 2 ** 20, limit[1]))  # the whole picture needs more
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
        open_device('cpu', kernels=request.param).convolutions()
    except ValueError as error:
        assert 'no C++ compiler' in str(error)  # kernels that are wrong are no reason to skip
        pytest.skip(str(error))
    return request.param


@pytest.fixture(scope='module')
def lr(photo):
    return imresize(photo[:240, :320], 1 / 2).astype(np.float32)


def outputs(lr, scale, **size):
    """What the network gives after each pass, and its weights for the ensemble."""
    weights, size = picture_weights(**size)
    network, session = restored(size, weights, open_device('cpu', kernels='builtin'))
    with session, session.graph.as_default():
        return [sr[0] for sr in session.run(network.outputs(tf.constant(lr[None]), scale))], network.output_weights


@pytest.mark.parametrize('scale', [2, 3, 4, 8])
def test_contract(scale, kernels, tmp_path):
    upscale = upscaler.load(save(tmp_path / 'bsrn.ckpt', scales=(scale,)), kernels=kernels)
    assert upscale.scale == scale
    for height, width in ((13, 9), (1, 1), (2, 30)):
        lr = picture(height, width)
        kept = lr.copy()
        sr = upscale(lr)
        assert sr.dtype == np.float32 and sr.shape == (scale * height, scale * width, 3)
        assert np.array_equal(lr, kept)
        passes, weights = outputs(lr, scale, scales=(scale,))
        np.testing.assert_allclose(sr, np.tensordot(weights, passes, 1), rtol=0, atol=2e-3)
    assert np.array_equal(upscale(lr), sr)


def test_each_pass_and_all_of_them(checkpoint, lr):
    passes, weights = outputs(lr[:20, :24], 2)
    for recursion, expected in ((1, passes[0]), (2, passes[1]), (3, passes[2]), ('last', passes[2])):
        sr = upscaler.load(checkpoint, recursion=recursion)(lr[:20, :24])
        np.testing.assert_allclose(sr, expected, rtol=0, atol=1e-3)
    everything = upscaler.load(checkpoint, recursion='all')
    assert everything.channels == 12
    expected = np.dstack([*passes, np.tensordot(weights, passes, 1)])
    np.testing.assert_allclose(everything(lr[:20, :24]), expected, rtol=0, atol=1e-3)
    assert np.abs(passes[0] - passes[2]).max() > 0.5  # the test can tell
    with pytest.raises(ValueError, match=r'recursion 4: expected one of \[1, 2, 3\]'):
        upscaler.load(checkpoint, recursion=4)


class Counting:
    """Convolutions of TensorFlow's own that count themselves as they are computed."""

    def __init__(self, of):
        self._of, self.axis, self.count = of, of.axis, 0

    def __getattr__(self, name):
        return getattr(self._of, name)

    def convolve(self, x, kernel, bias):
        def one():
            self.count += 1
            return np.float32(0)
        return self._of.convolve(x, kernel, bias) + tf.numpy_function(one, [], tf.float32)


@pytest.mark.parametrize('recursion, convolutions', [
    (1, 1 + 3 + 2), (2, 1 + 6 + 2), ('last', 1 + 9 + 2), ('ensemble', 1 + 9 + 3 * 2), ('all', 1 + 9 + 3 * 2)])
def test_only_what_is_asked_for_is_computed(recursion, convolutions):
    weights, size = picture_weights(scales=(2, 3))
    counting = Counting(open_device('cpu', kernels='builtin').convolutions())
    with tf.Graph().as_default() as graph, tf.Session(graph=graph) as session:
        network = BSRN(**size, conv=counting)
        files.assign(session, network.variables, weights)
        upscaling(network, session, 2, recursion)(picture(5, 5)[None])
    assert counting.count == convolutions


def test_neither_clipped_nor_rounded(tmp_path):
    weights, size = picture_weights()
    files.write(tmp_path / 'bsrn.ckpt', {name: value * 1.5 for name, value in weights.items()}, {'size': size})
    sr = upscaler.load(tmp_path / 'bsrn.ckpt')(picture(8, 8))
    assert sr.min() < 0 and sr.max() > 255 and not np.array_equal(sr, np.rint(sr))


def test_other_inputs_of_numpy(checkpoint):
    upscale, lr = upscaler.load(checkpoint), picture(10, 12)
    assert np.array_equal(upscale(lr[::-1, ::2]), upscale(np.ascontiguousarray(lr[::-1, ::2])))
    eight_bit = lr.astype(np.uint8)
    assert np.array_equal(upscale(eight_bit), upscale(eight_bit.astype(np.float64)))


@pytest.mark.parametrize('shape', [(8, 8), (8, 8, 1), (8, 8, 4), (1, 8, 8, 3), (3, 8, 8), (0, 8, 3)], ids=str)
def test_wrong_shapes(shape, checkpoint):
    with pytest.raises(ValueError) as error:
        upscaler.load(checkpoint)(np.zeros(shape, np.float32))
    assert str(shape) in str(error.value) and '[H,W,3]' in str(error.value)


def test_one_of_several_scales(tmp_path):
    several = save(tmp_path / 'several.ckpt', scales=(2, 3, 4))
    assert [one.scale for one in upscaler.load_scales(several, (4, 2))] == [4, 2]
    assert upscaler.load(several, scale=3)(picture(4, 5)).shape == (12, 15, 3)
    with pytest.raises(ValueError, match='a network of scales 2,3,4; choose one of them'):
        upscaler.load(several)
    with pytest.raises(ValueError, match='a network of scale 2,3,4, not 8'):
        upscaler.load(several, scale=8)


def test_a_checkpoint_of_another_size(checkpoint):
    assert upscaler.load(checkpoint, scale=2, size={'conv_features': 8, 'recursions': None}).scale == 2
    with pytest.raises(ValueError, match='scale 2, not 4; leave --scales out'):
        upscaler.load(checkpoint, scale=4)
    with pytest.raises(ValueError, match='conv_features 8, not 64; leave --bsrn_conv_features out'):
        upscaler.load(checkpoint, size={'conv_features': 64})
    with pytest.raises(ValueError, match='--device=npu'):
        upscaler.load(checkpoint, device='npu')


def test_weights_that_change_are_seen(kernels):
    """As while a network is trained, and measured in between."""
    weights, size = picture_weights()
    network, session = restored(size, weights, open_device('cpu', kernels=kernels))
    upscale, lr = upscaler.Upscaler(network, session, 2), picture(7, 8)
    before = upscale(lr)
    files.assign(session, network.variables, picture_weights(seed=2)[0])
    after = upscale(lr)
    files.assign(session, network.variables, weights)
    assert not np.array_equal(before, after) and np.array_equal(upscale(lr), before)


def test_checkpoint_of_these_tests_gives_a_picture(checkpoint, lr, photo):
    assert psnr(upscaler.load(checkpoint)(lr), photo[:240, :320], crop_border=2, channel='y') > 25


def options(**changed):
    given = {'scales': None, 'device': 'cpu', 'precision': '', 'kernels': 'auto', 'cuda_device': '', 'tile': None,
             'halo': None, 'self_ensemble': False, 'restore_global_step': 0}
    return SimpleNamespace(**dict(given, **changed))


def loaded(checkpoint, recursion='ensemble', **changed):
    """The upscale function of a network of one scale."""
    return upscaler.load_with(options(**changed), checkpoint, recursion)[0][0]


@pytest.mark.parametrize('tile', [32, 50, 119, 1000, 0])
@pytest.mark.parametrize('recursion', ['ensemble', 'all', 1])
def test_tiles_equal_the_whole_picture(tile, recursion, kernels, checkpoint, lr):
    whole = upscaler.load(checkpoint, kernels=kernels, recursion=recursion)(lr)
    sr = loaded(checkpoint, recursion, kernels=kernels, tile=tile)(lr)
    assert sr.dtype == np.float32
    np.testing.assert_allclose(sr, whole, rtol=0, atol=1e-3)
    if tile < 60 and tile:
        narrow = loaded(checkpoint, recursion, kernels=kernels, tile=tile, halo=1)(lr)
        assert np.abs(narrow - whole).max() > 1e-2  # the test can tell


@pytest.mark.parametrize('scale', [2, 3, 4, 8])
@pytest.mark.parametrize('recursion', [1, 'ensemble'])
def test_the_halo_is_how_far_a_pixel_sees(scale, recursion):
    """Exactly: a change that far away still counts, one pixel further it does not."""
    weights, size = picture_weights(scales=(scale,), recursions=2)
    weights = {name: np.abs(value) + 0.05 for name, value in weights.items()}  # nothing cancels, no ReLU cuts
    network, session = restored(size, weights, open_device('cpu', kernels='builtin'))
    upscale = upscaler.Upscaler(network, session, scale, recursion)
    assert upscale.halo == 1 + 3 * (1 if recursion == 1 else 2) + 2
    lr = np.full((1, 60, 3), 150, np.float32)
    changed = lr.copy()
    changed[:, 30] = 250
    columns = np.flatnonzero(np.abs(upscale(changed) - upscale(lr)).max((0, 2))) // scale
    assert columns.min() == 30 - upscale.halo and columns.max() == 30 + upscale.halo


@pytest.mark.parametrize('changed', [{'tile': -1}, {'halo': -2}])
def test_negative_tiles(changed, checkpoint):
    with pytest.raises(ValueError, match='--tile -1|--halo -2'):
        loaded(checkpoint, **changed)


def test_a_step_of_a_folder(tmp_path):
    for step, seed in ((5, 1), (20, 2)):
        save(tmp_path / f'model.ckpt-{step}', seed)
    lr, folder = picture(5, 6), str(tmp_path)
    assert np.array_equal(loaded(folder)(lr), loaded(f'{folder}/model.ckpt-20')(lr))
    fifth = loaded(folder, restore_global_step=5)(lr)
    assert np.array_equal(fifth, loaded(f'{folder}/model.ckpt-5', restore_global_step=5)(lr))
    assert not np.array_equal(fifth, loaded(folder)(lr))
    with pytest.raises(ValueError, match='--restore_global_step=6 picks a checkpoint of a folder'):
        loaded(f'{folder}/model.ckpt-5', restore_global_step=6)
    with pytest.raises(ValueError, match='model.ckpt-6: no such checkpoint'):
        loaded(folder, restore_global_step=6)


def test_self_ensemble(checkpoint, lr):
    whole = upscaler.load(checkpoint)
    ensemble = loaded(checkpoint, self_ensemble=True, tile=0)
    assert np.array_equal(ensemble(lr[:30, :40]), self_ensemble(whole, lr[:30, :40]))
    assert not np.array_equal(ensemble(lr[:30, :40]), whole(lr[:30, :40]))


def test_tensorflows_lack_of_memory_is_known():
    """TensorFlow's own kernels may end the process instead, so no test makes them lack it."""
    assert is_out_of_memory(tf.errors.ResourceExhaustedError(None, None, 'OOM when allocating tensor'))
    assert not is_out_of_memory(tf.errors.InvalidArgumentError(None, None, 'another'))


@pytest.mark.skipif(not sys.platform.startswith('linux'), reason='limits memory as Linux does')
@pytest.mark.parametrize('kernels', ['native'], indirect=True)
def test_tiles_shrink_when_memory_runs_out(checkpoint, kernels):
    done = call(sys.executable, '-c', LIMITED, checkpoint)
    assert done.returncode == 0, done.stderr
    assert 'warning: out of memory; going on with tiles of 500 pixels' in done.stderr
    assert float(done.stdout.split()[-1]) < 1e-3


@pytest.mark.parametrize('scale, features', [(2, 64), (4, 64), (3, 128)])
def test_tiles_are_as_large_as_memory_allows(scale, features):
    size = dict(SIZE, scales=(scale,), conv_features=features, state_features=features)
    with tf.Graph().as_default() as graph, tf.Session(graph=graph) as session:
        upscale = upscaler.Upscaler(BSRN(**size), session, scale)
    window = upscale.tile + 2 * upscale.halo
    assert 0.97 * upscaler.MEMORY < (140 + 24 * scale ** 2) * features * window ** 2 <= upscaler.MEMORY
