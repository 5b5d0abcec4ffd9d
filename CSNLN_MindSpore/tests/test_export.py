"""MINDIR and ONNX files that equal the network, for free and fixed sizes; what is refused, and that nothing is lost."""
import re
import sys

import mindspore as ms
import numpy as np
import pytest
from conftest import ROOT, call, enlarging
from dialects import DIALECTS, Network, save_torch, weights

import export
from common.ms.checkpoint import load_weights, weights_of
from common.ms.export import write_by_mindspore
from common.ms.mindir import Mindir, read_graph
from import_weights import read_weights
from src.CSNLN import CSNLN, SCALES

onnxruntime = pytest.importorskip('onnxruntime')
pytest.importorskip('onnx')


def session_of(path):
    return onnxruntime.InferenceSession(str(path), providers=['CPUExecutionProvider'])


def batch_of(n, height, width, seed=0):
    """float32 [n,3,height,width] in 0..255."""
    return np.random.default_rng(seed).uniform(0, 255, (n, 3, height, width)).astype(np.float32)


def check(reference, batch, results, rgb_range=1):
    """results are reference(lr) of that range, for all of the batch."""
    assert len(results) == len(batch)
    for lr, sr in zip(batch, results):
        expected = reference(lr.transpose(1, 2, 0) * (rgb_range / 255)) * (255 / rgb_range)
        np.testing.assert_allclose(sr.transpose(1, 2, 0), expected, rtol=0, atol=3e-6 * np.abs(expected).max())


def network_of(path):
    found, size, _ = read_weights(path)
    network = CSNLN(**size)
    load_weights(network, found)
    return network


@pytest.mark.parametrize('scale', SCALES)
@pytest.mark.parametrize('dialect', DIALECTS)
def test_onnx_of_the_dialects(dialect, scale, tmp_path):
    """The file, at sizes of its own choice, gives what the authors' network, or the port's, gives."""
    arrays = weights(dialect, scale, rgb_range=2)
    save_torch(arrays, tmp_path / 'csnln.pt')
    export.write_onnx(network_of(tmp_path / 'csnln.pt'), (0, 3, 0, 0), str(tmp_path / 'csnln.onnx'))
    session, reference = session_of(tmp_path / 'csnln.onnx'), Network(dialect, arrays, scale)
    for size in ((2, 12, 18), (1, 24, 6)):
        batch = batch_of(*size)
        check(reference, batch, session.run(['HR_image'], {'image': batch})[0], rgb_range=2)


@pytest.mark.parametrize('scale, dialect', [(3, 'authors'), (4, 'port')])
def test_mindir_of_the_dialects(scale, dialect, tmp_path):
    arrays = weights(dialect, scale, depth=1)
    save_torch(arrays, tmp_path / 'csnln.pt')
    write_by_mindspore(network_of(tmp_path / 'csnln.pt'), (0, 3, 0, 0), 'MINDIR', str(tmp_path / 'csnln.mindir'))
    graph = read_graph(tmp_path / 'csnln.mindir')
    assert [end.name.split(':')[-1] for end in (*graph.input, *graph.output)] == ['image', 'HR_image']
    found, reference = Mindir(tmp_path / 'csnln.mindir'), Network(dialect, arrays, scale, depth=1)
    assert found.scale == scale
    for size in ((2, 12, 18), (1, 24, 6)):
        batch = batch_of(*size)
        check(reference, batch, found.infer(batch))


@pytest.mark.parametrize('kind', ['MINDIR', 'ONNX'])
def test_run_export(kind, checkpoint, tmp_path):
    path = tmp_path / f'csnln x2.{kind.lower()}'
    done = call('bash', ROOT / 'run_export.sh', checkpoint, path)
    assert done.returncode == 0 and not done.stderr, done.stdout + done.stderr
    assert len(re.findall(rf'^network [\d.]+ dB, {kind} [\d.]+ dB$', done.stdout, re.MULTILINE)) == 2
    assert f'written to {path}: x2, compat paper, input [N,3,H,W], {path.stat().st_size:,} bytes' in done.stdout
    assert path.stat().st_mode & 0o444 == 0o444 and [one.name for one in tmp_path.iterdir()] == [path.name]


def test_fixed_sizes(tmp_path, capsys):
    path = tmp_path / 'csnln.ckpt'
    ms.save_checkpoint(enlarging(3), str(path))
    given = [f'--ckpt_path={path}', '--file_format=ONNX', '--batch_size=2', '--height=12', '--width=9']
    export.main(given)
    said = capsys.readouterr().out
    assert said.count(', ONNX ') == 1 and 'input [2,3,12,9]' in said
    session = session_of(tmp_path / 'csnln.onnx')
    ends = [(end.name, end.shape) for end in (*session.get_inputs(), *session.get_outputs())]
    assert ends == [('image', [2, 3, 12, 9]), ('HR_image', [2, 3, 36, 27])]
    with pytest.raises(ValueError, match='--width=16: expected 0 .free. or multiples of 3, .* at x3'):
        export.main([*given[:4], '--width=16'])


def test_a_wrong_export_is_refused_and_an_earlier_file_stays(checkpoint, tmp_path, monkeypatch):
    write, output = export.write_onnx, tmp_path / 'csnln.onnx'
    output.write_bytes(b'an earlier file')

    def wrong(network, *arguments):
        other, found = enlarging(), weights_of(network)
        found['tail.0.weight'] = 1.01 * found['tail.0.weight']
        load_weights(other, found)
        write(other, *arguments)
    monkeypatch.setattr(export, 'write_onnx', wrong)
    with pytest.raises(ValueError, match='refused, nothing was written'):
        export.main([f'--ckpt_path={checkpoint}', f'--file_name={output}', '--height=12', '--width=12'])
    assert output.read_bytes() == b'an earlier file' and [path.name for path in tmp_path.iterdir()] == [output.name]


@pytest.mark.parametrize('flags, message', [
    (('--scale=3',), 'a network of scale 2, not 3'), (('--n_feats=128',), 'n_feats 8, not 128'),
    (('--depth=12',), 'depth 1, not 12'), (('--rgb_range=255',), 'rgb_range 1'),
    (('--compat=port',), 'a network of compat paper, not port'), (('--height=-1',), r'0 \(free\) or more'),
    (('--width=2',), 'width=2: expected 0 .free. or 3 LR pixels or more'),
    (('--height=13',), 'height=13 --width=0: expected 0 .free. or multiples of 2'),
    (('--file_name=x.onnx', '--file_format=MINDIR'), 'expected a name in .mindir'),
    (('--file_format=AIR',), 'on an Ascend NPU only.*MINDIR and ONNX can be written anywhere'),
    (('--file_name=csnln.air',), 'on an Ascend NPU only'), (('--photo=nowhere.png',), 'nowhere.png')])
def test_what_does_not_agree_is_refused(flags, message, checkpoint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((ValueError, OSError), match=message):
        export.main([f'--ckpt_path={checkpoint}', *flags])
    assert not list(tmp_path.iterdir())


def test_export_names_what_it_needs(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'onnxruntime', None)
    with pytest.raises(ValueError, match='install onnx and onnxruntime'):
        export.main([f'--ckpt_path={checkpoint}', f'--file_name={tmp_path / "csnln.onnx"}'])
