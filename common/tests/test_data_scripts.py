"""make_lr, make_sample and check_data as users start them."""
import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from common import images, make_lr, make_sample
from common.datasets import find_benchmark, find_div2k, find_pairs, find_reds, load_pair
from common.patches import open_pairs
from common.resize import imresize, mod_crop

COMMON = Path(__file__).resolve().parents[1]


def script(name, *arguments):
    """(exit status, stdout, stderr) of a script started from another folder than the repository's."""
    done = subprocess.run([sys.executable, str(COMMON / name), *map(str, arguments)], capture_output=True, text=True,
                          cwd='/', timeout=120)
    assert 'Traceback' not in done.stderr, done.stderr
    return done.returncode, done.stdout, done.stderr


def put(path, height=24, width=36, seed=0):
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    images.write(path, image)
    return image


def state(folder):
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.rglob('*') if path.is_file()}


@pytest.fixture(scope='module')
def sample(tmp_path_factory):
    output = tmp_path_factory.mktemp('sample') / 'with a space'
    status, out, err = script('make_sample.py', output)
    assert status == 0 and str(output) in out, err
    return output


# ---- make_lr ----

@pytest.mark.parametrize('hr, lr', [
    ('DIV2K_train_HR/0001.png', 'DIV2K_train_LR_bicubic/X3/0001x3.png'),
    ('Set5/HR/baby.bmp', 'Set5/LR_bicubic/X3/babyx3.png'),
    ('pictures/a.png', 'pictures/LR_bicubic/X3/ax3.png'),
    ('Set5/HR/baby_HR.png', 'Set5/LR_bicubic/X3/baby_HRx3.png'),
    ('HR/Set5/x3/baby_HR_x3.png', 'LR/LRBI/Set5/x3/baby_HR_x3x3.png'),
    ('Set5/image_SRF_3/baby_SRF_3_HR.png', 'Set5/image_SRF_3/baby_SRF_3_HRx3.png')])
def test_make_lr_writes_where_the_resolver_looks(tmp_path, hr, lr):
    image = put(tmp_path / hr, 25, 37)
    for written in (2, 0):  # the second run does not take LR pictures for HR ones
        status, out, _ = script('make_lr.py', (tmp_path / hr).parent, '--scales', 2, 3)
        assert status == 0 and f'{written} LR pictures written for 1 of 1' in out
    assert np.array_equal(images.read(tmp_path / lr), imresize(mod_crop(image, 3), 1 / 3))
    (pair,) = find_pairs((tmp_path / hr).parent, 3)
    assert str(pair.lr) == str(tmp_path / lr) and load_pair(pair, 3)[1].shape == (24, 36, 3)


def test_make_lr_goes_on_where_it_was_stopped(tmp_path):
    for k in range(3):
        put(tmp_path / 'HR' / f'{k}.png', seed=k)
    assert script('make_lr.py', tmp_path / 'HR', '--workers', 2)[0] == 0
    before = state(tmp_path)
    assert len(before) == 3 + 3 * 4
    assert '0 LR pictures written for 3 of 3' in script('make_lr.py', tmp_path / 'HR')[1]
    assert state(tmp_path) == before
    lost, short, other = (tmp_path / 'LR_bicubic' / 'X2' / f'{k}x2.png' for k in range(3))
    lost.unlink()
    short.write_bytes(short.read_bytes()[:-20])
    put(other, 5, 5)
    assert '3 LR pictures written' in script('make_lr.py', tmp_path / 'HR')[1]
    after = state(tmp_path)
    assert {path: after[path][1] for path in after} == {path: before[path][1] for path in before}


def test_make_lr_names_bad_pictures_and_does_the_rest(tmp_path):
    put(tmp_path / 'HR' / 'good.png')
    (tmp_path / 'HR' / 'bad.png').write_bytes(b'no picture')
    status, out, err = script('make_lr.py', tmp_path / 'HR', '--scales', 2)
    assert status == 1 and '1 LR pictures written for 1 of 2' in out
    assert 'bad.png' in err and 'good.png' not in err
    assert [path.name for path in (tmp_path / 'LR_bicubic' / 'X2').iterdir()] == ['goodx2.png']


def test_make_lr_names_dead_links_and_pictures_of_one_name(tmp_path):
    for name in ('good.png', 'twin.png', 'twin.bmp'):
        put(tmp_path / 'HR' / name)
    (tmp_path / 'HR' / 'link.png').symlink_to(tmp_path / 'nowhere.png')
    status, out, err = script('make_lr.py', tmp_path / 'HR', '--scales', 2)
    assert status == 1 and '1 LR pictures written for 1 of 4' in out
    assert all(name in err for name in ('link.png: No such file', 'twin.png: another', 'twin.bmp: another'))
    assert [path.name for path in (tmp_path / 'LR_bicubic' / 'X2').iterdir()] == ['goodx2.png']


