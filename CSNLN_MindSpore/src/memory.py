"""How much memory upscaling takes, and how much there is; all in bytes."""
import contextlib
from pathlib import Path
from typing import NamedTuple

from src.attention import InScale

# the most that a container may have, of which /proc/meminfo knows nothing; 'max' where there is no bound
OF_CONTAINERS = Path('/sys/fs/cgroup/memory.max'), Path('/sys/fs/cgroup/memory/memory.limit_in_bytes')
ON_OTHER_DEVICES = 16e9  # what is free there is known only once MindSpore holds it


class Costs(NamedTuple):
    """What a process grows by, beside the weights: measured on a CPU for 32 to 128 channels and depths of 2 to 12."""

    graph: float   # for any network
    kernel: float  # times channels squared
    maps: float    # for each channel of an LR pixel


CELL = 3e6  # for each time that the recurrent cell runs
SCORES = 7.6  # of MindSpore's operators: all of an attention at once, for each query and key
BLOCKS = 3, 100e6, 20e3  # by blocks: times the memory that Builtin() was told; a graph of its own; for each query
BUILTIN = {2: Costs(180e6, 2300, 390), 3: Costs(190e6, 6000, 760), 4: Costs(205e6, 6400, 2150)}
NATIVE = {2: Costs(78e6, 4200, 118), 3: Costs(80e6, 9500, 213), 4: Costs(120e6, 13700, 527)}


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
    return at_once, at_once if bound is None else BLOCKS[0] * bound + BLOCKS[1] + BLOCKS[2] * queries


def peak(network, height, width):
    """Bytes that a pass of the network takes for an LR picture of so many pixels, beside its weights: an estimate."""
    taken = scores(network, height, width)
    costs = (BUILTIN if taken[0] else NATIVE)[network.scale]
    return (costs.graph + CELL * network.depth + costs.kernel * network.n_feats ** 2
            + costs.maps * network.n_feats * height * width + min(taken))
