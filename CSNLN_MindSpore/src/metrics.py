"""How CSNLN's scores are measured."""
from common.evaluation import Protocol


class InParts(Protocol):
    """Of pictures that were upscaled in parts (src/chop.py), by which the result differs: `y/crop2/chop`."""

    @property
    def name(self):
        return super().name + '/chop'


def protocols(dataset, scale, chop=False):
    """[Protocol] for a test set, the paper's first: Y and `scale` pixels cropped, of DIV2K RGB and scale + 6.

    Where the released port measured otherwise, that follows: Y and `scale` pixels of DIV2K, too. chop: whether the
    pictures are upscaled in parts.
    """
    kind = InParts if chop else Protocol
    y = kind('y', scale)
    return [kind('rgb', scale + 6), y] if dataset.lower().startswith('div2k') else [y]
