"""The ranks of a training, one process for each device: TensorFlow's collectives on CPU and GPU, HCCL on NPUs.

Both versions of TensorFlow have the collectives, 1.15 only as a private module. A launcher's run_ranks sets RANK_ID,
RANK_SIZE, MASTER_ADDR and MASTER_PORT; rank i listens at MASTER_PORT + i.
"""
import contextlib
import os
import socket
import threading
import time

import numpy as np
import tensorflow.compat.v1 as tf
from tensorflow.python.ops import collective_ops

from models.session_config import session_config

PATIENCE = 120  # seconds in which all ranks must have come


class Alone:
    """The only rank: nothing to average, nobody to wait for."""

    rank, world_size = 0, 1

    def __init__(self, device):
        self._device = device

    def placed(self):
        """The context in which a graph is built."""
        return contextlib.nullcontext() if hasattr(contextlib, 'nullcontext') else contextlib.suppress()

    def session(self, graph):
        return self._device.session(graph)

    def gradients(self, adam, loss, variables, also):
        """(gradients of `variables`, zeros where loss does not depend on one; `also`): means over the ranks.

        also: list of scalar tensors.
        """
        return local_gradients(adam, loss, variables), also

    def share(self, variables):
        """The operation that gives every rank the values of rank 0."""
        return tf.no_op()

    def close(self, session):
        """Leave, when all ranks have come here."""


class Several(Alone):
    """One of the ranks that TensorFlow's own collectives connect."""

    def __init__(self, device, rank, world_size, host, port):
        super().__init__(device)
        self.rank, self.world_size = rank, world_size
        self._addresses = [(host, port + index) for index in range(world_size)]
        self._config = session_config(device.kind, device.precision, world_size)
        self._config.experimental.collective_group_leader = '/job:worker/replica:0/task:0'
        self._config.device_filters.append(f'/job:worker/task:{rank}')
        cluster = tf.train.ClusterSpec({'worker': [f'{host}:{port}' for host, port in self._addresses]})
        self._server = tf.train.Server(cluster, 'worker', rank, config=self._config)
        self._keys = iter(range(1, 1000))
        self._leaving = threading.Event()
        self._wait_for_all()
        threading.Thread(target=self._watch, daemon=True).start()

    def _wait_for_all(self):
        deadline = time.time() + PATIENCE
        for rank, address in enumerate(self._addresses):
            while not answers(address):
                if time.time() > deadline:
                    raise ValueError(f'rank {self.rank}: rank {rank} has not come to {address[0]}:{address[1]} in '
                                     f'{PATIENCE} s')
                time.sleep(0.1)

    def _watch(self):
        """End this process when a rank has gone: in TensorFlow 1.15 a collective would wait for it for ever."""
        while not self._leaving.wait(2):
            for rank, address in enumerate(self._addresses):
                if not answers(address) and not answers(address) and not self._leaving.wait(1):
                    os.write(2, f'error: rank {self.rank}: rank {rank} has gone\n'.encode())
                    os._exit(1)

    def placed(self):
        return tf.device(f'/job:worker/task:{self.rank}/{self._device.kind}:0')

    def session(self, graph):
        return tf.Session(self._server.target, graph=graph, config=self._config)

    def _average(self, flat):
        return collective_ops.all_reduce(flat, self.world_size, 1, next(self._keys), 'Add', 'Div')

    def gradients(self, adam, loss, variables, also):
        found = local_gradients(adam, loss, variables)
        return averaged(found, also, self._average)

    def share(self, variables):
        operations = []
        for variable in variables:
            key, shape = next(self._keys), variable.shape
            if self.rank == 0:
                operations.append(collective_ops.broadcast_send(
                    variable.read_value(), shape, tf.float32, self.world_size, 1, key))
            else:
                value = collective_ops.broadcast_recv(shape, tf.float32, self.world_size, 1, key)
                operations.append(tf.assign(variable, value))
        return tf.group(*operations)

    def close(self, session):
        with session.graph.as_default(), self.placed():
            session.run(self._average(tf.zeros([1])))
        self._leaving.set()
        time.sleep(0.5)  # a rank may still be reading what this one sent


