"""eval.py, infer.py and their launchers as a user starts them: help, typos, exit status, what they print and write."""
import json
import re
import shutil

import numpy as np
import pytest
from conftest import ROOT, call

import eval as program
import infer
import upscaler
from common import images
from import_weights import read_weights

LAUNCHERS = ('run_eval.sh', 'run_infer.sh', 'script/run_eval.sh')
LINE = re.compile(r'^dataset=(\S+) scale=2 psnr=([\d.]+) ssim=[\d.]+ protocol=(\S+)$', re.MULTILINE)


def launch(script, *words, **more):
    return call('bash', ROOT / script, *words, **more)


def said(done):
    """All that a launcher said, its programs' errors among it; no traceback, nothing of MindSpore's log."""
    everything = done.stdout + done.stderr
    assert 'Traceback' not in everything and '[WARNING]' not in everything and '[ERROR]' not in everything
    return everything


@pytest.mark.parametrize('script', LAUNCHERS)
def test_help(script):
    done = launch(script, '--help')
    assert done.returncode == 0 and not done.stderr
    first, *_ = done.stdout.splitlines()
    assert first.count(': bash ') == 1 and script in first
    assert dict(re.findall(r'^  --(\w+)(\S*)', done.stdout, re.MULTILINE))['device'] == '=auto'


@pytest.mark.parametrize('script, typo, meant', [
    ('run_eval.sh', '--datapath=x', '--data_path'), ('script/run_eval.sh', '--outputpath=x', '--output_path'),
    ('run_infer.sh', '--self-ensemble', '--self_ensemble')])
def test_a_typo_names_the_nearest_option(script, typo, meant):
    done = launch(script, typo)
    assert done.returncode == 2 and f'unknown option {typo.split("=")[0]}; did you mean {meant}?' in done.stderr


@pytest.mark.parametrize('script, words, missing', [
    ('run_eval.sh', ('Set5',), 'checkpoint is missing'), ('run_infer.sh', ('a.png', 'b.png'), 'checkpoint is missing'),
    ('script/run_eval.sh', ('data', 'edsr.ckpt'), 'dataset is missing'),
    ('run_eval.sh', ('data', 'edsr.ckpt', 'Set5'), "'Set5' is one argument too many")])
def test_what_is_missing_is_named(script, words, missing):
    done = launch(script, *words)
    assert done.returncode == 2 and 'error: ' in done.stderr and missing in done.stderr


def test_run_eval(data, checkpoint, tmp_path):
    done = launch('run_eval.sh', 'tiny', checkpoint, f'--data_path={data}', '--output_path', tmp_path / 'eval',
                  '--device=cpu')
    assert done.returncode == 0, said(done)
    (dataset, score, protocol), = LINE.findall(said(done))
    assert (dataset, protocol) == ('tiny', 'y/crop2') and 20 < float(score) < 60
    assert 'model=bicubic' in done.stdout and not done.stderr
    found = json.loads((tmp_path / 'eval' / 'X2' / 'tiny' / 'metrics.json').read_text())
    mean = found['mean']['y/crop2']
    assert f'{mean["psnr"]:.2f}' == score and found['model'] == 'EDSR'
    assert f'Mean psnr of tiny x2 is {mean["psnr"]:.4f} (y/crop2)\n' in done.stdout
    assert f'Mean ssim of tiny x2 is {mean["ssim"]:.4f} (y/crop2)\n' in done.stdout
    assert images.size(tmp_path / 'eval' / 'X2' / 'tiny' / 'cat_x2.png') == (96, 96)


