"""Clips and windows: layouts, what is said of broken ones, which windows a step of a rank sees."""
import json
import shutil
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import FRAMES, configure, put_clip, put_sets

from ascendcv.dataloader import noise
from ascendcv.dataloader.clips import Frames, find_clips, open_clips
from ascendcv.dataloader.windows import WindowSampler
from common import images
from common.patches import Prefetcher


class Marked:
    """Frames whose pixels say where they are: LR pixels are (clip and t, y, x), HR pixels those of the LR below."""

    def __init__(self, number, count, size):
        self.name, self.number, self.count, self.size = f'{number:03d}', number, count, size

    def lr(self, t):
        rows, columns = np.indices(self.size)
        return np.stack([np.full(self.size, 16 * self.number + t), rows, columns], 2).astype(np.uint8)

    def hr(self, t):
        return self.lr(t).repeat(4, 0).repeat(4, 1)


def sampler_of(clips, frames=3, crop=(4, 4), batch_size=8, seed=1, **more):
    return WindowSampler(clips, frames=frames, crop=crop, batch_size=batch_size, seed=seed, **more)


def named(clips):
    return [clip.name for clip in clips]


def test_layouts(reds, tmp_path, photo):
    for root in (reds, reds / 'reds', str(reds / 'reds' / 'images')):
        assert named(find_clips(root, 'train.json')) == ['001', '002']
        assert named(find_clips(root, 'val.json')) == named(find_clips(root, 'REDS4')) == ['000', '011']
    home = tmp_path / 'my reds'
    shutil.copytree(str(reds / 'reds'), str(home))
    put_sets(home, ['000', '002'], ['011'])
    assert named(find_clips(home, 'train.json')) == ['000', '002'] and named(find_clips(home, 'val.json')) == ['011']
    put_sets(home, ['a', 'b'], ['a'], prefix=True)
    for name in 'ab':  # images/truth/a
        for part in ('truth', 'blur4'):
            shutil.copytree(str(home / 'images' / '000' / part), str(home / 'images' / part / name))
    clip = find_clips(home, 'train.json')[1]
    assert (clip.name, clip.hr) == ('b', str(home / 'images' / 'truth' / 'b'))
    for part, source in (('GT', 'truth'), ('BIx4', 'blur4')):
        shutil.copytree(str(home / 'images' / '000' / source), str(tmp_path / 'Vid4' / part / 'calendar'))
    assert named(find_clips(tmp_path, 'Vid4')) == ['calendar']


def test_what_is_missing_or_wrong_is_named(reds, tmp_path):
    def refuse(words, name='train.json'):
        with pytest.raises(ValueError, match=words):
            open_clips(find_clips(tmp_path, name), tmp_path / 'cache')
    home = tmp_path / 'reds'
    refuse(f'{tmp_path}: no REDS clips')
    refuse('no set of clips .other.json.; looked for', 'other.json')
    shutil.copytree(str(reds / 'reds'), str(home))
    put_sets(home, ['000', '001', '077'], ['011'])
    refuse('images/077/truth: no such folder; .*train.json names the clip 077')
    put_sets(home, ['000', '001'], ['011'], frames=FRAMES + 1)
    refuse(f'images/000/truth: {FRAMES} frames, but .*train.json says {FRAMES + 1}')
    put_sets(home, [], ['011'])
    refuse('it names no clip')
    (home / 'sets' / 'train.json').write_text(json.dumps({'videos': [{'name': '000'}]}))
    refuse('train.json: not a set of clips')
    shutil.rmtree(str(home / 'sets'))
    shutil.rmtree(str(home / 'images' / '001' / 'blur4'))
    refuse('1 of 2 clips have no LR folder: 001')
    shutil.rmtree(str(home / 'images' / '002' / 'blur4'))
    refuse('has no LR frames beside it')


