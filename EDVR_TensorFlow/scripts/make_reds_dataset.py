"""python3 scripts/make_reds_dataset.py data/reds

Writes sets/train.json and sets/val.json for the clips in images/: which there are, how large, of how many frames.
REDS4, that is clips 000, 011, 015 and 020, are held out for validation; all others are for training.
"""
import json
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))  # `common` is imported from there

from common import checkpoints, cli, images  # noqa: E402
from common.datasets import REDS4, Clip, check_sizes, reds_layouts, whole_clips  # noqa: E402

SCALE = 4
TRUTH, LR = 'truth', 'blur4'


def describe(clip):
    """What a file of sets/ says of a clip, from its first frames. ValueError: an empty one, or sizes that disagree."""
    hr, lr = (images.list_pictures(folder) for folder in (clip.hr, clip.lr))
    if not hr:
        raise ValueError(f'{clip.hr}: no frames')
    hr_shape, lr_shape = images.size(hr[0]), images.size(lr[0])
    check_sizes(Clip(clip.name, hr[0], lr[0]), lr_shape, hr_shape, SCALE)
    return {'name': clip.name, 'gt_shape': list(hr_shape), 'x4_shape': list(lr_shape), 'nframes': len(hr)}


def write(path, prefix, videos):
    def save(temporary):
        with open(temporary, 'w', encoding='utf-8') as file:
            json.dump({'prefix': prefix, 'gt_folder': TRUTH, 'x4_folder': LR, 'videos': videos}, file, indent=1)
    checkpoints.save(path, save)
    print(f'written to {path}: {len(videos)} clips, {sum(video["nframes"] for video in videos)} frames')


def main(argv=None):
    parser = cli.Parser(description=__doc__.splitlines()[2])
    parser.add_argument('datadir', help='folder with images/, or the one that holds it as reds/')
    datadir = parser.parse_args(argv).datadir
    clips = next((clips for part, clips in reds_layouts(datadir) if part == 'all'), None)
    if not clips:
        raise ValueError(f'{datadir}: no images/<clip>/{TRUTH} or images/{TRUTH}/<clip>; '
                         'scripts/regroup_reds_dataset.py makes them')
    if clips[0].lr is None:
        raise ValueError(f'{clips[0].hr}: no LR frames beside it; expected a folder {LR}')
    prefix = os.path.basename(clips[0].hr) != TRUTH
    home = os.path.dirname(os.path.dirname(os.path.dirname(clips[0].hr)))
    videos = [describe(clip) for clip in whole_clips(clips)]
    for name, chosen in (('train', [video for video in videos if video['name'] not in REDS4]),
                         ('val', [video for video in videos if video['name'] in REDS4])):
        if chosen:
            write(os.path.join(home, 'sets', f'{name}.json'), prefix, chosen)
        else:
            print(f'note: no clips for {name}.json: REDS4 are {", ".join(REDS4)}; not written')


if __name__ == '__main__':
    cli.run(main)
