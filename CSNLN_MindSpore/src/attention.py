"""The two attentions of CSNLN, and how its convolutions are computed, by MindSpore's own operators."""
from mindspore import nn, ops

SHARPNESS = 10  # factor of the cross-scale scores before their softmax
OVERLAP = 6  # what the sum of the pasted patches is divided by
SMALLEST_NORM = 1e-4


class Builtin:
    """The layers of CSNLN(layers=...) by MindSpore's operators. product: of matrices, [N,i,j] by [N,j,k]."""

    def __init__(self, product=ops.bmm):
        self.convolution, self.pointwise, self.prelu = Conv(1), Conv(0), PReLU()
        self.in_scale, self.cross_scale = InScale(product), CrossScale(product)

    def shuffle(self, factor):
        """A Cell [N,C*factor*factor,H,W] to [N,C,factor*H,factor*W]."""
        return nn.PixelShuffle(factor)

    def unshuffle(self, factor):
        """A Cell that undoes it."""
        return nn.PixelUnshuffle(factor)


class Conv(nn.Cell):  # x [N,C,H,W], weight [O,C,k,k], bias [O] or None to [N,O,H,W]
    def __init__(self, padding):
        super().__init__()
        self.padding = padding

    def construct(self, x, weight, bias):
        return ops.conv2d(x, weight, bias, pad_mode='pad', padding=self.padding)


class PReLU(nn.Cell):  # x [N,C,H,W], slopes [1] or [C]
    def construct(self, x, slopes):
        return ops.prelu(x, slopes)


class InScale(nn.Cell):
    """Every pixel of v, weighed by the softmax of its likeness: query and key [N,D,H,W], v [N,C,H,W] to [N,C,H,W]."""

    def __init__(self, product):
        super().__init__()
        self.product = product

    def construct(self, query, key, v):
        n, d, c = query.shape[0], query.shape[1], v.shape[1]
        scores = self.product(query.reshape(n, d, -1).swapaxes(1, 2), key.reshape(n, d, -1))  # [N, queries, keys]
        return self.product(v.reshape(n, c, -1), ops.softmax(scores, -1).swapaxes(1, 2)).reshape(v.shape)


class CrossScale(nn.Cell):
    """Each 3x3 neighbourhood of query [N,D,H,W] finds like ones in key [N,D,H/s,W/s], and the 3s x 3s pixels of v
    [N,C,H,W] there are pasted, enlarged s times, over its own: [N,C,sH,sW].
    """

    def __init__(self, product):
        super().__init__()
        self.product = product

    def construct(self, query, key, v):
        n, c, height, width = v.shape
        s = height // key.shape[2]
        keys, queries = patches(key), patches(query)
        norm = ops.sqrt(ops.maximum((keys * keys).sum(1, keepdims=True), SMALLEST_NORM ** 2))  # never 0 under the root
        scores = self.product((keys * (SHARPNESS / norm)).swapaxes(1, 2), queries)  # [N, keys, queries]
        pasted = self.product(patches(ops.pixel_unshuffle(v, s)), ops.softmax(scores, 1))  # [N, 9*C*s*s, queries]
        return ops.pixel_shuffle(overlaid(pasted.reshape(n, 9, -1, height, width)), s) / OVERLAP


def patches(x):
    """The 3x3 neighbourhoods, zeros around, of x [N,C,H,W]: [N,9*C,H*W], row and column of the patch before C."""
    height, width = x.shape[2:]
    x = ops.pad(x, (1, 1, 1, 1))
    shifted = ()
    for i in range(3):
        for j in range(3):
            shifted += (x[:, :, i:i + height, j:j + width],)
    return ops.concat(shifted, 1).reshape(x.shape[0], -1, height * width)


def overlaid(pasted):
    """The sum [N,C,H,W] of what the 3x3 neighbourhoods, [N,9,C,H,W], lay on each pixel."""
    height, width = pasted.shape[3:]
    total = 0
    for i in range(3):
        for j in range(3):
            part = ops.pad(pasted[:, 3 * i + j], (1, 1, 1, 1))
            total = total + part[:, :, 2 - i:2 - i + height, 2 - j:2 - j + width]
    return total
