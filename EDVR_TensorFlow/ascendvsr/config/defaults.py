"""Every key of the configuration: its default, and what it means.

Names are those of the released port, so that its files serve here. Where it could choose and this program need not, as
between two loaders of frames, a key has the values that CHOICES lists, and no other effect.
"""
from collections import namedtuple

from common.patches import default_cache_dir

Key = namedtuple('Key', 'default meaning')

KEYS = {
    'mode': Key('train', 'train, eval, inference or freeze'),
    'device': Key('auto', 'npu, gpu, cpu or auto (the best there is)'),
    'device_ids': Key([], 'which GPU or NPU; of several, one for each rank; []: as the environment has it'),
    'rank_size': Key(0, 'ranks of a training, which RANK_SIZE must name, too; 0: as that says'),
    'root_rank': Key(0, 'the rank whose first weights all take: 0'),
    'output_dir': Key('outputs/edvr', 'results go there; of a training to OUTPUT_DIR_2 ... if it is taken'),
    'checkpoint': Key('', 'to evaluate, run or freeze: EDVR-STEP, a file of it or a folder; to train: first weights'),
    'continue_training': Key(False, 'go on from the newest valid checkpoint of the newest run in output_dir'),
    'random_seed': Key(20210126, 'of the first weights, the order of the windows, the crops, the noise'),
    'input': Key('', 'mode inference: a video, picture, folder of frames or of clips; empty: data.eval_set'),
    'output': Key('', 'mode inference: the file or folder for the results of input; freeze: a .pb or .onnx, or a new '
                  'folder for a SavedModel; empty: CHECKPOINT.pb'),
    'save_pictures': Key(False, 'mode eval: the upscaled frames go to OUTPUT_DIR/<clip>'),
    'inference_result_dir': Key('test', 'frames of data.eval_set in mode inference go to OUTPUT_DIR/<this>'),
    'writer_num_threads': Key(8, 'threads that read, measure and write frames at most'),
    'writer_queue_size': Key(-1, 'results that wait to be written at most; -1: one for each thread'),

    'model.name': Key('EDVR', 'the network: EDVR'),
    'model.scale': Key(4, 'the upscaling factor: 4'),
    'model.num_frames': Key(5, 'frames of a window, odd; the middle one is upscaled'),
    'model.input_format_dimension': Key(5, 'of the frozen input: 5, [N,T,H,W,3], or 4, [N*T,H,W,3]'),
    'model.convert_output_to_uint8': Key(False, 'the frozen output is uint8 in 0..255, instead of float32 in 0..1'),

    'edvr.compat': Key('', 'paper: the authors\' numerics; port: those of the released port, for its checkpoints; '
                       "empty: a checkpoint's, else paper"),
    'edvr.with_tsa': Key(True, 'temporal and spatial attention; False: a 1x1 convolution fuses the frames'),
    'edvr.mid_channels': Key(64, 'channels of features'),
    'edvr.num_groups': Key(1, 'groups of the deformable convolutions\' products: 1'),
    'edvr.num_deform_groups': Key(8, 'groups of channels that deformable convolutions move by themselves'),
    'edvr.num_blocks_extraction': Key(5, 'residual blocks before the alignment'),
    'edvr.num_blocks_reconstruction': Key(10, 'residual blocks after the fusion'),
    'edvr.upsampling': Key('', "of features and the picture: bilinear or bicubic; empty: a checkpoint's, else "
                           'bilinear'),
    'edvr.dcn_version': Key('v2', 'of the deformable convolution: v2, with factors'),
    'edvr.impl': Key('auto', 'of the deformable convolution: npu (the Ascend operator), tf, or auto'),
    'edvr.loss_type': Key('l2', "l1, l2, charbonnier, or 'marginal l1'"),
    'edvr.loss_reduction': Key('mean', 'mean or sum, over the windows, of the sum over a picture'),
    'edvr.loss_margin': Key(1e-6, 'of charbonnier, added to the square; of marginal l1, the least error; in 0..1'),

    'data.data_dir': Key('data/reds', 'the folder of images/ and sets/, or the one that holds reds/'),
    'data.train_set': Key('train.json', 'file of DATA_DIR/sets that names the clips; without it, all but REDS4'),
    'data.eval_set': Key('val.json', 'file of DATA_DIR/sets, or REDS4, or another set of clips there'),
    'data.train_batch_size': Key(4, 'windows in a step of each device'),
    'data.train_raw_size': Key([], 'height, width that LR frames must have, pixels; []: any'),
    'data.train_in_size': Key([64, 64], 'height, width of LR crops, pixels'),
    'data.train_data_queue_size': Key(64, 'windows prepared ahead at most'),
    'data.num_threads': Key(1, 'threads that prepare them, shared by the ranks'),
    'data.read_mode': Key('python', 'python or tf: in the port two ways to read frames, here one'),
    'data.cache_dir': Key(default_cache_dir(), 'decoded frames are kept here, 3 bytes a pixel'),
    'data.padding': Key('replicate', 'frames beyond the ends of a clip when it is upscaled: replicate, as the port, or '
                        'reflection_circle, as the authors'),
    'data.eval_batch_size': Key(1, 'windows that a frozen graph upscales at once, -1: any; other modes take one'),
    'data.eval_raw_size': Key([], 'height, width that LR frames must have, pixels; []: any'),
    'data.eval_in_size': Key([], 'height, width of tiles at most; of the frames of a frozen graph; []: any'),
    'data.eval_in_patch': Key(False, 'upscale by tiles of eval_in_size; False: whole frames, by tiles only where these '
                              'take more than eval_memory'),
    'data.eval_pad_size': Key(32, 'LR pixels of picture around a tile'),
    'data.eval_memory': Key(8.0, 'GB that upscaling may take, about'),
    'data.scene_threshold': Key(12.0, 'change of the brightness, levels of 255, by which a cut goes beyond what is '
                                'usual in a shot; mode inference upscales each shot by itself; 0: all as one'),
    'data.noise.noise_type': Key('clean', 'on LR: clean (none), gaussian, gaussian process, speckle, salt-pepper'),
    'data.noise.random_seed': Key(None, 'of the noise; None: random_seed'),
    'data.noise.mean': Key(0.0, 'of gaussian noise, in 0..1'),
    'data.noise.std': Key(0.05, 'of gaussian and speckle noise, in 0..1'),
    'data.noise.min_std': Key(0.01, 'of a gaussian process, whose deviation is drawn for each window'),
    'data.noise.max_std': Key(0.1, 'of a gaussian process'),
    'data.noise.amount': Key(0.005, 'share of pixels that become salt or pepper'),
    'data.noise.salt_ratio': Key(0.5, 'share of these that become white'),

    'solver.optimizer.type': Key('Adam', 'Adam or Momentum'),
    'solver.optimizer.beta1': Key(0.9, 'of Adam'),
    'solver.optimizer.beta2': Key(0.999, 'of Adam'),
    'solver.optimizer.epsilon': Key(1e-8, 'of Adam'),
    'solver.optimizer.momentum': Key(0.9, 'of Momentum'),
    'solver.lr_schedule.type': Key('CosineRestart', 'CosineRestart or Cosine (one period)'),
    'solver.lr_schedule.base_lr': Key(4e-4, 'learning rate at the beginning'),
    'solver.lr_schedule.min_lr': Key(1e-7, 'and at the end of a period'),
    'solver.lr_schedule.total_steps': Key([150000] * 4, 'steps of each period; their sum is the length of a training'),
    'solver.lr_schedule.restart_weights': Key([1.0, 0.5, 0.5, 0.5], 'factor on base_lr in each period'),
    'solver.train_epochs': Key(0, 'passes over all windows, one period, instead of total_steps; 0: total_steps holds'),
    'solver.ema': Key(0.0, 'decay of the running mean of the weights that is evaluated and saved beside them; 0: none'),
    'solver.tsa_steps': Key(0, 'steps at the beginning that train TSA alone, as in the authors\' second stage'),
    'solver.mix_precision': Key(False, 'the same as precision mixed, which an NPU has in any case'),
    'solver.precision': Key('', 'of convolutions: fp32, bf16 (not the deformable ones), mixed (what the device '
                            'chooses); empty: as mix_precision says'),
    'solver.kernels': Key('auto', "layers on a CPU: TensorFlow's own (builtin) or ours, compiled once (native)"),
    'solver.loss_scale': Key('off', 'off, d (dynamic) or f?N (2^N), where gradients are of 16 bits; elsewhere it is '
                             'said and left out'),
    'solver.xla': Key(False, "TensorFlow's XLA, on a GPU"),
    'solver.checkpoint_interval': Key(500, 'steps between checkpoints; one more is written at the end'),
    'solver.checkpoint_keep': Key(100, 'the newest so many stay'),
    'solver.print_interval': Key(20, 'steps between log lines'),
    'solver.summary_interval': Key(500, 'steps between records for TensorBoard'),
    'solver.eval_interval': Key(5000, 'steps between validations on data.eval_set, the last one at the end; 0: none'),
    'solver.eval_frames': Key(10, 'frames of each clip to validate on, from its beginning; 0: all'),
    'solver.offset_warning': Key(50.0, 'mean of the absolute offsets of a deformable convolution, pixels, that warns'),
    'solver.offset_limit': Key(1000.0, 'and that counts as an explosion'),
    'solver.on_explosion': Key('stop', 'of offsets or a loss that is not finite: stop, or rollback to the last good '
                               'checkpoint, with half the learning rate, three times at most'),
    'solver.case': Key('acc', 'the end of the ModelZoo case name: acc or perf'),
    'solver.summary_dir': Key('', 'folder of <CaseName>.log; empty: the run itself'),
}
CHOICES = {
    'mode': ('train', 'eval', 'inference', 'freeze'), 'device': ('auto', 'npu', 'gpu', 'cpu'), 'root_rank': (0,),
    'model.name': ('EDVR',), 'model.scale': (4,), 'model.input_format_dimension': (5, 4),
    'edvr.compat': ('', 'paper', 'port'), 'edvr.num_groups': (1,), 'edvr.upsampling': ('', 'bilinear', 'bicubic'),
    'edvr.dcn_version': ('v2',), 'edvr.impl': ('auto', 'npu', 'tf'),
    'edvr.loss_type': ('l1', 'l2', 'charbonnier', 'marginal l1'), 'edvr.loss_reduction': ('mean', 'sum'),
    'data.read_mode': ('python', 'tf'), 'data.padding': ('replicate', 'reflection_circle'),
    'data.noise.noise_type': ('clean', 'gaussian', 'gaussian process', 'speckle', 'salt-pepper'),
    'solver.optimizer.type': ('Adam', 'Momentum'), 'solver.lr_schedule.type': ('CosineRestart', 'Cosine'),
    'solver.precision': ('', 'fp32', 'bf16', 'mixed'), 'solver.kernels': ('auto', 'builtin', 'native'),
    'solver.on_explosion': ('stop', 'rollback'), 'solver.case': ('acc', 'perf')}
