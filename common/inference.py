"""Upscale a user's files with any upscale function: a picture, a folder of pictures, or a video."""
from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path

import numpy as np

from common import cli, files, images, logs, tiles, video
from common.resize import imresize


def upscale_picture(upscale, image, scale):
    """A picture of any kind that images.read gives, `scale` times as large, of the same kind and dtype.

    image: uint8 or uint16; [H,W] gray, [H,W,2] gray and alpha, [H,W,3] RGB, [H,W,4] RGB and alpha. Colours go through
    the network as float32 RGB in 0..255 (gray repeated, and the mean of the answer taken); alpha through the bicubic.
    Raises ValueError when the network gives NaN or a picture of another size.
    """
    rgb, finish = as_rgb(image, scale)
    return finish(tiles.call(upscale, rgb, scale))


def as_rgb(image, scale):
    """(float32 RGB [H,W,3] in 0..255 of a picture of any kind, function of its sr that gives one of that kind)."""
    depth = 257 if image.dtype == np.uint16 else 1  # 65535 = 257 * 255
    layers = image if image.ndim == 3 else image[:, :, None]
    colours = layers.shape[2] - (layers.shape[2] in (2, 4))

    def finish(sr):
        if colours == 1:
            sr = sr.mean(axis=2, keepdims=True)
        sr = images.to_uint8(sr) if depth == 1 else np.clip(np.rint(sr * depth), 0, 65535).astype(np.uint16)
        if colours < layers.shape[2]:
            sr = np.dstack([sr, imresize(layers[:, :, colours], scale)])
        return sr if image.ndim == 3 else sr[:, :, 0]
    return np.repeat(layers[:, :, :colours], 3 // colours, axis=2).astype(np.float32) / depth, finish


def upscale_path(upscale, source, target, scale, ending=None, process=None):
    """Upscale a picture, every picture of a folder, or a video; says what it has written, and returns the paths.

    target: a file name (for one picture or video), else a folder, which gets {stem}_x{scale}.png per picture.
    ending: of such a name before the dot, instead of _x{scale}. process: what a video is upscaled by, as
    video.transcode has it, where its frames are not upscaled one by one.
    In a folder a picture that fails is named and the others are done; then ValueError is raised. ValueError also for a
    source of unknown kind and for a target that is the source; OSError at once when the disk is full. Colour profiles
    of pictures are kept.
    """
    source, target = Path(source), Path(target)
    ending = f'_x{scale}' if ending is None else ending
    if source.is_dir():
        return _upscale_folder(upscale, source, target, scale, ending)
    if not source.exists():
        raise ValueError(f'{source}: no such file or folder; expected a picture, a folder of pictures, or a video')
    extension = source.suffix.lower()
    still_gif = images.is_still_gif(source)
    if extension in video.EXTENSIONS and not still_gif:
        target = _target(source, target, video.WRITABLE, ending + video.default_extension(source))
        video.transcode(source, target, process or (lambda frames: _upscale_frames(upscale, frames, scale)), scale)
    elif extension in images.EXTENSIONS or still_gif:
        target = _target(source, target, images.EXTENSIONS, ending + '.png')
        picture = images.read(source)
        images.encoder(target, picture)  # what the target cannot hold is told before the work, not after it
        with _tiles_shown():
            sr = upscale_picture(upscale, picture, scale)
        write_like(target, sr, source)
    else:
        known = ' '.join(images.EXTENSIONS + video.EXTENSIONS)
        raise ValueError(f'{source}: unknown kind of file; known extensions: {known}')
    print(f'written to {target}', flush=True)
    return [target]


def write_like(target, sr, source):
    """Write `sr` with the colour profile of `source`: its numbers mean other colours without it."""
    profile = images.profile(source)
    images.write(target, sr, profile)
    if profile and images.profile(target) != profile:
        print(f'warning: {target}: cannot hold the colour profile of {source}; .png does', file=sys.stderr, flush=True)


@contextlib.contextmanager
def _tiles_shown():
    """A progress of the tiles of one picture; those of each pass of a self-ensemble are added when it begins."""
    with logs.Progress(None, 'upscale', 'tiles') as progress:
        def show(done, total):
            progress.total = progress.done + 1 + total - done
            progress.update()
        with tiles.watched(show):
            yield


def _upscale_frames(upscale, frames, scale):
    for frame in frames:
        yield upscale_picture(upscale, frame, scale)


def _target(source, target, extensions, ending):
    """The file to write: `target` itself when its extension says so, else a file in the folder `target`."""
    if target.is_dir() or not target.suffix:
        target = target / (source.stem + ending)
    elif target.suffix.lower() not in extensions:
        raise ValueError(f'{target}: cannot write {target.suffix}; expected a folder, or a file name that ends in '
                         + ' '.join(extensions))
    if target.exists() and os.path.samefile(str(source), str(target)):
        raise ValueError(f'{target}: source and target are one file; name another target')
    return target


def _upscale_folder(upscale, source, target, scale, ending):
    if target.suffix.lower() in images.EXTENSIONS and not target.is_dir():
        raise ValueError(f'{target}: {source} is a folder, so its results need a folder')
    if target.is_dir() and os.path.samefile(str(source), str(target)):
        raise ValueError(f'{target}: the results need a folder of their own, where they replace no picture of yours')
    pictures = _with_targets(images.list_pictures(source), target, ending + '.png')
    if not pictures:
        raise ValueError(f'{source}: no pictures; expected files that end in ' + ' '.join(images.EXTENSIONS))
    written, failed = [], []
    with logs.Progress(len(pictures), 'upscale', 'pictures') as progress:
        for picture, result in pictures:
            try:
                write_like(result, upscale_picture(upscale, images.read(picture), scale), picture)
                written.append(result)
            except (ValueError, OSError) as error:
                if files.disk_is_full(error):
                    raise
                failed.append(picture.name)
                print(f'error: {cli.describe(error, picture)}', file=sys.stderr, flush=True)
            progress.update(text=picture.name)
    print(f'{len(written)} of {len(pictures)} pictures written to {target}', flush=True)
    if failed:
        raise ValueError(f'{len(failed)} of {len(pictures)} pictures in {source} failed: ' + ', '.join(failed))
    return written


def _with_targets(pictures, target, ending):
    """(picture, its result) pairs; a.png and a.jpg get results of different names, a_png_x2.png and a_jpg_x2.png."""
    stems = [picture.stem for picture in pictures]
    names = [picture.stem if stems.count(picture.stem) == 1 else picture.name.replace('.', '_') for picture in pictures]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f'several pictures would become {twice[0]}{ending}; rename one of them')
    return [(picture, target / (name + ending)) for picture, name in zip(pictures, names)]
