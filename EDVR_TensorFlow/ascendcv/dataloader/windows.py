"""Training windows: T frames of LR and the middle one of HR, cropped, flipped and turned; (seed, step, rank) decides.

    sampler = WindowSampler(clips, frames=5, crop=(64, 64), batch_size=32, seed=1, rank=0, world_size=8)
    lr, hr = sampler.batch(step)    # uint8 [4,5,64,64,3] and [4,256,256,3]
"""
import numpy as np

from ascendcv.dataloader.clips import SCALE
from ascendcv.dataloader.noise import noisy
from common.draws import Order, choices
from common.patches import dihedral


class WindowSampler:
    """Every window of `frames` frames inside a clip stands once in an epoch; its HR is that of the middle frame. Crops
    are uniform over all positions. Each window has its own flip and turn (no turn where a crop is not square), and its
    own noise. Draws are made for the batch of all ranks and then cut: their batches together are that of a single rank.

    clips: [Frames]; crop: (height, width) of LR, pixels; batch_size: over all ranks; noise: the keys data.noise.*, or
    None. ValueError: no clip is long enough, frames smaller than the crop, a batch_size not divisible by world_size.
    """

    def __init__(self, clips, *, frames, crop, batch_size, seed, rank=0, world_size=1, noise=None):
        if batch_size % world_size:
            raise ValueError(f'batch_size {batch_size} (over all ranks) is not a multiple of world_size {world_size}')
        assert 0 <= rank < world_size, (rank, world_size)
        for clip in clips:
            if min(np.subtract(clip.size, crop)) < 0:
                raise ValueError(f'clip {clip.name}: its LR frames of {clip.size[1]}x{clip.size[0]} pixels are smaller '
                                 f'than the crop {crop[1]}x{crop[0]} (width x height); choose a smaller '
                                 'data.train_in_size, or remove the clip')
        counts = [max(clip.count - frames + 1, 0) for clip in clips]
        if not sum(counts):
            raise ValueError(f'no clip has {frames} frames or more; choose a smaller model.num_frames')
        self.windows, self.batch_size = sum(counts), batch_size
        self._clips, self._frames, self._crop, self._seed, self._noise = clips, frames, crop, seed, noise
        self._noise_seed = seed if noise is None or noise.random_seed is None else noise.random_seed
        self._first, self._sizes = np.cumsum([0, *counts[:-1]]), np.array([clip.size for clip in clips])
        self._order = Order(np.arange(self.windows, dtype=np.int32), batch_size, seed)
        self._local = range(rank * batch_size // world_size, (rank + 1) * batch_size // world_size)

    @property
    def steps_per_epoch(self):
        """Whole batches in an epoch, at least 1; the remainder is not dropped: the next batch begins with it."""
        return self._order.steps_per_epoch

    def batch(self, step):
        """(lr uint8 [b,T,h,w,3], hr uint8 [b,4h,4w,3]) of this rank, b = batch_size / world_size."""
        (h, w), count = self._crop, len(self._local)
        lr_out = np.empty((count, self._frames, h, w, 3), np.uint8)
        hr_out = np.empty((count, SCALE * h, SCALE * w, 3), np.uint8)
        for k, (chosen, start, y, x, code) in enumerate(self._draws(step)):
            clip = self._clips[chosen]
            for t in range(self._frames):
                dihedral(clip.lr(start + t)[y:y + h, x:x + w], code, lr_out[k, t])
            hr = clip.hr(start + self._frames // 2)
            dihedral(hr[SCALE * y:SCALE * (y + h), SCALE * x:SCALE * (x + w)], code, hr_out[k])
            if self._noise:
                lr_out[k] = noisy(lr_out[k], self._noise, self._generator(step, self._local[k]))
        return lr_out, hr_out

    def _draws(self, step):
        """[(clip, first frame, row, column, dihedral code)] of this rank's part of the step's batch."""
        tickets = self._order.at(step)
        chosen = np.searchsorted(self._first, tickets, 'right') - 1
        free = self._sizes[chosen] - self._crop + 1
        turns = np.full(len(tickets), 8 if self._crop[0] == self._crop[1] else 4)
        rows, columns, codes = choices(self._seed, step, np.stack([free[:, 0], free[:, 1], turns]))
        drawn = np.stack([chosen, tickets - self._first[chosen], rows, columns, codes], 1)
        return drawn[self._local.start:self._local.stop].tolist()

    def _generator(self, step, place):
        """Of the noise of a window, by its place in the batch of all ranks."""
        return np.random.Generator(np.random.Philox(key=[self._noise_seed, step], counter=[0, 0, place, 3]))
