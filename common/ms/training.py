"""The training loop of the MindSpore directories: Adam with a halving rate, validation, checkpoints, resuming.

A directory's train.py makes the network, finds the pictures and has the options:

    resumed = resume(options, run, device, SIZE, CHANGES)
    training = Training(model, plan, run, options, sets, protocols, resumed)
    status, figures = training.go(sampler)
    summarise(training, figures, started)
"""
import copy
import os
import time
from collections.abc import Callable
from dataclasses import dataclass

import mindspore as ms
from mindspore import Tensor

from common import logs
from common.datasets import load_pair
from common.evaluation import evaluate
from common.ms.data import open_batches
from common.ms.devices import Device
from common.ms.runs import Loss, Meter, StopRequest, TrainStep, save_state

# progress of a run, in its checkpoints; validated: the step of the last validation; scores: [[PSNR, SSIM], ...] of the
# first test set; kept: names of the checkpoints that stay
FRESH = {'step': 0, 'validated': 0, 'best': -1.0, 'scores': [], 'kept': []}
REMEDY = 'A smaller --lr helps, or --amp_level=O0, or a lower --loss_scale'  # for losses that explode


@dataclass
class Plan:
    """How long, how fast, how often. Epochs and steps are counted from 1."""

    epoch_steps: int
    steps: int  # in all
    batch_size: int  # patches over all ranks
    learning_rate: float
    halve_epochs: int  # halve it every so many; 0: never
    workers: int  # threads that prepare patches
    log_every: int  # steps
    save_every: int  # steps
    keep_every: int  # epochs between two checkpoints that stay
    keep_max: int  # the newest so many do
    kept: str  # their name, by `epoch` and `epoch_steps`

    def rate(self, epoch):
        """The learning rate of an epoch."""
        return self.learning_rate * 0.5 ** ((epoch - 1) // self.halve_epochs if self.halve_epochs else 0)


class Model:
    """A network, and what training needs beside it.

    name: in scores; upscale: lr -> sr, with bounded memory; more: what its checkpoints say beside the weights.
    """

    def __init__(self, name, network, adam, device: Device, upscale: Callable, loss_scale=1.0, more=()):
        self.name, self.network, self.adam, self.device, self.upscale = name, network, adam, device, upscale
        self.more, self.loss, self._rate = dict(more), Loss(network), None
        self.step = TrainStep(self.loss, adam, device.average(), loss_scale)

    def set_rate(self, rate):
        """Have Adam take that learning rate."""
        if rate != self._rate:  # not in every step: it is a copy to the device
            self.adam.learning_rate.set_data(Tensor(rate, ms.float32))
            self._rate = rate


class Training:
    """One run of a training.

    options: a Namespace for checkpoints and records; only summary_dir and case are used. sets: [(name, [Pair])] to
    validate on, protocols(name, scale): how. resumed: what resume() gave.
    """

    def __init__(self, model, plan, run, options, sets, protocols, resumed=None):
        self.model, self.plan, self.run, self.options, self.sets = model, plan, run, options, sets
        self.device, self.protocols = model.device, protocols
        self.state = copy.deepcopy(resumed['progress'] if resumed else FRESH)
        self.log = open_log(options, run, self.device, new=not resumed)

    def go(self, sampler):
        """Train to the last step, or until asked to stop; returns (exit status, figures of the run for summarise)."""
        plan, model, state, fields = self.plan, self.model, self.state, {}
        if self.validation_due():
            self.validate()
        steps = range(state['step'], plan.steps)
        with open_batches(sampler, steps, plan.workers, self.device) as batches, StopRequest(self.device) as stop:
            meter = Meter(self.device, plan.batch_size, batches, REMEDY)
            for step, (lr, hr) in enumerate(batches, state['step'] + 1):
                epoch, at_end = (step - 1) // plan.epoch_steps + 1, step == plan.steps
                model.set_rate(plan.rate(epoch))
                loss, asked = model.step(lr, hr, Tensor(stop.asked, ms.float32))
                meter.count(step, loss)
                state['step'], asked = step, stop.granted(asked)
                if step % plan.log_every == 0 or at_end:
                    fields = meter.read()
                    self.log.step({'epoch': epoch, 'step': (step, plan.steps), 'learning_rate': plan.rate(epoch),
                                   **fields, 'eta': (plan.steps - step) * plan.batch_size / fields['images/sec']})
                if step % plan.save_every == 0 or step % plan.epoch_steps == 0 or at_end or asked:
                    with meter.pause():
                        meter.check(step, model.loss(lr, hr))  # weights that a step ruined are not saved
                        self.checkpoint()
                if asked:
                    self.log.line(f'stopped after step {step}; --resume goes on from there')
                    return 128 + asked, None
                if self.validation_due():
                    with meter.pause():
                        self.validate()
        if not fields:
            self.log.line(f'nothing left to do: the run is at step {state["step"]} of {plan.steps}; raise --epochs or '
                          '--train_steps')
            return 0, None
        return 0, {**fields, **state, 'seconds_per_step': meter.seconds_per_step}

    def checkpoint(self):
        """Write the last checkpoint, and after every so many epochs one that stays."""
        epoch, more_steps = divmod(self.state['step'], self.plan.epoch_steps)
        if not more_steps and epoch % self.plan.keep_every == 0:
            self.keep(self.plan.kept.format(epoch=epoch, epoch_steps=self.plan.epoch_steps))
        self.save(self.run.last)

    def keep(self, name):
        """Write a checkpoint that stays until so many newer ones are there."""
        if self.device.rank > 0:
            return
        self.save(os.path.join(self.run.folder, name), versions=1)
        names = [*(other for other in self.state['kept'] if other != name), name]
        for other in names[:-self.plan.keep_max]:
            self.run.remove(other)
        self.state['kept'] = names[-self.plan.keep_max:]

    def save(self, path, versions=2):
        """Write everything that a resumed run needs; the patches of a step follow from --seed and the step alone."""
        if self.device.rank == 0:
            save_state(path, self.model.network, self.model.adam, self.state, self.options, versions, self.model.more)

    def validation_due(self):
        """Whether this step ends with a validation that is not done; a stop or kill may have come before it."""
        step = self.state['step']
        return bool(self.sets) and self.state['validated'] < step and (
            step % self.plan.epoch_steps == 0 or step == self.plan.steps)

    def validate(self):
        """Measure and keep the pictures in RUN/validation; a new best PSNR (paper's protocol) is kept as the best.

        Every rank measures: one that waited for rank 0 longer than a minute would give up.
        """
        scores, state, scale = [], self.state, self.model.network.scale
        for name, pairs in self.sets:
            measures, folder = self.protocols(name, scale), os.path.join(self.run.folder, 'validation', name)
            result = evaluate(self.model.upscale, pairs, scale, dataset=name, protocols=measures,
                              model=self.model.name, output_dir=None if self.device.rank else folder)
            scores.append(result['mean'][measures[0].name])
            self.log.event('validation', step=state['step'], dataset=name, protocol=measures[0].name,
                           bicubic=result['bicubic'], **scores[-1])
        state['validated'] = state['step']
        state['scores'].append([scores[0]['psnr'], scores[0]['ssim']])
        if scores[0]['psnr'] > state['best']:
            state['best'] = scores[0]['psnr']
            self.save(self.run.best)
        self.save(self.run.last)


def open_log(options, run, device, new):
    """The records of this run, RUN/train.jsonl; a new run takes its folder only now that nothing is amiss."""
    if device.rank == 0 and options.summary_dir:
        os.makedirs(options.summary_dir, exist_ok=True)  # now: a trained network must not end in an error
    if device.rank == 0 and new:
        run.claim()
    log = logs.RunLog(run.folder, quiet=device.rank > 0)
    log.event('options', **vars(options))
    return log


def resume(options, run, device, size, changes):
    """The state of the newest valid checkpoint of the run.

    size: options that make the network; one that is None becomes what it was. ValueError where another is asked for.
    changes: {what follows: options}: these may change, which is said.
    """
    path, state = run.resume()
    device.agree(state['progress']['step'], 'a checkpoint of step')  # a disk may have failed one rank
    saved = state['options']
    for name in size:
        if getattr(options, name) is None:
            setattr(options, name, saved[name])
        if saved[name] != getattr(options, name):
            raise ValueError(f'{path} was trained with --{name}={saved[name]}, not {getattr(options, name)}')
    if device.rank == 0:
        for consequence, names in changes.items():
            for name in names:
                now = getattr(options, name)
                if saved.get(name, now) != now:
                    print(f'warning: {"" if name == "world_size" else "--"}{name} was {saved[name]}, is {now}: '
                          f'{consequence}')
        print(f'Continue in {run.folder}, train from {path} (step {state["progress"]["step"]})')
    return state


def validation_sets(sets, trained, scale, pictures):
    """The first so many pictures (0: all) of the sets, [(name, [Pair])], each read once now, so that a broken one is
    found before the training. trained: [Pair] that are trained on, which should be others.
    """
    sets = [(name, pairs[:pictures or None]) for name, pairs in sets]
    trained = {pair.hr for pair in trained}
    for name, pairs in sets:
        for pair in pairs:
            load_pair(pair, scale)
        shared = sum(pair.hr in trained for pair in pairs)
        if shared:
            print(f'warning: {shared} of {len(pairs)} validation pictures of {name} are trained on too: name another '
                  'set with --data_test, or other pictures with --data_range')
    return sets


def summarise(training, figures, started):
    """The closing block and <CaseName>.log, in ModelZoo's words; started: time of the program's start."""
    plan, options, network, ranks = training.plan, training.options, training.model.name, training.device.world_size
    seconds = figures['seconds_per_step']
    psnr = f'{figures["best"]:.4f}' if figures['scores'] else 'not measured'
    logs.modelzoo_summary(
        options.summary_dir or training.run.folder, network=network, rank_size=ranks,
        batch_size=plan.batch_size, images_per_sec=plan.batch_size / seconds, seconds_per_step=seconds,
        case_name=logs.case_name(network, plan.batch_size, ranks, options.case),
        loss=figures['loss'], accuracy=figures['best'] if figures['scores'] else None,
        e2e_seconds=time.time() - started, fields=[('ValPSNR', psnr)],
        extra=[('Time for one epoch', f'{seconds * plan.epoch_steps:.2f}'), ('Final Val PSNR', psnr),
               ('Final loss', f'{figures["loss"]:.6f}')])
