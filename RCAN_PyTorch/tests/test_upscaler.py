"""The one interface: float32 RGB [H,W,3] in 0..255 to float32 RGB [sH,sW,3], neither clipped nor rounded."""
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import random_picture, tiny

import export
import upscaler
from common.metrics import psnr
from common.resize import imresize
from common.tiles import self_ensemble
from device import open_device
from import_weights import read_weights
from model import RCAN


@pytest.fixture(params=[('paper', 2), ('paper', 3), ('paper', 4), ('paper', 8), ('port', 2), ('port', 5)], ids=str)
def network(request):
    return tiny(request.param[1], request.param[0])


def test_contract(network, tmp_path):
    torch.save({'model': network.state_dict()}, tmp_path / 'rcan.pth')
    upscale = upscaler.load(str(tmp_path / 'rcan.pth'))
    scale = network.scale
    assert upscale.scale == scale
    for height, width in ((13, 9), (1, 1), (2, 30)):
        lr = random_picture(height, width)
        kept = lr.copy()
        sr = upscale(lr)
        assert sr.dtype == np.float32 and sr.shape == (scale * height, scale * width, 3) and sr.flags['C_CONTIGUOUS']
        assert np.array_equal(lr, kept)
        x = torch.from_numpy(lr).permute(2, 0, 1)[None] * (network.rgb_range / 255)
        expected = network(x)[0].permute(1, 2, 0) * (255 / network.rgb_range)
        np.testing.assert_allclose(sr, expected.numpy(), rtol=0, atol=1e-5 * max(expected.abs().max(), 255))
    assert np.array_equal(upscale(lr), sr)
    assert not upscale.network.training and not any(p.requires_grad for p in upscale.network.parameters())


def test_neither_clipped_nor_rounded(network, tmp_path):
    network.conv2.weight.mul_(20)
    torch.save({'model': network.state_dict()}, tmp_path / 'rcan.pth')
    sr = upscaler.load(tmp_path / 'rcan.pth')(random_picture(8, 8))
    assert sr.min() < 0 and sr.max() > 255 and not np.array_equal(sr, np.rint(sr))


def test_the_ports_golden_numbers(tmp_path):
    golden = np.load(Path(__file__).parent / 'golden' / 'yjn870_x2_g2b2f16.npz')
    weights = {name[6:]: torch.from_numpy(golden[name]) for name in golden.files if name.startswith('param/')}
    torch.save(weights, tmp_path / 'RCAN_epoch_19.pth')
    upscale = upscaler.load(tmp_path / 'RCAN_epoch_19.pth', scale=2)
    for lr, expected in zip(golden['input'], golden['output']):
        sr = upscale(255 * lr.transpose(1, 2, 0))
        np.testing.assert_allclose(sr.transpose(2, 0, 1) / 255, expected, rtol=0, atol=1e-4 * golden['output'].std())


def test_other_inputs_of_numpy(checkpoint):
    upscale, lr = upscaler.load(checkpoint), random_picture(10, 12)
    assert np.array_equal(upscale(lr[::-1, ::2]), upscale(np.ascontiguousarray(lr[::-1, ::2])))
    eight_bit = lr.astype(np.uint8)
    assert np.array_equal(upscale(eight_bit), upscale(eight_bit.astype(np.float32)))


@pytest.mark.parametrize('shape', [(8, 8), (8, 8, 1), (8, 8, 4), (1, 8, 8, 3), (3, 8, 8), (0, 8, 3)], ids=str)
def test_wrong_shapes(shape, checkpoint):
    with pytest.raises(ValueError) as error:
        upscaler.load(checkpoint)(np.zeros(shape, np.float32))
    assert str(shape) in str(error.value) and '[H,W,3]' in str(error.value)


def test_wrong_scale(checkpoint):
    assert upscaler.load(checkpoint, scale=2).scale == 2
    with pytest.raises(ValueError, match='scale 2, not 4'):
        upscaler.load(checkpoint, scale=4)


