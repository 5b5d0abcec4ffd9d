"""The options of main.py and main_prof.py, each declared once with its default, meaning and unit.

The names of the released port keep their meaning; what differs is in the README.
"""

import math
import re

from common import cli
from common.patches import default_cache_dir
from device import KINDS
from model import STYLES

OPT_LEVELS = {'O0': 'fp32', 'O1': '16-bit convolutions, fp32 weights', 'O2': '16-bit convolutions, fp32 weights'}


def training_parser(prog_doc):
    """A parser of every training option, in groups by what they configure."""
    parser = cli.Parser(description=prog_doc)
    for add_group in (_add_network, _add_data, _add_recipe, _add_precision, _add_devices, _add_run):
        add_group(parser.add_argument_group(add_group.__name__[5:]).add_argument)
    return parser


def _add_network(add):
    add('--arch', default='RCAN', help='network name, used in file names')
    add('--style', default='paper', choices=STYLES, help="the authors' network, or the released port's")
    add('--scale', type=int, default=2, help='upscaling factor')
    add('--num_features', type=int, default=64, help='channels of the trunk')
    add('--num_rg', type=int, default=10, help='residual groups')
    add('--num_rcab', type=int, default=20, help='attention blocks in a group')
    add('--reduction', type=int, default=16, help='channels divided by this inside the attention')


def _add_data(add):
    add('--train_dataset_dir', required=True, help='DIV2K, what holds it, HR/ with LR_bicubic/, or HR pictures')
    add('--test_dataset_dir', default='', help='validation pictures, found likewise; empty: train without validation')
    add('--test_pictures', type=int, default=10, help='validate on the first so many pictures; 0: on all')
    add('--patch_size', type=int, default=48, help='LR patch side, pixels')
    add('--workers', type=int, default=8, help='threads that prepare patches, shared by the ranks')
    add('--cache_dir', default=default_cache_dir(), help='decoded pictures are kept here, 3 bytes a pixel')


def _add_recipe(add):
    add('--batch_size', type=int, default=160, help='patches per step, over all devices')
    add('--num_epochs', type=int, default=600, help='epochs in all, those before --ifcontinue included')
    add('--train_steps', type=int, default=0, help='steps in all, instead of --num_epochs')
    add('--lr', type=float, default=1e-4, help='learning rate of Adam')
    add('--lr_halve_steps', type=int, default=0, help='halve the rate every so many steps, the paper 200000; 0: never')
    add('--seed', type=int, default=123, help='of the first weights, the order of the pictures and the crops')


def _add_precision(add):
    add('--amp', action='store_true', help='mixed precision, of the kind --opt_level says')
    add('--opt_level', default='O2', choices=OPT_LEVELS, help='; '.join(f'{k}: {v}' for k, v in OPT_LEVELS.items()))
    add('--amp_dtype', default='auto', choices=('auto', 'bf16', 'fp16'), help='auto: bf16 where the device has it')
    add('--loss_scale', type=loss_scale, default=128.0, help="fp16 only: a number, or 'dynamic'; bf16 needs none")
    add('--compile', action='store_true', help='torch.compile each residual group: slower start, faster steps')


def _add_devices(add):
    add('--device', default='auto', choices=('auto', *KINDS), help='auto: the best there is')
    add('--device_id', type=int, default=None, help='index of the one device, 0 by default')
    add('--multiprocessing_distributed', action='store_true', help='one process for each device of --device_list')
    add('--device_list', type=device_list, default='0,1,2,3,4,5,6,7', help='device indices by local rank')
    add('--world_size', type=int, default=1, help='number of machines; more than 1 needs torchrun on each')


def _add_run(add):
    add('--outputs_dir', required=True, help='results go to OUTPUTS_DIR/X{scale}, or X{scale}_2 ... if that is taken')
    add('--ifcontinue', action='store_true', help='go on from the newest valid checkpoint of the newest run there')
    add('--checkpoint_path', default='', help='with --ifcontinue: this file instead, relative to the run')
    add('--iffinetuning', action='store_true', help='start from other weights, unless --ifcontinue goes on with a run')
    add('--finetuning_checkpoint_path', default='', help='any checkpoint that test.py reads; of any scale')
    add('--log_every', type=int, default=10, help='steps between two log lines')
    add('--save_every', type=int, default=1000, help='steps between two checkpoints; one is written every epoch anyway')
    add('--test_every', type=int, default=1, help='epochs between two validations')
    add('--case', default='acc', choices=('acc', 'perf'), help='the end of the ModelZoo case name')
    add('--summary_dir', default='', help='folder of <CaseName>.log; empty: the run itself')


def device_list(text):
    """'0,1,2' as [0, 1, 2]."""
    return [int(part) for part in text.split(',')]


def loss_scale(text):
    """A positive number, or 'dynamic'."""
    if text == 'dynamic':
        return text
    value = float(text)
    if not 0 < value < math.inf:
        raise ValueError(f'loss_scale {text}')
    return value


def check(options):
    """ValueError for values that exclude each other or are out of range."""
    for name in ('scale', 'patch_size', 'batch_size', 'num_epochs', 'workers', 'log_every', 'save_every', 'test_every'):
        if getattr(options, name) < 1:
            raise ValueError(f'--{name} {getattr(options, name)}: expected 1 or more')
    for name in ('train_steps', 'test_pictures', 'lr_halve_steps'):
        if getattr(options, name) < 0:
            raise ValueError(f'--{name} {getattr(options, name)}: expected 0 or more')
    if not 0 < options.lr < math.inf:
        raise ValueError(f'--lr {options.lr}: expected a positive number')
    if not 0 <= options.seed < 2 ** 63:
        raise ValueError(f'--seed {options.seed}: expected a whole number of 0 or more, below 2^63')
    if not re.fullmatch('[A-Za-z0-9._-]+', options.arch):
        raise ValueError(f'--arch {options.arch!r}: it becomes part of file names; expected letters and digits')
    if options.world_size > 1:
        raise ValueError('--world_size above 1: start `torchrun --nnodes=N ... main.py ...` on each machine instead')
    if options.multiprocessing_distributed and options.device_id is not None:
        raise ValueError('--device_id names one device, --multiprocessing_distributed uses several: choose one of them')
    if options.iffinetuning != bool(options.finetuning_checkpoint_path):
        raise ValueError('--iffinetuning and --finetuning_checkpoint_path belong together')
    if options.checkpoint_path and not options.ifcontinue:
        raise ValueError('--checkpoint_path says where --ifcontinue starts; to start a new run use --iffinetuning')
