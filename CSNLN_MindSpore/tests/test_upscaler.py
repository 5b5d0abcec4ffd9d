"""The one interface: float32 RGB [H,W,3] in 0..255 to float32 RGB [sH,sW,3], neither clipped nor rounded."""
import sys

import numpy as np
import pytest
from conftest import call, enlarging, tiny

import upscaler
from common.metrics import psnr
from common.ms.checkpoint import load_weights, save_checkpoint, weights_of
from common.resize import imresize
from common.tiles import self_ensemble
from src import memory
from src.attention import Builtin
from src.chop import chopped
from src.context import layers, open_device
from src.CSNLN import SCALES

KERNELS = ('builtin', 'native')
PEAK = '''
import sys
import numpy as np
import upscaler

def status(key):
    with open('/proc/self/status') as file:
        return next(int(line.split()[1]) for line in file if line.startswith(key)) * 1024

upscale, before, side = upscaler.load(sys.argv[1]), status('VmRSS'), int(sys.argv[2])
upscale(np.random.default_rng(0).uniform(0, 255, (side, side, 3)).astype(np.float32))
print((status('VmHWM') - before) / upscale.memory(side, side))
'''
LIMITED = '''
import resource, sys
import numpy as np
import upscaler

upscale = upscaler.load(sys.argv[1])
small, large = (np.full((side, side, 3), 99, np.float32) for side in (24, 2000))
expected = upscale(small)
with open('/proc/self/status') as file:
    used = next(int(line.split()[1]) for line in file if line.startswith('VmSize')) * 1024
limit = resource.getrlimit(resource.RLIMIT_AS)
resource.setrlimit(resource.RLIMIT_AS, (used + 400 * 2 ** 20, limit[1]))  # a map of it takes 1 GB
try:
    upscale(large)
except ValueError as error:
    print(error)
resource.setrlimit(resource.RLIMIT_AS, limit)
print(np.abs(upscale(small) - expected).max())
'''


def picture(height, width, seed=0):
    """float32 RGB [H,W,3] in 0..255."""
    return np.random.default_rng(seed).uniform(0, 255, (height, width, 3)).astype(np.float32)


@pytest.fixture(params=KERNELS)
def kernels(request):
    try:
        layers(open_device('cpu'), request.param)
    except ValueError as error:
        assert 'no C++ compiler' in str(error)  # kernels that are wrong are no reason to skip
        pytest.skip(str(error))
    return request.param


@pytest.fixture(scope='module')
def whole(checkpoint):
    """Upscaler of the checkpoint; its graph is compiled once."""
    return upscaler.load(checkpoint)


@pytest.fixture
def upscale(whole, monkeypatch):
    """The same, with a memory_limit and lines said of its own."""
    monkeypatch.setattr(whole, 'memory_limit', 1e12)
    monkeypatch.setattr(whole, '_said', set())
    return whole


@pytest.fixture
def changed(upscale):
    """{name: array} of its weights, which a test may change: they come back."""
    weights = weights_of(upscale.network)
    yield weights
    load_weights(upscale.network, weights)


def saved(network, path):
    save_checkpoint(str(path), [{'name': name, 'data': parameter}
                                for name, parameter in network.parameters_and_names()],
                    {'rgb_range': network.rgb_range, 'compat': network.compat})
    return path


@pytest.mark.parametrize('scale, rgb_range, kernels', [(2, 255.0, 'builtin'), (3, 1.0, 'native'), (4, 2.0, 'native')],
                         indirect=['kernels'])
def test_contract(scale, rgb_range, kernels, tmp_path):
    """Any size: sides are extended by reflection at the bottom and right, and the result is cropped."""
    network = tiny(scale, rgb_range=rgb_range)
    upscale = upscaler.load(saved(network, tmp_path / 'csnln.ckpt'), kernels=kernels)
    assert upscale.scale == scale and upscale.network.rgb_range == rgb_range
    for height, width in ((13, 9), (1, 1), (2, 30)):
        lr = picture(height, width)
        kept = lr.copy()
        sr = upscale(lr)
        assert sr.dtype == np.float32 and sr.shape == (scale * height, scale * width, 3) and sr.flags['C_CONTIGUOUS']
        assert np.array_equal(lr, kept)
        assert sr.max() > 10  # of 255, not of rgb_range
    lr, rows = picture(5, 4, seed=1), [0, 1, 2, 3, 4, 3]
    extended = lr[rows][:, [0, 1, 2, 3, 2, 1] if scale == 3 else [0, 1, 2, 3]]
    assert np.array_equal(upscale(lr), upscale(extended)[:5 * scale, :4 * scale])


