"""Runs that stop and go on: exact resumption, signals, damaged checkpoints, losses and offsets that explode."""
import re
import shutil
import signal
import sys

import numpy as np
import pytest
from conftest import TINY, configure, refused, start, state_of, words

from ascendvsr.guard import Guard
from ascendvsr.learning import Model
from ascendvsr.models import checkpoint as files
from common.logs import read_records
from common.runs import Explosion
from common.tf.checkpoint import numbered

STEPS = 'solver__lr_schedule__total_steps'
EXACT = {'solver__checkpoint_interval': 3, 'solver__ema': 0.9, 'solver__tsa_steps': 2,
         'solver__lr_schedule__restart_weights': '1,0.5', 'data__noise__noise_type': 'gaussian'}


def assert_equal_state(found, expected):
    """Weights, their means, the optimizers' state are equal bit for bit, and so is the progress."""
    found, expected = state_of(found), state_of(expected)
    assert set(found['arrays']) == set(expected['arrays']) and {'beta1_power', 'beta1_power_1'} < set(found['arrays'])
    for name, value in expected['arrays'].items():
        assert np.array_equal(found['arrays'][name], value), name
    assert found['progress'] == expected['progress']


def losses(folder):
    return [(r['step'], r['loss'], r['learning_rate'], r['offset']) for r in read_records(folder / 'train.jsonl')]


def test_resuming_is_exact(train, out):
    """Across the end of TSA alone and of a period, in the middle of an epoch, with validation, by another number of
    threads.
    """
    keys = dict(EXACT, solver__eval_interval=4, solver__eval_frames=1, **{STEPS: '5,4'})
    assert train(**keys) == 0
    one, two = out / 'edvr', out / 'edvr_2'
    two.mkdir()
    for path in one.glob('EDVR-3.*'):
        shutil.copy(str(path), str(two))
    assert train(continue_training=True, data__num_threads=3, **keys) == 0
    for name in ('EDVR-9', 'EDVR-best'):
        assert_equal_state(two / name, one / name)
    assert losses(one)[3:] == losses(two) and len(losses(one)) == 9
    assert [number for number, _ in numbered(str(one), files.STEM)] == [9, 8, 6, 4, 3]


@pytest.fixture
def running(reds, out):
    """The program, without an end, when its fourth step is done; ended at the end."""
    keys = dict(TINY, data__data_dir=reds, output_dir=out / 'edvr', **dict(EXACT, **{STEPS: '5,1000000'}))
    process = start(sys.executable, 'tools/main.py', *words(keys))
    for line in process.stdout:
        if ' Step:4,' in line:
            break
    else:
        pytest.fail(process.stderr.read())
    yield process
    process.kill()
    process.communicate()


def test_resuming_after_kill_9(running, train, out, capsys):
    running.kill()
    running.communicate()
    step, newest = numbered(str(out / 'edvr'), files.STEM)[0]
    for ending in ('.index', '.json', '.data-00000-of-00001'):  # a later one that is damaged, and one without an index
        shutil.copy(newest + ending, str(out / 'edvr' / f'EDVR-9999998{ending}'))
    with open(str(out / 'edvr' / 'EDVR-9999998.data-00000-of-00001'), 'r+b') as file:
        file.truncate(1000)
    (out / 'edvr' / 'EDVR-9999999.data-00000-of-00001').write_bytes(b'its index is not there')
    (out / 'edvr' / f'.EDVR-9999999.data-00000-of-{running.pid}.tmp00001').write_bytes(b'what was written of it')
    assert train(continue_training=True, **dict(EXACT, **{STEPS: f'5,{step}'})) == 0
    said = capsys.readouterr()
    assert f'train from {newest} (step {step})' in said.out and 'warning: checkpoint skipped' in said.err
    assert f"warning: solver.lr_schedule.total_steps was [5, 1000000], is [5, {step}]: the recipe changes" in said.out
    assert state_of(out / 'edvr' / f'EDVR-{step + 5}')['progress']['step'] == step + 5


def test_a_signal_saves(running, out):
    running.send_signal(signal.SIGTERM)
    output, errors = running.communicate(timeout=60)
    assert running.returncode == 128 + signal.SIGTERM and 'Traceback' not in errors
    step = int(re.search(r'stopped after step (\d+); continue_training True goes on from there', output).group(1))
    assert numbered(str(out / 'edvr'), files.STEM)[0][0] == step >= 4
    assert state_of(out / 'edvr' / f'EDVR-{step}')['progress']['step'] == step


