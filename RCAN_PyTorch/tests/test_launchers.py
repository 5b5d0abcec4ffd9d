"""The launchers as a user starts them: help, typos, exit status, what they write."""
import json
import re
import shutil
import sys

import numpy as np
import pytest
import torch
from conftest import LAST, ROOT, SIZE, TEST_DEVICE_ID, call, flags, state_of, tiny

import export
import upscaler
from common import images
from common.logs import read_records

TRAINING = ('train_full_1p', 'train_full_8p', 'train_performance_1p', 'train_performance_8p', 'train_finetuning_1p',
            'run_1p_prof')
LAUNCHERS = [*(f'test/{name}.sh' for name in (*TRAINING, 'run_test')), 'run_eval.sh', 'run_infer.sh', 'run_export.sh']
LOGS = ROOT / 'test' / 'output' / TEST_DEVICE_ID
SMALL = ('--', *flags(**SIZE, patch_size=8, workers=1, log_every=1))


def launch(script, *words, **more):
    return call('bash', ROOT / script, *words, **more)


def said(done):
    """All that a launcher said, its programs' errors among it; no traceback."""
    assert 'Traceback' not in done.stdout + done.stderr
    return done.stdout + done.stderr


def train_options(data, out):
    return (f'--data_path={data}', f'--output_path={out}', '--device=cpu', '--batch_size=4', '--train_steps=3',
            '--lr=3e-4')


@pytest.mark.parametrize('script', LAUNCHERS)
def test_help(script):
    done = launch(script, '--help')
    assert done.returncode == 0 and not done.stderr
    first, *rest = done.stdout.splitlines()
    assert first.count(': bash ') == 1 and script.split('/')[-1] in first
    options = dict(re.findall(r'^  --(\w+)(\S*)', done.stdout, re.MULTILINE))
    if script != 'run_export.sh':
        assert options['device'] == '=auto'
    if 'train_' in script:
        full, eight = 'full' in script, '8p' in script
        assert options['num_epochs'] == ('=600' if full else '=2') and options['lr'] == '=1e-4'
        assert options['batch_size'] == ('=1280' if eight else '=160') and options['scale'] == '=2'
        assert ('nproc' if eight else 'device_id') in options


@pytest.mark.parametrize('script, typo, meant', [
    *((f'test/{name}.sh', '--batchsize=4', '--batch_size') for name in TRAINING),
    ('test/train_full_1p.sh', '--train_data_dir=x', '--train_dataset_dir'),
    ('test/run_test.sh', '--checkpoint=x', '--checkpoint_path'), ('run_eval.sh', '--datapath=x', '--data_path'),
    ('run_infer.sh', '--self-ensemble', '--self_ensemble'), ('run_export.sh', '--hlep', '--help')])
def test_a_typo_names_the_nearest_option(script, typo, meant):
    done = launch(script, typo)
    assert done.returncode == 2 and f'unknown option {typo.split("=")[0]}; did you mean {meant}?' in done.stderr


@pytest.mark.parametrize('script, words, missing', [
    ('test/train_full_1p.sh', (), 'data_path'), ('test/train_full_1p.sh', ('--data_path=',), 'data_path'),
    ('test/train_finetuning_1p.sh', ('--data_path=x',), 'finetuning_checkpoint_path'),
    ('test/run_test.sh', ('--checkpoint_path=x',), 'test_dataset_dir'), ('run_eval.sh', ('Set5',), 'checkpoint'),
    ('run_infer.sh', ('a.png', 'b.png'), 'checkpoint'), ('run_export.sh', (), 'checkpoint'),
    ('test/train_full_1p.sh', ('--data_path=x', '--precision=fp64'), 'amp or fp32'),
    ('test/train_full_8p.sh', ('--data_path=x', '--nproc=0'), '--nproc=0; expected a number')])
def test_what_is_missing_is_named(script, words, missing):
    done = launch(script, *words)
    assert done.returncode == 2 and 'error: ' in done.stderr and missing in done.stderr


def test_train_full_1p(data, tmp_path):
    shutil.rmtree(LOGS, ignore_errors=True)
    out = tmp_path / 'my output'
    done = launch('test/train_full_1p.sh', *train_options(data, out), *SMALL)
    assert done.returncode == 0, said(done)
    assert f'device id is {TEST_DEVICE_ID}' in done.stdout and 'Final Performance images/sec : ' in done.stdout
    state = state_of(out / 'X2' / 'RCAN_epoch_last_amp.pth')
    assert state['step'] == 3 and len(state['ck_performance']) == 1 and (out / 'X2' / 'model_best_amp.pth').exists()
    records = read_records(out / 'X2' / 'train.jsonl')
    assert [(r['step'], r['learning_rate']) for r in records] == [(1, 3e-4), (2, 3e-4), (3, 3e-4)]
    log = (LOGS / f'train_{TEST_DEVICE_ID}.log').read_text()
    assert 'epoch=1 step=3/3' in log and 'Final Val PSNR : ' in log and 'protocol=y/crop2' in log
    summary = (LOGS / 'RCAN_bs4_1p_acc.log').read_text()
    assert 'CaseName = RCAN_bs4_1p_acc\n' in summary and 'RankSize = 1\n' in summary and 'ValPSNR = ' in summary


