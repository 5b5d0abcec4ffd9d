"""bash run_infer.sh clip.mp4 upscaled/ --checkpoint=output/edvr/EDVR-best

Mode inference of tools/main.py: upscales a video, a folder of frames, a folder of such folders, or a picture. A video
keeps its time stamps and sound, frames keep gray, alpha and 16 bit. A few frames are in memory at a time, and no window
crosses a cut. Without the key `input` the LR frames of data.eval_set are upscaled, as in the released port.
"""
import itertools
import os
import sys
from collections import deque, namedtuple
from pathlib import Path

import upscaler
from ascendcv.dataloader.clips import find_clips
from ascendvsr import config as configuration
from ascendvsr.clip import ordered, shots, timed, usual_time
from ascendvsr.models.edvr import SCALE
from common import cli, files, images, logs, video
from common.inference import as_rgb, upscale_path, write_like
from common.tf.devices import processors

Job = namedtuple('Job', 'name frames targets')  # a clip, the paths of its frames, those of the results


def run(config):
    if bool(config.input) != bool(config.output):
        raise ValueError(f'input {config.input!r}, output {config.output!r}: they go together; without them the frames '
                         'of data.eval_set are upscaled')
    of_file = config.input and not os.path.isdir(config.input)
    jobs = [] if of_file else _jobs(config)
    upscale = by_shots(upscaler.clip_function(upscaler.configured(config), config.data), config.data.scene_threshold)
    if not of_file:
        _upscale_all(jobs, upscale, min(config.writer_num_threads, processors()), config.writer_queue_size)
    else:
        seconds = []
        upscale_path(lambda lr: next(upscale([lr])), config.input, config.output, SCALE,
                     process=lambda frames: map(images.to_uint8, timed(upscale(frames), seconds)))
        _say_time(seconds)


def by_shots(upscale_clip, threshold):
    """upscale_clip, which takes an iterable of frames, applied to each shot of such an iterable."""
    return lambda frames: itertools.chain.from_iterable(map(upscale_clip, shots(frames, threshold)))


def _jobs(config):
    """[Job] for the folder of frames or of clips that `input` is, or for data.eval_set."""
    return _jobs_of_folder(Path(config.input), Path(config.output)) if config.input else _jobs_of_set(config)


def _jobs_of_folder(source, target):
    """Results are named {stem}_x4.png. ValueError: no such folder, or its results cannot go to `target`."""
    if target.suffix.lower() in (*images.EXTENSIONS, *video.EXTENSIONS) and not target.is_dir():
        raise ValueError(f'{target}: {source} is a folder, so its results need a folder')
    if target.is_dir() and os.path.samefile(str(source), str(target)):
        raise ValueError(f'{target}: the results need a folder of their own, where they replace no picture of yours')
    if images.list_pictures(source):
        return [_job(source.name, source, target, f'_x{SCALE}')]
    folders = sorted(path for path in source.iterdir() if path.is_dir() and not path.name.startswith('.'))
    jobs = [_job(path.name, path, target / path.name, f'_x{SCALE}') for path in folders if images.list_pictures(path)]
    if not jobs:
        raise ValueError(f'{source}: no pictures, and no folders of pictures; expected files that end in '
                         + ' '.join(images.EXTENSIONS))
    return jobs


def _job(name, folder, target, ending=''):
    frames = images.list_pictures(folder)
    for frame, other in zip(frames, frames[1:]):
        if frame.stem == other.stem:
            raise ValueError(f'{frame} and {other} would have one result; remove one of them')
    return Job(name, frames, [target / f'{frame.stem}{ending}.png' for frame in frames])


def _jobs_of_set(config):
    """As the port has it, to OUTPUT_DIR/INFERENCE_RESULT_DIR/<the last three parts of the frame's path>."""
    target = Path(config.output_dir) / config.inference_result_dir
    jobs = []
    for clip in find_clips(config.data.data_dir, config.data.eval_set):
        if clip.lr is None:
            raise ValueError(f'{clip.hr} has no LR frames beside it; name a folder of frames by the key input')
        jobs.append(_job(clip.name, clip.lr, target.joinpath(*Path(clip.lr).parts[-2:])))
    configuration.save(config, config.output_dir)
    return jobs


def _upscale_all(jobs, upscale, threads, waiting):
    """Do all jobs. One with a frame that cannot be read is named, the others are done, then ValueError is raised."""
    failed, seconds = [], []
    with logs.Progress(sum(len(job.frames) for job in jobs), 'upscale', 'frames') as progress:
        for job in jobs:
            try:
                for target in _upscaled(job, upscale, threads, waiting, seconds):
                    progress.update(text=f'{job.name}/{target.name}')
            except (ValueError, OSError) as error:
                if files.disk_is_full(error):
                    raise
                failed.append(job.name)
                print(f'error: {cli.describe(error, job.name)}', file=sys.stderr, flush=True)
    for folder in sorted({str(job.targets[0].parent) for job in jobs if job.name not in failed}):
        print(f'written to {folder}')
    if len(failed) < len(jobs):
        _say_time(seconds)
    if failed:
        raise ValueError(f'{len(failed)} of {len(jobs)} clips failed: ' + ', '.join(failed))


def _upscaled(job, upscale, threads, waiting, seconds):
    """Yields the path of each result once it is written."""
    kinds = deque()

    def frames():
        for image in ordered(images.read, job.frames, threads):
            rgb, finish = as_rgb(image, SCALE)
            kinds.append(finish)
            yield rgb

    def results():
        for target, source, sr in zip(job.targets, job.frames, timed(upscale(frames()), seconds)):
            yield target, source, kinds.popleft(), sr

    def write(result):
        target, source, finish, sr = result
        write_like(target, finish(sr), source)
        return target
    return ordered(write, results(), threads, max(waiting, 0) or None)


def _say_time(seconds):
    if seconds:
        print(f'Inference time: {1000 * usual_time(seconds):.2f} ms/image, the mean without the first one', flush=True)