def test_clips_whose_frames_disagree_are_named(reds, tmp_path, photo):
    def refuse(words, raw_size=()):
        with pytest.raises(ValueError, match=words):
            open_clips(find_clips(tmp_path, 'train'), tmp_path / 'cache', raw_size)
    shutil.copytree(str(reds / 'reds' / 'images' / '001'), str(tmp_path / 'images' / '001'))
    clip = tmp_path / 'images' / '001'
    refuse('00000000.png is 32x24 .*data.train_raw_size 320x180', raw_size=(180, 320))
    frame = clip / 'blur4' / '00000003.png'
    images.write(frame, photo[:20, :32])
    refuse('sizes disagree at x4: .*blur4/00000003.png is 32x20')
    images.write(clip / 'truth' / '00000003.png', photo[:80, :128])
    refuse('00000003.png is 32x20 .* the first frame of the clip 32x24')
    frame.write_bytes(frame.read_bytes()[:-50])
    refuse('cannot be used:\n.*00000003.png')
    frame.unlink()
    refuse(f'has {FRAMES} frames and .*has {FRAMES - 1}; in one only: 00000003.png')


def test_frames_are_those_of_the_files(reds, tmp_path):
    clip = find_clips(reds, 'train')[0]
    frames = Frames(clip, tmp_path)
    assert (frames.count, frames.size) == (FRAMES, (24, 32))
    for t in range(FRAMES):
        assert np.array_equal(frames.lr(t), images.read(f'{clip.lr}/{t:08d}.png'))
        assert np.array_equal(frames.hr(t), images.read(f'{clip.hr}/{t:08d}.png'))


