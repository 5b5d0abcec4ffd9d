"""bash test/train_full_1p.sh --data_path=/data

Trains EDVR: windows of frames, the loss of the middle one, Adam, cosines that restart. Mode train of tools/main.py:

    python3 tools/main.py --config-file configs/edvr.yaml data.data_dir /data/reds      # as released
    python3 tools/main.py --config-file configs/edvr_m.yaml data.data_dir /data/reds    # EDVR-M of the paper
"""
import json
import os
import time

import numpy as np

from ascendcv.dataloader import clips as data
from ascendcv.dataloader import noise
from ascendcv.dataloader.windows import WindowSampler
from ascendcv.runner.sess_config import device_of
from ascendvsr import config as configuration
from ascendvsr.evaluate import RGB, measure
from ascendvsr.guard import Guard, Run, roll_back
from ascendvsr.learning import FUSION, Model, scale_of
from ascendvsr.models import checkpoint
from ascendvsr.models.layers import check_size, initial_weights
from ascendvsr.schedule import periods_of, rate_of, total_of
from common import images, logs
from common.datasets import Pair, load_pair
from common.patches import Prefetcher
from common.runs import Explosion, StopRequest
from common.tf.checkpoint import some
from common.tf.events import Events
from common.tf.ranks import open_ranks
from common.tf.runs import granted
from import_weights import read_weights
from upscaler import clip_function

NETWORK = 'EDVR_ID0056_for_TensorFlow'  # in ModelZoo's records
# what may change when a run is resumed, by how the keys begin: it is said, and what follows from it
CHANGES = {
    'other windows follow': ('data.data_dir', 'data.train_set', 'data.train_batch_size', 'data.train_in_size',
                             'data.noise.', 'random_seed', 'world_size'),
    'the recipe changes': ('edvr.loss_', 'solver.optimizer.', 'solver.lr_schedule.', 'solver.train_epochs',
                           'solver.ema', 'solver.tsa_steps', 'solver.precision', 'solver.mix_precision',
                           'solver.loss_scale')}


def check(config, ranks):
    """ValueError for values that cannot be, before anything is read or written."""
    if config.rank_size not in (0, ranks.world_size):
        raise ValueError(f'rank_size {config.rank_size}, but the environment starts {ranks.world_size} (RANK_SIZE); '
                         'leave rank_size out, or start so many (test/train_full_8p.sh --nproc)')
    for key, least in (('data.train_batch_size', 1), ('data.num_threads', 1), ('data.train_data_queue_size', 1),
                       ('solver.checkpoint_interval', 1), ('solver.checkpoint_keep', 1), ('solver.print_interval', 1),
                       ('solver.summary_interval', 1), ('solver.eval_interval', 0), ('solver.eval_frames', 0),
                       ('solver.tsa_steps', 0), ('random_seed', 0)):
        value = configuration.as_dict(config)[key]
        if value < least:
            raise ValueError(f'{key} {value}: expected {least} or more')
    for key, size in (('train_in_size', config.data.train_in_size), ('train_raw_size', config.data.train_raw_size)):
        if (size or key == 'train_in_size') and (len(size) != 2 or min(size) < 1):
            raise ValueError(f'data.{key} {size}: expected height,width in pixels, such as 64,64')
    if not 0 <= config.solver.ema < 1:
        raise ValueError(f'solver.ema {config.solver.ema}: expected a decay from 0 (none) to below 1')
    if config.edvr.loss_margin <= 0 and config.edvr.loss_type in ('charbonnier', 'marginal l1'):
        raise ValueError(f'edvr.loss_margin {config.edvr.loss_margin}: expected a number above 0')
    if config.solver.tsa_steps and not config.edvr.with_tsa:
        raise ValueError(f'solver.tsa_steps {config.solver.tsa_steps}: edvr.with_tsa is False, so there is no TSA to '
                         'train alone; leave tsa_steps out')
    size = configuration.network_size(config)
    check_size(**dict(size, compat=size['compat'] or 'paper', upsampling=size['upsampling'] or 'bilinear'))
    periods_of(config, 1)
    scale_of(config.solver.loss_scale)
    noise.check(config.data.noise)


