"""The options of train.py, each declared once with its default, meaning and unit.

The names of the released port keep their meaning; what differs is in the README.
"""
import argparse
import math

from common import cli
from common.ms.data import names, ranges
from common.ms.devices import KERNELS, KINDS
from common.patches import default_cache_dir
from src.model import SCALES
from src.precision import LEVELS


def parse(argv, doc):
    """The checked options of a command line, `scale` that of --task_id. ValueError or exit 2 for impossible ones.

    What was not given and is in a checkpoint stays None: `res_scale`, and with --test_only `scale`.
    """
    parser = cli.Parser(description=doc)
    for add_group in (_add_network, _add_data, _add_recipe, _add_precision, _add_devices, _add_run):
        add_group(parser.add_argument_group(add_group.__name__[5:]).add_argument)
    options = parser.parse_args(argv)
    _check(options)
    if not (options.ckpt_path or options.resume or options.res_scale):
        options.res_scale = 0.1
    options.scale = chosen_scale(options)
    if options.test_only:
        return options
    options.scale = options.scale or 2
    options.patch_size = options.patch_size or 48 * options.scale
    if options.patch_size % options.scale:
        raise ValueError(f'--patch_size {options.patch_size}: the side of an HR patch, expected a multiple of --scale '
                         f'{options.scale}')
    return options


def _add_network(add):
    add('--model', default='EDSR', choices=('EDSR',), help='the network')
    add('--scale', type=scales, default=None, help="upscaling factor, or several joined by '+' (see --task_id); by "
        "default 2, with --test_only the checkpoint's")
    add('--task_id', type=int, default=0, help='which of several factors to train, counted from 0')
    add('--n_resblocks', type=int, default=32, help='residual blocks; the baseline has 16')
    add('--n_feats', type=int, default=256, help='channels; the baseline has 64')
    add('--res_scale', type=float, default=None, help='factor on the residuals; the baseline has 1. By default that of '
        "--resume or --ckpt_path (where the file does not say it: 0.1 for 256 features, 1 for fewer), else 0.1")
    add('--rgb_range', type=float, default=255.0, help='value of white inside the network')
    add('--n_colors', type=int, default=3, help='3 alone: the mean that the network takes off is one of RGB')


def _add_data(add):
    add('--dir_data', required=True, help='folder that holds DIV2K/ and other sets')
    add('--data_train', type=names, default='DIV2K', help="sets to train on, joined by '+': DIV2K, or folders there")
    add('--data_test', type=names, default='DIV2K', help="sets to validate on, likewise; empty: none. The first one's "
        'PSNR says which checkpoint is best')
    add('--data_range', type=ranges, default='1-800/801-900', help='pictures of DIV2K, from 1: to train on / to '
        'validate on; a single range: to train on, or with --test_only to test on')
    add('--test_pictures', type=int, default=10, help='validate on the first so many pictures of a set; 0: on all')
    add('--tile', type=int, default=None, help='side of the tiles that validation upscales by, LR pixels: the same '
        'result in bounded memory; 0: whole pictures; by default as large as about 8 GB allow')
    add('--ext', default='sep', choices=('sep', 'sep_reset', 'img'), help='sep: decode the pictures once, into '
        '--cache_dir; sep_reset: decode them anew; img: decode one for every patch')
    add('--patch_size', type=int, default=0, help='HR patch side, pixels, a multiple of the scale; 0: 48 times the '
        'scale, as in the paper')
    add('--no_augment', action='store_true', help='neither flip nor turn the patches')
    add('--workers', type=int, default=8, help='threads that prepare patches, shared by the ranks')
    add('--cache_dir', default=default_cache_dir(), help='decoded pictures are kept here, 3 bytes a pixel')


def _add_recipe(add):
    add('--batch_size', type=int, default=16, help='patches per step on each device')
    add('--test_every', type=int, default=1000, help='steps of one device in an epoch, to which the pictures are '
        'repeated; a validation follows each epoch. N devices take an Nth')
    add('--epochs', type=int, default=1000, help='epochs in all, those before --resume included')
    add('--train_steps', type=int, default=0, help='steps in all, instead of --epochs')
    add('--lr', type=float, default=1e-4, help='learning rate of Adam')
    add('--lr_halve_epochs', type=int, default=200, help='halve the rate every so many epochs; 0: never')
    add('--seed', type=int, default=1, help='of the first weights, the order of the pictures and the crops')


