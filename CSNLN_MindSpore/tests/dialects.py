"""CSNLN as each dialect has it: random weights under its files' names, and its network as a function of them.

Written with torch's own layers from the authors' table of names and the released code's behaviour, apart from
import_weights.py and the network, so that one checks the other. Besides: files of weights, and how one is refused.
"""
import gzip
import json
import re
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
import torch
from mindspore import Tensor
from torch.nn import functional as F

from import_weights import read_weights

NAMES = Path(__file__).parent / 'golden' / 'names_and_shapes.json.gz'  # of the authors' network, 12 deep, 128 wide
TABLES = {int(scale): table for scale, table in json.loads(gzip.decompress(NAMES.read_bytes())).items()}
DIALECTS = ('authors', 'port')
BARE = re.compile(r'(upsample|down_sample_\d|error_encode|error_encode_2|tail)\.0\.bias')  # not in the port's files
ONE_SLOPE = 'SEM.error_encode.1.w'  # the port's other slopes are one for each channel
MEAN = np.float32([0.4488, 0.4371, 0.4040])


def shapes(dialect, scale, depth=12, n_feats=128):
    """{name: shape} of that dialect's weights."""
    of = {128: n_feats, 64: n_feats // 2, 12 * 128: depth * n_feats}
    table = {name: tuple(of.get(side, side) for side in shape) for name, shape in TABLES[scale].items()}
    if dialect == 'authors':
        return table
    found, channels = {}, 0
    for name, shape in table.items():
        if name.endswith('.1.weight'):
            name = name[:-6] + 'w'
            shape = (1 if name == ONE_SLOPE else channels,)
        elif name.endswith('.weight'):
            channels = shape[0]
        if not name.endswith('.escape_NaN') and not BARE.search(name):
            found[name] = shape
    return found


def weights(dialect, scale, depth=2, n_feats=8, seed=0, rgb_range=1):
    """{name: float32 array} that no initialisation gives."""
    rng, arrays = np.random.default_rng(seed), {}
    for name, shape in shapes(dialect, scale, depth, n_feats).items():
        if '_mean.' in name:
            value = (1 if name.startswith('add') else -1) * rgb_range * MEAN if 'bias' in name else \
                np.eye(3).reshape(shape)
        elif name.endswith('.escape_NaN'):
            value = np.full(1, 1e-4)
        elif len(shape) == 4:
            value = rng.normal(size=shape) * 0.7 / np.prod(shape[1:]) ** 0.5
        else:
            value = rng.normal(size=shape) * 0.1 + (0 if name.endswith('bias') else 0.25)
        arrays[name] = np.asarray(value, np.float32)
    return arrays


class Network:
    """network(lr): float32 RGB [H,W,3] in 0..rgb_range to [sH,sW,3], computed in float64, or in `kind`."""

    def __init__(self, dialect, arrays, scale, depth=2, kind=torch.float64):
        self.port, self.scale, self.depth = dialect == 'port', scale, depth
        self.factor = 3 if scale == 3 else 2
        self.arrays = {re.sub(r'\.1\.w$', '.1.weight', name): torch.from_numpy(value).to(kind)
                       for name, value in arrays.items()}

    def __call__(self, lr):
        return self.forward(torch.from_numpy(lr.astype(np.float64)).permute(2, 0, 1)[None])[0].permute(1, 2, 0).numpy()

    def forward(self, x):
        """[N,3,H,W] to [N,3,sH,sW]; torch."""
        x = x if self.port else self.conv(x, 'sub_mean')
        for i in (0, 1):
            x = self.active(self.conv(x, f'head.{i}.0'), f'head.{i}')
        seen = []
        for _ in range(self.depth):
            x, h = self.cell(x)
            seen.append(h)
        sr = self.conv(torch.cat(seen, 1), 'tail.0')
        return sr if self.port else self.conv(sr, 'add_mean')

    def conv(self, x, name, **how):
        weight = self.arrays[f'{name}.weight']
        return F.conv2d(x, weight, self.arrays.get(f'{name}.bias'), **{'padding': weight.shape[2] // 2, **how})

    def active(self, x, name):
        return F.prelu(x, self.arrays[f'{name}.1.weight'])

    def down(self, x, name, side, stride):
        name = f'SEM.{name}'
        return self.active(self.conv(x, f'{name}.0', stride=stride, padding=(side - stride) // 2), name)

    def up(self, x, name, side, stride):
        weight, bias = self.arrays[f'SEM.{name}.0.weight'], self.arrays.get(f'SEM.{name}.0.bias')
        return self.active(F.conv_transpose2d(x, weight, bias, stride, (side - stride) // 2), f'SEM.{name}')

    def cell(self, x):
        s = self.factor
        up = self.projection(x, 'multi_source_projection')
        h = up + self.up(x - self.down(up, 'down_sample_1', 3 * s, s), 'error_encode', 3 * s, s)
        if self.scale == 4:
            up = self.projection(h, 'multi_source_projection_2')
            h = up + self.up(x - self.down(up, 'down_sample_3', 8, 4), 'error_encode_2', 8, 4)
            x = self.down(h, 'down_sample_4', 8, 4)
        else:
            x = self.down(h, 'down_sample_2', 3 * s, s)
        return self.active(self.conv(x, 'SEM.post_conv.0'), 'SEM.post_conv'), h

    def projection(self, x, name):
        down = self.up(self.in_scale(x, f'SEM.{name}.down_attention'), f'{name}.upsample', 3 * self.factor, self.factor)
        body, error = f'SEM.{name}.encoder.body', self.cross_scale(x, f'SEM.{name}.up_attention') - down
        inner = F.prelu(self.conv(error, f'{body}.0'), self.arrays[f'{body}.1.weight'])
        return down + error + self.conv(inner, f'{body}.2')

    def in_scale(self, x, name):
        query, key, v = (self.active(self.conv(x, f'{name}.{part}.0'), f'{name}.{part}').flatten(2)
                         for part in ('conv_match1', 'conv_match2', 'conv_assembly'))
        return (v @ (query.transpose(1, 2) @ key).softmax(2).transpose(1, 2)).reshape(x.shape)

    def cross_scale(self, x, name):
        s, (height, width) = self.factor, x.shape[2:]
        small = x[:, :, ::s, ::s] if self.port else \
            F.interpolate(x, scale_factor=1 / s, mode='bilinear', align_corners=False)
        query, key, v = (self.active(self.conv(one, f'{name}.{part}.0'), f'{name}.{part}') for one, part in
                         ((x, 'conv_match_1'), (small, 'conv_match_2'), (x, 'conv_assembly')))
        keys, queries = F.unfold(key, 3, padding=1), F.unfold(query, 3, padding=1)
        scores = (keys / keys.norm(dim=1, keepdim=True).clamp(min=1e-4)).transpose(1, 2) @ queries
        pasted = F.unfold(v, 3 * s, padding=s, stride=s) @ (10 * scores).softmax(1)
        return F.fold(pasted, (s * height, s * width), 3 * s, padding=s, stride=s) / 6


def save_torch(content, path, **more):
    torch.save({name: torch.from_numpy(value) for name, value in content.items()}, path, **more)


def save_mindspore(content, path, **more):
    ms.save_checkpoint([{'name': name, 'data': Tensor(value)} for name, value in content.items()], str(path), **more)


def refusal(path, *words):
    """read_weights refuses the file; the message, of one line, names it and says each of the words."""
    with pytest.raises(ValueError) as error:
        read_weights(str(path))
    for word in (str(path), *words):
        assert word in str(error.value)
    assert '\n' not in str(error.value)
    return str(error.value)
