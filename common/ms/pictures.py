"""A network as a function from pictures to pictures; each directory's upscaler.py adds what it knows of its own."""
import mindspore as ms
import numpy as np
from mindspore import Tensor, nn

from common.ms.kernels import lacked_memory


class PictureFunction:
    """A function lr -> sr over a network: float32 RGB [H,W,3] in 0..255 to float32 RGB [sH,sW,3] in 0..255.

    scale: of the network. unit: sides that are not multiples of it are extended by reflection, at the bottom and right,
    and the result is cropped. inference: a Cell that computes the same, if not the network itself. One graph serves
    pictures of all sizes: a graph of each size takes seconds to compile and its memory is never freed.
    """

    def __init__(self, network, unit=1, inference=None):
        self.network, self.scale, self.unit, self._graph = network, network.scale, unit, None
        self._inference = inference or network

    def __call__(self, lr):
        lr = np.asarray(lr)
        if lr.ndim != 3 or lr.shape[2] != 3 or 0 in lr.shape:
            raise ValueError(f'a picture of shape {lr.shape}; expected RGB [H,W,3]')
        height, width, factor = *lr.shape[:2], np.float32(self.network.rgb_range / 255)
        missing = ((0, -height % self.unit), (0, -width % self.unit), (0, 0))
        x = np.array(np.pad(lr, missing, 'reflect').transpose(2, 0, 1)[None], np.float32, order='C')  # [1,3,H,W]
        try:
            sr = self.graph(*x.shape[2:])(Tensor(x * factor)).asnumpy()[0]  # [3,sH,sW]
        except Exception as error:
            self._graph = None  # MindSpore refuses a graph that has failed once, even if memory ran out and came back
            if lacked_memory(error):
                raise MemoryError('no memory for a layer') from None
            raise
        sr = sr[:, :self.scale * height, :self.scale * width].transpose(1, 2, 0)
        return np.ascontiguousarray(sr, np.float32) / factor  # float16 comes from AMP levels

    def graph(self, height, width):
        """The graph for extended pictures of that size."""
        if self._graph is None:
            self._graph = AnySize(self._inference)
        return self._graph


class AnySize(nn.Cell):
    def __init__(self, network):
        super().__init__(auto_prefix=False)  # the parameters keep their names
        self.network = network
        self.set_inputs(Tensor(shape=[1, 3, None, None], dtype=ms.float32))

    def construct(self, lr):
        return self.network(lr)
