"""EDSR as each dialect has it: random weights under its files' names, and its network as a function of them.

Written in numpy from the released files' names and code, apart from import_weights.py, so that one checks the other.
Besides: files of weights, and how one is refused.
"""
import mindspore as ms
import numpy as np
import pytest
import torch
from mindspore import Tensor

from import_weights import read_weights

MEAN = np.array([0.4488, 0.4371, 0.4040]).reshape(3, 1, 1)
DIALECTS = ('authors', 'BasicSR', 'port', 'rewrite')


def layers(dialect, scale, blocks):
    """Names: head, [(first, second) of each block], body's end, [each stage of the upsampler], last."""
    stages = 2 if scale == 4 else 1
    pair = ('conv1', 'conv2') if dialect in ('BasicSR', 'rewrite') else ('body.0', 'body.2')
    head, after, up, last = {
        'authors': ('head.0', f'body.{blocks}', 'tail.0.{}', 'tail.1'),
        'BasicSR': ('conv_first', 'conv_after_body', 'upsample.{}', 'conv_last'),
        'port': ('head.0', f'body.{blocks}', 'tail.{}', f'tail.{2 * stages}'),
        'rewrite': ('head.0', f'body.{blocks}', 'tail.0.up.{}', 'tail.1')}[dialect]
    return (head, [tuple(f'body.{i}.{part}' for part in pair) for i in range(blocks)], after,
            [up.format(2 * i) for i in range(stages)], last)


def weights(dialect, scale, blocks=2, n_feats=6, seed=0):
    """{name: float32 array} that no initialisation gives."""
    rng, arrays = np.random.default_rng(seed), {}
    head, pairs, after, up, last = layers(dialect, scale, blocks)
    enlarged = (9 if scale == 3 else 4) * n_feats
    widths = {head: (3, n_feats), last: (n_feats, 3), **dict.fromkeys(up, (n_feats, enlarged))}
    for name in (head, *(name for pair in pairs for name in pair), after, *up, last):
        n_in, n_out = widths.get(name, (n_feats, n_feats))
        arrays[f'{name}.weight'] = rng.normal(size=(n_out, n_in, 3, 3)) / np.sqrt(9 * n_in)
        arrays[f'{name}.bias'] = rng.normal(size=n_out) * 0.1
    if dialect in ('authors', 'port'):
        for name, sign in (('sub_mean', -1), ('add_mean', 1)):
            arrays.update({f'{name}.weight': np.eye(3).reshape(3, 3, 1, 1), f'{name}.bias': sign * 255 * MEAN.ravel()})
    elif dialect == 'rewrite':
        ones = np.ones((1, 3, 1, 1))
        arrays.update({'norm.weight': ones / 255, 'norm.bias': -MEAN[None], 'de_norm.weight': ones * 255,
                       'de_norm.bias': 255 * MEAN[None]})
    return {name: value.astype(np.float32) for name, value in arrays.items()}


def network(dialect, arrays, lr, scale, res_scale, blocks=2):
    """float RGB [H,W,3] in 0..255 to [sH,sW,3], computed in float64."""
    head, pairs, after, up, last = layers(dialect, scale, blocks)
    x = first = conv(arrays, head, come(dialect, arrays, lr.astype(np.float64).transpose(2, 0, 1)))
    for one, two in pairs:
        x = x + res_scale * conv(arrays, two, np.maximum(conv(arrays, one, x), 0))
    x = first + conv(arrays, after, x)
    for name in up:
        x = shuffle(conv(arrays, name, x), 3 if scale == 3 else 2, dialect in ('port', 'rewrite'))
    return leave(dialect, arrays, conv(arrays, last, x)).transpose(1, 2, 0)


def come(dialect, arrays, x):
    if dialect == 'BasicSR':
        return (x / 255 - MEAN) * 255
    return x * arrays['norm.weight'][0] + arrays['norm.bias'][0] if dialect == 'rewrite' else \
        conv(arrays, 'sub_mean', x)


def leave(dialect, arrays, y):
    if dialect == 'BasicSR':
        return (y / 255 + MEAN) * 255
    return y * arrays['de_norm.weight'][0] + arrays['de_norm.bias'][0] if dialect == 'rewrite' else \
        conv(arrays, 'add_mean', y)


def conv(arrays, name, x):
    """[C,H,W] to [O,H,W], zeros around it."""
    weight = arrays[f'{name}.weight'].astype(np.float64)
    reach, (height, width) = weight.shape[2] // 2, x.shape[1:]
    padded = np.pad(x, ((0, 0), (reach, reach), (reach, reach)))
    moved = [np.tensordot(weight[:, :, i, j], padded[:, i:i + height, j:j + width], 1)
             for i in range(weight.shape[2]) for j in range(weight.shape[3])]
    return sum(moved) + arrays[f'{name}.bias'].reshape(-1, 1, 1)


def shuffle(x, r, depth_first):
    """[r*r*C,H,W] to [C,rH,rW]. depth_first: MindSpore's DepthToSpace, else torch's pixel_shuffle."""
    channels, height, width = x.shape[0] // (r * r), *x.shape[1:]
    x = x.reshape(r, r, channels, height, width).transpose(2, 3, 0, 4, 1) if depth_first else \
        x.reshape(channels, r, r, height, width).transpose(0, 3, 1, 4, 2)
    return x.reshape(channels, r * height, r * width)


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
