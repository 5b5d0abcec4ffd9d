"""An RCAN's weights under the names of the other dialects, and BasicSR's network as a function of its file's names.

Written from the released files' names, apart from import_weights.py, so that one checks the other.
"""
import re

import torch
from torch.nn import functional as F

from model import RGB_MEAN


def to_authors(state):
    """The names of yulunzhang/RCAN."""
    groups = 1 + max(int(name.split('.')[1]) for name in state if name.startswith('rgs.'))
    rules = ((r'rgs\.(\d+)\.module\.(\d+)\.module\.3\.module\.1\.', r'body.\1.body.\2.body.3.conv_du.0.'),
             (r'rgs\.(\d+)\.module\.(\d+)\.module\.3\.module\.3\.', r'body.\1.body.\2.body.3.conv_du.2.'),
             (r'rgs\.(\d+)\.module\.(\d+)\.module\.', r'body.\1.body.\2.body.'),
             (r'rgs\.(\d+)\.module\.', r'body.\1.body.'),
             (r'sf\.', 'head.0.'), (r'conv1\.', f'body.{groups}.'), (r'upscale\.', 'tail.0.'), (r'conv2\.', 'tail.1.'))
    return _renamed(state, rules)


def to_basicsr(state):
    """The names of XPixelGroup/BasicSR, whose files hold no mean shift."""
    rules = ((r'rgs\.(\d+)\.module\.(\d+)\.module\.3\.module\.', r'body.\1.residual_group.\2.rcab.3.attention.'),
             (r'rgs\.(\d+)\.module\.(\d+)\.module\.', r'body.\1.residual_group.\2.rcab.'),
             (r'rgs\.(\d+)\.module\.\d+\.', r'body.\1.conv.'),
             (r'sf\.', 'conv_first.'), (r'conv1\.', 'conv_after_body.'), (r'upscale\.', 'upsample.'),
             (r'conv2\.', 'conv_last.'))
    return _renamed({name: value for name, value in state.items() if '_mean' not in name}, rules)


def _renamed(state, rules):
    names = {}
    for name in state:
        pattern, target = next((rule for rule in rules if re.match(rule[0], name)), ('', ''))
        names[name] = re.sub('^' + pattern, target, name, count=1)
    assert len(set(names.values())) == len(state)
    return {names[name]: value.clone() for name, value in state.items()}


def basicsr_network(tensors, x, scale):
    """BasicSR's RCAN: [N,3,H,W] in 0..1 to [N,3,sH,sW] in about 0..1, computed from its own names."""
    def conv(name, x):
        weight = tensors[name + '.weight']
        return F.conv2d(x, weight, tensors[name + '.bias'], padding=weight.shape[-1] // 2)

    def count(pattern):
        return 1 + max(int(match[1]) for match in (re.match(pattern, name) for name in tensors) if match)

    mean = torch.tensor(RGB_MEAN).view(1, 3, 1, 1)
    first = x = conv('conv_first', (x - mean) * 255)
    for g in range(count(r'body\.(\d+)\.')):
        group = x
        for b in range(count(rf'body\.{g}\.residual_group\.(\d+)\.')):
            block = f'body.{g}.residual_group.{b}.rcab'
            y = conv(f'{block}.2', conv(f'{block}.0', x).relu())
            attention = conv(f'{block}.3.attention.1', y.mean((2, 3), keepdim=True)).relu()
            x = x + y * conv(f'{block}.3.attention.3', attention).sigmoid()
        x = group + conv(f'body.{g}.conv', x)
    x = first + conv('conv_after_body', x)
    for stage in range(1 if scale == 3 else scale.bit_length() - 1):
        x = F.pixel_shuffle(conv(f'upsample.{2 * stage}', x), 3 if scale == 3 else 2)
    return conv('conv_last', x) / 255 + mean
