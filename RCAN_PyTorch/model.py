"""RCAN, the residual channel attention network (Zhang et al., ECCV 2018, arXiv 1807.02758, figures 2 to 4).

Two styles of one trunk; a checkpoint shows which one it holds:

    paper   the authors' network: pictures in 0..255, mean shift around the trunk, x4 and x8 upsampled in stages of x2
    port    the released Ascend port (after yjn870): pictures in 0..1, no mean shift, any scale in one stage

Zero padding acts after the mean shift, so neither style can stand in for the other (README, Differences).
Modules carry the released port's names; import_weights.py maps the other dialects to them.
"""

import torch
from torch import nn
from torch.nn import functional as F

STYLES = ('paper', 'port')
RGB_MEAN = (0.4488, 0.4371, 0.4040)  # of DIV2K, share of full scale; the constants of the authors' code


def conv(in_channels, out_channels, kernel_size=3):
    return nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2)


class CA(nn.Module):  # x * sigmoid(excite(relu(squeeze(mean over the picture))))
    def __init__(self, n_feats, reduction):
        super().__init__()
        squeezed = n_feats // reduction
        self.module = nn.Sequential(nn.AdaptiveAvgPool2d(1), conv(n_feats, squeezed, 1), nn.ReLU(inplace=True),
                                    conv(squeezed, n_feats, 1), nn.Sigmoid())

    def forward(self, x):  # [N,F,H,W]
        # a 1x1 convolution of one pixel is a matrix product: the same numbers without a convolution's set-up time
        _, squeeze, relu, excite, sigmoid = self.module
        a = relu(F.linear(x.mean((2, 3)), squeeze.weight.flatten(1), squeeze.bias))  # [N,F/r]
        a = sigmoid(F.linear(a, excite.weight.flatten(1), excite.bias))  # [N,F]
        return x * a[:, :, None, None]


class RCAB(nn.Module):  # conv-relu-conv-attention, + x
    def __init__(self, n_feats, reduction):
        super().__init__()
        self.module = nn.Sequential(conv(n_feats, n_feats), nn.ReLU(inplace=True), conv(n_feats, n_feats),
                                    CA(n_feats, reduction))

    def forward(self, x):
        return x + self.module(x)


class RG(nn.Module):  # residual group: RCAB, ..., RCAB, conv, + x
    def __init__(self, n_feats, n_blocks, reduction):
        super().__init__()
        self.module = nn.Sequential(*[RCAB(n_feats, reduction) for _ in range(n_blocks)], conv(n_feats, n_feats))

    def forward(self, x):
        return x + self.module(x)


class MeanShift(nn.Conv2d):
    """x + sign * 255 * RGB_MEAN as the authors' 1x1 convolution. Frozen; a released file may hold other numbers."""

    def __init__(self, sign):
        super().__init__(3, 3, 1)
        self.weight.data = torch.eye(3).view(3, 3, 1, 1)
        self.bias.data = sign * 255 * torch.tensor(RGB_MEAN)
        self.requires_grad_(False)


def upsampler(n_feats, scale, style):
    """Convolutions and pixel shuffles, [N,F,H,W] to [N,F,sH,sW].

    Raises ValueError for a scale that the style has no stages for.
    """
    if style == 'port' and scale >= 1:
        stages = [scale]
    elif scale == 3:
        stages = [3]
    elif scale >= 2 and scale & (scale - 1) == 0:
        stages = [2] * (scale.bit_length() - 1)
    else:
        raise ValueError(f'scale {scale}: the {style} network has 3 and the powers of two; --style=port takes any')
    layers = []
    for stage in stages:
        layers += [conv(n_feats, stage * stage * n_feats), nn.PixelShuffle(stage)]
    return nn.Sequential(*layers)


class RCAN(nn.Module):
    """[N,3,H,W] to [N,3,sH,sW], both RGB in 0..`rgb_range` (255 for style 'paper', 1 for 'port'), not clipped.

    The defaults are the paper's: 10 groups of 20 blocks of 64 features. Raises ValueError for impossible sizes.
    """

    def __init__(self, scale=2, num_features=64, num_rg=10, num_rcab=20, reduction=16, style='paper'):
        super().__init__()
        if style not in STYLES:
            raise ValueError(f'unknown style {style!r}; known: {", ".join(STYLES)}')
        if min(num_features, num_rg, num_rcab, reduction) < 1 or num_features < reduction:
            raise ValueError(f'num_features={num_features} num_rg={num_rg} num_rcab={num_rcab} reduction={reduction}: '
                             'all must be at least 1, and reduction at most num_features')
        self.style, self.scale = style, scale
        self.rgb_range = 255 if style == 'paper' else 1
        if style == 'paper':
            self.sub_mean, self.add_mean = MeanShift(-1), MeanShift(+1)
        self.sf = conv(3, num_features)
        self.rgs = nn.Sequential(*[RG(num_features, num_rcab, reduction) for _ in range(num_rg)])
        self.conv1 = conv(num_features, num_features)
        self.upscale = upsampler(num_features, scale, style)
        self.conv2 = conv(num_features, 3)

    def forward(self, x):
        fp32 = torch.autocast(x.device.type, enabled=False)  # in bf16 a picture in 0..255 would lose its last bit
        if self.style == 'paper':
            with fp32:
                x = self.sub_mean(x)
        x = self.sf(x)  # [N,F,H,W]
        x = x + self.conv1(self.rgs(x))
        x = self.upscale(x)  # [N,F,sH,sW]
        with fp32:
            x = self.conv2(x.float())  # [N,3,sH,sW]
            return self.add_mean(x) if self.style == 'paper' else x


def size_of(state_dict):
    """The arguments of RCAN(...) that a state_dict with this module's names was made with, read from names and shapes.

    Raises ValueError when the names do not say (not an RCAN in this module's naming).
    """
    try:
        n_feats = state_dict['sf.weight'].shape[0]
        n_groups = 1 + max(int(k.split('.')[1]) for k in state_dict if k.startswith('rgs.'))
        # the last index inside a group is its closing convolution
        n_blocks = max(int(k.split('.')[3]) for k in state_dict if k.startswith('rgs.0.module.'))
        if n_groups * n_blocks > len(state_dict):  # a forged name must not make us build a million groups
            raise ValueError('the rest of a larger network')
        squeezed = state_dict['rgs.0.module.0.module.3.module.1.weight'].shape[0]
        stages = [round((v.shape[0] / n_feats) ** 0.5) for k, v in sorted(state_dict.items())
                  if k.startswith('upscale.') and k.endswith('.weight')]
    except (KeyError, ValueError, IndexError) as error:
        raise ValueError(f'not the weights of an RCAN: {error} is missing') from None
    scale = 1
    for stage in stages:
        scale *= stage
    return {'scale': scale, 'num_features': n_feats, 'num_rg': n_groups, 'num_rcab': n_blocks,
            'reduction': n_feats // max(squeezed, 1), 'style': 'paper' if 'sub_mean.weight' in state_dict else 'port'}
