"""A clip frame by frame: the window around each, where one shot ends and the next begins, work ahead in threads.

    for window in windows(map(features, frames), 5, 'replicate'):    # lists of 5, the middle one's frame in the middle

Everything here takes iterables and is lazy: of a clip of any length a few frames are in memory.
"""
import itertools
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np

PADDINGS = ('replicate', 'reflection_circle')
SMALL = 64, 36  # width, height of the pictures by which scenes are told apart
SHIFT = 0.08  # share of their pixels that must change in brightness from one scene to another: of a pan it does not


def indices(middle, count, frames, padding):
    """Numbers of the frames that make the window of `frames` around frame `middle` in a clip of `count`.

    padding: of those beyond its ends, 'replicate' has the first or last one (0 0 0 1 2 around 0), as the released port,
    'reflection_circle' those behind the other end of the window (4 3 0 1 2), as the authors. A clip that is too short
    for these is gone through back and forth.
    """
    first, last = middle - frames // 2, middle + frames // 2
    window = np.arange(first, last + 1)
    if padding == 'replicate':
        return np.clip(window, 0, count - 1).tolist()
    window = np.where(window < 0, last - window, window)
    window = np.where(window >= count, first - window + count - 1, window)
    period = max(2 * count - 2, 1)
    return np.minimum(window % period, period - window % period).tolist()


def windows(items, frames, padding):
    """Yields for each item of an iterable the list of the `frames` items that are its window; so many are kept."""
    kept, count, done = deque(maxlen=frames), 0, 0

    def window():
        return [kept[index - count + len(kept)] for index in indices(done, count, frames, padding)]
    for item in items:
        kept.append(item)
        count += 1
        while count >= frames and done < count - frames // 2:
            yield window()
            done += 1
    while done < count:
        yield window()
        done += 1


def shots(frames, threshold):
    """Yields an iterator over the frames of each shot in turn, which is to be exhausted before the next is asked for.

    frames: iterable of RGB [H,W,3] in 0..255. A shot begins where the mean change of the brightness, 0..255, is by
    `threshold` higher than between the frames before, and the histogram moves, too; 0: all is one shot.
    """
    numbered = _numbered(frames, threshold) if threshold else ((0, frame) for frame in frames)
    for _, shot in itertools.groupby(numbered, lambda pair: pair[0]):
        yield (frame for _, frame in shot)


def _numbered(frames, threshold):
    """(number of its shot, frame) of each frame."""
    shot, before, last, usual = 0, None, 0.0, 0.0
    for frame in frames:
        small = cv2.resize(np.asarray(frame, np.float32), SMALL, interpolation=cv2.INTER_AREA).mean(2)
        change = 0.0 if before is None else float(np.abs(small - before).mean())
        # of a flash, which is two changes in a row, the first one counts
        if change > max(last, usual) + threshold and _shift(small, before) > SHIFT:
            shot, usual = shot + 1, 0.0
        else:
            usual += 0.2 * (change - usual)
        before, last = small, change
        yield shot, frame


def _shift(picture, other):
    """Share of the pixels, 0..1, that would have to change to make one histogram of brightness the other."""
    counts = [np.histogram(x, 16, (0, 256))[0] for x in (picture, other)]
    return np.abs(counts[0] - counts[1]).sum() / 2 / picture.size


def ordered(function, items, threads, ahead=None):
    """map(function, items) by some threads, in order; what fails in one is raised when its turn comes.

    items: read here, not in the threads; `ahead` of them at most, by default as many as threads, are under way.
    """
    pending = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for item in items:
                pending.append(pool.submit(function, item))
                while len(pending) > (ahead or threads) or (pending and pending[0].done()):
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()


def timed(items, seconds):
    """The items of an iterable; the time that each took to come is appended to the list `seconds`."""
    items = iter(items)
    while True:
        start = time.perf_counter()
        try:
            item = next(items)
        except StopIteration:
            return
        seconds.append(time.perf_counter() - start)
        yield item


def usual_time(seconds):
    """Mean of times, s, without the first, in which the graph is prepared; of a single one that one."""
    return float(np.mean(seconds[1:] or seconds)) if seconds else 0.0
