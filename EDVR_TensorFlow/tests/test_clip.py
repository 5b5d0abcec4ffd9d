"""Windows of a clip, the cuts in it, and work ahead in threads."""
import threading

import cv2
import numpy as np
import pytest

from ascendvsr.clip import PADDINGS, indices, ordered, shots, timed, usual_time, windows
from ascendvsr.config.defaults import CHOICES, KEYS
from common import images

THRESHOLD = KEYS['data.scene_threshold'].default


@pytest.mark.parametrize('padding, middle, count, expected', [
    ('replicate', 0, 9, [0, 0, 0, 1, 2]), ('replicate', 7, 9, [5, 6, 7, 8, 8]), ('replicate', 4, 9, [2, 3, 4, 5, 6]),
    ('reflection_circle', 0, 9, [4, 3, 0, 1, 2]), ('reflection_circle', 1, 9, [4, 0, 1, 2, 3]),
    ('reflection_circle', 7, 9, [5, 6, 7, 8, 4]), ('reflection_circle', 8, 9, [6, 7, 8, 5, 4]),
    ('reflection_circle', 4, 9, [2, 3, 4, 5, 6]), ('replicate', 1, 2, [0, 0, 1, 1, 1]),
    ('reflection_circle', 0, 3, [0, 1, 0, 1, 2]), ('reflection_circle', 0, 1, [0] * 5), ('replicate', 0, 1, [0] * 5)])
def test_indices(padding, middle, count, expected):
    assert indices(middle, count, 5, padding) == expected


def test_known_paddings():
    assert CHOICES['data.padding'] == PADDINGS


@pytest.mark.parametrize('padding', PADDINGS)
@pytest.mark.parametrize('frames', [1, 3, 5, 7])
def test_windows_are_those_of_the_whole_clip(padding, frames):
    for count in range(12):
        assert list(windows(range(count), frames, padding)) == [
            indices(middle, count, frames, padding) for middle in range(count)]


def test_of_a_clip_without_end_a_window_is_read():
    read = []

    def endless():
        while True:
            read.append(len(read))
            yield read[-1]
    found = windows(endless(), 5, 'reflection_circle')
    assert next(found) == [4, 3, 0, 1, 2] and len(read) == 5
    assert [next(found)[2] for _ in range(100)] == list(range(1, 101)) and len(read) == 103


def pan(photo, start, step, count, size=(180, 320)):
    """Frames of a window that moves over a photograph by step (y, x) pixels."""
    return [photo[start[0] + t * step[0]:, start[1] + t * step[1]:][:size[0], :size[1]] for t in range(count)]


def lengths(frames, threshold=THRESHOLD):
    return [len(list(shot)) for shot in shots(frames, threshold)]


@pytest.fixture(scope='module')
def photos():
    found = [images.read(path, channels=3) for path in images.list_pictures('common/sample')]
    return [cv2.resize(photo, (640, 400), interpolation=cv2.INTER_AREA) for photo in found]


def test_every_cut_between_photographs_is_found(photos):
    for first in photos:
        for second in photos:
            if first is not second:
                assert lengths(pan(first, (0, 0), (1, 2), 4) + pan(second, (9, 9), (2, 1), 3)) == [4, 3]


def test_motion_is_no_cut(photos):
    for photo in photos:
        for step in ((0, 1), (1, 0), (2, 30), (20, 0)):
            assert lengths(pan(photo, (0, 0), step, 10)) == [10]
        still = [photo[:180, :320]] * 4
        assert lengths(still + pan(photo, (0, 0), (3, 25), 8)) == [12]  # motion that begins at once


def test_changes_of_light_are_no_cut(photos):
    for photo in photos:
        fading = [(photo * (1 - t / 12)).astype(np.uint8) for t in range(10)]
        assert lengths(fading) == [10]
        assert len(lengths([photo] * 4 + [255 - (255 - photo) // 3] + [photo] * 4)) < 3  # a flash


def test_zero_cuts_nothing_and_every_frame_comes_as_it_is(photos):
    frames = [photos[0], photos[1], photos[1], photos[2].astype(np.float32)]
    assert lengths(frames, 0) == [4]
    assert [frame for shot in shots(frames, THRESHOLD) for frame in shot] == frames
    assert lengths(frames) == [1, 2, 1] and lengths([]) == []


def test_work_in_threads_is_in_order_and_bounded():
    started, gate = [], threading.Event()

    def work(item):
        started.append(item)
        gate.wait(10)
        return 2 * item

    read = []
    results = ordered(work, (read.append(item) or item for item in range(20)), 3, 5)
    threading.Timer(0.2, gate.set).start()
    assert next(results) == 0
    assert len(read) <= 6  # five wait, and one more was offered
    assert list(results) == [2 * item for item in range(1, 20)] and sorted(started) == list(range(20))


def test_errors_of_threads_come_out():
    def work(item):
        if item == 2:
            raise ValueError('item 2')
        return item
    results = ordered(work, range(10), 2)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(ValueError, match='item 2'):
        next(results)


def test_times():
    seconds = []
    assert list(timed(iter('abc'), seconds)) == list('abc') and len(seconds) == 3 and min(seconds) >= 0
    assert usual_time([9.0, 1.0, 3.0]) == 2 and usual_time([9.0]) == 9 and usual_time([]) == 0
