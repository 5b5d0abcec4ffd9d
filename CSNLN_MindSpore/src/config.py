"""The options of train.py and eval.py: the keys of default_config.yaml, where their defaults are, as flags.

A file of --config_path goes before the defaults, and flags go before both.
"""
import argparse
import math
import os
import re

import yaml

from common import cli
from common.ms.data import names, ranges
from common.ms.devices import KERNELS, KINDS
from common.patches import default_cache_dir
from src.CSNLN import COMPATS, SCALES
from src.precision import LEVELS

DEFAULTS = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), 'default_config.yaml')
SIZE = ('scale', 'depth', 'n_feats', 'rgb_range', 'compat')  # what makes the network; a checkpoint tells it


def whole(text):
    """'16' as 16."""
    if not re.fullmatch(r'-?\d+', text):
        raise argparse.ArgumentTypeError(f'{text!r}: expected a whole number')
    return int(text)


def number(text):
    """'1e-4' as 0.0001."""
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f'{text!r}: expected a number') from None


def boolean(text):
    """'True' as True, in any case of letters."""
    if text.lower() not in ('true', 'false'):
        raise argparse.ArgumentTypeError(f'{text!r}: expected True or False')
    return text.lower() == 'true'


def one_of(*words):
    """The kind of key that has one of these values."""
    def kind(text):
        if text not in words:
            raise argparse.ArgumentTypeError(f'{text!r}: expected {", ".join(words)}')
        return text
    return kind


def device(text):
    """MindSpore's CPU, GPU or Ascend as cpu, gpu or npu; these words and auto as they are."""
    return one_of('auto', *KINDS)({'ascend': 'npu'}.get(text.lower(), text.lower()))


def scale(text):
    """'2', or '[2]' as the released port's file has it, as 2."""
    bare = text.strip('[] ')
    if bare not in map(str, SCALES):
        raise argparse.ArgumentTypeError(f'{text!r}: expected one of {", ".join(map(str, SCALES))}')
    return int(bare)


def gigabytes(text):
    """'1.5' as bytes; '0' as None."""
    if not 0 <= number(text) < math.inf:
        raise argparse.ArgumentTypeError(f'{text!r}: expected GB, 0 or more')
    return int(number(text) * 1e9) or None


KEYS = {  # groups of --help: {key: (kind, meaning)}
    'data': {
        'data_path': (os.path.expanduser, 'folder that holds DIV2K/ and benchmark/'),
        'data_train': (names, "sets to train on, joined by '+': DIV2K, or folders there"),
        'data_test': (names, "sets to validate on or to measure, likewise; empty: none. The first one's PSNR says "
                      'which checkpoint is best'),
        'data_range': (ranges, 'pictures of DIV2K, from 1: to train on / to validate on; a single range: to train on, '
                       'or with test_only to test on'),
        'test_pictures': (whole, 'validate on the first so many pictures of a set; 0: on all'),
        'ext': (one_of('sep', 'sep_reset', 'img'), 'sep: decode the pictures once, into cache_dir; sep_reset: decode '
                'them anew; img: decode one for every patch'),
        'patch_size': (whole, 'HR patch side, pixels: a multiple of 4 (x2), 9 (x3) or 8 (x4); the default is taken up '
                       'to one, 54 at x3'),
        'no_augment': (boolean, 'neither flip nor turn the patches'),
        'workers': (whole, 'threads that prepare patches, shared by the ranks'),
        'cache_dir': (str, f'decoded pictures are kept here, 3 bytes a pixel; empty: {default_cache_dir()}')},
    'network': {
        'scale': (scale, 'upscaling factor: 2, 3 or 4'),
        'depth': (whole, 'how often the recurrent cell runs'),
        'n_feats': (whole, 'channels, even'),
        'rgb_range': (number, 'value of white inside the network'),
        'n_colors': (whole, '3 alone: the mean that the network takes off is one of RGB'),
        'compat': (one_of(*COMPATS), "paper: the authors' network; port: that of the released port, for its "
                   'checkpoints')},
    'training': {
        'batch_size': (whole, 'patches per step on each device'),
        'test_every': (whole, 'steps of one device in an epoch, to which the pictures are repeated; a validation '
                       'follows each epoch. N devices take an Nth'),
        'epoches': (whole, 'epochs in all, those before --resume included'),
        'train_steps': (whole, 'steps in all, instead of epoches'),
        'lr_init': (number, 'learning rate of Adam'),
        'lr_halve_epochs': (whole, 'halve the rate every so many epochs; 0: never'),
        'beta1': (number, 'of Adam'), 'beta2': (number, 'of Adam'), 'epsilon': (number, 'of Adam'),
        'seed': (whole, 'of the first weights, the order of the pictures and the crops')},
    'precision and speed': {
        'amp_level': (one_of(*LEVELS), '; '.join(f'{level}: {meaning}' for level, meaning in LEVELS.items())),
        'loss_scale': (number, 'factor on the loss, taken off the gradients again; O0 needs none and has none'),
        'kernels': (one_of(*KERNELS), "of a CPU's layers: our compiled ones, or MindSpore's"),
        'memory_limit': (gigabytes, 'GB that upscaling may take; 0: half of what a CPU has free, 16 on another device'),
        'chop': (boolean, "upscale pictures by the authors' overlapping quarters, as in the published scores"),
        'self_ensemble': (boolean, 'measure the mean over 8 flips and turns')},
    'devices': {
        'device_target': (device, 'auto (the best there is), CPU, GPU or Ascend; cpu, gpu or npu'),
        'device_id': (whole, 'index of the one device'),
        'distribute': (boolean, 'join the other ranks that a launcher has started; False: train alone')},
    'runs and checkpoints': {
        'save': (str, 'results go to SAVE/X{scale}, or X{scale}_2 ... if that is taken'),
        'save_every': (whole, 'steps between two checkpoints; one is written every epoch anyway'),
        'ckpt_save_interval': (whole, 'epochs between two checkpoints that stay'),
        'keep_checkpoint_max': (whole, 'the newest so many of these stay'),
        'ckpt_file': (str, 'weights to measure, or with pre_trained to start from: of ours, the authors or the port'),
        'pre_trained': (boolean, 'start from ckpt_file; resume goes before'),
        'resume': (boolean, 'go on from the newest valid checkpoint of the newest run there'),
        'test_only': (boolean, 'train nothing: measure ckpt_file on data_test'),
        'log_every': (whole, 'steps between two log lines'),
        'case': (one_of('acc', 'perf'), 'the end of the ModelZoo case name'),
        'summary_dir': (str, 'folder of <CaseName>.log; empty: the run itself')}}
