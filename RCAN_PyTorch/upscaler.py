"""The one interface to a trained RCAN:

    upscale = upscaler.load('RCAN_BIX2.pth', device='cpu')
    sr = upscale(lr)    # float32 RGB [H,W,3] in 0..255 to [sH,sW,3], neither clipped nor rounded
"""

import numpy as np
import torch

from common.tiles import self_ensemble, tiled
from device import KINDS, open_device
from import_weights import read_weights
from model import RCAN


class Upscaler:
    """A function lr -> sr over a network: float32 RGB [H,W,3] in 0..255 to float32 RGB [sH,sW,3] in 0..255.

    scale: of the network. dtype: None for fp32, or the 16-bit type in which its convolutions run.
    """

    def __init__(self, network, device, dtype=None):
        self.network, self.scale, self._device, self._dtype = network, network.scale, device, dtype

    def __call__(self, lr):
        lr = np.ascontiguousarray(lr, np.float32)  # torch takes no flipped views
        if lr.ndim != 3 or lr.shape[2] != 3 or 0 in lr.shape:
            raise ValueError(f'a picture of shape {lr.shape}; expected RGB [H,W,3]')
        with torch.inference_mode(), self._device.autocast(self._dtype):
            x = torch.from_numpy(lr).to(self._device.torch).permute(2, 0, 1)[None]  # [1,3,H,W], NHWC in memory
            sr = self.network(x * (self.network.rgb_range / 255)) if self.network.rgb_range != 255 else self.network(x)
            sr = sr[0].permute(1, 2, 0).float() * (255 / self.network.rgb_range)
        return np.ascontiguousarray(sr.cpu().numpy())


def load(checkpoint, *, scale=None, device='cpu', device_id=0, amp=False, size=()):
    """The Upscaler of a checkpoint: ours, the port's, the authors' or BasicSR's; size and scale are read from it.

    scale: when given, must be the checkpoint's. device: 'cpu', 'gpu', 'npu' or 'auto'; device_id: its index.
    amp: convolutions in 16 bit (README, Speed). size: (argument of RCAN, value or None) that the file must agree with.
    Raises ValueError for a file that is no RCAN, or of another scale or size.
    """
    weights, found, _ = read_weights(checkpoint)
    for name, wanted in (('scale', scale), *size):
        if wanted not in (None, found[name]):
            raise ValueError(f'{checkpoint}: a network of {name} {found[name]}, not {wanted}; leave --{name} out, or '
                             'choose another checkpoint')
    device = open_device(device, device_id)
    network = RCAN(**found)
    network.load_state_dict(weights)
    network.requires_grad_(False).eval().to(device.torch, memory_format=device.memory_format)
    return Upscaler(network, device, device.half() if amp else None)


def add_options(add):
    """The options of test.py and infer.py that say how a checkpoint is run; add: parser.add_argument."""
    add('--scale', type=int, default=None, help="must be the checkpoint's when given")
    add('--device', default='auto', choices=('auto', *KINDS), help='auto: the best there is')
    add('--device_id', type=int, default=0, help='index of the device')
    add('--amp', action='store_true', help='convolutions in 16 bit: bf16 where the device has it')
    add('--self_ensemble', action='store_true', help='mean over 8 flips and turns: RCAN+ of the paper')
    add('--halo', type=int, default=16, help='LR pixels of picture around a tile')


def load_with(options, checkpoint, tile):
    """(upscale, scale) as those options ask for it; tile: side in LR pixels, 0: whole pictures."""
    size = [(name, getattr(options, name, None)) for name in ('num_features', 'num_rg', 'num_rcab')]
    whole = load(checkpoint, scale=options.scale, device=options.device, device_id=options.device_id, amp=options.amp,
                 size=size)
    upscale = tiled(whole, whole.scale, tile, options.halo)
    return (lambda lr: self_ensemble(upscale, lr)) if options.self_ensemble else upscale, whole.scale
