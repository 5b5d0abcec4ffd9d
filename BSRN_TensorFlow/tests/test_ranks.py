"""Several ranks train as one does, one that is lost ends the others, and HCCL is called as its documentation wants."""
import os
import random
import signal
import socket
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import rank_worker

from common.tf import ranks
from common.tf.ranks import tf
from models.session_config import Device

ROOT = Path(__file__).resolve().parents[1]
CPU = Device('cpu')


@pytest.fixture(autouse=True)
def no_ranks(monkeypatch):
    for name in ('RANK_ID', 'RANK', 'RANK_SIZE', 'WORLD_SIZE', 'MASTER_ADDR', 'MASTER_PORT', 'RANK_TABLE_FILE',
                 'DEVICE_INDEX', 'JOB_ID', 'CUDA_VISIBLE_DEVICES'):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv('OMP_NUM_THREADS', '1')


def free_port(count):
    """The first of that many neighbouring ports at which nobody listens."""
    while True:
        first = random.randrange(20000, 32000)
        if not any(ranks.answers(('127.0.0.1', first + index)) for index in range(count)):
            return first


@pytest.fixture
def start():
    """start(steps, folder, count): that many ranks, as processes."""
    processes = []

    def started(steps, folder, count):
        port = free_port(count)
        for rank in range(count):
            environment = dict(os.environ, RANK_ID=str(rank), RANK_SIZE=str(count), MASTER_ADDR='127.0.0.1',
                               MASTER_PORT=str(port), PYTHONPATH=str(ROOT))
            command = [sys.executable, 'tests/rank_worker.py', str(folder / f'{rank}.npz'), str(steps)]
            processes.append(subprocess.Popen(command, cwd=str(ROOT), env=environment, stdout=subprocess.PIPE,
                                              stderr=subprocess.PIPE, text=True))
        return processes
    yield started
    for process in processes:
        process.kill()
        process.communicate()


@pytest.mark.parametrize('count', [2, 4])
def test_ranks_train_as_one(count, start, tmp_path):
    processes = start(5, tmp_path, count)
    rank_worker.main([str(tmp_path / 'alone.npz'), '5'])
    for process in processes:
        output, errors = process.communicate(timeout=180)
        assert process.returncode == 0 and not errors, errors
        assert output.splitlines()[-1] == 'step 5'
    alone = dict(np.load(str(tmp_path / 'alone.npz')))
    first, *others = (dict(np.load(str(tmp_path / f'{rank}.npz'))) for rank in range(count))
    untrained = rank_worker.initial_weights(rank_worker.SIZE, np.random.default_rng(1))
    for name, values in alone.items():
        atol = 1e-6 if name in untrained else 1e-4  # losses are of about 70
        np.testing.assert_allclose(first[name], values, rtol=0, atol=atol, err_msg=name)
        assert all(np.array_equal(other[name], first[name]) for other in others)
    assert all(np.abs(alone[name] - values).max() > 5e-4 for name, values in untrained.items())


@pytest.mark.parametrize('killed', [0, 1])
def test_a_lost_rank_ends_the_others(killed, start, tmp_path):
    processes = start(10 ** 6, tmp_path, 2)
    for process in processes:
        assert process.stdout.readline() == 'step 1\n'
    processes[killed].send_signal(signal.SIGKILL)
    survivor = processes[1 - killed]
    errors = survivor.communicate(timeout=30)[1]
    assert survivor.returncode == 1
    assert errors.splitlines()[-1] == f'error: rank {1 - killed}: rank {killed} has gone' and 'Traceback' not in errors


def test_a_rank_that_never_comes(monkeypatch):
    port = free_port(2)
    monkeypatch.setattr(ranks, 'PATIENCE', 0.5)
    with pytest.raises(ValueError, match=f'rank 1: rank 0 has not come to 127.0.0.1:{port} in 0.5 s'):
        ranks.Several(CPU, 1, 2, '127.0.0.1', port)


def test_a_port_that_is_taken():
    with socket.socket() as other:
        other.bind(('127.0.0.1', 0))
        other.listen(1)
        with pytest.raises(ValueError, match='rank 0 cannot listen at port .* set MASTER_PORT'):
            ranks.Several(CPU, 0, 2, '127.0.0.1', other.getsockname()[1])


@pytest.mark.parametrize('kind, environment, words', [
    ('cpu', {'RANK_ID': '2', 'RANK_SIZE': '2'}, 'RANK_ID=2 of RANK_SIZE=2: expected a number from 0'),
    ('cpu', {'RANK_ID': '-1', 'RANK_SIZE': '2'}, 'RANK_ID=-1'), ('cpu', {'RANK_SIZE': 'two'}, 'RANK_SIZE=two'),
    ('cpu', {'RANK_ID': '0', 'RANK_SIZE': '2'}, '2 ranks, but MASTER_ADDR, MASTER_PORT is not set'),
    ('cpu', {'WORLD_SIZE': '2', 'MASTER_ADDR': 'x', 'MASTER_PORT': '65535'}, 'MASTER_PORT=65535: expected the first'),
    ('cpu', {'WORLD_SIZE': '2', 'MASTER_ADDR': 'x', 'MASTER_PORT': 'p'}, 'MASTER_PORT=p'),
    ('npu', {'RANK_ID': '1', 'RANK_SIZE': '8'}, '8 ranks, but RANK_TABLE_FILE is not set')])
