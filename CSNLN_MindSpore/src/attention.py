"""The two attentions of CSNLN, and how its convolutions are computed, by MindSpore's own operators."""
import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops
from mindspore.ops import functional

SHARPNESS = 10  # factor of the cross-scale scores before their softmax
OVERLAP = 6  # what the sum of the pasted patches is divided by
SMALLEST_NORM = 1e-4


class Builtin:
    """The layers of CSNLN(layers=...) by MindSpore's operators; on any device.

    product: of matrices, [N,i,j] by [N,j,k]. memory: bytes that the scores of an attention may take, which then works
    on a few rows of queries at a time; None, and in graphs for pictures of any size: on all at once.
    """

    def __init__(self, product=ops.bmm, memory=None):
        self.convolution, self.pointwise, self.prelu = Conv(1), Conv(0), PReLU()
        self.in_scale, self.cross_scale = InScale(product, memory), CrossScale(product, memory)

    def shuffle(self, factor):
        """A Cell [N,C*factor*factor,H,W] to [N,C,factor*H,factor*W]."""
        return nn.PixelShuffle(factor)

    def unshuffle(self, factor):
        """A Cell that undoes it."""
        return Unshuffle(factor)


class Conv(nn.Cell):  # x [N,C,H,W], weight [O,C,k,k], bias [O] or None to [N,O,H,W]
    def __init__(self, padding):
        super().__init__()
        self.padding = padding

    def construct(self, x, weight, bias):
        return ops.conv2d(x, weight, bias, pad_mode='pad', padding=self.padding)


class PReLU(nn.Cell):  # x [N,C,H,W], slopes [1] or [C]
    def construct(self, x, slopes):
        return ops.prelu(x, slopes)


class Unshuffle(nn.Cell):
    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def construct(self, x):
        return unshuffled(x, self.factor)


class InScale(nn.Cell):
    """Every pixel of v, weighed by the softmax of its likeness: query and key [N,D,H,W], v [N,C,H,W] to [N,C,H,W]."""

    def __init__(self, product, memory):
        super().__init__()
        self.weigh = Weigh(product, memory, 1)

    def construct(self, query, key, v):
        n, d, c = query.shape[0], query.shape[1], v.shape[1]
        return self.weigh(query, key.reshape(n, d, -1), v.reshape(n, c, -1))


class CrossScale(nn.Cell):
    """Each 3x3 neighbourhood of query [N,D,H,W] finds like ones in key [N,D,H/s,W/s], and the 3s x 3s pixels of v
    [N,C,H,W] there are pasted, enlarged s times, over its own: [N,C,sH,sW].
    """

    def __init__(self, product, memory):
        super().__init__()
        self.weigh = Weigh(product, memory, 9)

    def construct(self, query, key, v):
        n, _, height, width = v.shape
        s = height // key.shape[2]
        keys, queries = patches(key), patches(query).reshape(n, -1, height, width)
        norm = ops.sqrt(ops.maximum((keys * keys).sum(1, keepdims=True), SMALLEST_NORM ** 2))  # never 0 under the root
        values = patches(unshuffled(v, s))
        return shuffled(self.weigh(queries, keys * (SHARPNESS / norm), values), s) * (1 / OVERLAP)


class Weigh(nn.Cell):
    """query [N,D,H,W], keys [N,D,L], values [N,taps*C,L]: each pixel takes the values, weighed by the softmax of its
    likeness to the keys, and lays them on its 3x3 neighbourhood (taps 9) or on itself (1); the sum of all [N,C,H,W].
    """

    def __init__(self, product, memory, taps):
        super().__init__()
        self.some, self.memory, self.taps = SomeRows(product, taps), memory, taps
        self.by_blocks = ByBlocks(self.some, memory)

    def construct(self, query, keys, values):
        if self.memory is not None and functional.isconstant(query.shape[2]):  # noqa: SIM102 - an `and` compiles all
            if self.by_blocks.count(query, keys, values) > 1:
                return self.by_blocks(query, keys, values)
        total = self.some(self.some.weights(query, keys), values, query.shape[3])
        return total[:, :, 1:-1] if self.taps == 9 else total


