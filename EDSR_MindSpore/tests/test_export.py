"""MINDIR and ONNX files that equal the network, for free and fixed sizes; what is refused, and that nothing is lost."""
import re
import sys

import mindspore as ms
import numpy as np
import pytest
from conftest import ROOT, call, tiny

import export
import infer_310
import upscaler
from common.ms import export as common_export
from common.ms.checkpoint import load_weights, weights_of

onnxruntime = pytest.importorskip('onnxruntime')
pytest.importorskip('onnx')


def save(network, path, res_scale=1.0):
    ms.save_checkpoint(network, str(path), append_dict={'res_scale': res_scale})
    return path


def session_of(path):
    return onnxruntime.InferenceSession(str(path), providers=['CPUExecutionProvider'])


def batch_of(n, height, width, seed=0):
    """float32 [n,3,height,width] in 0..255."""
    return np.random.default_rng(seed).uniform(0, 255, (n, 3, height, width)).astype(np.float32)


def check(upscale, batch, results):
    for lr, sr in zip(batch, results):
        np.testing.assert_allclose(sr.transpose(1, 2, 0), upscale(lr.transpose(1, 2, 0)), rtol=0, atol=0.01)


@pytest.mark.parametrize('kind', ['MINDIR', 'ONNX'])
def test_run_export(kind, checkpoint, tmp_path):
    path = tmp_path / f'edsr x2.{kind.lower()}'
    done = call('bash', ROOT / 'run_export.sh', checkpoint, path)
    assert done.returncode == 0 and not done.stderr, done.stdout + done.stderr
    assert len(re.findall(rf'^network [\d.]+ dB, {kind} [\d.]+ dB$', done.stdout, re.MULTILINE)) == 2
    assert f'written to {path}: x2, res_scale 1, input [N,3,H,W], {path.stat().st_size:,} bytes' in done.stdout
    assert path.stat().st_mode & 0o444 == 0o444 and [one.name for one in tmp_path.iterdir()] == [path.name]
    upscale = upscaler.load(checkpoint, kernels='builtin')
    for n, height, width in ((2, 17, 30), (1, 40, 9)):
        batch = batch_of(n, height, width)
        if kind == 'ONNX':
            results = session_of(path).run(['HR_image'], {'image': batch})[0]
        else:
            results = infer_310.Mindir(path).infer(batch)
        assert len(results) == n
        check(upscale, batch, results)


def test_names_in_a_mindir(checkpoint, tmp_path):
    export.main([f'--ckpt_path={checkpoint}', f'--file_name={tmp_path / "edsr"}'])
    graph = infer_310.read_graph(tmp_path / 'edsr.mindir')
    assert [end.name.split(':')[-1] for end in (*graph.input, *graph.output)] == ['image', 'HR_image']
    assert {parameter.name.split(':')[-1] for parameter in graph.parameter} == set(weights_of(tiny()))


@pytest.mark.parametrize('kind', ['MINDIR', 'ONNX'])
@pytest.mark.parametrize('scale, res_scale, rgb_range', [(3, 0.1, 255.0), (4, 1.0, 1.2345678)])
def test_other_networks(kind, scale, res_scale, rgb_range, tmp_path, capsys):
    network = tiny(scale, n_resblocks=2, res_scale=res_scale, rgb_range=rgb_range)
    weights = weights_of(network)  # residuals that matter: a wrong res_scale would be seen
    load_weights(network, {name: value * (3 if name.startswith('body') else 1) for name, value in weights.items()})
    path = save(network, tmp_path / 'edsr.ckpt', res_scale)
    export.main([f'--ckpt_path={path}', f'--file_format={kind}', f'--scale=2+{scale}', '--task_id=1', '--n_resblocks=2',
                 '--n_feats=8', f'--rgb_range={rgb_range}'])
    assert f'x{scale}, res_scale {res_scale:g}, ' in capsys.readouterr().out
    batch, upscale = batch_of(1, 11, 14), upscaler.load(path, kernels='builtin')
    if kind == 'ONNX':
        check(upscale, batch, session_of(path.with_suffix('.onnx')).run(None, {'image': batch})[0])
    else:
        check(upscale, batch, infer_310.Mindir(path.with_suffix('.mindir')).infer(batch))


