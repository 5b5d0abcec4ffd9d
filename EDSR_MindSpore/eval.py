"""bash run_eval.sh Set5 output/X2/edsr_best.ckpt --data_path=/data

Measures a checkpoint on test sets, in the paper's protocol and the released port's; size and scale are read from it.
"""

import os

from common import cli
from common.datasets import find_benchmark
from common.evaluation import evaluate
from src.metrics import protocols
from upscaler import add_options, load_with


def main(argv=None):
    parser = cli.Parser(description=__doc__)
    add = parser.add_argument
    add('--dir_data', required=True, help='folder that holds the sets, or a set itself')
    add('--data_test', default='DIV2K', help="Set5, B100, DIV2K ... below that folder; several joined by '+'")
    add('--ckpt_path', required=True, help="checkpoint of train.py or of a MindSpore port, authors' .pt, BasicSR .pth")
    add('--output_path', default='output/eval', help='pictures and metrics.json go to OUTPUT_PATH/X{scale}/{set}')
    add('--tile', type=int, default=192, help='side of the tiles, LR pixels: the same result as of whole pictures, in '
        'bounded memory; 0: whole pictures')
    for name in ('n_resblocks', 'n_feats'):
        add(f'--{name}', type=int, default=None, help="must be the checkpoint's when given")
    add('--task_id', type=int, default=0, choices=(0,), help='a checkpoint has one scale, the first')
    add('--test_only', action='store_true', help='not needed: nothing is trained here')
    add('--ext', default='img', help='not needed: pictures are decoded as they come; nothing is written beside them')
    add_options(add)
    options = parser.parse_args(argv)
    upscale, scale = load_with(options, options.ckpt_path, options.tile)
    sets = {name: find_benchmark(options.dir_data, name, scale) for name in options.data_test.split('+')}
    for dataset, pairs in sets.items():
        measured = evaluate(upscale, pairs, scale, dataset=dataset, protocols=protocols(dataset, scale),
                            output_dir=os.path.join(options.output_path, f'X{scale}', dataset),
                            model='EDSR' + '+' * options.self_ensemble)
        port = measured['protocols'][-1]
        for metric, mean in measured['mean'][port].items():
            print(f'Mean {metric} of {dataset} x{scale} is {mean:.4f} ({port})', flush=True)


if __name__ == '__main__':
    cli.run(main)
