"""The pictures and patches of a training. A module here whose name ends in _loader says where pictures lie by default.

Such a module has add_options(add) and pairs(options, scale), [Pair] of the pictures with their LR.
"""
import argparse
import importlib
import os

import numpy as np

from common import cli, datasets, images, patches

LOADERS = sorted(name[:-3] for name in os.listdir(os.path.dirname(__file__)) if name.endswith('_loader.py'))


def chosen(argv):
    """The loader module that --dataloader of a command line names, which declares further options. ValueError: there is
    none of that name.
    """
    parser = cli.Parser(add_help=False)
    add_choice(parser.add_argument)
    name = parser.parse_known_args(argv)[0].dataloader
    if name not in LOADERS:
        raise ValueError(f'--dataloader={name}: no such loader; known: {", ".join(LOADERS)}')
    return importlib.import_module(f'dataloaders.{name}')


def add_choice(add):
    """The option that names a loader module; add: parser.add_argument."""
    add('--dataloader', default='basic_loader', help=f'how the pictures lie: {" or ".join(LOADERS)}')


def add_options(add, lr_folder, hr_folder, layout):
    """The options of a loader module, with the defaults of its folders; layout: how LR pictures are called there."""
    add('--data_input_path', default=lr_folder, help=f'folder of the LR pictures: {layout}')
    add('--data_truth_path', default=hr_folder, help='folder of the HR pictures')
    add('--data_cached', type=boolean, nargs='?', const=True, default=False, help='true: keep all decoded pictures in '
        'memory; false: in files of --cache_dir alone, as fast once Linux has read them')


def boolean(text):
    """true or false, as a word of the command line."""
    if text.lower() not in ('true', 'false', '1', '0'):
        raise argparse.ArgumentTypeError(f'{text!r}: expected true or false')
    return text.lower() in ('true', '1')


def pairs_in(hr_folder, lr_folder, scale):
    """[Pair] of all pictures of a folder, sorted; their LR are in LR_FOLDER/x4 or X4 and called as they are, or NAMEx4.

    ValueError: a folder that is not there or holds none, an LR picture missing.
    """
    hr = images.list_pictures(hr_folder) if os.path.isdir(hr_folder) else []
    if not hr:
        raise ValueError(f'--data_truth_path={hr_folder}: no pictures; expected the folder of the HR pictures')
    places = [os.path.join(lr_folder, f'{letter}{scale}') for letter in 'xX']
    place = next(filter(os.path.isdir, places), None)
    if place is None:
        raise ValueError(f'--data_input_path={lr_folder}: no LR pictures for x{scale}; looked for '
                         + ' and '.join(places))
    return datasets.complete(*datasets.match(hr, place, scale), place)


class Pictures:
    """What common.patches.PictureStore offers, from memory."""

    def __init__(self, store):
        self.names, self.shapes = store.names, store.shapes
        self._pictures = [np.array(store[i]) for i in range(len(store))]

    def __len__(self):
        return len(self._pictures)

    def __getitem__(self, i):
        return self._pictures[i]


class ScaleSampler:
    """A batch is (scale, lr uint8 [b,p,p,3], hr uint8 [b,scale*p,scale*p,3]), its scale drawn from (seed, step) alone.

    samplers: {scale: PatchSampler}.
    """

    def __init__(self, samplers, seed):
        self._samplers, self._scales, self._seed = samplers, list(samplers), seed

    def scale(self, step):
        word = np.random.Philox(key=[self._seed, step], counter=[0, 0, 0, 3]).random_raw()  # 1, 2: common.patches
        return self._scales[(int(word) >> 32) * len(self._scales) >> 32]

    def batch(self, step):
        scale = self.scale(step)
        return (scale, *self._samplers[scale].batch(step))


def open_sampler(pairs, options, rank, world_size):
    """The ScaleSampler of this rank over {scale: [Pair]}; as in the authors' code all pictures are equally likely."""
    samplers, held = {}, {}
    for scale, of_scale in pairs.items():
        stores = patches.open_pairs(of_scale, scale, options.cache_dir)
        if options.data_cached:
            lr_store, hr_store = stores
            names = tuple(hr_store.names)
            held[names] = held.get(names) or Pictures(hr_store)  # all scales have the same HR pictures
            stores = Pictures(lr_store), held[names]
        samplers[scale] = patches.PatchSampler(
            *stores, scale=scale, patch_size=lr_patch_size(options, scale), batch_size=options.batch_size * world_size,
            seed=options.seed, rank=rank, world_size=world_size, by_area=False)
    return ScaleSampler(samplers, options.seed)


def lr_patch_size(options, scale):
    """The side of LR patches, pixels."""
    return options.target_patch_size // scale if options.target_patch_size > 0 else options.input_patch_size