def test_windows_are_whole_and_hr_is_the_middle_frame():
    """Of one clip only, frames in their order, all under one flip or turn, HR where LR is."""
    clips = [Marked(1, 5, (7, 9)), Marked(2, 2, (9, 9)), Marked(3, 4, (4, 6))]  # the second is too short
    sampler, seen, codes, corners = sampler_of(clips), Counter(), Counter(), set()
    assert sampler.windows == 3 + 2 and sampler.steps_per_epoch == 1
    for step in range(100):
        lr, hr = sampler.batch(step)
        assert lr.shape == (8, 3, 4, 4, 3) and hr.shape == (8, 16, 16, 3) and lr.dtype == hr.dtype == np.uint8
        assert np.array_equal(lr[:, 1], hr[:, ::4, ::4]) and np.array_equal(hr, lr[:, 1].repeat(4, 1).repeat(4, 2))
        for window in lr.astype(int):
            first = window[0, 0, 0, 0]
            assert (window[:, :, :, 0] - first == np.arange(3)[:, None, None]).all()
            assert (window[:, :, :, 1:] == window[:1, :, :, 1:]).all()
            seen[first] += 1
            corners.add((first // 16, window[..., 1].min(), window[..., 2].min()))
            codes[tuple(np.subtract(window[0, 0, 0, 1:], window[0, 3, 3, 1:])) +
                  tuple(np.subtract(window[0, 0, 0, 1:], window[0, 0, 3, 1:]))] += 1
    assert seen == {16: 160, 17: 160, 18: 160, 48: 160, 49: 160}  # each once in an epoch
    assert corners == {(1, y, x) for y in range(4) for x in range(6)} | {(3, 0, x) for x in range(3)}  # the last, too
    assert len(codes) == 8 and min(codes.values()) > 60  # 100 expected, 9 the deviation


def test_crops_that_are_not_square_are_not_turned():
    lr, _ = sampler_of([Marked(1, 3, (4, 6))], crop=(4, 6), batch_size=40).batch(0)
    assert {tuple(np.subtract(window[0, -1, -1, 1:].astype(int), window[0, 0, 0, 1:])) for window in lr} == {
        (3, 5), (3, -5), (-3, 5), (-3, -5)}


def test_frames_that_are_too_small_or_few():
    with pytest.raises(ValueError, match='clip 001: its LR frames of 9x7 pixels are smaller than the crop 8x8'):
        sampler_of([Marked(1, 5, (7, 9))], crop=(8, 8))
    with pytest.raises(ValueError, match='no clip has 5 frames or more'):
        sampler_of([Marked(1, 4, (7, 9))], frames=5)


def test_ranks_see_disjoint_windows():
    """Their batches together are that of one rank; in an epoch no window comes twice."""
    clips = [Marked(n, 10, (9, 9)) for n in range(4)]
    given = {'batch_size': 8, 'seed': 3}
    noisy = dict(given, noise=noise_of('gaussian'))
    whole = sampler_of(clips, **noisy)
    parts = [sampler_of(clips, rank=rank, world_size=4, **noisy) for rank in range(4)]
    for step in (0, 3, 50):
        found = [part.batch(step) for part in parts]
        assert all(len(lr) == 2 for lr, _ in found)
        for index, expected in enumerate(whole.batch(step)):
            assert np.array_equal(np.concatenate([of_rank[index] for of_rank in found]), expected)
    parts = [sampler_of(clips, rank=rank, world_size=4, **given) for rank in range(4)]
    middles = [hr[0, 0, 0] for step in range(4) for part in parts for hr in part.batch(step)[1]]
    assert len(set(middles)) == 32  # 4 clips of 8 windows, each once
    with pytest.raises(ValueError, match='batch_size 8 .* not a multiple of world_size 3'):
        sampler_of(clips, batch_size=8, world_size=3)


def test_windows_follow_from_seed_and_step():
    clips = [Marked(n, 10, (9, 9)) for n in range(4)]
    one, again, other = (sampler_of(clips, seed=seed) for seed in (1, 1, 2))
    with Prefetcher(again, range(5, 25), 6, 4) as batches:
        for step, (lr, hr) in enumerate(batches, 5):
            expected = one.batch(step)
            assert np.array_equal(lr, expected[0]) and np.array_equal(hr, expected[1])
            assert not np.array_equal(other.batch(step)[0], lr)


def noise_of(kind, **more):
    return configure(**{f'data__noise__{key}': value for key, value in dict(more, noise_type=kind).items()}).data.noise


def test_noise():
    grey, rng = np.full((5, 64, 64, 3), 100, np.uint8), np.random.default_rng(1)

    def of(kind, **more):
        return noise.noisy(grey, noise_of(kind, **more), rng).astype(float)
    assert np.array_equal(of('clean'), grey)
    found = of('gaussian', mean=0.1, std=0.05)
    assert found.mean() == pytest.approx(125.5, abs=0.5) and found.std() == pytest.approx(12.75, rel=0.03)
    assert of('speckle', std=0.1).std() == pytest.approx(10, rel=0.03)
    deviations = [of('gaussian process', min_std=0.02, max_std=0.1).std() / 255 for _ in range(20)]
    assert 0.015 < min(deviations) < 0.04 < 0.08 < max(deviations) < 0.105
    found = of('salt-pepper', amount=0.1, salt_ratio=0.75)
    assert (found == 255).mean() == pytest.approx(0.075, rel=0.1) and (found == 0).mean() == pytest.approx(
        0.025, rel=0.15) and ((found == 100) | (found == 0) | (found == 255)).all()
    assert (found == found[..., :1]).all()  # whole pixels


def test_noise_has_a_seed_of_its_own_and_spares_hr():
    clips = [SimpleNamespace(name='a', count=4, size=(16, 16), lr=lambda t: np.full((16, 16, 3), 128, np.uint8),
                             hr=lambda t: np.full((64, 64, 3), 128, np.uint8))]
    by_seed = [sampler_of(clips, crop=(8, 8), noise=noise_of('gaussian', random_seed=seed)) for seed in (1, 1, 2)]
    batches = [sampler.batch(3) for sampler in by_seed]
    assert all((hr == 128).all() for _, hr in batches)
    assert np.array_equal(batches[0][0], batches[1][0]) and not np.array_equal(batches[0][0], batches[2][0])
    lr = batches[0][0]
    assert len({window.tobytes() for window in lr}) == 8 and not np.array_equal(by_seed[0].batch(4)[0], lr)


@pytest.mark.parametrize('given', [{'std': -1}, {'amount': 2}, {'salt_ratio': -0.1}, {'min_std': 0.2}])
def test_noise_that_cannot_be(given):
    with pytest.raises(ValueError, match=f'data.noise.{next(iter(given))}'):
        noise.check(noise_of('gaussian', **given))


def test_a_frame_of_exactly_the_crop(photo, tmp_path):
    put_clip(tmp_path / 'images' / '001', photo, (0, 0), 3, (8, 8))
    clips = open_clips(find_clips(tmp_path, 'train'), tmp_path / 'cache')
    lr, _ = sampler_of(clips, crop=(8, 8)).batch(0)
    frame = clips[0].lr(0)
    flips = {np.rot90(flip, turns).tobytes() for flip in (frame, frame[:, ::-1]) for turns in range(4)}
    assert {window[0].tobytes() for window in lr} <= flips
