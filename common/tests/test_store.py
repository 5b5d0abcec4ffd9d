"""The picture store: decoded once, whole or not at all, under several processes, kills and full disks."""
import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from common import images, patches
from common.datasets import Pair
from common.patches import PictureStore, Prepare, open_pairs
from common.resize import imresize, mod_crop

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def pictures(tmp_path):
    """Three small pictures of different sizes, as paths."""
    rng = np.random.default_rng(0)
    (tmp_path / 'in').mkdir()
    paths = [tmp_path / 'in' / f'{k}.png' for k in range(3)]
    for path, shape in zip(paths, [(40, 50, 3), (30, 64, 3), (24, 24, 3)]):
        images.write(path, rng.integers(0, 256, shape, dtype=np.uint8))
    return paths


def decoded(paths):
    return [images.read(path, channels=3) for path in paths]


def equal(store, arrays):
    return len(store) == len(arrays) and all(np.array_equal(store[i], array) for i, array in enumerate(arrays))


def test_store_holds_the_pictures_and_is_not_decoded_twice(pictures, tmp_path, monkeypatch):
    store = PictureStore.open(pictures, tmp_path / 'cache')
    assert equal(store, decoded(pictures)) and store.shapes.tolist() == [[40, 50], [30, 64], [24, 24]]
    assert store.names == [str(path) for path in pictures]
    with pytest.raises(ValueError, match='read-only'):
        store[0][0, 0] = 0
    monkeypatch.setattr(patches, '_build', None)
    assert equal(PictureStore.open(pictures, tmp_path / 'cache'), decoded(pictures))
    assert not list((tmp_path / 'cache').glob('*.tmp'))


def test_a_finished_store_is_read_where_nothing_can_be_written(pictures, tmp_path, monkeypatch):
    def read_only(path, mode='r', **options):
        if set(mode) & set('aw+'):
            raise PermissionError(13, 'Permission denied', path)
        return open(path, mode, **options)
    PictureStore.open(pictures, tmp_path)
    monkeypatch.setattr(patches, 'open', read_only, raising=False)
    assert equal(PictureStore.open(pictures, tmp_path), decoded(pictures))
    with pytest.raises(PermissionError):
        PictureStore.open(pictures[:2], tmp_path)


def test_preparations_have_stores_of_their_own(pictures, tmp_path):
    half = Prepare('half', lambda path, image: image[::2, ::2])
    plain = PictureStore.open(pictures, tmp_path)
    prepared = PictureStore.open(pictures, tmp_path, prepare=half)
    assert equal(plain, decoded(pictures)) and equal(prepared, [image[::2, ::2] for image in decoded(pictures)])


def test_a_changed_source_is_decoded_again(pictures, tmp_path):
    PictureStore.open(pictures, tmp_path / 'cache')
    images.write(pictures[1], np.zeros((30, 64, 3), np.uint8))
    assert equal(PictureStore.open(pictures, tmp_path / 'cache'), decoded(pictures))
    before = os.stat(pictures[0])
    image = images.read(pictures[0])
    image[0, 0] ^= 1
    images.write(pictures[0], image)
    os.utime(pictures[0], ns=(before.st_atime_ns, before.st_mtime_ns + 1))  # a nanosecond suffices
    assert equal(PictureStore.open(pictures, tmp_path / 'cache'), decoded(pictures))
    assert len(list((tmp_path / 'cache').glob('*.u8'))) == 1


def test_a_store_is_decoded_anew_on_demand(pictures, tmp_path):
    """Also where size and time say that nothing changed."""
    def write(image):
        images.write(pictures[1], image)
        os.truncate(pictures[1], 20000)  # longer than the picture, whose end the decoder finds
        os.utime(pictures[1], ns=(0, 0))
    image, pairs = images.read(pictures[1]), [Pair('1', pictures[1], None)]
    write(image)
    open_pairs(pairs, 2, tmp_path / 'cache')
    turned = image[::-1].copy()
    write(turned)
    assert equal(open_pairs(pairs, 2, tmp_path / 'cache')[1], [image])
    lr, hr = open_pairs(pairs, 2, tmp_path / 'cache', renew=True)
    assert equal(hr, [turned]) and equal(lr, [imresize(turned, 1 / 2)])
    assert len(list((tmp_path / 'cache').glob('*.u8'))) == 2


@pytest.mark.parametrize('harm', ['short', 'zeros', 'flipped', 'no pixels', 'no index', 'index', 'half index',
                                  'list index'])
