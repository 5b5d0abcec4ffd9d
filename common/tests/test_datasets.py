"""The resolver on every layout of the five ports, with pictures of a few pixels."""
from pathlib import Path

import numpy as np
import pytest

from common import datasets, images
from common.datasets import find_benchmark, find_div2k, find_pairs, find_reds, load_pair
from common.resize import imresize


def put(path, height=24, width=36, image=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    images.write(path, np.full((height, width, 3), 99, np.uint8) if image is None else image)


def put_div2k(folder, train, valid=(), lr=(2,)):
    for part, numbers in (('train', train), ('valid', valid)):
        for number in numbers:
            put(folder / f'DIV2K_{part}_HR' / f'{number:04d}.png')
            for s in lr:
                put(folder / f'DIV2K_{part}_LR_bicubic' / f'X{s}' / f'{number:04d}x{s}.png', 24 // s, 36 // s)


def names(pairs):
    return [pair.name for pair in pairs]


@pytest.mark.parametrize('below', ['DIV2K', 'dataset/DIV2K', 'data/DIV2K', 'div2k'])
@pytest.mark.parametrize('root', ['.', 'set', 'hr'])
def test_div2k_from_each_root(tmp_path, below, root):
    put_div2k(tmp_path / below, [1, 2, 3], [801])
    root = {'.': tmp_path, 'set': tmp_path / below, 'hr': tmp_path / below / 'DIV2K_train_HR'}[root]
    train, valid = find_div2k(root, 'train', 2), find_div2k(root, 'valid', 2)
    assert names(train) == ['0001', '0002', '0003'] and names(valid) == ['0801']
    assert [Path(pair.lr).name for pair in train] == ['0001x2.png', '0002x2.png', '0003x2.png']
    assert find_div2k(root, 'train', 3)[0].lr is None  # no X3 there: to be made
    assert names(find_pairs(root, 2)) == names(train)


def test_div2k_of_900_in_one_folder_is_split_by_number(tmp_path):
    put_div2k(tmp_path / 'DIV2K', [1, 799, 800, 801, 900])
    train, valid = find_div2k(tmp_path, 'train', 2), find_div2k(tmp_path, 'valid', 2)
    assert names(train) == ['0001', '0799', '0800'] and names(valid) == ['0801', '0900']
    assert names(find_pairs(tmp_path / 'DIV2K' / 'DIV2K_train_HR', 2)) == names(train)
    assert not {pair.hr for pair in train} & {pair.hr for pair in valid}


def test_div2k_range_counts_as_edsr_does(tmp_path):
    put_div2k(tmp_path, [1, 2, 3, 4], [801, 802, 803])
    assert names(find_div2k(tmp_path, 'train', 2, first=2, last=3)) == ['0002', '0003']
    assert names(find_div2k(tmp_path, 'train', 2, first=1, last=800)) == ['0001', '0002', '0003', '0004']
    assert names(find_div2k(tmp_path, 'valid', 2, first=801, last=802)) == ['0801', '0802']
    assert names(find_div2k(tmp_path, 'valid', 2, first=2)) == ['0802', '0803']
    with pytest.raises(ValueError, match='range is empty; 4 pictures'):
        find_div2k(tmp_path, 'train', 2, first=5)


def test_div2k_kinds(tmp_path):
    put_div2k(tmp_path, [1])
    put(tmp_path / 'DIV2K_train_LR_unknown' / 'X4' / '0001x4.png', 6, 9)
    put(tmp_path / 'DIV2K_train_LR_x8' / '0001x8.png', 3, 4)
    assert 'unknown' in str(find_div2k(tmp_path, 'train', 4, kind='unknown')[0].lr)
    assert Path(find_div2k(tmp_path, 'train', 8)[0].lr).name == '0001x8.png'
    with pytest.raises(ValueError, match='DIV2K_train_LR_unknown'):
        find_div2k(tmp_path, 'train', 2, kind='unknown')
    with pytest.raises(ValueError, match="'wild'; known: 'bicubic', 'unknown'"):
        find_div2k(tmp_path, 'train', 2, kind='wild')


BENCHMARKS = {  # layout: (HR file, LR file), below the root
    'edsr': ('Set5/HR/baby.png', 'Set5/LR_bicubic/X3/babyx3.png'),
    'csnln': ('benchmark/Set5/HR/baby.bmp', 'benchmark/Set5/LR_bicubic/X3/babyx3.png'),
    'bsrn': ('dataset/Set5/SR/baby.png', 'dataset/Set5/LR/x3/baby.png'),
    'basicsr': ('Set5/GTmod12/baby.png', 'Set5/LRbicx3/baby.png'),
    'basicsr names': ('Set5/GTmod12/baby.png', 'Set5/LRbicx3/baby_x3.png'),
    'rcan': ('HR/Set5/x3/baby_HR_x3.png', 'LR/LRBI/Set5/x3/baby_LRBI_x3.png'),
    'selfexsr': ('benchmark/Set5/image_SRF_3/baby_SRF_3_HR.png', 'benchmark/Set5/image_SRF_3/baby_SRF_3_LR.png'),
    'flat': ('Set5/baby.bmp', None),
    'flat with LR': ('benchmark/set5/baby.PNG', 'benchmark/set5/LR_bicubic/X3/babyx3.png'),
    'hr only': ('data/benchmark/Set5/HR/baby.tif', None),
}


@pytest.mark.parametrize('layout', BENCHMARKS)
def test_benchmark_layouts(tmp_path, layout):
    hr, lr = (path and tmp_path / path for path in BENCHMARKS[layout])
    put(hr)
    if lr:
        put(lr, 8, 12)
    put(tmp_path / 'DIV2K' / 'DIV2K_train_HR' / '0001.png')
    expected = [('baby', str(hr), lr and str(lr))]

    def found(pairs):
        return [(pair.name, str(pair.hr), pair.lr and str(pair.lr)) for pair in pairs]

    assert found(find_benchmark(tmp_path, 'Set5', 3)) == expected
    assert found(find_benchmark(str(tmp_path) + '/', 'SET5', 3)) == expected
    if layout != 'rcan':  # the set's own folder, and its folder of HR pictures
        own = next(parent for parent in hr.parents if parent.name.lower() == 'set5')
        assert found(find_benchmark(own, 'Set5', 3)) == found(find_pairs(own, 3)) == expected
        assert found(find_benchmark(hr.parent, 'Set5', 3)) == expected
    assert found(find_pairs(hr.parent, 3)) == expected
    assert [load_pair(pair, 3)[0].shape for pair in find_pairs(hr.parent, 3)] == [(8, 12, 3)]


@pytest.mark.parametrize('folder', ['B100', 'BSD100', 'bsds100', 'CBSD100'])
@pytest.mark.parametrize('asked', ['B100', 'BSD100'])
def test_b100_by_all_its_names(tmp_path, folder, asked):
    put(tmp_path / 'benchmark' / folder / 'HR' / '101085.png')
    assert names(find_benchmark(tmp_path, asked, 2)) == ['101085']


def test_a_set_by_any_other_name_and_div2k_as_a_benchmark(tmp_path):
    put(tmp_path / 'benchmark' / 'Sample' / 'HR' / 'cat.png')
    put_div2k(tmp_path / 'DIV2K', [1], [801])
    assert names(find_benchmark(tmp_path, 'Sample', 2)) == ['cat']
    assert names(find_benchmark(tmp_path, 'DIV2K', 2)) == ['0801']
    assert datasets.list_benchmarks(tmp_path) == ['Sample']


def test_pictures_called_sr_are_results_unless_lr_lies_beside(tmp_path):
    put(tmp_path / 'Set5' / 'SR' / 'baby.png')
    with pytest.raises(ValueError, match='Set5'):
        find_benchmark(tmp_path, 'Set5', 3)


def test_nothing_found_lists_the_places_and_the_sets(tmp_path):
    put(tmp_path / 'benchmark' / 'Set14' / 'HR' / 'a.png')
    with pytest.raises(ValueError) as error:
        find_benchmark(tmp_path, 'Set5', 2)
    for text in (tmp_path / 'benchmark' / 'Set5', tmp_path / 'Set5', 'there are: Set14'):
        assert str(text) in str(error.value)
    with pytest.raises(ValueError) as error:
        find_div2k(tmp_path, 'valid', 2)
    for text in (tmp_path / 'DIV2K' / 'DIV2K_valid_HR', tmp_path / 'DIV2K_train_HR' / '0801..0900'):
        assert str(text) in str(error.value)
    with pytest.raises(ValueError, match='images/<clip>/truth'):
        find_reds(tmp_path, 'train')
    (tmp_path / 'empty').mkdir()
    with pytest.raises(ValueError, match='no pictures'):
        find_pairs(tmp_path / 'empty', 2)
    with pytest.raises(ValueError, match='no such folder'):
        find_pairs(tmp_path / 'absent', 2)


def test_missing_lr_pictures_are_named_and_counted(tmp_path):
    put_div2k(tmp_path, range(1, 9))
    for number in range(2, 9):
        (tmp_path / 'DIV2K_train_LR_bicubic' / 'X2' / f'{number:04d}x2.png').unlink()
    with pytest.raises(ValueError) as error:
        find_div2k(tmp_path, 'train', 2)
    assert '7 of 8' in str(error.value) and '0002.png' in str(error.value) and '0008.png' not in str(error.value)
    assert names(find_div2k(tmp_path, 'train', 2, last=1)) == ['0001']  # what is not asked for need not be there


def test_load_pair_crops_hr_from_the_top_left(tmp_path):
    hr = np.random.default_rng(0).integers(0, 256, (26, 39, 3), dtype=np.uint8)
    put(tmp_path / 'HR' / 'a.png', image=hr)
    put(tmp_path / 'LR_bicubic' / 'X3' / 'ax3.png', 8, 12)
    lr, cropped = load_pair(find_pairs(tmp_path, 3)[0], 3)
    assert lr.shape == (8, 12, 3) and np.array_equal(cropped, hr[:24, :36])
    lr, cropped = load_pair(find_pairs(tmp_path, 2)[0], 2)  # no X2: made
    assert np.array_equal(cropped, hr[:26, :38]) and np.array_equal(lr, imresize(hr[:26, :38], 1 / 2))


@pytest.mark.parametrize('size', [(9, 12), (8, 13), (12, 18), (4, 6)])
def test_load_pair_refuses_sizes_that_disagree(tmp_path, size):
    put(tmp_path / 'HR' / 'a.png', 24, 36)
    put(tmp_path / 'LR_bicubic' / 'X3' / 'ax3.png', *size)
    with pytest.raises(ValueError) as error:
        load_pair(find_pairs(tmp_path, 3)[0], 3)
    for text in ('ax3.png', 'a.png', f'{size[1]}x{size[0]}', '36x24'):
        assert text in str(error.value)


def put_clip(hr, lr, frames=2):
    for k in range(frames):
        put(hr / f'{k:08d}.png', 16, 32)
        if lr:
            put(lr / f'{k:08d}.png', 4, 8)


def test_reds_in_the_layout_of_the_port(tmp_path):
    for clip in ('000', '001', '011', '015', '020', '240'):
        put_clip(tmp_path / 'reds' / 'images' / clip / 'truth', tmp_path / 'reds' / 'images' / clip / 'blur4')
    for root in (tmp_path, tmp_path / 'reds', tmp_path / 'reds' / 'images'):
        assert names(find_reds(root, 'train')) == ['001', '240']
        assert names(find_reds(root, 'REDS4')) == names(find_reds(root, 'val')) == ['000', '011', '015', '020']
    assert str(find_reds(tmp_path, 'train')[0].lr).endswith('001/blur4')


def test_reds_with_the_kind_of_frame_above_the_clips(tmp_path):
    for clip in ('000', '001'):
        put_clip(tmp_path / 'reds' / 'images' / 'truth' / clip, tmp_path / 'reds' / 'images' / 'blur4' / clip)
    for root in (tmp_path, tmp_path / 'reds', tmp_path / 'reds' / 'images'):
        assert names(find_reds(root, 'train')) == ['001'] and names(find_reds(root, 'val')) == ['000']
    assert str(find_reds(tmp_path, 'train')[0].lr).endswith('images/blur4/001')


@pytest.mark.parametrize('train, val', [('train', 'val'), ('', '')])
def test_reds_as_it_is_downloaded(tmp_path, train, val):
    train, val = tmp_path / 'REDS' / train, tmp_path / 'REDS' / val
    for clip in ('000', '001', '011'):
        put_clip(train / 'train_sharp' / clip, train / 'train_sharp_bicubic' / 'X4' / clip)
    put_clip(val / 'val_sharp' / '000', val / 'val_sharp_bicubic' / 'X4' / '000')
    for root in (tmp_path, tmp_path / 'REDS', train / 'train_sharp'):
        assert names(find_reds(root, 'train')) == ['001']
        assert names(find_reds(root, 'REDS4')) == ['000', '011']
        assert [str(clip.hr) for clip in find_reds(root, 'val')] == [str(val / 'val_sharp' / '000')]


def test_vid4_and_incomplete_clips(tmp_path):
    for clip in ('calendar', 'city'):
        put_clip(tmp_path / 'GT' / clip, tmp_path / 'BIx4' / clip)
    assert names(find_reds(tmp_path, 'val')) == ['calendar', 'city']
    with pytest.raises(ValueError, match="no REDS clips for 'train'"):
        find_reds(tmp_path, 'train')
    with pytest.raises(ValueError, match="'test'; known: 'train', 'val', 'REDS4'"):
        find_reds(tmp_path, 'test')
    (tmp_path / 'BIx4' / 'city' / '00000001.png').unlink()
    with pytest.raises(ValueError, match='2 frames .* 1; in one only: 00000001.png'):
        find_reds(tmp_path, 'val')
    put_clip(tmp_path / 'GT' / 'walk', None)
    with pytest.raises(ValueError, match='1 of 3 clips have no LR folder: walk'):
        find_reds(tmp_path, 'val')


def test_the_golden_set5():
    root = Path(__file__).resolve().parents[3] / 'shared' / 'benchmark'
    if not root.is_dir():
        pytest.skip(f'{root} is not there (only the authors of this project have it)')
    for scale in (2, 3, 4):
        for pair in find_benchmark(root, 'Set5', scale):
            lr, hr = load_pair(pair, scale)
            assert np.array_equal(imresize(hr, 1 / scale), lr), pair.name


def test_two_pictures_of_one_name_are_refused(tmp_path):
    for name in ('a.png', 'a.bmp', 'b.png'):
        images.write(tmp_path / name, np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(ValueError, match='one name; remove one'):
        find_pairs(tmp_path, 2)
