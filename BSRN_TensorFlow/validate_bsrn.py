"""bash run_eval.sh Set5 output/X4/model.ckpt-best --data_path=/data

Measures a checkpoint on a test set: the picture of every pass and their ensemble, all of one run of the network, in the
paper's protocol and the released port's.
"""

import os
import sys

import numpy as np

import dataloaders
import training
from common import cli
from common.datasets import find_benchmark
from common.evaluation import Protocol, evaluate
from models.bsrn import scale_list
from upscaler import add_options, load_with


class Passes:
    """A function lr -> sr of the ensemble, which keeps what each pass gave in `pictures`, {'t1': sr, ...}.

    upscale: lr -> the pictures of all passes and the ensemble, behind each other in the channels; numbers: of passes.
    """

    def __init__(self, upscale, numbers):
        self._upscale, self._numbers, self.pictures = upscale, numbers, {}

    def __call__(self, lr):
        *of_passes, ensemble = np.split(self._upscale(lr), len(self._numbers) + 1, axis=2)
        self.pictures = {f't{number}': sr for number, sr in zip(self._numbers, of_passes)}
        return ensemble


def measure(upscale, whole, pairs, options, dataset):
    """Evaluate one scale of a network on [Pair] and print what the passes give."""
    scale, folder = whole.scale, options.save_path
    passes = None if options.ensemble_only else Passes(upscale, whole.network.passes)
    result = evaluate(
        passes or upscale, pairs, scale, dataset=dataset, model='BSRN' + '+' * options.self_ensemble,
        protocols=[Protocol('y', scale), Protocol('rgb', options.shave_size)],
        output_dir=folder and os.path.join(folder, 'ensemble', f'x{scale}'), also=passes and (lambda: passes.pictures),
        place=lambda name, other: os.path.join(folder, other or 'ensemble', f'x{scale}', f'{name}.png'))
    print_passes(dict(result.get('also', {}), ensemble=result['mean']), result['protocols'], scale)


def print_passes(scores, protocols, scale):
    """A table with a line for each pass, then the released port's closing words in its protocol."""
    print(f'\n{"x" + str(scale):<12}' + ''.join(f'{name:>18}' for name in protocols))
    for name, score in scores.items():
        print(f'{name:<12}' + ''.join('{psnr:>10.3f}/{ssim:.5f}'.format(**score[protocol]) for protocol in protocols))
    port = protocols[-1]
    print(f'\n- x{scale}, PSNR and SSIM: protocol={port}')
    print('Final PSNR:  ' + ' '.join(f'{score[port]["psnr"]:.3f}' for score in scores.values()))
    print('\nFinal SSIM:  ' + ' '.join(f'{score[port]["ssim"]:.5f}' for score in scores.values()), flush=True)


def dataset_of(options):
    """The name of the set that the loader's folders are: /data/BSD100/SR is BSD100."""
    folder, name = os.path.split(os.path.abspath(options.data_truth_path))
    return os.path.basename(folder) if name.lower() in ('hr', 'sr', 'gtmod12') else name


def parse(argv):
    """(options, loader module) of a command line."""
    loader = dataloaders.chosen(argv)
    parser = cli.Parser(description=__doc__, conflict_handler='resolve')  # of loaders, div2k_loader has a --data_path
    add = parser.add_argument
    dataloaders.add_choice(add)
    loader.add_options(add)
    add('--dataset', default='', help='Set5, BSD100, DIV2K ... below --data_path, instead of the folders of a loader')
    add('--data_path', default='', help='folder that holds the sets of --dataset, or the set itself')
    add('--restore_path', '--checkpoint', required=True, help="checkpoint of train.py, the authors or the port: its "
        'prefix, or a folder')
    add('--scales', '--scale', type=scale_list, default=None, help='of those that the network has; empty: its only one')
    add('--save_path', default='', help='pictures go to SAVE_PATH/{t1,...,ensemble}/x4, scores to metrics.json beside '
        "the ensemble's; empty: nowhere")
    add('--shave_size', type=int, default=4, help='HR pixels cropped on every side in the port\'s protocol')
    add('--ensemble_only', type=dataloaders.boolean, nargs='?', const=True, default=False, help='not the single passes')
    training.add_store(add)
    add_options(add)
    options = parser.parse_args(argv)
    if options.shave_size < 0:
        raise ValueError(f'--shave_size {options.shave_size}: expected 0 or more HR pixels')
    if bool(options.dataset) != bool(options.data_path):
        raise ValueError(f'--dataset={options.dataset} --data_path={options.data_path}: they go together; without them '
                         '--data_input_path and --data_truth_path are the folders')
    if options.platform == 'modelarts':
        if not options.save_path:
            raise ValueError('--platform=modelarts copies what is in --save_path, which is missing')
        training.object_store()  # now: it may be missing
    return options, loader


def main(argv=None):
    options, loader = parse(sys.argv[1:] if argv is None else argv)
    found = load_with(options, options.restore_path, 'ensemble' if options.ensemble_only else 'all')
    pairs = [find_benchmark(options.data_path, options.dataset, whole.scale) if options.dataset
             else loader.pairs(options, whole.scale) for _, whole in found]
    failures = []
    for (upscale, whole), of_scale in zip(found, pairs):
        try:
            measure(upscale, whole, of_scale, options, options.dataset or dataset_of(options))
        except ValueError as error:  # a broken picture of one scale does not keep the others from being measured
            failures.append(f'x{whole.scale}: {error}')
    if failures:
        raise ValueError('; '.join(failures))
    if options.platform == 'modelarts':
        training.object_store().copy_parallel(options.save_path, options.obs_dir)


if __name__ == '__main__':
    cli.run(main)
