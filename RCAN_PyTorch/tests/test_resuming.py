"""Runs that stop and go on: exact resumption, signals, damaged and earlier checkpoints, losses that explode."""
import os
import shutil
import signal
import sys
import time
from types import SimpleNamespace

import pytest
import torch
from conftest import BEST, LAST, SIZE, TINY, flags, refused, start, state_of

import main
import training
from common.logs import read_records


def assert_equal_state(found, expected):
    """Weights, optimiser, scaler and progress are equal bit for bit."""
    def tensors(state):
        optimiser = state['optimizer']['state']
        return {**state['model'], **{f'{i}.{k}': v for i, s in optimiser.items() for k, v in s.items()}}
    one, two = tensors(state_of(found)), tensors(state_of(expected))
    assert set(one) == set(two) and len(one) > 20
    assert all(torch.equal(one[name], two[name]) for name in one)
    found, expected = state_of(found), state_of(expected)
    for part in ('scaler', 'step', 'best', 'ck_performance'):
        assert found[part] == expected[part], part


@pytest.mark.parametrize('options, name', [
    ({}, LAST), ({'amp': True, 'amp_dtype': 'bf16'}, 'RCAN_epoch_last_amp.pth'),
    ({'amp': True, 'amp_dtype': 'fp16', 'loss_scale': 'dynamic'}, 'RCAN_epoch_last_amp.pth'),
    ({'style': 'port', 'scale': 3, 'lr_halve_steps': 2}, LAST)], ids=['fp32', 'bf16', 'fp16', 'port x3 halving'])
def test_resuming_is_exact(options, name, train, out):
    folder = f'X{options.get("scale", 2)}'
    assert train(train_steps=60, **options) == 0  # an epoch has 27 steps
    assert train(train_steps=25, **options) == 0
    first = state_of(out / f'{folder}_2' / name)
    assert first['step'] == 25 and (first['scaler'] != {}) == ('fp16' in options.values())
    assert train(train_steps=41, ifcontinue=True, **options) == 0
    assert train(train_steps=60, ifcontinue=True, workers=3, **options) == 0
    assert_equal_state(out / f'{folder}_2' / name, out / folder / name)
    steps = [[(r['step'], r['loss'], r['learning_rate']) for r in read_records(out / run / 'train.jsonl')]
             for run in (folder, f'{folder}_2')]
    assert steps[0] == steps[1] and len(steps[0]) == 60


def test_resuming_with_validation_is_exact(train, data, out):
    assert train(num_epochs=3, test_dataset_dir=data) == 0
    assert train(num_epochs=1, test_dataset_dir=data) == 0
    assert train(num_epochs=3, test_dataset_dir=data, ifcontinue=True) == 0
    assert_equal_state(out / 'X2_2' / LAST, out / 'X2' / LAST)
    assert_equal_state(out / 'X2_2' / BEST, out / 'X2' / BEST)
    assert len(state_of(out / 'X2' / LAST)['ck_performance']) == 3


def test_resuming_after_kill_9(train, data, out, tmp_path):
    options = dict(TINY, train_dataset_dir=data, outputs_dir=out, save_every=5)
    process = start(sys.executable, 'main.py', *flags(train_steps=10**6, **options))
    deadline = time.time() + 60
    while not (out / 'X2' / 'RCAN_epoch_last.1.pth').exists() and time.time() < deadline:
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.02)
    process.kill()
    process.communicate()
    step = state_of(out / 'X2' / LAST)['step']
    assert train(train_steps=step + 10, ifcontinue=True) == 0
    assert train(train_steps=step + 10) == 0
    assert_equal_state(out / 'X2' / LAST, out / 'X2_2' / LAST)
    assert not [name for name in os.listdir(out / 'X2') if '.tmp' in name]