def test_size_is_read_from_the_checkpoint(tmp_path):
    network = RCAN(3, 12, 2, 3, 5, 'port')
    torch.save(network.state_dict(), tmp_path / 'rcan.pth')
    assert read_weights(tmp_path / 'rcan.pth')[1] == {
        'scale': 3, 'num_features': 12, 'num_rg': 2, 'num_rcab': 3, 'reduction': 6, 'style': 'port'}  # as 12 // 5
    assert upscaler.load(tmp_path / 'rcan.pth')(random_picture(4, 4)).shape == (12, 12, 3)


@pytest.fixture(scope='module')
def lr(photo):
    return imresize(photo[:240, :320], 1 / 2).astype(np.float32)


def test_checkpoint_of_these_tests_gives_a_picture(checkpoint, lr, photo):
    assert psnr(upscaler.load(checkpoint)(lr), photo[:240, :320], crop_border=2, channel='y') > 25


def test_amp_is_close_to_fp32(checkpoint, lr):
    exact, fast = upscaler.load(checkpoint)(lr), upscaler.load(checkpoint, amp=True)(lr)
    assert fast.dtype == np.float32 and not np.array_equal(fast, exact)
    assert psnr(fast, exact, crop_border=0, channel='rgb') > 40


def options(**changed):
    given = {'scale': None, 'device': 'cpu', 'device_id': 0, 'amp': False, 'self_ensemble': False, 'halo': 16}
    return SimpleNamespace(**dict(given, **changed))


@pytest.mark.parametrize('tile, halo', [(32, 16), (50, 0), (119, 3), (1000, 16), (0, 16)])
def test_tiles_cover_the_picture(tile, halo, checkpoint, lr):
    whole = upscaler.load(checkpoint)(lr)
    upscale, scale = upscaler.load_with(options(halo=halo), checkpoint, tile)
    sr = upscale(lr)
    assert scale == 2 and sr.shape == whole.shape and sr.dtype == np.float32
    if tile in (0, 1000):
        assert np.array_equal(sr, whole)
    # channel attention pools over the tile: not equal, but everywhere the same picture
    edge = 0 if halo > 4 else 100
    assert np.abs(sr - whole).max() < 2 + edge and np.median(np.abs(sr - whole)) < 0.5


def test_tiles_bound_what_the_network_sees(checkpoint, lr, monkeypatch):
    sizes, forward = [], RCAN.forward
    monkeypatch.setattr(RCAN, 'forward', lambda self, x: (sizes.append(x.shape[-2:]), forward(self, x))[1])
    upscaler.load_with(options(halo=5), checkpoint, 40)[0](lr)
    assert len(sizes) == 3 * 4 and max(max(size) for size in sizes) <= 50


def test_self_ensemble(checkpoint, lr):
    whole = upscaler.load(checkpoint)
    ensemble, _ = upscaler.load_with(options(self_ensemble=True), checkpoint, 0)
    assert np.array_equal(ensemble(lr[:30, :40]), self_ensemble(whole, lr[:30, :40]))
    assert not np.array_equal(ensemble(lr[:30, :40]), whole(lr[:30, :40]))


def test_export_is_compared_at_two_sizes_at_every_scale(photo, monkeypatch):
    sizes = []

    class Session:
        def __init__(self, *_, **__):
            pass

        def run(self, _, feed):
            sizes.append(feed['image'].shape)
            return [self.upscale(feed['image'][0].transpose(1, 2, 0)).transpose(2, 0, 1)[None]]
    monkeypatch.setattr('onnxruntime.InferenceSession', Session)
    for scale in (2, 3, 4, 8):
        upscale = upscaler.Upscaler(tiny(scale), open_device('cpu'))
        Session.upscale = upscale
        export.compare('', upscale, photo)
        assert len(set(sizes[-2:])) == 2, scale
