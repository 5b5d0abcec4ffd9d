"""bash run_export.sh output/edvr/EDVR-best edvr.pb

Writes a network as a frozen graph (.pb), a SavedModel (a folder) or ONNX (.onnx): input `L_input`, float32 RGB in 0..1,
output `SR_output`, of TensorFlow's own operators in float32. It is run on windows of a photograph, and kept only where
its PSNR is the network's. Keys of the configuration that shape it:

    model.input_format_dimension     5: [N,T,H,W,3], 4: [N*T,H,W,3]
    model.convert_output_to_uint8    False: float32 in 0..1, not clipped; True: uint8 in 0..255
    data.eval_batch_size             N, -1 for any
    data.eval_in_size                H, W, [] for any
"""
import os

import numpy as np

import upscaler
from ascendcv.runner.sess_config import open_device, tf
from ascendvsr.models.edvr import EDVR, SCALE
from common import checkpoints, images
from common.metrics import psnr
from common.resize import imresize
from common.tf import frozen as files
from import_weights import read_weights

INPUT, OUTPUT = 'L_input', 'SR_output'
TOLERANCE = 0.01  # dB
SIZES = ((64, 96), (35, 53))  # LR height and width to compare on, where they are free
PHOTO = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), 'common', 'sample', 'chelsea.png')
KINDS = {'.pb': 'frozen graph', '.onnx': 'ONNX', '': 'SavedModel'}
WRITERS = {  # what writes each, and what runs it
    '.pb': (lambda graph_def, path, *_: files.write_frozen(graph_def, path), files.run_file),
    '.onnx': (files.write_onnx, files.run_onnx), '': (files.write_saved_model, files.run_file)}
SIDES = {5: 'nthw', 4: ('nt', 'h', 'w')}  # names of what is free in ONNX


def frozen(size, weights, batch=-1, sides=(), dimensions=5, to_uint8=False):
    """The GraphDef of a network whose variables are constants, each under the variable's name.

    size: keyword arguments of EDVR; weights: {name: array}; batch: N, -1 for any; sides: (H, W), () for any;
    dimensions: of the input, 5 or 4; to_uint8: the output is rounded.
    """
    frames, (height, width) = size['num_frames'], sides or (None, None)
    n = None if batch == -1 else batch
    shapes = {5: [n, frames, height, width, 3], 4: [n and n * frames, height, width, 3]}
    with tf.Graph().as_default() as graph:
        with tf.variable_scope(tf.get_variable_scope(), custom_getter=files.constants(weights)):
            network = EDVR(**size)
        windows = lr = tf.placeholder(tf.float32, shapes[dimensions], INPUT)
        if dimensions == 4:
            windows = tf.reshape(lr, tf.concat([[-1, frames], tf.shape(lr)[1:]], 0))
        sr = network.sr(windows)
        if to_uint8:
            sr = tf.cast(tf.round(tf.clip_by_value(255 * sr, 0, 255)), tf.uint8)
        sr.set_shape([n, height and SCALE * height, width and SCALE * width, 3])
        tf.identity(sr, OUTPUT)
    return graph.as_graph_def()


def window_of(photo, frames, height, width):
    """(LR frames [T,h,w,3] in 0..255, HR of the middle one): a slow pan; what is beyond the picture is its reflection.
    """
    def places(length, side, start):
        period = 2 * side - 2
        places = (start + np.arange(SCALE * length)) % period
        return np.minimum(places, period - places)

    def frame(t):
        return photo[np.ix_(places(height, photo.shape[0], t), places(width, photo.shape[1], 2 * t))]
    return np.stack([imresize(frame(t), 1 / SCALE) for t in range(frames)]), frame(frames // 2)


def compare(exported, upscale, photo, data, dimensions):
    """[(network's PSNR, the file's PSNR)] on windows of a photograph. Raises ValueError where they differ.

    exported: a function of L_input; upscale: the Upscaler of the network; data: the configuration's.
    """
    scores, count = [], max(data.eval_batch_size, 1)
    for height, width in [data.eval_in_size] if data.eval_in_size else SIZES:
        window, hr = window_of(photo, upscale.frames, height, width)
        lr = np.stack([window.astype(np.float32) / 255] * count)
        found = exported(lr if dimensions == 5 else lr.reshape((-1,) + lr.shape[2:]))[-1]
        ours = upscale(window)
        if found.dtype == np.uint8:
            ours = ours.round()
        else:
            found = 255 * found
        ours, theirs = (psnr(sr.clip(0, 255), hr, crop_border=0, channel='rgb') for sr in (ours, found))
        scores.append((ours, theirs))
        if not abs(ours - theirs) <= TOLERANCE:
            raise ValueError(f'the exported file gives {theirs:.4f} dB on {width}x{height}, the network {ours:.4f} dB: '
                             'refused, nothing was written')
    return scores


def destination(config):
    return files.destination('output ', config.output, config.checkpoint or config.output_dir)


def check(data, extension, size):
    """ValueError for sizes that no input can have, and for networks that ONNX has not; size: as EDVR has it."""
    if data.eval_batch_size < 1 and data.eval_batch_size != -1:
        raise ValueError(f'data.eval_batch_size {data.eval_batch_size}: expected 1 or more windows, or -1 for any')
    if data.eval_in_size and (len(data.eval_in_size) != 2 or min(data.eval_in_size) < 1):
        raise ValueError(f'data.eval_in_size {data.eval_in_size}: expected height and width, pixels, or [] for any')
    if extension != '.onnx':
        return
    if (size['compat'], size['upsampling']) == ('port', 'bicubic'):
        raise ValueError("ONNX has no bicubic resizing like the port's; choose a .pb or a SavedModel")
    files.need_onnx()


def run(config):
    """Mode freeze. Raises ValueError for what cannot be frozen, or where the file gives something else."""
    extension, output = destination(config)
    print('[INFO] Loading trained model ...')
    weights, size, _ = read_weights(config.checkpoint or config.output_dir,
                                    {'compat': config.edvr.compat, 'upsampling': config.edvr.upsampling})
    check(config.data, extension, size)
    upscale = upscaler.with_weights(weights, size, open_device('cpu', kernels='builtin'))
    photo = images.read(PHOTO, channels=3)
    print('[INFO] Model loaded success.')
    dimensions = config.model.input_format_dimension
    graph_def = frozen(size, weights, config.data.eval_batch_size, tuple(config.data.eval_in_size), dimensions,
                       config.model.convert_output_to_uint8)
    write_one, run_one = WRITERS[extension]

    def write(path):
        write_one(graph_def, path, {INPUT: SIDES[dimensions]}, {OUTPUT: ('n', 'sh', 'sw')})
        for ours, theirs in compare(run_one(path, (INPUT,), OUTPUT), upscale, photo, config.data, dimensions):
            print(f'network {ours:.4f} dB, {KINDS[extension]} {theirs:.4f} dB')
    print('[INFO] Freeze model to pb files')
    (checkpoints.save if extension else files.save_folder)(output, write)
    print('[INFO] Model frozen success.')
    print(f'written to {output}: {KINDS[extension]}, input {INPUT}, output {OUTPUT}')
