"""Training patches: a memory-mapped store of decoded pictures, a sampler of (seed, step, rank), a prefetcher.

    lr_store, hr_store = open_pairs(pairs, scale, default_cache_dir())
    sampler = PatchSampler(lr_store, hr_store, scale=2, patch_size=48, batch_size=16, seed=1)
    with Prefetcher(sampler, range(start, stop)) as batches:
        for lr, hr in batches: ...
"""
import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import zlib
from collections import deque, namedtuple
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from time import perf_counter

import cv2
import numpy as np

from common import images
from common.datasets import check_sizes
from common.draws import Order, choices
from common.logs import Progress
from common.resize import imresize, mod_crop

Prepare = namedtuple('Prepare', 'tag function')  # function(path, uint8 [H,W,3]) -> uint8 [h,w,3]; tag: what it does


def default_cache_dir():
    """$XDG_CACHE_HOME/sr-modelzoo, or ~/.cache/sr-modelzoo."""
    return os.path.join(os.environ.get('XDG_CACHE_HOME') or os.path.expanduser('~/.cache'), 'sr-modelzoo')


class PictureStore:  # uint8 RGB pictures, back to back in one memory-mapped file
    """store[i]: picture i as a read-only uint8 view [H,W,3]; names: the paths; shapes: int array [N,2] of (H, W)."""

    def __init__(self, names, shapes, pixels):
        self.names, self.shapes, self._pixels = names, shapes, pixels
        self._offsets = np.concatenate([[0], np.cumsum(shapes[:, 0] * shapes[:, 1] * 3)]).tolist()
        self._shapes = [(height, width, 3) for height, width in shapes.tolist()]

    def __len__(self):
        return len(self._shapes)

    def __getitem__(self, i):
        return self._pixels[self._offsets[i]:self._offsets[i + 1]].reshape(self._shapes[i])

    @classmethod
    def open(cls, pictures, cache_dir, *, prepare=None, renew=False, label='decode'):
        """The store of those paths, decoded now unless cache_dir holds it and no source changed (size, mtime) since.

        prepare: Prepare to apply to each decoded picture. renew: decode in any case. label: what the progress is
        called. Any number of processes may call this at once: one decodes, the others wait; a killed decoder leaves
        nothing that is mistaken for a store.
        ValueError: pictures that cannot be decoded, by name. OSError: no store yet, and no place to write one.
        """
        pictures = [os.path.abspath(path) for path in pictures]
        if not pictures:
            raise ValueError('a picture store of no pictures; expected at least one path')
        os.makedirs(cache_dir, exist_ok=True)
        tag = prepare.tag if prepare else 'plain'
        base = os.path.join(cache_dir, hashlib.sha256(os.fsencode('\0'.join([tag] + pictures))).hexdigest()[:32])
        with _locked(base, fcntl.LOCK_SH):
            store = None if renew else _load(cls, base, pictures)
        if store is None:
            with _locked(base, fcntl.LOCK_EX):
                store = None if renew else _load(cls, base, pictures)  # another process may have been first
                if store is None:
                    _remove_leftovers(cache_dir)
                    _build(base, pictures, prepare, label)
                    store = _load(cls, base, pictures)
        if store is None:
            raise OSError(f'{base}.u8: the picture cache does not read back as written (a source changed?)')
        return store


@contextlib.contextmanager
def _locked(base, mode):
    with open(base + '.lock', 'r' if mode == fcntl.LOCK_SH and os.path.exists(base + '.lock') else 'a') as file:
        fcntl.flock(file, mode)  # the kernel releases it when the holder dies
        yield


def _fingerprint(pictures):
    stats = [os.stat(path) for path in pictures]
    return [stat.st_size for stat in stats], [stat.st_mtime_ns for stat in stats]


