"""Networks that enlarge pictures as MINDIR, ONNX and AIR files, each compared with the network before it is kept.

A file takes `image` [N,3,H,W] and gives `HR_image` [N,3,sH,sW], float32 RGB in 0..255, whatever the network's range.
"""
import os
import shutil
import tempfile
from collections import namedtuple

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn

from common import checkpoints, images
from common.metrics import psnr
from common.ms.checkpoint import weights_of
from common.ms.devices import available
from common.ms.mindir import Mindir, show
from common.resize import imresize

TOLERANCE = 0.01  # dB
SMALLEST = 3  # LR pixels a side: PSNR leaves out one at each border
PHOTO = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), 'sample', 'chelsea.png')
FORMATS = {'MINDIR': '.mindir', 'ONNX': '.onnx', 'AIR': '.air'}
OPSET, ONNX_VERSION = 17, 8  # operators, and the file format of their time, which older runtimes read, too

Target = namedtuple('Target', 'kind output shape photo')  # key of FORMATS; file; (N, 3, H, W), 0: free; [H,W,3]


def add_options(add):
    """The options that target() reads; add: parser.add_argument."""
    add('--file_name', default='', help="file to write, or folder for one of the checkpoint's name; empty: beside it")
    add('--file_format', default='', choices=('', *FORMATS), help='empty: by the extension of --file_name, else MINDIR')
    for name in ('batch_size', 'height', 'width'):
        add(f'--{name}', type=int, default=0, help='of the input; 0: free (AIR has nothing free, but a default)')
    add('--photo', default=PHOTO, help='picture to compare on')


def target(options, air_shape):
    """The Target that options ask for, after a look whether it can be written here: else ValueError.

    air_shape: (N, 3, H, W) of an AIR where options leave it free.
    """
    kind, output = destination(options)
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
    if kind == 'AIR':
        if not available('npu'):
            raise ValueError('AIR can be written on an Ascend NPU only, and MindSpore finds none here; MINDIR and ONNX '
                             'can be written anywhere, and Ascend runs a MINDIR, too')
        shape = tuple(side or fixed for side, fixed in zip(shape, air_shape))
    return Target(kind, output, shape, images.read(options.photo, channels=3))


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


def export(wanted, upscale, write_onnx, sides):
    """Write the Target, compare it with the network, keep it where both are equal and say so; else ValueError.

    upscale: function lr -> sr with .network and .scale; write_onnx(network, shape, path); sides: of compare().
    """
    network, shape = upscale.network, wanted.shape

    def write(path):
        if wanted.kind == 'ONNX':
            write_onnx(network, shape, path)
        else:
            write_by_mindspore(network, shape, wanted.kind, path)
        if wanted.kind == 'AIR':
            print('not compared with the network: nothing here runs AIR')
            return
        exported = run_onnx(path, shape[0] or 1) if wanted.kind == 'ONNX' else Mindir(path)
        for ours, theirs in compare(exported, upscale, shape, wanted.photo, sides):
            print(f'network {ours:.4f} dB, {wanted.kind} {theirs:.4f} dB')
    checkpoints.save(wanted.output, write)


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
        there = os.path.join(folder, 'network' + FORMATS[kind])
        ms.export(In255(network), image, file_name=there, file_format=kind, **more)
        shutil.copyfile(there, path)


def name_output(model):
    """Call the output of a MINDIR `HR_image`; its input has the name of construct's argument."""
    output = model.graph.output[0]
    node = next(node for node in model.graph.node if output.name in node.output)
    node.name = node.output[0] = output.name = f'{output.name.split(":")[0]}:HR_image'


class Nodes:
    """An ONNX graph, put together from a network's weights: MindSpore's own exporter knows fixed sizes only.

    A tensor is its name; a constant that is asked for again is the same one.
    """

    def __init__(self, network):
        self.network, self.weights = network, weights_of(network)
        self._nodes, self._constants = [], {}

    def node(self, kind, *inputs, **attributes):
        """The first output of that operator of ONNX."""
        from onnx import helper
        self._nodes.append(helper.make_node(kind, inputs, [f'{kind}_{len(self._nodes)}'], **attributes))
        return self._nodes[-1].output[0]

    def constant(self, name, value, dtype=np.float32):
        if name not in self._constants:
            from onnx import numpy_helper
            self._constants[name] = numpy_helper.from_array(np.asarray(value, dtype), name)
        return name

    def conv(self, x, name, kind='Conv', stride=1):
        """The convolution, or ConvTranspose, of that name and stride, with its bias if it has one, and zeros around x
        so that its size changes by the stride alone.
        """
        names = [self.constant(f'{name}.{part}', self.weights[f'{name}.{part}']) for part in ('weight', 'bias')
                 if f'{name}.{part}' in self.weights]
        side = self.weights[names[0]].shape[2]
        return self.node(kind, x, *names, strides=[stride] * 2, pads=[(side - stride) // 2] * 4)

    def write(self, construct, shape, path):
        """Save the graph of construct(x) -> sr, tensors in the network's range. shape: (N, 3, H, W), 0: free."""
        import onnx
        from onnx import TensorProto, helper
        to_range = self.constant('to_range', self.network.rgb_range / 255)
        self.node('Div', construct(self.node('Mul', 'image', to_range)), to_range)
        self._nodes[-1].output[0] = 'HR_image'
        larger = (shape[0], 3, self.network.scale * shape[2], self.network.scale * shape[3])
        ends = [helper.make_tensor_value_info(end, TensorProto.FLOAT, [side or name for side, name in zip(sides, free)])
                for end, sides, free in (('image', shape, 'nchw'), ('HR_image', larger, ('n', 'c', 'sh', 'sw')))]
        name = type(self.network).__name__
        graph = helper.make_graph(self._nodes, name, ends[:1], ends[1:], list(self._constants.values()))
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid('', OPSET)], ir_version=ONNX_VERSION,
                                  producer_name=f'{name}_MindSpore')
        onnx.checker.check_model(model)
        onnx.save(model, path)


def run_onnx(path, batch):
    """A function lr -> sr over an ONNX file that takes `batch` pictures at a time."""
    import onnxruntime
    session = onnxruntime.InferenceSession(path, providers=['CPUExecutionProvider'])

    def upscale(lr):
        image = np.repeat(lr.transpose(2, 0, 1)[None], batch, axis=0)
        return session.run(['HR_image'], {'image': image})[0][-1].transpose(1, 2, 0)
    return upscale


def compare(exported, upscale, shape, photo, sides):
    """[(network's PSNR, the file's PSNR)] at one or two sizes of a photograph. Raises ValueError where they differ.

    exported, upscale: functions lr -> sr. shape: (N, 3, H, W), 0: free, for which sides has two (height, width); a
    photograph too small for one is reflected.
    """
    scores, scale = [], upscale.scale
    for height, width in dict.fromkeys((shape[2] or side, shape[3] or other) for side, other in sides):
        missing = [max(scale * side - there, 0) for side, there in zip((height, width), photo.shape)]
        hr = np.pad(photo, [(0, pixels) for pixels in missing] + [(0, 0)], 'reflect')[:scale * height, :scale * width]
        lr = imresize(hr, 1 / scale).astype(np.float32)
        ours, theirs = (psnr(one(lr).clip(0, 255), hr, crop_border=scale, channel='y') for one in (upscale, exported))
        scores.append((ours, theirs))
        if not abs(ours - theirs) <= TOLERANCE:
            raise ValueError(f'the exported file gives {theirs:.4f} dB on {width}x{height}, the network {ours:.4f} dB: '
                             'refused, nothing was written')
    return scores
