"""The picture store under harm, the sampler's promises, the prefetcher's order."""
import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common import images, patches
from common.datasets import Pair, find_pairs
from common.patches import PatchSampler, PictureStore, Prefetcher, Prepare, augment, dihedral, open_pairs
from common.resize import imresize, mod_crop

ROOT = Path(__file__).resolve().parents[2]
SAMPLE = ROOT / 'common' / 'sample'


@pytest.fixture
def pictures(tmp_path):
    """Three small pictures of different sizes, as paths."""
    rng = np.random.default_rng(0)
    (tmp_path / 'in').mkdir()
    paths = [tmp_path / 'in' / f'{k}.png' for k in range(3)]
    for path, shape in zip(paths, [(40, 50, 3), (30, 64, 3), (24, 24, 3)]):
        images.write(path, rng.integers(0, 256, shape, dtype=np.uint8))
    return paths


def stores(shapes, scale):
    """(lr, hr) stores in memory whose pixels tell i, y and x of the LR pixel that they belong to."""
    def store(factor):
        pixels = []
        for i, (height, width) in enumerate(shapes):
            y, x = np.mgrid[:height * factor, :width * factor] // factor
            pixels.append(np.stack([np.full_like(y, i), y, x], 2).astype(np.uint8).ravel())
        return PictureStore([f'{i}.png' for i in range(len(shapes))], np.array(shapes) * factor, np.concatenate(pixels))
    return store(1), store(scale)


def decoded(paths):
    return [images.read(path, channels=3) for path in paths]


def equal(store, arrays):
    return len(store) == len(arrays) and all(np.array_equal(store[i], array) for i, array in enumerate(arrays))


# ---- the store ----

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


def test_many_tiles(tmp_path):
    """The store's own cost per picture: 10,000 tiles open from the cache in well under the time that decoding takes."""
    images.write(tmp_path / 'a.png', np.zeros((2, 2, 3), np.uint8))
    tiles = [str(tmp_path / 'a.png')] * 10000
    PictureStore.open(tiles, tmp_path / 'cache')
    start = time.perf_counter()
    assert len(PictureStore.open(tiles, tmp_path / 'cache')) == 10000
    assert time.perf_counter() - start < 2


# ---- the sampler ----

@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(5, 12), st.integers(5, 12)), min_size=1, max_size=4), st.integers(1, 5),
       st.integers(1, 4), st.integers(1, 9), st.integers(0, 2 ** 40), st.integers(0, 10 ** 12), st.booleans())
def test_patches_lie_within_one_picture_and_match(shapes, patch_size, scale, batch_size, seed, step, turned):
    sampler = PatchSampler(*stores(shapes, scale), scale=scale, patch_size=patch_size, batch_size=batch_size, seed=seed,
                           augment=turned)
    lr, hr = sampler.batch(step)
    assert lr.shape == (batch_size, patch_size, patch_size, 3) and lr.dtype == np.uint8
    assert hr.shape == (batch_size, scale * patch_size, scale * patch_size, 3) and hr.dtype == np.uint8
    assert np.array_equal(hr, lr.repeat(scale, 1).repeat(scale, 2))  # every HR pixel tells which LR pixel it belongs to
    for patch in lr:
        i, y, x = patch[..., 0], patch[..., 1], patch[..., 2]
        assert (i == i[0, 0]).all() and np.ptp(y) == np.ptp(x) == patch_size - 1
        if not turned:
            assert np.array_equal(y[:, 0], y[0, 0] + np.arange(patch_size)) and (np.diff(x, axis=1) == 1).all()


def test_crops_reach_every_position_and_every_turn():
    sampler = PatchSampler(*stores([(5, 6)], 2), scale=2, patch_size=3, batch_size=100, seed=0)
    lr = np.concatenate([sampler.batch(step)[0] for step in range(40)])
    corners = Counter((int(patch[..., 1].min()), int(patch[..., 2].min())) for patch in lr)
    assert set(corners) == {(y, x) for y in range(3) for x in range(4)}  # inclusive of the last
    assert min(corners.values()) > 0.7 * len(lr) / 12 and max(corners.values()) < 1.3 * len(lr) / 12
    turns = Counter(tuple((patch[..., 1:] - patch[..., 1:].min((0, 1))).ravel().tolist()) for patch in lr)
    assert len(turns) == 8 and min(turns.values()) > 0.8 * len(lr) / 8


