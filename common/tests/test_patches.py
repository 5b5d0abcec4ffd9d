"""The sampler's promises and the prefetcher's order."""
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common import draws
from common.datasets import find_pairs
from common.patches import PatchSampler, PictureStore, Prefetcher, augment, dihedral, open_pairs
from common.resize import imresize

SAMPLE = Path(__file__).resolve().parents[1] / 'sample'


def stores(shapes, scale):
    """(lr, hr) stores in memory whose pixels tell i, y and x of the LR pixel that they belong to."""
    def store(factor):
        pixels = []
        for i, (height, width) in enumerate(shapes):
            y, x = np.mgrid[:height * factor, :width * factor] // factor
            pixels.append(np.stack([np.full_like(y, i), y, x], 2).astype(np.uint8).ravel())
        return PictureStore([f'{i}.png' for i in range(len(shapes))], np.array(shapes) * factor, np.concatenate(pixels))
    return store(1), store(scale)


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


def test_every_picture_equally_often():
    sampler = PatchSampler(*stores([(9, 13), (6, 6), (3, 4)], 1), scale=1, patch_size=3, batch_size=3, seed=3,
                           by_area=False)
    assert sampler.steps_per_epoch == 1
    epochs = [sampler.batch(step)[0][:, 0, 0, 0].tolist() for step in range(20)]
    assert all(sorted(epoch) == [0, 1, 2] for epoch in epochs) and len(set(map(tuple, epochs))) > 3


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
    assert draws.random_words(7, 2, 1, 2).tolist() == [7573714760346753256, 725564115618967472]
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
