"""Small clips, tiny networks, and a way to run programs as a user starts them."""
import json
import sys

import numpy as np
import pytest

from ascendvsr import config as configuration
from ascendvsr import train as program
from ascendvsr.models.layers import initial_weights
from common import images
from common.resize import imresize
from common.tests.programs import ROOT, TEST_DEVICE_ID, call, flags, python, quiet, refused, start  # noqa: F401
from common.tf import checkpoint as files
from common.tf.runs import load_state

SIZE = {'num_frames': 3, 'mid_channels': 8, 'num_deform_groups': 2, 'num_blocks_extraction': 1,
        'num_blocks_reconstruction': 1, 'with_tsa': True, 'compat': 'paper', 'upsampling': 'bilinear'}
TINY = {'model.num_frames': 3, 'edvr.mid_channels': 8, 'edvr.num_deform_groups': 2, 'edvr.num_blocks_extraction': 1,
        'edvr.num_blocks_reconstruction': 1, 'device': 'cpu', 'data.train_batch_size': 2,
        'data.train_in_size': [16, 16], 'solver.print_interval': 1, 'solver.eval_interval': 0}
LR_SIZE = 24, 32  # height, width of the frames
FRAMES = 7


@pytest.fixture(scope='session', autouse=True)
def surroundings(tmp_path_factory):
    with quiet(tmp_path_factory.mktemp('cache')):
        yield


@pytest.fixture(scope='session')
def photo():
    return images.read(ROOT / 'common' / 'sample' / 'chelsea.png', channels=3)


def put_clip(folder, photo, place, frames=FRAMES, size=LR_SIZE):
    """A slow pan over the photograph from `place` (y, x) on: FOLDER/truth/%08d.png and FOLDER/blur4."""
    height, width = 4 * size[0], 4 * size[1]
    for t in range(frames):
        truth = photo[place[0] + t:place[0] + t + height, place[1] + 2 * t:place[1] + 2 * t + width]
        images.write(folder / 'truth' / f'{t:08d}.png', truth)
        images.write(folder / 'blur4' / f'{t:08d}.png', imresize(truth, 1 / 4))


@pytest.fixture(scope='session')
def reds(tmp_path_factory, photo):
    """A folder (with a space in its name) that holds reds/images/: two clips to train on, two of REDS4; no sets/."""
    root = tmp_path_factory.mktemp('my data')
    for name, place in {'000': (60, 100), '001': (0, 0), '002': (100, 200), '011': (150, 150)}.items():
        put_clip(root / 'reds' / 'images' / name, photo, place)
    return root


def put_sets(home, train, val, prefix=False, frames=FRAMES, size=LR_SIZE):
    """HOME/sets/train.json and val.json as the released port writes them, for clips of those names."""
    (home / 'sets').mkdir(exist_ok=True)
    for name, clips in (('train', train), ('val', val)):
        videos = [{'name': clip, 'gt_shape': [4 * size[0], 4 * size[1]], 'x4_shape': list(size), 'nframes': frames}
                  for clip in clips]
        (home / 'sets' / f'{name}.json').write_text(json.dumps(
            {'prefix': prefix, 'gt_folder': 'truth', 'x4_folder': 'blur4', 'videos': videos}))


@pytest.fixture
def out(tmp_path):
    return tmp_path / 'out'


@pytest.fixture
def train(reds, out):
    """train(solver__lr_schedule__total_steps=3, ...): mode train in this process, into tmp_path/out/edvr, validating
    nothing unless solver__eval_interval says so; returns its status.
    """
    def run(**keys):
        return program.run(configure(**dict(TINY, data__data_dir=reds, output_dir=out / 'edvr', **keys)))
    return run


def configure(path='', **changes):
    """The configuration of a file (or the defaults) with those keys, whose dots are written as two underscores."""
    return configuration.read(str(path), words(changes))


def words(values):
    """{key: value} as words of a command line; __ stands for a dot, None leaves a key out."""
    return [str(word) for key, value in values.items() if value is not None
            for word in (key.replace('__', '.'), value)]


def main(**values):
    """Runs tools/main.py with those keys, as configure() has them."""
    return call(sys.executable, 'tools/main.py', *words(values))


def weights_of(seed=1, **size):
    """({name: array}, size) of weights that give a picture: the enlarged one, a little disturbed by every layer."""
    size = dict(SIZE, **size)
    rng = np.random.default_rng(seed)
    weights = initial_weights(size, rng)
    for name, value in weights.items():
        if '/conv_offset/' in name:  # offsets of about half a pixel
            value += (0.3 * rng.standard_normal(value.shape)).astype(np.float32)
        elif '/conv_last/' in name:
            value *= np.float32(0.2)
        elif size['compat'] == 'paper' and name.endswith(('/kernel', '/W')):  # else features fade from layer to layer
            value *= np.float32(2)
    return weights, size


def save(path, seed=1, **size):
    """A checkpoint of weights_of(), its path."""
    weights, size = weights_of(seed, **size)
    files.write(path, weights, {'size': size}, 'EDVR')
    return path


@pytest.fixture(scope='session')
def checkpoint(tmp_path_factory):
    """A checkpoint of a tiny network that gives a picture."""
    return save(tmp_path_factory.mktemp('weights') / 'tiny edvr')


def state_of(prefix):
    """What a checkpoint of a training holds: {'progress', 'options', 'size', 'arrays'}."""
    return load_state(str(prefix))
