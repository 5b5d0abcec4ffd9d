"""dataset_make.py: archives become tiles without loss, inside the folder, and it goes on where it stopped."""
import os
import shutil
import signal
import sys
import time
import zipfile

import numpy as np
import pytest
from conftest import flags, python, start

import dataset
import dataset_make
from common import images
from common.resize import imresize, mod_crop

PICTURES = {'0001': (0, 0, 101, 134), '0002': (60, 40, 96, 64), '0003': (20, 100, 65, 97)}  # top, left, height, width
VALID = {'0801': (150, 150, 75, 111)}


def pictures(photo, boxes):
    return {name: photo[top:top + height, left:left + width] for name, (top, left, height, width) in boxes.items()}


def archive(path, content):
    """A zip of {member: picture or bytes}."""
    with zipfile.ZipFile(path, 'w') as file:
        for member, value in content.items():
            if isinstance(value, np.ndarray):
                copy = path.parent / 'member.png'
                images.write(copy, value)
                value = copy.read_bytes()
                copy.unlink()
            file.writestr(member, value)


@pytest.fixture
def zips(tmp_path, photo):
    folder = tmp_path / 'my zips'
    folder.mkdir()
    for split, boxes in (('train', PICTURES), ('valid', VALID)):
        archive(folder / f'DIV2K_{split}_HR.zip', {
            f'DIV2K_{split}_HR/{name}.png': picture for name, picture in pictures(photo, boxes).items()})
    return folder


def make(zips, tiles, **options):
    dataset_make.main(flags(**dict({'input_zip_path': zips, 'dataset_path': tiles, 'patch_size': 16, 'workers': 2},
                                   **options)))


