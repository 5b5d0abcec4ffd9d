"""python3 scripts/regroup_reds_dataset.py data/reds

Gathers REDS as it is unpacked into one folder, as the paper trains on it: the 240 clips of the training set as
images/000 ... images/239, the 30 of the validation set as images/240 ... images/269, HR in truth/, LR (x4) in blur4/.
The originals stay as they are; what is there already is left. The exit status is 1 where LR frames are missing.
"""
import os
import shutil
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))  # `common` is imported from there

from common import cli, images, logs  # noqa: E402
from common.datasets import reds_homes, reds_layouts  # noqa: E402

FIRST = {'train': 0, 'val': 240}  # number of each part's clip 000
COUNT = {'train': 240, 'val': 30}
FRAMES = 100


def regroup(datadir, put):
    """Gathers the clips of a folder; returns [what is missing]. ValueError: there are none, or a file is in the way."""
    layouts = [(part, clips) for part, clips in reds_layouts(datadir) if part in FIRST]
    if not layouts:
        places = ''.join(f'\n  {home}' for home in reds_homes(datadir))
        raise ValueError(f'{datadir}: no train/train_sharp or val/val_sharp; scripts/download_REDS.py --unzip makes '
                         f'them; looked in:{places}')
    home = home_of(layouts[0][1][0].hr)
    missing = []
    with logs.Progress(sum(len(clips) for _, clips in layouts), 'regroup', 'clips') as progress:
        for part, clips in layouts:
            for clip in clips:
                missing += regroup_clip(clip, os.path.join(home, 'images', number_of(part, clip)), put)
                progress.update()
    return home, missing


def home_of(folder):
    """The folder that holds train/train_sharp/000 or train_sharp/000."""
    home = os.path.dirname(os.path.dirname(folder))
    return os.path.dirname(home) if os.path.basename(home).lower() in FIRST else home


def number_of(part, clip):
    """The name of a clip among all: 240 for that of the validation set that is called 000."""
    if not clip.name.isdecimal() or int(clip.name) >= COUNT[part]:
        raise ValueError(f'{clip.hr}: expected clips 000 ... {COUNT[part] - 1:03d} in that folder')
    return f'{FIRST[part] + int(clip.name):03d}'


def regroup_clip(clip, target, put):
    """[What is missing] of a clip, the rest of it put into the folder `target`."""
    hr = [os.path.basename(path) for path in images.list_pictures(clip.hr)]
    lr = [os.path.basename(path) for path in images.list_pictures(clip.lr)] if clip.lr else []
    for source, names, part in ((clip.hr, hr, 'truth'), (clip.lr, lr, 'blur4')):
        for name in names:
            place(os.path.join(source, name), os.path.join(target, part, name), put)
    unpaired = sorted(set(hr) ^ set(lr))
    if unpaired:
        return [f'{clip.hr}: {len(hr)} frames, {len(lr)} of LR in {clip.lr or "no folder"}; first: {unpaired[0]}']
    return []


def place(source, target, put):
    """Put the file there, unless it is. ValueError: another one is."""
    if os.path.lexists(target):
        if not os.path.exists(target) or os.path.getsize(target) != os.path.getsize(source):
            raise ValueError(f'{target}: is there, but not the file {source}; move it away')
        return
    os.makedirs(os.path.dirname(target), exist_ok=True)
    try:
        put(source, target)
    except OSError as error:
        if put is not os.link:
            raise
        raise OSError(f'{target}: no hard link can be made ({error.strerror}); choose --symlink or --copy') from None


def symlink(source, target):
    os.symlink(os.path.relpath(os.path.realpath(source), os.path.realpath(os.path.dirname(target))), target)


def copy(source, target):
    shutil.copyfile(source, f'{target}.part')
    os.replace(f'{target}.part', target)


def main(argv=None):
    parser = cli.Parser(description=__doc__.splitlines()[2])
    parser.add_argument('datadir', help='folder with train/ and val/, as the archives are unpacked')
    kinds = parser.add_mutually_exclusive_group()
    kinds.add_argument('--symlink', action='store_true', help='symbolic links instead of hard links')
    kinds.add_argument('--copy', action='store_true', help='copies instead of hard links: twice the space')
    options = parser.parse_args(argv)
    home, missing = regroup(options.datadir, copy if options.copy else symlink if options.symlink else os.link)
    clips = next(clips for part, clips in reds_layouts(home) if part == 'all')
    there = {clip.name for clip in clips}
    absent = [f'{number:03d}' for number in range(sum(COUNT.values())) if f'{number:03d}' not in there]
    print(f'{home}/images: {len(clips)} clips of {sum(COUNT.values())}')
    if absent:
        print(f'note: not there: {", ".join(absent[:8])}' + (f' and {len(absent) - 8} more' if absent[8:] else ''))
    for clip in clips:
        count = len(images.list_pictures(clip.hr))
        if count != FRAMES:
            print(f'note: {clip.hr} has {count} frames, those of REDS have {FRAMES}')
    for line in missing:
        print(f'error: {line}', file=sys.stderr)
    return int(bool(missing))


if __name__ == '__main__':
    cli.run(main)
