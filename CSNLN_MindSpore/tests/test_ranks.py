"""Several processes: they train as one does, and one that dies ends all."""
import os
import signal
import subprocess
import time

import numpy as np
import pytest
from conftest import LAST, TINY, flags, start, state_of

from common.logs import read_records

LAUNCHED = ('batch_size', 'test_every', 'device', 'patch_size')  # options of TINY that the launcher takes
SMALL = {name: value for name, value in TINY.items() if name not in LAUNCHED}


def finish(process, seconds=120):
    """(status, output, errors) of a program, which is ended when it takes longer."""
    try:
        output, errors = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.terminate()
        process.communicate()
        raise
    return process.returncode, output, errors


def ranks_of(folder):
    """{rank: process id} of the programs whose command line names the folder, launchers apart."""
    found = {}
    for pid in filter(str.isdigit, os.listdir('/proc')):
        try:
            with open(f'/proc/{pid}/cmdline', 'rb') as file, open(f'/proc/{pid}/environ', 'rb') as variables:
                words = file.read().split(b'\0')
                environment = dict(item.split(b'=', 1) for item in variables.read().split(b'\0') if b'=' in item)
        except OSError:
            continue
        if b'python' in words[0] and any(os.fsencode(str(folder)) in word for word in words):
            found[int(environment[b'RANK'])] = int(pid)
    return found


def launch(script, data, out, **more):
    return start('bash', *script, f'--data_path={data}', '--device=cpu', f'--save={out}', '--batch_size=2',
                 '--test_every=18', '--patch_size=24', '--lr=1e-3', *flags(**more), '--', *flags(**SMALL),
                 '--data_test=')


def test_two_ranks_train_as_one_with_the_double_batch(train, data, out, tmp_path):
    ranks = launch(('scripts/run_train_gpu.sh', '2'), data, tmp_path / 'two', train_steps=5)
    assert train(train_steps=5, lr=1e-3) == 0
    status, output, errors = finish(ranks)
    assert status == 0, output + errors
    assert '2 process(es)' in output and 'Final Performance images/sec' in output
    one, two = state_of(out / 'X2' / LAST), state_of(tmp_path / 'two' / 'X2' / LAST)
    for name in one:
        if isinstance(one[name], np.ndarray):
            np.testing.assert_allclose(two[name], one[name], rtol=0, atol=1e-5, err_msg=name)
    losses = [[record['loss'] for record in read_records(path / 'X2' / 'train.jsonl')]
              for path in (out, tmp_path / 'two')]
    assert len(losses[0]) == 5 and losses[0][4] < losses[0][0]  # the comparison is not of untouched weights
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-4)  # the mean over both ranks
    assert os.listdir(tmp_path / 'two') == ['X2']


@pytest.fixture
def launched(data, tmp_path):
    """train_full_8p.sh on two processes of the CPU, endless; ended at the end."""
    process = launch(('test/train_full_8p.sh', '--nproc=2'), data, tmp_path / 'out', train_steps=1000000)
    yield process
    for pid in ranks_of(tmp_path / 'out').values():
        os.kill(pid, signal.SIGKILL)
    process.communicate()


def test_a_killed_rank_ends_the_job(launched, tmp_path):
    said = []
    for line in launched.stdout:
        said.append(line)
        if line.startswith('epoch='):
            break
    else:
        pytest.fail(f'no step was trained: {"".join(said)} {launched.stderr.read()}')
    ranks = ranks_of(tmp_path / 'out')
    assert set(ranks) == {0, 1}
    killed = time.time()
    os.kill(ranks[1], signal.SIGKILL)
    status, output, errors = finish(launched, 60)
    assert status == 128 + signal.SIGKILL and time.time() - killed < 30
    assert f'rank 1 (pid {ranks[1]}) was killed by signal 9; ending the other ranks' in output + errors
    assert not ranks_of(tmp_path / 'out')
