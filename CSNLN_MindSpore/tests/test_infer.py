"""infer.py and its launcher as a user starts them: pictures of all kinds, folders, videos, and what is refused."""
import re

import numpy as np
import pytest
from conftest import ROOT, call

import infer
import upscaler
from common import images
from common.tiles import self_ensemble


def launch(*words, **more):
    done = call('bash', ROOT / 'run_infer.sh', *words, **more)
    everything = done.stdout + done.stderr
    assert 'Traceback' not in everything and '[WARNING]' not in everything and '[ERROR]' not in everything
    return done


def test_help_and_what_is_missing():
    done = launch('--help')
    assert done.returncode == 0 and not done.stderr and 'run_infer.sh photo.jpg' in done.stdout.splitlines()[0]
    assert '  --memory_limit= ' in done.stdout and '  --chop ' in done.stdout
    for words, text in ((('a.png', 'b.png'), 'checkpoint is missing'),
                        (('a.png', '--self-ensemble'), 'unknown option --self-ensemble; did you mean --self_ensemble?'),
                        (('a.png', 'b.png', 'c.png'), "'c.png' is one argument too many")):
        done = launch(*words)
        assert done.returncode == 2 and 'error: ' in done.stderr and text in done.stderr


def test_a_folder_with_a_broken_picture(checkpoint, photo, tmp_path):
    """Gray, alpha, 16 bit, tiny pictures and one that is cut short."""
    source = tmp_path / 'my pictures'
    small = photo[100:127, 100:141]
    for name, picture in {'gray.png': small[:, :, 0], 'rgba.PNG': np.dstack([small, small[:, :, 1]]),
                          'deep.png': small.astype(np.uint16) * 257, 'broken.png': small, 'photo.jpg': small,
                          'dot.png': small[:1, :1], 'few.png': small[:3, :5]}.items():
        images.write(source / name, picture)
    (source / 'broken.png').write_bytes((source / 'broken.png').read_bytes()[:-200])
    done = launch('my pictures', 'big', f'--checkpoint={checkpoint}', '--device=cpu', folder=tmp_path)
    assert done.returncode == 2 and '1 of 7 pictures' in done.stdout and 'failed: broken.png' in done.stdout
    results = {path.name: images.read(path) for path in (tmp_path / 'big').iterdir()}
    kinds = {name: (*picture.shape, picture.dtype.name) for name, picture in results.items()}
    assert kinds == {'gray_x2.png': (54, 82, 'uint8'), 'rgba_x2.png': (54, 82, 4, 'uint8'),
                     'deep_x2.png': (54, 82, 3, 'uint16'), 'photo_x2.png': (54, 82, 3, 'uint8'),
                     'dot_x2.png': (2, 2, 3, 'uint8'), 'few_x2.png': (6, 10, 3, 'uint8')}
    assert re.findall(r'^(\d+x\d+) pixels, whole: about ', done.stdout, re.MULTILINE) == ['27x41', '1x1', '3x5']
    deep, eight = results['deep_x2.png'], results['rgba_x2.png'][:, :, :3]
    assert np.abs(deep / 257 - eight).max() <= 0.51
    expected = images.to_uint8(upscaler.load(checkpoint)(small.astype(np.float32)))
    assert np.array_equal(eight, expected)


def test_parts_and_self_ensemble(checkpoint, photo, tmp_path, capsys):
    small = photo[100:145, 100:160]
    images.write(tmp_path / 'photo.png', small)
    infer.main([f'--input={tmp_path / "photo.png"}', f'--output={tmp_path / "big.png"}', f'--checkpoint={checkpoint}',
                '--device=cpu', '--chop', '--self_ensemble', '--scale=2', '--compat=paper'])
    assert capsys.readouterr().out.count('45x60 pixels, in parts of 34x42: about ') == 1
    chopped, _ = upscaler.load(checkpoint).planned([(45, 60)], chop=True)
    expected = self_ensemble(chopped, small.astype(np.float32))
    assert np.array_equal(images.read(tmp_path / 'big.png'), images.to_uint8(expected))


def test_too_little_memory(checkpoint, photo, tmp_path):
    images.write(tmp_path / 'photo.png', photo[:100, :100])
    done = launch(tmp_path / 'photo.png', tmp_path / 'big.png', f'--checkpoint={checkpoint}', '--device=cpu',
                  '--memory_limit=0.001')
    assert done.returncode == 2 and not (tmp_path / 'big.png').exists()
    assert re.search(r'error: 100x100 pixels: a part of 42x42 alone takes about \d+ MB, more than 1 MB '
                     r'\(--memory_limit', done.stdout)


def test_a_video(checkpoint, photo, tmp_path, capsys):
    av = pytest.importorskip('av')
    with av.open(str(tmp_path / 'clip.mp4'), 'w') as file:
        stream = file.add_stream('libx264', rate=25)
        stream.width, stream.height, stream.pix_fmt = 46, 34, 'yuv420p'
        for i in range(4):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(photo[100:134, 100 + i:146 + i]), format='rgb24')
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    infer.main([f'--input={tmp_path / "clip.mp4"}', f'--output={tmp_path / "big.mp4"}', f'--checkpoint={checkpoint}',
                '--device=cpu'])
    with av.open(str(tmp_path / 'big.mp4')) as file:
        frames = list(file.decode(video=0))
    assert [(frame.width, frame.height) for frame in frames] == [(92, 68)] * 4
    assert [float(frame.time) for frame in frames] == [0, 0.04, 0.08, 0.12]
    assert capsys.readouterr().out.count('34x46 pixels, whole: about ') == 1


@pytest.mark.parametrize('changed, words', [
    ({'scale': 3}, 'scale 2, not 3'), ({'compat': 'port'}, 'compat paper, not port'),
    ({'checkpoint': ROOT / 'infer.py'}, 'no checkpoint of MindSpore or PyTorch'),
    ({'input': ROOT / 'nowhere.png'}, 'no such file'), ({'device': 'npu'}, '--device=npu: MindSpore')])
def test_what_is_refused(changed, words, checkpoint, tmp_path, photo):
    images.write(tmp_path / 'photo.png', photo[:20, :20])
    given = dict({'input': tmp_path / 'photo.png', 'output': tmp_path / 'big.png', 'checkpoint': checkpoint,
                  'device': 'cpu'}, **changed)
    with pytest.raises((ValueError, OSError), match=re.escape(words)):
        infer.main([f'--{name}={value}' for name, value in given.items()])
    assert not (tmp_path / 'big.png').exists()