class SomeRows(nn.Cell):
    """What Weigh does for a few rows of queries: of their weights [N,L,R*W] what they lay on R rows, or R + 2."""

    def __init__(self, product, taps):
        super().__init__()
        self.product, self.taps, self.softmax = product, taps, ops.Softmax(1)

    def weights(self, query, keys):
        """The softmax over the keys, [N,L,R*W], of query [N,D,R,W]."""
        return self.softmax(self.product(keys.swapaxes(1, 2), query.reshape(query.shape[0], query.shape[1], -1)))

    def construct(self, weights, values, width):
        pasted = self.product(values, weights)
        if self.taps == 1:
            return pasted.reshape(pasted.shape[0], pasted.shape[1], -1, width)
        pasted = pasted.reshape(pasted.shape[0], 9, values.shape[1] // 9, -1, width)
        total = 0
        for i in range(3):
            for j in range(3):
                total = total + padded(pasted[:, 3 * i + j], (j, 2 - j), (i, 2 - i))
        return total[:, :, :, 1:-1]

    def gradients(self, query, keys, values, d_total, there):
        """Of query, keys and values, from that of what construct gives, [N,C,R,W] or [N,C,R+2,W].

        there [R*W]: 1, or 0 for a query that is not there.
        """
        weights = self.weights(query, keys)
        pasted = neighbours(d_total) if self.taps == 9 else d_total.reshape(d_total.shape[0], d_total.shape[1], -1)
        pasted = pasted * there
        d_weights = self.product(values.swapaxes(1, 2), pasted)
        d_scores = weights * (d_weights - (weights * d_weights).sum(1, keepdims=True))
        queries = query.reshape(query.shape[0], query.shape[1], -1)
        return (self.product(keys, d_scores).reshape(query.shape), self.product(queries, d_scores.swapaxes(1, 2)),
                self.product(pasted, weights.swapaxes(1, 2)))


class ByBlocks(nn.Cell):
    """Weigh, a block of rows at a time; its gradient computes the weights anew.

    What the gradient calls must have no branches: MindSpore 2.8 takes such functions for empty there, its own included.
    """

    def __init__(self, some, memory):
        super().__init__()
        self.some, self.memory, self.margin = some, memory, 1 if some.taps == 9 else 0

    def count(self, query, keys, values):
        """Blocks of rows, of which each takes at most that memory, or is a single row."""
        n, _, height, width = query.shape
        row = 4 * n * width * 2 * (keys.shape[2] + values.shape[1])  # bytes: weights and what they lay down, twice
        rows = self.memory // row
        return height if rows < 1 else -(-height // rows)

    def cut(self, query, count):
        """query [N,D,H,W], zeros behind its last row, as blocks [count,N,D,R,W]."""
        n, depth, height, width = query.shape
        rows = -(-height // count)
        below = ops.zeros((n, depth, count * rows - height, width), query.dtype)
        return ops.concat((query, below), 2).reshape(n, depth, count, rows, width).transpose(2, 0, 1, 3, 4)

    def place(self, i, rows):
        """The rows of the sum, which has a margin above, that block i lays something on: [rows + 2 * margin,1]."""
        return (i * rows + Tensor(np.arange(rows + 2 * self.margin, dtype=np.int32))).reshape(-1, 1)

    def there(self, i, query, rows):
        """[R*W]: 1, or 0 for those queries of block i that lie behind the last row."""
        height, width = query.shape[2:]
        return ops.cast(i * rows + Tensor(np.arange(rows * width, dtype=np.int32) // width) < height, query.dtype)

    def construct(self, query, keys, values):
        n, _, height, width = query.shape
        count = self.count(query, keys, values)
        blocks = self.cut(query, count)
        rows = blocks.shape[3]
        total = ops.zeros((count * rows + 2 * self.margin, n, values.shape[1] // self.some.taps, width), query.dtype)
        i = Tensor(0, ms.int32)
        while i < count:
            weights = self.some.weights(ops.gather(blocks, i, 0), keys) * self.there(i, query, rows)
            part = self.some(weights, values, width).transpose(2, 0, 1, 3)
            total = ops.tensor_scatter_add(total, self.place(i, rows), part)
            i = i + 1
        return total[self.margin:self.margin + height].transpose(1, 2, 0, 3)

    def bprop(self, query, keys, values, y, dy):
        n, depth, height, width = query.shape
        count = self.count(query, keys, values)
        blocks = self.cut(query, count)
        rows = blocks.shape[3]
        around = ops.zeros((n, dy.shape[1], count * rows - height + 2 * self.margin, width), dy.dtype)
        d_total = ops.concat((around[:, :, :self.margin], dy, around[:, :, self.margin:]), 2).transpose(2, 0, 1, 3)
        d_blocks, d_keys, d_values = ops.zeros_like(blocks), ops.zeros_like(keys), ops.zeros_like(values)
        i = Tensor(0, ms.int32)
        while i < count:
            part = ops.gather_nd(d_total, self.place(i, rows)).transpose(1, 2, 0, 3)
            d_block, d_key, d_value = self.some.gradients(ops.gather(blocks, i, 0), keys, values, part,
                                                          self.there(i, query, rows))
            d_blocks = ops.tensor_scatter_add(d_blocks, i.reshape(1, 1), d_block.expand_dims(0))
            d_keys, d_values = d_keys + d_key, d_values + d_value
            i = i + 1
        d_query = d_blocks.transpose(1, 2, 0, 3, 4).reshape(n, depth, count * rows, width)
        return d_query[:, :, :height], d_keys, d_values


def shuffled(x, s):
    """ops.pixel_shuffle without its checks: a graph for pictures of any size cannot do them, nor a MINDIR be run."""
    n, c, height, width = x.shape
    x = x.reshape(n, c // (s * s), s, s, height, width).transpose(0, 1, 4, 2, 5, 3)
    return x.reshape(n, c // (s * s), s * height, s * width)


def unshuffled(x, s):
    """ops.pixel_unshuffle, likewise."""
    n, c, height, width = x.shape
    x = x.reshape(n, c, height // s, s, width // s, s).transpose(0, 1, 3, 5, 2, 4)
    return x.reshape(n, c * s * s, height // s, width // s)


def patches(x):
    """The 3x3 neighbourhoods, zeros around, of x [N,C,H,W]: [N,9*C,H*W], row and column of the patch before C."""
    return neighbours(padded(x, (0, 0), (1, 1)))


def neighbours(x):
    """The same of all rows of x [N,C,R+2,W] but the first and the last."""
    height, width = x.shape[2] - 2, x.shape[3]
    beside, shifted = ops.zeros_like(x[:, :, :, :1]), ()
    x = ops.concat((beside, x, beside), 3)
    for i in range(3):
        for j in range(3):
            shifted += (x[:, :, i:i + height, j:j + width],)
    return ops.concat(shifted, 1).reshape(x.shape[0], -1, height * width)


def padded(x, beside, around):
    """x [N,C,H,W] with zeros: columns (left, right), rows (above, below).

    Not ops.pad: its gradient on a CPU reads the sizes from memory that others have used since, and hangs, now and then.
    """
    return ops.Pad(((0, 0), (0, 0), around, beside))(x)
