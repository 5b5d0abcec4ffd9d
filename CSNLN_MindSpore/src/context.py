"""Which layers CSNLN has on a device. The rest of what differs between devices is in common/ms/devices.py."""
from common.ms.devices import Device, open_device
from src import memory
from src.attention import Builtin
from src.native import Native

__all__ = ['Device', 'layers', 'open_device']


def layers(device, kernels='auto', memory_limit=None):
    """What computes a network, for CSNLN(layers=...): MindSpore's operators, or on a CPU our compiled kernels.

    kernels: as Device.native() has it. memory_limit: bytes that one pass may take, of which MindSpore's attention has a
    quarter for its scores (ours needs hardly any); None: half of what is free.
    """
    return Native() if device.native(kernels) else Builtin(memory=int(memory.limit(device.kind, memory_limit) / 4))
