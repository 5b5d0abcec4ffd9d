"""A MINDIR measured as the network itself: free and fixed sizes, script/run_infer_310.sh, files that are no MINDIR."""
import json
import re

import mindspore as ms
import numpy as np
import pytest
from conftest import ROOT, call, tiny
from mindspore import Tensor, nn

import export
import infer_310
from common.datasets import find_benchmark
from common.evaluation import evaluate
from common.metrics import psnr
from common.ms.export import write_by_mindspore
from src.context import open_device
from src.metrics import protocols
from upscaler import Upscaler, load


def crop(photo, height, width):
    return photo[60:60 + height, 100:100 + width].astype(np.float32)


@pytest.fixture(scope='module')
def network():
    """Two blocks at x3, so that the halo is 8; of order 1 everywhere."""
    return tiny(3, n_resblocks=2)


@pytest.fixture(scope='module')
def mindir(network, tmp_path_factory):
    """mindir(N, H, W): the Mindir of the network for that input, 0: free."""
    folder = tmp_path_factory.mktemp('exported')

    def make(*size):
        path = folder / f'{"x".join(map(str, size))} of edsr.mindir'
        write_by_mindspore(network, (size[0], 3, *size[1:]), 'MINDIR', str(path))
        return infer_310.Mindir(path)
    return make


@pytest.mark.parametrize('size', [(0, 0, 0), (1, 0, 0), (2, 0, 40)], ids=str)
def test_free_sizes(size, mindir, network, photo):
    found, whole = mindir(*size), Upscaler(network)
    assert (found.scale, found.halo, found.shape) == (3, network.halo, [size[0], 3, *size[1:]])
    for height, width in ((17, 40), (33, 29), (1, 60)):
        lr = crop(photo, height, width)
        np.testing.assert_allclose(found(lr), whole(lr), rtol=0, atol=2e-3)


@pytest.mark.parametrize('size', [(1, 36, 40), (3, 36, 40)], ids=str)
def test_fixed_sizes_give_what_the_whole_picture_gives(size, mindir, network, photo):
    """Smaller, as large, and larger, on either axis; 17 pixels are a little more than the halo of both sides."""
    found, whole = mindir(*size), Upscaler(network)
    for height, width in ((36, 40), (17, 18), (36, 20), (37, 100), (90, 41), (20, 75)):
        lr = crop(photo, height, width)
        np.testing.assert_allclose(found(lr), whole(lr), rtol=0, atol=2e-3)


def test_pictures_smaller_than_the_halo(checkpoint, photo, tmp_path):
    whole = load(checkpoint, kernels='builtin')
    export.main([f'--ckpt_path={checkpoint}', f'--file_name={tmp_path / "edsr"}', '--height=64', '--width=64'])
    found = infer_310.Mindir(tmp_path / 'edsr.mindir')
    for height, width in ((1, 1), (1, 9), (5, 3), (11, 30)):
        lr = crop(photo, height, width)
        assert psnr(found(lr), whole(lr), crop_border=0, channel='rgb') > 45


def test_a_graph_that_failed_is_made_anew(mindir, photo):
    found, lr = mindir(0, 0, 0), crop(photo, 20, 30)
    expected = found(lr)
    for message, error in (('\n---\n- Memory not enough: alloc failed', RuntimeError),
                           ('\n- No kernel: Select failed', ValueError)):
        def fail(_, message=message):
            raise RuntimeError(message)
        found._cell = fail
        with pytest.raises(error, match=message.split(': ')[1]):
            found(lr)
        assert np.array_equal(found(lr), expected)


def test_windows_cover_an_axis_once_and_see_the_halo():
    for length in range(1, 40):
        for size in range(1, 33):
            for halo in (0, 3, 8):
                picture, covered = np.arange(length), []
                for window in infer_310.windows(length, size, halo, 1):
                    assert len(window.pixels) == size
                    seen = picture[window.pixels]
                    assert np.array_equal(seen[window.inner], picture[window.core])
                    covered += list(picture[window.core])
                    first, last = window.core.start, window.core.stop
                    if first < last and 8 * halo <= 3 * size and length >= 2 * halo:  # else the windows overlap by less
                        around = picture[max(first - halo, 0):last + halo]
                        start = window.inner.start - (first - around[0])
                        assert np.array_equal(seen[start:start + len(around)], around)
                        assert first >= halo or start == 0  # the picture's border in sight: zeros beyond it
                        assert last + halo <= length or start + len(around) == size
                assert covered == list(picture)


