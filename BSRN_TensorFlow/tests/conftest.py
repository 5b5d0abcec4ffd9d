"""Small photographs, tiny networks, and a way to run programs as a user starts them."""

import numpy as np
import pytest

import train as program
from common import images
from common.make_lr import make
from common.tests.programs import ROOT, TEST_DEVICE_ID, call, flags, python, quiet, refused, start  # noqa: F401
from common.tf.runs import load_state
from models import checkpoint as files
from models.bsrn import initial_weights

SIZE = {'scales': (2,), 'conv_features': 8, 'state_features': 4, 'recursions': 3, 'recursion_frequency': 1,
        'rgb_mean': (127.5, 127.5, 127.5)}
TINY = {'dataloader': 'div2k_loader', 'bsrn_conv_features': 8, 'bsrn_state_features': 4, 'bsrn_recursions': 3,
        'input_patch_size': 12, 'batch_size': 4, 'scales': 2, 'device': 'cpu', 'kernels': 'builtin', 'workers': 1,
        'log_freq': 1}


@pytest.fixture(scope='session', autouse=True)
def surroundings(tmp_path_factory):
    with quiet(tmp_path_factory.mktemp('cache')):
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
            'benchmark/Tiny/HR/cat.png': (60, 100, 96, 96), 'benchmark/Tiny/HR/nose.png': (140, 180, 48, 60)}.items():
        images.write(root / place, photo[top:top + height, left:left + width])
        make(str(root / place), (2, 3, 4))
    return root


@pytest.fixture
def out(tmp_path):
    return tmp_path / 'out'


@pytest.fixture
def train(data, tmp_path):
    """train(max_steps=3, ...): train.py in this process, into tmp_path/out/X2, validating nothing unless valid_set says
    so; returns its status.
    """
    def run(**options):
        given = dict(TINY, data_path=data, valid_set='', train_path=tmp_path / 'out' / 'X2')
        return program.main(flags(**dict(given, **options)))
    return run


def state_of(prefix):
    """What a checkpoint of train.py holds: {'progress', 'options', 'size', 'arrays'}."""
    return load_state(str(prefix))


def picture_weights(seed=1, **size):
    """({name: array}, size) of weights that give a picture: nearest-neighbour enlargement, a little disturbed."""
    size = dict(SIZE, **size)
    rng = np.random.default_rng(seed)
    weights = initial_weights(size, rng)
    for name, value in weights.items():
        value[...] = 0.005 * rng.standard_normal(value.shape)
        layer = name.split('/')[1]
        if name.endswith('/bias') and layer in ('first_conv', 'last_conv'):
            value[:3] += 130 if layer == 'first_conv' else -130  # no colour is negative where the ReLUs are
        elif name.endswith('/kernel') and layer != 'residual_modules':
            for c in range(3):  # every features-th channel is a sub-pixel of colour c
                value[1, 1, c, c::size['conv_features']] += 1
    return weights, size


def save(path, seed=1, **size):
    """A checkpoint of picture_weights(), its path."""
    weights, size = picture_weights(seed, **size)
    files.write(path, weights, {'size': size})
    return path


@pytest.fixture(scope='session')
def checkpoint(tmp_path_factory):
    """A checkpoint of a tiny x2 network that gives a picture."""
    return save(tmp_path_factory.mktemp('weights') / 'tiny x2.ckpt')
