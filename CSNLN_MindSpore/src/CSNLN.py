"""CSNLN (Mei et al., Image Super-Resolution with Cross-Scale Non-Local Attention, CVPR 2020, section 3).

Parameters have the names of the authors' PyTorch code but for the slopes of PReLU, `1.w` instead of `1.weight`, as
MindSpore and the released port have them. Both strided layers, kernels of three strides' side or less, are computed as
3x3 convolutions beside a pixel shuffle: the same sums by a fraction of the time.
"""
import numpy as np
from mindspore import Parameter, Tensor, nn, ops

from src.attention import Builtin, padded

RGB_MEAN = (0.4488, 0.4371, 0.4040)  # of DIV2K, in 0..1
SCALES = (2, 3, 4)
COMPATS = ('paper', 'port')


def zeros(*shape):
    return Parameter(Tensor(np.zeros(shape, np.float32)))


class MeanShift(nn.Cell):  # x + sign * rgb_range * RGB_MEAN; a frozen 1x1 convolution, as the authors' files hold it
    def __init__(self, rgb_range, sign):
        super().__init__()
        mean = sign * rgb_range * np.array(RGB_MEAN)
        self.weight = Parameter(Tensor(np.eye(3, dtype=np.float32).reshape(3, 3, 1, 1)), requires_grad=False)
        self.bias = Parameter(Tensor(mean.astype(np.float32)), requires_grad=False)

    def construct(self, x):
        return ops.conv2d(x, self.weight, self.bias)


class Convolution(nn.Cell):  # 1x1 or 3x3, stride 1, zeros around the picture
    def __init__(self, n_in, n_out, side, layers, bias=True):
        super().__init__()
        self.weight = zeros(n_out, n_in, side, side)
        self.bias = zeros(n_out) if bias else None
        self.convolution = layers.convolution if side == 3 else layers.pointwise

    def construct(self, x):
        return self.convolution(x, self.weight, self.bias)


class Enlarging(nn.Cell):
    """A transposed convolution of that side and stride, the result `stride` times as large as the input."""

    def __init__(self, channels, side, stride, layers, bias=True):
        super().__init__()
        self.weight = zeros(channels, channels, side, side)  # [in, out, side, side]
        self.bias = zeros(channels) if bias else None
        self.channels, self.stride, self.margin = channels, stride, (3 * stride - side) // 2
        self.convolution, self.shuffle = layers.convolution, layers.shuffle(stride)

    def kernel(self):
        """(kernel [stride*stride*C,C,3,3], bias or None) of the convolution that pixel_shuffle follows."""
        n, s = self.channels, self.stride
        kernel = surrounded(self.weight, self.margin).reshape(n, n, 3, s, 3, s)  # [in, out, tap, ry, tap, rx]
        kernel = ops.flip(kernel, (2, 4)).transpose(1, 3, 5, 0, 2, 4).reshape(n * s * s, n, 3, 3)
        return kernel, None if self.bias is None else ops.tile(self.bias.reshape(n, 1), (1, s * s)).reshape(-1)

    def construct(self, x, kernel):
        return self.shuffle(self.convolution(x, kernel[0], kernel[1]))


class Reducing(nn.Cell):
    """A convolution of that side and stride, the result `stride` times as small as the input."""

    def __init__(self, channels, side, stride, layers, bias=True):
        super().__init__()
        self.weight = zeros(channels, channels, side, side)  # [out, in, side, side]
        self.bias = zeros(channels) if bias else None
        self.channels, self.stride, self.margin = channels, stride, (3 * stride - side) // 2
        self.convolution, self.unshuffle = layers.convolution, layers.unshuffle(stride)

    def kernel(self):
        """(kernel [C,stride*stride*C,3,3], bias or None) of the convolution that follows pixel_unshuffle."""
        n, s = self.channels, self.stride
        kernel = surrounded(self.weight, self.margin).reshape(n, n, 3, s, 3, s)  # [out, in, tap, ry, tap, rx]
        return kernel.transpose(0, 1, 3, 5, 2, 4).reshape(n, n * s * s, 3, 3), self.bias

    def construct(self, x, kernel):
        return self.convolution(self.unshuffle(x), kernel[0], kernel[1])


def surrounded(kernel, margin):
    """[o,i,k,k] with so many rows and columns of zeros on all sides."""
    return padded(kernel, (margin, margin), (margin, margin)) if margin else kernel