def test_fixed_sizes(checkpoint, tmp_path, capsys):
    given = [f'--ckpt_path={checkpoint}', '--batch_size=2', '--height=30', '--width=170']
    for kind in ('ONNX', 'MINDIR'):
        export.main([*given, f'--file_name={tmp_path / "edsr"}.{kind.lower()}'])
        said = capsys.readouterr().out
        assert said.count(f', {kind} ') == 1 and 'input [2,3,30,170]' in said
    session = session_of(tmp_path / 'edsr.onnx')
    ends = [(end.name, end.shape) for end in (*session.get_inputs(), *session.get_outputs())]
    assert ends == [('image', [2, 3, 30, 170]), ('HR_image', [2, 3, 60, 340])]
    assert infer_310.Mindir(tmp_path / 'edsr.mindir').shape == [2, 3, 30, 170]
    export.main([*given[:3], f'--file_name={tmp_path / "edsr.onnx"}'])
    assert session_of(tmp_path / 'edsr.onnx').get_inputs()[0].shape == [2, 3, 30, 'w']
    export.main([given[0], '--height=3', '--width=3', f'--file_name={tmp_path}', '--file_format=ONNX'])  # into a folder
    assert session_of(tmp_path / f'{checkpoint.stem}.onnx').get_inputs()[0].shape == ['n', 3, 3, 3]


def test_a_photograph_smaller_than_the_size(checkpoint, photo):
    upscale, seen = upscaler.load(checkpoint, kernels='builtin'), []
    common_export.compare(lambda lr: (seen.append(lr.shape), upscale(lr))[1], upscale, (1, 3, 30, 40), photo[:50, :33],
                          export.SIDES)
    assert seen == [(30, 40, 3)]


@pytest.mark.parametrize('kind, module, writer', [('MINDIR', common_export, 'write_by_mindspore'),
                                                  ('ONNX', export, 'write_onnx')], ids=['MINDIR', 'ONNX'])
def test_a_wrong_export_is_refused_and_an_earlier_file_stays(kind, module, writer, checkpoint, tmp_path, monkeypatch):
    write, output = getattr(module, writer), tmp_path / f'edsr.{kind.lower()}'
    output.write_bytes(b'an earlier file')

    def wrong(network, *arguments):
        other, weights = tiny(), weights_of(network)
        weights['tail.1.weight'] = 1.01 * weights['tail.1.weight']
        load_weights(other, weights)
        write(other, *arguments)
    monkeypatch.setattr(module, writer, wrong)
    with pytest.raises(ValueError, match='refused, nothing was written'):
        export.main([f'--ckpt_path={checkpoint}', f'--file_name={output}'])
    assert output.read_bytes() == b'an earlier file' and [path.name for path in tmp_path.iterdir()] == [output.name]


@pytest.mark.parametrize('flags, message', [
    (('--scale=3',), 'a network of scale 2, not 3'), (('--n_feats=256',), 'n_feats 8, not 256'),
    (('--n_resblocks=32',), 'n_resblocks 1, not 32'), (('--rgb_range=1',), 'rgb_range 255'),
    (('--res_scale=0.1',), 'res_scale'),
    (('--scale=2+3', '--task_id=2'), 'task_id 2: --scale names 2'), (('--height=-1',), r'0 \(free\) or more'),
    (('--width=2',), 'width=2: expected 0 .free. or 3 LR pixels or more'),
    (('--file_name=x.onnx', '--file_format=MINDIR'), 'expected a name in .mindir'),
    (('--file_format=AIR',), 'on an Ascend NPU only.*MINDIR and ONNX can be written anywhere'),
    (('--file_name=edsr.air',), 'on an Ascend NPU only'), (('--photo=nowhere.png',), 'nowhere.png')])
def test_what_does_not_agree_is_refused(flags, message, checkpoint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((ValueError, OSError), match=message):
        export.main([f'--ckpt_path={checkpoint}', *flags])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('name, kind, expected', [
    ('', '', ('MINDIR', 'a/edsr_x2.5.mindir')), ('', 'ONNX', ('ONNX', 'a/edsr_x2.5.onnx')),
    ('b', 'AIR', ('AIR', 'b.air')), ('b.onnx', '', ('ONNX', 'b.onnx')),
    ('b/', '', ('MINDIR', 'b/edsr_x2.5.mindir')), ('b/', 'ONNX', ('ONNX', 'b/edsr_x2.5.onnx')),
    ('x2.5', '', ('MINDIR', 'x2.5.mindir')),
    ('B.MINDIR', '', ('MINDIR', 'B.mindir'))])
def test_names_and_formats(name, kind, expected):
    class Options:
        ckpt_path, file_name, file_format = 'a/edsr_x2.5.ckpt', name, kind
    assert common_export.destination(Options) == expected


def test_export_names_what_it_needs(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'onnxruntime', None)
    with pytest.raises(ValueError, match='install onnx and onnxruntime'):
        export.main([f'--ckpt_path={checkpoint}', f'--file_name={tmp_path / "edsr.onnx"}'])
