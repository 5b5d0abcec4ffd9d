"""Which layers CSNLN has on a device. The rest of what differs between devices is in common/ms/devices.py."""
from mindspore import ops

from common.ms.devices import Device, open_device
from src import memory
from src.attention import Builtin
from src.native import Native

__all__ = ['Device', 'layers', 'open_device']


def layers(device, kernels='auto', memory_limit=None, product=ops.bmm):
    """What computes a network, for CSNLN(layers=...): MindSpore's operators, or on a CPU our compiled kernels.

    kernels: as Device.native() has it. memory_limit: bytes that one pass may take, of which MindSpore's attention has a
    quarter for its scores (ours needs hardly any); None: half of what is free. product: of MindSpore's attention.
    """
    if device.native(kernels):
        return Native()
    return Builtin(product, int(memory.limit(device.kind, memory_limit) / 4))
