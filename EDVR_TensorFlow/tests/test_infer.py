"""Mode inference, run_infer.sh and scripts/run_inference.sh: videos, folders of frames and of clips, pictures."""
import re
from fractions import Fraction

import numpy as np
import pytest
from conftest import FRAMES, ROOT, call, configure, put_sets

import upscaler
from ascendvsr import infer
from common import images


@pytest.fixture(scope='module')
def upscale(checkpoint):
    return upscaler.load(checkpoint)


@pytest.fixture
def run(upscale, checkpoint, monkeypatch):
    """run(key=value ...): mode inference in this process, with a network that is loaded already."""
    monkeypatch.setattr(upscaler, 'configured', lambda config: upscale)
    return lambda **keys: infer.run(configure(**dict({'mode': 'inference', 'checkpoint': checkpoint,
                                                      'device': 'cpu'}, **keys)))


@pytest.fixture(scope='module')
def frames(photo):
    """Two shots, five frames of one place and three of another: uint8 RGB [8,20,28,3]."""
    return np.stack([photo[y + t:y + t + 20, x + t:x + t + 28] for y, x, count in ((100, 120, 5), (10, 330, 3))
                     for t in range(count)])


def put(folder, pictures, name='{:08d}.png'):
    for number, picture in enumerate(pictures):
        images.write(folder / name.format(number), picture)
    return folder


def pictures_of(folder):
    return {path.name: images.read(path) for path in images.list_pictures(folder)}


def by_shots(upscale, frames, *lengths):
    """What clips of these lengths, each by itself, become."""
    starts = np.cumsum([0, *lengths])
    return [images.to_uint8(sr) for a, b in zip(starts, starts[1:]) for sr in upscale.clip(frames[a:b])]


def test_run_infer_on_a_folder_with_a_cut(upscale, checkpoint, frames, tmp_path):
    put(tmp_path / 'my frames', frames)
    done = call('bash', ROOT / 'run_infer.sh', 'my frames', 'big', f'--checkpoint={checkpoint}', '--device=cpu', '--',
                folder=tmp_path)  # relative to where the user is
    said = done.stdout + done.stderr
    assert done.returncode == 0 and not re.search('Traceback|WARNING|tensorflow:|oneDNN|cpu_feature_guard', said), said
    assert re.search(r'^Inference time: [\d.]+ ms/image', done.stdout, re.MULTILINE) and 'upscale: 8/8 frames' in said
    found = pictures_of(tmp_path / 'big')
    assert list(found) == [f'{t:08d}_x4.png' for t in range(8)]
    for picture, expected in zip(found.values(), by_shots(upscale, frames, 5, 3)):
        np.testing.assert_array_equal(picture, expected)


def test_no_window_crosses_a_cut_unless_asked_for(run, upscale, frames, tmp_path):
    run(input=put(tmp_path / 'in', frames), output=tmp_path / 'out', data__scene_threshold=0)
    whole = by_shots(upscale, frames, 8)
    for picture, expected in zip(pictures_of(tmp_path / 'out').values(), whole):
        np.testing.assert_array_equal(picture, expected)
    cut = by_shots(upscale, frames, 5, 3)
    assert [not np.array_equal(a, b) for a, b in zip(whole, cut)] == [False] * 4 + [True] * 2 + [False] * 2


def test_frames_stay_of_their_kind(run, upscale, frames, tmp_path):
    kinds = [frames[0], frames[1][:, :, 0], np.dstack([frames[2], frames[2][:, :, 0]]),
             frames[3].astype(np.uint16) * 257, frames[4]]
    run(input=put(tmp_path / 'in', kinds), output=tmp_path / 'out', data__scene_threshold=0)
    found = list(pictures_of(tmp_path / 'out').values())
    assert [(*picture.shape, picture.dtype.name) for picture in found] == [
        (80, 112, 3, 'uint8'), (80, 112, 'uint8'), (80, 112, 4, 'uint8'), (80, 112, 3, 'uint16'), (80, 112, 3, 'uint8')]
    rgb = [frames[0], np.repeat(frames[1][:, :, :1], 3, 2), *frames[2:5]]
    expected = list(upscale.clip(rgb))
    np.testing.assert_allclose(found[1], np.clip(expected[1].mean(2), 0, 255), rtol=0, atol=0.51)
    np.testing.assert_allclose(found[3], np.clip(257 * expected[3], 0, 65535), rtol=0, atol=1)
    assert np.any(found[3] % 257)  # more than 8 bit


