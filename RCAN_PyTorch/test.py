"""bash run_eval.sh Set5 output/X2/model_best_amp.pth --data_path=/data

Measures a checkpoint on a test set, in the paper's protocol and the released port's; size and scale are read from it.
"""

import os

from common import cli
from common.evaluation import evaluate
from dataset import protocols, test_pairs
from upscaler import add_options, load_with


def main(argv=None):
    parser = cli.Parser(description=__doc__)
    add = parser.add_argument
    add('--test_dataset_dir', required=True, help='folder that holds the set, or the set itself')
    add('--dataset', default='', help='Set5, B100, DIV2K ... below that folder; empty: the folder is the set')
    add('--checkpoint_path', required=True, help="checkpoint of main.py or of the port, authors' .pt, BasicSR .pth")
    add('--outputs_dir', required=True, help='pictures and metrics.json go to OUTPUTS_DIR/X{scale}/{dataset}')
    add('--arch', default='RCAN', help='network name, as printed')
    add('--tile', type=int, default=0, help='side of the tiles, LR pixels; 0: whole pictures, as the papers do')
    for name in ('num_features', 'num_rg', 'num_rcab'):
        add(f'--{name}', type=int, default=None, help="must be the checkpoint's when given")
    add('--from_multiprocessing_distributed', action='store_true', help='not needed: such checkpoints are recognised')
    add_options(add)
    options = parser.parse_args(argv)
    upscale, scale = load_with(options, options.checkpoint_path, options.tile)
    dataset = options.dataset or os.path.basename(os.path.abspath(options.test_dataset_dir))
    evaluate(upscale, test_pairs(options.test_dataset_dir, scale, options.dataset), scale, dataset=dataset,
             protocols=protocols(scale), output_dir=os.path.join(options.outputs_dir, f'X{scale}', dataset),
             model=options.arch + '+' * options.self_ensemble)


if __name__ == '__main__':
    cli.run(main)
