"""The ranks of a training, one process for each device: TensorFlow's collectives on CPU and GPU, HCCL on NPUs.

Both versions of TensorFlow have the collectives, as a private module. A launcher's run_ranks sets RANK_ID, RANK_SIZE,
MASTER_ADDR and MASTER_PORT; rank i listens at MASTER_PORT + i. Every rank must build and run the same collectives in
the same order: the same steps of the same scales, and share() once.
"""
import contextlib
import itertools
import os
import socket
import threading
import time

import tensorflow.compat.v1 as tf
from tensorflow.python.ops import collective_ops

from common.tf.devices import processors, rank_of

PATIENCE = 120  # seconds in which all ranks must have come
GROUP = 1  # the collectives' name of all ranks together


class Alone:
    """The only rank: nothing to average, nobody to wait for."""

    rank, world_size = 0, 1

    def __init__(self, device):
        self._device = device

    def placed(self):
        """The context in which a graph is built."""
        return contextlib.nullcontext()

    def session(self, graph):
        return self._device.session(graph)

    def gradients(self, adam, loss, variables, also):
        """(gradients of `variables`, zeros where loss does not depend on one; `also`): means over the ranks.

        also: list of scalar float32 tensors. It may be called several times in a graph, for one loss of each scale.
        """
        return self._local_gradients(adam, loss, variables), also

    def mean(self, scalars):
        """The means over the ranks of a list of scalar float32 tensors."""
        return scalars

    def share(self, variables):
        """The operation that gives every rank the values (float32) of rank 0."""
        return tf.no_op()

    def close(self, session):
        """Leave, when all ranks have come here."""

    def _local_gradients(self, adam, loss, variables):
        scale = self._device.loss_scale
        found = adam.compute_gradients(loss * scale if scale != 1 else loss, var_list=variables)
        found = [tf.zeros_like(variable) if gradient is None else gradient for gradient, variable in found]
        return [gradient / scale for gradient in found] if scale != 1 else found


