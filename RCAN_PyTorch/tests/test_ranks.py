"""Several processes: they train as one does, on disjoint patches, and one that dies ends all."""
import os
import re
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import LAST, ROOT, SIZE, TEST_DEVICE_ID, TINY, flags, start, state_of

from common.logs import read_records
from dataset import open_sampler
from model import RCAN


def finish(process, seconds=100):
    """(status, output, errors) of a program, which is ended when it takes longer."""
    try:
        output, errors = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    return process.returncode, output, errors


def living(folder):
    """Process ids of the programs whose command line names the folder."""
    found = []
    for pid in filter(str.isdigit, os.listdir('/proc')):
        try:
            with open(f'/proc/{pid}/cmdline', 'rb') as file:
                if os.fsencode(str(folder)) in file.read():
                    found.append(int(pid))
        except OSError:
            continue
    return found


def test_two_ranks_train_as_one(train, data, out, tmp_path):
    options = dict(TINY, train_dataset_dir=data, train_steps=5, lr=1e-3)
    ranks = start(sys.executable, 'main.py', *flags(outputs_dir=tmp_path / 'two', multiprocessing_distributed=True,
                                                    device_list='0,1', **options))
    assert train(train_steps=5, lr=1e-3) == 0
    status, output, errors = finish(ranks)
    assert status == 0, errors
    assert '2 process(es)' in output and (tmp_path / 'two' / 'X2' / 'RCAN_bs4_2p_acc.log').exists()
    one, two = state_of(out / 'X2' / LAST), state_of(tmp_path / 'two' / 'X2' / LAST)
    for name, value in one['model'].items():
        assert torch.allclose(two['model'][name], value, rtol=0, atol=1e-6), name
    torch.manual_seed(123)
    moved = max((value - one['model'][name]).abs().max() for name, value in RCAN(**SIZE).state_dict().items())
    assert moved > 3e-3  # five steps of 1e-3: the comparison is not of untouched weights
    losses = [[r['loss'] for r in read_records(path / 'X2' / 'train.jsonl')] for path in (out, tmp_path / 'two')]
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-5)  # the mean over both ranks
    assert os.listdir(tmp_path / 'two') == ['X2']


def test_ranks_see_disjoint_patches_that_make_up_the_batch(data, tmp_path):
    def sampler(rank, world_size):
        options = SimpleNamespace(train_dataset_dir=str(data), scale=2, cache_dir=str(tmp_path), patch_size=8,
                                  batch_size=8, seed=3)
        return open_sampler(options, SimpleNamespace(rank=rank, world_size=world_size))
    whole, parts = sampler(0, 1), [sampler(rank, 4) for rank in range(4)]
    for step in (0, 1, 30):
        for ours, theirs in zip(zip(*(part.batch(step) for part in parts)), whole.batch(step)):
            assert all(len(part) == 2 for part in ours)
            assert np.array_equal(np.concatenate(ours), theirs)
        patches = {patch.tobytes() for patch in whole.batch(step)[1]}
        assert len(patches) == 8  # of photographs: no two crops are equal, so no rank sees another's
    with pytest.raises(ValueError, match='batch_size 8 .* world_size 3'):
        sampler(0, 3)


@pytest.fixture
def launched(data, tmp_path):
    """train_full_8p.sh on two processes of the CPU, endless; ended at the end."""
    more = flags(**SIZE, patch_size=8, workers=1, log_every=5)
    process = start('bash', 'test/train_full_8p.sh', '--device=cpu', '--nproc=2', f'--data_path={data}',
                    f'--output_path={tmp_path / "out"}', '--batch_size=4', '--train_steps=1000000', '--precision=fp32',
                    '--', *more, STOP_GRACE='10')
    yield process
    for pid in living(tmp_path / 'out'):
        os.kill(pid, signal.SIGKILL)
    process.communicate()


def wait_for_training(process):
    for line in process.stdout:
        if line.startswith('epoch='):
            return
    pytest.fail(f'no step was trained: {process.stderr.read()}')


def test_train_full_8p_trains_and_a_signal_saves(launched, tmp_path):
    wait_for_training(launched)
    launched.send_signal(signal.SIGTERM)
    status, output, _ = finish(launched, 60)
    assert status == 128 + signal.SIGTERM
    assert state_of(tmp_path / 'out' / 'X2' / LAST)['step'] > 0, output
    assert 'stopped after step' in output
    assert not living(tmp_path / 'out')


def test_a_killed_rank_ends_the_job(launched, tmp_path):
    wait_for_training(launched)
    ranks = {}
    for pid in living(tmp_path / 'out'):
        with open(f'/proc/{pid}/environ', 'rb') as file:
            rank = re.search(rb'(?:^|\0)RANK=(\d+)\0', file.read())
        if rank:
            ranks[int(rank[1])] = pid
    assert set(ranks) == {0, 1}
    killed = time.time()
    os.kill(ranks[1], signal.SIGKILL)
    status, output, errors = finish(launched, 60)
    assert status not in (0, None) and time.time() - killed < 60
    said = output + errors
    assert f'error: rank 1 (pid {ranks[1]}) was killed by signal 9; the other ranks were ended' in said
    assert not living(tmp_path / 'out')
    log = (ROOT / 'test' / 'output' / TEST_DEVICE_ID / f'train_{TEST_DEVICE_ID}.log').read_text()
    assert 'was killed by signal 9' in log