def test_the_status_of_a_failing_training_is_passed_on(tmp_path):
    (tmp_path / 'empty').mkdir()
    done = launch('test/train_full_1p.sh', *train_options(tmp_path / 'empty', tmp_path / 'out'), *SMALL)
    assert done.returncode == 2 and 'error: ' in said(done) and 'DIV2K_train_HR' in said(done)
    assert 'DIV2K_train_HR' in (LOGS / f'train_{TEST_DEVICE_ID}.log').read_text()


def test_train_finetuning_1p_and_device_id(data, checkpoint, tmp_path):
    """--device_id is read (the released launcher took it for --device), and the log is filed under it."""
    folder = ROOT / 'test' / 'output' / '96'
    try:
        done = launch('test/train_finetuning_1p.sh', *train_options(data, tmp_path / 'out'), '--device_id=96',
                      f'--finetuning_checkpoint_path={checkpoint}', '--precision', 'fp32', *SMALL, ASCEND_DEVICE_ID='')
        assert done.returncode == 0, said(done)
        assert 'device id is 96' in done.stdout and 'all layers kept' in done.stdout
        assert (folder / 'train_96.log').exists() and (folder / 'RCAN_bs4_1p_perf.log').exists()
        assert state_of(tmp_path / 'out' / 'X2' / LAST)['step'] == 3
        assert read_records(tmp_path / 'out' / 'X2' / 'train.jsonl')[-1]['learning_rate'] == 3e-4
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def test_run_1p_prof(data, tmp_path):
    done = launch('test/run_1p_prof.sh', *train_options(data, tmp_path / 'out'), *SMALL)
    assert done.returncode == 0, said(done)
    assert len(re.findall(r'^step=\d seconds=[\d.]+ data_wait=', done.stdout, re.MULTILINE)) == 5
    assert 'aten::' in done.stdout and 'Self CPU' in done.stdout
    trace = tmp_path / 'out' / 'X2' / 'output_cpu.prof'
    assert str(trace) in done.stdout and len(json.loads(trace.read_text())['traceEvents']) > 100


def test_npu_that_is_not_there(data, tmp_path):
    done = launch('test/train_performance_1p.sh', *train_options(data, tmp_path / 'out'), '--device', 'npu', *SMALL)
    assert done.returncode == 2 and 'error: --device=npu' in said(done) and 'torch_npu' in said(done)


def test_env_npu_exports():
    done = call('bash', '-c', '. test/env_npu.sh && env')
    assert done.returncode == 0 and not done.stderr
    for line in ('TASK_QUEUE_ENABLE=1', 'COMBINED_ENABLE=0', 'DYNAMIC_OP=ADD#MUL', 'HCCL_WHITELIST_DISABLE=1',
                 'ASCEND_SLOG_PRINT_TO_STDOUT=0', 'ASCEND_GLOBAL_LOG_LEVEL=3', 'PTCOPY_ENABLE=1'):
        assert line in done.stdout.splitlines()
    assert re.search(r'^HCCL_IF_IP=', done.stdout, re.MULTILINE)


def test_run_eval(data, checkpoint, tmp_path):
    done = launch('run_eval.sh', 'tiny', checkpoint, f'--data_path={data}', '--output_path', tmp_path / 'eval',
                  '--device=cpu')
    assert done.returncode == 0, said(done)
    line = r'^dataset=tiny scale=2 psnr=([\d.]+) ssim=[\d.]+ protocol=(\S+)$'
    scores = dict(re.findall(line, done.stdout, re.MULTILINE))
    assert set(scores.values()) == {'y/crop2', 'y/crop8/truncate/sample'} and all(20 < float(s) < 60 for s in scores)
    assert 'model=bicubic' in done.stdout
    found = json.loads((tmp_path / 'eval' / 'X2' / 'tiny' / 'metrics.json').read_text())
    assert f'{found["mean"]["y/crop2"]["psnr"]:.2f}' in scores
    assert images.size(tmp_path / 'eval' / 'X2' / 'tiny' / 'cat_x2.png') == (96, 96)


def test_run_eval_of_a_set_that_is_not_there(data, checkpoint):
    done = launch('run_eval.sh', 'Set55', checkpoint, f'--data_path={data}', '--device=cpu')
    assert done.returncode == 2 and "no benchmark set 'Set55'" in said(done) and 'there are: Tiny' in said(done)