@pytest.mark.parametrize('damage', [
    lambda b: b[:len(b) // 2], lambda b: b'', lambda b: b[:300] + b'\0' * 200 + b[500:]],
    ids=['half', 'empty', 'overwritten'])
def test_damaged_newest_checkpoint(damage, train, out, capfd):
    assert train(train_steps=30) == 0
    assert train(train_steps=20, save_every=8) == 0  # checkpoints of steps 16 and 20
    newest = out / 'X2_2' / LAST
    newest.write_bytes(damage(newest.read_bytes()))
    assert train(train_steps=30, ifcontinue=True) == 0
    said = capfd.readouterr()
    assert 'warning: checkpoint skipped' in said.err and str(newest) in said.err
    assert 'RCAN_epoch_last.1.pth (step 16)' in said.out
    assert_equal_state(newest, out / 'X2' / LAST)


def test_all_checkpoints_damaged(train, out, capsys):
    train(train_steps=4, save_every=2)
    for path in (out / 'X2').glob('*.pth'):
        path.write_bytes(b'damaged')
    refused(capsys, train, 'no checkpoint could be loaded', LAST, train_steps=9, ifcontinue=True)


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_signals_save_and_stop(number, train, out, monkeypatch, capsys):
    step, done = main.train_step, []

    def train_step(*arguments):
        done.append(1)
        if len(done) == 7:
            os.kill(os.getpid(), number)
        return step(*arguments)
    monkeypatch.setattr(main, 'train_step', train_step)
    before = signal.getsignal(number)
    assert train(train_steps=20) == 128 + number
    assert signal.getsignal(number) is before
    assert 'stopped after step 7; --ifcontinue' in capsys.readouterr().out
    assert state_of(out / 'X2' / LAST)['step'] == 7
    monkeypatch.undo()
    assert train(train_steps=20, ifcontinue=True) == 0 and train(train_steps=20) == 0
    assert_equal_state(out / 'X2' / LAST, out / 'X2_2' / LAST)


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_exit_status_of_a_stopped_program(number, data, out):
    process = start(sys.executable, '-u', 'main.py',
                    *flags(**dict(TINY, train_dataset_dir=data, outputs_dir=out, train_steps=10**6)))
    while not process.stdout.readline().startswith('epoch='):
        assert process.poll() is None, process.stderr.read()
    process.send_signal(number)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 128 + number and 'Traceback' not in errors
    assert state_of(out / 'X2' / LAST)['step'] > 0


def test_second_run_gets_its_own_folder(train, out):
    for _ in range(3):
        train(train_steps=2)
    assert sorted(os.listdir(out)) == ['X2', 'X2_2', 'X2_3']
    before = (out / 'X2_2' / LAST).read_bytes()
    train(train_steps=4, ifcontinue=True)
    assert state_of(out / 'X2_3' / LAST)['step'] == 4 and (out / 'X2_2' / LAST).read_bytes() == before
    train(train_steps=3, scale=3)
    assert sorted(os.listdir(out)) == ['X2', 'X2_2', 'X2_3', 'X3']


def test_users_files_in_the_folder_stay(train, out):
    (out / 'X2').mkdir(parents=True)
    (out / 'X2' / 'notes.txt').write_text('mine')
    train(train_steps=2)
    assert (out / 'X2' / 'notes.txt').read_text() == 'mine'


def test_resuming_a_finished_run_does_nothing(train, out, capsys):
    train(train_steps=3)
    before = (out / 'X2' / LAST).read_bytes()
    assert train(train_steps=3, ifcontinue=True) == 0
    assert 'nothing left to do' in capsys.readouterr().out and (out / 'X2' / LAST).read_bytes() == before


def test_resuming_from_a_named_checkpoint(train, out, capsys):
    train(train_steps=6, save_every=4)
    assert train(train_steps=9, ifcontinue=True, checkpoint_path='RCAN_epoch_last.1.pth') == 0
    assert '(step 4)' in capsys.readouterr().out
    refused(capsys, train, 'nowhere.pth', train_steps=9, ifcontinue=True, checkpoint_path='nowhere.pth')


def poison(path, value):
    state = state_of(path)
    state['model']['conv1.weight'][0, 0, 0, 0] = value
    torch.save(state, path)
    return path.read_bytes()


def test_nan_loss_stops_with_the_step(train, out, capsys):
    train(train_steps=4)
    before = poison(out / 'X2' / LAST, float('nan'))
    refused(capsys, train, 'step 5', 'nan', '--lr', train_steps=9, ifcontinue=True, save_every=1)
    assert (out / 'X2' / LAST).read_bytes() == before


def test_exploding_loss_stops_and_keeps_the_last_checkpoint(train, out, capsys):
    train(train_steps=4)
    before = (out / 'X2' / LAST).read_bytes()
    text = refused(capsys, train, 'step 6', 'the loss is', 'running mean', train_steps=20, ifcontinue=True, lr=3)
    assert 'nan' not in text and 'inf' not in text  # large, but a number
    assert (out / 'X2' / LAST).read_bytes() == before
    assert train(train_steps=9, ifcontinue=True) == 0  # and it can be gone on from
    assert all(r['loss'] < 200 for r in read_records(out / 'X2' / 'train.jsonl'))


def test_weights_that_a_step_ruined_are_not_saved(train, out, capsys):
    assert train(train_steps=4) == 0
    refused(capsys, train, 'step 5', ifcontinue=True, train_steps=9, lr=1e9, save_every=1)  # 1e9 spoils it in step 5
    assert state_of(out / 'X2' / LAST)['step'] == 4
    assert train(ifcontinue=True, train_steps=5) == 0


def test_resuming_passes_over_a_run_without_checkpoints(train, out):
    assert train(train_steps=2) == 0
    (out / 'X2_2').mkdir()
    (out / 'X2_2' / 'train.jsonl').touch()  # ended before its first checkpoint
    assert train(ifcontinue=True, train_steps=3) == 0
    assert state_of(out / 'X2' / LAST)['step'] == 3


@pytest.mark.parametrize('ifcontinue, made, expected', [
    (False, {}, 'X2'), (False, {'X2': ['notes.txt']}, 'X2'), (False, {'X2': [LAST]}, 'X2_2'),
    (False, {'X2_3': ['train.jsonl']}, 'X2_4'), (False, {'X2': [], 'X2_9': ['model_best.1.pth'], 'X2_10': []}, 'X2_10'),
    (False, {'X3': [LAST], 'X2_1': [LAST], 'X2_test': [LAST]}, 'X2'),
    (True, {'X2': [LAST], 'X2_3': [BEST], 'X2_4': ['train.jsonl']}, 'X2_3'),
    (True, {'X2': ['train.jsonl'], 'X2_10': [LAST], 'X2_9': [LAST]}, 'X2_10'), (True, {'X2': ['train.jsonl']}, None)])
def test_numbers_of_run_folders(ifcontinue, made, expected, tmp_path):
    for folder, names in made.items():
        (tmp_path / folder).mkdir()
        for name in names:
            (tmp_path / folder / name).touch()
    options = SimpleNamespace(outputs_dir=str(tmp_path), scale=2, ifcontinue=ifcontinue, arch='RCAN', amp=False)
    if expected:
        assert training.Run(options).folder == str(tmp_path / expected)
    else:
        with pytest.raises(ValueError, match='no run with RCAN_epoch_last.pth in'):
            training.Run(options)


def test_loss_is_watched_between_log_lines_too(train, capsys):
    refused(capsys, train, 'step 2', 'the loss is', train_steps=30, lr=1e9, log_every=10)


@pytest.mark.parametrize('name, value', [('num_features', 16), ('num_rg', 2), ('style', 'port')])
def test_resuming_with_another_network_is_refused(name, value, train, out, capsys):
    train(train_steps=2)
    before = (out / 'X2' / LAST).read_bytes()
    trained = dict(SIZE, style='paper')[name]
    refused(capsys, train, f'trained with --{name}={trained}, not {value}', train_steps=4, ifcontinue=True,
            **{name: value})
    assert (out / 'X2' / LAST).read_bytes() == before


def test_resuming_from_imported_weights_is_refused_with_the_remedy(train, out, checkpoint, capsys):
    train(train_steps=2)
    shutil.copy(checkpoint, out / 'X2' / 'imported.pth')
    refused(capsys, train, 'not a checkpoint of main.py', '--iffinetuning', train_steps=4, ifcontinue=True,
            checkpoint_path='imported.pth')


@pytest.mark.parametrize('name', [LAST, BEST])
def test_full_disk_keeps_the_earlier_checkpoint(name, train, data, out, monkeypatch, capsys):
    train(num_epochs=1, test_dataset_dir=data)
    before = (out / 'X2' / name).read_bytes()

    def full(state, path):
        with open(path, 'wb') as file:
            file.write(b'half a checkpoint')
        raise RuntimeError('[enforce fail at inline_container.cc] unexpected pos')
    monkeypatch.setattr(torch, 'save', full)
    refused(capsys, train, 'could not be written', 'bytes are free', num_epochs=2, test_dataset_dir=data,
            ifcontinue=True)
    assert (out / 'X2' / name).read_bytes() == before
    assert not [found for found in os.listdir(out / 'X2') if '.tmp' in found]


def test_resuming_from_another_layout_kernel_and_precision(train, out):
    """A checkpoint of an NPU (contiguous), of an older torch (not fused) or in bf16 (no scaler) goes on as ours."""
    train(train_steps=6)
    train(train_steps=3)
    path = out / 'X2_2' / LAST
    state = state_of(path)
    state['optimizer']['param_groups'][0].update(fused=None, foreach=True)
    for moments in state['optimizer']['state'].values():
        moments.update({name: value.contiguous() for name, value in moments.items()})
    torch.save(state, path)
    train(train_steps=6, ifcontinue=True)
    assert_equal_state(path, out / 'X2' / LAST)
    train(train_steps=3, amp=True, amp_dtype='bf16')
    assert train(train_steps=6, amp=True, amp_dtype='fp16', ifcontinue=True) == 0


@pytest.mark.parametrize('killed', [True, False], ids=['killed', 'stopped'])
def test_a_validation_that_a_stop_prevented_is_made_up_for(killed, train, data, out, monkeypatch):
    options = {'train_steps': 30, 'test_dataset_dir': data}
    train(**options)
    if killed:
        monkeypatch.setattr(main, 'evaluate', lambda *_, **__: exec('raise KeyboardInterrupt'))
        with pytest.raises(KeyboardInterrupt):
            train(**options)  # at the end of the first epoch, step 27
    else:
        step = main.train_step
        monkeypatch.setattr(main, 'train_step', lambda *a: (step(*a), os.kill(os.getpid(), signal.SIGTERM))[0])
        for number in range(30):
            assert train(ifcontinue=number > 0 or None, **options) == 128 + signal.SIGTERM
    monkeypatch.undo()
    train(ifcontinue=True, **options)
    assert_equal_state(out / 'X2_2' / LAST, out / 'X2' / LAST)
    assert_equal_state(out / 'X2_2' / BEST, out / 'X2' / BEST)
    assert len(state_of(out / 'X2' / LAST)['ck_performance']) == 2


def test_a_copied_run_goes_on_from_its_last_step(train, data, out, capsys):
    train(train_steps=29, test_dataset_dir=data)
    (out / 'X2' / BEST).write_bytes((out / 'X2' / 'RCAN_epoch_last.1.pth').read_bytes())  # and is now the newest file
    state = dict(state_of(out / 'X2' / BEST), step=27)
    torch.save(state, out / 'X2' / BEST)
    capsys.readouterr()
    train(train_steps=31, ifcontinue=True)
    assert '(step 29)' in capsys.readouterr().out
    for path in (out / 'X2').glob('RCAN_epoch_last*'):
        path.write_bytes(b'damaged')
    train(train_steps=31, ifcontinue=True)
    assert 'model_best.pth (step 27)' in capsys.readouterr().out
