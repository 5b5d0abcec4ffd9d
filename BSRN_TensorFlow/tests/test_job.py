"""A training of two processes as test/train_full_8p.sh starts it: how it ends before its end."""
import os
import re
import signal

import pytest
from conftest import TINY, flags, start, state_of

LAUNCHED = ('dataloader', 'batch_size', 'scales', 'device')  # options of TINY that the launcher takes or gives
SMALL = {name: value for name, value in TINY.items() if name not in LAUNCHED}


def ranks_of(folder):
    """{rank: process id} of the trainings whose command line names the folder, launchers apart."""
    found = {}
    for pid in filter(str.isdigit, os.listdir('/proc')):
        try:
            with open(f'/proc/{pid}/cmdline', 'rb') as file, open(f'/proc/{pid}/environ', 'rb') as variables:
                words, environment = file.read().split(b'\0'), variables.read()
        except OSError:
            continue
        rank = re.search(rb'(?:^|\0)RANK_ID=(\d+)\0', environment)
        if rank and b'python' in words[0] and any(os.fsencode(str(folder)) in word for word in words):
            found[int(rank.group(1))] = int(pid)
    return found


@pytest.fixture
def job(data, tmp_path):
    """The launcher, endless, when a step was trained; ended at the end."""
    out = tmp_path / 'out'
    process = start('bash', 'test/train_full_8p.sh', '--nproc=2', f'--data_path={data}', f'--output_path={out}',
                    '--device=cpu', '--scales=2', '--batch_size=2', '--', *flags(**SMALL), '--valid_set=')
    said = []
    for line in process.stdout:
        said.append(line)
        if line.startswith('step 2,'):
            break
    else:
        pytest.fail(f'no step was trained: {"".join(said)} {process.stderr.read()}')
    yield process
    for pid in ranks_of(out).values():
        os.kill(pid, signal.SIGKILL)
    process.communicate()


def test_a_signal_saves_and_ends_all_ranks(job, tmp_path):
    job.send_signal(signal.SIGTERM)
    output, errors = job.communicate(timeout=60)
    assert job.returncode == 128 + signal.SIGTERM, output + errors
    step = re.search(r'stopped after step (\d+)', output).group(1)
    assert state_of(tmp_path / 'out' / 'X2' / f'model.ckpt-{step}')['progress']['step'] == int(step) > 1
    assert not ranks_of(tmp_path / 'out') and 'has gone' not in output + errors


@pytest.mark.parametrize('killed', [0, 1])
def test_a_killed_rank_ends_the_job(killed, job, tmp_path):
    ranks = ranks_of(tmp_path / 'out')
    assert set(ranks) == {0, 1}
    os.kill(ranks[killed], signal.SIGKILL)
    output, errors = job.communicate(timeout=60)
    line = f'rank {killed} (pid {ranks[killed]}) was killed by signal 9; ending the other ranks'
    assert job.returncode == 128 + signal.SIGKILL and line in output + errors
    assert 'Traceback' not in output + errors and not ranks_of(tmp_path / 'out')
