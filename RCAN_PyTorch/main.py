"""bash test/train_full_1p.sh --data_path=/data

Trains RCAN: L1 loss, Adam, random crops with flips and turns. The program behind the launchers, by hand:

    python3 main.py --train_dataset_dir=/data/DIV2K --test_dataset_dir=/data/DIV2K --outputs_dir=output --amp
    torchrun --standalone --nproc_per_node=8 main.py ... --batch_size=1280     # or --multiprocessing_distributed
"""

import copy
import os
import sys
import time
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from common import cli, logs
from common.datasets import load_pair
from common.evaluation import evaluate
from dataset import open_batches, open_sampler, protocols, test_pairs, training_pairs
from device import Device, open_device, run_ranks
from model import RCAN
from options import check, training_parser
from training import Meter, Run, StopRequest, restore, share_weights, start_finetuning
from upscaler import Upscaler

# progress of a run, in its checkpoints; validated: the step of the last validation; ck_performance: [[PSNR, SSIM], ...]
FRESH = {'step': 0, 'validated': 0, 'best': -1.0, 'ck_performance': []}
SIZE = ('scale', 'num_features', 'num_rg', 'num_rcab', 'reduction', 'style')  # options that make the network


@dataclass
class Model:
    """The network and what one step of training needs beside it."""

    device: Device
    dtype: torch.dtype  # of the convolutions; None: fp32
    network: RCAN  # owns the weights
    parallel: torch.nn.Module  # the same weights, compiled where asked for, gradients averaged over the ranks
    optimiser: torch.optim.Optimizer
    scaler: object

    def state(self):
        return {'model': self.network.state_dict(), 'optimizer': self.optimiser.state_dict(),
                'scaler': self.scaler.state_dict()}


def build(options, device, resumed=None):
    """The Model of these options: with first weights drawn from --seed, with those of --iffinetuning, or resumed."""
    size = {name: getattr(options, name) for name in SIZE}
    torch.manual_seed(options.seed)
    network = RCAN(**size)
    if resumed:
        network.load_state_dict(resumed['model'])
    elif options.iffinetuning:
        message = start_finetuning(network, options.finetuning_checkpoint_path)
        if device.rank == 0:
            print(message)
    network.to(device.torch, memory_format=device.memory_format)
    dtype = device.half(options.amp_dtype) if options.amp and options.opt_level != 'O0' else None
    optimiser = device.adam([p for p in network.parameters() if p.requires_grad], options.lr)
    scaler = device.scaler(dtype, options.loss_scale)
    if resumed:
        restore(optimiser, scaler, resumed)
    parallel = device.parallel(share_weights(network, size, options.compile))
    return Model(device, dtype, network, parallel, optimiser, scaler)


def loss_of(model, network, lr, hr):
    """The mean absolute error, in the network's range, of uint8 patches lr [b,3,p,p] and hr [b,3,sp,sp]."""
    to_range = model.network.rgb_range / 255
    with model.device.autocast(model.dtype):
        sr = network(lr.float() * to_range)
    return F.l1_loss(sr.float(), hr.float() * to_range)


def train_step(model, lr, hr):
    """One step of Adam; lr [b,3,p,p], hr [b,3,sp,sp] uint8. Returns the loss before it, detached."""
    loss = loss_of(model, model.parallel, lr, hr)
    model.optimiser.zero_grad()  # to None, but NpuFusedAdam, which refuses that, keeps its buffer
    model.scaler.scale(loss).backward()
    model.scaler.step(model.optimiser)
    model.scaler.update()
    return loss.detach()


