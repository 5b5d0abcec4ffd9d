import errno
import os
import struct
import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest
from PIL import Image

from common import images, inference, tiles, video
from common.resize import imresize


def nearest(lr, scale=2):
    return lr.repeat(scale, 0).repeat(scale, 1)


def picture(*shape, dtype=np.uint8, seed=0):
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max + 1, shape).astype(dtype)


@pytest.mark.parametrize('dtype', [np.uint8, np.uint16])
@pytest.mark.parametrize('channels', [None, 2, 3, 4])
def test_every_kind_of_picture_keeps_its_kind(channels, dtype):
    image = picture(*((9, 7) if channels is None else (9, 7, channels)), dtype=dtype)
    seen = []

    def upscale(lr):
        seen.append(lr)
        return nearest(lr)
    sr = inference.upscale_picture(upscale, image, 2)
    assert seen[0].shape == (9, 7, 3) and seen[0].dtype == np.float32 and seen[0].max() <= 255
    expected = nearest(image)
    if channels in (2, 4):
        expected[:, :, -1] = imresize(image[:, :, -1], 2)
    assert sr.dtype == dtype
    np.testing.assert_array_equal(sr, expected)


def test_results_are_rounded_and_clamped():
    image = np.array([[[0, 255, 100]]], np.uint8)
    sr = inference.upscale_picture(lambda lr: nearest(lr) + [-9, 9, 0.6], image, 2)
    np.testing.assert_array_equal(sr[0, 0], [0, 255, 101])
    sr = inference.upscale_picture(lambda lr: nearest(lr) + [-9, 9, 0.5], image.astype(np.uint16) * 257, 2)
    np.testing.assert_array_equal(sr[0, 0], [0, 65535, 25828])


@pytest.mark.parametrize('upscale, message', [(lambda lr: nearest(lr) * np.nan, 'NaN'), (lambda lr: lr, 'scale 2')])
def test_a_bad_answer_of_the_network_is_an_error(upscale, message):
    with pytest.raises(ValueError, match=message):
        inference.upscale_picture(upscale, picture(4, 4, 3), 2)


def test_a_picture_to_a_folder_or_a_file(tmp_path):
    source = tmp_path / 'a b.JPG'
    images.write(source, np.full((6, 5, 3), 77, np.uint8))
    assert inference.upscale_path(nearest, source, tmp_path / 'out', 2) == [tmp_path / 'out' / 'a b_x2.png']
    assert images.size(tmp_path / 'out' / 'a b_x2.png') == (12, 10)
    inference.upscale_path(nearest, str(source), str(tmp_path / 'new' / 'c.webp'), 2)
    assert images.size(tmp_path / 'new' / 'c.webp') == (12, 10)
    inference.upscale_path(nearest, source, tmp_path, 2)
    assert (tmp_path / 'a b_x2.png').exists()


@pytest.mark.parametrize('source, target, message', [
    ('a.png', 'a.png', 'one file'), ('a.png', 'link.png', 'one file'), ('a.png', 'b.xyz', r'cannot write \.xyz'),
    ('a.txt', 'out', 'unknown kind.*known extensions.*png.*mp4'), ('none.png', 'out', 'no such file'),
    ('empty', 'out', 'no pictures'), ('.', 'b.png', 'need a folder'), ('broken.png', 'out', r'broken\.png')])
def test_bad_paths_are_named_and_nothing_is_written(tmp_path, source, target, message):
    images.write(tmp_path / 'a.png', picture(4, 4, 3))
    (tmp_path / 'link.png').symlink_to(tmp_path / 'a.png')
    (tmp_path / 'a.txt').write_text('text')
    (tmp_path / 'broken.png').write_bytes((tmp_path / 'a.png').read_bytes()[:40])
    (tmp_path / 'empty').mkdir()
    before = (tmp_path / 'a.png').read_bytes(), sorted(tmp_path.rglob('*'))
    with pytest.raises(ValueError, match=message):
        inference.upscale_path(nearest, tmp_path / source, tmp_path / target, 2)
    assert before == ((tmp_path / 'a.png').read_bytes(), sorted(tmp_path.rglob('*')))


def test_a_run_says_what_it_does_and_has_done(tmp_path, capsys):
    for name in ('a.png', 'b.png'):
        images.write(tmp_path / 'in' / name, picture(40, 30, 3))
    by_tiles = tiles.tiled(nearest, 2, 20, 2)
    inference.upscale_path(by_tiles, tmp_path / 'in' / 'a.png', tmp_path, 2)
    printed = capsys.readouterr()
    assert printed.out == f'written to {tmp_path / "a_x2.png"}\n'
    assert printed.err.startswith('upscale: 4/4 tiles ')
    inference.upscale_path(lambda lr: tiles.self_ensemble(by_tiles, lr), tmp_path / 'in' / 'a.png', tmp_path, 2)
    assert capsys.readouterr().err.startswith('upscale: 32/32 tiles ')
    inference.upscale_path(nearest, tmp_path / 'in' / 'a.png', tmp_path, 2)
    assert capsys.readouterr().err == ''
    inference.upscale_path(by_tiles, tmp_path / 'in', tmp_path / 'out', 2)
    printed = capsys.readouterr()
    assert printed.out == f'2 of 2 pictures written to {tmp_path / "out"}\n' and 'tiles' not in printed.err


