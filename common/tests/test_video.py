"""Videos upscaled as users have it done. Frames are red with a green top left quarter; their times are uneven."""
import os
import struct
import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest
from PIL import Image

from common import inference, video

TIME_BASE = Fraction(1, 12800)
STAMPS = [0, 512, 700, 1500, 4000, 4100, 9000]


def nearest(lr, scale=2):
    return lr.repeat(scale, 0).repeat(scale, 1)


@pytest.fixture
def av():
    return pytest.importorskip('av', reason='PyAV is not installed')


def make_video(av, path, sound='aac', size=(24, 32), codec='libx264', colorspace='ITU601', subtitles=None):
    with av.open(str(path), 'w') as file:
        stream = file.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = size[1], size[0], 'yuv420p'
        stream.time_base = stream.codec_context.time_base = TIME_BASE if codec == 'libx264' else Fraction(1, 25)
        if colorspace == 'ITU709':
            stream.codec_context.colorspace = 1
        voice = file.add_stream(sound, rate=8000, layout='mono') if sound else None
        captions = av.open(str(subtitles)) if subtitles else None
        words = file.add_stream_from_template(captions.streams[0]) if subtitles else None
        for number, stamp in enumerate(STAMPS):
            image = np.full((*size, 3), (200, 50, 30), np.uint8)
            image[:size[0] // 2, :size[1] // 2] = 20, 200, 10
            frame = av.VideoFrame.from_ndarray(image, 'rgb24').reformat(
                format='yuv420p', dst_colorspace=colorspace, dst_color_range='MPEG')
            frame.pts, frame.time_base = (stamp, TIME_BASE) if codec == 'libx264' else (number, Fraction(1, 25))
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
        for number in range(8 if sound else 0):
            noise = (np.random.default_rng(number).normal(size=(1, 1024)) * 3000).astype(np.int16)
            frame = av.AudioFrame.from_ndarray(noise, 's16', layout='mono')
            frame.sample_rate, frame.pts, frame.time_base = 8000, 1024 * number, Fraction(1, 8000)
            file.mux(voice.encode(frame))
        if sound:
            file.mux(voice.encode())
        for packet in captions.demux() if subtitles else ():
            if packet.dts is not None:
                packet.stream = words
                file.mux(packet)


def frames(av, path):
    """(times in seconds, RGB frames)."""
    with av.open(str(path)) as file:
        decoded = list(file.decode(video=0))
    assert decoded[0].color_range in (0, 1)
    look = video._Look(decoded[0])
    return [float(frame.pts * frame.time_base) for frame in decoded], [look.rgb(frame) for frame in decoded]


def packets(av, path, kind='audio'):
    with av.open(str(path)) as file:
        return [(bytes(packet), float(packet.pts * packet.time_base))
                for packet in file.demux(getattr(file.streams, kind)) if packet.dts is not None]


@pytest.mark.parametrize('colorspace', ['ITU601', 'ITU709'])
def test_video_keeps_times_sound_and_colours(av, tmp_path, colorspace):
    source = tmp_path / 'clip.mp4'
    make_video(av, source, colorspace=colorspace)
    result, = inference.upscale_path(nearest, source, tmp_path / 'out', 2)
    assert os.listdir(str(tmp_path / 'out')) == ['clip_x2.mp4']
    before, after = frames(av, source), frames(av, result)
    assert after[0] == before[0] == [stamp / 12800 for stamp in STAMPS]
    assert packets(av, result) == packets(av, source) and len(packets(av, source)) > 5
    for old, new in zip(before[1], after[1]):
        assert new.shape == (48, 64, 3)
        assert np.abs(new[2:16, 2:24].astype(int) - [20, 200, 10]).max() < 6  # away from the quarter's edge
        assert np.abs(new.mean((0, 1)) - old.mean((0, 1))).max() < 1.5  # no shift of brightness or hue


def test_video_to_another_container_with_subtitles(av, tmp_path, capsys):
    (tmp_path / 'words.srt').write_text('1\n00:00:00,100 --> 00:00:00,400\nhello\n\n')
    source = tmp_path / 'clip.mkv'
    make_video(av, source, sound='pcm_s16le', subtitles=tmp_path / 'words.srt')
    inference.upscale_path(nearest, source, tmp_path / 'same.mkv', 2)
    for kind in ('audio', 'subtitles'):
        assert packets(av, tmp_path / 'same.mkv', kind) == packets(av, source, kind) != []
    assert frames(av, tmp_path / 'same.mkv')[0] == frames(av, source)[0]
    inference.upscale_path(nearest, source, tmp_path / 'other.mp4', 2)
    assert 'cannot hold subrip subtitles' in capsys.readouterr().err
    assert frames(av, tmp_path / 'other.mp4')[0] == frames(av, source)[0]


def test_sound_that_the_target_cannot_hold_is_an_error(av, tmp_path):
    make_video(av, tmp_path / 'old.avi', sound='adpcm_ms', codec='mpeg4')
    with pytest.raises(ValueError, match='cannot hold adpcm_ms sound'):
        inference.upscale_path(nearest, tmp_path / 'old.avi', tmp_path / 'x.mp4', 2)
    assert os.listdir(str(tmp_path)) == ['old.avi']


def test_a_turned_video_comes_out_upright(av, tmp_path):
    make_video(av, tmp_path / 'flat.mp4', sound=None)
    data = bytearray((tmp_path / 'flat.mp4').read_bytes())
    matrix = data.index(b'tkhd') + 44  # ISO/IEC 14496-12, 8.3.2: the track header's transformation
    data[matrix:matrix + 36] = struct.pack('>9i', 0, 1 << 16, 0, -1 << 16, 0, 0, 0, 0, 1 << 30)  # 90 degrees clockwise
    (tmp_path / 'phone.mp4').write_bytes(data)
    inference.upscale_path(nearest, tmp_path / 'phone.mp4', tmp_path / 'up.mp4', 2)
    with av.open(str(tmp_path / 'up.mp4')) as file:
        image = next(file.decode(video=0)).to_ndarray(format='rgb24')
    green = image[:, :, 1] > 120
    assert image.shape == (64, 48, 3) and green[5, -5] and not green[5, 5] and not green[-5, -5]


def test_odd_sizes_and_gif(av, tmp_path):
    pictures = [Image.fromarray(np.full((13, 15, 3), value, np.uint8)) for value in (10, 100, 250)]
    pictures[0].save(str(tmp_path / 'g.gif'), save_all=True, append_images=pictures[1:], duration=[100, 300, 200])
    result, = inference.upscale_path(lambda lr: nearest(lr, 3), tmp_path / 'g.gif', tmp_path, 3)
    times, shown = frames(av, result)
    assert result.name == 'g_x3.mkv' and times == [0, 0.1, 0.4]
    assert [image.shape for image in shown] == [(39, 45, 3)] * 3
    assert np.abs(np.array([image.mean() for image in shown]) - [10, 100, 250]).max() < 1.5


def test_frames_may_be_read_ahead(av, tmp_path):
    """A window model (EDVR) reads frames ahead of the one that it gives."""
    make_video(av, tmp_path / 'a.mp4')

    def process(clip):
        clip = list(clip)
        assert len(clip) == len(STAMPS) and clip[0].shape == (24, 32, 3)
        return (nearest(frame) for frame in clip)
    video.transcode(tmp_path / 'a.mp4', tmp_path / 'b.mp4', process, 2)
    assert frames(av, tmp_path / 'b.mp4')[0] == [stamp / 12800 for stamp in STAMPS]


@pytest.mark.parametrize('error', [KeyboardInterrupt, MemoryError])
def test_an_interrupted_video_leaves_no_file_and_spares_the_old_one(av, tmp_path, error):
    make_video(av, tmp_path / 'a.mp4')
    (tmp_path / 'b.mp4').write_bytes(b'earlier result')
    calls = []

    def upscale(lr):
        calls.append(1)
        if len(calls) == 4:
            raise error
        return nearest(lr)
    with pytest.raises(error):
        inference.upscale_path(upscale, tmp_path / 'a.mp4', tmp_path / 'b.mp4', 2)
    assert sorted(os.listdir(str(tmp_path))) == ['a.mp4', 'b.mp4']
    assert (tmp_path / 'b.mp4').read_bytes() == b'earlier result'


def test_a_video_follows_links_and_spares_what_is_no_file(av, tmp_path):
    make_video(av, tmp_path / 'a.mp4')
    (tmp_path / 'link.mp4').symlink_to(tmp_path / 'real.dat')
    inference.upscale_path(nearest, tmp_path / 'a.mp4', tmp_path / 'link.mp4', 2)
    assert (tmp_path / 'link.mp4').is_symlink() and len(frames(av, tmp_path / 'real.dat')[0]) == len(STAMPS)
    os.mkfifo(str(tmp_path / 'pipe.mp4'))
    with pytest.raises(ValueError, match='pipe.mp4: is a pipe'):
        inference.upscale_path(nearest, tmp_path / 'a.mp4', tmp_path / 'pipe.mp4', 2)
    assert (tmp_path / 'pipe.mp4').is_fifo()


def test_what_a_killed_run_left_is_removed_by_the_next(av, tmp_path):
    make_video(av, tmp_path / 'a.mp4')
    dead = subprocess.Popen([sys.executable, '-c', ''])
    dead.wait()
    for pid in (dead.pid, os.getppid()):
        (tmp_path / f'.b.{pid}.tmp.mp4').write_bytes(b'half')
    inference.upscale_path(nearest, tmp_path / 'a.mp4', tmp_path / 'b.mp4', 2)
    assert sorted(os.listdir(str(tmp_path))) == [f'.b.{os.getppid()}.tmp.mp4', 'a.mp4', 'b.mp4']


def test_an_old_pyav_is_named(av, tmp_path, monkeypatch):
    monkeypatch.setattr(av, '__version__', '12.3.0')
    (tmp_path / 'a.mp4').write_bytes(b'x')
    with pytest.raises(ValueError, match=r'PyAV 15 or later, found 12\.3\.0'):
        inference.upscale_path(nearest, tmp_path / 'a.mp4', tmp_path / 'out', 2)


def test_a_file_that_is_no_video_is_named(av, tmp_path):
    (tmp_path / 'bad.mp4').write_bytes(b'nonsense' * 100)
    with pytest.raises(ValueError, match=r'bad\.mp4: cannot be turned into bad_x2\.mp4: Invalid data'):
        inference.upscale_path(nearest, tmp_path / 'bad.mp4', tmp_path / 'out', 2)