def train(options, device, run):
    """Train to the last step, or until asked to stop; returns (exit status, figures of the run for summarise)."""
    resumed = resume(options, run, device) if options.ifcontinue else None
    model = build(options, device, resumed)
    sampler = open_sampler(options, device)
    valid = validation_pairs(options) if device.rank == 0 else []
    log = open_log(options, run, device)
    epoch_steps = sampler.steps_per_epoch
    total = options.train_steps or options.num_epochs * epoch_steps
    state = {name: (resumed or copy.deepcopy(FRESH))[name] for name in FRESH}
    log.line(f'{describe(model)}; from step {state["step"]} to {total}, {epoch_steps} in an epoch')
    fields, workers = {}, -(-options.workers // device.world_size)
    if valid and validation_due(options, state, epoch_steps, total):
        validate(model, options, valid, run, log, state)
    with open_batches(sampler, range(state['step'], total), workers, device) as batches, StopRequest(device) as stop:
        meter = Meter(device, options.batch_size, batches)
        for step, (lr, hr) in enumerate(batches, state['step'] + 1):
            epoch, at_epoch, at_end = (step - 1) // epoch_steps + 1, step % epoch_steps == 0, step == total
            learning_rate = set_learning_rate(model.optimiser, options, step)
            meter.count(step, train_step(model, lr, hr))
            state['step'], asked = step, stop.asked
            if step % options.log_every == 0 or at_end:
                fields = meter.read()
                log.step({'epoch': epoch, 'step': (step, total), 'learning_rate': learning_rate, **fields,
                          'eta': (total - step) * options.batch_size / fields['images/sec']})
            if step % options.save_every == 0 or at_epoch or at_end or asked:
                with meter.pause(), torch.no_grad():
                    meter.check(step, loss_of(model, model.network, lr, hr))  # weights that a step ruined are not saved
                    save(run.last, model, state, options)
            if asked and device.rank == 0:
                log.line(f'stopped after step {step}; --ifcontinue goes on from there')
                return 128 + asked, None
            if valid and validation_due(options, state, epoch_steps, total):
                with meter.pause():
                    validate(model, options, valid, run, log, state)
    if stop.asked:  # rank 0 has saved and left
        return 128 + stop.asked, None
    if not fields:
        print(f'nothing left to do: the run is at step {state["step"]} of {total}; raise --num_epochs or --train_steps')
        return 0, None
    return 0, {**fields, **state, 'seconds_per_step': meter.seconds_per_step, 'epoch_steps': epoch_steps}


def open_log(options, run, device):
    """The records of this run, RUN/train.jsonl; a new run takes its folder only now that nothing is amiss."""
    if device.rank == 0 and not options.ifcontinue:
        run.claim()
    log = logs.RunLog(run.folder, quiet=device.rank > 0)
    log.event('options', **vars(options))
    return log


def resume(options, run, device):
    """The state of the newest valid checkpoint. Raises ValueError where the options ask for another network."""
    path, state = run.resume(options.checkpoint_path)
    saved = state['options']
    for name in SIZE:
        if saved[name] != getattr(options, name):
            raise ValueError(f'{path} was trained with --{name}={saved[name]}, not {getattr(options, name)}')
    for name in ('batch_size', 'patch_size', 'seed', 'train_dataset_dir'):
        if saved[name] != getattr(options, name):
            print(f'warning: --{name} was {saved[name]}, is {getattr(options, name)}: other patches follow')
    if device.rank == 0:
        print(f'Continue in {run.folder}, train from {path} (step {state["step"]})')
    return state


def set_learning_rate(optimiser, options, step):
    """Set and return the rate of a step, counted from 1: constant as in the port, or halved every so many steps."""
    halvings = (step - 1) // options.lr_halve_steps if options.lr_halve_steps else 0
    for group in optimiser.param_groups:
        group['lr'] = options.lr * 0.5 ** halvings
    return options.lr * 0.5 ** halvings


def save(path, model, state, options):
    """Write everything that a resumed run needs; the patches of a step follow from --seed and the step alone."""
    if model.device.rank == 0:
        Run.save(path, {**state, **model.state(), 'options': vars(options)}, keep=2)


def validation_pairs(options):
    """The validation pictures, each read once now, so that a broken one is found before the training."""
    if not options.test_dataset_dir:
        return []
    pairs = test_pairs(options.test_dataset_dir, options.scale)[:options.test_pictures or None]
    for pair in pairs:
        load_pair(pair, options.scale)
    trained = {pair.hr for pair in training_pairs(options.train_dataset_dir, options.scale)}
    shared = sum(pair.hr in trained for pair in pairs)
    if shared:
        print(f'warning: {shared} of {len(pairs)} validation pictures are trained on too: {options.test_dataset_dir} '
              'holds no others; name others with --test_dataset_dir')
    return pairs


def validation_due(options, state, epoch_steps, total):
    """Whether this step ends with a validation that is not done; a stop or kill may have come before it."""
    step = state['step']
    return state['validated'] < step and (step % (options.test_every * epoch_steps) == 0 or step == total)


def validate(model, options, pairs, run, log, state):
    """Measure and keep the pictures in RUN/validation; a new best PSNR (paper's protocol) is kept as model_best."""
    measures = protocols(options.scale)
    upscale = Upscaler(model.network, model.device, model.dtype)
    result = evaluate(upscale, pairs, options.scale, dataset='validation', protocols=measures, model=options.arch,
                      output_dir=os.path.join(run.folder, 'validation'))
    score = result['mean'][measures[0].name]
    log.event('validation', step=state['step'], protocol=measures[0].name, bicubic=result['bicubic'], **score)
    state['validated'] = state['step']
    state['ck_performance'].append([score['psnr'], score['ssim']])
    if score['psnr'] > state['best']:
        state['best'] = score['psnr']
        save(run.best, model, state, options)
    save(run.last, model, state, options)


def describe(model):
    weights = sum(p.numel() for p in model.network.parameters())
    precision = str(model.dtype).replace('torch.', '') if model.dtype else 'float32'
    return (f'RCAN {model.network.style} x{model.network.scale}, {weights:,} weights, {precision} on '
            f'{model.device.torch}, {model.device.world_size} process(es)')


def summarise(options, device, run, figures, started):
    """The closing block and <CaseName>.log, in ModelZoo's words."""
    seconds = figures['seconds_per_step']
    psnr = f'{figures["best"]:.4f}' if figures['ck_performance'] else 'not measured'
    logs.modelzoo_summary(
        options.summary_dir or run.folder, network=options.arch, rank_size=device.world_size,
        batch_size=options.batch_size, images_per_sec=options.batch_size / seconds, seconds_per_step=seconds,
        case_name=logs.case_name(options.arch, options.batch_size, device.world_size, options.case),
        loss=figures['loss'], accuracy=figures['best'] if figures['ck_performance'] else None,
        e2e_seconds=time.time() - started, fields=[('ValPSNR', psnr)],
        extra=[('Time for one epoch', f'{seconds * figures["epoch_steps"]:.2f}'), ('Final Val PSNR', psnr),
               ('Final loss', f'{figures["loss"]:.6f}')])


def main(argv=None):
    started, argv = time.time(), sys.argv[1:] if argv is None else argv
    options = training_parser(__doc__).parse_args(argv)
    check(options)
    if options.multiprocessing_distributed and 'RANK' not in os.environ:
        return run_ranks(len(options.device_list), [os.path.abspath(__file__), *argv])
    run = Run(options)
    device = open_device(options.device, options.device_id, options.device_list, join=True)
    status, figures = train(options, device, run)
    if device.rank == 0 and figures:
        summarise(options, device, run, figures, started)
    if status == 0:  # rank 0 was asked to stop: the others wait for its gradients, and torchrun ends them
        device.close()
    return status


if __name__ == '__main__':
    cli.run(main)
