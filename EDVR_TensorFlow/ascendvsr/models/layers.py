"""The variables of EDVR: names, shapes, first values, and the size of a network that has them."""
import re

import numpy as np

from ascendvsr.models.conventions import CONVENTIONS, METHODS
from common.tf.checkpoint import some

SCOPE = 'G'
# layers of the port without an activation after them: it draws the kernels of the others wider
PLAIN = re.compile('conv_offset$|level1/feat_conv$|temporal_attn|spatial_attn5$|add2$|upsample|conv_last$|^fusion$')
DEFORMABLE = re.compile('/dcn_[^/]*$')
SIZES = {  # the authors' networks: mid_channels, num_deform_groups, blocks of extraction, of reconstruction
    'EDVR-M': (64, 8, 5, 10), 'EDVR-L': (128, 8, 5, 40)}


def layers(num_frames, mid_channels, num_deform_groups, num_blocks_extraction, num_blocks_reconstruction, with_tsa,
           compat, upsampling):
    """{name: {'kernel': shape, 'bias': shape}} of all layers without SCOPE, 'W' and 'b' of deformable convolutions."""
    c, tail = mid_channels, CONVENTIONS[compat].tail(mid_channels)
    fusion = _attention(c, num_frames) if with_tsa else {'fusion': (1, num_frames * c, c)}
    plain = {
        'extraction/conv_first': (3, 3, c), **_blocks('extraction', num_blocks_extraction, c),
        **{f'extraction/feat_l{level}_conv{i}': (3, c, c) for level in (2, 3) for i in (1, 2)},
        **_alignment(c, num_deform_groups), **fusion, **_blocks('reconstruction', num_blocks_reconstruction, c),
        'reconstruction/upsample1': (3, c, 4 * c), 'reconstruction/upsample2': (3, c, 4 * tail),
        'reconstruction/conv_hr': (3, tail, tail), 'reconstruction/conv_last': (3, tail, 3)}
    return {name: dict(zip(('W', 'b') if DEFORMABLE.search(name) else ('kernel', 'bias'),
                           ((side, side, inputs, outputs), (outputs,))))
            for name, (side, inputs, outputs) in plain.items()}


# The parts of it: {name: (side of the kernel, channels in, channels out)}.

def _blocks(scope, count, c):
    return {f'{scope}/ResBlock/conv{block}{part}': (3, c, c) for block in range(1, count + 1) for part in 'ab'}


def _alignment(c, groups):
    found = {}
    for level in (3, 2, 1):
        scope, above = f'pcd_align/level{level}', level < 3
        found[f'{scope}/offset_conv1'] = (3, 2 * c, c)
        found[f'{scope}/offset_conv2'] = (3, 2 * c if above else c, c)
        found.update({f'{scope}/offset_conv3': (3, c, c)} if above else {})
        found[f'{scope}/dcn_l{level}/conv_offset'] = (3, c, 27 * groups)
        found[f'{scope}/dcn_l{level}'] = (3, c, c)
        found.update({f'{scope}/feat_conv': (3, 2 * c, c)} if above else {})
    return {**found, 'pcd_align/cas_offset_conv1': (3, 2 * c, c), 'pcd_align/cas_offset_conv2': (3, c, c),
            'pcd_align/dcn_cas/conv_offset': (3, c, 27 * groups), 'pcd_align/dcn_cas': (3, c, c)}


def _attention(c, frames):
    sides = {'temporal_attn1': (3, c), 'temporal_attn2': (3, c), 'feat_fusion': (1, frames * c),
             'spatial_attn1': (1, frames * c), 'spatial_attn2': (1, 2 * c), 'spatial_attn_l1': (1, c),
             'spatial_attn_l2': (3, 2 * c), 'spatial_attn_l3': (3, c), 'spatial_attn3': (3, c),
             'spatial_attn4': (1, c), 'spatial_attn5': (3, c), 'spatial_attn_add1': (1, c),
             'spatial_attn_add2': (1, c)}
    return {f'tsa_fusion/{name}': (side, inputs, c) for name, (side, inputs) in sides.items()}


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
    if DEFORMABLE.search(name):
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
