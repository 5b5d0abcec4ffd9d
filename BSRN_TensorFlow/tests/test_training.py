"""train.py: what it learns, writes and records; three steps of the authors' code; the options that it refuses."""
import json
import os
import re
import signal
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from conftest import refused, save, state_of

import train as program
import upscaler
from common import images
from common.logs import read_records
from common.tf.ranks import Alone
from models import checkpoint as files
from models.bsrn import initial_weights
from models.learning import Board, Model, rate_of, tf
from models.session_config import open_device
from options import parse

GOLDEN = Path(__file__).parent / 'golden'
CPU = open_device('cpu', kernels='builtin')


def options(*words):
    return parse(['--dataloader=div2k_loader', *words], '')[0]


def weights_in(prefix):
    return files.weights_of(state_of(prefix)['arrays'])


@pytest.mark.parametrize('clip', ['', '_clip5'])
@pytest.mark.parametrize('name', ['x4_c16_s16_r4', 'x234_c16_s8_r3'])
def test_three_steps_of_the_authors_code(name, clip):
    """One scale after the other; Adam goes on moving the weights of scales that a step does not take."""
    with np.load(str(GOLDEN / f'{name}.npz')) as file:
        golden = dict(file)
    size = json.loads(str(golden['meta']))
    before = {key[len('var/'):]: value for key, value in golden.items() if key.startswith('var/')}
    size['scales'] = tuple(size['scales'])
    given = options(*['--bsrn_clip_norm=5'] * bool(clip))

    def patches(scale):
        return golden['input'].astype(np.uint8), golden[f'truth_x{scale}'].astype(np.uint8)
    with Model(size, size['scales'], given, CPU, Alone(CPU)) as model:
        model.load(before, 0)
        losses = [model.train(scale, *patches(scale), rate_of(given, step))[0]
                  for step, scale in enumerate(golden['trace_scales'].tolist())]
        after = [model.loss(scale, *patches(scale)) for scale in size['scales']]
        arrays = model.arrays()
    np.testing.assert_allclose(losses, golden[f'loss_trace{clip}'], rtol=1e-5)
    np.testing.assert_allclose(after, golden[f'loss_after{clip}'], rtol=1e-5)
    for variable, value in before.items():
        moved = golden[f'moved{clip}/{variable}'] * 2.5e-6
        difference = np.abs(arrays[variable] - value - moved)
        assert difference.max() < 3e-5 and np.quantile(difference, 0.99) < 1e-5, variable
        assert np.abs(moved).max() > 5e-5
    table = json.loads((GOLDEN / 'checkpoint_variables.json').read_text())
    if len(size['scales']) > 1:  # no more and no fewer than in the released file, whose network is larger
        assert set(arrays) == {*table['model_variables'], 'beta1_power', 'beta2_power',
                               *(f'{v}/{slot}' for v in table['model_variables'] for slot in ('Adam', 'Adam_1'))}


def test_learning_rate():
    with np.load(str(GOLDEN / 'x4_c16_s16_r4.npz')) as file:
        steps, rates = file['lr_steps'].tolist(), file['lr_values']
    np.testing.assert_allclose([rate_of(options(), step) for step in steps], rates, rtol=1e-6)
    given = options('--bsrn_learning_rate=8', '--bsrn_learning_rate_decay=0.25', '--bsrn_learning_rate_decay_steps=2')
    assert [rate_of(given, step) for step in range(5)] == [8, 8, 2, 2, 0.5]


def test_the_rate_is_the_one_that_adam_has(train, out):
    """Adam's step is at most about its rate; the first one is exactly it."""
    train(max_steps=3, bsrn_learning_rate=1e-3, bsrn_learning_rate_decay=1e-6, bsrn_learning_rate_decay_steps=1,
          save_freq=1)
    weights = [weights_in(out / 'X2' / f'model.ckpt-{step}')['generator/last_conv/conv2d/bias'] for step in (1, 2, 3)]
    np.testing.assert_allclose(np.abs(weights[0]), 1e-3, rtol=1e-3)
    np.testing.assert_allclose(weights[2], weights[0], rtol=0, atol=1e-8)
    assert [r['learning_rate'] for r in read_records(out / 'X2' / 'train.jsonl')] == pytest.approx([1e-3, 1e-9, 1e-15])


