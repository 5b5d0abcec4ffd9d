"""python3 import_weights.py --source EDVR_M_x4_SR_REDS_official-32075921.pth --output EDVR_M

Turns released EDVR weights into a checkpoint of this directory, or into an .npz. Recognised by the names in them:

    BasicSR   .pth of the authors in their present names: feature_extraction, upconv1, conv_hr    compat paper
    authors   those of the older EDVR repository: recon_trunk, HRconv, L3_dcnpack                  compat paper
    port      checkpoints of the released port, with Adam's state and what its NPU sessions add    compat port
    frozen    .pb files of mode freeze and of the port                                             as its resizing is
    ours      checkpoints of mode train, .npz of this program; upscaler.py reads all of them directly

The first two come as .safetensors or .npz, too.
"""
import hashlib
import os
import re
from collections import namedtuple

import numpy as np

from ascendvsr.models import checkpoint
from ascendvsr.models.conventions import CONVENTIONS, METHODS
from ascendvsr.models.layers import SCOPE, check_shapes, size_of, some
from common import checkpoints, cli
from common.tf import checkpoint as shared

KNOWN_FILES = {  # how the SHA-256 begins, which the authors give in the names of the files
    '32075921': 'EDVR_M_x4_SR_REDS of the authors', '1edf645c': 'EDVR_M_woTSA_x4_SR_REDS of the authors',
    '9f5f5039': 'EDVR_L_x4_SR_REDS of the authors'}
File = namedtuple('File', 'path weights says dialect ignored')  # path: of the numbers; weights: {our name: float32
# array}; says: {'compat', 'upsampling'} where it does; ignored: names of variables that are none of a training's
ASSUMED = {'compat': 'port', 'upsampling': 'bilinear'}
CONTAINERS = ('params_ema', 'params', 'state_dict')
POWERS = ('beta1_power', 'beta2_power')  # Adam's
OF_PYTORCH = ('.pth', '.pt', '.safetensors')
OLDER = {  # names of the older repository as patterns, and what they became
    'fea_L([23])_conv([12])': r'conv_l\1_\2',
    'pcd_align.L([123])_(offset_conv[123])': r'pcd_align.\2.l\1',
    'pcd_align.L([123])_fea_conv': r'pcd_align.feat_conv.l\1',
    'pcd_align.L([123])_dcnpack': r'pcd_align.dcn_pack.l\1',
    'pcd_align.L([123])_dcnpack.conv_offset_mask': r'pcd_align.dcn_pack.l\1.conv_offset',
    'pcd_align.cas_dcnpack.conv_offset_mask': 'pcd_align.cas_dcnpack.conv_offset',
    'tsa_fusion': 'fusion', 'tsa_fusion.tAtt_2': 'fusion.temporal_attn1', 'tsa_fusion.tAtt_1': 'fusion.temporal_attn2',
    'tsa_fusion.fea_fusion': 'fusion.feat_fusion', 'tsa_fusion.sAtt_([1-5])': r'fusion.spatial_attn\1',
    'tsa_fusion.sAtt_L([123])': r'fusion.spatial_attn_l\1', 'tsa_fusion.sAtt_add_([12])': r'fusion.spatial_attn_add\1',
    r'recon_trunk.(\d+.conv[12])': r'reconstruction.\1', 'HRconv': 'conv_hr'}
OURS = {  # present names as patterns, and what the port calls them
    'conv_first': 'extraction/conv_first', 'conv_l([23])_([12])': r'extraction/feat_l\1_conv\2',
    'pcd_align.(offset_conv[123]|feat_conv).l([123])': r'pcd_align/level\2/\1',
    'pcd_align.dcn_pack.l([123])': r'pcd_align/level\1/dcn_l\1',
    'pcd_align.dcn_pack.l([123]).conv_offset': r'pcd_align/level\1/dcn_l\1/conv_offset',
    'pcd_align.(cas_offset_conv[12])': r'pcd_align/\1', 'pcd_align.cas_dcnpack': 'pcd_align/dcn_cas',
    'pcd_align.cas_dcnpack.conv_offset': 'pcd_align/dcn_cas/conv_offset', 'fusion': 'fusion',
    'fusion.([a-z_0-9]+)': r'tsa_fusion/\1', 'upconv([12])': r'reconstruction/upsample\1',
    '(conv_hr|conv_last)': r'reconstruction/\1'}
BLOCK = re.compile(r'(feature_extraction|reconstruction)\.(\d+)\.conv([12])')
OTHERS = {  # beginnings of names, and which network has them
    ('predeblur.', 'pre_deblur.'): 'an EDVR that deblurs before it aligns (with_predeblur)',
    ('conv_first_1.', 'conv_first_2.'): 'an EDVR for input of high resolution (hr_in)',
    ('generator/',): 'a BSRN', ('head.', 'sub_mean.', 'rgs.'): 'an RCAN or EDSR'}


