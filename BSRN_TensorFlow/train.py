"""bash test/train_full_1p.sh --data_path=/data

Trains BSRN: weighted L1 losses of all recursions, Adam, random crops with flips and turns. The program behind the
launchers, by hand:

    python3 train.py --dataloader=div2k_loader --data_path=/data --scales=4                       # x4, as released
    python3 train.py --dataloader=div2k_loader --data_path=/data --scales=2,3,4 --bsrn_clip_norm=5  # as the authors
"""
import contextlib
import json
import os
import sys
import time

import numpy as np

import dataloaders
import training
from common import cli, datasets, files, logs
from common.evaluation import Protocol, evaluate
from common.patches import Prefetcher
from common.runs import StopRequest
from common.tf.ranks import open_ranks
from common.tf.runs import granted
from import_weights import read_weights
from models import bsrn, checkpoint
from models.learning import Board, Model, rate_of
from models.session_config import open_device
from options import parse
from training import Meter, Run

ROLLING = 2  # of --resume_freq, the newest so many stay
AUTO = ('BSD100', 'DIV2K')  # what --valid_set=auto looks for
# what may change when a run is resumed: it is said, and what follows from it
CHANGES = {
    'other patches follow': ('batch_size', 'world_size', 'input_patch_size', 'target_patch_size', 'scales', 'seed',
                             'dataloader', 'data_path', 'data_input_path', 'data_truth_path'),
    'the recipe changes': ('bsrn_learning_rate', 'bsrn_learning_rate_decay', 'bsrn_learning_rate_decay_steps',
                           'bsrn_adam_epsilon', 'bsrn_clip_norm', 'precision')}