def test_what_the_environment_lacks(kind, environment, words, monkeypatch):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=words):
        ranks.open_ranks(Device(kind))


def test_the_only_rank(monkeypatch):
    monkeypatch.setenv('RANK_SIZE', '1')
    alone = ranks.open_ranks(CPU)
    with tf.Graph().as_default() as graph, alone.placed():
        used, unused = (tf.get_variable(name, [2], initializer=tf.ones_initializer()) for name in 'ab')
        gradients, also = alone.gradients(tf.train.AdamOptimizer(), tf.reduce_sum(3 * used), [used, unused], ['x'])
        share, initialise = alone.share([used]), tf.global_variables_initializer()
    with alone.session(graph) as session:
        session.run(initialise)
        session.run(share)
        assert also == ['x'] and [list(value) for value in session.run(gradients)] == [[3, 3], [0, 0]]
        alone.close(session)


@pytest.mark.parametrize('device, scaled', [(CPU, 5), (Device('npu', 'mixed'), 5), (Device('gpu', 'bf16'), 5),
                                            (Device('gpu', 'mixed'), 640)])
def test_losses_are_scaled_in_16_bits_of_a_gpu(device, scaled):
    seen = []

    class Adam:
        def compute_gradients(self, loss, var_list):
            seen.append(loss)
            return [(loss * 2, var_list[0])]
    with tf.Graph().as_default() as graph:
        gradients, _ = ranks.Alone(device).gradients(Adam(), tf.constant(5.0), [None], [])
        with tf.Session(graph=graph) as session:
            assert session.run([seen, gradients]) == [[scaled], [10]]


@pytest.fixture
def npu_bridge(monkeypatch):
    """A stand-in for the TF Adapter: a list of what was called (when a graph is built) and what was run.

    It behaves as if two ranks had the same values, and rank 0 had 7 in each variable.
    """
    done = []

    def noted(word, result=0.0):
        done.append(f'call {word}')

        def run(value):
            done.append(f'run {word}')
            return value
        output = tf.numpy_function(run, [result], tf.float32)
        output.set_shape(tf.convert_to_tensor(result).shape)
        return output

    def wrapper(adam):
        done.append('call wrapper')
        compute = adam.compute_gradients
        adam.compute_gradients = lambda *args, **options: [
            (gradient if gradient is None else noted('mean', gradient), variable)
            for gradient, variable in compute(*args, **options)]
        return adam
    modules = {
        'estimator.npu_ops': {'initialize_system': lambda: noted('initialize_system'),
                              'shutdown_system': lambda: noted('shutdown_system')},
        'estimator.npu.npu_optimizer': {'npu_distributed_optimizer_wrapper': wrapper},
        'hccl.hccl_ops': {
            'allreduce': lambda tensor, reduction: noted(f'allreduce {reduction}', tensor * 2),
            'broadcast': lambda tensors, root: [noted(f'broadcast {root}', tensor * 0 + 7) for tensor in tensors]},
        'estimator': {}, 'estimator.npu': {}, 'hccl': {}, '': {}}
    for name, content in sorted(modules.items()):
        module = types.ModuleType(f'npu_bridge.{name}'.rstrip('.'))
        module.__dict__.update(content)
        monkeypatch.setitem(sys.modules, module.__name__, module)
        parent, _, last = module.__name__.rpartition('.')
        if parent:
            setattr(sys.modules[parent], last, module)
    return done


def test_hccl_is_called_in_its_order(npu_bridge, monkeypatch):
    for name, value in (('RANK_ID', '1'), ('RANK_SIZE', '2'), ('RANK_TABLE_FILE', 'table.json')):
        monkeypatch.setenv(name, value)
    several = ranks.open_ranks(Device('npu', 'mixed'))
    assert (several.rank, several.world_size) == (1, 2)
    assert os.environ['DEVICE_INDEX'] == '1' and os.environ['JOB_ID']
    assert npu_bridge == ['call initialize_system', 'call shutdown_system', 'run initialize_system']
    del npu_bridge[:]
    with tf.Graph().as_default() as graph, several.placed():
        variable, unused = (tf.get_variable(name, [2], initializer=tf.ones_initializer()) for name in 'ab')
        adam = tf.train.AdamOptimizer()
        found = [several.gradients(adam, factor * tf.reduce_sum(variable), [variable, unused], [tf.constant(9.0)])
                 for factor in (3, 4)]
        share, initialise = several.share([variable]), tf.global_variables_initializer()
    assert npu_bridge == ['call wrapper', 'call mean', 'call allreduce sum', 'call mean', 'call allreduce sum',
                          'call broadcast 0']  # one wrapper, or gradients would be averaged twice
    del npu_bridge[:]
    with several.session(graph) as session:
        session.run(initialise)
        session.run(share)
        assert list(session.run(variable)) == [7, 7]
        gradients, also = session.run(found[1])
        assert [list(value) for value in gradients] == [[4, 4], [0, 0]] and also == [9]
        several.close(session)
    assert npu_bridge[0] == 'run broadcast 0' and npu_bridge[-1] == 'run shutdown_system'
    assert sorted(npu_bridge[1:-1]) == ['run allreduce sum', 'run mean']