class Hccl(Alone):
    """One of the ranks that HCCL connects, found by RANK_TABLE_FILE; the calls and their order are the released port's."""

    def __init__(self, device, rank, world_size):
        super().__init__(device)
        from npu_bridge.estimator import npu_ops
        from npu_bridge.estimator.npu.npu_optimizer import npu_distributed_optimizer_wrapper
        from npu_bridge.hccl import hccl_ops
        self.rank, self.world_size = rank, world_size
        self._wrap, self._hccl = npu_distributed_optimizer_wrapper, hccl_ops
        self._config = session_config('npu', device.precision, world_size)
        with tf.Graph().as_default() as graph:
            start, self._stop = npu_ops.initialize_system(), npu_ops.shutdown_system()
        self._system = tf.Session(graph=graph, config=self._config)
        self._system.run(start)

    def session(self, graph):
        return tf.Session(graph=graph, config=self._config)

    def gradients(self, adam, loss, variables, also):
        found = local_gradients(self._wrap(adam), loss, variables)  # the wrapper averages each
        return found, averaged([], also, self._average)[1]

    def _average(self, flat):
        return self._hccl.allreduce(flat, 'sum') / self.world_size

    def share(self, variables):
        return self._hccl.broadcast(variables, 0)

    def close(self, session):
        self._system.run(self._stop)
        self._system.close()


def local_gradients(adam, loss, variables):
    """The gradients that an optimiser computes; zeros for a variable that the loss does not depend on."""
    found = adam.compute_gradients(loss, var_list=variables)
    return [tf.zeros_like(variable) if gradient is None else gradient for gradient, variable in found]


def averaged(tensors, scalars, average):
    """Both lists with the means over the ranks, by one call of average(float32 [n])."""
    sizes = [int(np.prod(tensor.shape.as_list())) for tensor in tensors]
    flat = average(tf.concat([tf.reshape(value, [-1]) for value in [*tensors, *scalars]], 0))
    parts = tf.split(flat, [*sizes, *[1] * len(scalars)])
    return ([tf.reshape(part, tensor.shape) for part, tensor in zip(parts, tensors)],
            [tf.reshape(part, []) for part in parts[len(tensors):]])


def answers(address):
    """Whether a program listens at (host, port)."""
    with contextlib.suppress(OSError), socket.create_connection(address, 2):
        return True
    return False


def rank_of():
    """(rank, number of ranks) that the environment names, (0, 1) where it names none."""
    environment = os.environ
    numbers = [environment.get(first, environment.get(second, default)) for first, second, default in (
        ('RANK_ID', 'RANK', '0'), ('RANK_SIZE', 'WORLD_SIZE', '1'))]
    if not all(number.isdecimal() for number in numbers) or int(numbers[0]) >= int(numbers[1]):
        raise ValueError(f'RANK_ID={numbers[0]} of RANK_SIZE={numbers[1]}: expected a number from 0 to below RANK_SIZE')
    return int(numbers[0]), int(numbers[1])


def open_ranks(device):
    """This process among the ranks that the environment names: Alone where they are one.

    Raises ValueError where it is not told how to find the others, or they do not come.
    """
    rank, world_size = rank_of()
    if world_size == 1:
        return Alone(device)
    if device.kind == 'npu':
        return Hccl(device, rank, world_size)
    missing = [name for name in ('MASTER_ADDR', 'MASTER_PORT') if name not in os.environ]
    if missing:
        raise ValueError(f'{world_size} ranks, but {", ".join(missing)} is not set: start them by '
                         'test/train_full_8p.sh')
    return Several(device, rank, world_size, os.environ['MASTER_ADDR'], int(os.environ['MASTER_PORT']))
