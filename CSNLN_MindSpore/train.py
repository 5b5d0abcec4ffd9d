"""bash test/train_full_1p.sh --data_path=/data

Trains CSNLN: L1 loss, Adam, random crops with flips and turns. The program behind the launchers, by hand:

    python3 train.py                                                      # as default_config.yaml has it
    python3 train.py --data_path=/data --scale=4 --patch_size=192         # x4, with the patches of the paper
"""
import functools
import os
import sys
import time

import numpy as np
from mindspore import nn

import eval as measuring
from common import cli
from common.ms.checkpoint import load_weights, weights_of
from common.ms.runs import Run, restore
from common.ms.training import Model, Plan, Training, resume, summarise, validation_sets
from import_weights import read_weights
from src import memory, precision
from src.config import SIZE, parse
from src.context import open_device
from src.CSNLN import CSNLN
from src.dataset.dataset import open_sampler, test_sets, training_pairs
from src.metrics import protocols
from upscaler import Upscaler

# what may change when a run is resumed: it is said, and what follows from it
CHANGES = {
    'other patches follow': ('batch_size', 'world_size', 'patch_size', 'seed', 'data_path', 'data_train', 'data_range',
                             'no_augment'),
    'the recipe changes': ('lr_init', 'lr_halve_epochs', 'beta1', 'beta2', 'epsilon', 'test_every', 'amp_level',
                           'loss_scale')}


def build(options, device, pairs, resumed=None):
    """(Model of these options, protocols of its scores): with first weights drawn from --seed, with those of
    --ckpt_file, or resumed. pairs: [Pair] to validate on.
    """
    network = CSNLN(**{name: getattr(options, name) for name in SIZE}, layers=precision.layers(options, device))
    network.initialise(np.random.default_rng(options.seed))
    if options.pre_trained and not resumed:
        message = start_from(network, options.ckpt_file, *read_weights(options.ckpt_file))
        if device.rank == 0:
            print(message)
    loss_scale = 1.0 if options.amp_level == 'O0' else options.loss_scale
    adam = nn.Adam(network.trainable_params(), options.lr_init, options.beta1, options.beta2, options.epsilon,
                   loss_scale=loss_scale)
    if resumed:
        restore(network, adam, resumed['parameters'])
    device.share(network.get_parameters())
    upscale, by_parts = None, False
    if pairs:
        upscale, by_parts = Upscaler(network, memory.limit(device.kind, options.memory_limit)).planned(
            measuring.sizes(pairs, options.scale), options.chop, options.self_ensemble)
    model = Model('CSNLN', network, adam, device, upscale, loss_scale,
                  {'rgb_range': options.rgb_range, 'compat': options.compat})
    return model, functools.partial(protocols, chop=by_parts)


def start_from(network, path, weights, found, dialect):
    """Copy what read_weights found at the path into the network, as far as it fits: of another scale some layers have
    other kernels, of another depth the tail has.

    Returns what to say about it. Raises ValueError for another width, rgb_range or compat.
    """
    differing = [f'{name} {found[name]} (here {getattr(network, name)})' for name in ('n_feats', 'rgb_range', 'compat')
                 if found[name] != getattr(network, name)]
    if differing:
        raise ValueError(f'{path}: cannot start from it, its network has {", ".join(differing)}')
    fresh = weights_of(network)
    new = [name for name in fresh if name not in weights or weights[name].shape != fresh[name].shape]
    load_weights(network, {**weights, **{name: fresh[name] for name in new}})
    layers = sorted({name.rsplit('.', 2)[0] for name in new})
    return (f'start from {path} ({dialect}, x{found["scale"]}, depth {found["depth"]}): '
            + (f'all kept but {", ".join(layers)}, which are new' if new else 'all layers kept'))


def prepare(options, device, run):
    """(Training, sampler of its patches). Nothing is written before all is known to be in order."""
    resumed = resume(options, run, device, SIZE, CHANGES) if options.resume else None
    sampler, epoch_steps = open_sampler(options, device)
    sets = validation_sets(test_sets(options), training_pairs(options), options.scale, options.test_pictures)
    model, measures = build(options, device, [pair for _, pairs in sets for pair in pairs], resumed)
    plan = Plan(
        epoch_steps=epoch_steps, steps=options.train_steps or options.epoches * epoch_steps,
        batch_size=options.batch_size * device.world_size, learning_rate=options.lr_init,
        halve_epochs=options.lr_halve_epochs, workers=-(-options.workers // device.world_size),
        log_every=options.log_every, save_every=options.save_every, keep_every=options.ckpt_save_interval,
        keep_max=options.keep_checkpoint_max, kept='model_{epoch}.ckpt')
    training = Training(model, plan, run, options, sets, measures, resumed)
    training.log.line(f'{describe(model.network, options, device)}; from step {training.state["step"]} to '
                      f'{plan.steps}, {epoch_steps} in an epoch')
    return training, sampler


def describe(network, options, device):
    weights = sum(parameter.size for parameter in network.trainable_params())
    return (f'CSNLN x{network.scale}, {network.depth} times {network.n_feats} features, {weights:,} weights, '
            f'{precision.LEVELS[options.amp_level]} ({options.amp_level}) on {device.kind}, '
            f'{device.world_size} process(es)')


def main(argv=None):
    started, options = time.time(), parse(sys.argv[1:] if argv is None else argv, __doc__)
    if options.test_only:
        return measuring.main(argv)
    run = Run(os.path.join(options.save, f'X{options.scale}'), 'model_latest.ckpt', 'model_best.ckpt',
              '--resume' if options.resume else '', 'to start from its weights use --pre_trained without --resume')
    device = open_device(options.device_target, options.device_id, join=options.distribute)
    options.world_size = device.world_size  # for the checkpoints
    training, sampler = prepare(options, device, run)
    status, figures = training.go(sampler)
    if device.rank == 0 and figures:
        summarise(training, figures, started)
    device.close()
    return status


if __name__ == '__main__':
    cli.run(main)