def test_a_folder_of_clips_with_a_broken_one(run, upscale, frames, tmp_path, capsys):
    for name, part in (('one', frames[:5]), ('two', frames[:2]), ('three', frames[5:])):
        put(tmp_path / 'in' / name, part, 'frame{}.png')
    broken = tmp_path / 'in' / 'two' / 'frame1.png'
    broken.write_bytes(broken.read_bytes()[:-100])
    (tmp_path / 'in' / 'empty').mkdir()
    with pytest.raises(ValueError, match='^1 of 3 clips failed: two$'):
        run(input=tmp_path / 'in', output=tmp_path / 'out')
    assert 'frame1.png' in capsys.readouterr().err
    for name, part in (('one', frames[:5]), ('three', frames[5:])):
        found = pictures_of(tmp_path / 'out' / name)
        assert list(found) == [f'frame{t}_x4.png' for t in range(len(part))]
        np.testing.assert_array_equal(list(found.values()), by_shots(upscale, part, len(part)))


def test_the_ports_form(run, reds, upscale, tmp_path):
    (tmp_path / 'reds').mkdir()
    (tmp_path / 'reds' / 'images').symlink_to(reds / 'reds' / 'images')
    put_sets(tmp_path / 'reds', ['001'], ['000', '011'])
    run(data__data_dir=tmp_path / 'reds', output_dir=tmp_path / 'outputs')
    assert (tmp_path / 'outputs' / 'configure_inference.yaml').exists()
    for clip in ('000', '011'):
        found = pictures_of(tmp_path / 'outputs' / 'test' / clip / 'blur4')
        lr = np.stack(list(pictures_of(reds / 'reds' / 'images' / clip / 'blur4').values()))
        assert list(found) == [f'{t:08d}.png' for t in range(FRAMES)]
        np.testing.assert_array_equal(list(found.values()), by_shots(upscale, lr, FRAMES))


def test_a_picture_is_a_clip_of_one_frame(run, upscale, frames, tmp_path):
    images.write(tmp_path / 'cat.png', np.dstack([frames[0], frames[1][:, :, 0]]))
    run(input=tmp_path / 'cat.png', output=tmp_path / 'out')
    found = images.read(tmp_path / 'out' / 'cat_x4.png')
    np.testing.assert_array_equal(found[:, :, :3], by_shots(upscale, frames, 1)[0])
    run(input=tmp_path / 'cat.png', output=tmp_path / 'big.png')
    np.testing.assert_array_equal(images.read(tmp_path / 'big.png'), found)


@pytest.fixture
def av():
    return pytest.importorskip('av', reason='PyAV is not installed')


def write_video(av, path, frames, stamps):
    """Losslessly, with sound: 44 kHz noise for half a second."""
    with av.open(str(path), 'w') as file:
        stream = file.add_stream('libx264', rate=25, options={'crf': '0'})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt, stream.time_base = 'yuv444p', Fraction(1, 12800)
        stream.codec_context.time_base = stream.time_base
        voice = file.add_stream('aac', rate=44100, layout='mono')
        for stamp, picture in zip(stamps, frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format='rgb24')
            frame.pts, frame.time_base = stamp, stream.time_base
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
        noise = np.random.default_rng(0).normal(0, 3000, (1, 22050)).astype(np.int16)
        sound = av.AudioFrame.from_ndarray(noise, 's16', layout='mono')
        sound.sample_rate, sound.pts = 44100, 0
        file.mux(voice.encode(sound))
        file.mux(voice.encode())