def open_data(options, loader, ranks):
    """(ScaleSampler of this rank, [(name, scale, [Pair])] to validate on, steps of one rank in an epoch)."""
    pairs = {scale: loader.pairs(options, scale) for scale in options.scales}
    count = len(pairs[options.scales[0]])
    sampler = dataloaders.open_sampler(pairs, options, ranks.rank, ranks.world_size)
    if ranks.rank == 0:
        print(f'data: {count} images are prepared (caching {"enabled" if options.data_cached else "disabled"})')
    trained = {os.path.realpath(pair.hr) for of_scale in pairs.values() for pair in of_scale}
    return sampler, validation_sets(options, trained), max(count // (options.batch_size * ranks.world_size), 1)


def validation_sets(options, trained):
    """[(name, scale, [Pair])], each picture read once now, so that a broken one is found before the training."""
    root = options.valid_path or getattr(options, 'data_path', '')
    if not options.valid_set or (options.valid_set == 'auto' and not root):
        return []
    if not os.path.isdir(root):
        raise ValueError(f'--valid_path={root}: no such folder; expected the one that holds {options.valid_set}')
    sets = [] if options.valid_set == 'auto' else find_sets(root, options.valid_set, options.scales)
    for name in AUTO:
        with contextlib.suppress(ValueError):
            sets = sets or find_sets(root, name, options.scales)
    if not sets:
        print(f'no validation: {root} holds neither {" nor ".join(AUTO)} for validation; name a set with --valid_set')
    sets = [(name, scale, pairs[:options.valid_pictures or None]) for name, scale, pairs in sets]
    for name, scale, pairs in sets:
        for pair in pairs:
            datasets.load_pair(pair, scale)
        shared = sum(os.path.realpath(pair.hr) in trained for pair in pairs)
        if shared:
            print(f'warning: {shared} of {len(pairs)} validation pictures of {name} are trained on too: name another '
                  'set with --valid_set')
    return sets


def find_sets(root, name, scales):
    return [(name, scale, datasets.find_benchmark(root, name, scale)) for scale in scales]


def build(options, device, ranks, resumed=None):
    """The Model of these options: with first weights drawn from --seed, with those of --restore_path, or resumed."""
    size = network_size(options)
    arrays = bsrn.initial_weights(size, np.random.default_rng(options.seed))
    model = Model(size, options.scales, options, device, ranks)
    if resumed:
        arrays = resumed['arrays']
    elif options.restore_path:
        arrays, message = restore(options, model)
        if ranks.rank == 0:
            print(message)
    model.load(arrays, resumed['progress']['step'] if resumed else options.global_step)
    return model


def network_size(options):
    size = bsrn.size_from(options)
    return dict(size, scales=tuple(sorted(size['scales'])))


def restore(options, model):
    """({name: array} to start from, what to say). ValueError: the checkpoint is of another network, or has no Adam."""
    path, own = options.restore_path, {name: model.size[name] for name in checkpoint.AUTHORS}
    prefix, arrays = checkpoint.load(path)
    scales = checkpoint.size(prefix, arrays, own)['scales']
    if scales != model.size['scales']:
        raise ValueError(f'{path}: a network of scales {checkpoint.show(scales)}, not '
                         f'{checkpoint.show(model.size["scales"])}; choose with --bsrn_model_scales='
                         f'{checkpoint.show(scales)}, and with --scales those of them to train')
    for name, before in checkpoint.notes(prefix).get('size', {}).items():
        if name in own and checkpoint.show(before) != checkpoint.show(own[name]):
            print(f'warning: {path} was trained with --bsrn_{name}={checkpoint.show(before)}, now it is '
                  f'{checkpoint.show(own[name])}')
    weights, _, dialect = read_weights(path, model.size)
    if options.restore_target:
        return weights, f'restored the model: weights of {prefix} ({dialect})'
    missing = [variable.op.name for variable in model.variables if variable.op.name not in arrays]
    if missing:
        raise ValueError(f'{path}: without the state of Adam: {checkpoint.some(missing)}; --restore_target=generator '
                         'takes the weights alone')
    return arrays, f'restored the model: {prefix} ({dialect}), with the state of Adam, at step {options.global_step}'


def train(options, model, run, data, resumed=None):
    """Train to the last step, or until asked to stop; returns (exit status, figures of the run for summarise)."""
    (sampler, sets, epoch_steps), ranks = data, model.ranks
    log, batch_size = open_log(options, run, ranks), options.batch_size * ranks.world_size
    total = options.train_epochs * epoch_steps or -(-options.max_steps // ranks.world_size)
    state = resumed['progress'] if resumed else fresh(options.global_step)
    describe(model, options, state['step'], total, log)
    fields, workers = {}, -(-options.workers // ranks.world_size)
    if validation_due(options, sets, state, total):
        validate(model, options, sets, run, log, state)
    with Prefetcher(sampler, range(state['step'], total), 2 * workers, workers) as batches, StopRequest() as stop, \
            Board(run.folder, model.graph, ranks.rank > 0) as board:
        meter = Meter(batches, batch_size)
        for step, (scale, lr, hr) in enumerate(batches, state['step'] + 1):
            learning_rate, at_end, begun = rate_of(options, step - 1), step == total, time.perf_counter()
            if step % options.summary_freq == 0:
                with meter.pause():
                    board.write(step, scale, learning_rate, model, lr, hr)
            loss, asked = model.train(scale, lr, hr, learning_rate, stop.asked)
            meter.count(step, loss)
            state['step'], asked = step, granted(stop, asked, ranks)
            if step % options.log_freq == 0 or at_end:
                fields = meter.read()
                log_step(log, (step, total), scale, learning_rate, fields, batch_size)
            due = validation_due(options, sets, state, total)
            if checkpoint_due(options, ranks, step) or due or at_end or asked:
                with meter.pause():
                    meter.check(step, model.loss(scale, lr, hr))  # weights that a step ruined are not saved
                    save(model, state, options, run, log)
            if asked:
                log.line(f'stopped after step {step}; --resume goes on from there')
                return 128 + asked, None
            with meter.pause():
                if due:
                    validate(model, options, sets, run, log, state)
                time.sleep(min(10.0, options.sleep_ratio * (time.perf_counter() - begun)))
    log.line('finished' if fields else f'nothing left to do: the run is at step {state["step"]} of {total}; raise '
             '--max_steps or --train_epochs')
    return 0, {**fields, **state, 'seconds_per_step': meter.seconds_per_step} if fields else None


def fresh(step):
    """The progress of a run, in its checkpoints; validated: the step of the last validation; scores: [[PSNR, SSIM],
    ...]; kept, rolling: steps of the checkpoints that --save_freq and --resume_freq made.
    """
    return {'step': step, 'validated': step, 'best': -1.0, 'scores': [], 'kept': [], 'rolling': []}


def log_step(log, at, scale, learning_rate, fields, batch_size):
    """The released port's line, and the record of it; at: (step, the last one)."""
    seconds = batch_size / fields['images/sec']
    eta = (at[1] - at[0]) * seconds
    log.line(f'step {at[0]}, scale x{scale}, loss {fields["loss"]:.6f}  sec/batch {seconds:.3f} fps '
             f'{fields["images/sec"]:.3f}  data_wait={fields["data_wait"]:.1%} eta={logs.duration(eta)}')
    log.event('step', **{'step': at, 'scale': scale, 'learning_rate': learning_rate, **fields,
                         'sec/batch': seconds, 'eta': eta})


def open_log(options, run, ranks):
    """The records of this run, RUN/train.jsonl; a new run takes its folder only now that nothing is amiss."""
    if ranks.rank == 0 and options.summary_dir:
        os.makedirs(options.summary_dir, exist_ok=True)  # now: a trained network must not end in an error
    if ranks.rank == 0 and not options.resume:
        run.claim()
    log = logs.RunLog(run.folder, quiet=ranks.rank > 0)
    log.event('options', **vars(options))
    if ranks.rank == 0:
        path = os.path.join(run.folder, 'arguments.json')
        temporary = files.temporary(path)
        with open(temporary, 'w', encoding='utf-8') as file:
            json.dump(vars(options), file, indent=2, sort_keys=True)
        os.replace(temporary, path)
    return log


def resume(options, run, ranks):
    """The state of the newest valid checkpoint. Raises ValueError where the options ask for another network."""
    path, state = run.resume()
    saved, size = state['options'], json.loads(json.dumps(network_size(options)))
    for name, value in size.items():
        if state['size'][name] != value:
            raise ValueError(f'{path} was trained with --bsrn_{"model_" * (name == "scales")}{name}='
                             f'{checkpoint.show(state["size"][name])}, not {checkpoint.show(value)}')
    if ranks.rank == 0:
        for consequence, names in CHANGES.items():
            for name in names:
                before, now = saved.get(name), json.loads(json.dumps(getattr(options, name, None)))
                if before != now:
                    print(f'warning: {"" if name == "world_size" else "--"}{name} was {before}, is {now}: '
                          f'{consequence}')
        print(f'Continue in {run.folder}, train from {path} (step {state["progress"]["step"]})')
    return state


def checkpoint_due(options, ranks, step):
    return stays(options, ranks, step) or step % options.resume_freq == 0


def stays(options, ranks, step):
    """Whether a checkpoint is one of --save_freq, which counts the steps of all ranks."""
    return step % -(-options.save_freq // ranks.world_size) == 0


def save(model, state, options, run, log):
    """Write model.ckpt-STEP; of those that --save_freq asks for --save_max_keep stay, of the others ROLLING."""
    step, ranks = state['step'], model.ranks
    if ranks.rank > 0:
        return
    kind, most = ('kept', options.save_max_keep) if stays(options, ranks, step) else ('rolling', ROLLING)
    # those beyond are named once more: a run that was killed here removes them when it goes on
    state[kind] = [*(other for other in state[kind] if other != step), step][-most - 1:]
    write(run.prefix(step), model, state, options)
    for other in state[kind][:-most]:
        run.remove(other)
    if kind == 'kept' and state['validated'] < step:  # a validation says no more of it
        log.line(f'saved a model checkpoint at step {step}')


def write(prefix, model, state, options):
    """Write everything that a resumed run needs; the patches of a step follow from --seed and the step alone."""
    checkpoint.write(prefix, model.arrays(), {'size': model.size, 'progress': state, 'options': vars(options)})


def validation_due(options, sets, state, total):
    """Whether this step ends with a validation that is not done; a stop or kill may have come before it."""
    step = state['step']
    return bool(sets) and state['validated'] < step and (step % options.valid_freq == 0 or step == total)


def validate(model, options, sets, run, log, state):
    """Measure and keep the pictures in RUN/validation; a new best PSNR (paper's protocol, the mean over the scales) is
    kept as model.ckpt-best.

    Every rank measures: one that waited for rank 0 longer than HCCL does would give up.
    """
    scores = []
    for name, scale, pairs in sets:
        protocols, folder = (Protocol('y', scale), Protocol('rgb', 4)), os.path.join(run.folder, 'validation', name)
        result = evaluate(model.upscale[scale], pairs, scale, dataset=name, protocols=protocols, model='BSRN',
                          output_dir=None if model.ranks.rank else os.path.join(folder, f'x{scale}'))
        scores.append(result['mean'][protocols[0].name])
        log.event('validation', step=state['step'], dataset=name, scale=scale, protocol=protocols[0].name,
                  bicubic=result['bicubic'], **scores[-1])
    psnr, ssim = (float(np.mean([score[key] for score in scores])) for key in ('psnr', 'ssim'))
    state['validated'] = state['step']
    state['scores'].append([psnr, ssim])
    if psnr > state['best']:
        state['best'] = psnr
        if model.ranks.rank == 0:
            write(run.best, model, state, options)
    save(model, state, options, run, log)


def describe(model, options, step, total, log):
    """Say what is trained: the variables with their numbers of elements, in the port's words, then a line."""
    log.line('trainable parameters')
    for variable in model.network.variables:
        log.line(f'- {variable.op.name}: {variable.shape.num_elements()}')
    log.line(f'total: {model.weights}')
    scales = ','.join(f'x{scale}' for scale in options.scales)
    log.line(f'BSRN {scales}, {options.bsrn_recursions} recursions of {options.bsrn_conv_features} + '
             f'{options.bsrn_state_features} features, {model.weights:,} weights, {model.device.precision} on '
             f'{model.device.kind}, {model.ranks.world_size} process(es); from step {step} to {total}')


def summarise(options, ranks, run, figures, started):
    """The closing block and <CaseName>.log, in ModelZoo's words; the batch size is that of one rank, as there."""
    seconds = figures['seconds_per_step']
    psnr, ssim = max(figures['scores'], default=(None, None))
    logs.modelzoo_summary(
        options.summary_dir or run.folder, network='BSRN', rank_size=ranks.world_size, batch_size=options.batch_size,
        images_per_sec=options.batch_size * ranks.world_size / seconds, seconds_per_step=seconds,
        case_name=logs.case_name('BSRN', options.batch_size, ranks.world_size, options.case), loss=figures['loss'],
        accuracy=psnr, e2e_seconds=time.time() - started,
        extra=[('Final SSIM', 'not measured' if ssim is None else f'{ssim:.4f}'),
               ('Final loss', f'{figures["loss"]:.6f}')])


def main(argv=None):
    started, (options, loader) = time.time(), parse(sys.argv[1:] if argv is None else argv, __doc__)
    run = Run(options)
    device = open_device(options.device, options.precision, options.kernels, options.cuda_device)
    ranks = open_ranks(device)
    options.world_size = ranks.world_size  # for the checkpoints
    resumed = resume(options, run, ranks) if options.resume else None
    data = open_data(options, loader, ranks)
    with build(options, device, ranks, resumed) as model:
        status, figures = train(options, model, run, data, resumed)
    if ranks.rank == 0 and figures:
        summarise(options, ranks, run, figures, started)
    if ranks.rank == 0 and options.platform == 'modelarts':
        training.object_store().copy_parallel(run.folder, options.obs_dir)
    return status


if __name__ == '__main__':
    cli.run(main)