FLAT = {key: entry for group in KEYS.values() for key, entry in group.items()}
SYNONYMS = {'epochs': 'epoches', 'lr': 'lr_init', 'device': 'device_target', 'dir_data': 'data_path',
            'no_argument': 'no_augment', 'ckpt_path': 'ckpt_file'}  # no_argument: the released port's spelling
# keys of the released port that had no effect there and have none here: their value there, and what has an effect
UNUSED = {
    'output_path': ('./cache/train', 'results go to save'),
    'load_path': ('./cache/checkpoint_path', 'ckpt_file names a checkpoint'),
    'checkpoint_path': ('./train_CSNLN_DIV2k.ckpt', 'ckpt_file names a checkpoint'),
    'ckpt_save_dir': ('./ckpt/', 'checkpoints go to save'),
    'rank': ('0', 'the launchers number the ranks'),
    'device_num': ('4', 'scripts/run_train_gpu.sh takes the number of devices'),
    'dataset_name': ('DIV2K', 'data_train names the sets'), 'name': ('DIV2K', 'data_train names the sets'),
    'decay': ('200-1000', 'lr_halve_epochs says when the rate is halved'),
    'gamma': ('0.5', 'lr_halve_epochs says when the rate is halved'),
    'momentum': ('0.9', 'beta1 is that of Adam'), 'weight_decay': ('0.0001', 'the recipe has none'),
    'pre_train': ('False', 'pre_trained starts from ckpt_file'),
    'shift_mean': ('True', 'compat says whether the mean is taken off'), 'model': ('CSNLN', 'there is no other'),
    'file_name': ('csnln', 'run_export.sh takes the file'), 'file_format': ('MINDIR', 'run_export.sh takes the file')}


def parse(argv, doc, measuring=False):
    """The checked options of a command line, under the names of the keys; memory_limit is in bytes, or None.

    measuring: nothing is trained, as with test_only. Then those of SIZE that no flag gives are None, since a checkpoint
    tells them; a file's are for training. ValueError or exit 2 for impossible options.
    """
    defaults = read(DEFAULTS)
    lacking = [key for key in FLAT if key not in defaults]
    if lacking:
        raise ValueError(f'{DEFAULTS}: {", ".join(lacking)} missing; expected a default for every key')
    parser = cli.Parser(description=doc, argument_default=argparse.SUPPRESS)
    parser.add_argument('--config_path', help='YAML file that goes before default_config.yaml')
    for group, entries in KEYS.items():
        add = parser.add_argument_group(group).add_argument
        for key, (kind, meaning) in entries.items():
            words = [f'--{name}' for name in (key, *(other for other in SYNONYMS if SYNONYMS[other] == key))]
            alone = {'nargs': '?', 'const': True} if kind is boolean else {}
            add(*words, dest=key, type=kind, metavar='X', help=f'{meaning} (default: {shown(defaults[key])})', **alone)
    for key in UNUSED:
        parser.add_argument(f'--{key}', type=lambda text, key=key: unused(key, text), help=argparse.SUPPRESS)
    flags = vars(parser.parse_args(argv))
    file = flags.pop('config_path', None)
    given = {**(read(file) if file else {}), **flags}
    options = argparse.Namespace(**{key: given.get(key, defaults[key]) for key in FLAT})
    options.cache_dir = options.cache_dir or default_cache_dir()
    measuring = measuring or options.test_only
    check(options, measuring)
    if not os.path.isdir(options.data_path):
        raise ValueError(f'{os.path.abspath(options.data_path)}: no such folder; name the one that holds DIV2K/ and '
                         f'benchmark/ by --data_path, or by data_path in {file or DEFAULTS}')
    if measuring:
        vars(options).update({key: flags.get(key) for key in SIZE})
    else:
        options.patch_size = patch_size(options, 'patch_size' in given)
    return options