def test_the_ports_launcher_and_its_log(data, checkpoint, tmp_path):
    """DIV2K in the paper's protocol and the port's; a second run adds to log.txt."""
    log = tmp_path / 'eval' / 'log.txt'
    log.parent.mkdir()
    log.write_text('the user wrote this\n')
    (tmp_path / 'eval' / 'X2').mkdir()
    (tmp_path / 'eval' / 'X2' / 'notes.txt').write_text('and this')
    done = launch(ROOT / 'script/run_eval.sh', data, checkpoint, 'DIV2K', '--output_path=eval', '--device=cpu',
                  '--self_ensemble', folder=tmp_path)
    assert done.returncode == 0, said(done)
    scores = LINE.findall(said(done))
    assert [(name, protocol) for name, _, protocol in scores] == [('DIV2K', 'rgb/crop8'), ('DIV2K', 'y/crop2')]
    assert re.search(r'^Mean psnr of DIV2K x2 is [\d.]+ \(y/crop2\)$', done.stdout, re.MULTILINE)
    assert done.stdout.endswith(f'log: {log}\n')
    assert json.loads((log.parent / 'X2' / 'DIV2K' / 'metrics.json').read_text())['model'] == 'EDSR+'
    assert log.read_text().startswith('the user wrote this\n') and LINE.findall(log.read_text()) == scores
    assert (log.parent / 'X2' / 'notes.txt').read_text() == 'and this'
    assert (log.parent / 'X2' / 'DIV2K' / '0801_x2.png').exists()
    done = launch('script/run_eval.sh', data, tmp_path / 'nowhere.ckpt', 'DIV2K', f'--output_path={log.parent}')
    assert done.returncode == 2 and 'error: ' in said(done) and 'nowhere.ckpt' in log.read_text()


def test_the_command_of_the_ports_launcher(data, checkpoint, tmp_path, capsys):
    """Every flag that the port's run_eval.sh gives to eval.py; several sets; self-ensemble by tiles."""
    program.main([f'--dir_data={data}', '--test_only', '--ext', 'img', f'--ckpt_path={checkpoint}', '--task_id', '1',
                  '--scale=3+2', '--data_test=Tiny+DIV2K', '--device_id', '0', '--n_resblocks', '1', '--n_feats', '8',
                  '--res_scale', '1', f'--output_path={tmp_path}', '--self_ensemble', '--tile=20', '--device=cpu',
                  '--rgb_range=255', '--n_colors=3', '--model=EDSR', '--data_range=1-800/801-801'])
    said = capsys.readouterr().out
    assert [name for name, _, _ in LINE.findall(said)] == ['Tiny', 'DIV2K', 'DIV2K']
    assert json.loads((tmp_path / 'X2' / 'Tiny' / 'metrics.json').read_text())['model'] == 'EDSR+'
    assert (tmp_path / 'X2' / 'DIV2K' / '0801_x2.png').exists()


@pytest.mark.parametrize('flag, words', [
    ('--scale=4', 'scale 2, not 4; leave --scale out'), ('--n_feats=64', 'n_feats 8, not 64'),
    ('--scale=2+4 --task_id=1', 'scale 2, not 4'),
    ('--task_id=1 --scale=2', 'task_id 1: --scale names 1'), ('--rgb_range=1', 'rgb_range 255.0, not 1'),
    ('--data_test=DIV2K --data_range=802-803', 'pictures 802-803 of DIV2K'),
    ('--n_resblocks=32', 'n_resblocks 1, not 32'), ('--res_scale=0.1', 'res_scale 1, not 0.1'),
    ('--data_test=Tiny+Set55', "no benchmark set 'Set55'"), ('--device=npu', '--device=npu: MindSpore')])
def test_what_does_not_fit_is_refused_before_anything_is_measured(flag, words, data, checkpoint, tmp_path, capsys):
    with pytest.raises(ValueError, match=re.escape(words)):
        program.main([f'--dir_data={data}', '--data_test=Tiny', f'--ckpt_path={checkpoint}', '--device=cpu',
                      f'--output_path={tmp_path}', *flag.split()])
    assert 'psnr=' not in capsys.readouterr().out


def test_a_set_that_is_not_there(data, checkpoint):
    done = launch('run_eval.sh', 'Set55', checkpoint, f'--data_path={data}', '--device=cpu')
    assert done.returncode == 2 and "no benchmark set 'Set55'" in said(done) and 'there are: Tiny' in said(done)