def test_colour_profiles_go_with_the_pictures(tmp_path, capsys):
    profile = bytes(16) + b'RGB ' + bytes(108)
    source = tmp_path / 'in' / 'a.jpg'
    images.write(source, picture(4, 4, 3), profile)
    inference.upscale_path(nearest, source, tmp_path, 2)
    inference.upscale_path(nearest, source.parent, tmp_path / 'out', 2)
    assert images.profile(tmp_path / 'a_x2.png') == images.profile(tmp_path / 'out' / 'a_x2.png') == profile
    assert 'profile' not in capsys.readouterr().err
    inference.upscale_path(nearest, source, tmp_path / 'a.bmp', 2)
    assert f'{tmp_path / "a.bmp"}: cannot hold the colour profile' in capsys.readouterr().err


def test_a_gif_of_one_frame_is_a_picture(tmp_path):
    colours = np.array([[[250, 0, 0], [0, 250, 0]], [[0, 0, 250], [9, 9, 9]]], np.uint8)
    Image.fromarray(colours).quantize(4).save(str(tmp_path / 'still.gif'))
    result, = inference.upscale_path(nearest, tmp_path / 'still.gif', tmp_path, 2)
    assert result == tmp_path / 'still_x2.png'
    np.testing.assert_array_equal(images.read(result), nearest(colours))
    (tmp_path / 'still.gif').write_bytes((tmp_path / 'still.gif').read_bytes()[:20])
    with pytest.raises(ValueError, match='still.gif: cannot be'):
        inference.upscale_path(nearest, tmp_path / 'still.gif', tmp_path, 2)


def test_what_the_target_cannot_hold_is_told_before_the_work(tmp_path):
    def upscale(_):
        raise AssertionError('the network ran')
    images.write(tmp_path / 'deep.png', np.zeros((4, 5), np.uint16))
    with pytest.raises(ValueError, match='deep_x2.jpg: .jpg does not hold 1 channel'):
        inference.upscale_path(upscale, tmp_path / 'deep.png', tmp_path / 'deep_x2.jpg', 2)


def test_a_folder_with_a_broken_picture_does_the_others(tmp_path, capsys):
    for name in ('b.png', 'a.png', 'a.bmp'):
        images.write(tmp_path / name, picture(4, 4, 3))
    (tmp_path / 'bad.png').write_bytes(b'not a picture')
    with pytest.raises(ValueError, match=r'1 of 4 pictures .* failed: bad\.png'):
        inference.upscale_path(nearest, tmp_path, tmp_path / 'out', 2)
    assert sorted(os.listdir(str(tmp_path / 'out'))) == ['a_bmp_x2.png', 'a_png_x2.png', 'b_x2.png']
    line = capsys.readouterr().err.splitlines()[0]
    assert line.startswith(f'error: {tmp_path / "bad.png"}: cannot be read') and line.count('bad.png') == 1


@pytest.mark.parametrize('number', [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_stops_a_folder(tmp_path, capsys, monkeypatch, number):
    for name in ('a.png', 'b.png', 'c.png'):
        images.write(tmp_path / name, picture(4, 4, 3))
    tried = []

    def refuse(path, *_):
        tried.append(path.name)
        raise OSError(number, 'full', str(path))
    monkeypatch.setattr(images, 'write', refuse)
    with pytest.raises(OSError, match='full.*a_x2.png'):
        inference.upscale_path(nearest, tmp_path, tmp_path / 'out', 2)
    assert tried == ['a_x2.png'] and 'error' not in capsys.readouterr().err


def test_a_folder_is_not_its_own_target(tmp_path):
    for name in ('b.png', 'b_x2.png'):
        images.write(tmp_path / name, picture(4, 4, 3))
    with pytest.raises(ValueError, match='a folder of their own'):
        inference.upscale_path(nearest, tmp_path, tmp_path / '.', 2)
    assert images.size(tmp_path / 'b_x2.png') == (4, 4)


def test_results_of_one_name_are_refused(tmp_path):
    for name in ('a.png', 'a.bmp', 'a_png.png'):
        images.write(tmp_path / name, picture(4, 4, 3))
    with pytest.raises(ValueError, match='several pictures would become a_png_x2.png'):
        inference.upscale_path(nearest, tmp_path, tmp_path / 'out', 2)


def test_video_without_pyav_names_the_package(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'av', None)
    (tmp_path / 'a.mp4').write_bytes(b'x')
    with pytest.raises(ValueError, match='pip install av'):
        inference.upscale_path(nearest, tmp_path / 'a.mp4', tmp_path / 'out', 2)


# Video. Frames are red with a green top left quarter; their times are uneven.

TIME_BASE = Fraction(1, 12800)
STAMPS = [0, 512, 700, 1500, 4000, 4100, 9000]


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
