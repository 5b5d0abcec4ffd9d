"""Runs that stop and go on: exact resumption, signals, damaged and earlier checkpoints, losses that explode."""
import os
import shutil
import signal
import sys
import time

import numpy as np
import pytest
from conftest import TINY, flags, refused, start, state_of

import train as program
import training
from common import checkpoints
from common.logs import read_records
from common.tf.checkpoint import numbered
from models import checkpoint as files
from models.learning import Model


def assert_equal_state(found, expected):
    """Weights, Adam's slots and powers are equal bit for bit, and so are the scores."""
    found, expected = state_of(found), state_of(expected)
    assert set(found['arrays']) == set(expected['arrays']) and len(found['arrays']) > 30
    for name, value in expected['arrays'].items():
        assert np.array_equal(found['arrays'][name], value), name
    for name in ('step', 'validated', 'best', 'scores', 'kept'):
        assert found['progress'][name] == expected['progress'][name], name


def last(folder):
    """The newest checkpoint of a run."""
    return numbered(str(folder), files.STEM)[0][1]


def losses(folder):
    return [(r['step'], r['scale'], r['loss'], r['learning_rate']) for r in read_records(folder / 'train.jsonl')]


@pytest.mark.parametrize('given', [
    {'scales': '2,3,4', 'bsrn_clip_norm': 5, 'bsrn_learning_rate_decay_steps': 6}, {'kernels': 'auto'}],
    ids=['x2, x3, x4', 'native'])
def test_resuming_is_exact(given, train, out):
    assert train(max_steps=15, **given) == 0
    assert train(max_steps=7, **given) == 0
    assert os.path.basename(last(out / 'X2_2')) == 'model.ckpt-7'
    assert train(max_steps=15, resume=True, **dict(given, workers=3)) == 0
    assert_equal_state(last(out / 'X2_2'), last(out / 'X2'))
    assert losses(out / 'X2') == losses(out / 'X2_2') and len(losses(out / 'X2')) == 15
    assert given.get('scales') is None or {scale for _, scale, _, _ in losses(out / 'X2')} == {2, 3, 4}


def test_resuming_with_validation_is_exact(train, out):
    given = {'valid_set': 'Tiny', 'valid_freq': 4, 'save_freq': 3, 'save_max_keep': 2}
    assert train(max_steps=12, **given) == 0
    assert train(max_steps=8, **given) == 0
    assert train(max_steps=12, resume=True, **given) == 0
    assert_equal_state(out / 'X2_2' / 'model.ckpt-12', out / 'X2' / 'model.ckpt-12')
    assert_equal_state(out / 'X2_2' / 'model.ckpt-best', out / 'X2' / 'model.ckpt-best')
    assert len(state_of(out / 'X2' / 'model.ckpt-12')['progress']['scores']) == 3
    for name in ('X2', 'X2_2'):  # validations leave one, too
        assert [number for number, _ in numbered(str(out / name), files.STEM)] == [12, 9, 8, 4]


def test_resuming_after_kill_9(train, data, out):
    given = dict(TINY, data_path=data, valid_set='', train_path=out / 'X2', resume_freq=5)
    process = start(sys.executable, 'train.py', *flags(max_steps=10 ** 6, **given))
    deadline = time.time() + 100
    while len(list(out.glob('X2/*.index'))) < 2 and time.time() < deadline:
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.02)
    process.kill()
    process.communicate()
    half = out / 'X2' / f'.model.ckpt-9999.data-00000-of-{process.pid}.tmp00001'
    half.write_bytes(b'what had been written of it')
    (out / 'X2' / 'model.ckpt-9999.data-00000-of-00001').write_bytes(b'complete, but its index is not there')
    step, _ = numbered(str(out / 'X2'), files.STEM)[0]
    assert train(max_steps=step + 8, resume=True) == 0
    assert train(max_steps=step + 8) == 0
    assert_equal_state(last(out / 'X2'), last(out / 'X2_2'))


