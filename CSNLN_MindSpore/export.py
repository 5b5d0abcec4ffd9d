"""bash run_export.sh output/X2/model_best.ckpt csnln_x2.mindir

Writes a network as MINDIR, ONNX or AIR: input `image` [N,3,H,W] and output `HR_image` [N,3,sH,sW], float32 RGB in
0..255; N, H and W are free but for those that are given, H and W multiples of 2, at x3 of 3. MindSpore or onnxruntime
then runs the file on a photograph, at two sizes where they are free, and it is kept only where its PSNR is the
network's. (Nothing can run AIR here.)
"""
import os

import numpy as np

from common import cli
from common.ms.export import Nodes, add_options, export, target
from common.ms.mindir import show
from src.attention import OVERLAP, SHARPNESS, SMALLEST_NORM
from src.CSNLN import COMPATS
from upscaler import load

AIR_SHAPE = (1, 3, 48, 48)  # the LR patches of the paper
SIDES = (24, 30), (18, 12)  # LR pixels of the photograph: attention of MindSpore's operators takes much memory
END = np.iinfo(np.int32).max  # of a slice that goes on to the end


class CSNLNNodes(Nodes):
    """A CSNLN in ONNX's operators; the methods are the cells of src/CSNLN.py and src/attention.py."""

    def __init__(self, network):
        super().__init__(network)
        self.n_feats, self.paper = network.n_feats, network.compat == 'paper'
        self.factor = 3 if network.scale == 3 else 2

    def network_of(self, lr):
        x, sr = self.conv(lr, 'sub_mean') if self.paper else lr, None
        for i in range(2):
            x = self.active(x, f'head.{i}')
        for i in range(self.network.depth):
            x, h = self.recurrent_projection(x)
            kernel = self.weights['tail.0.weight'][:, i * self.n_feats:(i + 1) * self.n_feats]
            bias = [self.constant('tail.0.bias', self.weights['tail.0.bias'])] if self.paper and not i else []
            part = self.node('Conv', h, self.constant(f'tail.0.weight.{i}', kernel), *bias, pads=[1] * 4)
            sr = self.node('Add', sr, part) if i else part
        return self.conv(sr, 'add_mean') if self.paper else sr

    def recurrent_projection(self, x):
        h = self.projected(x, x, 'multi_source_projection', 'down_sample_1', 'error_encode', self.factor)
        if self.network.scale != 4:
            return self.active(self.active(h, 'SEM.down_sample_2', 'Conv', self.factor), 'SEM.post_conv'), h
        h = self.projected(x, h, 'multi_source_projection_2', 'down_sample_3', 'error_encode_2', 4)
        return self.active(self.active(h, 'SEM.down_sample_4', 'Conv', 4), 'SEM.post_conv'), h

    def projected(self, x, features, projection, down, encode, stride):
        """The enlarged features, and what they lack of x."""
        up = self.multi_source_projection(features, f'SEM.{projection}')
        error = self.node('Sub', x, self.active(up, f'SEM.{down}', 'Conv', stride))
        return self.node('Add', up, self.active(error, f'SEM.{encode}', 'ConvTranspose', stride))

    def multi_source_projection(self, x, name):
        down = self.in_scale(x, f'{name}.down_attention')
        down = self.active(down, f'{name}.upsample', 'ConvTranspose', self.factor)
        error = self.node('Sub', self.cross_scale(x, f'{name}.up_attention'), down)
        body = f'{name}.encoder.body'
        encoded = self.conv(self.prelu(self.conv(error, f'{body}.0'), f'{body}.1.w'), f'{body}.2')
        return self.node('Add', down, self.node('Add', error, encoded))

    def in_scale(self, x, name):
        query, key, v = (self.active(x, f'{name}.{part}') for part in ('conv_match1', 'conv_match2', 'conv_assembly'))
        scores = self.node('MatMul', self.swapped(self.flat(query)), self.flat(key))  # [N, queries, keys]
        found = self.node('MatMul', self.flat(v), self.swapped(self.node('Softmax', scores, axis=2)))
        return self.node('Reshape', found, self.node('Shape', v))

    def cross_scale(self, x, name):
        parts = (x, 'conv_match_1'), (self.smaller(x), 'conv_match_2'), (x, 'conv_assembly')
        query, key, v = (self.active(of, f'{name}.{part}') for of, part in parts)
        n, s = self.n_feats, self.factor
        keys, queries = self.flat(self.patches(key, n // 2)), self.flat(self.patches(query, n // 2, SHARPNESS))
        norm = self.node('ReduceL2', keys, axes=[1])
        norm = self.node('Max', norm, self.constant('smallest_norm', SMALLEST_NORM))
        scores = self.node('MatMul', self.swapped(self.node('Div', keys, norm)), queries)  # [N, keys, queries]
        values = self.flat(self.patches(self.node('SpaceToDepth', v, blocksize=s), n * s * s))
        pasted = self.node('MatMul', values, self.node('Softmax', scores, axis=1))  # [N, C*s*s*9, queries]
        size = self.node('Concat', self.whole('as_they_are', 0, -1), self.node('Shape', query, start=2), axis=0)
        pasted = self.overlaid(self.node('Reshape', pasted, size), n * s * s)
        return self.node('DepthToSpace', pasted, blocksize=s)

    def smaller(self, x):
        s, first = self.factor, 1 if self.paper else 0
        if self.paper and s == 2:
            return self.node('AveragePool', x, kernel_shape=[2, 2], strides=[2, 2])
        return self.node('Slice', x, self.whole('first', first, first), self.whole('end', END, END),
                         self.whole('axes', 2, 3), self.whole('steps', s, s))

    def patches(self, x, channels, factor=1):
        """The 3x3 neighbourhoods, zeros around, times factor: [N,C,H,W] to [N,C*9,H,W]."""
        kernel = self.constant(f'patches_of_{channels}_times_{factor}', factor * one_hot(channels))
        return self.node('Conv', x, kernel, group=channels, pads=[1] * 4)

    def overlaid(self, pasted, channels):
        """The sum [N,C,H,W] of what the 3x3 neighbourhoods, [N,C*9,H,W], lay on each pixel, divided by OVERLAP."""
        kernel = self.constant('overlaid', one_hot(channels) / OVERLAP)
        return self.node('ConvTranspose', pasted, kernel, group=channels, pads=[1] * 4)

    def active(self, x, name, kind='Conv', stride=1):
        """A convolution and its PReLU."""
        return self.prelu(self.conv(x, f'{name}.0', kind, stride), f'{name}.1.w')

    def prelu(self, x, name):
        return self.node('PRelu', x, self.constant(name, self.weights[name].reshape(-1, 1, 1)))

    def flat(self, x):
        return self.node('Reshape', x, self.whole('flat', 0, 0, -1))  # [N,C,H*W]

    def swapped(self, x):
        return self.node('Transpose', x, perm=[0, 2, 1])

    def whole(self, name, *numbers):
        return self.constant(name, numbers, np.int64)


def one_hot(channels):
    """Of each channel, 9 kernels 3x3 that take one pixel each: [C*9,1,3,3]."""
    return np.tile(np.eye(9), (channels, 1)).reshape(-1, 1, 3, 3)


def write_onnx(network, shape, path):
    """A CSNLN as ONNX. shape: (N, 3, H, W), 0: free."""
    nodes = CSNLNNodes(network)
    nodes.write(nodes.network_of, shape, path)


def main(argv=None):
    parser = cli.Parser(description=__doc__)
    add = parser.add_argument
    add('--ckpt_path', required=True, help="checkpoint of train.py or of the released port, or authors' .pt")
    add_options(add)
    for name, kind in (('scale', int), ('depth', int), ('n_feats', int), ('rgb_range', float)):
        add(f'--{name}', type=kind, default=None, help="must be the checkpoint's when given")
    add('--compat', default=None, choices=COMPATS, help="must be the checkpoint's when given")
    options = parser.parse_args(argv)
    wanted = target(options, AIR_SHAPE)
    upscale = load(options.ckpt_path, scale=options.scale, device='npu' if wanted.kind == 'AIR' else 'cpu',
                   kernels='builtin', compat=options.compat,
                   size=[(name, getattr(options, name)) for name in ('depth', 'n_feats', 'rgb_range')])
    network, unit = upscale.network, upscale.network.unit
    if any(side % unit for side in wanted.shape[2:]):
        raise ValueError(f'--height={options.height} --width={options.width}: expected 0 (free) or multiples of '
                         f'{unit}, which the network takes at x{network.scale}')
    export(wanted, upscale, write_onnx, SIDES)
    print(f'written to {wanted.output}: x{network.scale}, compat {network.compat}, input {show(wanted.shape)}, '
          f'{os.path.getsize(wanted.output):,} bytes')


if __name__ == '__main__':
    cli.run(main)
