"""bash run_export.sh output/X2/edsr_best.ckpt edsr_x2.mindir

Writes a network as MINDIR, ONNX or AIR: input `image` [N,3,H,W] and output `HR_image` [N,3,sH,sW], float32 RGB in
0..255; N, H and W are free but for those that are given. MindSpore or onnxruntime then runs the file on a photograph,
at two sizes where they are free, and it is kept only where its PSNR is the network's. (Nothing can run AIR here.)
"""

import os
import shutil
import tempfile

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn

from common import checkpoints, cli, images
from common.metrics import psnr
from common.ms.checkpoint import weights_of
from common.ms.devices import available
from common.resize import imresize
from infer_310 import Mindir, show
from src.args import chosen_scale, scales
from upscaler import load

TOLERANCE = 0.01  # dB
SMALLEST = 3  # LR pixels a side: PSNR leaves out one at each border
PHOTO = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'common', 'sample', 'chelsea.png')
FORMATS = {'MINDIR': '.mindir', 'ONNX': '.onnx', 'AIR': '.air'}
AIR_SHAPE = (1, 3, 678, 1020)  # AIR has nothing free; this is what the released port exported
OPSET, ONNX_VERSION = 17, 8  # operators, and the file format of their time, which older runtimes read, too


class In255(nn.Cell):  # RGB in 0..255 on both sides, whatever the network's own range
    def __init__(self, network):
        super().__init__(auto_prefix=False)  # the parameters keep their names
        self.network, self.to_range = network, network.rgb_range / 255

    def construct(self, image):
        return self.network(image) if self.to_range == 1 else self.network(image * self.to_range) / self.to_range


def write_by_mindspore(network, shape, kind, path):
    """MINDIR or AIR. shape: (N, 3, H, W), 0: free."""
    image = Tensor(shape=[side or None for side in shape], dtype=ms.float32) if 0 in shape else \
        Tensor(np.zeros(shape, np.float32))
    more = {'custom_func': name_output} if kind == 'MINDIR' else {}
    with tempfile.TemporaryDirectory() as folder:  # ms.export refuses paths with a space, and takes away permissions
        there = os.path.join(folder, 'edsr' + FORMATS[kind])
        ms.export(In255(network), image, file_name=there, file_format=kind, **more)
        shutil.copyfile(there, path)


def name_output(model):
    """Call the output of a MINDIR `HR_image`; its input has the name of construct's argument."""
    output = model.graph.output[0]
    node = next(node for node in model.graph.node if output.name in node.output)
    node.name = node.output[0] = output.name = f'{output.name.split(":")[0]}:HR_image'


def write_onnx(network, shape, path):
    """An EDSR as ONNX, put together from its weights: MindSpore's own exporter knows fixed sizes only.

    shape: (N, 3, H, W), 0: free.
    """
    import onnx
    from onnx import TensorProto, helper
    larger = (shape[0], 3, network.scale * shape[2], network.scale * shape[3])
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [side or free for side, free in zip(sides, names)])
            for name, sides, names in (('image', shape, 'nchw'), ('HR_image', larger, ('n', 'c', 'sh', 'sw')))]
    nodes, constants = onnx_nodes(network, *(end.name for end in ends))
    graph = helper.make_graph(nodes, 'EDSR', ends[:1], ends[1:], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid('', OPSET)], ir_version=ONNX_VERSION,
                              producer_name='EDSR_MindSpore')
    onnx.checker.check_model(model)
    onnx.save(model, path)


