"""Which pictures a run trains and validates on, by the options of the authors' framework, and patches as tensors."""
import argparse
import os
import re
from functools import lru_cache
from time import perf_counter

import mindspore as ms
import numpy as np
from mindspore import Tensor
from mindspore.dataset import GeneratorDataset

from common import datasets, patches

DIV2K_TRAIN = 800  # DIV2K's pictures 1..800 are for training, 801..900 for validation


def names(text):
    """'DIV2K+Set5' as ['DIV2K', 'Set5']; '' as []."""
    found = [part for part in text.split('+') if part]
    if len({name.lower() for name in found}) < len(found):
        raise argparse.ArgumentTypeError(f'{text!r}: names a set twice')
    return found


def ranges(text):
    """'1-800/801-900' as [[1, 800], [801, 900]]; '1-800' as [[1, 800]]."""
    if not re.fullmatch(r'\d+-\d+(/\d+-\d+)?', text):
        raise argparse.ArgumentTypeError(f'{text!r}: expected a form such as 1-800/801-900')
    found = [[int(end) for end in part.split('-')] for part in text.split('/')]
    if not all(1 <= first <= last <= 900 for first, last in found):
        raise argparse.ArgumentTypeError(f'{text!r}: expected numbers from 1 to 900, the smaller one first')
    return found


def find_training(folder, sets, scale, div2k):
    """[Pair] of these sets below the folder: of DIV2K the pictures first..last that div2k tells, of others all.

    Raises ValueError that names the places looked for.
    """
    pairs = []
    for name in sets:
        if name.lower() == 'div2k':
            pairs += div2k_pairs(folder, scale, *div2k)
        else:
            pairs += datasets.find_pairs(os.path.join(folder, name), scale)
    return pairs


def find_tests(folder, sets, scale, div2k=None):
    """[(name, [Pair])] of these sets, likewise; without div2k, DIV2K is left out."""
    found = []
    for name in sets:
        if name.lower() != 'div2k':
            found.append((name, datasets.find_benchmark(folder, name, scale)))
        elif div2k:
            found.append((name, div2k_pairs(folder, scale, *div2k)))
    return found


def div2k_pairs(folder, scale, first, last):
    """[Pair] of DIV2K's pictures first..last, counted from 1."""
    pairs = []
    if first <= DIV2K_TRAIN:
        pairs += datasets.find_div2k(folder, 'train', scale, first=first, last=min(last, DIV2K_TRAIN))
    if last > DIV2K_TRAIN:
        pairs += datasets.find_div2k(folder, 'valid', scale, first=max(first, DIV2K_TRAIN + 1), last=last)
    return pairs


class PictureFiles:
    """What common.patches.PictureStore offers, without its cache: a picture is decoded whenever it is asked for."""

    def __init__(self, names, shapes, read):
        self.names, self.shapes, self._read = names, np.array(shapes), read

    def __len__(self):
        return len(self.names)

    def __getitem__(self, i):
        return self._read(i)


def open_files(pairs, scale, kept):
    """(lr, hr) PictureFiles; `kept` pairs stay decoded, since the HR of a pair is asked for right after its LR.

    Each is decoded once now, so that a broken one is found before the training.
    """
    def shapes(pair):
        return [image.shape[:2] for image in datasets.load_pair(pair, scale)]
    lr_shapes, hr_shapes = zip(*patches.in_order(shapes, pairs, 'check'))
    load = lru_cache(kept)(lambda i: datasets.load_pair(pairs[i], scale))
    return (PictureFiles([pair.lr or pair.hr for pair in pairs], lr_shapes, lambda i: load(i)[0]),
            PictureFiles([pair.hr for pair in pairs], hr_shapes, lambda i: load(i)[1]))


def open_sampler(pairs, options, device):
    """(PatchSampler of this rank over these pictures, steps in an epoch).

    options: ext, cache_dir, workers; scale, patch_size (HR pixels), no_augment, seed; batch_size (of each device) and
    test_every, all as the command line names them. As in the authors' code every picture is taken equally often, and
    pictures are repeated until an epoch has about --test_every steps on one device; N devices share these.
    """
    if options.ext == 'img':
        lr_store, hr_store = open_files(pairs, options.scale, kept=2 * options.workers)
    elif options.ext == 'sep_reset' and device.world_size > 1:
        raise ValueError(f'--ext=sep_reset on {device.world_size} devices: each would decode all pictures anew; decode '
                         'them on one device (--train_steps=1), then use --ext=sep')
    else:
        lr_store, hr_store = patches.open_pairs(pairs, options.scale, options.cache_dir, options.ext == 'sep_reset')
    batch_size = options.batch_size * device.world_size
    sampler = patches.PatchSampler(
        lr_store, hr_store, scale=options.scale, patch_size=options.patch_size // options.scale, batch_size=batch_size,
        seed=options.seed, rank=device.rank, world_size=device.world_size, augment=not options.no_augment,
        by_area=False)
    repeat = max(options.batch_size * options.test_every // len(pairs), 1)
    return sampler, max(len(pairs) * repeat // batch_size, 1)


def open_batches(sampler, steps, workers, device):
    """Iterates (lr, hr), uint8 tensors [b,p,p,3] and [b,sp,sp,3]; `waited`: seconds the consumer has waited so far.

    On a CPU threads of our own prepare them: of a step of 50 ms 0.05 % are waited for, with a GeneratorDataset 0.5 to
    1.2 %. Elsewhere MindSpore's queue on the device takes them from a GeneratorDataset, ahead of the steps; where no
    steps are left there is no queue, since MindSpore refuses a dataset of no rows.
    """
    if device.kind == 'cpu' or not steps:
        return patches.Prefetcher(sampler, steps, depth=2 * workers, workers=workers, transform=tensors)
    return SunkBatches(sampler, steps, workers)


def tensors(*batch):
    """numpy arrays as tensors that share their memory."""
    return [Tensor.from_numpy(array) for array in batch]


class SunkBatches:  # with SunkBatches(sampler, range(start, stop), workers) as batches: for lr, hr in batches: ...
    """Batches that wait in the device's own queue (data sink)."""

    def __init__(self, sampler, steps, workers):
        workers = min(workers, os.cpu_count() or 1)  # MindSpore refuses more
        dataset = GeneratorDataset(Batches(sampler, steps), ['lr', 'hr'], shuffle=False, num_parallel_workers=workers,
                                   python_multiprocessing=False)
        self._next, self._left, self.waited = ms.data_sink(pair_of, dataset), len(steps), 0.0

    def __iter__(self):
        return self

    def __next__(self):
        if not self._left:
            raise StopIteration
        start = perf_counter()
        batch = self._next()
        self.waited += perf_counter() - start
        self._left -= 1
        return batch

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._left = 0


class Batches:
    """The source of a GeneratorDataset: batch k is that of steps[k]."""

    def __init__(self, sampler, steps):
        self._sampler, self._steps = sampler, steps

    def __len__(self):
        return len(self._steps)

    def __getitem__(self, k):
        return self._sampler.batch(self._steps[k])


def pair_of(lr, hr):
    """What the queue gives for a step, as it is."""
    return lr, hr
