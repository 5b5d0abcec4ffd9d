"""Small photographs, tiny networks, and two ways to run: train.py in this process, programs as a user starts them."""
import functools
import json
import os
import sys

import mindspore as ms
import numpy as np
import pytest

from common import images
from common.make_lr import make
from common.ms.checkpoint import load_weights
from common.tests.programs import ROOT, TEST_DEVICE_ID, call, flags, python, quiet, refused, start  # noqa: F401
from src.CSNLN import CSNLN

SIZE = {'depth': 1, 'n_feats': 8}
TINY = dict(SIZE, patch_size=24, batch_size=4, test_every=9, workers=1, device='cpu', log_every=1)
OF_TRAINED = {'epochs': 4, 'data_test': 'Tiny+DIV2K', 'lr': 4e-3, 'lr_halve_epochs': 2, 'ckpt_save_interval': 1,
              'keep_checkpoint_max': 2, 'case': 'perf'}
LAST, BEST = 'model_latest.ckpt', 'model_best.ckpt'
STATUS = pytest.StashKey()


def pytest_sessionfinish(session, exitstatus):
    session.config.stash[STATUS] = int(exitstatus)


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config):
    """End with pytest's status. After hundreds of graphs in one process MindSpore's own end gave another, once."""
    sys.stdout.flush()
    sys.stderr.flush()
    if STATUS in config.stash:
        os._exit(config.stash[STATUS])


@pytest.fixture(scope='session', autouse=True)
def surroundings(tmp_path_factory):
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
            'benchmark/Tiny/HR/cat.png': (60, 100, 48, 48)}.items():
        images.write(root / place, photo[top:top + height, left:left + width])
        make(str(root / place), (2, 3, 4))
    return root


def run(data, out, **options):
    """train.py in this process, on tiny networks, into the folder `out`, validating nothing unless data_test says so;
    returns its status.
    """
    import train as program  # other tests need it not
    return program.main(flags(**dict(dict(TINY, data_path=data, data_test='', save=out), **options)))


@pytest.fixture
def train(data, out):
    """train(train_steps=3, lr=..., ...): run() into tmp_path/out."""
    return functools.partial(run, data, out)


@pytest.fixture(scope='session')
def trained(data, tmp_path_factory):
    """The folder of a run of four epochs of nine steps, with validation, that other tests look at or copy."""
    out = tmp_path_factory.mktemp('trained')
    assert run(data, out, **OF_TRAINED) == 0
    return out / 'X2'


@pytest.fixture
def out(tmp_path):
    return tmp_path / 'out'


def tiny(scale=2, seed=1, **size):
    """A tiny CSNLN with random weights, by MindSpore's operators."""
    network = CSNLN(scale, **dict(SIZE, **size))
    network.initialise(np.random.default_rng(seed))
    return network


def enlarging(scale=2, **size):
    """A tiny CSNLN that gives a picture: nearest-neighbour enlargement, a little disturbed."""
    network = tiny(scale, **size)
    weights = {name: parameter.asnumpy() * (1 if 'mean' in name or name.endswith('.w') else 0.01)
               for name, parameter in network.parameters_and_names()}
    encode, padding = ('error_encode_2', 2) if scale == 4 else ('error_encode', scale)
    into = slice(padding, padding + scale)  # where the kernel lays one pixel
    for c in range(3):  # once as it is and once negated: what PReLU takes from one it leaves to the other
        for sign, channel in ((1, c), (-1, c + 3)):
            weights['head.0.0.weight'][channel, c, 1, 1] = sign
            for other, back in ((c, 0.8), (c + 3, -0.8)):  # (a - a / 4 where a > 0) is 1.25 times what came in
                weights['head.1.0.weight'][channel, other, 1, 1] = sign * back
                weights[f'SEM.{encode}.0.weight'][other, channel, into, into] = sign * back
        weights['tail.0.weight'][c, (c, c + 3), 1, 1] = 0.8, -0.8
    load_weights(network, weights)
    return network


@pytest.fixture(scope='session')
def checkpoint(tmp_path_factory):
    """A file of tiny x2 weights that give a picture: nearest-neighbour enlargement, a little disturbed."""
    path = tmp_path_factory.mktemp('weights') / 'tiny x2.ckpt'
    ms.save_checkpoint(enlarging(), str(path))
    path.chmod(0o644)
    return path


def state_of(path):
    """What a checkpoint holds: {name: array}, and under 'progress' and 'options' what train.py wrote there."""
    found = ms.load_checkpoint(str(path))
    return {name: json.loads(value) if name in ('progress', 'options') else
            value if isinstance(value, str) else value.asnumpy() for name, value in found.items()}