def test_records_checkpoints_and_pictures(train, data, out, tmp_path, capsys):
    (out / 'X2').mkdir(parents=True)
    (out / 'X2' / 'notes.txt').write_text('of the user')
    train(max_steps=12, scales='2,4', valid_set='tiny', valid_freq=5, save_freq=4, save_max_keep=2, resume_freq=3,
          log_freq=4, summary_freq=6, case='perf', summary_dir=tmp_path / 'sum', bsrn_learning_rate=1e-3)
    said = capsys.readouterr().out
    run = out / 'X2'
    assert sorted(path.stem for path in run.glob('model.ckpt-*.index')) == [
        'model.ckpt-10', 'model.ckpt-12', 'model.ckpt-8', 'model.ckpt-9', 'model.ckpt-best']
    assert not list(run.glob('.*')) and (run / 'notes.txt').exists()
    assert 'model_checkpoint_path: "model.ckpt-12"' in (run / 'checkpoint').read_text()
    assert list(json.loads((run / 'arguments.json').read_text())) == sorted([*vars(options()), 'world_size'])
    check_records(run / 'train.jsonl')
    last, best = (state_of(run / f'model.ckpt-{name}')['progress'] for name in ('12', 'best'))
    assert len(last['scores']) == 3 and last['best'] == max(psnr for psnr, _ in last['scores']) == best['best']
    means = [json.loads((run / 'validation' / 'tiny' / f'x{scale}' / 'metrics.json').read_text())['mean']
             for scale in (2, 4)]
    assert last['scores'][-1][0] == pytest.approx(np.mean([means[0]['y/crop2']['psnr'], means[1]['y/crop4']['psnr']]))
    lr = images.read(data / 'benchmark' / 'Tiny' / 'LR_bicubic' / 'X4' / 'catx4.png', channels=3).astype(np.float32)
    sr = upscaler.load(run / 'model.ckpt-12', scale=4, kernels='builtin')(lr)
    found = images.read(run / 'validation' / 'tiny' / 'x4' / 'cat_x4.png').astype(int)
    assert np.abs(found - images.to_uint8(sr)).max() <= 1
    check_said(said)
    check_summary(tmp_path / 'sum' / 'BSRN_bs4_1p_perf.log')


def check_records(path):
    first = json.loads(path.read_text().splitlines()[0])
    assert first['kind'] == 'options' and first['batch_size'] == 4 and first['scales'] == [2, 4]
    steps = read_records(path)
    assert [r['step'] for r in steps] == [4, 8, 12]
    for r in steps:
        assert set(r) == {'kind', 'step', 'steps', 'scale', 'learning_rate', 'loss', 'images/sec', 'sec/batch',
                          'data_wait', 'eta'}
        assert r['steps'] == 12 and r['scale'] in (2, 4) and 0 < r['loss'] < 256 and 0 <= r['data_wait'] <= 1
        assert r['images/sec'] * r['sec/batch'] == pytest.approx(4)
    checks = read_records(path, 'validation')
    assert [(r['step'], r['scale'], r['protocol']) for r in checks] == [
        (step, scale, f'y/crop{scale}') for step in (5, 10, 12) for scale in (2, 4)]