def test_run_infer_310(data, checkpoint, tmp_path):
    output, mindir = tmp_path / 'my output', tmp_path / 'my edsr.mindir'
    export.main([f'--ckpt_path={checkpoint}', f'--file_name={mindir}'])
    words = ('bash', ROOT / 'script' / 'run_infer_310.sh', mindir, data, 'Tiny')
    done = call(*words, 2, 0, f'--output_path={output}', '--device=cpu')
    assert done.returncode == 0 and 'Traceback' not in done.stderr, done.stdout + done.stderr
    assert f'log: {output / "run_infer.log"}\n' in done.stdout
    expected = evaluate(load(checkpoint, kernels='builtin'), find_benchmark(str(data), 'Tiny', 2), 2,
                        dataset='Tiny', protocols=protocols('Tiny', 2))['mean']
    found = json.loads((output / 'X2' / 'Tiny' / 'metrics.json').read_text())['mean']
    for name, scores in expected.items():
        assert found[name] == pytest.approx(scores, abs=1e-4)
        line = f'dataset=Tiny scale=2 psnr={scores["psnr"]:.2f} ssim={scores["ssim"]:.4f} protocol={name}'
        assert line in done.stdout and line in (output / 'run_infer.log').read_text()
    assert (output / 'X2' / 'Tiny' / 'cat_x2.png').exists()

    done = call(*words, 3, f'--output_path={output}', '--device=cpu')
    assert done.returncode == 2 and 'enlarges by 2, not 3' in done.stdout + done.stderr
    log = (output / 'run_infer.log').read_text()  # the earlier run's part stays
    assert len(re.findall('^==== ', log, re.MULTILINE)) == 2 and line in log and 'enlarges by 2' in log


@pytest.mark.parametrize('words, message', [
    ((), 'mindir_path is missing'), (('a.mindir', 'b', 'Set5'), 'scale is missing'),
    (('a.mindir', '/', 'Set5', '5'), 'invalid choice: 5'), (('a.mindir', '/', 'Set5', '2', '--devise=cpu'), '--device'),
    (('a.mindir', '/nowhere', 'Set5', '2'), '/nowhere: no such folder'),
    (('a.mindir', '/', 'Set5', '2', '--', '--tile=-1'), 'error: --tile=-1: expected 0 or more')])
def test_arguments_of_run_infer_310(words, message, tmp_path):
    done = call('bash', ROOT / 'script' / 'run_infer_310.sh', f'--output_path={tmp_path}', *words)
    assert done.returncode == 2 and message in done.stdout + done.stderr and 'Traceback' not in done.stdout


class Other(nn.Cell):  # gives pictures of the size that it takes, in `channels` colours
    def __init__(self, channels):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, pad_mode='pad', padding=1)

    def construct(self, image):
        return self.conv(image)[:, :, 1:]


def test_files_that_are_no_mindir_of_pictures(tmp_path, checkpoint):
    open_device('cpu')
    for name, cell, shape in (('gray', Other(1), (1, 1, 8, 8)), ('thin', Other(3), (1, 3, 8, 8)),
                              ('flat', nn.Dense(4, 4), (1, 4))):
        ms.export(cell, Tensor(np.zeros(shape, np.float32)), file_name=str(tmp_path / name), file_format='MINDIR')
    (tmp_path / 'empty.mindir').write_bytes(b'')
    (tmp_path / 'cut.mindir').write_bytes((tmp_path / 'thin.mindir').read_bytes()[:200])
    (tmp_path / 'weights.mindir').write_bytes(checkpoint.read_bytes())
    for name, message in {'gray': 'makes .* of .*; expected', 'thin': 'expected a network that enlarges',
                          'flat': r'takes \[\[1, 4\]\]', 'empty': 'no MINDIR', 'cut': 'no MINDIR',
                          'weights': 'no MINDIR'}.items():
        with pytest.raises(ValueError, match=message) as error:
            infer_310.Mindir(tmp_path / f'{name}.mindir')
        assert f'{name}.mindir' in str(error.value)
    with pytest.raises(ValueError, match='no MINDIR'):
        infer_310.Mindir(checkpoint)