def read_video(av, path):
    """([time of each frame, s], RGB frames, the packets of the sound)."""
    with av.open(str(path)) as file:
        decoded = list(file.decode(video=0))
    with av.open(str(path)) as file:
        sound = [(bytes(packet), packet.pts) for packet in file.demux(audio=0) if packet.dts is not None]
    return [float(frame.time) for frame in decoded], [frame.to_ndarray(format='rgb24') for frame in decoded], sound


def test_a_video(av, run, upscale, frames, tmp_path):
    stamps = [0, 512, 700, 1500, 4000, 4100, 9000, 9512]  # of a varying rate
    write_video(av, tmp_path / 'clip.mp4', frames, stamps)
    run(input=tmp_path / 'clip.mp4', output=tmp_path / 'big.mp4')
    times, lr, sound = read_video(av, tmp_path / 'clip.mp4')
    found_times, found, found_sound = read_video(av, tmp_path / 'big.mp4')
    assert found_times == times == [stamp / 12800 for stamp in stamps]
    assert found_sound == sound and len(sound) > 10
    expected = by_shots(upscale, np.stack(lr), 5, 3)
    assert [picture.shape for picture in found] == [(80, 112, 3)] * 8
    assert max(np.abs(a.astype(float) - b).mean() for a, b in zip(found, expected)) < 6
    own = [np.abs(found[5].astype(float) - picture).mean() for picture in expected]
    assert own[5] == min(own)  # in their order


def test_of_a_long_video_a_few_frames_are_in_memory():
    """Results come while frames are read: of 5 frames' windows, 5 ahead."""
    read, ahead = [0], []

    def frames():
        for number in range(100):
            read[0] = number
            yield np.full((4, 4, 3), number % 7, np.uint8)

    class Network(upscaler.Upscaler):
        def __init__(self):
            self.scale, self.frames, self.memory = 4, 5, 8.0
            self.size = {'mid_channels': 4, 'num_deform_groups': 1, 'compat': 'paper'}

        def _keep(self, frame, with_features):
            return frame

        def _restore(self, window, cells):
            return np.tile(window[2], (4, 4, 1)).astype(np.float32)
    for number, sr in enumerate(infer.by_shots(Network().clip, 12)(frames())):
        ahead.append(read[0] - number)
        assert (sr == number % 7).all()
    assert number == 99 and max(ahead) <= 5


@pytest.mark.parametrize('source, target, words', [
    ('in', 'in', 'a folder of their own'), ('in', 'out.mp4', 'so its results need a folder'),
    ('nothing', 'out', 'nothing: no such file or folder'), ('empty', 'out', 'no pictures, and no folders of pictures'),
    ('notes.txt', 'out', 'unknown kind of file'), ('cat.png', 'cat.png', 'source and target are one file'),
    ('twins', 'out', 'would have one result'), ('in', '', 'they go together'),
    ('sizes', 'out', '1 of 1 clips failed: sizes')])
def test_what_is_refused(source, target, words, run, frames, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    put(tmp_path / 'in', frames[:2])
    put(tmp_path / 'sizes', [frames[0], frames[0][:16]])
    images.write(tmp_path / 'cat.png', frames[0])
    for name in ('a.png', 'a.jpg'):
        images.write(tmp_path / 'twins' / name, frames[0])
    (tmp_path / 'empty').mkdir()
    (tmp_path / 'notes.txt').write_text('nothing')
    before = pictures_of(tmp_path / 'in')
    with pytest.raises(ValueError, match=re.escape(words)):
        run(input=source, output=target)
    assert list(pictures_of(tmp_path / 'in')) == list(before)


def test_frames_of_another_size_are_named(run, frames, tmp_path, capsys):
    with pytest.raises(ValueError):
        run(input=put(tmp_path / 'in', [*frames[:3], frames[3][:, :24]]), output=tmp_path / 'out')
    assert 'frame 4 is 24x20 (width x height), expected 28x20' in capsys.readouterr().err