def test_an_epoch_shows_each_picture_as_often_as_it_has_patches():
    shapes = [(9, 13), (6, 6), (3, 4), (5, 20)]  # 3*4, 2*2, 1*1, 1*6 patches of 3
    sampler = PatchSampler(*stores(shapes, 1), scale=1, patch_size=3, batch_size=5, seed=3)
    assert sampler.steps_per_epoch == 23 // 5
    seen = np.concatenate([sampler.batch(step)[0][:, 0, 0, 0] for step in range(23)])
    epochs = seen.reshape(5, 23)  # batches lie across their ends
    for epoch in epochs:
        assert Counter(epoch.tolist()) == {0: 12, 1: 4, 2: 1, 3: 6}
    assert len({tuple(epoch) for epoch in epochs.tolist()}) == 5  # another order each time
    assert sorted(epochs[0].tolist()) != epochs[0].tolist()


def test_a_batch_larger_than_an_epoch():
    sampler = PatchSampler(*stores([(3, 3), (3, 3)], 1), scale=1, patch_size=3, batch_size=7, seed=0)
    assert sampler.steps_per_epoch == 1
    seen = np.concatenate([sampler.batch(step)[0][:, 0, 0, 0] for step in range(2)])
    assert all(sorted(pair) == [0, 1] for pair in seen.reshape(-1, 2).tolist())


@pytest.mark.parametrize('world_size', [2, 4, 8])
def test_ranks_together_see_what_one_rank_sees(world_size):
    def batches(step, rank=0, world_size=1):
        return PatchSampler(*stores([(20, 30), (25, 21)], 2), scale=2, patch_size=4, batch_size=16, seed=9, rank=rank,
                            world_size=world_size).batch(step)
    for step in (0, 1, 1234567):
        whole, parts = batches(step), [batches(step, rank, world_size) for rank in range(world_size)]
        for kind in (0, 1):
            assert np.array_equal(whole[kind], np.concatenate([part[kind] for part in parts]))
            assert len(parts[0][kind]) == 16 // world_size


def test_ranks_see_disjoint_parts_of_an_epoch():
    """Pictures of one patch each, so that an epoch shows each picture once: to one rank only."""
    shapes, ranks = [(3, 3)] * 64, []
    for rank in range(4):
        sampler = PatchSampler(*stores(shapes, 1), scale=1, patch_size=3, batch_size=8, seed=1, rank=rank, world_size=4)
        batches = [sampler.batch(step)[0][:, 0, 0, 0].tolist() for step in range(sampler.steps_per_epoch)]
        ranks.append(set(sum(batches, [])))
    assert sum(map(len, ranks)) == len(set().union(*ranks)) == 64


def test_a_batch_depends_on_seed_and_step_alone():
    few = stores([(20, 30)], 2)
    first, second = (PatchSampler(*few, scale=2, patch_size=8, batch_size=6, seed=5) for _ in range(2))
    expected = [first.batch(step)[1] for step in range(20)]
    np.random.seed(0)
    order = [19, 3, 3, 0, 11]
    assert all(np.array_equal(second.batch(step)[1], expected[step]) for step in order)
    other = PatchSampler(*few, scale=2, patch_size=8, batch_size=6, seed=6)
    assert not np.array_equal(other.batch(0)[1], expected[0]) and not np.array_equal(expected[0], expected[1])


def test_the_draws_are_the_same_for_every_numpy():
    """A resumed run may have another numpy: the raw words of Philox, and what is made of them, stay."""
    sampler = PatchSampler(*stores([(20, 30), (9, 9)], 1), scale=1, patch_size=3, batch_size=4, seed=7)
    assert patches._random_words(7, 2, 1, 2).tolist() == [7573714760346753256, 725564115618967472]
    assert sampler._draws(2) == [[1, 0, 0, 0], [2, 0, 16, 3], [4, 25, 17, 20], [2, 0, 1, 3]]


def test_batches_into_given_arrays():
    sampler = PatchSampler(*stores([(20, 30)], 2), scale=2, patch_size=8, batch_size=6, seed=5)
    out = np.zeros((6, 8, 8, 3), np.uint8), np.zeros((6, 16, 16, 3), np.uint8)
    lr, hr = sampler.batch(3, out)
    assert lr is out[0] and hr is out[1]
    assert all(np.array_equal(a, b) for a, b in zip(out, sampler.batch(3)))