def _samples_crc(file):
    """CRC-32 of 64 blocks spread over the file: finds damage that keeps the length without reading gigabytes."""
    crc, length = 0, file.seek(0, os.SEEK_END)
    for k in range(64):
        file.seek(max(length - 4096, 0) * k // 63)
        crc = zlib.crc32(file.read(4096), crc)
    return crc


def _load(cls, base, pictures):
    """The store in the cache, or None when there is none, or a source changed, or a file is short or damaged."""
    try:
        with open(base + '.json') as file:
            index = json.load(file)
        shapes = np.array(index['shapes'], np.int64).reshape(-1, 2)
        fresh = index['names'] == pictures and _fingerprint(pictures) == (index['sizes'], index['mtimes'])
        if not fresh or len(shapes) != len(pictures):
            return None
        with open(base + '.u8', 'rb') as file:
            if os.fstat(file.fileno()).st_size != shapes.prod(1).sum() * 3 or _samples_crc(file) != index['crc']:
                return None
            return cls(pictures, shapes, np.memmap(file, np.uint8, 'r').view(np.ndarray))
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def _build(base, pictures, prepare, label):
    """Decodes all pictures into BASE.u8, then writes BASE.json; an old index goes first, so none names other pixels."""
    sizes, mtimes = _fingerprint(pictures)
    pixels, index = base + '.u8.tmp', base + '.json.tmp'
    try:
        shapes, crc = _write_pixels(pixels, pictures, prepare, label)
        with contextlib.suppress(FileNotFoundError):
            os.remove(base + '.json')
        os.replace(pixels, base + '.u8')
        with open(index, 'w') as file:
            json.dump({'names': pictures, 'sizes': sizes, 'mtimes': mtimes, 'shapes': shapes, 'crc': crc}, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(index, base + '.json')
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            needed = sum(height * width * 3 for height, width in map(images.size, pictures))
            message = f'no space for {len(pictures)} decoded pictures, up to {needed:,} bytes; choose another folder'
            raise OSError(error.errno, message, os.path.dirname(base)) from None
        raise
    finally:
        for path in (pixels, index):
            with contextlib.suppress(FileNotFoundError):
                os.remove(path)


def _write_pixels(path, pictures, prepare, label):
    """Writes all decoded pictures to a file; returns their (H, W) and the file's CRC."""
    def decode(picture):
        try:
            image = images.read(picture, channels=3)
            return np.ascontiguousarray(prepare.function(picture, image) if prepare else image)
        except (ValueError, OSError) as error:
            return error

    shapes, errors = [], []
    with open(path, 'w+b') as file:
        for image in in_order(decode, pictures, label):
            if isinstance(image, Exception):
                errors.append(str(image))
            elif not errors:
                file.write(image.data)
                shapes.append(image.shape[:2])
        if errors:
            raise ValueError(f'{len(errors)} of {len(pictures)} pictures cannot be used:' +
                             ''.join(f'\n  {error}' for error in errors[:10]) + '\n  ...' * (len(errors) > 10))
        file.flush()
        os.fsync(file.fileno())
        return shapes, _samples_crc(file)


def in_order(function, items, label):
    """map(function, items) on all cores, at most two results per core ahead of the consumer, with progress."""
    workers, pending = os.cpu_count() or 1, deque()
    with ThreadPoolExecutor(workers) as pool, Progress(len(items), label, 'pictures') as progress:
        for ahead, item in enumerate(items):
            pending.append(pool.submit(function, item))
            while pending and (len(pending) == 2 * workers or ahead + 1 == len(items)):
                result = pending.popleft().result()
                progress.update()
                yield result


def _remove_leftovers(cache_dir):
    """Deletes what killed builders left: the .tmp files whose lock nobody holds."""
    for name in os.listdir(cache_dir):
        if re.fullmatch('[0-9a-f]{32}[.](u8|json)[.]tmp', name):
            with contextlib.suppress(BlockingIOError, FileNotFoundError), \
                    _locked(os.path.join(cache_dir, name.split('.')[0]), fcntl.LOCK_EX | fcntl.LOCK_NB):
                os.remove(os.path.join(cache_dir, name))


def open_pairs(pairs, scale, cache_dir, renew=False):
    """(lr_store, hr_store) of [Pair]; where pair.lr is None the LR is the bicubic of the whole, mod-cropped HR.

    ValueError: pictures that cannot be decoded, or whose sizes disagree, by name.
    """
    made = {os.path.abspath(pair.hr) for pair in pairs if pair.lr is None}
    prepare = Prepare(f'bicubic-x{scale}', lambda path, image:
                      imresize(mod_crop(image, scale), 1 / scale) if path in made else image)
    hr_store = PictureStore.open([pair.hr for pair in pairs], cache_dir, renew=renew)
    lr_store = PictureStore.open([pair.lr or pair.hr for pair in pairs], cache_dir, prepare=prepare, renew=renew)
    for pair, lr_shape, hr_shape in zip(pairs, lr_store.shapes.tolist(), hr_store.shapes.tolist()):
        check_sizes(pair, lr_shape, hr_shape, scale)
    return lr_store, hr_store


def dihedral(image, code, out=None):
    """One of the 8 flips and turns of [H,W] or [H,W,C], into `out` if given, else into a new array.

    code: bit 0 flips left-right, bit 1 up-down, then bit 2 transposes. cv2, because numpy's strided copy of 3-byte
    pixels takes 15 to 30 times as long.
    """
    if code == 0:
        return cv2.copyTo(image, None, dst=out)
    if code < 4:
        return cv2.flip(image, (1, 0, -1)[code - 1], dst=out)
    if code == 4:
        return cv2.transpose(image, dst=out)
    if code == 7:
        return cv2.transpose(cv2.flip(image, -1), dst=out)
    return cv2.rotate(image, cv2.ROTATE_90_COUNTERCLOCKWISE if code == 5 else cv2.ROTATE_90_CLOCKWISE, dst=out)


def augment(lr, hr, rng):
    """(lr, hr), both under the same one of the 8 dihedral transforms, drawn uniformly from a numpy Generator."""
    code = int(rng.integers(8))
    return dihedral(lr, code), dihedral(hr, code)


class PatchSampler:  # (seed, step, rank) -> a batch of LR and HR patches
    """Each picture stands floor(W/p)*floor(H/p) times in an epoch, so whole pictures and the tiles cut from them give
    epochs of one length, or once, unless by_area; epochs follow one another without a gap, so a batch may span two.
    Crops are uniform over all positions, augmentation over the 8 flips and turns. Draws are made for the global batch
    and then cut by rank: the batches of all ranks together are the batch of a single rank.

    patch_size: LR side, pixels. batch_size: over all ranks. ValueError: a picture smaller than the patch, a batch_size
    that world_size does not divide.
    """

    def __init__(self, lr_store, hr_store, *, scale, patch_size, batch_size, seed, rank=0, world_size=1, augment=True,
                 by_area=True):
        if patch_size < 1 or batch_size < 1 or seed < 0:
            raise ValueError(f'patch_size {patch_size}, batch_size {batch_size}, seed {seed}: expected 1, 1, 0 or more')
        if batch_size % world_size:
            raise ValueError(f'batch_size {batch_size} (over all ranks) is not a multiple of world_size {world_size}')
        assert 0 <= rank < world_size, (rank, world_size)
        assert len(lr_store) == len(hr_store), (len(lr_store), len(hr_store))
        small = np.flatnonzero(lr_store.shapes.min(1) < patch_size)
        if len(small):
            height, width = lr_store.shapes[small[0]]
            raise ValueError(f'{lr_store.names[small[0]]}: the LR of {width}x{height} pixels is smaller than patch '
                             f'{patch_size} ({len(small)} such pictures); remove them or choose a smaller patch_size')
        self.scale, self.patch_size, self.batch_size = scale, patch_size, batch_size
        self._lr, self._hr, self._seed, self._augment = lr_store, hr_store, seed, augment
        self._local = slice(rank * (batch_size // world_size), (rank + 1) * (batch_size // world_size))
        times = (lr_store.shapes // patch_size).prod(1) if by_area else 1
        self._order = Order(np.repeat(np.arange(len(lr_store), dtype=np.int32), times), batch_size, seed)

    @property
    def steps_per_epoch(self):
        """Whole batches in an epoch, at least 1; the remainder is not dropped: the next batch begins with it."""
        return self._order.steps_per_epoch

    def batch(self, step, out=None):
        """(lr uint8 [b,p,p,3], hr uint8 [b,s*p,s*p,3]) of this rank, b = batch_size / world_size; `out`: to fill."""
        chosen, rows, columns, codes = self._draws(step)
        p, s = self.patch_size, self.scale
        lr_out, hr_out = out or [np.empty((len(chosen), side, side, 3), np.uint8) for side in (p, s * p)]
        for k, (i, y, x, code) in enumerate(zip(chosen, rows, columns, codes)):
            dihedral(self._lr[i][y:y + p, x:x + p], code, lr_out[k])
            dihedral(self._hr[i][s * y:s * (y + p), s * x:s * (x + p)], code, hr_out[k])
        return lr_out, hr_out

    def _draws(self, step):
        """Lists of picture, row, column and dihedral code for this rank's part of the step's batch."""
        chosen = self._order.at(step)
        free = self._lr.shapes[chosen] - self.patch_size + 1
        rows, columns, codes = choices(self._seed, step, np.stack([free[:, 0], free[:, 1], np.full(len(chosen), 8)]))
        if not self._augment:
            codes[:] = 0
        return [part[self._local].tolist() for part in (chosen, rows, columns, codes)]


class Prefetcher:  # batches in the order of the steps, prepared by threads
    """Iterates transform(*sampler.batch(step)) for each of `steps`, at most `depth` ahead; any number of workers gives
    the same sequence. What fails in a worker is raised here. `waited`: seconds the consumer has waited so far.
    End it with close(), a with block, or by dropping it.
    """

    def __init__(self, sampler, steps, depth=4, workers=1, transform=None):
        if depth < 1 or workers < 1:
            raise ValueError(f'depth {depth} and workers {workers} must be at least 1')
        self.waited = 0.0
        self._steps, self._pending, self._depth = iter(steps), deque(), depth
        self._make = (lambda step: transform(*sampler.batch(step))) if transform else sampler.batch
        self._pool = ThreadPoolExecutor(workers)
        self._fill()

    def _fill(self):
        for step in islice(self._steps, self._depth - len(self._pending)):
            self._pending.append(self._pool.submit(self._make, step))

    def __iter__(self):
        return self

    def __next__(self):
        if not self._pending:
            self.close()
            raise StopIteration
        start = perf_counter()
        try:
            batch = self._pending.popleft().result()
        except BaseException:
            self.close()
            raise
        self.waited += perf_counter() - start
        self._fill()
        return batch

    def close(self):
        """Ends the threads; batches under way are finished and dropped."""
        self._steps = iter(())
        for future in self._pending:
            future.cancel()
        self._pending.clear()
        self._pool.shutdown()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
