"""Mode eval, run_eval.sh and scripts/run_evaluation.sh: scores, what is printed and written, exit status."""
import json
import os
import re
import shutil

import numpy as np
import pytest
from conftest import FRAMES, LR_SIZE, ROOT, call, configure, put_sets

import upscaler
from ascendvsr import evaluate
from ascendvsr.clip import indices
from common import cli, images
from common.datasets import Clip
from common.metrics import psnr, ssim
from common.resize import imresize

LINE = re.compile(r'^dataset=(\S+) scale=4 psnr=([\d.]+) ssim=([\d.]+) protocol=(\S+)$', re.MULTILINE)
VIDEO = re.compile(r'^Video (\S+) PSNR = ([\d.]+) protocol=rgb/crop0\n\tInference time: [\d.]+ ms$', re.MULTILINE)


@pytest.fixture
def home(reds, tmp_path):
    """A copy of the tiny REDS that a test may damage: the folder of images/ and sets/."""
    shutil.copytree(str(reds / 'reds'), str(tmp_path / 'reds'))
    put_sets(tmp_path / 'reds', ['001', '002'], ['000', '011'])
    return tmp_path / 'reds'


def run(data, given, out, **keys):
    evaluate.run(configure(**dict({'mode': 'eval', 'data__data_dir': data, 'data__eval_set': 'REDS4', 'device': 'cpu',
                                   'checkpoint': given, 'output_dir': out, 'solver__kernels': 'auto'}, **keys)))
    return json.loads((out / 'metrics.json').read_text())


@pytest.fixture(scope='module')
def upscale(checkpoint):
    return upscaler.load(checkpoint)


@pytest.fixture
def loaded(upscale, monkeypatch):
    """The checkpoint need not be loaded anew for every run."""
    monkeypatch.setattr(upscaler, 'configured', lambda config: upscale)


def expected(upscale, folder, padding, count=FRAMES):
    """({'psnr', 'ssim'} in RGB, in Y): means over a clip, by upscaler.py and common.metrics alone; and its pictures."""
    lr, hr = ([images.read(path) for path in images.list_pictures(folder / part)] for part in ('blur4', 'truth'))
    pictures = [images.to_uint8(upscale(np.stack([lr[i] for i in indices(middle, FRAMES, 3, padding)])))
                for middle in range(count)]
    return [{'psnr': np.mean([psnr(a, b, crop_border=0, channel=channel) for a, b in zip(pictures, hr)]),
             'ssim': np.mean([ssim(a, b, crop_border=0, channel=channel) for a, b in zip(pictures, hr)])}
            for channel in ('rgb', 'y')], pictures


def test_run_eval(reds, checkpoint, upscale, tmp_path):
    done = call('bash', ROOT / 'run_eval.sh', 'REDS4', checkpoint, f'--data_path={reds}', '--save_pictures',
                f'--output_path={tmp_path}', '--device=cpu')
    everything = done.stdout + done.stderr
    assert done.returncode == 0, everything
    assert not re.search('Traceback|WARNING|tensorflow:|oneDNN|cpu_feature_guard', everything), everything
    metrics = json.loads((tmp_path / 'REDS4' / 'metrics.json').read_text())
    assert metrics['protocols'] == ['rgb/crop0', 'y/crop0'] and metrics['dataset'] == 'REDS4'
    assert [row['name'] for row in metrics['pictures']] == ['000', '011']
    for row in metrics['pictures']:
        scores, pictures = expected(upscale, reds / 'reds' / 'images' / row['name'], 'replicate')
        for protocol, score in zip(metrics['protocols'], scores):
            assert row[protocol] == pytest.approx(score, abs=1e-2)
        assert len(row['frames']) == FRAMES and (tmp_path / 'REDS4' / row['picture']).exists()
        for t, picture in enumerate(pictures):
            saved = images.read(tmp_path / 'REDS4' / row['name'] / f'{t:08d}.png')
            assert np.abs(saved.astype(int) - picture).max() <= 1
    for protocol in metrics['protocols']:
        for key in ('psnr', 'ssim'):
            mean = np.mean([row[protocol][key] for row in metrics['pictures']])
            assert metrics['mean'][protocol][key] == pytest.approx(mean)
    rgb, y = (metrics['mean'][protocol] for protocol in metrics['protocols'])
    assert LINE.findall(done.stdout) == [('REDS4', f'{score["psnr"]:.2f}', f'{score["ssim"]:.4f}', protocol)
                                         for score, protocol in ((rgb, 'rgb/crop0'), (y, 'y/crop0'))]
    check_words_of_the_port(done.stdout, metrics)


