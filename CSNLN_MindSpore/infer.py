"""bash run_infer.sh photo.jpg upscaled/ --checkpoint=output/X2/model_best.ckpt

Upscales a picture, a folder of pictures or a video. Gray, alpha and 16 bit are kept; a video keeps its time stamps and
sound. A picture is taken whole where memory allows, else in the authors' parts; what is done, and the memory that it
takes, is printed before.
"""
from common import cli
from common.inference import upscale_path
from common.ms.devices import KERNELS, KINDS
from src.config import gigabytes
from src.CSNLN import COMPATS
from upscaler import load


def main(argv=None):
    parser = cli.Parser(description=__doc__)
    add = parser.add_argument
    add('--input', required=True, help='picture, folder of pictures, or video')
    add('--output', required=True, help='file or folder to write; pictures are named {stem}_x{scale}.png')
    add('--checkpoint', required=True, help="checkpoint of train.py or of the released port, or authors' .pt")
    add('--scale', type=int, default=None, help="must be the checkpoint's when given")
    add('--compat', default=None, choices=COMPATS, help="must be the checkpoint's when given")
    add('--device', default='auto', choices=('auto', *KINDS), help='auto: the best there is')
    add('--device_id', type=int, default=0, help='index of the device')
    add('--kernels', default='auto', choices=KERNELS, help="of a CPU's layers; auto: our own, where they compile")
    add('--memory_limit', type=gigabytes, default=None, help='GB that upscaling may take; 0, the default: half of what '
        'a CPU has free, 16 on another device')
    add('--chop', action='store_true', help="in the authors' parts, whatever the memory")
    add('--self_ensemble', action='store_true', help='mean over 8 flips and turns')
    options = parser.parse_args(argv)
    upscaler = load(options.checkpoint, scale=options.scale, device=options.device, device_id=options.device_id,
                    kernels=options.kernels, memory_limit=options.memory_limit, compat=options.compat)

    def upscale(lr):
        return upscaler.planned([lr.shape[:2]], options.chop, options.self_ensemble)[0](lr)
    upscale_path(upscale, options.input, options.output, upscaler.scale)


if __name__ == '__main__':
    cli.run(main)
