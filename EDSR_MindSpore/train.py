"""bash test/train_full_1p.sh --data_path=/data

Trains EDSR: L1 loss, Adam, random crops with flips and turns. The program behind the launchers, by hand:

    python3 train.py --dir_data=/data --n_resblocks=16 --n_feats=64 --res_scale=1     # the paper's baseline, x2
    python3 train.py --dir_data=/data --scale=4 --ckpt_path=ckpt/X2/edsr_best.ckpt    # x4, begun with an x2 network
"""
import copy
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn

import upscaler
from common import cli, logs
from common.datasets import load_pair
from common.evaluation import evaluate
from common.ms.checkpoint import agree, load_weights, weights_of
from common.ms.data import open_batches
from common.ms.runs import Loss, Meter, Run, StopRequest, TrainStep, restore, save_state
from import_weights import read_weights
from src import precision
from src.args import parse
from src.context import Device, open_device
from src.data.srdata import open_sampler, test_sets, training_pairs
from src.metrics import protocols
from src.model import EDSR, size_of

# progress of a run, in its checkpoints; validated: the step of the last validation; scores: [[PSNR, SSIM], ...] of the
# first test set; kept: names of the checkpoints that --ckpt_save_interval made
FRESH = {'step': 0, 'validated': 0, 'best': -1.0, 'scores': [], 'kept': []}
SIZE = ('scale', 'n_resblocks', 'n_feats', 'res_scale', 'rgb_range')  # options that make the network
# what may change when a run is resumed: it is said, and what follows from it
CHANGES = {
    'other patches follow': ('batch_size', 'world_size', 'patch_size', 'seed', 'dir_data', 'data_train', 'data_range',
                             'no_augment'),
    'the recipe changes': ('lr', 'lr_halve_epochs', 'test_every', 'amp_level', 'loss_scale')}
REMEDY = 'A smaller --lr helps, or --amp_level=O0, or a lower --loss_scale'  # for losses that explode


@dataclass
class Model:
    """The network and what training needs beside it."""

    device: Device
    network: EDSR  # owns the weights
    loss: Loss
    adam: nn.Adam
    step: TrainStep
    upscale: Callable  # lr -> sr, with bounded memory
    learning_rate: float = 0.0  # that Adam has now


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
    loss = Loss(network)
    return Model(device, network, loss, adam, TrainStep(loss, adam, device.average(), loss_scale),
                 upscaler.Upscaler(network).by_tiles(options.tile))


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


