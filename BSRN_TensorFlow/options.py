"""The options of train.py, each declared once with its default, meaning and unit.

Those of a loader, the network, the recipe and the device stand beside what they configure. The names of the released
port keep their meaning; what differs is in the README.
"""
import math

import dataloaders
import training
from common import cli
from common.patches import default_cache_dir
from common.tf import devices
from models import bsrn, checkpoint, learning


def parse(argv, doc):
    """(options, loader module) of a command line, checked. ValueError or exit 2 for impossible ones."""
    loader, parser = dataloaders.chosen(argv), cli.Parser(description=doc)
    for name, add_group in (('data', loader.add_options), ('patches', _add_patches), ('run', _add_run),
                            ('network', bsrn.add_size_options), ('recipe', learning.add_options),
                            ('checkpoints', _add_checkpoints), ('validation', _add_validation),
                            ('device', devices.add_options), ('records', _add_records)):
        add_group(parser.add_argument_group(name).add_argument)
    options = parser.parse_args(argv)
    _check(options)
    return options, loader


def _add_patches(add):
    dataloaders.add_choice(add)
    add('--batch_size', type=int, default=8, help='patches per step on each device')
    add('--input_patch_size', type=int, default=48, help='LR patch side, pixels')
    add('--target_patch_size', type=int, default=-1, help='HR patch side, pixels, instead: the LR side is this divided '
        'by the scale; -1: --input_patch_size holds')
    add('--scales', type=bsrn.scale_list, default='2,3,4', help='upscaling factors to train; each step draws one')
    add('--workers', type=int, default=4, help='threads that prepare patches, shared by the ranks')
    add('--cache_dir', default=default_cache_dir(), help='decoded pictures are kept here, 3 bytes a pixel')


def _add_run(add):
    add('--model', default='bsrn', choices=('bsrn',), help='the network')
    add('--max_steps', type=int, default=1000000, help='steps in all of all devices together: each of N makes an Nth; '
        'those before --resume or --global_step count')
    add('--train_epochs', type=int, default=0, help='passes over the pictures in all, instead of --max_steps')
    add('--seed', type=int, default=1, help='of the first weights, the scales, the order of the pictures and the crops')
    add('--sleep_ratio', type=float, default=0.0, help='rest after each step for this share of its time, 10 s at most')
    training.add_store(add)


def _add_checkpoints(add):
    add('--train_path', default='./train/', help='results go there, or to TRAIN_PATH_2 ... if that is taken')
    add('--save_freq', type=int, default=50000, help='steps, counted as --max_steps, between checkpoints that stay')
    add('--save_max_keep', type=int, default=1000, help='the newest so many of these stay')
    add('--resume_freq', type=int, default=500, help='steps between two checkpoints for --resume, of which two stay')
    add('--resume', action='store_true', help='go on from the newest valid checkpoint of the newest run there')
    add('--restore_path', default='', help='checkpoint to start from, with the state of Adam; --resume goes before')
    add('--restore_target', default='', choices=('', 'generator'), help='generator: the weights of --restore_path '
        'alone, in any form that validate_bsrn.py reads')
    add('--global_step', type=int, default=0, help='count the steps from here, with --restore_path')


def _add_validation(add):
    add('--valid_path', default='', help='folder that holds benchmark/ or DIV2K/; empty: --data_path')
    add('--valid_set', default='auto', help='set to validate on; auto: BSD100, else the validation pictures of DIV2K, '
        'else none; empty: none. Its PSNR says which checkpoint is best')
    add('--valid_pictures', type=int, default=0, help='validate on the first so many pictures; 0: on all')
    add('--valid_freq', type=int, default=10000, help='steps between two validations; another one is at the end')
    add('--tile', type=int, default=None, help='side of the tiles that validation upscales by, LR pixels: the same '
        'result in bounded memory; 0: whole pictures; by default as large as about 8 GB allow')


def _add_records(add):
    add('--log_freq', type=int, default=10, help='steps between two log lines')
    add('--summary_freq', type=int, default=1000, help='steps between two records for TensorBoard')
    add('--case', default='acc', choices=('acc', 'perf'), help='the end of the ModelZoo case name')
    add('--summary_dir', default='', help='folder of <CaseName>.log; empty: the run itself')


def _check(options):
    """ValueError for values that exclude each other or are out of range."""
    for name in ('batch_size', 'input_patch_size', 'workers', 'max_steps', 'save_freq', 'save_max_keep', 'resume_freq',
                 'valid_freq', 'log_freq', 'summary_freq', 'bsrn_learning_rate_decay_steps'):
        if getattr(options, name) < 1:
            raise ValueError(f'--{name} {getattr(options, name)}: expected 1 or more')
    for name in ('train_epochs', 'valid_pictures', 'global_step', 'tile', 'sleep_ratio'):
        if not 0 <= (getattr(options, name) or 0) < math.inf:
            raise ValueError(f'--{name} {getattr(options, name)}: expected 0 or more')
    for name in ('bsrn_learning_rate', 'bsrn_learning_rate_decay', 'bsrn_adam_epsilon'):
        if not 0 < getattr(options, name) < math.inf:
            raise ValueError(f'--{name} {getattr(options, name)}: expected a positive number')
    if not -math.inf < options.bsrn_clip_norm < math.inf:
        raise ValueError(f'--bsrn_clip_norm {options.bsrn_clip_norm}: expected a number')
    if not 0 <= options.seed < 2 ** 63:
        raise ValueError(f'--seed {options.seed}: expected a whole number of 0 or more, below 2^63')
    if options.target_patch_size > 0 and any(options.target_patch_size % scale for scale in options.scales):
        raise ValueError(f'--target_patch_size {options.target_patch_size}: the side of an HR patch, expected a '
                         f'multiple of each of --scales {checkpoint.show(options.scales)}')
    if options.global_step and not options.restore_path:
        raise ValueError('--global_step counts on from a checkpoint: name it with --restore_path, or use --resume')
    if options.restore_target and not options.restore_path:
        raise ValueError('--restore_target says what of --restore_path is taken, which is missing')
    if options.platform == 'modelarts':
        training.object_store()