def test_run_infer_on_a_folder_with_a_broken_picture(checkpoint, photo, tmp_path):
    source = tmp_path / 'my pictures'
    small = photo[100:140, 100:160]
    for name, picture in {'gray.png': small[:, :, 0], 'rgba.PNG': np.dstack([small, small[:, :, 1]]),
                          'deep.png': small.astype(np.uint16) * 257, 'broken.png': small, 'photo.jpg': small}.items():
        images.write(source / name, picture)
    (source / 'broken.png').write_bytes((source / 'broken.png').read_bytes()[:-200])
    done = launch(ROOT / 'run_infer.sh', 'my pictures', 'big', f'--checkpoint={checkpoint}', '--device=cpu',
                  folder=tmp_path)  # relative to where the user is
    assert done.returncode == 2 and '1 of 5 pictures' in said(done) and 'failed: broken.png' in said(done)
    results = {path.name: images.read(path) for path in (tmp_path / 'big').iterdir()}
    kinds = {name: (*picture.shape, picture.dtype.name) for name, picture in results.items()}
    assert kinds == {'gray_x2.png': (80, 120, 'uint8'), 'rgba_x2.png': (80, 120, 4, 'uint8'),
                     'deep_x2.png': (80, 120, 3, 'uint16'), 'photo_x2.png': (80, 120, 3, 'uint8')}
    deep, eight = results['deep_x2.png'], results['rgba_x2.png'][:, :, :3]
    assert np.abs(deep / 257 - eight).max() <= 0.51
    expected = images.to_uint8(upscaler.load(checkpoint)(small.astype(np.float32)))
    assert np.array_equal(eight, expected)


def test_infer_of_a_video(checkpoint, photo, tmp_path):
    av = pytest.importorskip('av')
    with av.open(str(tmp_path / 'clip.mp4'), 'w') as file:
        stream = file.add_stream('libx264', rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, 'yuv420p'
        for i in range(4):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(photo[100:148, 100 + i:164 + i]), format='rgb24')
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    infer.main([f'--input={tmp_path / "clip.mp4"}', f'--output={tmp_path / "big.mp4"}', f'--checkpoint={checkpoint}',
                '--device=cpu', '--self_ensemble', '--tile=40'])
    with av.open(str(tmp_path / 'big.mp4')) as file:
        frames = list(file.decode(video=0))
    assert [(frame.width, frame.height) for frame in frames] == [(128, 96)] * 4
    assert [float(frame.time) for frame in frames] == [0, 0.04, 0.08, 0.12]


def test_released_weights_are_measured_as_they_are(data, checkpoint, tmp_path, capsys):
    """The checkpoint under the authors' names: the same score, and a note about what the file does not say."""
    torch = pytest.importorskip('torch')
    weights, _, _ = read_weights(checkpoint)
    torch.save({name: torch.from_numpy(value.copy()) for name, value in weights.items()}, tmp_path / 'edsr.pt')
    for path in (checkpoint, tmp_path / 'edsr.pt'):
        program.main([f'--dir_data={data}', '--data_test=Tiny', f'--ckpt_path={path}', f'--output_path={tmp_path}',
                      '--device=cpu'])
    said = capsys.readouterr().out
    assert len(LINE.findall(said)) == 2 and len(set(LINE.findall(said))) == 1
    assert said.count('note: ') == 1 and 'edsr.pt does not say its res_scale; 1 is taken' in said


@pytest.mark.parametrize('script, words, log', [
    ('script/run_eval.sh', ('data', 'edsr.ckpt', 'Set5'), 'output/eval/log.txt'),
    ('script/run_infer_310.sh', ('edsr.mindir', 'data', 'Set5', '2'), 'output/infer_310/run_infer.log')])
def test_where_the_log_is_by_default(script, words, log, tmp_path):
    """Below the model's folder, wherever the user is, so it is said in full."""
    root = tmp_path / 'model'  # a copy, so that no log of the user's is added to
    shutil.copytree(ROOT / 'script', root / 'script')
    shutil.copytree(ROOT.parent / 'common', tmp_path / 'common')
    printing = tmp_path / 'python'
    printing.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    printing.chmod(0o755)
    done = launch(root / script, *words, folder=tmp_path, PYTHON=printing)
    assert done.returncode == 0 and f'log: {root / log}\n' in done.stdout
    assert f'--output_path={(root / log).parent}\n' in done.stdout
