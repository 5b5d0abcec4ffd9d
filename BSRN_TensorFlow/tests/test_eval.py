"""validate_bsrn.py, test_bsrn.py and their launchers as a user starts them: exit status, what they print and write."""
import json
import re
import shutil
import sys
import types

import numpy as np
import pytest
from conftest import ROOT, call, flags, refused, save

import export
import test_bsrn
import upscaler
import validate_bsrn as program
from common import datasets, images
from common.evaluation import Protocol
from models.restored import upscaling

LINE = re.compile(r'^dataset=(\S+) scale=(\d) psnr=([\d.]+) ssim=[\d.]+ protocol=(\S+)$', re.MULTILINE)
NAMES = ('t1', 't2', 't3', 'ensemble')


def launch(script, *words, **more):
    return call('bash', ROOT / script, *words, **more)


def said(done):
    """All that a launcher said, its programs' errors among it; no traceback, nothing of TensorFlow's log."""
    everything = done.stdout + done.stderr
    assert not re.search('Traceback|WARNING|tensorflow:|oneDNN|cpu_feature_guard', everything), everything
    return everything


@pytest.mark.parametrize('script', ['run_eval.sh', 'run_infer.sh', 'run_export.sh'])
def test_help(script):
    done = launch(script, '--help')
    assert done.returncode == 0 and not done.stderr
    first, *_ = done.stdout.splitlines()
    assert first.count(': bash ') == 1 and script in first


@pytest.mark.parametrize('script, words, message', [
    ('run_eval.sh', ('--datapath=x',), 'unknown option --datapath; did you mean --data_path?'),
    ('run_infer.sh', ('--self-ensemble',), 'unknown option --self-ensemble; did you mean --self_ensemble?'),
    ('run_eval.sh', ('Set5',), 'checkpoint is missing'), ('run_infer.sh', ('a.png', 'b.png'), 'checkpoint is missing'),
    ('run_export.sh', ('a', 'b', 'c'), "'c' is one argument too many")])
def test_launchers_name_what_is_wrong(script, words, message):
    done = launch(script, *words)
    assert done.returncode == 2 and 'error: ' in done.stderr and message in done.stderr


def test_run_eval(data, checkpoint, tmp_path):
    done = launch('run_eval.sh', 'tiny', checkpoint, f'--data_path={data}', '--output_path', tmp_path / 'eval',
                  '--chip=cpu')
    assert done.returncode == 0, said(done)
    assert [line[0] + line[3] for line in LINE.findall(said(done))] == ['tinyy/crop2', 'tinyrgb/crop4']
    folder = tmp_path / 'eval' / 'tiny'
    metrics = json.loads((folder / 'ensemble' / 'x2' / 'metrics.json').read_text())
    check_scores(data, checkpoint, metrics, folder)
    check_words(done.stdout, metrics)


def check_scores(data, checkpoint, metrics, folder):
    """Every pass's picture is that of upscaler.py, its scores are those of that picture."""
    scores = dict(metrics['also'], ensemble=metrics['mean'])
    assert tuple(scores) == NAMES and metrics['protocols'] == ['y/crop2', 'rgb/crop4']
    pairs = datasets.find_benchmark(data, 'Tiny', 2)
    for name in NAMES:
        upscale = upscaler.load(checkpoint, recursion=int(name[1:]) if name[1:].isdigit() else name)
        found = {protocol: [] for protocol in (Protocol('y', 2), Protocol('rgb', 4))}
        for pair in pairs:
            lr, hr = datasets.load_pair(pair, 2)
            picture = images.read(folder / name / 'x2' / f'{pair.name}.png')
            difference = np.abs(picture.astype(int) - images.to_uint8(upscale(lr.astype(np.float32))))
            assert difference.max() <= 1 and difference.mean() < 0.01  # rounded after other sums
            for protocol, rows in found.items():
                rows.append([protocol.measure(picture, hr)[key] for key in ('psnr', 'ssim')])
        for protocol, rows in found.items():
            assert [scores[name][protocol.name][key] for key in ('psnr', 'ssim')] == pytest.approx(np.mean(rows, 0))
    assert len({scores[name]['y/crop2']['psnr'] for name in NAMES}) == 4  # the test can tell
    assert [row['picture'] for row in metrics['pictures']] == ['cat.png', 'nose.png']


