"""How much memory upscaling takes, and how much there is; all in bytes."""
import contextlib
from pathlib import Path
from typing import NamedTuple

from src.attention import InScale

# the most that a container may have, of which /proc/meminfo knows nothing; 'max' where there is no bound
OF_CONTAINERS = Path('/sys/fs/cgroup/memory.max'), Path('/sys/fs/cgroup/memory/memory.limit_in_bytes')
ON_OTHER_DEVICES = 8e9  # what is free there is known only once MindSpore holds it


class Costs(NamedTuple):
    """What a process grows by, beside the weights: measured on a CPU for 32 to 128 channels and depths of 2 to 12."""

    graph: float   # for any network
    cell: float    # for each time that the recurrent cell runs
    kernel: float  # likewise, times channels squared
    maps: float    # for each channel of an LR pixel


SCORES = 7.6  # of MindSpore's operators: all of an attention at once, for each query and key
BLOCKS = 2    # by blocks, times the memory that Builtin() was told
BUILTIN = {2: Costs(184e6, 8e6, 360, 370), 3: Costs(240e6, 2e6, 540, 650), 4: Costs(196e6, 9e6, 520, 2250)}
NATIVE = {2: Costs(73e6, 6.8e6, 1350, 111), 3: Costs(72e6, 3.7e6, 3550, 203), 4: Costs(91e6, 26e6, 640, 523)}


def limit(kind, given=None):
    """Bytes that upscaling may take on a device of that kind: those given, or of a CPU half of what is free."""
    if given:
        return given
    free = free_memory() if kind == 'cpu' else None
    return free / 2 if free else ON_OTHER_DEVICES


def free_memory():
    """Bytes that a process can still have without swapping, as Linux tells; None on other systems."""
    with contextlib.suppress(OSError), open('/proc/meminfo', encoding='ascii') as file:
        free = next(int(line.split()[1]) * 1024 for line in file if line.startswith('MemAvailable'))
        return min([free, *(int(path.read_text()) for path in OF_CONTAINERS if path.is_file()
                            and path.read_text().strip().isdigit())])
    return None


def scores(network, height, width):
    """(bytes that an attention by MindSpore's operators takes for all its scores at once, those that it may take by
    blocks); by our kernels (0, 0).
    """
    attention = network.SEM.multi_source_projection.down_attention.attention
    if not isinstance(attention, InScale):
        return 0, 0
    queries = height * width * (4 if network.scale == 4 else 1)  # x4 has an attention on the map of x2
    at_once, bound = SCORES * queries ** 2, attention.weigh.memory
    return at_once, at_once if bound is None else BLOCKS * bound


def peak(network, height, width):
    """Bytes that a pass of the network takes for an LR picture of so many pixels, beside its weights: an estimate."""
    taken = scores(network, height, width)
    costs = (BUILTIN if taken[0] else NATIVE)[network.scale]
    return (costs.graph + network.depth * (costs.cell + costs.kernel * network.n_feats ** 2)
            + costs.maps * network.n_feats * height * width + min(taken))
