"""The pictures of a training: layouts, sets to validate on, scales and patches; what is said of broken ones."""
import shutil
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import TINY, flags, refused

import dataloaders
import train as program
from common import images
from options import parse

ALONE = SimpleNamespace(rank=0, world_size=1)


def options(**given):
    """(options, loader module) of a tiny training."""
    return parse(flags(**dict(TINY, **given)), '')


def sampler_of(rank=0, world_size=1, **given):
    chosen, loader = options(**given)
    pairs = {scale: loader.pairs(chosen, scale) for scale in chosen.scales}
    return dataloaders.open_sampler(pairs, chosen, rank, world_size)


def named(pairs):
    return [(pair.name, Path(pair.hr).name, Path(pair.lr).name) for pair in pairs]


def test_layouts(data, tmp_path):
    """DIV2K by its folders or by the one that holds it, also below dataset/; the same names in LR/x2 and HR."""
    div2k = data / 'DIV2K'
    given, loader = options(data_input_path=div2k / 'DIV2K_train_LR_bicubic', data_truth_path=div2k / 'DIV2K_train_HR')
    expected = [(f'000{n}', f'000{n}.png', f'000{n}x4.png') for n in (1, 2, 3)]
    assert named(loader.pairs(given, 4)) == expected
    shutil.copytree(str(data), str(tmp_path / 'dataset'))
    for root in (data, tmp_path):
        given, loader = options(data_path=root)
        assert named(loader.pairs(given, 4)) == expected
    for folder, place in (('DIV2K_train_HR', 'HR'), ('DIV2K_train_LR_bicubic', 'LR')):
        shutil.copytree(str(div2k / folder), str(tmp_path / place))
    for path in (tmp_path / 'LR').glob('*/*.png'):
        path.rename(path.with_name(path.name[:4] + '.png'))
    (tmp_path / 'LR' / 'X2').rename(tmp_path / 'LR' / 'x2')
    given, loader = options(dataloader='basic_loader', data_input_path=tmp_path / 'LR', data_truth_path=tmp_path / 'HR')
    for scale in (2, 3):  # a folder x2 and one X3
        assert named(loader.pairs(given, scale)) == [(f'000{n}', f'000{n}.png', f'000{n}.png') for n in (1, 2, 3)]
    chosen = parse([], '')[0]
    assert (chosen.dataloader, chosen.data_input_path, chosen.data_truth_path) == ('basic_loader', 'LR', 'HR')


@pytest.mark.parametrize('loader', ['basic_loader', 'div2k_loader'])
def test_missing_pictures_are_named(loader, train, data, out, tmp_path, capsys):
    truth, lr = tmp_path / 'DIV2K_train_HR', tmp_path / 'LR'
    shutil.copytree(str(data / 'DIV2K' / 'DIV2K_train_HR'), str(truth))
    shutil.copytree(str(data / 'DIV2K' / 'DIV2K_train_LR_bicubic'), str(lr))
    (lr / 'X2' / '0002x2.png').unlink()
    given = {'dataloader': loader, 'data_path': None, 'data_truth_path': truth, 'data_input_path': lr, 'max_steps': 1}
    refused(capsys, train, 'no LR picture for 1 of 3', '0002.png', **given)
    refused(capsys, train, '--data_input_path', 'no LR pictures for x8', 'x8', 'X8', **dict(given, scales=8))
    refused(capsys, train, '--data_truth_path=/nowhere', **dict(given, data_truth_path='/nowhere'))
    (tmp_path / 'empty').mkdir()
    refused(capsys, train, 'no pictures', str(tmp_path / 'empty'), **dict(given, data_truth_path=tmp_path / 'empty'))
    assert not out.exists()


def test_missing_data_lists_the_places(train, tmp_path, out, capsys):
    (tmp_path / 'empty').mkdir()
    refused(capsys, train, str(tmp_path / 'empty'), 'DIV2K_train_HR', data_path=tmp_path / 'empty')
    assert not out.exists()


@pytest.mark.parametrize('place', ['DIV2K/DIV2K_train_HR/0002.png', 'DIV2K/DIV2K_train_LR_bicubic/X2/0003x2.png',
                                   'benchmark/Tiny/HR/cat.png'])
def test_a_broken_picture_is_found_before_the_training(place, train, data, out, tmp_path, capsys):
    shutil.copytree(str(data), str(tmp_path / 'copy'))
    broken = tmp_path / 'copy' / place
    broken.write_bytes(broken.read_bytes()[:-100])
    refused(capsys, train, str(broken), data_path=tmp_path / 'copy', valid_set='Tiny', max_steps=2)
    assert not out.exists()


def test_a_pair_of_other_sizes_is_named(train, data, tmp_path, capsys, photo):
    shutil.copytree(str(data), str(tmp_path / 'copy'))
    images.write(tmp_path / 'copy' / 'DIV2K' / 'DIV2K_train_LR_bicubic' / 'X2' / '0002x2.png', photo[:20, :20])
    refused(capsys, train, 'sizes disagree', '0002x2.png', '20x20', data_path=tmp_path / 'copy', max_steps=2)


