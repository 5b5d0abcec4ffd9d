"""Runs that stop and go on: bit for bit, after kill -9, from damaged checkpoints; what cannot be gone on from."""
import os
import shutil
import sys
import time

import numpy as np
import pytest
from conftest import BEST, LAST, OF_TRAINED, SIZE, TINY, flags, refused, start, state_of

from common.logs import read_records


def assert_equal_state(found, expected):
    """Weights, moments, counters and progress are equal bit for bit."""
    found, expected = state_of(found), state_of(expected)
    assert set(found) == set(expected) and len(found) > 40
    assert found.pop('progress') == expected.pop('progress')
    assert all(np.array_equal(found[name], expected[name]) for name in found if name != 'options')


def losses(path):
    return [(r['step'], r['loss'], r['learning_rate']) for r in read_records(path / 'train.jsonl')]


def test_resuming_is_exact(trained, train, out):
    """Two epochs and then two more, with a validation after each and a rate that is halved, are four in one go."""
    assert train(**dict(OF_TRAINED, epochs=2)) == 0
    assert state_of(out / 'X2' / LAST)['global_step'] == 18
    assert train(**dict(OF_TRAINED, workers=3), resume=True) == 0
    for name in (LAST, BEST, 'model_4.ckpt'):
        assert_equal_state(out / 'X2' / name, trained / name)
    assert losses(out / 'X2') == losses(trained) and len(losses(trained)) == 36
    assert sorted(path.name for path in (out / 'X2').glob('model_?.ckpt')) == ['model_3.ckpt', 'model_4.ckpt']


def test_resuming_after_kill_9(train, data, out):
    options = dict(TINY, scale=3, patch_size=18)
    process = start(sys.executable, 'train.py', *flags(**options, data_path=data, data_test='', save=out, save_every=5,
                                                       train_steps=10**6))
    deadline = time.time() + 100
    while not (out / 'X3' / 'model_latest.1.ckpt').exists() and time.time() < deadline:
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.02)
    process.kill()
    process.communicate()
    step = state_of(out / 'X3' / LAST)['progress']['step']
    assert train(**options, train_steps=step + 10, resume=True) == 0
    assert train(**options, train_steps=step + 10) == 0
    assert_equal_state(out / 'X3' / LAST, out / 'X3_2' / LAST)
    assert not [name for name in os.listdir(out / 'X3') if '.tmp' in name]


def test_a_damaged_checkpoint_is_passed_over(trained, train, out, capfd):
    shutil.copytree(trained, out / 'X2')
    newest = out / 'X2' / LAST
    newest.write_bytes(newest.read_bytes()[:5000])
    assert train(**OF_TRAINED, resume=True) == 0
    said = capfd.readouterr()
    assert 'warning: checkpoint skipped' in said.err and str(newest) in said.err
    assert 'model_latest.1.ckpt (step 36)' in said.out
    assert_equal_state(newest, trained / LAST)


def test_what_changes_is_said_and_another_network_is_refused(trained, train, out, capsys):
    shutil.copytree(trained, out / 'X2')
    before = (out / 'X2' / LAST).read_bytes()
    for name, value in (('n_feats', 16), ('depth', 2), ('rgb_range', 255.0), ('compat', 'port')):
        now = dict(SIZE, rgb_range=1.0, compat='paper')[name]
        refused(capsys, train, f'trained with --{name}={now}, not {value}', resume=True, **{name: value})
    assert train(**dict(OF_TRAINED, lr=2e-3), resume=True, batch_size=2, beta1=0.8, train_steps=36) == 0
    said = capsys.readouterr().out
    assert 'warning: --batch_size was 4, is 2: other patches follow' in said and 'nothing left to do' in said
    for warning in ('--lr_init was 0.004, is 0.002', '--beta1 was 0.9, is 0.8'):
        assert f'warning: {warning}: the recipe changes' in said
    assert (out / 'X2' / LAST).read_bytes() == before


@pytest.mark.parametrize('given, words', [({}, 'no checkpoint could be loaded'), ({'scale': 3}, 'no run with')])
def test_what_cannot_be_resumed(given, words, train, out, checkpoint, capsys):
    (out / 'X2').mkdir(parents=True)
    shutil.copy(checkpoint, out / 'X2' / LAST)
    text = refused(capsys, train, words, resume=True, patch_size=36, train_steps=9, **given)
    assert given or ('not a checkpoint of train.py' in text and '--pre_trained' in text)
