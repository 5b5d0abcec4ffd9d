"""What surrounds the training loop of main.py: the folder of a run, its checkpoints, losses, speed and signals."""

import os

import torch

from common import checkpoints, runs
from import_weights import load_file, read_weights
from model import RCAN, size_of


class Run(runs.Run):
    """A folder OUTPUTS_DIR/X{scale}[_2, _3 ...] with its checkpoints, last and best."""

    def __init__(self, options):
        suffix = '_amp' * options.amp
        super().__init__(os.path.join(options.outputs_dir, f'X{options.scale}'),
                         f'{options.arch}_epoch_last{suffix}.pth', f'model_best{suffix}.pth',
                         '--ifcontinue' if options.ifcontinue else '')

    @staticmethod
    def save(path, state, keep):
        """Write a checkpoint; `keep` - 1 earlier ones stay beside it."""
        checkpoints.save(path, lambda temporary: torch.save(state, temporary), keep=keep)

    def resume(self, checkpoint_path=''):
        """(path, state) of the newest checkpoint that loads, or of the one named."""
        if checkpoint_path:
            return checkpoints.newest_valid(os.path.join(self.folder, checkpoint_path), load_state)
        return self.newest(load_state)


def load_state(path):
    """A checkpoint of main.py. Raises ValueError for one that cannot be resumed from."""
    state = load_file(path)
    needed = {'model', 'optimizer', 'scaler', 'step', 'validated', 'best', 'ck_performance', 'options'}
    missing = needed - set(state) if isinstance(state, dict) else needed
    if missing:
        raise ValueError(f'holds no {", ".join(sorted(missing))}: not a checkpoint of main.py; '
                         'to start from its weights use --iffinetuning')
    return state


def start_finetuning(network, path):
    """Copy the weights of any readable checkpoint into the network; of another scale, all but the upsampler.

    Raises ValueError for a trunk of another size or style.
    """
    weights, found, dialect = read_weights(path)
    size = size_of(network.state_dict())  # as it is read from weights, where one width has several reductions
    differing = [f'{key} {found[key]} (here {size[key]})' for key in size if key != 'scale' and found[key] != size[key]]
    if differing:
        raise ValueError(f'{path}: cannot fine-tune from it, its network has {", ".join(differing)}')
    same_scale = found['scale'] == size['scale']
    kept = {name: value for name, value in weights.items() if same_scale or not name.startswith('upscale.')}
    network.load_state_dict(kept, strict=False)
    return (f'start finetuning from {path} ({dialect}, x{found["scale"]}): '
            + ('all layers kept' if same_scale else f'all kept but the upsampler, which is new for x{size["scale"]}'))


def restore(optimiser, scaler, resumed):
    """Load the state of both from a checkpoint, which may be of another device, precision or torch."""
    groups = optimiser.state_dict()['param_groups']  # the saved ones name the kernel (fused) of where they were made
    optimiser.load_state_dict({'state': resumed['optimizer']['state'], 'param_groups': groups})
    for parameter, state in optimiser.state.items():
        for name, value in state.items():
            if torch.is_tensor(value) and value.shape == parameter.shape and value.stride() != parameter.stride():
                state[name] = torch.empty_like(parameter).copy_(value)  # the fused kernel reads memory, not indices
    if resumed['scaler']:  # empty: the run was not in fp16
        scaler.load_state_dict(resumed['scaler'])


def share_weights(network, size, compiled):
    """A second RCAN over the same parameters, its residual groups compiled; the first one stays free for any size."""
    if not compiled:
        return network
    if not hasattr(torch.nn.Module, 'compile'):
        raise ValueError(f'--compile needs torch 2.2 or later, this is {torch.__version__}; leave it out')
    twin = RCAN(**size)
    twin.load_state_dict(network.state_dict(keep_vars=True), assign=True)
    for group in twin.rgs:
        group.compile()
    return twin


class Meter(runs.Meter):
    """Losses stay on the device until they are read, since reading waits for it; on CPU each is looked at at once."""

    def __init__(self, device, batch_size, batches):
        self._device = device
        super().__init__(batches, batch_size, 'A smaller --lr helps, or --amp_dtype=bf16, or a lower --loss_scale',
                         at_once=device.kind == 'cpu')

    def values(self, losses):
        return torch.stack(losses).float().tolist()  # one copy from the device

    def synchronize(self):
        self._device.synchronize()

    def mean(self, loss):
        return self._device.mean_over_ranks(torch.tensor(loss, device=self._device.torch)).item()


class StopRequest(runs.StopRequest):
    """Rank 0 saves and leaves; that breaks off what the other ranks do, quietly."""

    def __init__(self, device):
        self._follows = device.rank > 0

    def __exit__(self, kind, error, trace):
        super().__exit__(kind, error, trace)
        return bool(self.asked and self._follows and isinstance(error, RuntimeError))
