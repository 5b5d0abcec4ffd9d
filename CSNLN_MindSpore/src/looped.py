"""The same network in a graph that holds the recurrent cell once, in a loop: quicker to compile, and far less memory.

MindSpore 2.8 on a CPU keeps arrays with many of its operators, transpositions and products of matrices among them, for
as long as the graph is there. Training needs the cell `depth` times over, for its gradient.
"""
import mindspore as ms
from mindspore import Tensor, nn, ops


class Looped(nn.Cell):  # a CSNLN, [N,3,H,W] to [N,3,sH,sW]; what is done to its weights is seen
    def __init__(self, network):
        super().__init__(auto_prefix=False)  # the parameters keep their names
        self.network = network

    def construct(self, lr):
        network = self.network
        paper, tail, n_feats = network.compat == 'paper', network.tail[0], network.n_feats
        x = network.head(network.sub_mean(lr) if paper else lr)  # [N,C,H,W]
        kernels, taps = network.SEM.kernels(), tail.weight.reshape(3, -1, n_feats, 3, 3).transpose(1, 0, 2, 3, 4)
        n, _, height, width = x.shape
        sr, i = ops.zeros((n, 3, network.scale * height, network.scale * width), ms.float32), Tensor(0, ms.int32)
        while i < network.depth:
            x, h = network.SEM(x, kernels)
            sr = sr + tail.convolution(h, ops.gather(taps, i, 0), None)
            i = i + 1
        return network.add_mean(sr + tail.bias.reshape(1, 3, 1, 1)) if paper else sr
