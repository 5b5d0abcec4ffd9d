"""MINDIR files of networks that enlarge pictures, run by MindSpore."""
import mindspore as ms
import numpy as np
from google.protobuf.message import DecodeError
from mindspore import Tensor, nn
from mindspore.train.mind_ir_pb2 import ModelProto, TensorProto

from common.tiles import is_out_of_memory

PROBE = 12  # LR pixels a side: what a free height and width are tried with


class Mindir:
    """A function lr -> sr over a MINDIR file: float32 RGB [H,W,3] in 0..255 to [sH,sW,3], neither clipped nor rounded.

    graph: as read_graph() gives it. .shape: the (N, 3, H, W) that the file takes, 0 where any will do. .scale: the s
    that its output shows. Raises ValueError for what is no MINDIR, and for one that does not turn pictures into larger
    ones.
    """

    def __init__(self, path, graph=None):
        graph = graph or read_graph(path)
        self.shape, made = ([max(side, 0) for side in value.tensor[0].dims] for value in (*graph.input, *graph.output))
        try:
            self._graph, self._cell = ms.load(str(path)), None
        except RuntimeError:  # the reason is on stderr
            raise ValueError(f'{path}: MindSpore {ms.__version__} cannot load it; export it anew') from None
        probe = [side or PROBE for side in self.shape]
        made = made if all(made) else self.infer(np.zeros(probe, np.float32)).shape
        self.scale = made[-1] // probe[3]
        if list(made[1:]) != [3, self.scale * probe[2], self.scale * probe[3]]:
            raise ValueError(f'{path}: makes {made[1:]} of {probe[1:]}; expected a network that enlarges pictures')

    def __call__(self, lr):
        """The size must be the file's where that is fixed."""
        batch = np.repeat(lr.transpose(2, 0, 1)[None], self.shape[0] or 1, axis=0)
        return self.infer(batch)[0].transpose(1, 2, 0)

    def infer(self, batch):
        """float32 [N,3,H,W] to [N,3,sH,sW]. Raises ValueError where the device lacks an operator of the file."""
        if self._cell is None:
            self._cell = nn.GraphCell(self._graph)
            if 0 in self.shape:  # else it would be compiled for every size anew, and all of these kept in memory
                self._cell.set_inputs(Tensor(shape=[side or None for side in self.shape], dtype=ms.float32))
        try:
            return self._cell(Tensor(batch)).asnumpy()
        except (RuntimeError, TypeError) as error:
            self._cell = None  # MindSpore refuses a graph that has failed once, even if memory ran out and came back
            if is_out_of_memory(error):
                raise
            raise ValueError(f'MindSpore cannot run the MINDIR here: {" ".join(str(error).split())[:300]}') from None


def read_graph(path):
    """The graph of a MINDIR file that takes and gives one float32 tensor of four axes."""
    model = ModelProto()
    with open(path, 'rb') as file:
        try:
            model.ParseFromString(file.read())
        except (DecodeError, ValueError):  # ValueError: text in it that is none
            model.Clear()
    if not str(path).endswith('.mindir') or not model.graph.node:
        raise ValueError(f'{path}: no MINDIR, or an encrypted one; expected a .mindir file as export.py writes it')
    graph = model.graph
    for values, what in ((graph.input, 'takes'), (graph.output, 'gives')):
        found = [(list(tensor.dims), tensor.data_type) for value in values for tensor in value.tensor]
        if [(len(dims), kind) for dims, kind in found] != [(4, TensorProto.FLOAT)]:
            raise ValueError(f'{path}: {what} {[dims for dims, _ in found]}; expected one float32 [N,3,H,W]')
    return graph


def show(shape):
    """[N,3,H,W] with numbers for what is fixed."""
    return '[' + ','.join(str(side or name) for side, name in zip(shape, 'NCHW')) + ']'