class PReLU(nn.Cell):  # one slope for all channels, or one for each
    def __init__(self, slopes, layers):
        super().__init__()
        self.w = Parameter(Tensor(np.full(slopes, 0.25, np.float32)))
        self.prelu = layers.prelu

    def construct(self, x):
        return self.prelu(x, self.w)


class Strided(nn.SequentialCell):  # Enlarging or Reducing, PReLU; kernel: what kernel() gave
    def kernel(self):
        return self[0].kernel()

    def construct(self, x, kernel):
        return self[1](self[0](x, kernel))


class Parts:
    """Makes the layers of a network of n_feats channels: how they are computed, and what the released port left out."""

    def __init__(self, n_feats, compat, layers):
        self.n_feats, self.paper, self.layers = n_feats, compat == 'paper', layers

    def prelu(self, channels):
        return PReLU(1 if self.paper else channels, self.layers)

    def conv(self, n_in, n_out, side):
        """[convolution, PReLU]"""
        return nn.SequentialCell(Convolution(n_in, n_out, side, self.layers), self.prelu(n_out))

    def down(self, side, stride):
        return Strided(Reducing(self.n_feats, side, stride, self.layers, self.paper), self.prelu(self.n_feats))

    def up(self, side, stride, slopes=1):
        return Strided(Enlarging(self.n_feats, side, stride, self.layers, self.paper), self.prelu(slopes))


