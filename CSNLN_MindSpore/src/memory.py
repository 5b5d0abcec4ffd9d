"""How much memory upscaling takes, and how much there is."""
import contextlib

ON_OTHER_DEVICES = 8e9  # bytes; what is free there is known only once MindSpore holds it
SCORES, MAPS = 6.5, {2: 125, 3: 200, 4: 400}


def limit(kind, given=None):
    """Bytes that upscaling may take on a device of that kind: those given, or of a CPU half of what is free."""
    if given:
        return given
    free = free_memory() if kind == 'cpu' else None
    return free / 2 if free else ON_OTHER_DEVICES


def free_memory():
    """Bytes that a process can still have without swapping, as Linux tells; None on other systems."""
    with contextlib.suppress(OSError), open('/proc/meminfo', encoding='ascii') as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith('MemAvailable'))
    return None


def peak(network, height, width):
    """Bytes that a pass of the network takes for an LR picture of so many pixels, beside its weights: an estimate."""
    pixels = height * width * (4 if network.scale == 4 else 1)
    return 4 * pixels * (SCORES * pixels + MAPS[network.scale] * network.n_feats)