def test_a_damaged_cache_is_rebuilt(pictures, tmp_path, harm):
    PictureStore.open(pictures, tmp_path / 'cache')
    (data,), (index,) = (tmp_path / 'cache').glob('*.u8'), (tmp_path / 'cache').glob('*.json')
    size = data.stat().st_size
    if harm == 'short':
        os.truncate(data, size - 1)
    elif harm == 'zeros':
        data.write_bytes(bytes(size))
    elif harm == 'flipped':
        pixels = bytearray(data.read_bytes())
        pixels[size // 2] ^= 1
        data.write_bytes(pixels)
    elif harm == 'no pixels':
        data.unlink()
    elif harm == 'no index':
        index.unlink()
    else:
        index.write_text({'index': 'x', 'half index': index.read_text()[:-20], 'list index': '[1]'}[harm])
    assert equal(PictureStore.open(pictures, tmp_path / 'cache'), decoded(pictures))


def test_unreadable_pictures_are_all_named(pictures, tmp_path):
    bad = [tmp_path / f'bad{k:02d}.png' for k in range(12)]
    for path in bad:
        path.write_bytes(b'not a picture')
    with pytest.raises(ValueError) as error:
        PictureStore.open(pictures + bad, tmp_path / 'cache')
    assert '12 of 15' in str(error.value)
    assert [f'bad{k:02d}' in str(error.value) for k in range(12)] == [True] * 10 + [False] * 2
    assert not [path for path in (tmp_path / 'cache').iterdir() if path.suffix != '.lock']
    with pytest.raises(FileNotFoundError, match='absent.png'):
        PictureStore.open([tmp_path / 'absent.png'], tmp_path / 'cache')
    with pytest.raises(ValueError, match='no pictures'):
        PictureStore.open([], tmp_path / 'cache')


def run(code, *arguments, **options):
    return subprocess.Popen([sys.executable, '-c', code, *map(str, arguments)], cwd=str(ROOT), stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, text=True, **options)


OPEN = """
import sys, zlib
from common import images, patches
{before}
store = patches.PictureStore.open(sys.argv[2:], sys.argv[1])
print(zlib.crc32(b''.join(store[i].tobytes() for i in range(len(store)))))
"""
SLOWLY = r"""
import time
read = images.read
def slow(path, channels):
    sys.stdout.write('decoding\n')  # one write: two threads are here
    sys.stdout.flush()
    time.sleep({seconds})
    return read(path, channels=channels)
images.read = slow
"""


def test_processes_that_open_at_once_decode_once(pictures, tmp_path):
    code = OPEN.format(before=SLOWLY.format(seconds=0.2))
    outputs = [process.communicate(timeout=60) for process in [run(code, tmp_path / 'c', *pictures) for _ in range(3)]]
    lines = [line for out, _ in outputs for line in out.split()]
    assert lines.count('decoding') == 3, outputs  # three pictures, once each
    assert len(set(lines) - {'decoding'}) == 1 and len(lines) == 6, outputs


def test_a_killed_decoder_leaves_no_harm(pictures, tmp_path):
    cache = tmp_path / 'cache'
    process = run(OPEN.format(before=SLOWLY.format(seconds=600)), cache, *pictures)
    assert process.stdout.readline() == 'decoding\n'
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert [path.suffix for path in cache.iterdir() if path.suffix == '.tmp']
    PictureStore.open(pictures[:1], cache)  # another store: removes what the killed one left
    assert not list(cache.glob('*.tmp'))
    assert equal(PictureStore.open(pictures, cache), decoded(pictures))


def test_leftovers_are_removed_only_where_nobody_builds(pictures, tmp_path):
    held, free, foreign = tmp_path / f'{"a" * 32}.u8.tmp', tmp_path / f'{"b" * 32}.u8.tmp', tmp_path / 'mine.tmp'
    for path in (held, free, foreign):
        path.write_bytes(b'x')
    with open(tmp_path / f'{"a" * 32}.lock', 'w') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        PictureStore.open(pictures, tmp_path)
    assert held.exists() and foreign.exists() and not free.exists()


def test_a_full_disk_names_the_folder_and_the_bytes(pictures, tmp_path):
    limit = 'import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000))'  # as ENOSPC, but for one process
    cache = tmp_path / 'cache'
    process = run(OPEN.format(before=limit), cache, *pictures)
    message = process.communicate(timeout=60)[1]
    needed = sum(image.nbytes for image in decoded(pictures))
    assert process.returncode and f'{needed:,} bytes' in message and str(cache) in message and 'OSError' in message
    assert not [path for path in cache.iterdir() if path.suffix != '.lock']


def test_open_pairs_makes_lr_of_whole_pictures(pictures, tmp_path):
    lr, hr = open_pairs([Pair(path.stem, path, None) for path in pictures], 3, tmp_path / 'cache')
    assert equal(hr, decoded(pictures))
    assert equal(lr, [imresize(mod_crop(image, 3), 1 / 3) for image in decoded(pictures)])


def test_open_pairs_takes_lr_from_files_and_checks_sizes(pictures, tmp_path):
    given_lr = tmp_path / 'lr.png'
    images.write(given_lr, np.full((20, 25, 3), 7, np.uint8))
    pairs = [Pair('0', pictures[0], given_lr), Pair('1', pictures[1], None)]
    lr, hr = open_pairs(pairs, 2, tmp_path / 'cache')
    assert (lr[0] == 7).all() and np.array_equal(lr[1], imresize(images.read(pictures[1]), 1 / 2))
    with pytest.raises(ValueError, match='lr.png is 25x20, .*1.png is 64x30'):
        open_pairs([pairs[1], Pair('1', pictures[1], given_lr)], 2, tmp_path / 'cache')


def test_default_cache_dir(monkeypatch, tmp_path):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    assert patches.default_cache_dir() == str(tmp_path / 'sr-modelzoo')
    monkeypatch.delenv('XDG_CACHE_HOME')
    assert patches.default_cache_dir() == os.path.expanduser('~/.cache/sr-modelzoo')


def test_many_tiles(tmp_path, monkeypatch):
    """Ten thousand tiles open again from the cache without decoding one."""
    images.write(tmp_path / 'a.png', np.zeros((2, 2, 3), np.uint8))
    tiles = [str(tmp_path / 'a.png')] * 10000
    PictureStore.open(tiles, tmp_path / 'cache')
    monkeypatch.setattr(images, 'read', None)
    assert len(PictureStore.open(tiles, tmp_path / 'cache')) == 10000