def check_said(said):
    """The released port's lines, and the closing block."""
    lines = said.splitlines()
    parameters = lines[lines.index('trainable parameters') + 1:]
    counts = [int(line.split(': ')[1]) for line in parameters[:20] if line.startswith('- generator/')]
    assert len(counts) == 18 and f'total: {sum(counts)}' in parameters
    match = re.search(r'^step 12, scale x[24], loss [0-9.]+  sec/batch ([0-9.]+) fps ([0-9.]+)  data_wait=[0-9.]+% '
                      r'eta=0:00:00$', said, re.MULTILINE)
    assert float(match.group(1)) * float(match.group(2)) == pytest.approx(4, rel=0.3)
    for words in ('data: 3 images are prepared (caching disabled)', 'saved a model checkpoint at step 8', 'finished',
                  'Final Performance images/sec : ', 'Final Train Accuracy : ', 'Final SSIM : 0.',
                  'dataset=tiny scale=2 ', 'protocol=y/crop2', 'protocol=rgb/crop4'):
        assert words in said
    assert said.count('saved a model checkpoint at step 8') == 1


def check_summary(path):
    fields = dict(line.split(' = ') for line in path.read_text().splitlines())
    assert list(fields) == ['Network', 'RankSize', 'BatchSize', 'DeviceType', 'CaseName', 'ActualFPS', 'TrainingTime',
                            'ActualLoss', 'E2ETrainingTime']
    assert (fields['Network'], fields['RankSize'], fields['BatchSize']) == ('BSRN', '1', '4')
    assert float(fields['ActualFPS']) * float(fields['TrainingTime']) == pytest.approx(4, rel=0.1)


def test_what_tensorboard_shows(tmp_path):
    size = {'scales': (2, 3), 'conv_features': 4, 'state_features': 0, 'recursions': 4, 'recursion_frequency': 2}
    rng = np.random.default_rng(1)
    lr, hr = (rng.integers(0, 256, (5, side, side, 3), dtype=np.uint8) for side in (6, 18))
    with Model(size, (3,), options(), CPU, Alone(CPU)) as model, Board(str(tmp_path), model.graph) as board:
        model.load(initial_weights(size, rng), 0)
        board.write(7, 3, 0.5, model, lr, hr)
        look = model.look(3, lr, hr)
        Board(str(tmp_path / 'none'), model.graph, quiet=True).write(7, 3, 0.5, model, lr, hr)
    assert sorted(os.listdir(str(tmp_path))) == ['x3']
    event, = (tmp_path / 'x3').iterdir()
    found = {value.tag: value for event in tf.train.summary_iterator(str(event)) if event.step == 7
             for value in event.summary.value}
    pictures = [f'{name}/image/{k}' for name in ('input', 'truth', 'output_m2', 'output_m4') for k in range(3)]
    assert set(found) == {*pictures, 'learning_rate', 'loss/final', 'loss/recon_l1_m2', 'loss/recon_l1_m4'}
    assert found['learning_rate'].simple_value == 0.5
    assert found['loss/recon_l1_m4'].simple_value == pytest.approx(float(look['errors'][1]))
    assert found['loss/final'].simple_value == pytest.approx(np.dot([0.2, 0.8], look['errors']), rel=1e-5)
    for tag, expected in (('input', lr[1]), ('truth', hr[1]), ('output_m4', images.to_uint8(look['outputs'][1][1]))):
        path = tmp_path / 'picture.png'
        path.write_bytes(found[f'{tag}/image/1'].image.encoded_image_string)
        assert np.array_equal(images.read(path, channels=3), expected)


def test_training_learns(train, out):
    train(max_steps=150, bsrn_learning_rate=3e-3)
    losses = [r['loss'] for r in read_records(out / 'X2' / 'train.jsonl')]
    assert np.mean(losses[-20:]) < 0.6 * np.mean(losses[:5])


def test_seed_workers_and_memory(train, out):
    """The weights follow from the seed alone, however the patches are made."""
    for given in ({}, {'workers': 3, 'data_cached': True}, {'seed': 5}):
        train(max_steps=3, scales='2,3', **given)
    first, same, other = (weights_in(out / name / 'model.ckpt-3') for name in ('X2', 'X2_2', 'X2_3'))
    assert all(np.array_equal(first[name], same[name]) for name in first)
    assert not all(np.array_equal(first[name], other[name]) for name in first)


