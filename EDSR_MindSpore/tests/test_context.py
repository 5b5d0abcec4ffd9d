"""The device file: what it chooses, how ranks find each other; the NPU's branches with recorded stand-ins."""
import os
import sys

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor, log

from common.ms import devices
from common.ms.kernels import native_convolution
from src import context
from src.model import builtin_convolution

NAMES = ('MS_ROLE', 'MS_WORKER_NUM', 'MS_NODE_ID', 'MS_SCHED_HOST', 'MS_SCHED_PORT', 'RANK_TABLE_FILE', 'DEVICE_ID',
         'RANK_ID', 'RANK', 'RANK_SIZE', 'WORLD_SIZE', 'MASTER_ADDR', 'MASTER_PORT')


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """Nothing of the surroundings, and nothing left behind in them."""
    monkeypatch.setattr(os, 'environ', {name: value for name, value in os.environ.items() if name not in NAMES})
    return os.environ


@pytest.fixture
def calls(monkeypatch):
    """What is asked of MindSpore, in order; an Ascend NPU is there."""
    recorded = []

    def record(name):
        return lambda *words, **more: recorded.append((name, *words, *sorted(more.items())))

    def set_device(target, device_id=None):
        if device_id != target_and_id.setdefault(target, device_id):
            raise RuntimeError("The 'mindspore.set_device' can not be modified.")
        recorded.append(('set_device', target, device_id))
    target_and_id = {}
    monkeypatch.setattr(devices.ms, 'set_device', set_device)
    monkeypatch.setattr(devices.ms, 'set_auto_parallel_context', record('parallel'))
    monkeypatch.setattr(devices, 'init', record('init'))
    monkeypatch.setattr(devices, 'get_rank', lambda: 1)
    monkeypatch.setattr(devices, 'get_group_size', lambda: 2)
    monkeypatch.setattr(devices, 'wait_for_scheduler', record('wait'))
    monkeypatch.setattr(devices.subprocess, 'Popen', lambda command, env, **_: recorded.append((command, env)))
    return recorded


def test_cpu_is_there_and_others_are_refused_with_the_remedy(capfd):
    assert devices.open_device('auto') == devices.open_device('cpu') == devices.Device('cpu')
    assert ms.get_context('mode') == ms.GRAPH_MODE
    Tensor([1.0]) + 1
    assert devices.open_device('cpu') == devices.Device('cpu')
    for kind, needed in (('npu', 'CANN'), ('gpu', 'MindSpore built for it')):
        with pytest.raises(ValueError, match=f'--device={kind}: .*{needed}.*--device=cpu'):
            devices.open_device(kind)
    with pytest.raises(ValueError, match="unknown device 'tpu'; known: auto, cpu, gpu, npu"):
        devices.open_device('tpu')
    assert capfd.readouterr() == ('', '')  # MindSpore itself would name every missing library


def test_auto_prefers_the_npu(monkeypatch):
    monkeypatch.setattr(devices.glob, 'glob', lambda _: ['there'])
    monkeypatch.setattr(devices, 'available', lambda *_: True)
    assert devices.choose('auto') == 'npu'
    monkeypatch.setattr(devices, 'available', lambda kind, _: kind == 'gpu')
    assert devices.choose('auto') == 'gpu'


def test_one_npu(calls, environment):
    environment['DEVICE_ID'] = '5'  # of a launcher of several; --device_id is asked of this one
    assert devices.open_device('npu', 3) == devices.Device('npu')
    assert calls == [('set_device', 'Ascend', 3)]


def test_a_device_may_be_opened_again(calls, monkeypatch):
    """MindSpore refuses to set a device once it has run something, even the one that it has."""
    monkeypatch.setattr(devices.ms, 'get_context', {'device_target': 'Ascend', 'device_id': 3}.get)
    assert devices.open_device('npu', 3) == devices.Device('npu') and calls == []


def test_npus_of_a_rank_table(calls, environment):
    environment.update(RANK_TABLE_FILE='table.json', RANK_ID='1', RANK_SIZE='2', DEVICE_ID='6')
    assert devices.open_device('npu', join=True) == devices.Device('npu', 1, 2)
    assert calls == [('set_device', 'Ascend', 6), ('init',), (
        'parallel', ('device_num', 2), ('global_rank', 1), ('gradients_mean', True),
        ('parallel_mode', ms.ParallelMode.DATA_PARALLEL))]
    assert 'MS_ROLE' not in environment  # HCCL finds its peers in the table


def test_ranks_of_msrun(calls, environment):
    environment.update(MS_ROLE='MS_WORKER', MS_WORKER_NUM='2', MS_SCHED_HOST='here', MS_SCHED_PORT='8118')
    assert devices.open_device('npu', join=True) == devices.Device('npu', 1, 2)
    assert calls[:3] == [('set_device', 'Ascend', None), ('wait', 'here', 8118), ('init',)]


