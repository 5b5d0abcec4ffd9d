"""How EDSR's scores are measured."""
from common.evaluation import Protocol


def protocols(dataset, scale):
    """[Protocol] for a test set, the paper's first: Y and `scale` pixels cropped, of DIV2K RGB and scale + 6.

    Where the released port measured otherwise, that follows: Y and `scale` pixels of DIV2K, too.
    """
    y = Protocol('y', scale)
    return [Protocol('rgb', scale + 6), y] if dataset.lower().startswith('div2k') else [y]