def read_weights(path, given=None):
    """({name: float32 array}, keyword arguments of EDVR, dialect) of a weight file of any kind known here.

    given: {argument of EDVR: value, or None or '' where there is none}: compat and upsampling where the file does not
    say them, which is else said aloud; what it says must be the same. Raises ValueError naming the file and what it
    holds instead, or what is missing, extra, or of another shape.
    """
    found = _read(str(path))
    return found.weights, _size(found, given), found.dialect


def _size(found, given):
    """Keyword arguments of EDVR for a File; given: as read_weights has it."""
    given = {name: value for name, value in (given or {}).items() if value not in (None, '')}
    try:
        size = {name: value for name, value in dict(size_of(found.weights), **found.says).items() if value is not None}
        assumed = {name: value for name, value in ASSUMED.items() if name not in {**size, **given}}
        for name, value in size.items():
            if given.get(name, value) != value:
                raise ValueError(f'a network of {name} {value}, not {given[name]}; leave that out, or choose another '
                                 'checkpoint')
        size = {**size, **assumed, **{name: given[name] for name in ASSUMED if name in given}}
        check_shapes(found.weights, size)
        broken = [name for name, value in found.weights.items() if not np.isfinite(value).all()]
        if broken:
            raise ValueError(f'NaN or infinite numbers in {some(broken)}: of a run that diverged?')
    except ValueError as error:
        raise ValueError(f'{found.path}: {error}') from None
    if assumed:
        print(f'note: {found.path} does not say its {", ".join(assumed)}; taken as the released port has it: '
              + ', '.join(f'edvr.{name} {value}' for name, value in assumed.items()), flush=True)
    return size


def _read(path):
    """The File at a path: a weight file of any kind known here."""
    if path.lower().endswith(OF_PYTORCH):
        place, arrays = path, _load_pytorch(path)
    else:
        place, arrays = checkpoint.load(path)
    if not any(name.startswith(SCOPE + '/') for name in arrays):
        dialect, weights = translated(place, arrays)
        return File(place, weights, {'compat': 'paper', 'upsampling': 'bilinear'}, dialect, [])
    weights = {name: value.astype(np.float32) for name, value in checkpoint.weights_of(arrays).items()}
    ignored = [name for name in arrays if name not in weights and name not in POWERS
               and not name.endswith(checkpoint.NOT_WEIGHTS)]
    if place.endswith('.pb'):
        return File(place, weights, checkpoint.resizing(place), 'frozen', ignored)
    notes = checkpoint.notes(place)
    says = {name: value for name, value in notes.get('size', {}).items() if name in ASSUMED}
    return File(place, weights, says, 'ours' if notes else 'port', ignored)


def _load_pytorch(path):
    """{name: array} of a file of PyTorch, no code in it is run. ValueError: damaged, or it holds more than numbers."""
    with open(path, 'rb'):  # a missing file is an OSError, not a damaged one
        pass
    package = 'safetensors' if path.lower().endswith('.safetensors') else 'torch'
    try:
        if package == 'safetensors':
            from safetensors.numpy import load_file
            return load_file(path)
        import torch
        content = torch.load(path, map_location='cpu', weights_only=True)
    except ImportError:
        raise ValueError(f'{path}: reading it needs {package}: pip install {package}, or turn it into an .npz of the '
                         'same names where that is installed') from None
    except Exception as error:  # noqa: BLE001 - a damaged file raises anything
        if 'weights_only' in str(error) or 'Unsupported' in str(error):
            raise ValueError(f'{path}: it holds more than numbers, and reading that could run code; refused') from None
        raise ValueError(f'{path}: damaged, or not a file of {package} ({type(error).__name__})') from None
    content = next((content[name] for name in CONTAINERS if isinstance(content.get(name), dict)), content) \
        if isinstance(content, dict) else {}
    return {name: value.float().numpy() for name, value in content.items() if torch.is_tensor(value)}