def test_run_test_of_an_8p_checkpoint_of_the_port(data, tmp_path):
    weights = {f'module.{name}': value for name, value in tiny(3, 'port').state_dict().items()}
    torch.save({'model': weights, 'best': np.float64(20), 'ck_time': [0.1], 'amp': None}, tmp_path / 'model best.pth')
    done = launch('test/run_test.sh', f'--test_dataset_dir={data / "benchmark" / "Tiny"}', '--device=cpu', '--scale=3',
                  f'--checkpoint_path={tmp_path / "model best.pth"}', f'--outputs_dir={tmp_path / "eval"}',
                  '--from_multiprocessing_distributed')
    assert done.returncode == 0, said(done)
    assert 'dataset=Tiny scale=3' in done.stdout and 'protocol=y/crop3' in done.stdout
    assert (tmp_path / 'eval' / 'X3' / 'Tiny' / 'cat_x3.png').exists()
    assert 'protocol=y/crop9' in (LOGS / f'test_{TEST_DEVICE_ID}.log').read_text()


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


def test_run_infer_on_a_video(checkpoint, photo, tmp_path):
    av = pytest.importorskip('av')
    with av.open(str(tmp_path / 'clip.mp4'), 'w') as file:
        stream = file.add_stream('libx264', rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, 'yuv420p'
        for i in range(4):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(photo[100:148, 100 + i:164 + i]), format='rgb24')
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    done = launch('run_infer.sh', tmp_path / 'clip.mp4', tmp_path / 'big.mp4', f'--checkpoint={checkpoint}',
                  '--device=cpu', '--amp', '--self_ensemble', '--tile=40')
    assert done.returncode == 0, said(done)
    with av.open(str(tmp_path / 'big.mp4')) as file:
        frames = list(file.decode(video=0))
    assert [(frame.width, frame.height) for frame in frames] == [(128, 96)] * 4
    assert [float(frame.time) for frame in frames] == [0, 0.04, 0.08, 0.12]


def test_run_export(checkpoint, tmp_path):
    onnxruntime = pytest.importorskip('onnxruntime')
    pytest.importorskip('onnx')
    done = launch('run_export.sh', checkpoint, tmp_path / 'rcan x2.onnx')
    assert done.returncode == 0, said(done)
    assert len(re.findall(r'network [\d.]+ dB, onnxruntime [\d.]+ dB', done.stdout)) == 2
    session = onnxruntime.InferenceSession(str(tmp_path / 'rcan x2.onnx'), providers=['CPUExecutionProvider'])
    lr = np.random.default_rng(0).uniform(0, 255, (2, 3, 17, 30)).astype(np.float32)
    sr = session.run(['HR_image'], {'image': lr})[0]
    upscale = upscaler.load(checkpoint)
    for one, expected in zip(sr, lr):
        np.testing.assert_allclose(one.transpose(1, 2, 0), upscale(expected.transpose(1, 2, 0)), rtol=0, atol=0.01)


@pytest.mark.parametrize('style, scale', [('port', 3), ('paper', 4)])
def test_export_of_other_networks(style, scale, tmp_path, capsys):
    pytest.importorskip('onnxruntime')
    torch.save({'model': tiny(scale, style).state_dict()}, tmp_path / 'rcan.pth')
    export.main([f'--checkpoint={tmp_path / "rcan.pth"}', f'--output={tmp_path / "rcan.onnx"}'])
    assert f'x{scale}, opset 17' in capsys.readouterr().out


def test_a_wrong_export_is_refused_and_an_earlier_file_stays(checkpoint, tmp_path, monkeypatch):
    pytest.importorskip('onnxruntime')
    write, output = export.write_onnx, tmp_path / 'rcan.onnx'
    output.write_bytes(b'an earlier file')

    def wrong(network, path, opset):
        network = tiny()
        network.load_state_dict(upscaler.load(checkpoint).network.state_dict())
        network.conv2.weight.mul_(1.01)
        write(network, path, opset)
    monkeypatch.setattr(export, 'write_onnx', wrong)
    with pytest.raises(ValueError, match='refused, nothing was written'):
        export.main([f'--checkpoint={checkpoint}', f'--output={output}'])
    assert output.read_bytes() == b'an earlier file' and [path.name for path in tmp_path.iterdir()] == ['rcan.onnx']


def test_export_names_what_it_needs(checkpoint, tmp_path, monkeypatch):
    for arguments in (('--output=rcan.pb',), ('--output=rcan.onnx', '--opset=9')):
        with pytest.raises(ValueError, match='expected a name in .onnx and 13 or more'):
            export.main([f'--checkpoint={checkpoint}', *arguments])
    monkeypatch.setitem(sys.modules, 'onnxruntime', None)
    with pytest.raises(ValueError, match='install onnx and onnxruntime'):
        export.main([f'--checkpoint={checkpoint}', f'--output={tmp_path / "rcan.onnx"}'])
