"""Which clips there are, and the frames of a clip, decoded once.

    clips = open_clips(find_clips('/data', 'train.json'), cache_dir)
    clips[0].lr(7), clips[0].hr(7)    # uint8 [h,w,3] and [4h,4w,3], read-only views of a mapped file
"""
import json
import os

from common import images
from common.datasets import Clip, Pair, check_sizes, find_reds, reds_homes, whole_clips
from common.patches import PictureStore

SCALE = 4
SPLITS = {'train': 'train', 'val': 'val', 'reds4': 'REDS4'}  # what REDS itself divides its clips into


def find_clips(data_dir, name):
    """[Clip] (name, folders of HR and LR frames) of a set of clips.

    data_dir: the folder of images/ and sets/, or one that holds it as reds/. name: a file of sets/ as the released
    port has them; without that file 'train', 'val' and 'REDS4' (with or without .json) are what common.datasets finds;
    any other name is a folder in data_dir with such clips, like Vid4/GT/calendar and Vid4/BIx4/calendar.
    ValueError names the folder or file that is missing, or what is wrong in it.
    """
    for home in reds_homes(data_dir):
        path = os.path.join(home, 'sets', name)
        if os.path.isfile(path):
            return whole_clips(_listed(path, home))
    stem = name[:-5] if name.endswith('.json') else name
    if stem.lower() in SPLITS:
        return find_reds(data_dir, SPLITS[stem.lower()])
    for home in reds_homes(data_dir):
        if os.path.isdir(os.path.join(home, name)):
            return find_reds(os.path.join(home, name), 'val')
    places = ''.join(f'\n  {os.path.join(home, place)}' for home in reds_homes(data_dir) for place in
                     (os.path.join('sets', name), name))
    raise ValueError(f'{data_dir}: no set of clips {name!r}; looked for:{places}')


def _listed(path, home):
    """[Clip] that a file of sets/ names, each of its frames counted."""
    try:
        with open(path, encoding='utf-8') as file:
            found = json.load(file)
        prefix, folders = bool(found['prefix']), (str(found['gt_folder']), str(found['x4_folder']))
        videos = [(str(video['name']), int(video['nframes'])) for video in found['videos']]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f'{path}: not a set of clips ({type(error).__name__}: {error}); scripts/make_reds_dataset.py '
                         'writes one') from None
    if not videos:
        raise ValueError(f'{path}: it names no clip')
    clips = []
    for name, count in videos:
        parts = [(folder, name) if prefix else (name, folder) for folder in folders]
        clip = Clip(name, *(os.path.join(home, 'images', *part) for part in parts))
        for folder in clip[1:]:
            if not os.path.isdir(folder):
                raise ValueError(f'{folder}: no such folder; {path} names the clip {name}')
            there = len(images.list_pictures(folder))
            if there != count:
                raise ValueError(f'{folder}: {there} frames, but {path} says {count}')
        clips.append(clip)
    return clips


class Frames:
    """The decoded frames of a clip: lr(i), hr(i); `count` of them, LR of `size` (height, width)."""

    def __init__(self, clip, cache_dir, raw_size=()):
        self.name = clip.name
        lr, hr = (images.list_pictures(folder) for folder in (clip.lr, clip.hr))
        if not lr or not hr:
            raise ValueError(f'{clip.hr if lr else clip.lr}: no frames')
        self._store, self.count = PictureStore.open(lr + hr, cache_dir, label=f'decode clip {clip.name}'), len(lr)
        shapes = self._store.shapes.tolist()
        self.size = tuple(shapes[0])
        for path, lr_shape, hr_path, hr_shape in zip(lr, shapes, hr, shapes[len(lr):]):
            check_sizes(Pair(clip.name, hr_path, path), lr_shape, hr_shape, SCALE)
            for expected, says in ((self.size, 'the first frame of the clip'), (raw_size, 'data.train_raw_size')):
                if expected and tuple(lr_shape) != tuple(expected):
                    raise ValueError(f'{path} is {lr_shape[1]}x{lr_shape[0]} (width x height), {says} '
                                     f'{expected[1]}x{expected[0]}')

    def lr(self, index):
        return self._store[index]

    def hr(self, index):
        return self._store[self.count + index]


def open_clips(clips, cache_dir, raw_size=()):
    """[Frames] of [Clip]. raw_size: (height, width) that LR frames must have, () for any.

    ValueError: frames that cannot be decoded, by name; frames of other sizes; no LR.
    """
    if clips[0].lr is None:
        raise ValueError(f'{clips[0].hr} has no LR frames beside it; expected images/<clip>/blur4 or another layout of '
                         'the README')
    return [Frames(clip, cache_dir, raw_size) for clip in clips]
