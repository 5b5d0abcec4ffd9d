"""EDSR (Lim et al., Enhanced Deep Residual Networks for Single Image Super-Resolution, CVPRW 2017, section 3).

Parameters have the names of the authors' PyTorch code (head.0.weight, body.0.body.0.weight, tail.0.0.weight ...), and
its channel order in front of the pixel shuffle: channel c*r*r + i*r + j becomes row i, column j of each r x r block.
"""
import re

import numpy as np
from mindspore import Tensor, nn

RGB_MEAN = (0.4488, 0.4371, 0.4040)  # of DIV2K, in 0..1
SCALES = (2, 3, 4)


def builtin_convolution(n_in, n_out):
    """The 3x3 convolution of MindSpore: stride 1, zeros around the picture, with bias."""
    return nn.Conv2d(n_in, n_out, 3, pad_mode='pad', padding=1, has_bias=True, weight_init='zeros', bias_init='zeros')


class MeanShift(nn.Conv2d):  # x + sign * rgb_range * RGB_MEAN; a frozen 1x1 convolution, as the authors' files hold it
    def __init__(self, rgb_range, sign):
        mean = sign * rgb_range * np.array(RGB_MEAN)
        super().__init__(3, 3, 1, has_bias=True, bias_init=Tensor(mean.astype(np.float32)),
                         weight_init=Tensor(np.eye(3, dtype=np.float32).reshape(3, 3, 1, 1)))
        for parameter in self.get_parameters():
            parameter.requires_grad = False


class ResBlock(nn.Cell):  # conv-relu-conv, times res_scale, + x
    def __init__(self, n_feats, res_scale, conv):
        super().__init__()
        self.body = nn.SequentialCell(conv(n_feats, n_feats), nn.ReLU(), conv(n_feats, n_feats))
        self.res_scale = res_scale

    def construct(self, x):
        residual = self.body(x)
        return x + (residual if self.res_scale == 1 else residual * self.res_scale)


class Upsampler(nn.SequentialCell):  # conv and pixel shuffle; x4 in two stages of x2
    def __init__(self, scale, n_feats, conv):
        stages = []
        for factor in (2, 2) if scale == 4 else (scale,):
            stages += [conv(n_feats, factor ** 2 * n_feats), nn.PixelShuffle(factor)]
        super().__init__(*stages)


class EDSR(nn.Cell):
    """float32 RGB [N,3,H,W] in 0..rgb_range to [N,3,sH,sW], neither clipped nor rounded; any H and W.

    The paper's network is the default, its baseline n_resblocks=16, n_feats=64, res_scale=1. conv(n_in, n_out) makes
    a 3x3 convolution with `weight` and `bias`. All trainable weights are zero until they are loaded or initialise()d.
    """

    def __init__(self, scale=2, n_resblocks=32, n_feats=256, res_scale=0.1, rgb_range=255.0, conv=builtin_convolution):
        super().__init__()
        if scale not in SCALES:
            raise ValueError(f'scale {scale}: EDSR has {", ".join(map(str, SCALES))}')
        self.scale, self.n_resblocks, self.n_feats, self.rgb_range = scale, n_resblocks, n_feats, rgb_range
        self.sub_mean, self.add_mean = MeanShift(rgb_range, -1), MeanShift(rgb_range, 1)
        self.head = nn.SequentialCell(conv(3, n_feats))
        blocks = [ResBlock(n_feats, res_scale, conv) for _ in range(n_resblocks)]
        self.body = nn.SequentialCell(*blocks, conv(n_feats, n_feats))
        self.tail = nn.SequentialCell(Upsampler(scale, n_feats, conv), conv(n_feats, 3))

    def construct(self, lr):  # [N,3,H,W]
        features = self.head(self.sub_mean(lr))  # [N,F,H,W]
        return self.add_mean(self.tail(features + self.body(features)))  # [N,3,sH,sW]

    @property
    def halo(self):
        """LR pixels that an SR pixel sees beyond its own: head 1, blocks 2 each, the body's end 1, the rest < 2."""
        return 2 * self.n_resblocks + 4

    def initialise(self, rng):
        """Draw every trainable weight and bias uniformly from +-1/sqrt(fan_in), as torch does for the authors.

        rng: numpy Generator. The draws follow the order of the parameters, so one seed gives one network.
        """
        bound = 0.0
        for parameter in self.trainable_params():
            if parameter.ndim == 4:  # the bias of a convolution comes after its weight
                bound = 1 / np.sqrt(np.prod(parameter.shape[1:]))
            parameter.set_data(Tensor(rng.uniform(-bound, bound, parameter.shape).astype(np.float32)))


def size_of(weights):
    """{'scale', 'n_resblocks', 'n_feats', 'rgb_range'} of the EDSR with those weights, {name: array} in names of ours.

    Raises ValueError for what is no EDSR. res_scale is in no weight.
    """
    shapes = {name: tuple(value.shape) for name, value in weights.items()}
    blocks = {int(match[1]) for match in (re.match(r'body\.(\d+)\.body\.', name) for name in shapes) if match}
    up, head = shapes.get('tail.0.0.weight'), shapes.get('head.0.weight')
    if not blocks or not up or not head or len(head) != 4 or len(up) != 4:
        raise ValueError('no EDSR: expected head.0.weight, body.0.body.0.weight and tail.0.0.weight')
    n_feats = head[0]
    scale = 4 if 'tail.0.2.weight' in shapes else round((up[0] / n_feats) ** 0.5)
    if scale not in SCALES or up[0] != (2 if scale == 4 else scale) ** 2 * n_feats:
        raise ValueError(f'no EDSR of scale {", ".join(map(str, SCALES))}: its upsampler makes {up[0]} channels of '
                         f'{n_feats}')
    bias = weights.get('add_mean.bias')
    rgb_range = 255.0 if bias is None else float(f'{float(bias[0]) / RGB_MEAN[0]:.6g}')  # what float32 tells
    return {'scale': scale, 'n_resblocks': max(blocks) + 1, 'n_feats': n_feats, 'rgb_range': rgb_range}


def shapes_of(scale, n_resblocks, n_feats):
    """{name: shape} of the parameters of that EDSR, in its order, without making it."""
    stages = (2, 2) if scale == 4 else (scale,)
    layers = {'sub_mean': (3, 3, 1, 1), 'add_mean': (3, 3, 1, 1), 'head.0': (n_feats, 3, 3, 3)}
    same = [f'body.{block}.body.{layer}' for block in range(n_resblocks) for layer in (0, 2)] + [f'body.{n_resblocks}']
    layers.update(dict.fromkeys(same, (n_feats, n_feats, 3, 3)))
    layers.update((f'tail.0.{2 * i}', (factor ** 2 * n_feats, n_feats, 3, 3)) for i, factor in enumerate(stages))
    layers['tail.1'] = (3, n_feats, 3, 3)
    return {f'{name}.{part}': shape if part == 'weight' else shape[:1]
            for name, shape in layers.items() for part in ('weight', 'bias')}
