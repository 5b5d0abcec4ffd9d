"""bash test/train_full_1p.sh --data_path=/data

Trains EDSR: L1 loss, Adam, random crops with flips and turns. The program behind the launchers, by hand:

    python3 train.py --dir_data=/data --n_resblocks=16 --n_feats=64 --res_scale=1     # the paper's baseline, x2
    python3 train.py --dir_data=/data --scale=4 --ckpt_path=ckpt/X2/edsr_best.ckpt    # x4, begun with an x2 network
"""
import os
import sys
import time

import numpy as np
from mindspore import nn

import upscaler
from common import cli
from common.evaluation import evaluate
from common.ms.checkpoint import agree, load_weights, weights_of
from common.ms.runs import Run, restore
from common.ms.training import Model, Plan, Training, resume, summarise, validation_sets
from import_weights import read_weights
from src import precision
from src.args import parse
from src.context import open_device
from src.data.srdata import open_sampler, test_sets, training_pairs
from src.metrics import protocols
from src.model import EDSR, size_of

SIZE = ('scale', 'n_resblocks', 'n_feats', 'res_scale', 'rgb_range')  # options that make the network
# what may change when a run is resumed: it is said, and what follows from it
CHANGES = {
    'other patches follow': ('batch_size', 'world_size', 'patch_size', 'seed', 'dir_data', 'data_train', 'data_range',
                             'no_augment'),
    'the recipe changes': ('lr', 'lr_halve_epochs', 'test_every', 'amp_level', 'loss_scale')}


def build(options, device, resumed=None):
    """The Model of these options: with first weights drawn from --seed, with those of --ckpt_path, or resumed."""
    start = read_weights(options.ckpt_path, options.res_scale) if options.ckpt_path and not resumed else None
    if start and options.res_scale is None:
        options.res_scale = start[1]['res_scale']
    conv = precision.convolution(options.amp_level, device, options.kernels)
    network = EDSR(**{name: getattr(options, name) for name in SIZE}, conv=conv)
    network.initialise(np.random.default_rng(options.seed))
    if start:
        message = start_from(network, options.ckpt_path, *start)
        if device.rank == 0:
            print(message)
    loss_scale = 1.0 if options.amp_level == 'O0' else options.loss_scale
    adam = nn.Adam(network.trainable_params(), options.lr, loss_scale=loss_scale)
    if resumed:
        restore(network, adam, resumed['parameters'])
    device.share(network.get_parameters())
    precision.lower(network, options.amp_level)
    return Model(options.model, network, adam, device, upscaler.Upscaler(network).by_tiles(options.tile), loss_scale,
                 {'res_scale': options.res_scale, 'rgb_range': options.rgb_range})


def start_from(network, path, weights, found, dialect):
    """Copy what read_weights found at the path into the network; of another scale, all but the tail.

    Returns what to say about it. Raises ValueError for a body of another size, or another rgb_range.
    """
    size = size_of(weights_of(network))
    differing = [f'{key} {found[key]} (here {size[key]})' for key in size
                 if key != 'scale' and not agree(found[key], size[key])]
    if differing:
        raise ValueError(f'{path}: cannot start from it, its network has {", ".join(differing)}')
    same_scale = found['scale'] == size['scale']
    kept = {name: value for name, value in weights.items() if same_scale or not name.startswith('tail.')}
    load_weights(network, {**weights_of(network), **kept})
    return (f'start from {path} ({dialect}, x{found["scale"]}, res_scale {found["res_scale"]:g}): '
            + ('all layers kept' if same_scale else f'all kept but the tail, which is new for x{size["scale"]}'))


def prepare(options, device, run):
    """(Training, sampler of its patches). Nothing is written before all is known to be in order."""
    resumed = resume(options, run, device, SIZE, CHANGES) if options.resume else None
    sampler, epoch_steps = open_sampler(options, device)
    sets = validation_sets(test_sets(options), training_pairs(options), options.scale, options.test_pictures)
    plan = Plan(
        epoch_steps=epoch_steps, steps=options.train_steps or options.epochs * epoch_steps,
        batch_size=options.batch_size * device.world_size, learning_rate=options.lr,
        halve_epochs=options.lr_halve_epochs, workers=-(-options.workers // device.world_size),
        log_every=options.log_every, save_every=options.save_every, keep_every=options.ckpt_save_interval,
        keep_max=options.ckpt_save_max, kept='edsr-{epoch}_{epoch_steps}.ckpt')
    training = Training(build(options, device, resumed), plan, run, options, sets, protocols, resumed)
    training.log.line(f'{describe(training.model, options)}; from step {training.state["step"]} to {plan.steps}, '
                      f'{epoch_steps} in an epoch')
    return training, sampler


def test(options):
    """--test_only: measure --ckpt_path, whose size and scale are read from it, on all pictures of --data_test."""
    whole = upscaler.load(options.ckpt_path, scale=options.scale, device=options.device, device_id=options.device_id,
                          kernels=options.kernels, res_scale=options.res_scale)
    upscale, options.scale = whole.by_tiles(options.tile), whole.scale
    sets = test_sets(options)
    if not sets:
        raise ValueError('--test_only: --data_test names no pictures; expected DIV2K, Set5 or other sets')
    for name, pairs in sets:
        evaluate(upscale, pairs, options.scale, dataset=name, protocols=protocols(name, options.scale),
                 model=options.model, output_dir=os.path.join(options.ckpt_save_path, f'X{options.scale}_test', name))


def describe(model, options):
    weights = sum(parameter.size for parameter in model.network.trainable_params())
    return (f'EDSR x{model.network.scale}, {options.n_resblocks} blocks of {options.n_feats}, {weights:,} weights, '
            f'{precision.LEVELS[options.amp_level]} ({options.amp_level}) on {model.device.kind}, '
            f'{model.device.world_size} process(es)')


def main(argv=None):
    started, options = time.time(), parse(sys.argv[1:] if argv is None else argv, __doc__)
    if options.test_only:
        return test(options)
    run = Run(os.path.join(options.ckpt_save_path, f'X{options.scale}'), 'edsr_last.ckpt', 'edsr_best.ckpt',
              '--resume' if options.resume else '', 'to start from its weights use --ckpt_path without --resume')
    device = open_device(options.device, options.device_id, join=True)
    options.world_size = device.world_size  # for the checkpoints
    training, sampler = prepare(options, device, run)
    status, figures = training.go(sampler)
    if device.rank == 0 and figures:
        summarise(training, figures, started)
    device.close()
    return status


if __name__ == '__main__':
    cli.run(main)
