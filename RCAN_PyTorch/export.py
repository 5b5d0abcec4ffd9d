"""bash run_export.sh output/X2/model_best_amp.pth rcan_x2.onnx

Writes a network as ONNX: input `image` [N,3,H,W] and output `HR_image` [N,3,sH,sW], float32 RGB in 0..255, N, H and W
free. The file is run by onnxruntime on a photograph at two sizes, and kept only where its PSNR is the network's.
"""

import inspect
import os
import warnings

import numpy as np
import torch

from common import checkpoints, cli, images
from common.metrics import psnr
from common.resize import imresize, mod_crop
from upscaler import load

TOLERANCE = 0.01  # dB
PHOTO = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'common', 'sample', 'chelsea.png')


class In255(torch.nn.Module):  # RGB in 0..255 on both sides, whatever the network's own range
    def __init__(self, network):
        super().__init__()
        self.network, self.to_range = network, network.rgb_range / 255

    def forward(self, image):
        return self.network(image) if self.to_range == 1 else self.network(image * self.to_range) / self.to_range


def write_onnx(network, path, opset):
    """Trace the network into an ONNX file of dynamic size."""
    free = {'image': {0: 'n', 2: 'h', 3: 'w'}, 'HR_image': {0: 'n', 2: 'sh', 3: 'sw'}}
    # the tracing exporter: the later one (dynamo) needs a further package, and this graph holds nothing that it adds
    tracing = {'dynamo': False} if 'dynamo' in inspect.signature(torch.onnx.export).parameters else {}
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', DeprecationWarning)
        torch.onnx.export(In255(network).eval(), (torch.zeros(1, 3, 24, 32),), path, input_names=['image'],
                          output_names=['HR_image'], dynamic_axes=free, opset_version=opset, **tracing)


def compare(path, upscale, photo):
    """[(network's PSNR, the file's PSNR)] at two sizes of a photograph. Raises ValueError where they differ."""
    import onnxruntime
    session = onnxruntime.InferenceSession(path, providers=['CPUExecutionProvider'])
    scores = []
    for height, width in ((120, 180), (35, 53)):  # the smaller one lies inside the photograph at x8, too
        hr = mod_crop(photo[:height * upscale.scale, :width * upscale.scale], upscale.scale)
        lr = imresize(hr, 1 / upscale.scale).astype(np.float32)
        theirs = session.run(None, {'image': lr.transpose(2, 0, 1)[None]})[0][0].transpose(1, 2, 0)
        ours, theirs = (psnr(sr.clip(0, 255), hr, crop_border=upscale.scale, channel='y')
                        for sr in (upscale(lr), theirs))
        scores.append((ours, theirs))
        if not abs(ours - theirs) <= TOLERANCE:
            raise ValueError(f'the exported file gives {theirs:.4f} dB on {lr.shape[1]}x{lr.shape[0]}, the network '
                             f'{ours:.4f} dB: refused, nothing was written')
    return scores


def main(argv=None):
    parser = cli.Parser(description=__doc__)
    add = parser.add_argument
    add('--checkpoint', required=True, help="checkpoint of main.py or of the port, authors' .pt, BasicSR .pth")
    add('--output', default='', help='file to write, .onnx; empty: the name of the checkpoint with that extension')
    add('--opset', type=int, default=17, help='version of the ONNX operators, 13 or later')
    add('--photo', default=PHOTO, help='picture to compare on')
    options = parser.parse_args(argv)
    options.output = options.output or os.path.splitext(options.checkpoint)[0] + '.onnx'
    if os.path.splitext(options.output)[1] != '.onnx' or options.opset < 13:
        raise ValueError(f'--output {options.output} --opset {options.opset}: expected a name in .onnx and 13 or more')
    try:
        import onnx  # noqa: F401 - the exporter needs it
        import onnxruntime  # noqa: F401
    except ImportError as error:
        raise ValueError(f'{error}: install onnx and onnxruntime (requirements.txt) to export') from None
    upscale, photo = load(options.checkpoint), images.read(options.photo, channels=3)

    def write(path):
        write_onnx(upscale.network, path, options.opset)
        for ours, theirs in compare(path, upscale, photo):
            print(f'network {ours:.4f} dB, onnxruntime {theirs:.4f} dB')
    checkpoints.save(options.output, write)
    size = os.path.getsize(options.output)
    print(f'written to {options.output}: x{upscale.scale}, opset {options.opset}, {size:,} bytes')


if __name__ == '__main__':
    cli.run(main)