def test_steps_are_those_of_all_epochs_or_ranks(train, out):
    train(train_epochs=5, batch_size=1)
    assert [r['step'] for r in read_records(out / 'X2' / 'train.jsonl')] == [*range(1, 16)]  # three pictures
    ranks = types.SimpleNamespace(world_size=8)
    given = options('--save_freq=80', '--resume_freq=25')
    assert [s for s in range(1, 41) if program.checkpoint_due(given, ranks, s)] == [10, 20, 25, 30, 40]


def test_restoring_a_checkpoint(train, out, tmp_path, capsys):
    """With Adam's state and --global_step it is the run gone on; with restore_target=generator Adam begins anew."""
    train(max_steps=4)
    path = out / 'X2' / 'model.ckpt-4'
    train(max_steps=6, restore_path=path, global_step=4)
    train(max_steps=6)
    assert 'with the state of Adam, at step 4' in capsys.readouterr().out
    on, whole = (state_of(out / name / 'model.ckpt-6')['arrays'] for name in ('X2_2', 'X2_3'))
    assert all(np.array_equal(on[name], whole[name]) for name in whole)
    train(max_steps=1, restore_path=path, restore_target='generator', bsrn_learning_rate=1e-12)
    assert 'restored the model: weights of' in capsys.readouterr().out
    arrays, start = state_of(out / 'X2_4' / 'model.ckpt-1')['arrays'], weights_in(path)
    assert all(np.allclose(arrays[name], value, rtol=0, atol=1e-9) for name, value in start.items())
    assert arrays['beta1_power'] == pytest.approx(0.9 ** 2)
    bare = save(tmp_path / 'bare.ckpt')
    refused(capsys, train, 'without the state of Adam', '--restore_target=generator', restore_path=bare, max_steps=2)
    refused(capsys, train, 'scales 2', '--bsrn_model_scales=2', restore_path=bare, scales='3', max_steps=2)
    refused(capsys, train, 'conv_features 8', restore_path=bare, bsrn_conv_features=16, max_steps=2)
    np.savez(str(tmp_path / 'other.npz'), weight=np.zeros(3))
    refused(capsys, train, 'other.npz', 'not a BSRN', restore_path=tmp_path / 'other.npz', max_steps=2)
    train(max_steps=1, restore_path=bare, restore_target='generator', bsrn_recursions=2)
    assert 'was trained with --bsrn_recursions=3, now it is 2' in capsys.readouterr().out
    assert sorted(os.listdir(str(out))) == ['X2', 'X2_2', 'X2_3', 'X2_4', 'X2_5']


def test_ranks_stop_and_go_on_together():
    """A wish of any rank is granted by all in the same step; one that resumed from another step is an error."""
    two, none, interrupted = (types.SimpleNamespace(**values) for values in (
        {'world_size': 2}, {'asked': 0}, {'asked': signal.SIGINT}))
    assert [program.granted(none, asked, two) for asked in (0.0, 7.5)] == [0, signal.SIGTERM]
    assert [program.granted(interrupted, asked, two) for asked in (0.0, 1.0)] == [0, signal.SIGINT]
    assert program.granted(interrupted, 0.0, Alone(CPU)) == signal.SIGINT  # it came during the step

    class Second(Alone):
        rank = 1

        def share(self, variables):
            return tf.assign(variables[-1], 7.0)
    size = {'scales': (2,), 'conv_features': 4, 'state_features': 4, 'recursions': 1}
    with Model(size, (2,), options(), CPU, Second(CPU)) as model:
        weights = initial_weights(size, np.random.default_rng(1))
        model.load(weights, 7)
        with pytest.raises(ValueError, match='rank 1 has a checkpoint of step 3, rank 0 one of step 7'):
            model.load(weights, 3)