def check_words(output, metrics):
    """A line for each pass, and the words with which the released port ends."""
    scores = [*metrics['also'].values(), metrics['mean']]
    table = re.findall(r'^(t1|t2|t3|ensemble) +([\d.]+)/([\d.]+) +([\d.]+)/([\d.]+)$', output, re.MULTILINE)
    assert tuple(row[0] for row in table) == NAMES
    assert [float(row[3]) for row in table] == pytest.approx([s['rgb/crop4']['psnr'] for s in scores], abs=6e-4)
    end = output.index('- x2, PSNR and SSIM:')
    expected = ' '.join(f'{score["rgb/crop4"]["psnr"]:.3f}' for score in scores)
    assert output[end:].splitlines()[:2] == ['- x2, PSNR and SSIM: protocol=rgb/crop4', f'Final PSNR:  {expected}']
    ssim = re.search(r'^Final SSIM:  (.*)$', output, re.MULTILINE).group(1).split()
    assert [float(word) for word in ssim] == pytest.approx([s['rgb/crop4']['ssim'] for s in scores], abs=6e-6)


def test_the_command_of_the_ports_launcher(data, tmp_path, monkeypatch):
    """Every flag of the released launcher and of the authors' own command; one run of the network for each picture."""
    runs = []

    def counted(*arguments):
        run = upscaling(*arguments)
        return lambda batch: (runs.append(batch.shape), run(batch))[1]
    monkeypatch.setattr(upscaler, 'upscaling', counted)
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '')  # --cuda_device changes it
    save(tmp_path / 'checkpoints' / 'model.ckpt-540', scales=(2, 3, 4))
    for scale in (2, 4):
        for pair in datasets.find_benchmark(data, 'Tiny', scale):
            images.write(tmp_path / 'BSD100' / 'LR' / f'x{scale}' / f'{pair.name}.png', images.read(pair.lr))
            images.write(tmp_path / 'BSD100' / 'SR' / f'{pair.name}.png', images.read(pair.hr))
    program.main(flags(
        dataloader='basic_loader', data_input_path=tmp_path / 'BSD100' / 'LR', data_cached='false', model='bsrn',
        data_truth_path=tmp_path / 'BSD100' / 'SR', restore_path=tmp_path / 'checkpoints', restore_global_step=540,
        restore_target='generator', scales='2,4', save_path=tmp_path / 'result-pictures', shave_size=6, chip='cpu',
        cuda_device='-1', ensemble_only='false', bsrn_model_scales='2,3,4', bsrn_conv_features=8,
        bsrn_state_features=4, bsrn_recursions=2, bsrn_recursion_frequency=1, bsrn_rgb_mean='127.5,127.5,127.5'))
    assert len(runs) == 4
    for scale in (2, 4):
        for name in ('t1', 't2', 'ensemble'):
            folder = tmp_path / 'result-pictures' / name / f'x{scale}'
            assert {path.stem for path in folder.glob('*.png')} == {'cat', 'nose'}
        metrics = json.loads((folder / 'metrics.json').read_text())
        assert metrics['dataset'] == 'BSD100' and metrics['protocols'] == [f'y/crop{scale}', 'rgb/crop6']
    assert not (tmp_path / 'result-pictures' / 't3').exists()  # --bsrn_recursions=2


