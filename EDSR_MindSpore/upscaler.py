"""The one interface to a trained EDSR:

    upscale = upscaler.load('edsr_x2.ckpt', device='cpu')
    sr = upscale(lr)    # float32 RGB [H,W,3] in 0..255 to [sH,sW,3], neither clipped nor rounded
"""
from common.ms.checkpoint import agree, load_weights
from common.ms.devices import KERNELS, KINDS
from common.ms.pictures import PictureFunction
from common.tiles import self_ensemble, tiled
from import_weights import read_weights
from src.context import open_device
from src.model import EDSR

MEMORY = 8e9  # bytes that upscaling by tiles may take, about


class Upscaler(PictureFunction):
    """A function lr -> sr over an EDSR; halo: LR pixels around a tile with which tiles equal the whole picture."""

    def __init__(self, network):
        super().__init__(network)
        self.halo = network.halo

    @property
    def tile(self):
        """Side of the tiles, LR pixels, that take MEMORY bytes: 21 were measured for a feature and pixel of SR."""
        window = int((MEMORY / (21 * self.network.n_feats)) ** 0.5) // self.scale
        return max(window - 2 * self.halo, 64)

    def by_tiles(self, tile=None, halo=None):
        """A function lr -> sr that works by tiles of that side, LR pixels; 0: whole pictures; None: `tile`.

        halo: LR pixels of picture around a tile; None: so many that the result is that of the whole picture.
        """
        return tiled(self, self.scale, self.tile if tile is None else tile, self.halo if halo is None else halo)


def load(checkpoint, *, scale=None, device='cpu', device_id=0, kernels='auto', res_scale=None, size=()):
    """The Upscaler of a checkpoint: ours, the ports', the authors' or BasicSR's; size and scale are read from it.

    scale: when given, must be the checkpoint's. device: 'cpu', 'gpu', 'npu' or 'auto'; device_id: its index.
    kernels: of the convolutions (common/ms/devices.py). res_scale: where the file does not say it (import_weights.py).
    size: (argument of EDSR, value or None) that the file must agree with.
    Raises ValueError for a file that is no EDSR, or of another scale or size.
    """
    weights, found, _ = read_weights(checkpoint, res_scale)
    for name, wanted in (('scale', scale), *size):
        if wanted is not None and not agree(wanted, found[name]):
            raise ValueError(f'{checkpoint}: a network of {name} {found[name]}, not {wanted}; leave --{name} out, or '
                             'choose another checkpoint')
    device = open_device(device, device_id)
    network = EDSR(**found, conv=device.convolution(kernels))
    load_weights(network, weights)
    return Upscaler(network)


def add_options(add):
    """The options of eval.py and infer.py that say how a checkpoint is run; add: parser.add_argument."""
    add('--res_scale', type=float, default=None,
        help='where the checkpoint does not say it; else 0.1 for 256 features, 1 for fewer')
    add('--device', default='auto', choices=('auto', *KINDS), help='auto: the best there is')
    add('--device_id', type=int, default=0, help='index of the device')
    add('--kernels', default='auto', choices=KERNELS, help="of a CPU's convolutions; auto: our own, where they compile")
    add('--self_ensemble', action='store_true', help='mean over 8 flips and turns: EDSR+ of the paper')
    add('--halo', type=int, default=None, help='LR pixels of picture around a tile; by default as many as the network '
                                               'sees, so that tiles equal the whole picture')


def load_with(options, checkpoint, tile):
    """(upscale, scale) as those options ask for it; tile: as by_tiles has it."""
    for name, value in (('tile', tile), ('halo', options.halo)):
        if value is not None and value < 0:
            raise ValueError(f'--{name} {value}: expected 0 or more LR pixels')
    size = [(name, getattr(options, name, None)) for name in ('n_resblocks', 'n_feats', 'rgb_range')]
    whole = load(checkpoint, scale=options.scale, device=options.device, device_id=options.device_id,
                 kernels=options.kernels, res_scale=options.res_scale, size=size)
    upscale = whole.by_tiles(tile, options.halo)
    return (lambda lr: self_ensemble(upscale, lr)) if options.self_ensemble else upscale, whole.scale