@pytest.mark.skipif(not sys.platform.startswith('linux'), reason='only Linux tells a process that its parent ended')
def test_workers_of_a_killed_make_lr_end(tmp_path):
    """kill -9 of the parent in the middle; its group holds nobody but the workers then."""
    program = ('import os, signal\nfrom common import make_lr\n'
               'def kill(path, scales): os.kill(os.getppid(), signal.SIGKILL)\n'
               'make_lr.make = kill\nmake_lr.make_all(["a", "b"], [2], 2)\n')
    child = subprocess.Popen([sys.executable, '-c', program], start_new_session=True, stderr=subprocess.DEVNULL,
                             env=dict(os.environ, PYTHONPATH=str(COMMON.parent)))
    assert child.wait(60) == -signal.SIGKILL
    end = time.time() + 10
    while alive(child.pid) and time.time() < end:
        time.sleep(0.05)
    left = alive(child.pid)
    if left:
        os.killpg(child.pid, signal.SIGKILL)
    assert not left


def alive(group):
    """Processes of the group that are not just waiting to be reaped."""
    found = []
    for path in Path('/proc').glob('[0-9]*/stat'):
        with contextlib.suppress(OSError):  # it has just ended
            state, _, process_group = path.read_text().rpartition(')')[2].split()[:3]
            found += [path] * (process_group == str(group) and state != 'Z')
    return found


def test_make_lr_refuses(tmp_path):
    for arguments, text in (((tmp_path,), 'no pictures'), ((tmp_path / 'absent',), 'absent'),
                            ((tmp_path, '--scales', 1), '--scales'),
                            ((tmp_path, '--scale', 2), 'did you mean --scales')):
        status, _, err = script('make_lr.py', *arguments)
        assert status == 2 and err.startswith('error: ') and text in err


# ---- make_sample ----

def test_sample_is_found_whole(sample, tmp_path):
    for scale in (2, 3, 4, 8):
        train, valid, test = (find_div2k(sample, 'train', scale), find_div2k(sample, 'valid', scale),
                              find_benchmark(sample, 'Sample', scale))
        assert (len(train), len(valid), len(test)) == (4, 1, 1)
        for pair in train + valid + test:
            lr, hr = load_pair(pair, scale)
            assert pair.lr and np.array_equal(lr, imresize(hr, 1 / scale))
    pixels = [images.read(pair.hr).tobytes() for pair in train + valid + test]
    assert len(set(pixels)) == len(pixels)  # what a network is tested on, it was neither trained nor chosen by
    lr_store, _ = open_pairs(train, 8, tmp_path)
    assert len(lr_store) == 4


def test_sample_clips_move_slowly_and_by_parts_of_a_pixel(sample):
    train, test = find_reds(sample, 'train'), find_reds(sample, 'REDS4')
    assert [clip.name for clip in train + test] == ['001', '002', '000', '011', '015', '020']
    for clip in train + test:
        hr, lr = ([images.read(path) for path in images.list_pictures(folder)] for folder in (clip.hr, clip.lr))
        assert len(hr) == len(lr) == 12 and hr[0].shape == (144, 256, 3)
        assert all(np.array_equal(imresize(h, 1 / 4), low) for h, low in zip(hr, lr))
        assert min(h.std() for h in hr) > 5  # photographs, not empty frames
        moves = [np.abs(hr[k + 1].astype(int) - hr[k]).mean() for k in range(11)]
        assert min(moves) > 0 and max(moves) < 0.5 * np.abs(hr[0].astype(int) - hr[0][::-1, ::-1]).mean()


def test_sample_again_changes_nothing_and_spares_the_users_pictures(sample, tmp_path):
    before = state(sample)
    assert script('make_sample.py', sample)[0] == 0 and state(sample) == before
    own = tmp_path / 'DIV2K' / 'DIV2K_train_HR' / '0001.png'
    put(own)
    before = state(tmp_path)
    status, _, err = script('make_sample.py', tmp_path)
    assert status == 2 and str(own) in err and state(tmp_path) == before


@pytest.mark.parametrize('part, folder', [('div2k', 'DIV2K'), ('benchmark', 'benchmark'), ('reds', 'reds')])
def test_sample_of_one_part(tmp_path, part, folder, capsys):
    make_sample.main([str(tmp_path), '--only', part])
    assert [path.name for path in tmp_path.iterdir()] == [folder] and str(tmp_path) in capsys.readouterr().out


