"""Video in, video out through PyAV: every frame keeps its time, sound and subtitles are copied as they are."""
from __future__ import annotations

import os
import sys
from collections import deque
from fractions import Fraction
from pathlib import Path

import numpy as np

from common import files, logs

EXTENSIONS = ('.mp4', '.mkv', '.mov', '.avi', '.webm', '.m4v', '.gif')
WRITABLE = ('.mp4', '.mkv', '.mov', '.m4v')  # these hold H.264 and frames of varying duration
MATRICES = {1: 'ITU709', 5: 'ITU601', 6: 'ITU601', 9: 'BT2020'}  # numbers of ISO/IEC 23091-4 MatrixCoefficients
LIMITED_RANGE = 1  # Y in 16..235


def default_extension(source):
    """The extension of a video made from `source`: its own, or .mkv where that cannot hold the result."""
    extension = Path(source).suffix.lower()
    return extension if extension in WRITABLE else '.mkv'


def transcode(source, target, process, scale):
    """Write `target` with the frames of `source` as `process` changes them: H.264, nearly lossless (crf 16).

    process: takes an iterator over the frames, uint8 RGB [H,W,3], upright, and yields for each, in order, its uint8 RGB
    [scale*H, scale*W, 3]; it may read ahead. Few frames are in memory at a time. Time stamps (of a varying frame rate
    too) are kept; audio and subtitle streams are copied. Until all is written the file has a temporary name.
    Of a link, the file that it leads to is replaced. Raises ValueError for a damaged file, one without video, sound
    that the container cannot hold, a missing PyAV, and a target where a folder, pipe or device is.
    """
    source, target = Path(source), Path(target)
    av = _pyav()
    place = files.destination(target)
    os.makedirs(os.path.dirname(place) or '.', exist_ok=True)
    temporary = files.temporary(place, target.suffix)  # FFmpeg goes by the extension
    try:
        with av.open(str(source)) as reader, av.open(temporary, 'w') as writer:
            _copy(av, reader, writer, process, scale, _look(av, source), target)
        os.replace(temporary, place)
    except av.error.FFmpegError as error:
        raise ValueError(f'{source}: cannot be turned into {target.name}: {error.strerror or error}') from error
    finally:
        if os.path.exists(temporary):
            os.remove(temporary)


def _pyav():
    try:
        import av
    except ImportError as error:
        raise ValueError('videos need PyAV, which is not installed: pip install av') from error
    if int(av.__version__.split('.')[0]) < 15:  # earlier ones do not tell how a phone was held
        raise ValueError(f'videos need PyAV 15 or later, found {av.__version__}: pip install --upgrade av')
    if 'libx264' not in av.codec.codecs_available:
        raise ValueError('this build of PyAV has no H.264 encoder (libx264): pip install --only-binary=av av')
    return av


class _Look:
    """What the first frame says about all: turns by 90 degrees, colour matrix, size of the upright picture."""

    def __init__(self, frame):
        self.turns = round(frame.rotation / 90) % 4
        # untagged video: players take BT.709 for high definition and BT.601 below
        self.matrix = MATRICES.get(int(frame.colorspace), 'ITU709' if frame.height >= 720 else 'ITU601')
        self.height, self.width = self.rgb(frame).shape[:2]

    def rgb(self, frame):
        """uint8 RGB [H,W,3] of a decoded frame, upright."""
        if not frame.format.is_rgb:  # FFmpeg's direct way from 4:2:0 to RGB makes everything 1 to 3 levels darker
            frame = frame.reformat(format='yuv444p', src_colorspace=self.matrix, dst_colorspace=self.matrix,
                                   dst_color_range='MPEG', interpolation='BICUBIC')
        rgb = frame.to_ndarray(format='rgb24', src_colorspace=self.matrix, dst_color_range='JPEG')
        return np.ascontiguousarray(np.rot90(rgb, self.turns))


def _look(av, source):
    with av.open(str(source)) as reader:
        stream = next(iter(reader.streams.video), None)
        frame = next(reader.decode(stream), None) if stream else None
        if frame is None:
            raise ValueError(f'{source}: no video frame in this file')
        return _Look(frame)


def _copy(av, reader, writer, process, scale, look, target):
    video = reader.streams.video[0]
    result = _video_stream(writer, video, look, scale)
    copies = _copied_streams(reader, writer, target)
    stamps, last = deque(), [None]

    def frames():
        for packet in reader.demux([video, *(stream for stream, _ in copies.values())]):
            if packet.stream.index == video.index:
                for frame in packet.decode():
                    last[0] = _stamp(frame, last[0], video)
                    stamps.append(last[0])
                    yield look.rgb(frame)
            elif packet.dts is not None:
                packet.stream = copies[packet.stream.index][1]
                writer.mux(packet)

    with logs.Progress(video.frames or None, target.name, 'frames') as progress:
        for sr in process(frames()):
            if sr.shape != (scale * look.height, scale * look.width, 3):
                raise ValueError(f'frame {progress.done + 1} became {sr.shape}; all must have the size of the first, '
                                 f'{look.height}x{look.width}, times {scale}')
            writer.mux(result.encode(_frame(av, sr, stamps.popleft(), video.time_base, result, look)))
            progress.update()
    assert not stamps, f'process left out {len(stamps)} frames'
    writer.mux(result.encode())


def _video_stream(writer, video, look, scale):
    stream = writer.add_stream('libx264', rate=video.average_rate or Fraction(25), options={'crf': '16'})
    context = stream.codec_context
    context.width, context.height = scale * look.width, scale * look.height
    odd = context.width % 2 or context.height % 2
    context.pix_fmt = 'yuv444p' if odd else 'yuv420p'  # halved chroma needs even sides
    stream.time_base = context.time_base = video.time_base
    context.color_range = LIMITED_RANGE
    context.colorspace = next(number for number, name in MATRICES.items() if name == look.matrix)
    context.color_primaries = video.codec_context.color_primaries
    context.color_trc = video.codec_context.color_trc
    ratio = video.sample_aspect_ratio
    if ratio:
        context.sample_aspect_ratio = 1 / ratio if look.turns % 2 else ratio
    return stream


def _copied_streams(reader, writer, target):
    """{index: (stream of the source, its copy)} for the sound, and for the subtitles that the target takes."""
    copies = {}
    for stream in (*reader.streams.audio, *reader.streams.subtitles):
        codec = stream.codec_context.codec.canonical_name
        if codec in writer.supported_codecs:
            copies[stream.index] = stream, writer.add_stream_from_template(stream)
        elif stream.type == 'audio':
            raise ValueError(f'{target.name}: {target.suffix} cannot hold {codec} sound; make it FLAC first: '
                             'ffmpeg -i INPUT -c copy -c:a flac OUTPUT.mkv')
        else:
            print(f'warning: {target.name}: {target.suffix} cannot hold {codec} subtitles, they are left out',
                  file=sys.stderr)
    return copies


def _stamp(frame, last, video):
    """The time of a frame in units of the stream's time base; damaged or missing ones become later than the last."""
    stamp = frame.pts if frame.pts is not None else frame.dts
    if last is None:
        return stamp or 0
    if stamp is None:
        stamp = last + round(1 / ((video.average_rate or 25) * video.time_base))
    return max(stamp, last + 1)


def _frame(av, sr, stamp, time_base, stream, look):
    frame = av.VideoFrame.from_ndarray(sr, format='rgb24').reformat(
        format=stream.codec_context.pix_fmt, dst_colorspace=look.matrix, dst_color_range='MPEG')
    frame.pts, frame.time_base = stamp, time_base
    return frame
