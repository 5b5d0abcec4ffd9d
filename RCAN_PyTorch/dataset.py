"""Which pictures a run trains and validates on, and its patches as tensors."""

import os

import torch

from common import datasets, patches
from common.evaluation import Protocol


def training_pairs(folder, scale):
    """[Pair] below a folder that a user names: what dataset_make.py wrote, DIV2K, HR/ with LR_bicubic/, or HR alone.

    Raises ValueError listing the places looked for.
    """
    tiles = os.path.join(folder, f'X{scale}', 'train')
    return datasets.find_pairs(tiles if os.path.isdir(os.path.join(tiles, 'HR')) else folder, scale)


def test_pairs(folder, scale, dataset=''):
    """[Pair] to measure on: benchmark set `dataset` below folder, or else what the folder holds for validation.

    That is X{scale}/valid of dataset_make.py, DIV2K's validation pictures, or the folder itself.
    Raises ValueError listing the places looked for.
    """
    if dataset:
        return datasets.find_benchmark(folder, dataset, scale)
    valid = os.path.join(folder, f'X{scale}', 'valid')
    if os.path.isdir(os.path.join(valid, 'HR')):
        return datasets.find_pairs(valid, scale)
    try:
        return datasets.find_div2k(folder, 'valid', scale)
    except ValueError:
        return datasets.find_pairs(folder, scale)


def open_sampler(options, device):
    """The PatchSampler of this rank over the decoded training pictures."""
    pairs = training_pairs(options.train_dataset_dir, options.scale)
    lr_store, hr_store = patches.open_pairs(pairs, options.scale, options.cache_dir)
    return patches.PatchSampler(lr_store, hr_store, scale=options.scale, patch_size=options.patch_size,
                                batch_size=options.batch_size, seed=options.seed, rank=device.rank,
                                world_size=device.world_size)


def open_batches(sampler, steps, workers, device):
    """A Prefetcher of (lr, hr) uint8 tensors [b,3,p,p] and [b,3,sp,sp], NHWC in memory, on the device."""
    pinned = device.kind == 'gpu'

    def to_device(*batch):
        tensors = [torch.from_numpy(patch).permute(0, 3, 1, 2) for patch in batch]
        if pinned:
            tensors = [tensor.pin_memory() for tensor in tensors]
        return [tensor.to(device.torch, non_blocking=pinned) for tensor in tensors]
    return patches.Prefetcher(sampler, steps, depth=2 * workers, workers=workers, transform=to_device)


def protocols(scale):
    """How RCAN's scores are measured: the paper's protocol first, then the released port's."""
    return [Protocol('y', scale), Protocol('y', scale + 6, 'truncate', sample_covariance=True)]
