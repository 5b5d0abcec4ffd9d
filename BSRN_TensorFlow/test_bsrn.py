"""bash run_infer.sh photo.jpg upscaled/ --checkpoint=output/X4/model.ckpt-best

Upscales a picture, a folder of pictures or a video. Gray, alpha and 16 bit are kept; a video keeps its time stamps and
sound. Memory is bounded by --tile, and the result is that of the whole picture: tiles overlap by what the network sees.
The released port's own form is python3 test_bsrn.py --input_path=LR --output_path=SR --restore_path=model.ckpt-540
"""

import argparse
import os

from common import cli
from common.inference import upscale_path
from models.bsrn import scale_list
from upscaler import add_options, load_with


def recursion(text):
    """ensemble, last, or the number of a pass."""
    if text not in ('ensemble', 'last') and not text.isdecimal():
        raise argparse.ArgumentTypeError(f'{text!r}: expected ensemble, last, or the number of a pass')
    return int(text) if text.isdecimal() else text


def main(argv=None):
    parser = cli.Parser(description=__doc__)
    add = parser.add_argument
    add('--input', '--input_path', default='LR', help='picture, folder of pictures, or video')
    add('--output', default='', help='file or folder to write; pictures are named {stem}_x{scale}.png')
    add('--output_path', default='', help='folder to write, as the released port does it: x{scale}/{stem}.png; SR when '
        'neither is given')
    add('--checkpoint', '--restore_path', required=True, help="checkpoint of train.py, the authors or the port: its "
        'prefix, or a folder')
    add('--scales', '--scale', type=scale_list, default=None, help='of those that the network has; empty: its only one')
    add('--recursion', type=recursion, default='ensemble', help='the picture of which pass: a number, last, or '
        'ensemble, the weighted mean of all')
    add_options(add)
    options = parser.parse_args(argv)
    if options.output and options.output_path:
        raise ValueError(f'--output={options.output} --output_path={options.output_path}: name one of them')
    if options.output and len(options.scales or ()) > 1:
        raise ValueError(f'--output={options.output} takes one of --scales; --output_path keeps several apart')
    for upscale, whole in load_with(options, options.checkpoint, options.recursion):
        port_folder = os.path.join(options.output_path or 'SR', f'x{whole.scale}')
        upscale_path(upscale, options.input, options.output or port_folder, whole.scale,
                     ending=None if options.output else '')


if __name__ == '__main__':
    cli.run(main)