def test_the_scheduler_of_msrun(calls, environment):
    environment.update(MS_ROLE='MS_SCHED', MS_WORKER_NUM='2', MS_SCHED_HOST='here', MS_SCHED_PORT='8118')
    with pytest.raises(SystemExit) as end:
        devices.open_device('cpu', join=True)
    assert calls[-1] == ('init',) and not end.value.code


@pytest.mark.parametrize('rank', [0, 1])
def test_ranks_of_a_launcher(rank, calls, environment, monkeypatch):
    """Also with a rank table around: a CPU has no use for it."""
    monkeypatch.setattr(os, 'sched_getaffinity', lambda _: range(6), raising=False)
    environment.pop('OMP_NUM_THREADS', None)
    environment.update(RANK=str(rank), WORLD_SIZE='2', MASTER_ADDR='127.0.0.1', MASTER_PORT='2345', RANK_TABLE_FILE='x')
    assert devices.open_device('cpu', join=True).world_size == 2
    started = [call for call in calls if isinstance(call[0], list)]
    assert len(started) == (rank == 0)  # rank 0 starts the scheduler
    if started:
        assert started[0][0] == [sys.executable, '-m', 'common.ms.devices'] and started[0][1]['MS_ROLE'] == 'MS_SCHED'
    assert ('wait', '127.0.0.1', 2345) in calls and calls[-2] == ('init',)
    assert environment['MS_ROLE'] == 'MS_WORKER' and environment['MS_NODE_ID'] == str(rank)
    assert environment['OMP_NUM_THREADS'] == '3'


def test_without_join_ranks_do_not_meet(calls, environment):
    environment.update(RANK='0', WORLD_SIZE='2')
    assert devices.open_device('cpu') == devices.Device('cpu')
    environment['WORLD_SIZE'] = '1'
    assert devices.open_device('cpu', join=True) == devices.Device('cpu')
    assert ('init',) not in calls


@pytest.mark.parametrize('given, missing', [
    ({'RANK': '0', 'MASTER_ADDR': 'a'}, 'MASTER_PORT'), ({'MASTER_ADDR': 'a', 'MASTER_PORT': '1'}, 'RANK_ID')])
def test_half_an_environment_is_refused(given, missing, calls, environment):
    environment.update(given, RANK_SIZE='8')
    with pytest.raises(ValueError, match=f'8 ranks, but {missing} is not set.*train_full_8p.sh'):
        devices.open_device('cpu', join=True)


def test_ranks_must_agree(monkeypatch):
    monkeypatch.setattr(devices, 'Broadcast', lambda: lambda _: Tensor([4.0]))  # rank 0 has 4
    devices.Device('cpu', 1, 3).agree(4, 'step')
    with pytest.raises(ValueError, match='rank 1 has step 3, rank 0 4'):
        devices.Device('cpu', 1, 3).agree(3, 'step')


def test_no_scheduler(monkeypatch):
    monkeypatch.setattr(devices.time, 'time', iter(range(0, 1000, 50)).__next__)
    with pytest.raises(ValueError, match='no scheduler answers at 127.0.0.1:1;'):
        devices.wait_for_scheduler('127.0.0.1', 1)


def test_one_rank_needs_no_exchange():
    device = devices.Device('cpu')
    parameter = Parameter(Tensor(np.arange(3, dtype=np.float32)), name='weight')
    device.share([parameter])
    device.agree(3, 'step')
    device.close()
    assert device.average() is None and parameter.asnumpy().tolist() == [0, 1, 2]


def test_convolution(monkeypatch, capsys):
    cpu, npu = context.Device('cpu'), context.Device('npu')
    assert context.open_device('cpu') == cpu
    assert cpu.convolution('builtin') is builtin_convolution and npu.convolution() is builtin_convolution
    with pytest.raises(ValueError, match='native: written for the CPU, not for npu'):
        npu.convolution('native')
    with pytest.raises(ValueError, match="unknown kernels 'fast'; known: auto, builtin, native"):
        cpu.convolution('fast')

    def broken():
        raise ValueError('no C++ compiler')
    monkeypatch.setattr(devices, 'open_library', lambda: 'compiled')
    assert cpu.convolution() is cpu.convolution('native') is native_convolution
    monkeypatch.setattr(devices, 'open_library', broken)
    assert cpu.convolution() is builtin_convolution
    assert "MindSpore's own kernels are used: no C++ compiler" in capsys.readouterr().out
    with pytest.raises(ValueError, match='no C'):
        cpu.convolution('native')


def test_the_log_of_mindspore(monkeypatch, environment, capsys):
    environment.pop('GLOG_v', None)
    logger = log._get_logger()
    before = logger.level
    try:
        devices.quiet()
        assert environment['GLOG_v'] == '3' and logger.level == 40
    finally:
        logger.setLevel(before)
    assert capsys.readouterr().err == ''
    monkeypatch.setattr(devices.ms, '__version__', '2.10.0rc1')
    devices.quiet()
    assert 'warning: MindSpore 2.10.0rc1: its convolutions on a CPU' in capsys.readouterr().err
