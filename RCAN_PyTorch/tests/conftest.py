"""Small photographs, tiny networks, and two ways to run: main.py in this process, programs as a user starts them."""

import numpy as np
import pytest
import torch

import main
from common import images
from common.make_lr import make
from common.tests.programs import ROOT, TEST_DEVICE_ID, call, flags, python, quiet, refused, start  # noqa: F401
from model import RCAN

SIZE = {'num_features': 8, 'num_rg': 1, 'num_rcab': 1, 'reduction': 4}
TINY = dict(SIZE, patch_size=8, batch_size=4, workers=1, device='cpu', log_every=1)
LAST, BEST = 'RCAN_epoch_last.pth', 'model_best.pth'  # checkpoints of a run in fp32


@pytest.fixture(scope='session', autouse=True)
def surroundings(tmp_path_factory):
    torch.set_num_threads(1)
    with quiet(tmp_path_factory.mktemp('cache'), OMP_NUM_THREADS='1'):
        yield


@pytest.fixture(scope='session')
def photo():
    return images.read(ROOT / 'common' / 'sample' / 'chelsea.png', channels=3)


@pytest.fixture(scope='session')
def data(tmp_path_factory, photo):
    """A folder (with a space in its name) that holds DIV2K/ of three training pictures and one other, benchmark/."""
    root = tmp_path_factory.mktemp('my data')
    for place, (top, left, height, width) in {
            'DIV2K/DIV2K_train_HR/0001.png': (0, 0, 96, 120), 'DIV2K/DIV2K_train_HR/0002.png': (100, 50, 72, 96),
            'DIV2K/DIV2K_train_HR/0003.png': (50, 200, 120, 96), 'DIV2K/DIV2K_valid_HR/0801.png': (150, 150, 48, 72),
            'benchmark/Tiny/HR/cat.png': (60, 100, 96, 96)}.items():
        images.write(root / place, photo[top:top + height, left:left + width])
        make(str(root / place), (2, 3, 4))
    return root


@pytest.fixture
def train(data, tmp_path):
    """train(train_steps=3, lr=..., ...): main.py in this process, into tmp_path/out; returns its status."""
    def run(**options):
        given = dict(TINY, train_dataset_dir=data, outputs_dir=tmp_path / 'out')
        return main.main(flags(**dict(given, **options)))
    return run


@pytest.fixture
def out(tmp_path):
    return tmp_path / 'out'


def tiny(scale=2, style='paper', seed=1, **size):
    """A tiny RCAN with weights that no initialisation gives (the mean shifts keep theirs)."""
    torch.manual_seed(seed)
    network = RCAN(scale, style=style, **dict(SIZE, **size))
    for parameter in network.parameters():
        if parameter.requires_grad:
            parameter.data += 0.05 * torch.randn_like(parameter)
    return network.requires_grad_(False)


@pytest.fixture(scope='session')
def checkpoint(tmp_path_factory):
    """A file of tiny x2 weights that give a picture: nearest-neighbour enlargement, a little disturbed."""
    network = tiny()
    for layer in (network.sf, network.conv1, network.upscale[0], network.conv2):
        layer.weight.mul_(0.01)
        layer.bias.zero_()
    for c in range(3):
        network.sf.weight[c, c, 1, 1] = 1
        network.upscale[0].weight[4 * c:4 * c + 4, c, 1, 1] = 1
        network.conv2.weight[c, c, 1, 1] = 1
    path = tmp_path_factory.mktemp('weights') / 'tiny x2.pth'
    torch.save({'model': network.state_dict()}, path)
    return path


def random_picture(height, width, seed=0):
    """float32 RGB [H,W,3] in 0..255."""
    return np.random.default_rng(seed).uniform(0, 255, (height, width, 3)).astype(np.float32)


def state_of(path):
    """What a checkpoint holds."""
    return torch.load(path, weights_only=True)
