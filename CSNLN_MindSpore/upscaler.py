"""The one interface to a trained CSNLN:

    upscale = upscaler.load('csnln_x2.ckpt', device='cpu')
    sr = upscale(lr)    # float32 RGB [H,W,3] in 0..255 to [sH,sW,3], neither clipped nor rounded
"""
import functools
import math

from common.ms.checkpoint import agree, load_weights
from common.ms.pictures import PictureFunction
from common.tiles import is_out_of_memory, self_ensemble
from import_weights import read_weights
from src import memory
from src.chop import chopped, part_of
from src.context import layers, open_device
from src.CSNLN import CSNLN
from src.looped import Looped


class Upscaler(PictureFunction):
    """A function lr -> sr over a CSNLN, which takes pictures whole; memory_limit: bytes that planned() may plan for."""

    def __init__(self, network, memory_limit=math.inf):
        super().__init__(network, network.unit, Looped(network))
        self.memory_limit, self._said = memory_limit, set()

    def __call__(self, lr):
        try:
            return super().__call__(lr)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        raise ValueError(f'{lr.shape[0]}x{lr.shape[1]} pixels: memory ran out; upscale it in parts, by --chop or a '
                         'smaller --memory_limit')

    def graph(self, height, width):
        """One for all sizes, or where MindSpore's operators cannot hold all scores at once, one of that size alone."""
        at_once, by_blocks = memory.scores(self.network, height, width)
        return self._inference if at_once > by_blocks else super().graph(height, width)

    def memory(self, height, width):
        """Bytes that a whole LR picture of that size takes, about."""
        return memory.peak(self.network, *(-(-side // self.unit) * self.unit for side in (height, width)))

    def planned(self, sizes, chop=False, ensemble=False):
        """(function lr -> sr, whether it goes by parts) for LR pictures of these (height, width), in one way for all.

        They are taken whole where the largest fits memory_limit and not chop; else in the authors' parts. What was
        chosen is printed, once, with the memory that it takes. ensemble: the function gives the mean over 8 flips and
        turns. Raises ValueError where not even the parts fit memory_limit.
        """
        if not sizes:
            return self, chop
        size = max(sizes, key=lambda size: self.memory(*size))
        part = max((part_of(*size, self.scale) for size in sizes), key=lambda part: self.memory(*part))
        whole, least = self.memory(*size), self.memory(*part)
        (size, part), up_to = (f'{height}x{width}' for height, width in (size, part)), 'up to ' * (len(sizes) > 1)
        limit = f'{say(self.memory_limit)} (--memory_limit; by default half of what is free)'
        if least > self.memory_limit:
            raise ValueError(f'{size} pixels: a part of {part} alone takes about {say(least)}, more than {limit}')
        by_parts = chop or whole > self.memory_limit
        way = f'in parts of {up_to}{part}: about {say(least)}' if by_parts else f'whole: about {say(whole)}'
        why = f'; whole about {say(whole)}, more than {limit}' if by_parts and not chop else ''
        self.tell(f'{up_to}{size} pixels, {way} of memory{why}')
        upscale = chopped(self, self.scale) if by_parts else self
        return functools.partial(self_ensemble, upscale) if ensemble else upscale, by_parts

    def tell(self, line):
        """Print a line that was not printed before."""
        if line not in self._said:
            self._said.add(line)
            print(line, flush=True)


def say(size):
    """Bytes as text."""
    return f'{size / 1e9:.1f} GB' if size >= 1e9 else f'{size / 1e6:.0f} MB'


def load(checkpoint, *, scale=None, device='cpu', device_id=0, kernels='auto', memory_limit=None, compat=None, size=()):
    """The Upscaler of a checkpoint: ours, the port's or the authors'; size and scale are read from it.

    scale: when given, must be the checkpoint's. device: 'cpu', 'gpu', 'npu' or 'auto'; device_id: its index.
    kernels: of the layers (common/ms/devices.py). memory_limit: bytes that a pass may take; None: of a CPU half of what
    is free (src/memory.py). compat: 'paper' or 'port', must be the checkpoint's. size: (argument of CSNLN, value or
    None) that the file must agree with. Raises ValueError for a file that is no CSNLN, or of another scale or size.
    """
    weights, found, _ = read_weights(checkpoint, compat)
    for name, wanted in (('scale', scale), *size):
        if wanted is not None and not agree(wanted, found[name]):
            raise ValueError(f'{checkpoint}: a network of {name} {found[name]}, not {wanted}; leave --{name} out, or '
                             'choose another checkpoint')
    device = open_device(device, device_id)
    memory_limit = memory.limit(device.kind, memory_limit)
    network = CSNLN(**found, layers=layers(device, kernels, memory_limit))
    load_weights(network, weights)
    return Upscaler(network, memory_limit)