def test_neither_clipped_nor_rounded(upscale, changed):
    load_weights(upscale.network, dict(changed, **{'tail.0.weight': 3 * changed['tail.0.weight']}))
    sr = upscale(picture(8, 8))
    assert sr.min() < 0 and sr.max() > 255 and not np.array_equal(sr, np.rint(sr))


def test_other_inputs_of_numpy(upscale):
    lr = picture(10, 12)
    assert np.array_equal(upscale(lr[::-1, ::2]), upscale(np.ascontiguousarray(lr[::-1, ::2])))
    assert np.array_equal(upscale(lr[:1, :1][::-1]), upscale(lr[:1, :1].copy()))
    eight_bit = lr.astype(np.uint8)
    assert np.array_equal(upscale(eight_bit), upscale(eight_bit.astype(np.float64)))


@pytest.mark.parametrize('shape', [(8, 8), (8, 8, 1), (8, 8, 4), (1, 8, 8, 3), (3, 8, 8), (0, 8, 3)], ids=str)
def test_wrong_shapes(shape, upscale):
    with pytest.raises(ValueError) as error:
        upscale(np.zeros(shape, np.float32))
    assert str(shape) in str(error.value) and '[H,W,3]' in str(error.value)


def test_a_checkpoint_of_another_size(checkpoint):
    assert upscaler.load(checkpoint, scale=2, compat='paper', size=[('n_feats', 8), ('depth', None)]).scale == 2
    for words, given in {'scale 2, not 4; leave --scale out': {'scale': 4},
                         'compat paper, not port; leave --compat out': {'compat': 'port'},
                         'n_feats 8, not 64; leave --n_feats out': {'size': [('n_feats', 64)]},
                         'depth 1, not 12; leave --depth out': {'size': [('depth', 12)]}}.items():
        with pytest.raises(ValueError, match=words):
            upscaler.load(checkpoint, **given)


def test_pictures_of_all_sizes_share_a_graph(upscale):
    for side in range(5, 25):
        upscale(picture(side, 30 - side))
    assert len(upscale._graph.compile_cache) == 1


def test_weights_that_change_are_seen(upscale, changed):
    """As while a network is trained, and measured in between."""
    lr = picture(7, 8)
    sr = upscale(lr)
    load_weights(upscale.network, weights_of(enlarging(seed=2)))
    assert not np.array_equal(upscale(lr), sr)
    load_weights(upscale.network, changed)
    assert np.array_equal(upscale(lr), sr)


def test_checkpoint_of_these_tests_gives_a_picture(upscale, photo):
    lr = imresize(photo[:120, :160], 1 / 2).astype(np.float32)
    assert psnr(upscale(lr), photo[:120, :160], crop_border=2, channel='y') > 25


def test_whole_where_memory_allows_else_in_parts(upscale, capsys):
    lr = picture(60, 44)
    found, by_parts = upscale.planned([lr.shape[:2]])
    assert found is upscale and not by_parts and '60x44 pixels, whole: about ' in capsys.readouterr().out
    whole, part = upscale.memory(60, 44), upscale.memory(42, 34)
    assert part < whole
    upscale.memory_limit = (whole + part) / 2
    found, by_parts = upscale.planned([lr.shape[:2]])
    said = capsys.readouterr().out
    assert by_parts and '60x44 pixels, in parts of 42x34: about ' in said and '--memory_limit' in said
    assert np.array_equal(found(lr), chopped(upscale, 2)(lr))
    upscale.memory_limit = part - 1
    with pytest.raises(ValueError, match=r'60x44 pixels: a part of 42x34 alone takes about .*--memory_limit'):
        upscale.planned([lr.shape[:2]])


def test_one_way_for_a_whole_set(upscale, capsys):
    """The largest picture decides; --chop goes before memory; each line is said once."""
    upscale.memory_limit = upscale.memory(60, 43)
    assert not upscale.planned([(20, 20), (60, 43)])[1]
    assert upscale.planned([(20, 20), (60, 46)])[1]
    assert upscale.planned([(20, 20)], chop=True)[1]
    said = capsys.readouterr().out.splitlines()
    assert [line.split(':')[0] for line in said] == [
        'up to 60x43 pixels, whole', 'up to 60x46 pixels, in parts of up to 42x34', '20x20 pixels, in parts of 20x20']
    upscale.planned([(20, 20)], chop=True)
    assert upscale.planned([]) == (upscale, False)
    assert not capsys.readouterr().out


