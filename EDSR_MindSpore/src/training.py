"""What surrounds the training loop of train.py: the folder of a run, its checkpoints, losses, speed and signals."""
import contextlib
import json
import os
import signal

from mindspore import Tensor

from common import runs
from common.ms.checkpoint import agree, load_checkpoint, load_weights, save_checkpoint, weights_of
from src.model import size_of

OPTIMISER = ('beta1_power', 'beta2_power', 'global_step')  # of nn.Adam, beside the moments


class Run(runs.Run):
    """A folder CKPT_SAVE_PATH/X{scale}[_2, _3 ...] with its checkpoints, last and best."""

    def __init__(self, options):
        super().__init__(os.path.join(options.ckpt_save_path, f'X{options.scale}'), 'edsr_last.ckpt', 'edsr_best.ckpt',
                         '--resume' if options.resume else '')

    def remove(self, name):
        """Delete a checkpoint that this run wrote, if it is still there."""
        with contextlib.suppress(FileNotFoundError):
            os.remove(os.path.join(self.folder, name))

    def resume(self):
        """(path, state) of the newest checkpoint that loads."""
        return self.newest(load_state)


def save_state(path, network, adam, progress, options, keep):
    """Write everything that a resumed run needs; `keep` - 1 earlier versions stay beside it."""
    parameters = [*network.get_parameters(), *adam.moment1, *adam.moment2, *(getattr(adam, n) for n in OPTIMISER)]
    values = [{'name': parameter.name, 'data': parameter} for parameter in parameters]
    more = {'res_scale': options.res_scale, 'rgb_range': options.rgb_range, 'progress': json.dumps(progress),
            'options': json.dumps(vars(options))}
    save_checkpoint(path, values, more, keep)


def load_state(path):
    """{'progress', 'options', 'parameters': {name: array}} of a checkpoint of train.py. ValueError: it is none."""
    found = load_checkpoint(path)
    missing = [name for name in ('progress', 'options', *OPTIMISER) if name not in found]
    if missing:
        raise ValueError(f'holds no {", ".join(missing)}: not a checkpoint of train.py; to start from its weights use '
                         '--ckpt_path without --resume')
    return {'parameters': found, **{name: json.loads(found.pop(name)) for name in ('progress', 'options')}}


def restore(network, adam, parameters):
    """Copy the arrays of load_state into the network and its optimiser."""
    for parameter in [*network.get_parameters(), *adam.moment1, *adam.moment2, *(getattr(adam, n) for n in OPTIMISER)]:
        parameter.set_data(Tensor(parameters[parameter.name]))


def start_from(network, path, weights, found, dialect):
    """Copy what read_weights found at the path into the network; of another scale, all but the tail.

    Returns what to say about it. Raises ValueError for a body of another size, or another rgb_range.
    """
    size = size_of(weights_of(network))
    differing = [f'{key} {found[key]} (here {size[key]})' for key in size
                 if key != 'scale' and not agree(found[key], size[key])]
    if differing:
        raise ValueError(f'{path}: cannot start from it, its network has {", ".join(differing)}')
    same_scale = found['scale'] == size['scale']
    kept = {name: value for name, value in weights.items() if same_scale or not name.startswith('tail.')}
    load_weights(network, {**weights_of(network), **kept})
    return (f'start from {path} ({dialect}, x{found["scale"]}, res_scale {found["res_scale"]:g}): '
            + ('all layers kept' if same_scale else f'all kept but the tail, which is new for x{size["scale"]}'))


class Meter(runs.Meter):
    """Losses stay on the device until they are read, since reading waits for it; on CPU each is looked at at once."""

    def __init__(self, device, batch_size, batches):
        super().__init__(batches, batch_size, 'A smaller --lr helps, or --amp_level=O0, or a lower --loss_scale',
                         at_once=device.kind == 'cpu')

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