def test_ensemble_only_and_nothing_written(data, checkpoint, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    program.main(flags(dataset='Tiny', data_path=data, checkpoint=checkpoint, device='cpu', ensemble_only=True))
    alone = capsys.readouterr().out
    assert not re.search('^t1', alone, re.MULTILINE) and not list(tmp_path.iterdir())
    assert len(re.search(r'^Final PSNR:  (.*)$', alone, re.MULTILINE).group(1).split()) == 1
    program.main(flags(dataset='Tiny', data_path=data, checkpoint=checkpoint, device='cpu', tile=17))
    assert LINE.findall(capsys.readouterr().out) == LINE.findall(alone)


def test_pictures_go_to_an_object_store(data, checkpoint, tmp_path, monkeypatch, capsys):
    def measure(**more):
        program.main(flags(dataset='Tiny', data_path=data, checkpoint=checkpoint, device='cpu', ensemble_only=True,
                           platform='modelarts', obs_dir='obs://mine/', **more))
    refused(capsys, measure, 'moxing', save_path=tmp_path / 'a')
    refused(capsys, measure, '--save_path')
    assert not (tmp_path / 'a').exists()
    copied = []
    store = types.SimpleNamespace(copy_parallel=lambda *places: copied.append(places))
    monkeypatch.setitem(sys.modules, 'moxing', types.SimpleNamespace(file=store))
    measure(save_path=tmp_path / 'a')
    assert copied == [(str(tmp_path / 'a'), 'obs://mine/')] and (tmp_path / 'a' / 'ensemble').is_dir()


def test_a_broken_picture_of_one_scale_leaves_the_others(data, tmp_path, capsys):
    several = save(tmp_path / 'model.ckpt-1', scales=(2, 3))
    shutil.copytree(str(data / 'benchmark' / 'Tiny'), str(tmp_path / 'Tiny'))
    (tmp_path / 'Tiny' / 'LR_bicubic' / 'X2' / 'catx2.png').write_bytes(b'')
    with pytest.raises(ValueError, match='^x2: 1 of 2 pictures of Tiny'):
        program.main(flags(dataset='Tiny', data_path=tmp_path, restore_path=several, scales='2,3', device='cpu'))
    assert '- x3, PSNR and SSIM' in capsys.readouterr().out


def test_a_broken_picture_is_named_and_the_others_measured(data, checkpoint, tmp_path, capsys):
    for pair in datasets.find_benchmark(data, 'Tiny', 2):
        for path, place in ((pair.lr, 'LR/x2'), (pair.hr, 'HR')):
            images.write(tmp_path / 'Own' / place / f'{pair.name}.png', images.read(path))
    broken = tmp_path / 'Own' / 'LR' / 'x2' / 'cat.png'
    broken.write_bytes(broken.read_bytes()[:300])
    with pytest.raises(ValueError, match='1 of 2 pictures of Own could not be evaluated: cat'):
        program.main(flags(data_input_path=tmp_path / 'Own' / 'LR', data_truth_path=tmp_path / 'Own' / 'HR',
                           restore_path=checkpoint, device='cpu', save_path=tmp_path / 'out'))
    captured = capsys.readouterr()
    assert 'error: cat: ' in captured.err and len(LINE.findall(captured.out)) == 2
    assert (tmp_path / 'out' / 't2' / 'x2' / 'nose.png').exists()


@pytest.mark.parametrize('given, words', [
    ({'scales': 4}, 'a network of scale 2, not 4; leave --scales out'),
    ({'dataset': 'Set55'}, "no benchmark set 'Set55'"),
    ({'bsrn_conv_features': 64}, 'conv_features 8, not 64'), ({'shave_size': -1}, '--shave_size -1'),
    ({'dataset': None}, 'they go together'), ({'data_path': None}, 'they go together'),
    ({'dataloader': 'other_loader'}, 'no such loader; known: basic_loader'), ({'device': 'npu'}, '--device=npu: '),
    ({'restore_path': 'nowhere.ckpt'}, 'nowhere.ckpt: no such checkpoint'), ({'tile': -3}, '--tile -3')])
def test_what_does_not_fit_is_refused_before_anything_is_measured(given, words, data, checkpoint, tmp_path, capsys):
    usual = {'dataset': 'Tiny', 'data_path': data, 'restore_path': checkpoint, 'device': 'cpu', 'save_path': tmp_path}
    with pytest.raises(ValueError, match=re.escape(words)):
        program.main(flags(**dict(usual, **given)))
    assert 'psnr=' not in capsys.readouterr().out and not list(tmp_path.iterdir())


def test_an_unknown_flag_is_an_error(checkpoint, capsys):
    with pytest.raises(SystemExit):
        program.main(['--dataloader=div2k_loader', f'--restore_path={checkpoint}', '--shavesize=4'])
    assert 'unknown option --shavesize; did you mean --shave_size?' in capsys.readouterr().err


def test_run_infer_on_a_folder_with_a_broken_picture(checkpoint, photo, tmp_path):
    source = tmp_path / 'my pictures'
    small = photo[100:140, 100:160]
    for name, picture in {'gray.png': small[:, :, 0], 'rgba.PNG': np.dstack([small, small[:, :, 1]]),
                          'deep.png': small.astype(np.uint16) * 257, 'broken.png': small}.items():
        images.write(source / name, picture)
    (source / 'broken.png').write_bytes((source / 'broken.png').read_bytes()[:-200])
    done = launch(ROOT / 'run_infer.sh', 'my pictures', 'big', f'--checkpoint={checkpoint}', '--device=cpu',
                  '--recursion=2', folder=tmp_path)  # relative to where the user is
    assert done.returncode == 2 and '1 of 4 pictures' in said(done) and 'failed: broken.png' in said(done)
    results = {path.name: images.read(path) for path in (tmp_path / 'big').iterdir()}
    kinds = {name: (*picture.shape, picture.dtype.name) for name, picture in results.items()}
    assert kinds == {'gray_x2.png': (80, 120, 'uint8'), 'rgba_x2.png': (80, 120, 4, 'uint8'),
                     'deep_x2.png': (80, 120, 3, 'uint16')}
    expected = images.to_uint8(upscaler.load(checkpoint, recursion=2)(small.astype(np.float32)))
    assert np.array_equal(results['rgba_x2.png'][:, :, :3], expected)


def test_the_ports_own_test_command(photo, tmp_path, monkeypatch):
    """From LR to SR/x3, SR/x4 by default, names kept; of a network of several scales."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '')
    source = save(tmp_path / 'several.ckpt', scales=(2, 3, 4))
    images.write(tmp_path / 'LR' / 'cat.png', photo[100:112, 100:116])
    test_bsrn.main(flags(model='bsrn', cuda_device='-1', restore_path=source, scales='3,4', device='cpu'))
    test_bsrn.main(flags(restore_path=source, scale=2, input_path='LR/cat.png', output_path='out', device='cpu'))
    heights = [images.read(tmp_path / place / 'cat.png').shape[0] for place in ('SR/x3', 'SR/x4', 'out/x2')]
    assert heights == [36, 48, 24]


@pytest.mark.parametrize('given, words', [
    ({'output_path': 'b'}, 'name one of them'), ({'scales': '2,3'}, 'takes one of --scales'),
    ({}, 'a network of scales 2,3; choose one of them'),
    ({'scales': 2, 'recursion': 7}, 'recursion 7: expected one of')])
def test_what_test_bsrn_refuses(given, words, photo, tmp_path):
    images.write(tmp_path / 'cat.png', photo[:8, :8])
    source = save(tmp_path / 'x23.ckpt', scales=(2, 3))
    with pytest.raises(ValueError, match=words):
        test_bsrn.main(flags(checkpoint=source, input=tmp_path / 'cat.png', output=tmp_path / 'a', **given))


@pytest.mark.parametrize('main', [test_bsrn.main, program.main, export.main])
def test_scales_that_are_none(main, checkpoint, capsys):
    with pytest.raises(SystemExit) as status:
        main(flags(checkpoint=checkpoint, bsrn_model_scales='x'))
    assert status.value.code == 2 and "--bsrn_model_scales: 'x': expected 2, 3, 4, 8" in capsys.readouterr().err


def test_infer_of_a_video(checkpoint, photo, tmp_path):
    av = pytest.importorskip('av')
    with av.open(str(tmp_path / 'clip.mp4'), 'w') as file:
        stream = file.add_stream('libx264', rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, 'yuv420p'
        for i in range(4):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(photo[100:148, 100 + i:164 + i]), format='rgb24')
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    test_bsrn.main(flags(input=tmp_path / 'clip.mp4', output=tmp_path / 'big.mp4', checkpoint=checkpoint, device='cpu',
                         self_ensemble=True, tile=40))
    with av.open(str(tmp_path / 'big.mp4')) as file:
        frames = list(file.decode(video=0))
    assert [(frame.width, frame.height) for frame in frames] == [(128, 96)] * 4
    assert [float(frame.time) for frame in frames] == [0, 0.04, 0.08, 0.12]