def train(options, device, run):
    """Train to the last step, or until asked to stop; returns (exit status, figures of the run for summarise)."""
    resumed = resume(options, run, device) if options.resume else None
    sampler, epoch_steps = open_sampler(options, device)
    sets = validation_sets(options)
    model = build(options, device, resumed)
    log = open_log(options, run, device)
    total = options.train_steps or options.epochs * epoch_steps
    state = copy.deepcopy(resumed['progress'] if resumed else FRESH)
    log.line(f'{describe(model, options)}; from step {state["step"]} to {total}, {epoch_steps} in an epoch')
    fields, workers = {}, -(-options.workers // device.world_size)
    if sets and validation_due(state, epoch_steps, total):
        validate(model, options, sets, run, log, state)
    with open_batches(sampler, range(state['step'], total), workers, device) as batches, StopRequest(device) as stop:
        meter = Meter(device, options.batch_size * device.world_size, batches, REMEDY)
        for step, (lr, hr) in enumerate(batches, state['step'] + 1):
            epoch, at_epoch, at_end = (step - 1) // epoch_steps + 1, step % epoch_steps == 0, step == total
            learning_rate = set_learning_rate(model, options, epoch)
            loss, asked = model.step(lr, hr, Tensor(stop.asked, ms.float32))
            meter.count(step, loss)
            state['step'], asked = step, stop.granted(asked)
            if step % options.log_every == 0 or at_end:
                fields = meter.read()
                log.step({'epoch': epoch, 'step': (step, total), 'learning_rate': learning_rate, **fields,
                          'eta': (total - step) * meter.batch_size / fields['images/sec']})
            if step % options.save_every == 0 or at_epoch or at_end or asked:
                with meter.pause():
                    meter.check(step, model.loss(lr, hr))  # weights that a step ruined are not saved
                    checkpoint(model, state, options, run, epoch_steps)
            if asked:
                log.line(f'stopped after step {step}; --resume goes on from there')
                return 128 + asked, None
            if sets and validation_due(state, epoch_steps, total):
                with meter.pause():
                    validate(model, options, sets, run, log, state)
    if not fields:
        print(f'nothing left to do: the run is at step {state["step"]} of {total}; raise --epochs or --train_steps')
        return 0, None
    return 0, {**fields, **state, 'seconds_per_step': meter.seconds_per_step, 'epoch_steps': epoch_steps}


def open_log(options, run, device):
    """The records of this run, RUN/train.jsonl; a new run takes its folder only now that nothing is amiss."""
    if device.rank == 0 and options.summary_dir:
        os.makedirs(options.summary_dir, exist_ok=True)  # now: a trained network must not end in an error
    if device.rank == 0 and not options.resume:
        run.claim()
    log = logs.RunLog(run.folder, quiet=device.rank > 0)
    log.event('options', **vars(options))
    return log


def resume(options, run, device):
    """The state of the newest valid checkpoint. Raises ValueError where the options ask for another network."""
    path, state = run.resume()
    device.agree(state['progress']['step'], 'a checkpoint of step')  # a disk may have failed one rank
    saved = state['options']
    if options.res_scale is None:
        options.res_scale = saved['res_scale']
    for name in SIZE:
        if saved[name] != getattr(options, name):
            raise ValueError(f'{path} was trained with --{name}={saved[name]}, not {getattr(options, name)}')
    if device.rank == 0:
        for consequence, names in CHANGES.items():
            for name in names:
                now = getattr(options, name)
                if saved.get(name, now) != now:
                    print(f'warning: {"" if name == "world_size" else "--"}{name} was {saved[name]}, is {now}: '
                          f'{consequence}')
        print(f'Continue in {run.folder}, train from {path} (step {state["progress"]["step"]})')
    return state


def set_learning_rate(model, options, epoch):
    """Set and return the rate of an epoch, counted from 1: halved after every --lr_halve_epochs of them."""
    halvings = (epoch - 1) // options.lr_halve_epochs if options.lr_halve_epochs else 0
    learning_rate = options.lr * 0.5 ** halvings
    if learning_rate != model.learning_rate:  # not in every step: it is a copy to the device
        model.adam.learning_rate.set_data(Tensor(learning_rate, ms.float32))
        model.learning_rate = learning_rate
    return learning_rate


def save(path, model, state, options, versions=2):
    """Write everything that a resumed run needs; the patches of a step follow from --seed and the step alone."""
    if model.device.rank == 0:
        save_state(path, model.network, model.adam, state, options, versions,
                   {'res_scale': options.res_scale, 'rgb_range': options.rgb_range})


def checkpoint(model, state, options, run, epoch_steps):
    """Write edsr_last, and after every --ckpt_save_interval epochs one that stays."""
    epoch, more_steps = divmod(state['step'], epoch_steps)
    if not more_steps and epoch % options.ckpt_save_interval == 0:
        keep(f'edsr-{epoch}_{epoch_steps}.ckpt', model, state, options, run)
    save(run.last, model, state, options)


def keep(name, model, state, options, run):
    """Write a checkpoint that stays until --ckpt_save_max newer ones are there."""
    if model.device.rank > 0:
        return
    save(os.path.join(run.folder, name), model, state, options, versions=1)
    names = [*(other for other in state['kept'] if other != name), name]
    for other in names[:-options.ckpt_save_max]:
        run.remove(other)
    state['kept'] = names[-options.ckpt_save_max:]


def validation_sets(options):
    """The test sets, each picture read once now, so that a broken one is found before the training."""
    sets = [(name, pairs[:options.test_pictures or None]) for name, pairs in test_sets(options)]
    trained = {pair.hr for pair in training_pairs(options)}
    for name, pairs in sets:
        for pair in pairs:
            load_pair(pair, options.scale)
        shared = sum(pair.hr in trained for pair in pairs)
        if shared:
            print(f'warning: {shared} of {len(pairs)} validation pictures of {name} are trained on too: name another '
                  'set with --data_test, or other pictures with --data_range')
    return sets


def validation_due(state, epoch_steps, total):
    """Whether this step ends with a validation that is not done; a stop or kill may have come before it."""
    return state['validated'] < state['step'] and (state['step'] % epoch_steps == 0 or state['step'] == total)


def validate(model, options, sets, run, log, state):
    """Measure and keep the pictures in RUN/validation; a new best PSNR (paper's protocol) is kept as edsr_best.

    Every rank measures: one that waited for rank 0 longer than a minute would give up.
    """
    scores = []
    for name, pairs in sets:
        measures, folder = protocols(name, options.scale), os.path.join(run.folder, 'validation', name)
        result = evaluate(model.upscale, pairs, options.scale, dataset=name, protocols=measures, model=options.model,
                          output_dir=None if model.device.rank else folder)
        scores.append(result['mean'][measures[0].name])
        log.event('validation', step=state['step'], dataset=name, protocol=measures[0].name, bicubic=result['bicubic'],
                  **scores[-1])
    state['validated'] = state['step']
    state['scores'].append([scores[0]['psnr'], scores[0]['ssim']])
    if scores[0]['psnr'] > state['best']:
        state['best'] = scores[0]['psnr']
        save(run.best, model, state, options)
    save(run.last, model, state, options)


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


def summarise(options, device, run, figures, started):
    """The closing block and <CaseName>.log, in ModelZoo's words."""
    seconds, batch_size = figures['seconds_per_step'], options.batch_size * device.world_size
    psnr = f'{figures["best"]:.4f}' if figures['scores'] else 'not measured'
    logs.modelzoo_summary(
        options.summary_dir or run.folder, network=options.model, rank_size=device.world_size,
        batch_size=batch_size, images_per_sec=batch_size / seconds, seconds_per_step=seconds,
        case_name=logs.case_name(options.model, batch_size, device.world_size, options.case),
        loss=figures['loss'], accuracy=figures['best'] if figures['scores'] else None,
        e2e_seconds=time.time() - started, fields=[('ValPSNR', psnr)],
        extra=[('Time for one epoch', f'{seconds * figures["epoch_steps"]:.2f}'), ('Final Val PSNR', psnr),
               ('Final loss', f'{figures["loss"]:.6f}')])


def main(argv=None):
    started, options = time.time(), parse(sys.argv[1:] if argv is None else argv, __doc__)
    if options.test_only:
        return test(options)
    run = Run(os.path.join(options.ckpt_save_path, f'X{options.scale}'), 'edsr', '--resume' if options.resume else '',
              'to start from its weights use --ckpt_path without --resume')
    device = open_device(options.device, options.device_id, join=True)
    options.world_size = device.world_size  # for the checkpoints
    status, figures = train(options, device, run)
    if device.rank == 0 and figures:
        summarise(options, device, run, figures, started)
    device.close()
    return status


if __name__ == '__main__':
    cli.run(main)
