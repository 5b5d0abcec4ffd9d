"""bash run_export.sh output/X4/model.ckpt-best bsrn_x4.pb

Writes a network as a frozen graph (.pb), a SavedModel (a folder) or ONNX (.onnx): inputs `sr_input` [N,H,W,3], RGB in
0..255, and `sr_input_scale`, output `sr_output` [N,sH,sW,3], all float32; N, H and W are free. ONNX has one scale and
only the first input. The file is run on a photograph, at two sizes, and kept only where its PSNR is the network's.
"""

import os

import numpy as np

from common import checkpoints, cli, images
from common.metrics import psnr
from common.resize import imresize
from common.tf import frozen as shared
from import_weights import add_overrides, overrides, read_weights
from models.bsrn import scale_list
from models.checkpoint import show
from models.frozen import INPUT, OUTPUT, frozen, run_file, write_saved_model
from models.restored import restored
from models.session_config import open_device
from test_bsrn import recursion
from upscaler import OVERRIDES, Upscaler

TOLERANCE = 0.01  # dB
SIZES = ((120, 180), (35, 53))  # LR height and width; smaller where the photograph is
PHOTO = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'common', 'sample', 'chelsea.png')
KINDS = {'.pb': 'frozen graph', '.onnx': 'ONNX', '': 'SavedModel'}


def write_onnx(graph_def, path):
    """graph_def: frozen() without sr_input_scale."""
    shared.write_onnx(graph_def, path, {INPUT: 'nhw'}, {OUTPUT: ('n', 'sh', 'sw')})


def run_onnx(path):
    """A function (lr [N,H,W,3], scale) -> sr over an ONNX file, whose scale is its own."""
    run = shared.run_onnx(path, (INPUT,), OUTPUT)
    return lambda lr, scale: run(lr)


def compare(exported, upscale, photo):
    """[(network's PSNR, the file's PSNR)] at two sizes of a photograph. Raises ValueError where they differ.

    exported: (lr [N,H,W,3], scale) -> sr; upscale: the Upscaler of the network.
    """
    scores, scale = [], upscale.scale
    for height, width in SIZES:
        hr = photo[:min(scale * height, photo.shape[0] // scale * scale),
                   :min(scale * width, photo.shape[1] // scale * scale)]
        lr = imresize(hr, 1 / scale).astype(np.float32)
        pictures = upscale(lr), exported(lr[None], scale)[0]
        ours, theirs = (psnr(sr.clip(0, 255), hr, crop_border=scale, channel='y') for sr in pictures)
        scores.append((ours, theirs))
        if not abs(ours - theirs) <= TOLERANCE:
            raise ValueError(f'the exported file gives {theirs:.4f} dB on {width}x{height}, the network {ours:.4f} dB: '
                             'refused, nothing was written')
    return scores


def destination(options):
    return shared.destination('--output=', options.output, options.checkpoint)


def prepare(extension, scales, known, checkpoint):
    """The scales to export, after a look whether that format can be written here: else ValueError."""
    lacking = sorted(set(scales or ()) - set(known))
    if lacking:
        raise ValueError(f'{checkpoint}: a network of scale {show(known)}, not {lacking[0]}; leave --scales out, or '
                         'choose another checkpoint')
    if extension != '.onnx':
        return scales or known
    if len(scales or known) > 1:
        raise ValueError(f'ONNX has one scale: choose one of {show(known)} with --scales')
    shared.need_onnx()
    return scales or known


def main(argv=None):
    parser = cli.Parser(description=__doc__)
    add = parser.add_argument
    add('--checkpoint', '--restore_path', required=True, help="checkpoint of train.py, the authors or the port: its "
        'prefix, or a folder')
    add('--output', default='', help='file in .pb or .onnx, or a new folder; empty: a .pb beside the checkpoint')
    add('--scales', '--scale', type=scale_list, default=None, help='of those that the network has; empty: all')
    add('--recursion', type=recursion, default='ensemble', help='the picture of which pass: a number, last, or '
        'ensemble, the weighted mean of all')
    add('--photo', default=PHOTO, help='picture to compare on')
    add_overrides(add, OVERRIDES)
    options = parser.parse_args(argv)
    extension, output = destination(options)
    weights, size, _ = read_weights(options.checkpoint, overrides(options))
    scales = prepare(extension, options.scales, size['scales'], options.checkpoint)
    photo = images.read(options.photo, channels=3)
    network, session = restored(size, weights, open_device('cpu', kernels='builtin'))
    upscalers = [Upscaler(network, session, scale, options.recursion) for scale in scales]
    graph_def = frozen(size, weights, scales, options.recursion, with_scale=extension != '.onnx')
    write_one, run = {'.pb': (shared.write_frozen, run_file), '.onnx': (write_onnx, run_onnx),
                      '': (write_saved_model, run_file)}[extension]

    def write(path):
        write_one(graph_def, path)
        exported = run(path)
        for upscale in upscalers:
            for ours, theirs in compare(exported, upscale, photo):
                print(f'x{upscale.scale}: network {ours:.4f} dB, {KINDS[extension]} {theirs:.4f} dB')
    (checkpoints.save if extension else shared.save_folder)(output, write)
    print(f'written to {output}: {KINDS[extension]}, scale {show(scales)}, recursion {options.recursion}')


if __name__ == '__main__':
    cli.run(main)
