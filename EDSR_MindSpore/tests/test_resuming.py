"""Runs that stop and go on: exact resumption, signals, damaged and earlier checkpoints, losses that explode."""
import os
import shutil
import signal
import sys
import time

import mindspore as ms
import numpy as np
import pytest
from conftest import BEST, LAST, SIZE, TINY, flags, refused, start, state_of
from mindspore import Tensor

from common.logs import read_records
from common.ms import runs, training
from common.ms.runs import TrainStep


def assert_equal_state(found, expected):
    """Weights, moments, counters and progress are equal bit for bit."""
    found, expected = state_of(found), state_of(expected)
    assert set(found) == set(expected) and len(found) > 40
    assert found.pop('progress') == expected.pop('progress')
    assert all(np.array_equal(found[name], expected[name]) for name in found if name != 'options')


def losses(path):
    return [(r['step'], r['loss'], r['learning_rate']) for r in read_records(path / 'train.jsonl')]


@pytest.mark.parametrize('options', [{'scale': 3, 'lr_halve_epochs': 1}, {'amp_level': 'O1'}],
                         ids=['x3 halving', 'O1'])
def test_resuming_is_exact(options, train, out):
    folder = f'X{options.get("scale", 2)}'
    assert train(train_steps=20, **options) == 0  # an epoch has 9 steps
    assert train(train_steps=7, **options) == 0
    assert state_of(out / f'{folder}_2' / LAST)['global_step'] == 7
    assert train(train_steps=20, resume=True, workers=3, **options) == 0
    assert_equal_state(out / f'{folder}_2' / LAST, out / folder / LAST)
    assert losses(out / folder) == losses(out / f'{folder}_2') and len(losses(out / folder)) == 20


def test_resuming_with_validation_is_exact(train, out):
    options = {'data_test': 'DIV2K', 'ckpt_save_interval': 1, 'ckpt_save_max': 2}
    assert train(epochs=4, **options) == 0
    assert train(epochs=2, **options) == 0
    assert train(epochs=4, resume=True, **options) == 0
    assert_equal_state(out / 'X2_2' / LAST, out / 'X2' / LAST)
    assert_equal_state(out / 'X2_2' / BEST, out / 'X2' / BEST)
    assert_equal_state(out / 'X2_2' / 'edsr-4_9.ckpt', out / 'X2' / 'edsr-4_9.ckpt')
    assert len(state_of(out / 'X2' / LAST)['progress']['scores']) == 4
    for name in ('X2', 'X2_2'):
        assert sorted(path.name for path in (out / name).glob('edsr-*')) == ['edsr-3_9.ckpt', 'edsr-4_9.ckpt']


def test_resuming_after_kill_9(train, data, out):
    options = dict(TINY, dir_data=data, data_test='', ckpt_save_path=out, save_every=5)
    process = start(sys.executable, 'train.py', *flags(train_steps=10**6, **options))
    deadline = time.time() + 100
    while not (out / 'X2' / 'edsr_last.1.ckpt').exists() and time.time() < deadline:
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.02)
    process.kill()
    process.communicate()
    half = out / 'X2' / f'.edsr_last.{process.pid}.tmp.tmp'
    half.write_bytes(b'what MindSpore had written of it')
    step = state_of(out / 'X2' / LAST)['progress']['step']
    assert train(train_steps=step + 10, resume=True) == 0
    assert train(train_steps=step + 10) == 0
    assert_equal_state(out / 'X2' / LAST, out / 'X2_2' / LAST)
    assert not [name for name in os.listdir(out / 'X2') if '.tmp' in name]


