"""Which convolutions EDSR has on a device. The rest of what differs between devices is in common/ms/devices.py."""
import functools

from common.ms import devices
from common.ms.kernels import native_convolution
from src.model import builtin_convolution


class Device(devices.Device):
    def convolution(self, kernels='auto'):
        """The 3x3 convolution for EDSR(conv=...): MindSpore's own, or our compiled one. kernels: as native() has it."""
        return native_convolution if self.native(kernels) else builtin_convolution


open_device = functools.partial(devices.open_device, kind_of_device=Device)
