"""The pictures of a training: sets and ranges, patches, the queue of a device; what is said of broken ones."""
import shutil

import numpy as np
import pytest
from conftest import SIZE, TINY, flags, refused

from common import images
from common.ms import data as pictures
from common.ms.devices import Device
from common.ms.training import validation_sets
from src.args import parse
from src.data import srdata


def options(data, **given):
    return parse(flags(**dict(TINY, dir_data=data, **given)), '')


@pytest.mark.parametrize('place', ['DIV2K_train_HR/0002.png', 'DIV2K_train_LR_bicubic/X2/0003x2.png',
                                   'DIV2K_valid_HR/0801.png'])
@pytest.mark.parametrize('ext', ['sep', 'img'])
def test_a_broken_picture_is_found_before_the_training(ext, place, train, data, out, tmp_path, capsys):
    copy = tmp_path / 'copy'
    shutil.copytree(data, copy)
    broken = copy / 'DIV2K' / place
    broken.write_bytes(broken.read_bytes()[:-100])
    refused(capsys, train, str(broken), dir_data=copy, data_test='DIV2K', train_steps=2, ext=ext)
    assert not out.exists()


@pytest.mark.parametrize('ext', ['sep', 'img'])
def test_a_pair_of_other_sizes_is_named(ext, train, data, tmp_path, capsys, photo):
    copy = tmp_path / 'copy'
    shutil.copytree(data, copy)
    images.write(copy / 'DIV2K' / 'DIV2K_train_LR_bicubic' / 'X2' / '0002x2.png', photo[:20, :20])
    refused(capsys, train, 'sizes disagree', '0002x2.png', '20x20', dir_data=copy, ext=ext, train_steps=2)


def test_validating_on_training_pictures_is_said(data, capsys):
    def sets(**given):
        chosen = options(data, **given)
        found = validation_sets(srdata.test_sets(chosen), srdata.training_pairs(chosen), 2, 10)
        return [name for name, _ in found]
    assert sets(data_range='1-2/3-3') == ['DIV2K'] and not capsys.readouterr().out
    sets(data_range='1-3/3-801')
    assert 'warning: 1 of 2 validation pictures of DIV2K are trained on too' in capsys.readouterr().out


def names(pairs):
    return [pair.name for pair in pairs]


def test_sets_and_ranges(data):
    def of(**given):
        chosen = options(data, **given)
        return names(srdata.training_pairs(chosen)), [(name, names(pairs)) for name, pairs in srdata.test_sets(chosen)]
    assert of() == (['0001', '0002', '0003'], [('DIV2K', ['0801'])])
    assert of(data_range='2-3/801-810', data_test='tiny+DIV2K') == (['0002', '0003'], [('tiny', ['cat']),
                                                                                      ('DIV2K', ['0801'])])
    assert of(data_range='1-801/1-2') == (['0001', '0002', '0003', '0801'], [('DIV2K', ['0001', '0002'])])
    assert of(data_range='1-800', data_train='DIV2K+benchmark/Tiny') == (['0001', '0002', '0003', 'cat'], [])
    assert of(data_range='801-900', test_only=True, ckpt_path='x')[1] == [('DIV2K', ['0801'])]


@pytest.mark.parametrize('batch_size, test_every, world_size, steps', [
    (4, 9, 1, 9), (4, 9, 3, 3), (2, 100, 1, 99), (2, 100, 8, 12), (16, 1, 1, 1), (1, 1, 1, 3), (4, 1, 8, 1)])
def test_steps_in_an_epoch(batch_size, test_every, world_size, steps, data):
    """Three pictures, repeated max(batch_size * test_every // 3, 1) times, shared by the devices."""
    device = Device('cpu', 0, world_size)
    chosen = options(data, batch_size=batch_size, test_every=test_every)
    sampler, epoch_steps = srdata.open_sampler(chosen, device)
    assert epoch_steps == steps and len(sampler.batch(0)[0]) == batch_size


def test_patches_and_default_patch_size(data):
    sampler, _ = srdata.open_sampler(options(data, scale=3), Device('cpu'))
    assert [patch.shape for patch in sampler.batch(0)] == [(4, 8, 8, 3), (4, 24, 24, 3)]
    assert [options(data, scale=scale, patch_size=None).patch_size for scale in (2, 3, 4)] == [96, 144, 192]


def test_a_cache_is_not_renewed_by_several_ranks(data):
    with pytest.raises(ValueError, match='sep_reset on 2 devices.*--ext=sep'):
        srdata.open_sampler(options(data, ext='sep_reset'), Device('cpu', 0, 2))


def test_batches_through_the_queue_of_a_device(data, monkeypatch):
    """The data sink's branch, with a stand-in for the queue, which a CPU does not have."""
    def queue(function, dataset):
        batches = dataset.create_tuple_iterator(num_epochs=1)
        return lambda: function(*next(batches))
    monkeypatch.setattr(pictures.ms, 'data_sink', queue)
    sampler, _ = srdata.open_sampler(options(data), Device('npu'))
    with pictures.open_batches(sampler, range(3, 12), 64, Device('npu')) as batches:
        found = [(lr.asnumpy(), hr.asnumpy()) for lr, hr in batches]
        assert batches.waited > 0
    assert len(found) == 9
    for step, batch in enumerate(found, 3):
        assert all(np.array_equal(*patches) for patches in zip(batch, sampler.batch(step)))
        assert batch[0].dtype == np.uint8


def test_a_queue_of_no_steps(data):
    sampler, _ = srdata.open_sampler(options(data), Device('npu'))
    with pictures.open_batches(sampler, range(7, 7), 2, Device('npu')) as batches:
        assert not list(batches) and batches.waited == 0


def test_pictures_without_lr_are_made_smaller(data, tmp_path):
    (tmp_path / 'HR').mkdir()
    shutil.copy(data / 'DIV2K' / 'DIV2K_train_HR' / '0003.png', tmp_path / 'HR')
    batches = [srdata.open_sampler(options(tmp_path, data_train='HR', ext=ext, cache_dir=tmp_path / 'cache'),
                                   Device('cpu'))[0].batch(5) for ext in ('sep', 'img')]
    assert all(np.array_equal(*patches) for patches in zip(*batches))
    assert SIZE['n_feats'] == 8