def test_damaged_newest_checkpoint(train, out, capfd):
    assert train(max_steps=12) == 0
    assert train(max_steps=9, resume_freq=8) == 0  # checkpoints of steps 8 and 9
    shutil.copytree(str(out / 'X2_2'), str(out / 'as it was'))
    run, data = out / 'X2_2', 'model.ckpt-9.data-00000-of-00001'
    for name, damaged in ((data, lambda b: b[:len(b) // 2]), (data, lambda b: b[:900] + b'\1' * 40 + b[940:]),
                          ('model.ckpt-9.index', lambda b: b[:40]), ('model.ckpt-9.json', lambda b: b[:40])):
        shutil.rmtree(str(run))
        shutil.copytree(str(out / 'as it was'), str(run))
        (run / name).write_bytes(damaged((run / name).read_bytes()))
        assert train(max_steps=12, resume=True) == 0
        said = capfd.readouterr()
        assert 'warning: checkpoint skipped' in said.err and 'model.ckpt-9' in said.err
        assert 'model.ckpt-8 (step 8)' in said.out
        assert_equal_state(run / 'model.ckpt-12', out / 'X2' / 'model.ckpt-12')


def test_ctrl_c_saves_and_stops(train, out, monkeypatch, capsys):
    step, done = Model.train, []

    def train_step(self, *arguments):
        done.append(1)
        if len(done) == 7:
            os.kill(os.getpid(), signal.SIGINT)
        return step(self, *arguments)
    monkeypatch.setattr(Model, 'train', train_step)
    before = signal.getsignal(signal.SIGINT)
    assert train(max_steps=12) == 128 + signal.SIGINT
    assert signal.getsignal(signal.SIGINT) is before
    assert 'stopped after step 7; --resume' in capsys.readouterr().out
    assert state_of(last(out / 'X2'))['progress']['step'] == 7


def test_exit_status_of_a_stopped_program(data, out):
    process = start(sys.executable, '-u', 'train.py', *flags(**dict(
        TINY, data_path=data, valid_set='', train_path=out / 'X2', max_steps=10 ** 6)))
    while not process.stdout.readline().startswith('step '):
        assert process.poll() is None, process.stderr.read()
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert [line for line in errors.splitlines() if not line.startswith('decode: ')] == []  # nor TensorFlow's own lines
    assert state_of(last(out / 'X2'))['progress']['step'] > 0


def test_folders_of_runs(train, out, capsys):
    for _ in range(2):
        train(max_steps=2)
    assert sorted(os.listdir(str(out))) == ['X2', 'X2_2']
    before = sorted(path.read_bytes() for path in (out / 'X2').iterdir())
    (out / 'X2_3').mkdir()
    (out / 'X2_3' / 'train.jsonl').touch()  # ended before its first checkpoint
    train(max_steps=4, resume=True, batch_size=2, input_patch_size=16, bsrn_learning_rate=2e-4, bsrn_clip_norm=5)
    said = capsys.readouterr().out
    for warning in ('--batch_size was 4, is 2: other patches follow', '--input_patch_size was 12, is 16: other',
                    '--bsrn_learning_rate was 0.0001, is 0.0002: the recipe', '--bsrn_clip_norm was -1.0, is 5.0: the'):
        assert f'warning: {warning}' in said
    assert said.count('warning: ') == 4
    assert sorted(path.read_bytes() for path in (out / 'X2').iterdir()) == before
    written = (out / 'X2_2' / 'model.ckpt-4.index').stat().st_mtime_ns
    assert train(max_steps=4, resume=True, batch_size=2, input_patch_size=16) == 0
    assert 'nothing left to do' in capsys.readouterr().out
    assert (out / 'X2_2' / 'model.ckpt-4.index').stat().st_mtime_ns == written


@pytest.mark.parametrize('resume, made, expected', [
    (False, {'X2': ['notes.txt', 'model.ckpt-5.json']}, 'X2'), (False, {'X2': ['model.ckpt-5.index']}, 'X2_2'),
    (False, {'X2_3': ['train.jsonl'], 'X2_9': ['model.ckpt-best.index'], 'X2_old': ['train.jsonl']}, 'X2_10'),
    (True, {'X2': ['model.ckpt-5.index'], 'X2_3': ['model.ckpt-best.index'], 'X2_4': ['train.jsonl']}, 'X2_3'),
    (True, {'X2': ['train.jsonl', 'model.ckpt-5.data-00000-of-00001']}, None)])
def test_numbers_of_runs(resume, made, expected, tmp_path):
    for folder, names in made.items():
        (tmp_path / folder).mkdir()
        for name in names:
            (tmp_path / folder / name).touch()
    options = program.parse([f'--train_path={tmp_path}/X2/', *['--resume'] * resume], '')[0]
    if expected:
        assert training.Run(options).folder == str(tmp_path / expected)
    else:
        with pytest.raises(ValueError, match='--resume: no run with model.ckpt-STEP in'):
            training.Run(options)


def poison(prefix, value):
    """Change one weight of a checkpoint, which stays whole; its files' bytes."""
    state = state_of(prefix)
    state['arrays']['generator/first_conv/conv2d/bias'][0] = value
    files.write(prefix, state['arrays'], {name: state[name] for name in ('size', 'progress', 'options')})
    return bytes_of(prefix)


def bytes_of(prefix):
    return {path.name: path.read_bytes() for path in prefix.parent.glob('model.ckpt-*')}


def test_losses_that_stop_a_training(train, out, capsys):
    """NaN, one that explodes, and weights that the last step ruined: named, and never saved."""
    train(max_steps=4)
    prefix = out / 'X2' / 'model.ckpt-4'
    sound = bytes_of(prefix)
    refused(capsys, train, 'the loss is', 'its running mean was', '--bsrn_learning_rate', max_steps=9, resume=True,
            bsrn_learning_rate=1e9, resume_freq=1)
    assert bytes_of(prefix) == sound
    text = refused(capsys, train, 'step 5', 'the loss is', max_steps=5, resume=True, bsrn_learning_rate=1, log_freq=9)
    assert 'nan' not in text and 'inf' not in text  # large, but a number
    assert bytes_of(prefix) == sound
    before = poison(prefix, float('nan'))
    refused(capsys, train, 'step 5', 'nan', max_steps=9, resume=True, resume_freq=1)
    assert bytes_of(prefix) == before


def test_what_cannot_be_resumed(train, out, checkpoint, capsys):
    train(max_steps=2)
    before = bytes_of(out / 'X2' / 'model.ckpt-2')
    for name, was, value in (('conv_features', 8, 16), ('recursions', 3, 2), ('rgb_mean', '127.5,127.5,127.5', '1,2,3'),
                             ('model_scales', 2, '2,3')):
        refused(capsys, train, f'was trained with --bsrn_{name}={was}, not {value}', max_steps=4, resume=True,
                **{f'bsrn_{name}': value})
    assert bytes_of(out / 'X2' / 'model.ckpt-2') == before
    for path in (out / 'X2').glob('model.ckpt-2.*'):
        shutil.copy(str(checkpoint) + path.name[len('model.ckpt-2'):], str(path))
    refused(capsys, train, '--resume: no checkpoint in', '--restore_path', max_steps=9, resume=True)


def test_full_disk_keeps_the_earlier_checkpoint(train, out, monkeypatch, capsys):
    train(max_steps=3, valid_set='Tiny')
    before = bytes_of(out / 'X2' / 'model.ckpt-3')
    monkeypatch.setattr(checkpoints, '_sync', lambda *_: exec("raise OSError(28, 'No space left on device')"))
    refused(capsys, train, 'No space left', 'bytes are free', 'model.ckpt-5', max_steps=5, resume=True)
    assert bytes_of(out / 'X2' / 'model.ckpt-3') == before


@pytest.mark.parametrize('killed', [True, False], ids=['killed', 'stopped'])
def test_a_validation_that_a_stop_prevented_is_made_up_for(killed, train, out, monkeypatch):
    given, done = {'max_steps': 8, 'valid_set': 'Tiny', 'valid_freq': 5, 'save_freq': 5}, []
    train(**given)
    if killed:
        monkeypatch.setattr(program, 'evaluate', lambda *_, **__: exec('raise KeyboardInterrupt'))
        with pytest.raises(KeyboardInterrupt):
            train(**given)  # in step 5
    else:
        step = Model.train

        def train_step(self, *arguments):
            result = step(self, *arguments)
            done.append(1)
            if len(done) in (5, 8):
                os.kill(os.getpid(), signal.SIGTERM)
            return result
        monkeypatch.setattr(Model, 'train', train_step)
        for number in range(2):
            assert train(resume=number > 0 or None, **given) == 128 + signal.SIGTERM
    monkeypatch.undo()
    train(resume=True, **given)
    assert_equal_state(out / 'X2_2' / 'model.ckpt-8', out / 'X2' / 'model.ckpt-8')
    assert_equal_state(out / 'X2_2' / 'model.ckpt-best', out / 'X2' / 'model.ckpt-best')
    assert len(state_of(last(out / 'X2'))['progress']['scores']) == 2


def test_a_run_without_numbered_checkpoints_goes_on_from_its_best(train, out, capsys):
    train(max_steps=3, valid_set='Tiny')
    for path in (out / 'X2').glob('model.ckpt-3.*'):
        path.unlink()
    train(max_steps=5, resume=True)
    assert 'model.ckpt-best (step 3)' in capsys.readouterr().out