def test_self_ensemble(upscale):
    """Of whole pictures, and of parts."""
    lr = picture(40, 31)
    for chop, reference in ((False, upscale), (True, chopped(upscale, 2))):
        ensemble, by_parts = upscale.planned([lr.shape[:2]], chop, ensemble=True)
        sr = ensemble(lr)
        assert by_parts is chop and np.array_equal(sr, self_ensemble(reference, lr))
        assert not np.array_equal(sr, reference(lr))


def test_whole_pictures_by_blocks(upscale):
    """MindSpore's operators, where all scores at once are more than they may take: a graph of that size alone."""
    network, small, large = enlarging(layers=Builtin(memory=10_000_000)), picture(6, 8), picture(81, 79)
    by_blocks = upscaler.Upscaler(network)
    assert by_blocks.memory(81, 79) < upscaler.Upscaler(enlarging()).memory(81, 79)
    for lr in (large, small):
        np.testing.assert_allclose(by_blocks(lr), upscale(lr), rtol=0, atol=1e-3)
    assert not network.compile_cache and len(by_blocks._inference.compile_cache) == 1


@pytest.mark.parametrize('size, text', [(1.26e9, '1.3 GB'), (2e10, '20.0 GB'), (3.4e6, '3 MB')])
def test_memory_in_words(size, text):
    assert upscaler.say(size) == text


def test_memory_limit(monkeypatch):
    assert memory.limit('cpu', 5e9) == memory.limit('npu', 5e9) == 5e9
    assert memory.limit('npu') == memory.ON_OTHER_DEVICES
    monkeypatch.setattr(memory, 'free_memory', lambda: 6e9)
    assert memory.limit('cpu') == 3e9
    monkeypatch.setattr(memory, 'free_memory', lambda: None)
    assert memory.limit('cpu') == memory.ON_OTHER_DEVICES


@pytest.mark.skipif(not sys.platform.startswith('linux'), reason='measures memory as Linux does')
def test_free_memory(monkeypatch, tmp_path):
    """That of the machine, or less in a container."""
    assert 1e7 < memory.free_memory() < 1e14
    (tmp_path / 'bound').write_text('5000000\n')
    (tmp_path / 'none').write_text('max\n')
    monkeypatch.setattr(memory, 'OF_CONTAINERS', [tmp_path / name for name in ('none', 'nowhere', 'bound')])
    assert memory.free_memory() == 5e6


def test_memory_grows_with_all_that_takes_it(kernels):
    for scale in SCALES:
        made = {name: tiny(scale, layers=layers(open_device('cpu'), kernels), **size) for name, size in
                {'tiny': {}, 'wider': {'n_feats': 16}, 'deeper': {'depth': 3}}.items()}
        least = memory.peak(made['tiny'], 36, 36)
        assert memory.peak(made['wider'], 36, 36) > least and memory.peak(made['deeper'], 36, 36) > least
        assert 1.5 * least < memory.peak(made['tiny'], 360, 360)


@pytest.mark.skipif(not sys.platform.startswith('linux'), reason='measures memory as Linux does')
def test_memory_is_estimated(tmp_path):
    path = saved(tiny(n_feats=32, depth=2), tmp_path / 'csnln.ckpt')
    done = call(sys.executable, '-c', PEAK, path, 96)
    assert done.returncode == 0, done.stderr
    assert 0.7 < float(done.stdout) < 1.3


@pytest.mark.skipif(not sys.platform.startswith('linux'), reason='limits memory as Linux does')
def test_no_memory_is_said_in_words(tmp_path):
    """And once there is memory again, the upscaler works again."""
    done = call(sys.executable, '-c', LIMITED, saved(tiny(n_feats=64), tmp_path / 'csnln.ckpt'))
    assert done.returncode == 0, done.stderr
    message, difference = done.stdout.splitlines()
    assert message == ('2000x2000 pixels: memory ran out; upscale it in parts, by --chop or a smaller --memory_limit')
    assert float(difference) == 0