def _add_precision(add):
    add('--amp_level', default='O0', choices=LEVELS, help='; '.join(f'{k}: {v}' for k, v in LEVELS.items()))
    add('--loss_scale', type=float, default=1024.0, help='factor on the loss, taken off the gradients again; O0 needs '
        'none and has none')
    add('--kernels', default='auto', choices=KERNELS, help="of a CPU's convolutions: our compiled ones, or MindSpore's")


def _add_devices(add):
    add('--device', default='auto', choices=('auto', *KINDS), help='auto: the best there is')
    add('--device_id', type=int, default=None, help='index of the one device, 0 by default')


def _add_run(add):
    add('--ckpt_save_path', default='./ckpt', help='results go to CKPT_SAVE_PATH/X{scale}, or X{scale}_2 ... if that '
        'is taken')
    add('--ckpt_save_interval', type=int, default=10, help='epochs between two checkpoints that stay')
    add('--ckpt_save_max', type=int, default=5, help='the newest so many of these stay')
    add('--save_every', type=int, default=1000, help='steps between two checkpoints; one is written every epoch anyway')
    add('--ckpt_path', default='', help='weights to start from, any that eval.py reads; of any scale. --resume goes '
        'before')
    add('--resume', action='store_true', help='go on from the newest valid checkpoint of the newest run there')
    add('--test_only', action='store_true', help='train nothing: measure --ckpt_path on --data_test')
    add('--log_every', type=int, default=10, help='steps between two log lines')
    add('--case', default='acc', choices=('acc', 'perf'), help='the end of the ModelZoo case name')
    add('--summary_dir', default='', help='folder of <CaseName>.log; empty: the run itself')


def scales(text):
    """'2+3' as [2, 3]."""
    if not set(text.split('+')) <= set(map(str, SCALES)):
        raise argparse.ArgumentTypeError(f"{text!r}: expected {', '.join(map(str, SCALES))}, or several joined by '+'")
    return [int(part) for part in text.split('+')]


def chosen_scale(options):
    """The scale that --scale and --task_id choose; None without --scale. ValueError where they choose none."""
    given = options.scale or [None]
    if not 0 <= options.task_id < len(given):
        raise ValueError(f'--task_id {options.task_id}: --scale names {len(given)}, counted from 0')
    return given[options.task_id]


def _check(options):
    """ValueError for values that exclude each other or are out of range."""
    for name in ('patch_size', 'train_steps', 'test_pictures', 'tile', 'lr_halve_epochs'):
        if (getattr(options, name) or 0) < 0:
            raise ValueError(f'--{name} {getattr(options, name)}: expected 0 or more')
    for name in ('n_resblocks', 'n_feats', 'batch_size', 'epochs', 'test_every', 'workers', 'log_every', 'save_every',
                 'ckpt_save_interval', 'ckpt_save_max'):
        if getattr(options, name) < 1:
            raise ValueError(f'--{name} {getattr(options, name)}: expected 1 or more')
    for name in ('lr', 'loss_scale', 'rgb_range', 'res_scale'):
        if getattr(options, name) is not None and not 0 < getattr(options, name) < math.inf:
            raise ValueError(f'--{name} {getattr(options, name)}: expected a positive number')
    if not 0 <= options.seed < 2 ** 63:
        raise ValueError(f'--seed {options.seed}: expected a whole number of 0 or more, below 2^63')
    if options.n_colors != 3:
        raise ValueError(f'--n_colors {options.n_colors}: expected 3, the mean that EDSR takes off is one of RGB')
    if options.kernels == 'native' and options.amp_level != 'O0':
        raise ValueError(f'--kernels=native computes in 32 bit, --amp_level={options.amp_level} in 16: leave one out')
    if options.test_only and not options.ckpt_path:
        raise ValueError('--test_only measures --ckpt_path, which is missing')
    if not options.data_train:
        raise ValueError('--data_train is empty: expected DIV2K, or folders below --dir_data')
