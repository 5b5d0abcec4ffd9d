"""What surrounds a training loop in MindSpore: its step, the folder of a run, its checkpoints, losses and signals."""
import contextlib
import json
import os
import signal

import mindspore as ms
from mindspore import Tensor, nn, ops

from common import runs
from common.ms.checkpoint import load_checkpoint, save_checkpoint

OPTIMISER = ('beta1_power', 'beta2_power', 'global_step')  # of nn.Adam, beside the moments


class Loss(nn.Cell):
    """The mean absolute error, in the network's range, of uint8 patches lr [b,p,p,3] and hr [b,sp,sp,3]."""

    def __init__(self, network):
        super().__init__(auto_prefix=False)  # parameters keep the names that they have in the network
        self.network, self.to_range = network, network.rgb_range / 255

    def construct(self, lr, hr):
        sr = ops.cast(self.network(self.planes(lr)), ms.float32)
        return ops.abs(sr - self.planes(hr)).mean()

    def planes(self, patches):
        """uint8 [b,h,w,3] as float32 [b,3,h,w] in the network's range."""
        return ops.cast(ops.transpose(patches, (0, 3, 1, 2)), ms.float32) * self.to_range


class TrainStep(nn.Cell):
    """One step of Adam; returns the loss before it, and `asked`. All are means over the ranks, by one all-reduce."""

    def __init__(self, loss, adam, average, loss_scale):
        super().__init__(auto_prefix=False)
        self.loss, self.adam, self.average, self.loss_scale = loss, adam, average, loss_scale
        self.gradients = ms.value_and_grad(self.scaled, None, adam.parameters)

    def scaled(self, lr, hr):
        return self.loss(lr, hr) * self.loss_scale

    def construct(self, lr, hr, asked):
        loss, gradients = self.gradients(lr, hr)
        if self.average is not None:
            means = self.average(gradients + (loss, asked))
            gradients, loss, asked = means[:-2], means[-2], means[-1]
        self.adam(gradients)  # divides them by loss_scale
        return loss / self.loss_scale, asked


class Run(runs.Run):
    """As common.runs has it. remedy: what helps where a checkpoint is none of a training."""

    def __init__(self, base, last, best, resume='', remedy=''):
        super().__init__(base, last, best, resume)
        self._remedy = remedy

    def remove(self, name):
        """Delete a checkpoint that this run wrote, if it is still there."""
        with contextlib.suppress(FileNotFoundError):
            os.remove(os.path.join(self.folder, name))

    def resume(self):
        """(path, state) of the newest checkpoint that loads."""
        return self.newest(lambda path: load_state(path, self._remedy))


def save_state(path, network, adam, progress, options, keep, more):
    """Write everything that a resumed run needs; `keep` - 1 earlier versions stay beside it.

    progress: of the loop, options: a Namespace, both of what JSON knows; more: as save_checkpoint has it.
    """
    values = [{'name': parameter.name, 'data': parameter} for parameter in parameters_of(network, adam)]
    more = {**more, 'progress': json.dumps(progress), 'options': json.dumps(vars(options))}
    save_checkpoint(path, values, more, keep)


def load_state(path, remedy=''):
    """{'progress', 'options', 'parameters': {name: array}} of a checkpoint of train.py. ValueError: it is none."""
    found = load_checkpoint(path)
    missing = [name for name in ('progress', 'options', *OPTIMISER) if name not in found]
    if missing:
        raise ValueError(f'holds no {", ".join(missing)}: not a checkpoint of train.py; {remedy}')
    return {'parameters': found, **{name: json.loads(found.pop(name)) for name in ('progress', 'options')}}


def restore(network, adam, parameters):
    """Copy the arrays of load_state into the network and its optimiser."""
    for parameter in parameters_of(network, adam):
        parameter.set_data(Tensor(parameters[parameter.name]))


def parameters_of(network, adam):
    """All that a training changes, and the network's frozen weights."""
    return [*network.get_parameters(), *adam.moment1, *adam.moment2, *(getattr(adam, name) for name in OPTIMISER)]


class Meter(runs.Meter):
    """Losses stay on the device until they are read, since reading waits for it; on CPU each is looked at at once."""

    def __init__(self, device, batch_size, batches, remedy):
        super().__init__(batches, batch_size, remedy, at_once=device.kind == 'cpu')

    def values(self, losses):
        return [float(loss.asnumpy()) for loss in losses]


class StopRequest(runs.StopRequest):
    """The signal may also be a SIGTERM where Ctrl-C was typed: MindSpore passes that on so."""

    def __init__(self, device):
        self._alone, self._earlier = device.world_size == 1, None

    def granted(self, asked):
        """The number of the signal when this step is the last, else 0. asked: the mean over the ranks, of this step.

        Several ranks go by that of the step before: all of them know it, and no device need be waited for.
        """
        earlier, self._earlier = self._earlier, asked
        if self._alone:
            return self.asked
        return (self.asked or signal.SIGTERM) if earlier is not None and earlier.asnumpy() > 0 else 0
