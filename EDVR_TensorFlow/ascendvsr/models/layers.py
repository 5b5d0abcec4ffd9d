"""The variables of EDVR: names, shapes, first values, and the size of a network that has them."""
import re

import numpy as np

from ascendvsr.models.conventions import CONVENTIONS, METHODS
from common.tf.checkpoint import some

SCOPE = 'G'
# layers of the port without an activation after them: it draws the kernels of the others wider
PLAIN = re.compile('conv_offset$|level1/feat_conv$|temporal_attn|spatial_attn5$|add2$|upsample|conv_last$|^fusion$')
SIZES = {  # the authors' networks: mid_channels, num_deform_groups, blocks of extraction, of reconstruction
    'EDVR-M': (64, 8, 5, 10), 'EDVR-L': (128, 8, 5, 40)}


def layers(num_frames, mid_channels, num_deform_groups, num_blocks_extraction, num_blocks_reconstruction, with_tsa,
           compat, upsampling):
    """{name: {'kernel': shape, 'bias': shape}} of all layers without SCOPE, 'W' and 'b' of deformable convolutions."""
    c, found = mid_channels, {}

    def add(name, inputs, outputs=c, side=3):
        found[name] = {'kernel': (side, side, inputs, outputs), 'bias': (outputs,)}

    def add_blocks(scope, count):
        for block in range(1, count + 1):
            add(f'{scope}/ResBlock/conv{block}a', c)
            add(f'{scope}/ResBlock/conv{block}b', c)

    def add_deformable(name):
        add(f'{name}/conv_offset', c, 27 * num_deform_groups)
        found[name] = {'W': (3, 3, c, c), 'b': (c,)}

    add('extraction/conv_first', 3)
    add_blocks('extraction', num_blocks_extraction)
    for level in (2, 3):
        add(f'extraction/feat_l{level}_conv1', c)
        add(f'extraction/feat_l{level}_conv2', c)
    for level in (3, 2, 1):
        scope = f'pcd_align/level{level}'
        add(f'{scope}/offset_conv1', 2 * c)
        add(f'{scope}/offset_conv2', c if level == 3 else 2 * c)
        if level < 3:
            add(f'{scope}/offset_conv3', c)
        add_deformable(f'{scope}/dcn_l{level}')
        if level < 3:
            add(f'{scope}/feat_conv', 2 * c)
    add('pcd_align/cas_offset_conv1', 2 * c)
    add('pcd_align/cas_offset_conv2', c)
    add_deformable('pcd_align/dcn_cas')
    if with_tsa:
        for name, inputs, side in (
                ('temporal_attn1', c, 3), ('temporal_attn2', c, 3), ('feat_fusion', num_frames * c, 1),
                ('spatial_attn1', num_frames * c, 1), ('spatial_attn2', 2 * c, 1), ('spatial_attn_l1', c, 1),
                ('spatial_attn_l2', 2 * c, 3), ('spatial_attn_l3', c, 3), ('spatial_attn3', c, 3),
                ('spatial_attn4', c, 1), ('spatial_attn5', c, 3), ('spatial_attn_add1', c, 1),
                ('spatial_attn_add2', c, 1)):
            add(f'tsa_fusion/{name}', inputs, side=side)
    else:
        add('fusion', num_frames * c, side=1)
    add_blocks('reconstruction', num_blocks_reconstruction)
    tail = CONVENTIONS[compat].tail(c)
    add('reconstruction/upsample1', c, 4 * c)
    add('reconstruction/upsample2', c, 4 * tail)
    add('reconstruction/conv_hr', tail, tail)
    add('reconstruction/conv_last', tail, 3)
    return found


def shapes(size):
    """{name of the variable: shape}; size: keyword arguments of EDVR."""
    return {f'{SCOPE}/{name}/{part}': shape for name, parts in layers(**size).items() for part, shape in parts.items()}


