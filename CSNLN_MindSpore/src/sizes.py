"""The size of a CSNLN as its weights tell it, and the names and shapes of its weights, without making the network."""
import numpy as np

from src.CSNLN import RGB_MEAN, SCALES


def size_of(weights):
    """The arguments of CSNLN(...) but layers, for the network with those weights, {name: array} in names of ours.

    rgb_range is 1, the authors', where add_mean does not tell it. Raises ValueError for what is no CSNLN.
    """
    asked = ('head.0.0.weight', 'SEM.down_sample_1.0.weight', 'tail.0.weight')
    head, down, tail = (tuple(weights[name].shape) if name in weights else () for name in asked)
    if not len(head) == len(down) == len(tail) == 4:
        raise ValueError(f'no CSNLN: expected {", ".join(asked)}, each of four axes')
    n_feats, factor = head[0], down[2] / 3
    scale = 4 if 'SEM.down_sample_4.0.weight' in weights else factor
    if scale not in SCALES or factor != (3 if scale == 3 else 2):
        raise ValueError(f'no CSNLN of scale {", ".join(map(str, SCALES))}: {asked[1]} is {down}')
    if n_feats < 2 or n_feats % 2 or tail[1] < n_feats or tail[1] % n_feats:
        raise ValueError(f'no CSNLN: {asked[0]} is {head}, {asked[2]} {tail}; expected an even number of channels, and '
                         'a multiple of it')
    return {'scale': int(scale), 'depth': tail[1] // n_feats, 'n_feats': n_feats, 'rgb_range': _range(weights),
            'compat': _compat(weights)}


def _compat(weights):
    """By most of the layers in which the two differ, so that one that is missing is said to be."""
    biases = [f'{name}.bias' in weights for name in ('SEM.down_sample_1.0', 'SEM.error_encode.0', 'tail.0')]
    return 'paper' if sum(biases) > 1 else 'port'


def _range(weights):
    mean = weights.get('add_mean.bias', np.zeros(3))
    if mean.shape == (3,) and np.isfinite(mean).all():
        rgb_range = float(f'{float(mean[0]) / RGB_MEAN[0]:.6g}')  # what float32 tells
        if rgb_range > 0 and np.allclose(mean, rgb_range * np.array(RGB_MEAN), rtol=1e-4):
            return rgb_range
    return 1.0


def shapes_of(scale, depth, n_feats, compat='paper'):
    """{name: shape} of the parameters of that CSNLN, in its order, without making it."""
    n, paper, side, shapes = n_feats, compat == 'paper', 9 if scale == 3 else 6, {}

    def conv(name, n_in, n_out, side, bias=True):
        shapes[f'{name}.weight'] = n_out, n_in, side, side
        if bias:
            shapes[f'{name}.bias'] = (n_out,)

    def active(name, n_in, n_out, side, bias=True, one_slope=paper):  # a convolution and its PReLU
        conv(f'{name}.0', n_in, n_out, side, bias)
        shapes[f'{name}.1.w'] = (1 if one_slope else n_out,)

    def projection(name):
        for layer, match in (('up_attention', 'conv_match_'), ('down_attention', 'conv_match')):
            for i in (1, 2):
                active(f'{name}.{layer}.{match}{i}', n, n // 2, 1)
            active(f'{name}.{layer}.conv_assembly', n, n, 1)
        active(f'{name}.upsample', n, n, side, bias=paper)
        conv(f'{name}.encoder.body.0', n, n, 3)
        shapes[f'{name}.encoder.body.1.w'] = (1 if paper else n,)
        conv(f'{name}.encoder.body.2', n, n, 3)

    for name in ('sub_mean', 'add_mean'):
        conv(name, 3, 3, 1)
    for i, n_in in enumerate((3, n)):
        active(f'head.{i}', n_in, n, 3)
    projection('SEM.multi_source_projection')
    active('SEM.down_sample_1', n, n, side, bias=paper)
    active('SEM.error_encode', n, n, side, bias=paper, one_slope=True)
    if scale == 4:
        projection('SEM.multi_source_projection_2')
        for i in (3, 4):
            active(f'SEM.down_sample_{i}', n, n, 8, bias=paper)
        active('SEM.error_encode_2', n, n, 8, bias=paper)
    else:
        active('SEM.down_sample_2', n, n, side, bias=paper)
    active('SEM.post_conv', n, n, 3)
    conv('tail.0', depth * n, 3, 3, bias=paper)
    return shapes
