"""The one interface to a trained BSRN:

    upscale = upscaler.load('output/X4', device='cpu')
    sr = upscale(lr)    # float32 RGB [H,W,3] in 0..255 to [sH,sW,3], neither clipped nor rounded
"""

import os

import numpy as np

from common.tf import devices
from common.tiles import self_ensemble, tiled
from import_weights import add_overrides, overrides, read_weights
from models.checkpoint import AUTHORS, show
from models.restored import restored, upscaling
from models.session_config import open_device

MEMORY = 8e9  # bytes that upscaling by tiles may take, about
OVERRIDES = (*AUTHORS, 'model_scales', 'conv_features', 'state_features')


class Upscaler:
    """A function lr -> sr over a network in a session: float32 RGB [H,W,3] in 0..255 to float32 RGB [sH,sW,3].

    scale: of those that the network has; recursion: 'ensemble', 'last', the number of a pass, or 'all' (the channels of
    all passes and of the ensemble behind each other). halo: LR pixels around a tile with which tiles equal the whole.
    One graph serves pictures of all sizes.
    """

    def __init__(self, network, session, scale, recursion='ensemble'):
        self.network, self.scale = network, scale
        self._run = upscaling(network, session, scale, recursion)
        self.channels = 3 * (len(network.passes) + 1) if recursion == 'all' else 3
        last = recursion if isinstance(recursion, int) else network.passes[-1]
        # first_conv sees one pixel around, each pass three, and the upsampler with last_conv less than two
        self.halo = 1 + 3 * last + 2

    @property
    def tile(self):
        """Side of the tiles, LR pixels, that take MEMORY bytes, of which an LR pixel was measured to take so many."""
        features, states = self.network.conv_features, self.network.state_features
        of_a_pixel = 70 * (features + states) + 24 * features * self.scale ** 2
        return max(int((MEMORY / of_a_pixel) ** 0.5) - 2 * self.halo, 64)

    def by_tiles(self, tile=None, halo=None):
        """A function lr -> sr that works by tiles of that side, LR pixels; 0: whole pictures; None: `tile`.

        halo: LR pixels of picture around a tile; None: so many that the result is that of the whole picture.
        """
        return tiled(self, self.scale, self.tile if tile is None else tile, self.halo if halo is None else halo,
                     self.channels)

    def __call__(self, lr):
        lr = np.asarray(lr)
        if lr.ndim != 3 or lr.shape[2] != 3 or 0 in lr.shape:
            raise ValueError(f'a picture of shape {lr.shape}; expected RGB [H,W,3]')
        return self._run(lr[None])[0]


def load(checkpoint, *, scale=None, **more):
    """The Upscaler of a checkpoint: ours, the authors' or the port's (import_weights.py); its size is read from it.

    scale: one of its scales, which a network of several needs; more: as load_scales has it. Raises ValueError for a
    file that is no BSRN, or of another scale or size.
    """
    return load_scales(checkpoint, scale and (scale,), **more)[0]


def load_scales(checkpoint, scales=None, *, device='cpu', precision='', kernels='auto', cuda_device='',
                recursion='ensemble', size=None):
    """[Upscaler] for some scales of a network; None: for its only one.

    device: 'cpu', 'gpu', 'npu' or 'auto'; precision, kernels, cuda_device: as common/tf/devices.py has them.
    recursion: as Upscaler has it. size: {argument of BSRN: value or None} where the checkpoint does not say it, or that
    it must agree with.
    """
    weights, found, _ = read_weights(checkpoint, size)
    known = found['scales']
    if not scales and len(known) > 1:
        raise ValueError(f'{checkpoint}: a network of scales {show(known)}; choose one of them (--scales)')
    lacking = sorted(set(scales or ()) - set(known))
    if lacking:
        raise ValueError(f'{checkpoint}: a network of scale {show(known)}, not {lacking[0]}; leave --scales out, or '
                         'choose another checkpoint')
    opened = open_device(device, precision, kernels, cuda_device)
    network, session = restored(found, weights, opened)
    return [Upscaler(network, session, scale, recursion) for scale in scales or known]


def add_options(add):
    """The options of validate_bsrn.py and test_bsrn.py that say how a checkpoint is run; add: parser.add_argument."""
    add('--model', default='bsrn', choices=('bsrn',), help='the network')
    add('--restore_target', default='', choices=('', 'generator'), help='not needed: weights alone are taken')
    add('--restore_global_step', type=int, default=0, help='of a folder, its model.ckpt-N; 0: the newest valid one')
    add_overrides(add, OVERRIDES)
    devices.add_options(add)
    add('--tile', type=int, default=None, help='side of the tiles, LR pixels: the same result as of whole pictures, in '
        'bounded memory; 0: whole pictures; by default as large as about 8 GB allow')
    add('--halo', type=int, default=None, help='LR pixels of picture around a tile; by default as many as the network '
                                               'sees, so that tiles equal the whole picture')
    add('--self_ensemble', action='store_true', help='mean over 8 flips and turns, which the paper does not use')


def load_with(options, checkpoint, recursion='ensemble'):
    """[(upscale, Upscaler)] for --scales, as those options ask for it; upscale works by tiles."""
    for name in ('tile', 'halo'):
        value = getattr(options, name)
        if value is not None and value < 0:
            raise ValueError(f'--{name} {value}: expected 0 or more LR pixels')
    found = load_scales(
        of_step(checkpoint, options.restore_global_step), options.scales, device=options.device,
        precision=options.precision, kernels=options.kernels, cuda_device=options.cuda_device, recursion=recursion,
        size=overrides(options))
    return [(ensembled(one.by_tiles(options.tile, options.halo), options.self_ensemble), one) for one in found]


def ensembled(upscale, wanted):
    return (lambda lr: self_ensemble(upscale, lr)) if wanted else upscale


def of_step(checkpoint, step):
    """The path of a folder's model.ckpt-STEP, where a step is given. ValueError: that step is another one's."""
    if not step:
        return checkpoint
    if os.path.isdir(checkpoint):
        return os.path.join(checkpoint, f'model.ckpt-{step}')
    if not checkpoint.endswith(f'-{step}'):
        raise ValueError(f'--restore_global_step={step} picks a checkpoint of a folder; {checkpoint} is none')
    return checkpoint