def test_damaged_newest_checkpoint(train, out, capfd):
    assert train(train_steps=12) == 0
    assert train(train_steps=9, save_every=8) == 0  # checkpoints of steps 8 and 9
    run, newest = out / 'X2_2', out / 'X2_2' / LAST
    shutil.copytree(run, out / 'as it was')
    for damaged in (lambda b: b[:len(b) // 2], lambda b: b[:9000] + b'\0' * 40 + b[9040:]):
        shutil.rmtree(run)
        shutil.copytree(out / 'as it was', run)
        newest.write_bytes(damaged(newest.read_bytes()))
        assert train(train_steps=12, resume=True) == 0
        said = capfd.readouterr()
        assert 'warning: checkpoint skipped' in said.err and str(newest) in said.err
        assert 'edsr_last.1.ckpt (step 8)' in said.out
        assert_equal_state(newest, out / 'X2' / LAST)


def test_ctrl_c_saves_and_stops(train, out, monkeypatch, capsys):
    step, done = TrainStep.__call__, []

    def train_step(*arguments):
        done.append(1)
        if len(done) == 7:
            os.kill(os.getpid(), signal.SIGINT)
        return step(*arguments)
    monkeypatch.setattr(TrainStep, '__call__', train_step)
    before = signal.getsignal(signal.SIGINT)
    assert train(train_steps=12) in (128 + signal.SIGINT, 128 + signal.SIGTERM)  # MindSpore makes it a SIGTERM
    assert signal.getsignal(signal.SIGINT) is before
    assert 'stopped after step 7; --resume' in capsys.readouterr().out
    assert state_of(out / 'X2' / LAST)['progress']['step'] == 7


def test_exit_status_of_a_stopped_program(data, out):
    process = start(sys.executable, '-u', 'train.py', *flags(**dict(
        TINY, dir_data=data, data_test='', ckpt_save_path=out, train_steps=10**6)))
    while not process.stdout.readline().startswith('epoch='):
        assert process.poll() is None, process.stderr.read()
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM and not errors
    assert state_of(out / 'X2' / LAST)['progress']['step'] > 0


def test_folders_of_runs(train, out, capsys):
    for _ in range(2):
        train(train_steps=2)
    assert sorted(os.listdir(out)) == ['X2', 'X2_2']
    before = (out / 'X2' / LAST).read_bytes()
    (out / 'X2_3').mkdir()
    (out / 'X2_3' / 'train.jsonl').touch()  # ended before its first checkpoint
    train(train_steps=4, resume=True, batch_size=2, no_augment=True, lr=2e-4, test_every=5, amp_level='O1')
    said = capsys.readouterr().out
    assert 'warning: --batch_size was 4, is 2: other patches follow' in said and '--no_augment was False' in said
    for warning in ('--lr was 0.0001, is 0.0002', '--test_every was 9, is 5', '--amp_level was O0, is O1'):
        assert f'warning: {warning}: the recipe changes' in said
    assert state_of(out / 'X2_2' / LAST)['progress']['step'] == 4 and (out / 'X2' / LAST).read_bytes() == before
    before = (out / 'X2_2' / LAST).read_bytes()
    assert train(train_steps=4, resume=True) == 0
    assert 'nothing left to do' in capsys.readouterr().out and (out / 'X2_2' / LAST).read_bytes() == before


def test_the_number_of_ranks_is_kept(train, out, monkeypatch, capsys):
    train(train_steps=1)
    load = runs.load_state

    def of_eight(*arguments):
        state = load(*arguments)
        assert state['options']['world_size'] == 1
        state['options']['world_size'] = 8
        return state
    monkeypatch.setattr(runs, 'load_state', of_eight)
    train(train_steps=1, resume=True)
    assert 'warning: world_size was 8, is 1: other patches follow' in capsys.readouterr().out


@pytest.mark.parametrize('resume, made, expected', [
    (False, {}, 'X2'), (False, {'X2': ['notes.txt', 'edsr-1_9.ckpt']}, 'X2'), (False, {'X2': [LAST]}, 'X2_2'),
    (False, {'X2_3': ['train.jsonl']}, 'X2_4'), (False, {'X2': [], 'X2_9': ['edsr_best.1.ckpt'], 'X2_10': []}, 'X2_10'),
    (False, {'X3': [LAST], 'X2_1': [LAST], 'X2_test': [LAST]}, 'X2'),
    (True, {'X2': [LAST], 'X2_3': [BEST], 'X2_4': ['train.jsonl']}, 'X2_3'),
    (True, {'X2': ['train.jsonl'], 'X2_10': ['edsr_last.1.ckpt'], 'X2_9': [LAST]}, 'X2_10'),
    (True, {'X2': ['train.jsonl', 'edsr-1_9.ckpt']}, None)])
def test_numbers_of_runs(resume, made, expected, tmp_path):
    for folder, names in made.items():
        (tmp_path / folder).mkdir()
        for name in names:
            (tmp_path / folder / name).touch()
    run = str(tmp_path / 'X2'), LAST, BEST, '--resume' * resume
    if expected:
        assert runs.Run(*run).folder == str(tmp_path / expected)
    else:
        with pytest.raises(ValueError, match='no run with edsr_last.ckpt in'):
            runs.Run(*run)


def poison(path, value):
    """Change one weight of a checkpoint, which stays whole."""
    found = ms.load_checkpoint(str(path))
    texts = {name: found.pop(name) for name in ('progress', 'options')}
    weight = found['head.0.weight'].asnumpy()
    weight[0, 0, 0, 0] = value
    found['head.0.weight'].set_data(Tensor(weight))
    ms.save_checkpoint([{'name': name, 'data': data} for name, data in found.items()], str(path), append_dict=texts,
                       crc_check=True)
    return path.read_bytes()


def test_losses_that_stop_a_training(train, out, capsys):
    """NaN, one that explodes, and weights that the last step ruined: named, and never saved."""
    train(train_steps=4)
    path = out / 'X2' / LAST
    sound = path.read_bytes()
    refused(capsys, train, 'step 5: the loss is', 'its running mean was', '--lr', train_steps=9, resume=True, lr=1e9,
            save_every=1)
    assert path.read_bytes() == sound
    text = refused(capsys, train, 'step 6', 'the loss is', train_steps=20, resume=True, lr=3, log_every=10)
    assert 'nan' not in text and 'inf' not in text  # large, but a number
    assert path.read_bytes() == sound
    before = poison(path, float('nan'))
    refused(capsys, train, 'step 5', 'nan', train_steps=9, resume=True, save_every=1)
    assert path.read_bytes() == before
    path.write_bytes(sound)
    assert train(train_steps=6, resume=True) == 0  # and it can be gone on from
    assert all(r['loss'] < 200 for r in read_records(out / 'X2' / 'train.jsonl'))


def test_what_cannot_be_resumed(train, out, checkpoint, capsys):
    train(train_steps=2, save_every=1)
    before = (out / 'X2' / LAST).read_bytes()
    for name, value in (('n_feats', 16), ('n_resblocks', 2), ('res_scale', 0.5), ('rgb_range', 1.0)):
        refused(capsys, train, f'trained with --{name}={dict(SIZE, rgb_range=255.0)[name]}, not {value}', train_steps=4,
                resume=True, **{name: value})
    assert (out / 'X2' / LAST).read_bytes() == before
    for path in (out / 'X2').glob('*.ckpt'):
        shutil.copy(checkpoint, path)
    refused(capsys, train, 'no checkpoint could be loaded', 'not a checkpoint of train.py', '--ckpt_path',
            train_steps=9, resume=True)


def test_full_disk_keeps_the_earlier_checkpoint(train, out, monkeypatch, capsys):
    train(epochs=1, data_test='DIV2K')
    before = [(out / 'X2' / name).read_bytes() for name in (LAST, BEST)]

    def full(values, path, **more):
        with open(path.replace('.ckpt', '.tmp'), 'wb') as file:
            file.write(b'half a checkpoint')
        raise OSError(28, 'No space left on device')
    monkeypatch.setattr(ms, 'save_checkpoint', full)
    refused(capsys, train, 'No space left', 'bytes are free', 'edsr_last.ckpt', epochs=2, resume=True)
    assert [(out / 'X2' / name).read_bytes() for name in (LAST, BEST)] == before
    assert not [found for found in os.listdir(out / 'X2') if '.tmp' in found]


@pytest.mark.parametrize('killed', [True, False], ids=['killed', 'stopped'])
def test_a_validation_that_a_stop_prevented_is_made_up_for(killed, train, out, monkeypatch):
    options = {'train_steps': 12, 'data_test': 'DIV2K'}
    train(**options)
    if killed:
        monkeypatch.setattr(training, 'evaluate', lambda *_, **__: exec('raise KeyboardInterrupt'))
        with pytest.raises(KeyboardInterrupt):
            train(**options)  # at the end of the first epoch, step 9
    else:
        step = TrainStep.__call__

        def train_step(self, *patches):
            loss = step(self, *patches)
            if int(self.adam.global_step.asnumpy()[0]) in (9, 12):
                os.kill(os.getpid(), signal.SIGTERM)
            return loss
        monkeypatch.setattr(TrainStep, '__call__', train_step)
        for number in range(2):
            assert train(resume=number > 0 or None, **options) == 128 + signal.SIGTERM
    monkeypatch.undo()
    train(resume=True, **options)
    assert_equal_state(out / 'X2_2' / LAST, out / 'X2' / LAST)
    assert_equal_state(out / 'X2_2' / BEST, out / 'X2' / BEST)
    assert len(state_of(out / 'X2' / LAST)['progress']['scores']) == 2


def test_a_copied_run_goes_on_from_its_last_step(train, out, capsys):
    train(train_steps=11, data_test='DIV2K')
    os.utime(out / 'X2' / BEST)  # is now the newest file
    best = state_of(out / 'X2' / BEST)['progress']['step']
    capsys.readouterr()
    train(train_steps=12, resume=True)
    assert '(step 11)' in capsys.readouterr().out
    for path in (out / 'X2').glob('edsr_last*'):
        path.write_bytes(b'damaged')
    train(train_steps=13, resume=True)
    assert f'edsr_best.ckpt (step {best})' in capsys.readouterr().out
