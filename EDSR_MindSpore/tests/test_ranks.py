"""Several processes: they train as one does, on disjoint patches, and one that dies ends all."""
import json
import os
import re
import signal
import subprocess
import time
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import LAST, ROOT, TEST_DEVICE_ID, TINY, flags, start, state_of

from common.logs import read_records
from src.context import Device
from src.data.srdata import open_sampler

LAUNCHED = ('batch_size', 'test_every', 'device', 'patch_size')  # options of TINY that the launcher takes
SMALL = {name: value for name, value in TINY.items() if name not in LAUNCHED}


def finish(process, seconds=180):
    """(status, output, errors) of a program, which is ended when it takes longer."""
    try:
        output, errors = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.terminate()
        process.communicate()
        raise
    return process.returncode, output, errors


def living(folder):
    """{process id: its environment} of the programs whose command line names the folder, launchers apart, and of their
    scheduler.
    """
    found = {}
    for pid in filter(str.isdigit, os.listdir('/proc')):
        try:
            with open(f'/proc/{pid}/cmdline', 'rb') as file, open(f'/proc/{pid}/environ', 'rb') as variables:
                words = file.read().split(b'\0')
                environment = dict(item.split(b'=', 1) for item in variables.read().split(b'\0') if b'=' in item)
        except OSError:
            continue
        if b'python' in words[0] and any(os.fsencode(str(folder)) in word for word in words):
            found[int(pid)] = environment
    return found


def schedulers(port):
    """Process ids of the schedulers that listen at that port."""
    found = []
    for pid in filter(str.isdigit, os.listdir('/proc')):
        try:
            with open(f'/proc/{pid}/cmdline', 'rb') as file, open(f'/proc/{pid}/environ', 'rb') as variables:
                if b'common.ms.devices' in file.read() and b'MS_SCHED_PORT=' + port in variables.read():
                    found.append(int(pid))
        except OSError:
            continue
    return found


def launch(data, out, script='test/train_full_8p.sh', words=(), **more):
    return start('bash', script, *(words or ('--nproc=2', f'--data_path={data}')), '--device=cpu',
                 f'--output_path={out}', '--batch_size=2', '--test_every=18', '--patch_size=24', '--lr=1e-3',
                 *flags(**more), '--', *flags(**SMALL), '--data_test=')


def test_two_ranks_train_as_one(train, data, out, tmp_path):
    """Under script/run_ascend_distribute.sh, with a rank table of two devices."""
    devices = [{'device_id': str(i), 'device_ip': '192.1.2.3', 'rank_id': str(i)} for i in range(2)]
    (tmp_path / 'table.json').write_text(json.dumps({'server_list': [{'server_id': '10.0.0.1', 'device': devices}]}))
    ranks = launch(data, tmp_path / 'two', 'script/run_ascend_distribute.sh', (tmp_path / 'table.json', data),
                   train_steps=5)
    assert train(train_steps=5, lr=1e-3) == 0
    status, output, errors = finish(ranks)
    assert status == 0, output + errors
    assert '2 process(es)' in output and 'Final Performance images/sec' in output
    one, two = state_of(out / 'X2' / LAST), state_of(tmp_path / 'two' / 'X2' / LAST)
    for name in one:
        if isinstance(one[name], np.ndarray) and name != 'learning_rate':
            np.testing.assert_allclose(two[name], one[name], rtol=0, atol=1e-6 if 'moment' not in name else 1e-3,
                                       err_msg=name)
    losses = [[record['loss'] for record in read_records(path / 'X2' / 'train.jsonl')]
              for path in (out, tmp_path / 'two')]
    assert len(losses[0]) == 5 and losses[0][4] < losses[0][0]  # the comparison is not of untouched weights
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-5)  # the mean over both ranks
    assert os.listdir(tmp_path / 'two') == ['X2']


def test_ranks_see_disjoint_patches_that_make_up_the_batch(data, tmp_path):
    def sampler(rank, world_size):
        options = SimpleNamespace(dir_data=str(data), data_train=['DIV2K'], data_range=[[1, 800]], scale=2, ext='sep',
                                  cache_dir=str(tmp_path), patch_size=16, batch_size=8 // world_size, seed=3,
                                  test_every=4 * world_size, no_augment=False, workers=1)
        return open_sampler(options, Device('cpu', rank, world_size))
    (whole, steps), parts = sampler(0, 1), [sampler(rank, 4) for rank in range(4)]
    assert {part_steps for _, part_steps in parts} == {steps}
    for step in (0, 1, 30):
        for ours, theirs in zip(zip(*(part.batch(step) for part, _ in parts)), whole.batch(step)):
            assert all(len(part) == 2 for part in ours)
            assert np.array_equal(np.concatenate(ours), theirs)
        patches = {patch.tobytes() for patch in whole.batch(step)[1]}
        assert len(patches) == 8  # of photographs: no two crops are equal, so no rank sees another's


@pytest.fixture
def launched(data, tmp_path):
    """train_full_8p.sh on two processes of the CPU, endless; ended at the end."""
    process = launch(data, tmp_path / 'out', train_steps=1000000)
    yield process
    for pid in living(tmp_path / 'out'):
        os.kill(pid, signal.SIGKILL)
    process.communicate()


def wait_for_training(process):
    said = []
    for line in process.stdout:
        said.append(line)
        if line.startswith('epoch='):
            return
    pytest.fail(f'no step was trained: {"".join(said)} {process.stderr.read()}')


def test_a_signal_saves_on_all_ranks(launched, tmp_path):
    wait_for_training(launched)
    port = next(iter(living(tmp_path / 'out').values()))[b'MASTER_PORT']
    launched.send_signal(signal.SIGTERM)
    status, output, errors = finish(launched, 60)
    assert status == 128 + signal.SIGTERM, output + errors
    assert 'stopped after step' in output
    assert state_of(tmp_path / 'out' / 'X2' / LAST)['progress']['step'] > 0
    assert not living(tmp_path / 'out') and not schedulers(port)


def test_a_killed_rank_ends_the_job(launched, tmp_path):
    wait_for_training(launched)
    ranks = {int(variables[b'RANK']): pid for pid, variables in living(tmp_path / 'out').items()}
    assert set(ranks) == {0, 1}
    killed = time.time()
    os.kill(ranks[1], signal.SIGKILL)
    status, output, errors = finish(launched, 60)
    assert status == 128 + signal.SIGKILL and time.time() - killed < 30
    said = output + errors
    assert f'rank 1 (pid {ranks[1]}) was killed by signal 9; ending the other ranks' in said
    assert not living(tmp_path / 'out')
    log = (ROOT / 'test' / 'output' / TEST_DEVICE_ID / f'train_{TEST_DEVICE_ID}.log').read_text()
    assert re.search('rank 1 .* was killed by signal 9', log)