def check_words_of_the_port(output, metrics):
    assert re.findall(r'^Evaluate (\S+)$', output, re.MULTILINE) == ['000', '011']
    assert VIDEO.findall(output) == [(row['name'], f'{row["rgb/crop0"]["psnr"]:.4f}') for row in metrics['pictures']]
    last = [line for line in output.splitlines() if 'PSNR' in line and 'Video' not in line][-1]
    assert last.split()[2] == f'{metrics["mean"]["rgb/crop0"]["psnr"]:.4f}'  # where the launchers look for it


def test_scores_of_the_authors(tmp_path):
    golden = np.load('tests/golden/metrics.npz')
    for part, picture in (('truth', golden['gt_rgb']), ('blur4', golden['gt_rgb'][::4, ::4])):
        images.write(tmp_path / part / '0.png', picture)
    clip = Clip('golden', str(tmp_path / 'truth'), str(tmp_path / 'blur4'))
    result = evaluate.measure(lambda frames: (golden['sr_rgb'] + np.float32(0.4) for _ in frames), [clip], 'REDS4')
    for channel in ('rgb', 'y'):
        for key in ('psnr', 'ssim'):
            assert result['mean'][f'{channel}/crop0'][key] == pytest.approx(float(golden[f'{key}_{channel}_crop0']))