def test_the_lr_patch_is_the_bicubic_of_the_hr_patch(tmp_path):
    lr_store, hr_store = open_pairs(find_pairs(SAMPLE, 2), 2, tmp_path)
    for turned in (False, True):
        sampler = PatchSampler(lr_store, hr_store, scale=2, patch_size=48, batch_size=32, seed=0, augment=turned)
        lr, hr = sampler.batch(0)
        assert lr.std() > 10
        for small, large in zip(lr, hr):
            small, large = small[4:-4, 4:-4], imresize(large, 1 / 2)[4:-4, 4:-4]  # the border saw more than the patch
            if turned:  # its rounding had another order of rows and columns
                assert np.abs(large.astype(int) - small).mean() < 0.4
            else:
                assert np.array_equal(large, small)


def test_sampler_refuses():
    few = stores([(20, 30), (7, 30)], 2)
    with pytest.raises(ValueError, match='1.png: the LR of 30x7 pixels is smaller than patch 8'):
        PatchSampler(*few, scale=2, patch_size=8, batch_size=4, seed=0)
    with pytest.raises(ValueError, match='batch_size 6 .* world_size 4'):
        PatchSampler(*few, scale=2, patch_size=4, batch_size=6, seed=0, world_size=4)
    with pytest.raises(ValueError, match='patch_size 0'):
        PatchSampler(*few, scale=2, patch_size=0, batch_size=6, seed=0)


def test_dihedral_is_flip_flip_transpose():
    rng = np.random.default_rng(0)
    for image in (rng.integers(0, 256, (5, 7, 3), dtype=np.uint8), rng.random((6, 4)).astype(np.float32)):
        for code in range(8):
            expected = image[:, ::-1] if code & 1 else image
            expected = expected[::-1] if code & 2 else expected
            expected = np.swapaxes(expected, 0, 1) if code & 4 else expected
            result = dihedral(image, code)
            assert np.array_equal(result, expected) and not np.shares_memory(result, image)
            out = np.zeros_like(expected, order='C')
            dihedral(image[:, :], code, out)
            assert np.array_equal(out, expected)


def test_augment_turns_both_alike():
    lr = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    turned = [augment(lr, lr.repeat(2, 0).repeat(2, 1), np.random.default_rng(k)) for k in range(60)]
    assert all(np.array_equal(hr[::2, ::2], small) for small, hr in turned)
    assert len({small.tobytes() for small, _ in turned}) == 8


# ---- the prefetcher ----

class Steps:  # a sampler whose batches take uneven times
    def batch(self, step):
        time.sleep(0.02 if step % 3 == 0 else 0)
        if step == 13:
            raise ValueError('step 13')
        return step, -step


@pytest.mark.parametrize('workers', [1, 3])
def test_prefetcher_keeps_the_order(workers):
    before = threading.active_count()
    with Prefetcher(Steps(), range(12), workers=workers) as batches:
        assert list(batches) == [(step, -step) for step in range(12)]
    assert list(Prefetcher(Steps(), iter([5, 2]), transform=lambda lr, hr: lr * 10)) == [50, 20]
    assert threading.active_count() == before


def test_prefetcher_raises_what_a_worker_raised():
    before = threading.active_count()
    batches = Prefetcher(Steps(), range(11, 99), workers=2)
    assert [next(batches), next(batches)] == [(11, -11), (12, -12)]
    with pytest.raises(ValueError, match='step 13'):
        next(batches)
    assert threading.active_count() == before


def test_prefetcher_ends_promptly():
    before, endless = threading.active_count(), iter(lambda: 1, 0)
    batches = Prefetcher(Steps(), endless, depth=2, workers=2)
    assert next(batches) == (1, -1)
    batches.close()
    assert threading.active_count() == before and list(batches) == []
    for _ in Prefetcher(Steps(), endless):  # dropped in the middle of a loop
        break
    deadline = time.perf_counter() + 5
    while threading.active_count() > before and time.perf_counter() < deadline:
        time.sleep(0.01)
    assert threading.active_count() == before


def test_prefetcher_works_ahead_and_tells_the_wait():
    class Slow:
        made = 0

        def batch(self, step):
            time.sleep(0.05)
            self.made += 1
            return step
    slow = Slow()
    with Prefetcher(slow, range(100), depth=3) as batches:
        next(batches)
        assert 0.03 < batches.waited < 0.5
        waited = batches.waited
        time.sleep(0.4)
        assert slow.made == 4  # the one taken, and `depth` ahead
        next(batches)
        assert batches.waited - waited < 0.02
    with pytest.raises(ValueError, match='depth 0'):
        Prefetcher(slow, range(3), depth=0)