def test_what_cannot_be_resumed(train, out, checkpoint, capsys):
    refused(capsys, train, 'continue_training True: no run with EDVR-STEP', continue_training=True)
    assert train(**{STEPS: 1}) == 0
    for keys, said in (({'edvr__mid_channels': 16}, 'was trained with mid_channels 8, not 16'),
                       ({'edvr__compat': 'port'}, 'was trained with compat paper, not port'),
                       ({'solver__optimizer__type': 'Momentum', STEPS: 2}, '/Momentum')):
        refused(capsys, train, said, continue_training=True, **keys)
    assert train(continue_training=True, **{STEPS: 1}) == 0
    assert 'nothing left to do: the run is at step 1 of 1' in capsys.readouterr().out


@pytest.fixture
def exploding(monkeypatch):
    """exploding(at, **what): the at-th, ... steps give these values; returns the list of the rates of all steps."""
    def explode(*at, **what):
        rates, train = [], Model.train

        def step(self, lr, hr, rate, *more):
            loss, offset, asked = train(self, lr, hr, rate, *more)
            rates.append(rate)
            exploded = what if len(rates) in at else {}
            return exploded.get('loss', loss), exploded.get('offset', offset), asked
        monkeypatch.setattr(Model, 'train', step)
        return rates
    return explode


ROLLBACK = {STEPS: 6, 'solver__checkpoint_interval': 2, 'solver__on_explosion': 'rollback'}


def test_rollback(exploding, train, out, capsys):
    """Back to the last checkpoint, whose notes say so at once, with half the learning rate from there on."""
    rates = exploding(4, loss=float('nan'))
    assert train(**ROLLBACK) == 0
    run = out / 'edvr'
    assert 'warning: step 4: the loss is nan' in capsys.readouterr().out
    assert rates[4:6] == pytest.approx([rate / 2 for rate in rates[2:4]]) and len(rates) == 8
    assert [state_of(run / f'EDVR-{step}')['progress']['rollbacks'] for step in (2, 4, 6)] == [1, 1, 1]
    record, = read_records(run / 'train.jsonl', 'rollback')
    assert (record['step'], record['rollbacks']) == (2, 1)
    expected = state_of(run / 'EDVR-6')['arrays']
    for path in [*run.glob('EDVR-4.*'), *run.glob('EDVR-6.*')]:  # as if killed right after the rollback
        path.unlink()
    assert train(continue_training=True, **ROLLBACK) == 0
    found = state_of(run / 'EDVR-6')
    assert all(np.array_equal(found['arrays'][name], value) for name, value in expected.items())


def test_rollbacks_end(exploding, train, out, capsys):
    rates = exploding(4, 6, 8, 10, offset=1e6)
    refused(capsys, train, 'step 4: the mean offset of a deformable convolution is 1e+06 pixels', 'after 3 rollbacks',
            f'The last good checkpoint is {out / "edvr" / "EDVR-2"}. A smaller solver.lr_schedule.base_lr', **ROLLBACK)
    assert len(rates) == 10 and rates[9] == pytest.approx(rates[3] / 8)
    assert not (out / 'edvr' / 'EDVR-4.index').exists()


def test_an_explosion_stops(train, out, capsys):
    """By itself, at a learning rate that is far too high; what it ruined is not saved."""
    refused(capsys, train, 'step ', '; stopped. The last good checkpoint is not there yet. A smaller',
            **{STEPS: 40, 'solver__lr_schedule__base_lr': 1e3, 'solver__checkpoint_interval': 1})
    assert not list((out / 'edvr').glob('*.index'))


class Batches:
    waited = 0.0


def test_the_guard_of_the_offsets():
    said = []
    guard = Guard(Batches, 4, configure(solver__offset_warning=50, solver__offset_limit=1000).solver, said.append)
    for step, offset in enumerate((1, 50, 60, 70), 1):
        guard.count(step, 0.5, offset)
    assert said == ['warning: step 3: the mean offset of a deformable convolution is 60.0 pixels, more than '
                    'solver.offset_warning 50: the alignment may be failing']
    assert guard.read()['offset'] == 70
    guard.count(5, 0.5, 80)
    assert len(said) == 2 and guard.read()['offset'] == 80
    for offset in (1001, float('nan')):
        with pytest.raises(Explosion, match='step 6: the mean offset of a deformable convolution is'):
            guard.count(6, 0.5, offset)
    for look in ({'loss': float('inf'), 'offset': 1}, {'loss': 0.5, 'offset': 2000}, {'loss': 500, 'offset': 1}):
        with pytest.raises(Explosion, match='step 7: '):
            guard.check_weights(7, look)