def read(path):
    """{key: value} of a YAML file; only its first document counts, as in the released port, whose others explain.

    Raises ValueError naming the file, what is wrong, and the nearest key where one is unknown; OSError.
    """
    try:
        with open(path, encoding='utf-8') as file:
            found = next(iter(yaml.safe_load_all(file)), None) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f'{path}: not YAML ({" ".join(str(error).split())})') from None
    if not isinstance(found, dict):
        raise ValueError(f'{path}: expected lines such as those of default_config.yaml: scale: 2')
    values = {}
    for name, value in found.items():
        key, text = SYNONYMS.get(name, name), '' if value is None else str(value)
        try:
            if key in UNUSED:
                unused(key, text)
            elif key not in FLAT:
                raise ValueError(f'unknown key{cli.nearest(str(key), [*FLAT, *SYNONYMS])}')
            elif key in values:
                raise ValueError(f'the same as {key}, which is there, too; leave one out')
            else:
                values[key] = FLAT[key][0](text)
        except (ValueError, argparse.ArgumentTypeError) as error:
            raise ValueError(f'{path}: {name}: {error}') from None
    return values


def unused(key, text):
    """ArgumentTypeError unless a key of UNUSED has the released port's value, with which nothing is asked for."""
    value, remedy = UNUSED[key]
    if text != value and not (value[0].isdigit() and same_number(text, value)):
        raise argparse.ArgumentTypeError(f'{text!r}: the released port had no use for it; {remedy}. Leave it out')


def same_number(one, other):
    """Whether two texts are one number: YAML reads 1e-4 as text."""
    try:
        return float(one) == float(other)
    except ValueError:
        return False


def shown(value):
    """A default as a flag would give it."""
    if isinstance(value, list):
        return '/'.join(f'{first}-{last}' for first, last in value) if isinstance(value[0], list) else '+'.join(value)
    return value


def check(options, measuring):
    """ValueError for values that exclude each other or are out of range."""
    for name in ('train_steps', 'test_pictures', 'lr_halve_epochs', 'device_id'):
        if getattr(options, name) < 0:
            raise ValueError(f'--{name} {getattr(options, name)}: expected 0 or more')
    for name in ('depth', 'batch_size', 'epoches', 'test_every', 'workers', 'log_every', 'save_every', 'patch_size',
                 'ckpt_save_interval', 'keep_checkpoint_max'):
        if getattr(options, name) < 1:
            raise ValueError(f'--{name} {getattr(options, name)}: expected 1 or more')
    for name in ('lr_init', 'loss_scale', 'rgb_range', 'epsilon'):
        if not 0 < getattr(options, name) < math.inf:
            raise ValueError(f'--{name} {getattr(options, name)}: expected a positive number')
    for name in ('beta1', 'beta2'):
        if not 0 < getattr(options, name) < 1:
            raise ValueError(f'--{name} {getattr(options, name)}: expected a number between 0 and 1')
    if options.n_feats < 2 or options.n_feats % 2:
        raise ValueError(f'--n_feats {options.n_feats}: expected an even number, half of which the attention compares')
    if not 0 <= options.seed < 2 ** 63:
        raise ValueError(f'--seed {options.seed}: expected a whole number of 0 or more, below 2^63')
    if options.n_colors != 3:
        raise ValueError(f'--n_colors {options.n_colors}: expected 3, the mean that CSNLN takes off is one of RGB')
    if options.kernels == 'native' and options.amp_level != 'O0':
        raise ValueError(f'--kernels=native computes in 32 bit, --amp_level={options.amp_level} in 16: leave one out')
    if (measuring or options.pre_trained) and not options.ckpt_file:
        raise ValueError(f'--ckpt_file is missing: the weights to {"measure" if measuring else "start from"}')
    if options.ckpt_file and not (measuring or options.pre_trained):
        raise ValueError(f'--ckpt_file {options.ckpt_file}: add --pre_trained to start from it, or --test_only to '
                         'measure it')
    if not options.data_train:
        raise ValueError('--data_train is empty: expected DIV2K, or folders below --data_path')


def patch_size(options, given):
    """The side of an HR patch that the network takes; ValueError for a given one that it does not."""
    unit = options.scale * (3 if options.scale == 3 else 2)
    sides = options.patch_size // unit * unit, -(-options.patch_size // unit) * unit
    if given and sides[0] != sides[1]:
        raise ValueError(f'--patch_size {options.patch_size}: the side of an HR patch, at x{options.scale} expected a '
                         f'multiple of {unit}, such as {sides[0] or unit} or {sides[1]}')
    return sides[1]
