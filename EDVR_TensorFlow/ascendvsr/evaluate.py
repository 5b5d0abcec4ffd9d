"""bash run_eval.sh REDS4 output/edvr/EDVR-best --data_path=/data

Mode eval of tools/main.py: PSNR and SSIM of a checkpoint on clips, in RGB (the paper's protocol for REDS4) and in Y
(that for Vid4), rounded to 8 bit, nothing cropped; the mean over a clip's frames, and over the clips. Of clips without
LR frames these are made by the bicubic.
"""
import os
from collections import deque

import upscaler
from ascendcv.dataloader.clips import SPLITS, find_clips
from ascendvsr import config as configuration
from ascendvsr.clip import ordered, timed, usual_time
from ascendvsr.models.edvr import SCALE
from common import images
from common.datasets import Pair, load_pair
from common.evaluation import Protocol, mean_of, tabulate
from common.resize import imresize
from common.tf.devices import processors

RGB, Y = Protocol('rgb', 0), Protocol('y', 0)


def run(config):
    clips = find_clips(config.data.data_dir, config.data.eval_set)
    upscale_clip = upscaler.clip_function(upscaler.configured(config), config.data)
    configuration.save(config, config.output_dir)
    measure(upscale_clip, clips, config.data.eval_set, output_dir=config.output_dir,
            save_pictures=config.save_pictures, threads=config.writer_num_threads)


def measure(upscale_clip, clips, dataset, *, frames=0, output_dir=None, save_pictures=False, threads=2):
    """Measure on [Clip] a function from an iterable of frames, uint8 RGB, to their sr, such as Upscaler.clip.

    dataset: name of the set, which says whose protocol is printed first; frames: how many of each clip, from its
    beginning, 0: all. output_dir gets metrics.json, and as CLIP/FRAME.png the pictures where these are to be saved.
    Returns what metrics.json holds, result['mean']['rgb/crop0']['psnr'] among it. A clip with a broken frame, or with
    sizes that disagree, is named and left out; the others are measured, and then ValueError is raised.
    """
    name = os.path.splitext(dataset)[0]
    protocols = (RGB, Y) if name.lower() in SPLITS or name != dataset else (Y, RGB)
    folder = output_dir if save_pictures else None

    def of_clip(clip):
        print(f'Evaluate {clip.name}', flush=True)
        row = _measure(upscale_clip, clip, protocols, frames, folder, min(threads, processors()))
        print(f'Video {clip.name} PSNR = {row[RGB.name]["psnr"]:.4f} protocol={RGB.name}')
        print(f'\tInference time: {1000 * row["seconds"]:.2f} ms', flush=True)
        return row
    result = tabulate(clips, of_clip, SCALE, dataset=name, protocols=protocols, output_dir=output_dir, model='EDVR',
                      kind='clip')
    if result['mean']:
        print(f'PSNR = {result["mean"][RGB.name]["psnr"]:.4f} protocol={RGB.name}', flush=True)
    if result['failed']:
        raise ValueError(f'{len(result["failed"])} of {len(clips)} clips of {name} could not be evaluated: '
                         + ', '.join(result['failed']))
    return result


def _measure(upscale_clip, clip, protocols, count, folder, threads):
    """What metrics.json holds of a clip: the means, and under 'frames' each frame's scores."""
    pairs, seconds, waiting = _pairs(clip)[:count or None], [], deque()

    def frames():
        for pair, (lr, hr) in zip(pairs, ordered(lambda pair: load_pair(pair, SCALE), pairs, threads)):
            waiting.append((pair.name, lr, hr))
            yield lr

    def answers():
        for sr in timed(upscale_clip(frames()), seconds):
            yield (*waiting.popleft(), sr)

    def score(answer):
        name, lr, hr, sr = answer
        if folder:
            images.write(os.path.join(folder, clip.name, f'{name}.png'), images.to_uint8(sr))
        bicubic = imresize(lr, SCALE)
        return dict({protocol.name: protocol.measure(sr, hr) for protocol in protocols}, name=name,
                    bicubic={protocol.name: protocol.measure(bicubic, hr) for protocol in protocols})
    rows = list(ordered(score, answers(), threads))
    row = dict(mean_of(rows, protocols), name=clip.name, seconds=usual_time(seconds), frames=rows,
               bicubic=mean_of([row['bicubic'] for row in rows], protocols))
    return dict(row, picture=f'{clip.name}/{rows[len(rows) // 2]["name"]}.png') if folder else row


def _pairs(clip):
    """[Pair] of the frames of a Clip. ValueError: there are none."""
    paths = images.list_pictures(clip.hr)
    if not paths:
        raise ValueError(f'{clip.hr}: no frames')
    return [Pair(path.stem, path, clip.lr and os.path.join(clip.lr, path.name)) for path in paths]
