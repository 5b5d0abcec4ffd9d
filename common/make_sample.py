"""python common/make_sample.py output/sample

Makes a tiny DIV2K, benchmark and REDS tree of the photographs in common/sample, to try every command on real data:

    DIV2K/DIV2K_{train,valid}_HR, _LR_bicubic/X2 X3 X4 X8     four training photographs, one for validation
    benchmark/Sample/HR, LR_bicubic/X2 X3 X4 X8               one photograph, neither trained nor validated on
    reds/images/{000,001,002,011,015,020}/{truth,blur4}       slow sub-pixel pans and zooms: 12 frames, x4
"""
import os
import sys

import cv2
import numpy as np

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))  # `common` is imported from there

from common import cli, images  # noqa: E402
from common.make_lr import make  # noqa: E402
from common.resize import imresize  # noqa: E402

PHOTOGRAPHS = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'sample')
HR_FILES = {
    'div2k': {
        'DIV2K/DIV2K_train_HR/0001.png': 'coffee', 'DIV2K/DIV2K_train_HR/0002.png': 'hubble_deep_field',
        'DIV2K/DIV2K_train_HR/0003.png': 'retina', 'DIV2K/DIV2K_train_HR/0004.png': 'rocket',
        'DIV2K/DIV2K_valid_HR/0801.png': 'astronaut'},
    'benchmark': {'benchmark/Sample/HR/chelsea.png': 'chelsea'}}
SCALES = (2, 3, 4, 8)
FRAMES, HEIGHT, WIDTH = 12, 144, 256  # HR sides are multiples of 16: the x4 LR sides are multiples of EDVR's 4
CLIPS = {  # clip: photograph, motion of the window in pixels per frame (x, y), growth of the window per frame
    '000': ('astronaut', (1.3, 0.4), 0.0), '011': ('chelsea', (-0.7, 0.5), 0.004),
    '015': ('hubble_deep_field', (0.6, -1.1), 0.0), '020': ('retina', (0.0, 0.9), -0.006),
    '001': ('coffee', (-1.2, 0.3), 0.003), '002': ('rocket', (0.8, 0.8), -0.004)}


def photograph(name):
    return images.read(os.path.join(PHOTOGRAPHS, f'{name}.png'), channels=3)


def put(path, image):
    """Writes a picture, unless that very picture is there. ValueError when another one is: it is the user's."""
    if not os.path.exists(path):
        images.write(path, image)
    elif not np.array_equal(images.read(path), image):
        raise ValueError(f'{path} holds another picture, which stays; choose another folder, or remove an old sample')


def make_pictures(output, kind):
    for place, name in HR_FILES[kind].items():
        path = os.path.join(output, place)
        put(path, photograph(name))
        make(path, SCALES)


def frame(picture, velocity, growth, t):
    """Frame t of a clip, uint8 [HEIGHT,WIDTH,3]: a window that moves and grows about the picture's centre; bicubic."""
    time = t - (FRAMES - 1) / 2
    step = 0.95 * (1 + growth * time)  # picture pixels per frame pixel; below 1, so that sampling does not alias
    centre = np.array(picture.shape[1::-1]) / 2 + time * np.array(velocity)
    corner = centre - step * np.array([WIDTH - 1, HEIGHT - 1]) / 2
    to_picture = np.array([[step, 0, corner[0]], [0, step, corner[1]]])
    return cv2.warpAffine(picture, to_picture, (WIDTH, HEIGHT), flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP)


def make_reds(output):
    for clip, (name, velocity, growth) in CLIPS.items():
        picture = photograph(name)
        for t in range(FRAMES):
            truth = frame(picture, velocity, growth, t)
            for part, image in (('truth', truth), ('blur4', imresize(truth, 1 / 4))):
                put(os.path.join(output, 'reds', 'images', clip, part, f'{t:08d}.png'), image)


def main(argv=None):
    """Command line."""
    parser = cli.Parser(prog='make_sample.py', description='Make a tiny DIV2K, benchmark and REDS tree of photographs.')
    parser.add_argument('output', help='folder for DIV2K/, benchmark/ and reds/; made where need be')
    parser.add_argument('--only', choices=['div2k', 'benchmark', 'reds'], help='make this part only')
    args = parser.parse_args(argv)
    for kind in ('div2k', 'benchmark'):
        if args.only in (None, kind):
            make_pictures(args.output, kind)
    if args.only in (None, 'reds'):
        make_reds(args.output)
    print(f'sample data lies in {args.output}: --data_path={args.output}')


if __name__ == '__main__':
    cli.run(main)
