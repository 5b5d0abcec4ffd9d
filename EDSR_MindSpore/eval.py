"""bash run_eval.sh Set5 output/X2/edsr_best.ckpt --data_path=/data

Measures a checkpoint on test sets, in the paper's protocol and the released port's; size and scale are read from it.
"""

import os

from common import cli
from common.datasets import find_benchmark
from common.evaluation import evaluate
from common.ms.data import div2k_pairs, names, ranges
from src.args import chosen_scale, scales
from src.metrics import protocols
from upscaler import add_options, load_with


def main(argv=None):
    parser = cli.Parser(description=__doc__)
    add = parser.add_argument
    add('--dir_data', required=True, help='folder that holds the sets, or a set itself')
    add('--data_test', type=names, default='DIV2K', help="Set5, B100, DIV2K ... below that folder, joined by '+'")
    add('--ckpt_path', required=True, help="checkpoint of train.py or of a MindSpore port, authors' .pt, BasicSR .pth")
    add('--output_path', default='output/eval', help='pictures and metrics.json go to OUTPUT_PATH/X{scale}/{set}')
    add('--tile', type=int, default=None, help='side of the tiles, LR pixels: the same result as of whole pictures, in '
        'bounded memory; 0: whole pictures; by default as large as about 8 GB allow')
    add('--data_range', type=ranges, default=None, help='pictures of DIV2K, such as 801-810 or 1-800/801-810, of which '
        'the last range counts; empty: all of its validation')
    add('--scale', type=scales, default=None, help="must be the checkpoint's when given; of 2+3, that of --task_id")
    add('--task_id', type=int, default=0, help='which of several scales, counted from 0')
    for name, kind in (('n_resblocks', int), ('n_feats', int), ('rgb_range', float)):
        add(f'--{name}', type=kind, default=None, help="must be the checkpoint's when given")
    add('--n_colors', type=int, default=3, choices=(3,), help='RGB')
    add('--model', default='EDSR', choices=('EDSR',), help='the network')
    add('--test_only', action='store_true', help='not needed: nothing is trained here')
    add('--ext', default='img', help='not needed: pictures are decoded as they come; nothing is written beside them')
    add_options(add)
    options = parser.parse_args(argv)
    options.scale = chosen_scale(options)
    upscale, scale = load_with(options, options.ckpt_path, options.tile)
    sets = {name: div2k_pairs(options.dir_data, scale, *options.data_range[-1])
            if options.data_range and name.lower() == 'div2k' else find_benchmark(options.dir_data, name, scale)
            for name in options.data_test}
    for dataset, pairs in sets.items():
        measured = evaluate(upscale, pairs, scale, dataset=dataset, protocols=protocols(dataset, scale),
                            output_dir=os.path.join(options.output_path, f'X{scale}', dataset),
                            model='EDSR' + '+' * options.self_ensemble)
        port = measured['protocols'][-1]
        for metric, mean in measured['mean'][port].items():
            print(f'Mean {metric} of {dataset} x{scale} is {mean:.4f} ({port})', flush=True)


if __name__ == '__main__':
    cli.run(main)