def test_a_set_like_vid4(reds, checkpoint, upscale, loaded, tmp_path):
    """GT/<clip> alone: the LR is made; Y first; the authors' windows."""
    truth, out = reds / 'reds' / 'images' / '011' / 'truth', tmp_path / 'out'
    for path in images.list_pictures(truth):
        images.write(tmp_path / 'Vid4' / 'GT' / 'calendar' / path.name, images.read(path))
    made = run(tmp_path, checkpoint, out, data__eval_set='Vid4', data__padding='reflection_circle')
    assert made['protocols'] == ['y/crop0', 'rgb/crop0'] and made['dataset'] == 'Vid4'
    scores, _ = expected(upscale, reds / 'reds' / 'images' / '011', 'reflection_circle')
    assert made['mean']['rgb/crop0'] == pytest.approx(scores[0], abs=1e-2)
    assert sorted(os.listdir(str(out))) == ['configure_eval.yaml', 'metrics.json']
    for path in images.list_pictures(truth):
        lr = imresize(images.read(path), 1 / 4)
        images.write(tmp_path / 'Vid4' / 'BIx4' / 'calendar' / path.name, lr // 2)
    found = run(tmp_path, checkpoint, out, data__eval_set='Vid4', data__padding='reflection_circle')
    assert found['mean']['y/crop0']['psnr'] < made['mean']['y/crop0']['psnr'] - 3


def test_a_file_of_sets_and_tiles(home, checkpoint, loaded, tmp_path):
    whole = run(home, checkpoint, tmp_path / 'a', data__eval_set='val.json', data__eval_raw_size='24,32')
    assert whole['dataset'] == 'val' and [row['name'] for row in whole['pictures']] == ['000', '011']
    tiles = run(home, checkpoint, tmp_path / 'b', data__eval_set='val.json', data__eval_in_patch=True,
                data__eval_in_size='8,16', data__eval_pad_size=0)
    difference = tiles['mean']['rgb/crop0']['psnr'] - whole['mean']['rgb/crop0']['psnr']
    assert 0 < abs(difference) < 1


@pytest.mark.parametrize('damage, words', [
    (lambda folder: cut(folder / 'blur4' / '00000003.png'), '00000003.png'),
    (lambda folder: images.write(folder / 'truth' / '00000002.png', np.zeros((40, 60, 3), np.uint8)), '00000002.png'),
    (lambda folder: [images.write(folder / part / '00000004.png', np.zeros((*size, 3), np.uint8))
                     for part, size in (('truth', (80, 96)), ('blur4', (20, 24)))], 'frame 5 is 24x20')])
def test_a_broken_frame_leaves_the_other_clips(damage, words, home, checkpoint, loaded, tmp_path,
                                                    capsys):
    damage(home / 'images' / '000')
    with pytest.raises(ValueError, match='^1 of 2 clips of REDS4 could not be evaluated: 000$'):
        run(home, checkpoint, tmp_path / 'out')
    said = capsys.readouterr()
    assert 'error: 000: ' in said.err and words in said.err
    metrics = json.loads((tmp_path / 'out' / 'metrics.json').read_text())
    assert [row['name'] for row in metrics['pictures']] == ['011'] and words in metrics['failed']['000']
    assert len(LINE.findall(said.out)) == 2


def cut(path):
    path.write_bytes(path.read_bytes()[:-200])


def test_what_is_broken_gives_exit_2(home, checkpoint, loaded, tmp_path, capsys):
    cut(home / 'images' / '000' / 'truth' / '00000000.png')
    with pytest.raises(SystemExit) as status:
        cli.run(lambda: run(home, checkpoint, tmp_path / 'out'))
    assert status.value.code == 2 and 'error: 1 of 2 clips of REDS4' in capsys.readouterr().err


def test_some_frames_by_a_function_and_a_few_in_memory(reds):
    """As while training: nothing is written, and frames are not read long before they are upscaled."""
    folder, ahead = reds / 'reds' / 'images' / '002', []

    def upscale_clip(frames):
        for number, lr in enumerate(frames):
            ahead.append(number)
            yield imresize(lr.astype(np.float32), 4)
    clip = Clip('002', str(folder / 'truth'), str(folder / 'blur4'))
    result = evaluate.measure(upscale_clip, [clip], 'REDS4', frames=2)
    row, = result['pictures']
    assert [frame['name'] for frame in row['frames']] == ['00000000', '00000001'] and ahead == [0, 1]
    assert result['mean']['rgb/crop0']['psnr'] == pytest.approx(result['bicubic']['rgb/crop0']['psnr'], abs=0.1)


@pytest.mark.parametrize('keys, words', [
    ({'data__eval_set': 'REDS5'}, "no set of clips 'REDS5'"), ({'checkpoint': 'nothing'}, 'no such checkpoint'),
    ({'data__eval_in_patch': True}, 'data.eval_in_size []: expected height and width'),
    ({'data__eval_raw_size': '3'}, 'data.eval_raw_size [3]: expected height and width'),
    ({'data__eval_pad_size': -1}, 'data.eval_pad_size -1'), ({'device': 'npu'}, '--device=npu'),
    ({'edvr__compat': 'port'}, 'compat paper, not port')])
def test_what_does_not_fit_is_refused_before_anything_is_measured(keys, words, reds, checkpoint, tmp_path, capsys):
    with pytest.raises(ValueError, match=re.escape(words)):
        run(reds, checkpoint, tmp_path / 'out', **keys)
    assert 'Evaluate' not in capsys.readouterr().out and not (tmp_path / 'out').exists()


def test_frames_of_another_size_than_asked_for(reds, checkpoint, loaded, tmp_path, capsys):
    with pytest.raises(ValueError, match='2 of 2 clips'):
        run(reds, checkpoint, tmp_path / 'out', data__eval_raw_size='180,320')
    assert f'frame 1 is {LR_SIZE[1]}x{LR_SIZE[0]} (width x height), expected 320x180' in capsys.readouterr().err


@pytest.fixture
def words(tmp_path):
    """words(script, ...): what its program is started with."""
    stand_in = tmp_path / 'python'
    stand_in.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    stand_in.chmod(0o755)

    def started(script, *given):
        done = call('bash', ROOT / script, *given, PYTHON=str(stand_in))
        assert done.returncode == 0, done.stderr
        program, *rest = [line for line in done.stdout.splitlines() if not line.lower().startswith('device id')]
        assert program == 'tools/main.py'
        return rest
    return started


def test_the_ports_script(words):
    config, path, *rest = words('scripts/run_evaluation.sh', 3, '/x/EDVR-600000', '--', 'data.padding', 'replicate')
    assert (config, path) == ('--config-file', 'configs/edvr.yaml')
    pairs = dict(zip(rest[::2], rest[1::2]))
    assert pairs == {'mode': 'eval', 'data.data_dir': 'data/reds', 'checkpoint': '/x/EDVR-600000', 'device': 'auto',
                     'output_dir': 'outputs/edvr', 'device_ids': '[3]', 'data.padding': 'replicate'}


def test_the_ports_script_of_inference(words):
    rest = words('scripts/run_inference.sh', 0, '/x', '--data_dir=/my data', '--device=cpu')[2:]
    assert dict(zip(rest[::2], rest[1::2])) == {
        'mode': 'inference', 'data.data_dir': '/my data', 'checkpoint': '/x', 'device': 'cpu',
        'output_dir': 'outputs/edvr', 'device_ids': '[0]'}


def test_options_of_run_eval(words):
    rest = words('run_eval.sh', 'Vid4', '/x', '--data_path=/my data', '--compat=port', '--padding=reflection_circle')
    assert dict(zip(rest[::2], rest[1::2])) == {
        'mode': 'eval', 'data.eval_set': 'Vid4', 'checkpoint': '/x', 'data.data_dir': '/my data', 'device': 'auto',
        'output_dir': 'output/eval/Vid4', 'data.padding': 'reflection_circle', 'edvr.compat': 'port'}


@pytest.mark.parametrize('script', ['run_eval.sh', 'run_infer.sh', 'scripts/run_evaluation.sh',
                                    'scripts/run_inference.sh'])
def test_help(script):
    done = call('bash', ROOT / script, '--help')
    assert done.returncode == 0 and not done.stderr and f'bash {script}' in done.stdout.splitlines()[0]
    done = call('bash', ROOT / script, '1')
    assert done.returncode == 2 and 'is missing' in done.stderr