def test_sets_to_validate_on(data, tmp_path, capsys):
    def of(**given):
        chosen, loader = options(data_path=data, scales='2,4', **given)
        trained = {pair.hr for pair in loader.pairs(chosen, 2)}
        return [(name, scale, [pair.name for pair in pairs])
                for name, scale, pairs in program.validation_sets(chosen, trained)]
    assert of() == [('DIV2K', 2, ['0801']), ('DIV2K', 4, ['0801'])]  # auto
    assert of(valid_set='tiny', valid_pictures=1) == [('tiny', 2, ['cat']), ('tiny', 4, ['cat'])]
    assert of(valid_set='') == []
    for scale in (2, 4):  # the released port's layout
        source = data / 'benchmark' / 'Tiny' / 'LR_bicubic' / f'X{scale}' / f'catx{scale}.png'
        images.write(tmp_path / 'BSD100' / 'LR' / f'x{scale}' / 'cat.png', images.read(source))
    shutil.copytree(str(data / 'benchmark' / 'Tiny' / 'HR'), str(tmp_path / 'BSD100' / 'SR'))
    (tmp_path / 'BSD100' / 'SR' / 'nose.png').unlink()
    assert of(valid_path=tmp_path) == [('BSD100', 2, ['cat']), ('BSD100', 4, ['cat'])]
    assert not capsys.readouterr().out
    (tmp_path / 'none').mkdir()
    assert of(valid_path=tmp_path / 'none') == []
    assert 'no validation: ' in capsys.readouterr().out
    shutil.copytree(str(data / 'DIV2K' / 'DIV2K_train_HR'), str(tmp_path / 'benchmark' / 'All' / 'HR'))
    chosen, _ = options(data_path=data, valid_path=tmp_path, valid_set='All')
    program.validation_sets(chosen, {str(tmp_path / 'benchmark' / 'All' / 'HR' / '0001.png')})
    assert 'warning: 1 of 3 validation pictures of All are trained on too' in capsys.readouterr().out


def test_scales_and_patches_follow_from_seed_and_step(data):
    one, again, other = (sampler_of(data_path=data, scales='2,3,4', seed=seed) for seed in (1, 1, 2))
    scales = [one.scale(step) for step in range(900)]
    assert scales == [again.scale(step) for step in range(900)] != [other.scale(step) for step in range(900)]
    assert min(Counter(scales).values()) > 240 and set(scales) == {2, 3, 4}  # 300 expected, 14 the deviation
    for step in (0, 5, 77):
        scale, lr, hr = one.batch(step)
        assert scale == scales[step] and lr.shape == (4, 12, 12, 3) and hr.shape == (4, 12 * scale, 12 * scale, 3)
        assert lr.dtype == hr.dtype == np.uint8
        assert all(np.array_equal(a, b) for a, b in zip((lr, hr), again.batch(step)[1:]))


def test_ranks_see_disjoint_patches_of_one_scale(data):
    given = {'data_path': data, 'scales': '2,3', 'seed': 3}
    whole = sampler_of(batch_size=8, **given)
    parts = [sampler_of(rank, 4, batch_size=2, **given) for rank in range(4)]
    for step in range(4):
        scale, lr, hr = whole.batch(step)
        found = [part.batch(step) for part in parts]
        assert [of_rank[0] for of_rank in found] == [scale] * 4
        for index, expected in ((1, lr), (2, hr)):
            assert np.array_equal(np.concatenate([of_rank[index] for of_rank in found]), expected)
        assert len({patch.tobytes() for patch in hr}) == 8  # no rank sees another's


def test_pictures_in_memory(data):
    given = {'data_path': data, 'scales': '2,3', 'target_patch_size': 24}
    mapped, held = sampler_of(**given), sampler_of(data_cached='true', **given)
    hr = {scale: held._samplers[scale]._hr for scale in (2, 3)}
    assert hr[2] is hr[3] and type(hr[2]) is dataloaders.Pictures  # one copy for all scales
    for step in range(6):
        scale, *patches = mapped.batch(step)
        assert all(np.array_equal(a, b) for a, b in zip(patches, held.batch(step)[1:]))
        assert patches[0].shape[1] == 24 // scale and patches[1].shape[1] == 24


def test_a_picture_of_exactly_the_patch_size(data, tmp_path, photo, capsys, train):
    images.write(tmp_path / 'HR' / 'a.png', photo[:24, :24])
    images.write(tmp_path / 'LR' / 'x2' / 'a.png', photo[:12, :12])
    given = {'dataloader': 'basic_loader', 'data_truth_path': tmp_path / 'HR', 'data_input_path': tmp_path / 'LR'}
    _, lr, _ = sampler_of(**given).batch(0)
    flips = [np.rot90(flip, turns).tobytes() for flip in (photo[:12, :12], photo[:12, 11::-1]) for turns in range(4)]
    assert {patch.tobytes() for patch in lr} <= set(flips)
    refused(capsys, train, 'a.png', '12x12 pixels is smaller than patch 13', input_patch_size=13, data_path=None,
            max_steps=1, **given)