def open_data(config, ranks):
    """(WindowSampler of this rank, periods of the learning rate, [Clip] to validate on)."""
    found = data.find_clips(config.data.data_dir, config.data.train_set)
    clips = data.open_clips(found, config.data.cache_dir, config.data.train_raw_size)
    sampler = WindowSampler(
        clips, frames=config.model.num_frames, crop=tuple(config.data.train_in_size), rank=ranks.rank,
        batch_size=config.data.train_batch_size * ranks.world_size, world_size=ranks.world_size,
        seed=config.random_seed, noise=config.data.noise)
    if ranks.rank == 0:
        print(f'data: {len(clips)} clips, {sampler.windows} windows of {config.model.num_frames} frames, '
              f'{sampler.steps_per_epoch} steps in an epoch')
    return sampler, periods_of(config, sampler.steps_per_epoch), validation_clips(config, found, ranks)


def validation_clips(config, trained, ranks):
    """[Clip] to validate on; [] where validation is not wanted, or where the clips of the default are not there."""
    if not config.solver.eval_interval:
        return []
    try:
        clips = data.find_clips(config.data.data_dir, config.data.eval_set)
    except ValueError:
        if config.data.eval_set != configuration.KEYS['data.eval_set'].default:
            raise
        if ranks.rank == 0:
            print(f'no validation: {config.data.data_dir} has neither sets/{config.data.eval_set} nor clips of REDS4; '
                  'name others with data.eval_set')
        return []
    for clip in clips:  # a broken frame is found now
        for path in images.list_pictures(clip.hr)[:config.solver.eval_frames or None]:
            load_pair(Pair(path.stem, path, clip.lr and os.path.join(clip.lr, path.name)), data.SCALE)
    shared = {os.path.realpath(clip.hr) for clip in clips} & {os.path.realpath(clip.hr) for clip in trained}
    if shared and ranks.rank == 0:
        print(f'warning: {len(shared)} of {len(clips)} clips to validate on are trained on too: name another set with '
              'data.eval_set')
    return clips


def build(config, device, ranks, resumed=None):
    """The Model of a configuration: with first weights drawn from random_seed, with those of the key checkpoint, or
    resumed.
    """
    size = configuration.network_size(config)
    if resumed:
        size, arrays, step = resumed['size'], resumed['arrays'], resumed['progress']['step']
    else:
        size, arrays, step = *first_weights(config, size, ranks), 0
    model = Model(config, size, device, ranks)
    model.load(arrays, step, whole=bool(resumed))
    return model


def first_weights(config, size, ranks):
    """(size, {name: array}) that a training begins with.

    ValueError: the checkpoint is of another network; one without TSA may begin a network with it.
    """
    if not config.checkpoint:
        size = dict(size, compat=size['compat'] or 'paper')
        check_size(**size)
        return size, initial_weights(size, np.random.default_rng(config.random_seed))
    conventions = ('compat', 'upsampling')
    loaded, found, dialect = read_weights(config.checkpoint, {name: getattr(config.edvr, name) for name in conventions})
    size = dict(size, **{name: found[name] for name in conventions})
    for name, value in size.items():
        if found[name] != value and (name, found[name]) != ('with_tsa', False):
            raise ValueError(f'{config.checkpoint}: a network of {name} {found[name]}, not {value}')
    weights = initial_weights(size, np.random.default_rng(config.random_seed))
    kept = [name for name in weights if name not in loaded]
    assert all(name.startswith(FUSION) for name in kept), kept
    weights.update({name: value for name, value in loaded.items() if name in weights})
    if ranks.rank == 0:
        print(f'train from the weights of {config.checkpoint} ({dialect})' + (
            f'; it has no TSA, which begins with first values: {some(kept)}' if kept else ''))
    return size, weights