def test_resting_between_steps(train, monkeypatch):
    rests = []
    monkeypatch.setattr(program.time, 'sleep', rests.append)
    train(max_steps=2, sleep_ratio=1e9)
    assert rests == [10.0, 10.0]
    train(max_steps=2)
    assert rests[2:] == [0.0, 0.0]


@pytest.mark.parametrize('given, words', [
    ({'bsrn_clipnorm': 5}, ('unknown option --bsrn_clipnorm', 'did you mean --bsrn_clip_norm?')),
    ({'scale': 4}, ('unknown option --scale',)), ({'resume': True}, ('no run with', 'X2')),
    ({'dataloader': 'div3k'}, ('div3k', 'basic_loader, div2k_loader')), ({'model': 'edsr'}, ('edsr', 'bsrn')),
    ({'bsrn_learning_rate': 'inf'}, ('--bsrn_learning_rate',)), ({'bsrn_adam_epsilon': 0}, ('--bsrn_adam_epsilon',)),
    ({'bsrn_clip_norm': 'nan'}, ('--bsrn_clip_norm',)), ({'seed': 2 ** 64}, ('--seed',)),
    ({'batch_size': 0}, ('--batch_size 0',)), ({'max_steps': 0}, ('--max_steps 0',)), ({'scales': '5'}, ("'5'", '8')),
    ({'scales': '2,4', 'bsrn_model_scales': '2,3'}, ('x4', '--bsrn_model_scales')), ({'tile': -1}, ('--tile -1',)),
    ({'target_patch_size': 25}, ('--target_patch_size 25', 'multiple')), ({'sleep_ratio': -1}, ('--sleep_ratio -1',)),
    ({'input_patch_size': 2000}, ('0001', '2000')), ({'data_cached': 'maybe'}, ('maybe', 'true or false')),
    ({'global_step': 5}, ('--global_step', '--restore_path')), ({'restore_target': 'all'}, ('all', 'generator')),
    ({'restore_target': 'generator'}, ('--restore_path',)), ({'restore_path': 'nowhere.ckpt'}, ('nowhere.ckpt',)),
    ({'valid_set': 'Set55'}, ('Set55', 'there are: Tiny')), ({'valid_path': '/nowhere', 'valid_set': 'auto'},
                                                            ('/nowhere', 'no such folder')),
    ({'device': 'tpu'}, ('tpu', 'npu')), ({'platform': 'modelarts'}, ('moxing',)),
    ({'summary_dir': '/dev/null/sum'}, ('/dev/null',))],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else '')
def test_impossible_options(given, words, train, out, capsys):
    refused(capsys, train, *words, **dict({'max_steps': 2}, **given))
    assert not out.exists()


def test_results_go_to_an_object_store(train, out, monkeypatch):
    copied = []
    store = types.SimpleNamespace(file=types.SimpleNamespace(copy_parallel=lambda *places: copied.append(places)))
    monkeypatch.setitem(sys.modules, 'moxing', store)
    assert train(max_steps=1, platform='modelarts', obs_dir='obs://mine/') == 0
    assert copied == [(str(out / 'X2'), 'obs://mine/')]


def test_a_step_without_memory_is_an_error_of_one_line(train, monkeypatch):
    def run(self, *_):
        raise tf.errors.ResourceExhaustedError(None, None, 'OOM when allocating')
    with Model({'conv_features': 4, 'state_features': 4, 'recursions': 1}, (4,), options(), CPU, Alone(CPU)) as model:
        monkeypatch.setattr(type(model.session), 'run', run)
        with pytest.raises(ValueError, match='too little memory.*--batch_size'):
            model.train(4, np.zeros((1, 4, 4, 3)), np.zeros((1, 16, 16, 3)), 1e-4)
        monkeypatch.undo()