def check_size(num_frames, mid_channels, num_deform_groups, num_blocks_extraction, num_blocks_reconstruction, with_tsa,
               compat, upsampling):
    """ValueError unless a network can have that size."""
    if num_frames < 1 or num_frames % 2 == 0:
        raise ValueError(f'model.num_frames {num_frames}: expected an odd number, the middle one is upscaled')
    if mid_channels < 1 or num_deform_groups < 1 or mid_channels % num_deform_groups:
        raise ValueError(f'edvr.mid_channels {mid_channels}, edvr.num_deform_groups {num_deform_groups}: expected '
                         'channels that the groups divide')
    if min(num_blocks_extraction, num_blocks_reconstruction) < 0:
        raise ValueError(f'edvr.num_blocks_extraction {num_blocks_extraction}, edvr.num_blocks_reconstruction '
                         f'{num_blocks_reconstruction}: expected 0 or more')
    for key, value, known in (('compat', compat, CONVENTIONS), ('upsampling', upsampling, METHODS)):
        if value not in known:
            raise ValueError(f'edvr.{key} {value!r}: expected {" or ".join(known)}')


def initial_weights(size, rng):
    """{name: array} of all variables, drawn from a numpy Generator as the code that `compat` names initialises them."""
    weights = {}
    for name, parts in layers(**size).items():
        (kernel, shape), (bias, length) = parts.items()
        values = _first_values(name, shape, size['compat'] == 'paper', rng)
        for part, value in zip((kernel, bias), values):
            weights[f'{SCOPE}/{name}/{part}'] = np.broadcast_to(value, parts[part]).astype(np.float32)
    return weights


def _first_values(name, shape, paper, rng):
    """(kernel, bias) of a layer."""
    fan_in = int(np.prod(shape[:3]))
    bound = fan_in ** -0.5
    if '/ResBlock/' in name:
        deviation = 0.1 * (2 / fan_in) ** 0.5 if paper else (1 / (100 * shape[2])) ** 0.5
        return deviation * rng.standard_normal(shape), 0 if paper else rng.uniform(-bound, bound, shape[3:])
    if name.endswith('/conv_offset') and paper:  # all offsets begin at 0, all factors at a half
        return 0, 0
    if '/dcn_' in name and not name.endswith('/conv_offset'):
        return rng.uniform(-bound, bound, shape), 0
    widest = bound if paper or PLAIN.search(name) else (6 / 1.01 / fan_in) ** 0.5
    return rng.uniform(-widest, widest, shape), rng.uniform(-bound, bound, shape[3:])


def size_of(weights):
    """Keyword arguments of EDVR for the network whose variables {name: array} are given, `compat` None where both
    conventions have such variables; upsampling leaves no trace in them and is left out.

    Raises ValueError that names what is missing, extra, or of another shape.
    """
    def shape(name, dimensions=4):
        value = weights.get(f'{SCOPE}/{name}')
        if value is None or value.ndim != dimensions:
            raise ValueError(f'not an EDVR: expected {SCOPE}/{name} of {dimensions} dimensions, found {some(weights)}')
        return value.shape

    def blocks(scope):
        found = [re.fullmatch(f'{SCOPE}/{scope}/ResBlock/conv([0-9]+)a/kernel', name) for name in weights]
        return max((int(match.group(1)) for match in found if match), default=0)

    c, with_tsa = shape('extraction/conv_first/kernel')[3], f'{SCOPE}/fusion/kernel' not in weights
    size = {
        'num_frames': shape('tsa_fusion/feat_fusion/kernel' if with_tsa else 'fusion/kernel')[2] // c,
        'mid_channels': c,
        'num_deform_groups': shape('pcd_align/dcn_cas/conv_offset/kernel')[3] // 27,
        'num_blocks_extraction': blocks('extraction'), 'num_blocks_reconstruction': blocks('reconstruction'),
        'with_tsa': with_tsa}
    tail = shape('reconstruction/conv_hr/kernel')[3]
    fitting = [name for name, convention in CONVENTIONS.items() if convention.tail(c) == tail]
    check_shapes(weights, dict(size, compat=fitting[0] if fitting else 'paper', upsampling='bilinear'))
    return dict(size, compat=fitting[0] if len(fitting) == 1 else None)


def check_shapes(weights, size):
    """ValueError naming what of {name: array} is missing, extra or of another shape than a network of that size has."""
    try:
        check_size(**size)
    except ValueError as error:
        raise ValueError(f'not an EDVR: {error}') from None
    expected = shapes(size)
    missing, extra = sorted(set(expected) - set(weights)), sorted(set(weights) - set(expected))
    differing = [f'{name} {weights[name].shape} (expected {shape})' for name, shape in expected.items()
                 if name in weights and weights[name].shape != shape]
    if missing or extra or differing:
        raise ValueError(f'not an EDVR of {size["mid_channels"]} channels: missing {some(missing)}; '
                         f'extra {some(extra)}; of another shape {some(differing)}')