def train(config, model, run, sets, log, state):
    """Train to the last step, or until asked to stop; returns (exit status, figures of the run for summarise)."""
    (sampler, periods, clips), ranks, solver = sets, model.ranks, config.solver
    total, fields = total_of(periods), {}
    workers = -(-config.data.num_threads // ranks.world_size)
    ahead = max(config.data.train_data_queue_size // config.data.train_batch_size, 1)
    with Prefetcher(sampler, range(state['step'], total), ahead, workers) as batches, StopRequest() as stop, \
            Events(os.path.join(run.folder, 'events'), model.graph) as events:
        guard = Guard(batches, sampler.batch_size, solver, log.line)
        for step, (lr, hr) in enumerate(batches, state['step'] + 1):
            rate = rate_of(solver.lr_schedule, periods, step - 1) * 0.5 ** state['rollbacks']
            if step % solver.summary_interval == 0:
                with guard.pause():
                    write_events(events, model, step, rate, lr, hr)
            loss, offset, asked = model.train(lr, hr, rate, step <= solver.tsa_steps, stop.asked)
            guard.count(step, loss, offset)
            state['step'], asked, at_end = step, granted(stop, asked, ranks), step == total
            if step % solver.print_interval == 0 or at_end:
                fields = guard.read()
                log_step(log, (step, total), rate, fields, sampler.batch_size)
            due = validation_due(config, clips, state, total)
            if step % solver.checkpoint_interval == 0 or due or at_end or asked:
                with guard.pause():
                    guard.check_weights(step, model.look(lr, hr))  # weights that a step ruined are not saved
                    save(config, model, run, state)
            if asked:
                log.line(f'stopped after step {step}; continue_training True goes on from there')
                return 128 + asked, None
            if due:
                with guard.pause():
                    validate(config, model, run, clips, log, state)
    log.line('finished' if fields else f'nothing left to do: the run is at step {state["step"]} of {total}; raise '
             'solver.lr_schedule.total_steps or solver.train_epochs')
    return 0, {**fields, **state, 'seconds_per_step': guard.seconds_per_step} if fields else None


def train_with_rollbacks(config, model, run, sets, log, state):
    """train(), and again from the last good checkpoint, with half the learning rate, where it exploded."""
    while True:
        try:
            return train(config, model, run, sets, log, state)
        except Explosion as error:
            prefix, good = roll_back(config, run, model.ranks, state['rollbacks'], error)
            state = good['progress']
            model.load(good['arrays'], state['step'], whole=True)
            log.line(f'warning: {error.what}; back to {prefix}, from there on with learning rates times '
                     f'{0.5 ** state["rollbacks"]:g}')
            log.event('rollback', step=state['step'], rollbacks=state['rollbacks'], reason=error.what)


def fresh():
    """The progress of a run, in its checkpoints; validated: the step of the last validation; scores: [[PSNR, SSIM],
    ...]; kept: steps of the checkpoints that are there; rollbacks: how often the learning rate was halved.
    """
    return {'step': 0, 'validated': 0, 'best': -1.0, 'scores': [], 'kept': [], 'rollbacks': 0}


def log_step(log, at, rate, fields, batch_size):
    """The released port's line, and the record of it; at: (step, the last one)."""
    seconds = batch_size / fields['images/sec']
    eta = (at[1] - at[0]) * seconds
    log.line(f'{time.strftime("%Y-%m-%d %H:%M:%S")} Step:{at[0]}, lr:{rate:.8f}, loss:{fields["loss"]:.08f}, session '
             f'time:{1000 * seconds:.2f}ms, session fps:{fields["images/sec"]:.2f}, device_id: '
             f'{os.environ.get("ASCEND_DEVICE_ID", "0")} data_wait={fields["data_wait"]:.1%} eta={logs.duration(eta)} '
             f'offset={fields["offset"]:.2f}')
    log.event('step', **{'step': at, 'learning_rate': rate, **fields, 'eta': eta})


def write_events(events, model, step, rate, lr, hr):
    """Numbers and pictures of a batch before this step, for TensorBoard."""
    look = model.look(lr, hr)
    if model.ranks.rank == 0:
        events.write(step, {'loss': look['loss'], 'learning_rate': rate, 'offset': look['offset']},
                     {'lr': lr[:, lr.shape[1] // 2], 'sr': look['sr'], 'hr': hr})


def open_log(config, run, ranks):
    """The records of this run, RUN/train.jsonl; a new run takes its folder only now that nothing is amiss."""
    if ranks.rank == 0 and config.solver.summary_dir:
        os.makedirs(config.solver.summary_dir, exist_ok=True)  # now: a trained network must not end in an error
    if ranks.rank == 0 and not config.continue_training:
        run.claim()
    log = logs.RunLog(run.folder, quiet=ranks.rank > 0)
    log.event('options', **options_of(config, ranks))
    if ranks.rank == 0:
        configuration.save(config, run.folder)
    return log


def options_of(config, ranks):
    """All keys with their values, and the number of ranks, for records and checkpoints."""
    return dict(configuration.as_dict(config), world_size=ranks.world_size)


def resume(config, run, ranks):
    """The state of the newest valid checkpoint. Raises ValueError where the configuration asks for another network."""
    path, state = run.resume()
    for name, value in configuration.network_size(config).items():
        if value != state['size'][name] and getattr(config.edvr, name, True) != '':
            raise ValueError(f'{path} was trained with {name} {state["size"][name]}, not {value}')
    if ranks.rank == 0:
        now = json.loads(json.dumps(options_of(config, ranks)))
        for consequence, beginnings in CHANGES.items():
            for name in (name for name in now if name.startswith(beginnings)):
                if state['options'].get(name) != now[name]:
                    print(f'warning: {name} was {state["options"].get(name)}, is {now[name]}: {consequence}')
        print(f'Continue in {run.folder}, train from {path} (step {state["progress"]["step"]})')
    return state


def save(config, model, run, state):
    """Write EDVR-STEP; of those that this run wrote the newest solver.checkpoint_keep stay."""
    step = state['step']
    known = [*(other for other in state['kept'] if other != step), step]
    # those beyond are named once more: a run that was killed here removes them when it goes on
    state['kept'] = known[-config.solver.checkpoint_keep - 1:]
    if model.ranks.rank == 0:
        write(run.prefix(step), config, model, state)
        for other in known[:-config.solver.checkpoint_keep]:
            run.remove(other)


def write(prefix, config, model, state):
    """Write everything that a resumed run needs; the windows of a step follow from random_seed and the step alone."""
    checkpoint.write(prefix, model.arrays(), {
        'size': model.size, 'progress': state, 'options': options_of(config, model.ranks)})


def validation_due(config, clips, state, total):
    """Whether this step ends with a validation that is not done; a stop or kill may have come before it."""
    step = state['step']
    return bool(clips) and state['validated'] < step and (step % config.solver.eval_interval == 0 or step == total)


def validate(config, model, run, clips, log, state):
    """Measure, into RUN/validation; a new best PSNR (RGB, mean over the clips) is kept as EDVR-best.

    Every rank measures: one that waited for rank 0 longer than HCCL does would give up.
    """
    name, folder = config.data.eval_set, os.path.join(run.folder, 'validation')
    with model.averaged():
        result = measure(clip_function(model.upscaler, config.data), clips, name, frames=config.solver.eval_frames,
                         output_dir=None if model.ranks.rank else folder, threads=config.writer_num_threads)
    score = result['mean'][RGB.name]
    log.event('validation', step=state['step'], dataset=name, protocol=RGB.name, bicubic=result['bicubic'], **score)
    state['validated'] = state['step']
    state['scores'].append([score['psnr'], score['ssim']])
    if score['psnr'] > state['best']:
        state['best'] = score['psnr']
        if model.ranks.rank == 0:
            write(run.best, config, model, state)
    save(config, model, run, state)


def describe(config, model, step, total, log):
    """Say what is trained, in a line."""
    size = model.size
    blocks = f'{size["num_blocks_extraction"]} + {size["num_blocks_reconstruction"]} blocks'
    log.line(f'EDVR x4, {size["num_frames"]} frames, {size["mid_channels"]} channels, {blocks}, '
             f'{"with" if size["with_tsa"] else "without"} TSA, compat {size["compat"]}, {model.weights:,} weights, '
             f'{model.device.precision} on {model.device.kind}, {model.ranks.world_size} process(es); from step {step} '
             f'to {total}')


def summarise(config, ranks, run, figures, started):
    """The closing block and <CaseName>.log, in ModelZoo's words; the batch size is that of one rank, as there."""
    seconds, batch_size = figures['seconds_per_step'], config.data.train_batch_size
    psnr, ssim = max(figures['scores'], default=(None, None))
    logs.modelzoo_summary(
        config.solver.summary_dir or run.folder, network=NETWORK, rank_size=ranks.world_size, batch_size=batch_size,
        images_per_sec=batch_size * ranks.world_size / seconds, seconds_per_step=seconds,
        case_name=logs.case_name(NETWORK, batch_size, ranks.world_size, config.solver.case), loss=figures['loss'],
        accuracy=psnr, e2e_seconds=time.time() - started,
        extra=[('Final SSIM', 'not measured' if ssim is None else f'{ssim:.4f}'),
               ('Final loss', f'{figures["loss"]:.6f}')])


def run(config):
    """Mode train; returns the exit status."""
    started, folder = time.time(), Run(config)
    device = device_of(config)
    ranks = open_ranks(device)
    check(config, ranks)
    resumed = resume(config, folder, ranks) if config.continue_training else None
    sets = open_data(config, ranks)
    with build(config, device, ranks, resumed) as model:
        log, state = open_log(config, folder, ranks), resumed['progress'] if resumed else fresh()
        describe(config, model, state['step'], total_of(sets[1]), log)
        if validation_due(config, sets[2], state, total_of(sets[1])):
            validate(config, model, folder, sets[2], log, state)
        status, figures = train_with_rollbacks(config, model, folder, sets, log, state)
    if ranks.rank == 0 and figures:
        summarise(config, ranks, folder, figures, started)
    return status