def translated(place, arrays):
    """(dialect, {our name: array}) of the authors' network, its names present or older ones."""
    arrays = {name[len('module.'):] if name.startswith('module.') else name: value for name, value in arrays.items()}
    for beginnings, kind in OTHERS.items():
        if any(name.startswith(beginnings) for name in arrays):
            raise ValueError(f'{place}: {kind}, which this network is not; it has {some(arrays)}')
    older = any(renamed(name.rpartition('.')[0], OLDER) for name in arrays)
    weights = {}
    for name, value in arrays.items():
        layer, _, part = name.rpartition('.')
        ours = _ours((renamed(layer, OLDER) if older else None) or layer)
        if ours is None or part not in ('weight', 'bias'):
            weights[name] = value  # named as extra when all are looked at
        else:
            weights[f'{SCOPE}/{ours}/{_part(ours, part)}'] = _arranged(ours, value)
    if not any(name.startswith(SCOPE + '/') for name in weights):
        raise ValueError(f'{place}: not an EDVR; it holds {some(arrays)}')
    return 'authors' if older else 'BasicSR', weights


def renamed(name, table):
    """The name of a layer in other words, by a table of patterns; None where it does not have it."""
    for pattern, other in table.items():
        match = re.fullmatch(pattern.replace('.', r'\.'), name)
        if match:
            return match.expand(other)
    return None


def _ours(layer):
    """Our name of a layer that the authors call so, None for an unknown one."""
    block = BLOCK.fullmatch(layer)
    if not block:
        return renamed(layer, OURS)
    scope = {'feature_extraction': 'extraction'}.get(block.group(1), block.group(1))
    return f'{scope}/ResBlock/conv{int(block.group(2)) + 1}{"ab"[int(block.group(3)) - 1]}'


def _part(layer, part):
    names = {'weight': 'W', 'bias': 'b'} if re.search('dcn_(l[123]|cas)$', layer) else {'weight': 'kernel'}
    return names.get(part, part)


def _arranged(layer, value):
    """A kernel [O,I,H,W] as [H,W,I,O], or a bias, its outputs in our order."""
    value = value.transpose(2, 3, 1, 0) if value.ndim == 4 else value
    outputs = value.shape[-1] if value.ndim else 0
    if layer.endswith('/conv_offset') and outputs % 27 == 0:
        value = value[..., offset_order(outputs // 27)]
    if '/upsample' in layer and outputs % 4 == 0:
        value = value[..., shuffle_order(outputs // 4)]
    return np.ascontiguousarray(value, np.float32)


def offset_order(groups):
    """Where each output of our conv_offset, x and y of all taps, then factors, is in the authors': y, x of each tap."""
    pairs = np.arange(18 * groups).reshape(9 * groups, 2)
    return np.concatenate([pairs[:, 1], pairs[:, 0], np.arange(18 * groups, 27 * groups)])


def shuffle_order(channels):
    """Where each output before depth_to_space is in PyTorch, whose sub-pixels of a channel are side by side."""
    return np.arange(4 * channels).reshape(channels, 4).T.ravel()


def digest(place):
    """SHA-256 of the file that holds the numbers."""
    with open(next(filter(os.path.isfile, (place, place + shared.DATA))), 'rb') as file:
        return hashlib.sha256(file.read()).hexdigest()


def import_file(source, output, given=None):
    """Read `source`, write `output`, say what it was. Raises ValueError as read_weights does, or where they are one."""
    place, weights, _, dialect, ignored = file = _read(source)
    size = _size(file, given)
    if os.path.realpath(place) == os.path.realpath(output):
        raise ValueError(f'--output {output} is the source itself; choose another name')
    if output.endswith('.npz'):
        checkpoints.save(output, lambda path: shared.write_npz(path, weights, {'size': size}))
    else:
        checkpoint.write(output, weights, {'size': size})
    if ignored:
        print(f'note: ignored: {some(ignored)}')
    found, described = digest(place), ', '.join(f'{name}={value}' for name, value in size.items())
    known = f': {KNOWN_FILES[found[:8]]}' if found[:8] in KNOWN_FILES else ''
    print(f'{place}: {dialect} weights, EDVR({described}), {sum(value.size for value in weights.values()):,} '
          f'parameters, sha256 {found}{known}')
    print(f'written to {output}')


def main(argv=None):
    parser = cli.Parser(description=__doc__.splitlines()[2])
    add = parser.add_argument
    add('--source', required=True, help='.pth, .safetensors, .npz, .pb, or a checkpoint: its prefix or a folder')
    add('--output', required=True, help='checkpoint to write, such as EDVR_M, or an .npz')
    add('--compat', default='', choices=('', *CONVENTIONS), help="whose numerics the weights were trained with; by "
        'default as the file says, port where it does not')
    add('--upsampling', default='', choices=('', *METHODS), help='of features and the picture; by default as the file '
        'says, bilinear where it does not')
    options = parser.parse_args(argv)
    output = shared.ENDINGS.sub('', options.output)
    import_file(options.source, output, {'compat': options.compat, 'upsampling': options.upsampling})


if __name__ == '__main__':
    cli.run(main)