class InScaleAttention(nn.Cell):  # [N,C,H,W] to the same size
    def __init__(self, parts):
        super().__init__()
        n = parts.n_feats
        self.conv_match1, self.conv_match2 = parts.conv(n, n // 2, 1), parts.conv(n, n // 2, 1)
        self.conv_assembly = parts.conv(n, n, 1)
        self.attention = parts.layers.in_scale

    def construct(self, x):
        return self.attention(self.conv_match1(x), self.conv_match2(x), self.conv_assembly(x))


class CrossScaleAttention(nn.Cell):  # [N,C,H,W] to [N,C,factor*H,factor*W]
    def __init__(self, factor, parts):
        super().__init__()
        n = parts.n_feats
        self.conv_match_1, self.conv_match_2 = parts.conv(n, n // 2, 1), parts.conv(n, n // 2, 1)
        self.conv_assembly = parts.conv(n, n, 1)
        self.factor, self.paper, self.attention = factor, parts.paper, parts.layers.cross_scale

    def construct(self, x):
        return self.attention(self.conv_match_1(x), self.conv_match_2(self.smaller(x)), self.conv_assembly(x))

    def smaller(self, x):
        """Half-pixel bilinear reduction: the mean of each 2x2 block, or the middle of each 3x3 block."""
        s = self.factor
        if not self.paper:
            return x[:, :, ::s, ::s]
        if s == 3:
            return x[:, :, 1::3, 1::3]
        return ops.avg_pool2d(x, 2, 2)


class ResBlock(nn.Cell):  # conv-PReLU-conv, + x
    def __init__(self, parts):
        super().__init__()
        n, layers = parts.n_feats, parts.layers
        self.body = nn.SequentialCell(Convolution(n, n, 3, layers), parts.prelu(n),
                                      Convolution(n, n, 3, layers))

    def construct(self, x):
        return x + self.body(x)


class MultisourceProjection(nn.Cell):  # [N,C,H,W] to [N,C,factor*H,factor*W]
    def __init__(self, factor, parts):
        super().__init__()
        self.up_attention, self.down_attention = CrossScaleAttention(factor, parts), InScaleAttention(parts)
        self.upsample = parts.up(3 * factor, factor, parts.n_feats)
        self.encoder = ResBlock(parts)

    def construct(self, x, kernel):
        down = self.upsample(self.down_attention(x), kernel)
        return down + self.encoder(self.up_attention(x) - down)


class RecurrentProjection(nn.Cell):
    """The recurrent cell: features x [N,C,H,W] to the next ones and the enlarged ones h [N,C,sH,sW]."""

    def __init__(self, scale, parts):
        super().__init__()
        factor = 3 if scale == 3 else 2
        self.multi_source_projection = MultisourceProjection(factor, parts)
        self.down_sample_1, self.error_encode = parts.down(3 * factor, factor), parts.up(3 * factor, factor)
        if scale == 4:
            self.multi_source_projection_2 = MultisourceProjection(2, parts)
            self.down_sample_3, self.down_sample_4 = parts.down(8, 4), parts.down(8, 4)
            self.error_encode_2 = parts.up(8, 4, parts.n_feats)
        else:
            self.down_sample_2 = parts.down(3 * factor, factor)
        self.post_conv = parts.conv(parts.n_feats, parts.n_feats, 3)
        self.scale = scale

    def kernels(self):
        """Those of all strided layers, for construct: made once, since every use of the cell has the same."""
        first = (self.multi_source_projection.upsample.kernel(), self.down_sample_1.kernel(),
                 self.error_encode.kernel())
        if self.scale != 4:
            return (*first, self.down_sample_2.kernel())
        return (*first, self.multi_source_projection_2.upsample.kernel(), self.down_sample_3.kernel(),
                self.error_encode_2.kernel(), self.down_sample_4.kernel())

    def construct(self, x, kernels):
        up = self.multi_source_projection(x, kernels[0])
        h = up + self.error_encode(x - self.down_sample_1(up, kernels[1]), kernels[2])
        if self.scale != 4:
            return self.post_conv(self.down_sample_2(h, kernels[3])), h
        up = self.multi_source_projection_2(h, kernels[3])
        h = up + self.error_encode_2(x - self.down_sample_3(up, kernels[4]), kernels[5])
        return self.post_conv(self.down_sample_4(h, kernels[6])), h


class CSNLN(nn.Cell):
    """float32 RGB [N,3,H,W] in 0..rgb_range to [N,3,sH,sW], neither clipped nor rounded; H and W: multiples of `unit`.

    depth: how often the recurrent cell runs, always with the same weights. compat 'port': the network of the released
    MindSpore port, for its checkpoints. layers: how convolutions and attention are computed (src/attention.py). All
    trainable weights are zero, slopes a quarter, until they are loaded or initialise()d.
    """

    def __init__(self, scale=2, depth=12, n_feats=128, rgb_range=1.0, compat='paper', layers=None):
        super().__init__()
        if scale not in SCALES:
            raise ValueError(f'scale {scale}: CSNLN has {", ".join(map(str, SCALES))}')
        if n_feats < 2 or n_feats % 2:
            raise ValueError(f'n_feats {n_feats}: expected an even number, half of which the attention compares')
        if compat not in COMPATS:
            raise ValueError(f'compat {compat!r}; known: {", ".join(COMPATS)}')
        self.scale, self.depth, self.n_feats, self.rgb_range, self.compat = scale, depth, n_feats, rgb_range, compat
        self.unit = 3 if scale == 3 else 2
        layers = layers or Builtin()
        parts = Parts(n_feats, compat, layers)
        self.sub_mean, self.add_mean = MeanShift(rgb_range, -1), MeanShift(rgb_range, 1)
        self.head = nn.SequentialCell(parts.conv(3, n_feats, 3), parts.conv(n_feats, n_feats, 3))
        self.SEM = RecurrentProjection(scale, parts)
        self.tail = nn.SequentialCell(Convolution(depth * n_feats, 3, 3, layers, parts.paper))

    def construct(self, lr):  # [N,3,H,W]
        paper = self.compat == 'paper'
        x = self.head(self.sub_mean(lr) if paper else lr)  # [N,C,H,W]
        tail, kernels, sr = self.tail[0], self.SEM.kernels(), 0
        for i in range(self.depth):  # the tail sums over all h; one at a time, none need be kept
            x, h = self.SEM(x, kernels)
            kernel = tail.weight[:, i * self.n_feats:(i + 1) * self.n_feats]
            sr = sr + tail.convolution(h, kernel, None if i else tail.bias)
        return self.add_mean(sr) if paper else sr  # [N,3,sH,sW]

    def initialise(self, rng):
        """Draw every trainable weight and bias uniformly from +-1/sqrt(fan_in), as torch does for the authors.

        rng: numpy Generator. The draws follow the order of the parameters, so one seed gives one network.
        """
        bound = 0.0
        for name, parameter in self.parameters_and_names():
            if not parameter.requires_grad:
                continue
            if parameter.ndim == 4:  # the bias of a convolution comes after its weight
                bound = 1 / np.sqrt(np.prod(parameter.shape[1:]))
            value = np.full(parameter.shape, 0.25) if name.endswith('.w') else rng.uniform(-bound, bound,
                                                                                             parameter.shape)
            parameter.set_data(Tensor(value.astype(np.float32)))
