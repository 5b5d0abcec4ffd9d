"""common/runs.py: numbers of runs, losses that stop a training, speed without pauses, signals as wishes."""
import os
import signal
import types

import pytest

from common import runs


def run_in(folder, resume=''):
    return runs.Run(str(folder / 'X2'), 'last.ckpt', 'best.ckpt', resume)


@pytest.mark.parametrize('resume, made, expected', [
    ('', {}, 'X2'), ('', {'X2': ['notes.txt']}, 'X2'), ('', {'X2': ['last.ckpt']}, 'X2_2'),
    ('', {'X2_3': ['train.jsonl']}, 'X2_4'), ('', {'X2': [], 'X2_9': ['best.1.ckpt'], 'X2_10': []}, 'X2_10'),
    ('', {'X3': ['last.ckpt'], 'X2_1': ['last.ckpt'], 'X2_old': ['last.ckpt'], 'X2_02': ['last.ckpt']}, 'X2'),
    ('--resume', {'X2': ['last.ckpt'], 'X2_3': ['best.ckpt'], 'X2_4': ['train.jsonl']}, 'X2_3'),
    ('--resume', {'X2': ['train.jsonl'], 'X2_10': ['last.1.ckpt'], 'X2_9': ['last.ckpt']}, 'X2_10'),
    ('--resume', {'X2': ['train.jsonl']}, None), ('--resume', {}, None)])
def test_numbers_of_runs(resume, made, expected, tmp_path):
    for folder, names in made.items():
        (tmp_path / folder).mkdir()
        for name in names:
            (tmp_path / folder / name).touch()
    if expected:
        assert run_in(tmp_path, resume).folder == str(tmp_path / expected)
    else:
        with pytest.raises(ValueError, match='--resume: no run with last.ckpt in .*X2; to start a run, leave it out'):
            run_in(tmp_path, resume)


def test_runs_that_start_together_get_folders_of_their_own(tmp_path):
    first, second = run_in(tmp_path), run_in(tmp_path)
    first.claim()
    second.claim()
    assert [first.folder, second.folder] == [str(tmp_path / 'X2'), str(tmp_path / 'X2_2')]
    assert first.last == str(tmp_path / 'X2' / 'last.ckpt') and second.best == str(tmp_path / 'X2_2' / 'best.ckpt')


def test_a_base_with_a_slash_and_one_without_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for base in ('./train/', 'train'):
        runs.Run(base, 'last.ckpt', 'best.ckpt').claim()
    assert sorted(os.listdir(str(tmp_path))) == ['train', 'train_2']


def test_the_newest_checkpoint_that_loads(tmp_path, capsys):
    run = run_in(tmp_path)
    run.claim()

    def load(path):
        with open(path) as file:
            return int(file.read())
    with pytest.raises(OSError):
        run.newest(load)
    for name, text in (('best.ckpt', '1'), ('last.ckpt', 'damaged'), ('last.1.ckpt', '2')):
        (tmp_path / 'X2' / name).write_text(text)
    assert run.newest(load) == (str(tmp_path / 'X2' / 'last.1.ckpt'), 2)
    (tmp_path / 'X2' / 'last.1.ckpt').write_text('damaged')
    assert run.newest(load) == (run.best, 1)
    assert 'checkpoint skipped' in capsys.readouterr().err


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still until it is set."""
    now = types.SimpleNamespace(now=0.0)
    monkeypatch.setattr(runs.time, 'perf_counter', lambda: now.now)
    return now


def test_speed_and_waiting_without_pauses(clock):
    batches = types.SimpleNamespace(waited=0.0)
    meter = runs.Meter(batches, 8, '')
    for seconds, loss in ((50.0, 4.0), (1.0, 2.0)):
        for step in (1, 2):
            clock.now += seconds
            meter.count(step, loss + step)
        with meter.pause():
            clock.now += 1000
        batches.waited += seconds / 5
        assert meter.read() == pytest.approx({'loss': loss + 1.5, 'images/sec': 8 / seconds, 'data_wait': 0.1})
    assert meter.seconds_per_step == pytest.approx(1)  # without the first reading


@pytest.mark.parametrize('at_once', [True, False])
@pytest.mark.parametrize('value', [float('nan'), float('inf'), 1200.0])
def test_losses_that_stop_a_training(value, at_once):
    meter = runs.Meter(types.SimpleNamespace(waited=0), 1, 'Try less.', at_once)
    meter.count(1, 1.5)
    meter.check(1, 99.0)  # less than 100 times the mean, which it raises to 11.25
    with pytest.raises(ValueError, match=f'step 2: the loss is {value:g}, its running mean was 11.25; .* Try less.'):
        meter.count(2, value)
        assert not at_once
        meter.read()


def test_what_checkpoints_check_is_no_part_of_the_mean():
    meter = runs.Meter(types.SimpleNamespace(waited=0), 1, '')
    meter.count(1, 2.0)
    meter.check(1, 9.0)
    assert meter.read()['loss'] == 2.0


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_a_wish_and_the_second_one_an_order(number):
    before = signal.getsignal(number)
    with runs.StopRequest() as stop:
        assert stop.asked == 0
        os.kill(os.getpid(), number)
        assert stop.asked == number
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
    assert signal.getsignal(number) is before and runs.StopRequest().asked == 0
