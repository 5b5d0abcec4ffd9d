"""Several ranks as test/train_full_8p.sh starts them: they train as one does, and how they end before their end."""
import os
import re
import signal
import time

import numpy as np
import pytest
from conftest import TINY, start, state_of, words

from common.logs import read_records

KEYS = {key: value for key, value in TINY.items() if key not in ('device', 'data.train_batch_size')}
STEPS = 'solver.lr_schedule.total_steps'


def launch(reds, out, *more, **keys):
    return start('bash', 'test/train_full_8p.sh', '--nproc=2', f'--data_path={reds}', f'--output_path={out}',
                 '--device=cpu', '--batch_size=2', *more, '--', *words(dict(KEYS, **keys)))


def test_two_ranks_train_as_one_with_the_double_batch(reds, train, out, tmp_path):
    """Weights, running means and losses; windows, crops, flips and noise; the step at which TSA is joined."""
    keys = {'solver__ema': 0.9, 'solver__tsa_steps': 1, 'data__noise__noise_type': 'speckle',
            'solver__optimizer__epsilon': 1e-2, 'edvr__loss_type': 'l2'}
    process = launch(reds, tmp_path / 'two', '--train_steps=4', **keys)
    output, errors = process.communicate(timeout=180)
    assert process.returncode == 0, output + errors
    assert '2 process(es); from step 0 to 4' in output
    assert train(data__train_batch_size=4, **dict(keys, **{STEPS: 4})) == 0
    folders = out / 'edvr', tmp_path / 'two' / 'edvr'
    one, two = ([record['loss'] for record in read_records(folder / 'train.jsonl')] for folder in folders)
    assert len(one) == 4 and two == pytest.approx(one, rel=1e-4)
    one, two = (state_of(folder / 'EDVR-4')['arrays'] for folder in folders)
    assert set(one) == set(two)
    for name, value in one.items():
        np.testing.assert_allclose(two[name], value, rtol=1e-3, atol=2e-5, err_msg=name)


def ranks_of(folder):
    """{rank: process id} of the trainings whose command line names the folder, launchers apart."""
    found = {}
    for pid in filter(str.isdigit, os.listdir('/proc')):
        try:
            with open(f'/proc/{pid}/cmdline', 'rb') as file, open(f'/proc/{pid}/environ', 'rb') as variables:
                command, environment = file.read().split(b'\0'), variables.read()
        except OSError:
            continue
        rank = re.search(rb'(?:^|\0)RANK_ID=(\d+)\0', environment)
        if rank and b'python' in command[0] and any(os.fsencode(str(folder)) in word for word in command):
            found[int(rank.group(1))] = int(pid)
    return found


@pytest.fixture
def job(reds, out):
    """Two ranks without an end, when two steps are done; ended at the end."""
    process = launch(reds, out, '--train_steps=1000000')
    said = []
    for line in process.stdout:
        said.append(line)
        if ' Step:2,' in line:
            break
    else:
        pytest.fail(f'no step was trained: {"".join(said)} {process.stderr.read()}')
    yield process
    for pid in ranks_of(out).values():
        os.kill(pid, signal.SIGKILL)
    process.communicate()


def test_a_signal_saves_and_ends_all_ranks(job, out):
    job.send_signal(signal.SIGTERM)
    output, errors = job.communicate(timeout=60)
    assert job.returncode == 128 + signal.SIGTERM, output + errors
    step = re.search(r'stopped after step (\d+)', output).group(1)
    assert state_of(out / 'edvr' / f'EDVR-{step}')['progress']['step'] == int(step) > 1
    assert not ranks_of(out) and 'has gone' not in output + errors


def test_a_killed_rank_ends_the_job_in_a_minute(job, out):
    ranks, began, killed = ranks_of(out), time.time(), 1  # BSRN's tests kill rank 0 of the same common/tf/ranks.py
    assert set(ranks) == {0, 1}
    os.kill(ranks[killed], signal.SIGKILL)
    output, errors = job.communicate(timeout=60)
    assert job.returncode == 128 + signal.SIGKILL and time.time() - began < 60
    assert f'rank {killed} (pid {ranks[killed]}) was killed by signal 9; ending the other ranks' in output
    assert 'Traceback' not in output + errors and not ranks_of(out)