# ---- check_data ----

def test_check_data_of_good_data(sample):
    before = state(sample)
    status, out, _ = script('check_data.py', sample)
    assert status == 0 and '168 pictures decoded, 0 problems' in out and state(sample) == before
    rows = {tuple(line.split()) for line in out.splitlines()}
    for row in (('DIV2K', 'train', 'x2', '4', '4', '0', '0'), ('DIV2K', 'valid', 'x3', '1', '1', '0', '0'),
                ('Sample', 'x4', '1', '1', '0', '0'), ('REDS', 'all', 'x4', '72', '72', '0', '0')):
        assert row in rows, out


def test_check_data_names_every_fault(tmp_path):
    for k in range(1, 7):
        put(tmp_path / 'DIV2K' / 'DIV2K_train_HR' / f'{k:04d}.png')
    assert script('make_lr.py', tmp_path / 'DIV2K' / 'DIV2K_train_HR', '--scales', 2, 3)[0] == 0
    lr = tmp_path / 'DIV2K' / 'DIV2K_train_LR_bicubic'
    (lr / 'X2' / '0001x2.png').unlink()
    (lr / 'X2' / '0002x2.png').write_bytes(b'no picture')
    put(lr / 'X3' / '0003x3.png', 9, 12)
    put(lr / 'X3' / '0900x3.png')
    hr = tmp_path / 'DIV2K' / 'DIV2K_train_HR' / '0006.png'
    hr.write_bytes(hr.read_bytes()[:-30])
    for part, size in (('truth', (16, 32)), ('blur4', (4, 8))):
        for frame in range(3):
            put(tmp_path / 'reds' / 'images' / '000' / part / f'{frame:08d}.png', *size)
    (tmp_path / 'reds' / 'images' / '000' / 'truth' / '00000001.png').unlink()
    (tmp_path / 'reds' / 'images' / '000' / 'blur4' / '00000002.png').unlink()
    put(tmp_path / 'reds' / 'images' / '001' / 'truth' / '00000000.png')
    before = state(tmp_path)
    status, out, _ = script('check_data.py', tmp_path)
    faults = {line.split(': ')[0] + ' ' + word for line in out.splitlines() for word in
              ('X2/0001x2.png', 'X2/0002x2.png', 'X3/0003x3.png is 12x9', 'X3/0900x3.png', 'HR/0006.png',
               'truth/00000001.png', 'blur4/00000002.png', '001/truth') if word in line}
    assert faults == {
        'missing X2/0001x2.png', 'unreadable X2/0002x2.png', 'mis-sized X3/0003x3.png is 12x9',
        'LR without HR X3/0900x3.png', 'unreadable HR/0006.png', 'missing truth/00000001.png',
        'missing blur4/00000002.png', 'missing 001/truth'}
    assert status == 1 and '8 problems' in out and 'x4' in out and 'LR is made when needed' in out
    assert state(tmp_path) == before


def test_check_data_looks_into_plain_sets_and_behind_links(tmp_path):
    put(tmp_path / 'Urban100' / 'HR' / 'img_001.png')
    put(tmp_path / 'set5' / 'baby.bmp')
    (tmp_path / 'set5' / 'bird.bmp').write_bytes(b'no picture')
    (tmp_path / 'set5' / 'head.bmp').symlink_to(tmp_path / 'nowhere.bmp')
    put(tmp_path / 'holiday' / 'beach.png')  # not a test set
    status, out, _ = script('check_data.py', tmp_path, '--scale', 2)
    assert status == 1 and '4 pictures decoded, 2 problems' in out
    assert 'bird.bmp' in out and 'head.bmp' in out and 'holiday' not in out


def test_check_data_of_one_set_and_of_none(tmp_path):
    put(tmp_path / 'Set5' / 'HR' / 'baby.png')
    for root in (tmp_path, tmp_path / 'Set5', tmp_path / 'Set5' / 'HR'):
        status, out, _ = script('check_data.py', root, '--scale', 2)
        assert status == 0 and '1 pictures decoded, 0 problems' in out
    (tmp_path / 'none').mkdir()
    status, _, err = script('check_data.py', tmp_path / 'none')
    assert status == 2 and 'no pictures' in err


def test_lr_paths_of_all_scales():
    assert make_lr.lr_path('/d/DIV2K_valid_HR/0801.png', 8) == '/d/DIV2K_valid_LR_bicubic/X8/0801x8.png'