class Several(Alone):
    """One of the ranks that TensorFlow's own collectives connect."""

    def __init__(self, device, rank, world_size, host, port):
        super().__init__(device)
        self.rank, self.world_size = rank, world_size
        self._addresses = [(host, port + index) for index in range(world_size)]
        os.environ.setdefault('OMP_NUM_THREADS', str(max(processors() // world_size, 1)))  # of our kernels
        self._config = device.config(world_size)
        self._config.experimental.collective_group_leader = '/job:worker/replica:0/task:0'
        self._config.device_filters.append(f'/job:worker/task:{rank}')
        cluster = tf.train.ClusterSpec({'worker': [f'{host}:{port}' for host, port in self._addresses]})
        try:
            self._server = tf.train.Server(cluster, 'worker', rank, config=self._config)
        except tf.errors.OpError as error:
            raise ValueError(f'rank {rank} cannot listen at port {port + rank}; another program may do so: set '
                             f'MASTER_PORT to the first of {world_size} free ports ({error.message})') from None
        self._keys = itertools.count(1)
        self._left, self._ending, self._grace = threading.Event(), threading.Lock(), 1
        self._wait_for_all()
        threading.Thread(target=self._watch, daemon=True).start()

    def _wait_for_all(self):
        deadline = time.time() + PATIENCE
        for rank, (host, port) in enumerate(self._addresses):
            while not answers((host, port)):
                if time.time() > deadline:
                    raise ValueError(f'rank {self.rank}: rank {rank} has not come to {host}:{port} in {PATIENCE} s; '
                                     'its own output says why')
                time.sleep(0.1)

    def _watch(self):
        """Ends this process when a rank has gone: in TensorFlow 1.15 a collective would wait for it for ever."""
        while not self._left.wait(1):
            self.end_if_one_has_gone()

    def end_if_one_has_gone(self):
        for rank, address in enumerate(self._addresses):
            if not answers(address) and not self._left.wait(self._grace) and self._ending.acquire(False):
                os.write(2, f'error: rank {self.rank}: rank {rank} has gone\n'.encode())
                os._exit(1)

    def placed(self):
        return tf.device(f'/job:worker/task:{self.rank}/{self._device.kind}:0')

    def session(self, graph):
        return RankSession(self, self._server.target, graph=graph, config=self._config)

    def _average(self, flat):
        return collective_ops.all_reduce(flat, self.world_size, GROUP, next(self._keys), 'Add', 'Div')

    def gradients(self, adam, loss, variables, also):
        return averaged(self._local_gradients(adam, loss, variables), also, self._average)

    def mean(self, scalars):
        return averaged([], scalars, self._average)[1]

    def share(self, variables):
        flat = joined([variable.read_value() for variable in variables])
        shared = (flat.shape, tf.float32, self.world_size, GROUP, next(self._keys))
        if self.rank == 0:
            return tf.group(collective_ops.broadcast_send(flat, *shared))
        values = split_as(collective_ops.broadcast_recv(*shared), variables)
        return tf.group(*(tf.assign(variable, value) for variable, value in zip(variables, values)))

    def close(self, session):
        self._grace = 60  # from now on a rank that has gone may have been done before this one
        with tf.Graph().as_default() as graph, self.placed():
            everybody = self._average(tf.zeros([1]))
        with self.session(graph) as last:
            last.run(everybody)
        self._left.set()
        time.sleep(0.5)  # another rank may still be reading what this one has sent


class RankSession(tf.Session):
    """A session that does not report the errors that follow from the loss of a rank: that is said in one line."""

    def __init__(self, ranks, *args, **options):
        super().__init__(*args, **options)
        self._ranks = ranks

    def run(self, *args, **options):
        try:
            return super().run(*args, **options)
        except tf.errors.OpError:
            time.sleep(0.5)  # a rank that is dying may still answer
            self._ranks.end_if_one_has_gone()
            raise


class Hccl(Alone):
    """One of the ranks that HCCL connects, found by RANK_TABLE_FILE; npu_bridge is the TF Adapter of TensorFlow 1.15.

    Its documentation wants HCCL initialised by a session of its own, configured as the others and open until the end.
    """

    def __init__(self, device, rank, world_size):
        super().__init__(device)
        from npu_bridge.estimator import npu_ops
        from npu_bridge.estimator.npu.npu_optimizer import npu_distributed_optimizer_wrapper
        from npu_bridge.hccl import hccl_ops
        self.rank, self.world_size = rank, world_size
        self._wrap, self._wrapped, self._hccl = npu_distributed_optimizer_wrapper, None, hccl_ops
        for name, value in (('DEVICE_INDEX', rank), ('JOB_ID', 10087)):  # the adapter reads them; the port's JOB_ID
            os.environ.setdefault(name, str(value))
        self._config = device.config(world_size)
        with tf.Graph().as_default() as graph:
            start, self._stop = npu_ops.initialize_system(), npu_ops.shutdown_system()
        self._system = tf.Session(graph=graph, config=self._config)
        self._system.run(start)

    def session(self, graph):
        return tf.Session(graph=graph, config=self._config)

    def gradients(self, adam, loss, variables, also):
        if adam is not self._wrapped:  # it is changed in place: its compute_gradients gives the means from now on
            self._wrapped = adam = self._wrap(adam)
        return self._local_gradients(adam, loss, variables), self.mean(also)

    def mean(self, scalars):
        return averaged([], scalars, self._average)[1]

    def _average(self, flat):
        return self._hccl.allreduce(flat, 'sum') / self.world_size

    def share(self, variables):
        values = self._hccl.broadcast(list(variables), 0)
        return tf.group(*(tf.assign(variable, value) for variable, value in zip(variables, values)))

    def close(self, session):
        self._system.run(self._stop)
        self._system.close()


def averaged(tensors, scalars, average):
    """Both lists with the means over the ranks, by one call of average(float32 [n])."""
    both = [*tensors, *scalars]
    means = split_as(average(joined(both)), both) if both else []
    return means[:len(tensors)], means[len(tensors):]


def joined(tensors):
    """All their elements, float32 [n]."""
    return tf.concat([tf.reshape(tensor, [-1]) for tensor in tensors], 0)


def split_as(flat, tensors):
    """The inverse of joined(): a list of tensors of these shapes."""
    parts = tf.split(flat, [tensor.shape.num_elements() for tensor in tensors])
    return [tf.reshape(part, tensor.shape) for part, tensor in zip(parts, tensors)]


def answers(address):
    """Whether a program listens at (host, port)."""
    with contextlib.suppress(OSError), socket.create_connection(address, 2):
        return True
    return False


def open_ranks(device):
    """This process among the ranks that the environment names: Alone where they are one.

    Raises ValueError where it is not told how to find the others, or they do not come.
    """
    rank, world_size = rank_of()
    if world_size == 1:
        return Alone(device)
    needed = ['RANK_TABLE_FILE'] if device.kind == 'npu' else ['MASTER_ADDR', 'MASTER_PORT']
    missing = [name for name in needed if not os.environ.get(name)]
    if missing:
        raise ValueError(f'{world_size} ranks, but {", ".join(missing)} is not set: start them by '
                         'test/train_full_8p.sh, on NPUs with a rank table (README, Training)')
    if device.kind == 'npu':
        return Hccl(device, rank, world_size)
    port = os.environ['MASTER_PORT']
    if not port.isdecimal() or not 0 < int(port) <= 65536 - world_size:
        raise ValueError(f'MASTER_PORT={port}: expected the first of {world_size} ports, such as 29500')
    return Several(device, rank, world_size, os.environ['MASTER_ADDR'], int(port))