def onnx_nodes(network, image, hr_image):
    """(nodes, constants) from the tensor called `image` to that called `hr_image`: construct of EDSR in ONNX."""
    from onnx import helper, numpy_helper
    weights, n_resblocks = weights_of(network), network.n_resblocks
    nodes, constants = [], []

    def node(kind, *inputs, **attributes):
        nodes.append(helper.make_node(kind, inputs, [f'{kind}_{len(nodes)}'], **attributes))
        return nodes[-1].output[0]

    def constant(name, value):
        constants.append(numpy_helper.from_array(np.asarray(value, np.float32), name))
        return name

    def conv(x, name):
        names = [constant(f'{name}.{part}', weights[f'{name}.{part}']) for part in ('weight', 'bias')]
        return node('Conv', x, *names, pads=[weights[names[0]].shape[2] // 2] * 4)

    to_range = constant('to_range', network.rgb_range / 255)
    res_scale = constant('res_scale', network.body[0].res_scale)
    x = head = conv(conv(node('Mul', image, to_range), 'sub_mean'), 'head.0')
    for block in range(n_resblocks):
        residual = conv(node('Relu', conv(x, f'body.{block}.body.0')), f'body.{block}.body.2')
        x = node('Add', x, node('Mul', residual, res_scale))
    x = node('Add', head, conv(x, f'body.{n_resblocks}'))
    for layer, factor in enumerate((2, 2) if network.scale == 4 else (network.scale,)):
        x = node('DepthToSpace', conv(x, f'tail.0.{2 * layer}'), blocksize=factor, mode='CRD')
    node('Div', conv(conv(x, 'tail.1'), 'add_mean'), to_range)
    nodes[-1].output[0] = hr_image
    return nodes, constants


def run_onnx(path, batch):
    """A function lr -> sr over an ONNX file that takes `batch` pictures at a time."""
    import onnxruntime
    session = onnxruntime.InferenceSession(path, providers=['CPUExecutionProvider'])

    def upscale(lr):
        image = np.repeat(lr.transpose(2, 0, 1)[None], batch, axis=0)
        return session.run(['HR_image'], {'image': image})[0][-1].transpose(1, 2, 0)
    return upscale


def compare(exported, upscale, shape, photo):
    """[(network's PSNR, the file's PSNR)] at one or two sizes of a photograph. Raises ValueError where they differ.

    exported, upscale: functions lr -> sr. shape: (N, 3, H, W), 0: free; a photograph too small for it is reflected.
    """
    scores, scale = [], upscale.scale
    for height, width in dict.fromkeys((shape[2] or side, shape[3] or other) for side, other in ((120, 180), (35, 53))):
        missing = [max(scale * side - there, 0) for side, there in zip((height, width), photo.shape)]
        hr = np.pad(photo, [(0, pixels) for pixels in missing] + [(0, 0)], 'reflect')[:scale * height, :scale * width]
        lr = imresize(hr, 1 / scale).astype(np.float32)
        ours, theirs = (psnr(one(lr).clip(0, 255), hr, crop_border=scale, channel='y') for one in (upscale, exported))
        scores.append((ours, theirs))
        if not abs(ours - theirs) <= TOLERANCE:
            raise ValueError(f'the exported file gives {theirs:.4f} dB on {width}x{height}, the network {ours:.4f} dB: '
                             'refused, nothing was written')
    return scores


def destination(options):
    """(format, file to write): the format as given, else by the extension of the file's name, else MINDIR.

    A folder gets a file of the checkpoint's name.
    """
    name, of_checkpoint = options.file_name, os.path.splitext(options.ckpt_path)[0]
    if name.endswith('/') or os.path.isdir(name):
        name = os.path.join(name, os.path.basename(of_checkpoint))
    stem, extension = os.path.splitext(name or of_checkpoint)
    if extension.lower() not in FORMATS.values():  # x2.5 has none
        stem, extension = stem + extension, ''
    of_name = {value: key for key, value in FORMATS.items()}.get(extension.lower())
    kind = options.file_format or of_name or 'MINDIR'
    if of_name not in (None, kind):
        raise ValueError(f'--file_name={options.file_name} --file_format={kind}: expected a name in {FORMATS[kind]}')
    return kind, stem + FORMATS[kind]


def prepare(kind, options):
    """(N, 3, H, W) of the export, 0: free, after a look whether that format can be written here: else ValueError."""
    shape = (options.batch_size, 3, options.height, options.width)
    if min(shape) < 0:
        raise ValueError(f'an input of {show(shape)}: --batch_size, --height and --width are 0 (free) or more')
    if any(0 < side < SMALLEST for side in shape[2:]):
        raise ValueError(f'--height={options.height} --width={options.width}: expected 0 (free) or {SMALLEST} LR '
                         'pixels or more, so that a picture of that size can be compared')
    if kind == 'ONNX':
        try:
            import onnx  # noqa: F401
            import onnxruntime  # noqa: F401
        except ImportError as error:
            raise ValueError(f'{error}: install onnx and onnxruntime (requirements.txt) to export') from None
    if kind != 'AIR':
        return shape
    if not available('npu'):
        raise ValueError('AIR can be written on an Ascend NPU only, and MindSpore finds none here; MINDIR and ONNX can '
                         'be written anywhere, and Ascend runs a MINDIR, too')
    return tuple(side or fixed for side, fixed in zip(shape, AIR_SHAPE))


def main(argv=None):
    parser = cli.Parser(description=__doc__)
    add = parser.add_argument
    add('--ckpt_path', required=True, help="checkpoint of train.py or of a MindSpore port, authors' .pt, BasicSR .pth")
    add('--file_name', default='', help="file to write, or folder for one of the checkpoint's name; empty: beside it")
    add('--file_format', default='', choices=('', *FORMATS), help='empty: by the extension of --file_name, else MINDIR')
    for name in ('batch_size', 'height', 'width'):
        add(f'--{name}', type=int, default=0, help='of the input; 0: free (AIR: as the released port had it)')
    add('--scale', type=scales, default=None, help="must be the checkpoint's when given; of 2+3, that of --task_id")
    add('--task_id', type=int, default=0, help='which of several scales, counted from 0')
    for name, kind in (('n_resblocks', int), ('n_feats', int), ('rgb_range', float)):
        add(f'--{name}', type=kind, default=None, help="must be the checkpoint's when given")
    add('--res_scale', type=float, default=None, help='of a file that does not hold it; else must be its own')
    add('--n_colors', type=int, default=3, choices=(3,), help='RGB')
    add('--photo', default=PHOTO, help='picture to compare on')
    options = parser.parse_args(argv)
    kind, output = destination(options)
    shape = prepare(kind, options)
    upscale = load(options.ckpt_path, scale=chosen_scale(options), device='npu' if kind == 'AIR' else 'cpu',
                   kernels='builtin', res_scale=options.res_scale,
                   size=[(name, getattr(options, name)) for name in ('n_resblocks', 'n_feats', 'rgb_range')])
    network, photo = upscale.network, images.read(options.photo, channels=3)

    def write(path):
        if kind == 'ONNX':
            write_onnx(network, shape, path)
        else:
            write_by_mindspore(network, shape, kind, path)
        if kind == 'AIR':
            print('not compared with the network: nothing here runs AIR')
            return
        exported = run_onnx(path, shape[0] or 1) if kind == 'ONNX' else Mindir(path)
        for ours, theirs in compare(exported, upscale, shape, photo):
            print(f'network {ours:.4f} dB, {kind} {theirs:.4f} dB')
    checkpoints.save(output, write)
    print(f'written to {output}: x{network.scale}, res_scale {network.body[0].res_scale:g}, input {show(shape)}, '
          f'{os.path.getsize(output):,} bytes')


if __name__ == '__main__':
    cli.run(main)