def files(folder):
    """{relative path: content} of what can be trained on; hidden files (markers, half-written ones) cannot."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob('*'))
            if path.is_file() and not any(part.startswith('.') for part in path.relative_to(folder).parts)}


@pytest.mark.parametrize('scale', [2, 3, 4])
def test_tiles_lose_nothing_and_lr_is_that_of_the_whole_picture(scale, zips, tmp_path, photo, capsys):
    make(zips, tmp_path / 'tiles', scale=scale)
    train = tmp_path / 'tiles' / f'X{scale}' / 'train'
    hr_folder, lr_folder = train / 'HR', train / 'LR_bicubic' / f'X{scale}'
    side, count = 16 * scale, 0
    for name, picture in pictures(photo, PICTURES).items():
        hr = mod_crop(picture, scale)
        lr = imresize(hr, 1 / scale)
        rows, columns = (dataset_make.starts(length, side) for length in hr.shape[:2])
        again_hr, again_lr = np.zeros_like(hr), np.zeros_like(lr)
        seen = np.zeros(hr.shape[:2], bool)
        for i, y in enumerate(rows):
            for j, x in enumerate(columns):
                tile = images.read(hr_folder / f'{name}_{i:02d}_{j:02d}.png')
                small = images.read(lr_folder / f'{name}_{i:02d}_{j:02d}x{scale}.png')
                assert tile.shape == (side, side, 3) and small.shape == (16, 16, 3)
                again_hr[y:y + side, x:x + side], seen[y:y + side, x:x + side] = tile, True
                again_lr[y // scale:y // scale + 16, x // scale:x // scale + 16] = small
                count += 1
        assert seen.all() and np.array_equal(again_hr, hr) and np.array_equal(again_lr, lr)
    assert len(list(hr_folder.iterdir())) == len(list(lr_folder.iterdir())) == count
    assert f'train: {count} tiles' in capsys.readouterr().out


@pytest.mark.parametrize('length, expected', [(96, [0]), (97, [0, 1]), (192, [0, 96]), (200, [0, 96, 104])])
def test_starts(length, expected):
    assert dataset_make.starts(length, 96) == expected


def test_validation_is_whole_and_never_trained_on(zips, tmp_path, photo):
    make(zips, tmp_path / 'tiles')
    train = dataset.training_pairs(str(tmp_path / 'tiles'), 2)
    valid = dataset.test_pairs(str(tmp_path / 'tiles'), 2)
    assert {pair.name.split('_')[0] for pair in train} == set(PICTURES) and [pair.name for pair in valid] == ['0801']
    assert all(pair.lr for pair in train + valid)
    assert np.array_equal(images.read(valid[0].hr), mod_crop(pictures(photo, VALID)['0801'], 2))


def test_it_can_be_trained_on(zips, tmp_path, train):
    make(zips, tmp_path / 'tiles')
    assert train(train_dataset_dir=tmp_path / 'tiles', test_dataset_dir=tmp_path / 'tiles', train_steps=2) == 0


def test_no_member_is_written_outside(zips, tmp_path, photo):
    picture = photo[:40, :40]
    archive(zips / 'DIV2K_train_HR.zip', {
        '../../evil.png': picture, '/tmp/evil_rcan.png': picture, 'a/../../../evil2.png': picture,
        '..\\..\\evil3.png': picture, 'DIV2K_train_HR/0001.png': picture})
    before = files(tmp_path)
    make(zips, tmp_path / 'deep' / 'er' / 'tiles')
    written = set(files(tmp_path)) - set(before)
    assert written and all(name.startswith('deep/er/tiles/X2/') for name in written)
    assert not os.path.exists('/tmp/evil_rcan.png')


@pytest.mark.parametrize('remains', ['nothing', 'half', 'all but one marker'])
def test_going_on_after_an_interruption(remains, zips, tmp_path, capsys):
    make(zips, tmp_path / 'whole')
    make(zips, tmp_path / 'tiles')
    train = tmp_path / 'tiles' / 'X2' / 'train'
    if remains == 'nothing':
        shutil.rmtree(tmp_path / 'tiles')
    elif remains == 'half':  # the second picture was being cut, the third had not begun
        for path in [*(train / '.done').glob('000[23]*'), *train.rglob('0003_*.png'), *train.rglob('0002_01_*.png')]:
            path.unlink()
    else:  # the marker of the last picture was being written
        next((train / '.done').glob('0003*')).write_text('')
    capsys.readouterr()
    make(zips, tmp_path / 'tiles')
    assert files(tmp_path / 'tiles') == files(tmp_path / 'whole')
    assert f'train: {len(list((train / "HR").iterdir()))} tiles' in capsys.readouterr().out


def test_what_is_done_is_not_done_again(zips, tmp_path):
    make(zips, tmp_path / 'tiles')
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / 'tiles').rglob('*.png')}
    make(zips, tmp_path / 'tiles')
    assert times == {path: path.stat().st_mtime_ns for path in (tmp_path / 'tiles').rglob('*.png')}
    make(zips, tmp_path / 'tiles', scale=3)
    assert (tmp_path / 'tiles' / 'X3' / 'train' / 'HR').is_dir()


def test_tiles_of_another_size_are_not_mixed_in(zips, tmp_path):
    make(zips, tmp_path / 'tiles', patch_size=16)
    before = files(tmp_path / 'tiles')
    with pytest.raises(ValueError, match='tiles of 32 pixels, not 16; .*patch_size'):
        make(zips, tmp_path / 'tiles', patch_size=8)
    assert files(tmp_path / 'tiles') == before


def test_going_on_after_kill_9(tmp_path, photo):
    zips = tmp_path / 'zips'
    zips.mkdir()
    archive(zips / 'DIV2K_train_HR.zip', {f'DIV2K_train_HR/{i:04d}.png': photo[i:i + 200] for i in range(30)})
    options = flags(input_zip_path=zips, dataset_path=tmp_path / 'tiles', patch_size=16, workers=2)
    process = start(sys.executable, 'dataset_make.py', *options)
    deadline = time.time() + 60
    while not list((tmp_path / 'tiles').rglob('.done/*')) and time.time() < deadline:
        time.sleep(0.01)
    children = [int(pid) for pid in os.listdir('/proc') if pid.isdigit() and parent(pid) == process.pid]
    for pid in (process.pid, *children):
        os.kill(pid, signal.SIGKILL)
    process.communicate()
    done = len(list((tmp_path / 'tiles').rglob('.done/*')))
    make(zips, tmp_path / 'tiles')
    make(zips, tmp_path / 'whole')
    assert files(tmp_path / 'tiles') == files(tmp_path / 'whole')
    assert 0 < done < 30, f'{done} of 30 pictures were done when it was killed: the test shows nothing'


def parent(pid):
    try:
        with open(f'/proc/{pid}/stat') as file:
            return int(file.read().rpartition(')')[2].split()[1])
    except OSError:
        return None


def damaged(picture, how, path):
    """A zip whose member 0002.png is damaged in one of the ways that a download can be."""
    compression = zipfile.ZIP_STORED if how == 'checksum' else zipfile.ZIP_DEFLATED
    with zipfile.ZipFile(path, 'w', compression) as file:
        copy = path.parent / 'member.png'
        images.write(copy, picture)
        content = copy.read_bytes()
        copy.unlink()
        for name in ('0001', '0002', '0003'):
            broken = name == '0002' and how == 'cut short'
            file.writestr(f'DIV2K_train_HR/{name}.png', content[:len(content) // 2] if broken else content)
        info = file.getinfo('DIV2K_train_HR/0002.png')
    raw = bytearray(path.read_bytes())
    if how in ('checksum', 'deflate'):
        begin = info.header_offset + 30 + len(info.filename)  # a local header has 30 bytes and the name
        place = begin if how == 'deflate' else begin + info.compress_size // 2
        raw[place:place + 8] = b'\xff' * 8  # at the begin: a block of a kind that does not exist
    if how == 'encrypted':  # bit 0 of the flags, in the local and in the central header
        raw[info.header_offset + 6] |= 1
        central = raw.index(b'PK\x01\x02', raw.index(b'PK\x01\x02') + 4)
        raw[central + 8] |= 1
    path.write_bytes(bytes(raw))


@pytest.mark.parametrize('how', ['cut short', 'checksum', 'deflate', 'encrypted'])
def test_a_broken_member_is_named_and_the_others_are_cut(how, zips, tmp_path, photo):
    damaged(photo[:64, :64], how, zips / 'DIV2K_train_HR.zip')
    with pytest.raises(ValueError) as error:
        make(zips, tmp_path / 'tiles')
    assert '1 pictures could not be cut' in str(error.value) and 'DIV2K_train_HR/0002.png' in str(error.value)
    tiles = {path.name[:4] for path in (tmp_path / 'tiles' / 'X2' / 'train' / 'HR').iterdir()}
    assert tiles == {'0001', '0003'} and (tmp_path / 'tiles' / 'X2' / 'valid' / 'HR' / '0801.png').exists()


def test_broken_member_on_the_command_line(zips, tmp_path, photo):
    damaged(photo[:64, :64], 'checksum', zips / 'DIV2K_train_HR.zip')
    done = python('dataset_make.py', input_zip_path=zips, dataset_path=tmp_path / 'tiles', patch_size=16, workers=1)
    assert done.returncode == 2 and 'error: ' in done.stderr and '0002.png' in done.stderr
    assert 'Traceback' not in done.stderr


def test_a_picture_smaller_than_a_tile_is_named(zips, tmp_path):
    with pytest.raises(ValueError, match=r'0003\.png: 96x64 is smaller than a tile of 80'):
        make(zips, tmp_path / 'tiles', patch_size=40)


@pytest.mark.parametrize('content, words', [
    (b'<html>not found</html>', ('not a zip', 'download it again')), (b'', ('not a zip',)),
    ({'readme.txt': b'no pictures'}, ('no pictures in it',)), ({'__MACOSX/._0001.png': b'x'}, ('no pictures in it',))])
def test_archives_of_something_else(content, words, zips, tmp_path):
    if isinstance(content, bytes):
        (zips / 'DIV2K_train_HR.zip').write_bytes(content)
    else:
        archive(zips / 'DIV2K_train_HR.zip', content)
    with pytest.raises(ValueError) as error:
        make(zips, tmp_path / 'tiles')
    for word in ('DIV2K_train_HR.zip', *words):
        assert word in str(error.value)


def test_a_zip_cut_short(zips, tmp_path):
    path = zips / 'DIV2K_train_HR.zip'
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ValueError, match=r'DIV2K_train_HR\.zip'):
        make(zips, tmp_path / 'tiles')


def test_missing_archives(zips, tmp_path, capsys):
    (zips / 'DIV2K_valid_HR.zip').unlink()
    make(zips, tmp_path / 'tiles')
    assert 'no validation pictures were made' in capsys.readouterr().out
    (zips / 'DIV2K_train_HR.zip').unlink()
    with pytest.raises(ValueError, match=r'DIV2K_train_HR\.zip: no such file; --input_zip_path'):
        make(zips, tmp_path / 'tiles')


@pytest.mark.parametrize('options', [{'scale': 0}, {'scale': -2}, {'patch_size': 0}, {'workers': 0}], ids=str)
def test_impossible_options(options, zips, tmp_path):
    with pytest.raises(ValueError) as error:
        make(zips, tmp_path / 'tiles', **options)
    assert next(iter(options)) in str(error.value)


def test_lost_tiles_and_a_new_archive_are_made_again(zips, tmp_path, photo):
    make(zips, tmp_path / 'tiles')
    whole = files(tmp_path / 'tiles')
    for path in list((tmp_path / 'tiles').rglob('0001_00_*'))[:3]:
        path.unlink()
    make(zips, tmp_path / 'tiles')
    assert files(tmp_path / 'tiles') == whole
    archive(zips / 'DIV2K_train_HR.zip', {'0001.png': photo[:64, :64, ::-1]})
    make(zips, tmp_path / 'tiles')
    assert files(tmp_path / 'tiles') != whole


def test_two_members_of_one_name_are_refused(zips, tmp_path, photo):
    archive(zips / 'DIV2K_train_HR.zip', {'a/0001.png': photo[:64, :64], 'b/0001.png': photo[64:128, :64]})
    with pytest.raises(ValueError, match='several pictures are called 0001'):
        make(zips, tmp_path / 'tiles')
