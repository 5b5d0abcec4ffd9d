"""bash run_infer.sh photo.jpg upscaled/ --checkpoint=output/X2/edsr_best.ckpt

Upscales a picture, a folder of pictures or a video. Gray, alpha and 16 bit are kept; a video keeps its time stamps and
sound. Memory is bounded by --tile, and the result is that of the whole picture: tiles overlap by what the network sees.
"""

from common import cli
from common.inference import upscale_path
from upscaler import add_options, load_with


def main(argv=None):
    parser = cli.Parser(description=__doc__)
    add = parser.add_argument
    add('--input', required=True, help='picture, folder of pictures, or video')
    add('--output', required=True, help='file or folder to write; pictures are named {stem}_x{scale}.png')
    add('--checkpoint', required=True, help="checkpoint of train.py or of a MindSpore port, authors' .pt, BasicSR .pth")
    add('--tile', type=int, default=None, help='side of the tiles, LR pixels; 0: whole pictures; by default as '
        'large as about 8 GB allow')
    add('--scale', type=int, default=None, help="must be the checkpoint's when given")
    add_options(add)
    options = parser.parse_args(argv)
    upscale, scale = load_with(options, options.checkpoint, options.tile)
    upscale_path(upscale, options.input, options.output, scale)


if __name__ == '__main__':
    cli.run(main)
