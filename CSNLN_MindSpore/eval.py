"""python3 eval.py --ckpt_file=output/X2/model_best.ckpt --data_path=/data --data_test=Set5

Measures a checkpoint on test sets, in the paper's protocol and the released port's; size and scale are read from it.
Pictures are taken whole where memory allows; --chop measures in parts, as the published scores are. Pictures and
metrics.json go to SAVE/X{scale}/{set}, SAVE being a flag or output/eval: that of a file is for training.
"""
import os
import sys

import mindspore as ms

from common import cli, images
from common.evaluation import evaluate
from common.ms.data import find_tests
from src import config
from src.metrics import protocols
from upscaler import load


def sizes(pairs, scale):
    """[(height, width)] of the LR pictures, by their headers; of one that cannot be read evaluate() tells."""
    found = []
    for pair in pairs:
        try:
            found.append(images.size(pair.lr) if pair.lr else tuple(side // scale for side in images.size(pair.hr)))
        except (ValueError, OSError):
            continue
    return found


def main(argv=None):
    given = sys.argv[1:] if argv is None else argv
    options = config.parse(['--save=output/eval', *given], __doc__, measuring=True)
    if not options.data_test:
        raise ValueError('--data_test names no set; expected Set5, DIV2K or others')
    upscaler = load(options.ckpt_file, scale=options.scale, device=options.device_target, device_id=options.device_id,
                    kernels=options.kernels, memory_limit=options.memory_limit, compat=options.compat,
                    size=[(name, getattr(options, name)) for name in ('depth', 'n_feats', 'rgb_range')])
    network, scale = upscaler.network, upscaler.scale
    print(f'CSNLN x{scale}, {network.depth} times {network.n_feats} features, on {ms.get_context("device_target")}',
          flush=True)
    for dataset, pairs in find_tests(options.data_path, options.data_test, scale, options.data_range[-1]):
        upscale, by_parts = upscaler.planned(sizes(pairs, scale), options.chop, options.self_ensemble)
        measured = evaluate(upscale, pairs, scale, dataset=dataset, protocols=protocols(dataset, scale, by_parts),
                            output_dir=os.path.join(options.save, f'X{scale}', dataset),
                            model='CSNLN' + '+' * options.self_ensemble)
        port = measured['protocols'][-1]
        for metric, mean in measured['mean'][port].items():
            print(f'Mean {metric} of {dataset} x{scale} is {mean:.4f} ({port})', flush=True)


if __name__ == '__main__':
    cli.run(main)
