"""bash run_export.sh output/X2/edsr_best.ckpt edsr_x2.mindir

Writes a network as MINDIR, ONNX or AIR: input `image` [N,3,H,W] and output `HR_image` [N,3,sH,sW], float32 RGB in
0..255; N, H and W are free but for those that are given. MindSpore or onnxruntime then runs the file on a photograph,
at two sizes where they are free, and it is kept only where its PSNR is the network's. (Nothing can run AIR here.)
"""
import os

from common import cli
from common.ms.export import Nodes, add_options, export, target
from common.ms.mindir import show
from src.args import chosen_scale, scales
from upscaler import load

AIR_SHAPE = (1, 3, 678, 1020)  # what the released port exported
SIDES = (120, 180), (35, 53)  # LR pixels of the photograph


def write_onnx(network, shape, path):
    """An EDSR as ONNX. shape: (N, 3, H, W), 0: free."""
    nodes, res_scale = Nodes(network), network.body[0].res_scale

    def construct(lr):
        x = head = nodes.conv(nodes.conv(lr, 'sub_mean'), 'head.0')
        for block in range(network.n_resblocks):
            residual = nodes.conv(nodes.node('Relu', nodes.conv(x, f'body.{block}.body.0')), f'body.{block}.body.2')
            x = nodes.node('Add', x, nodes.node('Mul', residual, nodes.constant('res_scale', res_scale)))
        x = nodes.node('Add', head, nodes.conv(x, f'body.{network.n_resblocks}'))
        for layer, factor in enumerate((2, 2) if network.scale == 4 else (network.scale,)):
            x = nodes.node('DepthToSpace', nodes.conv(x, f'tail.0.{2 * layer}'), blocksize=factor, mode='CRD')
        return nodes.conv(nodes.conv(x, 'tail.1'), 'add_mean')
    nodes.write(construct, shape, path)


def main(argv=None):
    parser = cli.Parser(description=__doc__)
    add = parser.add_argument
    add('--ckpt_path', required=True, help="checkpoint of train.py or of a MindSpore port, authors' .pt, BasicSR .pth")
    add_options(add)
    add('--scale', type=scales, default=None, help="must be the checkpoint's when given; of 2+3, that of --task_id")
    add('--task_id', type=int, default=0, help='which of several scales, counted from 0')
    for name, kind in (('n_resblocks', int), ('n_feats', int), ('rgb_range', float)):
        add(f'--{name}', type=kind, default=None, help="must be the checkpoint's when given")
    add('--res_scale', type=float, default=None, help='of a file that does not hold it; else must be its own')
    add('--n_colors', type=int, default=3, choices=(3,), help='RGB')
    options = parser.parse_args(argv)
    wanted = target(options, AIR_SHAPE)
    upscale = load(options.ckpt_path, scale=chosen_scale(options), device='npu' if wanted.kind == 'AIR' else 'cpu',
                   kernels='builtin', res_scale=options.res_scale,
                   size=[(name, getattr(options, name)) for name in ('n_resblocks', 'n_feats', 'rgb_range')])
    export(wanted, upscale, write_onnx, SIDES)
    print(f'written to {wanted.output}: x{upscale.scale}, res_scale {upscale.network.body[0].res_scale:g}, input '
          f'{show(wanted.shape)}, {os.path.getsize(wanted.output):,} bytes')


if __name__ == '__main__':
    cli.run(main)
