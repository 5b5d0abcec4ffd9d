"""The pictures of a training: sets, ranges, patches; a broken one is found before anything is trained."""
import shutil

import pytest
from conftest import TINY, flags, refused

from common.ms.training import validation_sets
from src import config
from src.context import Device
from src.dataset import dataset


def options(data, **given):
    return config.parse(flags(**dict(TINY, data_path=data, **given)), '')


def names(pairs):
    return [pair.name for pair in pairs]


def test_sets_and_ranges(data):
    def of(**given):
        chosen = options(data, **given)
        tests = [(name, names(pairs)) for name, pairs in dataset.test_sets(chosen)]
        return names(dataset.training_pairs(chosen)), tests
    assert of(data_test='tiny+DIV2K') == (['0001', '0002', '0003'], [('tiny', ['cat']), ('DIV2K', ['0801'])])
    assert of(data_range='2-801/1-2', data_test='DIV2K') == (['0002', '0003', '0801'], [('DIV2K', ['0001', '0002'])])
    assert of(data_range='1-800', data_train='DIV2K+benchmark/Tiny', data_test='DIV2K') == (
        ['0001', '0002', '0003', 'cat'], [])


@pytest.mark.parametrize('scale, given, side', [(2, 24, 12), (3, 27, 9), (3, None, 18), (4, 24, 6)])
def test_patches(scale, given, side, data):
    sampler, _ = dataset.open_sampler(options(data, scale=scale, patch_size=given), Device('cpu'))
    assert [patch.shape for patch in sampler.batch(0)] == [(4, side, side, 3), (4, scale * side, scale * side, 3)]


@pytest.mark.parametrize('test_every, world_size, steps', [(9, 1, 9), (9, 3, 3), (100, 8, 12), (1, 8, 1)])
def test_steps_in_an_epoch(test_every, world_size, steps, data):
    """Three pictures in batches of four, repeated to about test_every steps, shared by the devices."""
    sampler, epoch_steps = dataset.open_sampler(options(data, test_every=test_every), Device('cpu', 0, world_size))
    assert epoch_steps == steps and len(sampler.batch(0)[0]) == 4


@pytest.mark.parametrize('place', ['DIV2K_train_HR/0002.png', 'DIV2K_train_LR_bicubic/X2/0003x2.png',
                                   'DIV2K_valid_HR/0801.png'])
def test_a_broken_picture_is_found_before_the_training(place, train, data, out, tmp_path, capsys):
    copy = tmp_path / 'copy'
    shutil.copytree(data, copy)
    broken = copy / 'DIV2K' / place
    broken.write_bytes(broken.read_bytes()[:-100])
    refused(capsys, train, str(broken), data_path=copy, data_test='DIV2K', train_steps=2)
    assert not out.exists()


def test_validating_on_training_pictures_is_said(data, capsys):
    def sets(**given):
        chosen = options(data, data_test='DIV2K', **given)
        found = validation_sets(dataset.test_sets(chosen), dataset.training_pairs(chosen), 2, chosen.test_pictures)
        return [(name, names(pairs)) for name, pairs in found]
    assert sets() == [('DIV2K', ['0801'])] and not capsys.readouterr().out
    assert sets(data_range='1-3/3-801', test_pictures=1) == [('DIV2K', ['0003'])]
    assert 'warning: 1 of 1 validation pictures of DIV2K are trained on too' in capsys.readouterr().out
