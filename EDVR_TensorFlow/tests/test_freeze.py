"""Frozen graphs, SavedModels and ONNX files that equal the network; what is refused, and that nothing is lost."""
import re
import sys

import numpy as np
import pytest
from conftest import ROOT, call, configure, save, weights_of

import upscaler
from ascendvsr import freeze
from common.tf import frozen as files
from common.tf.devices import base_config
from import_weights import read_weights

tf = freeze.tf
KINDS = {'.pb': 'frozen graph', '/': 'SavedModel'}
ANY = {'data__eval_batch_size': -1}


def frozen(checkpoint, output, **more):
    """Mode freeze in this process."""
    freeze.run(configure(mode='freeze', checkpoint=checkpoint, output=output, **more))


def frames_of(n, height, width):
    """float32 [n,3,height,width,3] in 0..1."""
    return np.random.default_rng(0).uniform(0, 1, (n, 3, height, width, 3)).astype(np.float32)


def run_of(path):
    run = files.run_onnx if str(path).endswith('.onnx') else files.run_file
    return run(str(path), ('L_input',), 'SR_output')


def check(path, checkpoint, shapes, dimensions=5, to_uint8=False):
    """The file gives what the network gives, for windows of these shapes (N, H, W)."""
    upscale, exported = upscaler.load(str(checkpoint), kernels='builtin'), run_of(path)
    for n, height, width in shapes:
        frames = frames_of(n, height, width)
        found = exported(frames if dimensions == 5 else frames.reshape(-1, height, width, 3))
        assert found.shape == (n, 4 * height, 4 * width, 3) and found.dtype == (np.uint8 if to_uint8 else np.float32)
        for window, sr in zip(frames, found):
            expected = upscale(255 * window)
            if to_uint8:
                assert abs(sr - expected.clip(0, 255)).max() < 0.51
            else:
                np.testing.assert_allclose(255 * sr, expected, rtol=0, atol=0.01)


@pytest.mark.parametrize('ending', KINDS)
def test_run_export(ending, checkpoint, tmp_path):
    path = f'{tmp_path / "edvr x4"}{ending}'
    done = call('bash', ROOT / 'run_export.sh', checkpoint, path)
    assert done.returncode == 0 and not done.stderr, done.stdout + done.stderr
    assert len(re.findall(rf'^network [\d.]+ dB, {KINDS[ending]} [\d.]+ dB$', done.stdout, re.MULTILINE)) == 2
    assert '[INFO] Model frozen success.' in done.stdout
    assert f'written to {path}: {KINDS[ending]}, input L_input, output SR_output' in done.stdout
    assert [one.name for one in tmp_path.iterdir()] == [f'edvr x4{ending.rstrip("/")}']
    check(path, checkpoint, [(2, 8, 12), (1, 5, 7)])
    if ending == '/':
        check_signature(path)


def check_signature(path):
    with tf.Graph().as_default() as graph, tf.Session(graph=graph, config=base_config('cpu')) as session:
        signature = tf.saved_model.load(session, ['serve'], path).signature_def['serving_default']
    assert {key: value.name for key, value in signature.inputs.items()} == {'L_input': 'L_input:0'}
    assert {key: value.name for key, value in signature.outputs.items()} == {'SR_output': 'SR_output:0'}


def test_the_ports_launcher(checkpoint, tmp_path):
    """8 bits of [N*T,H,W,3]."""
    done = call('bash', ROOT / 'scripts' / 'run_freeze.sh', checkpoint, '--output', tmp_path / 'EDVR.pb', '--',
                'data.eval_in_size', '[8, 12]')
    assert done.returncode == 0 and not done.stderr, done.stdout + done.stderr
    check(tmp_path / 'EDVR.pb', checkpoint, [(2, 8, 12), (1, 8, 12)], dimensions=4, to_uint8=True)


def test_a_fixed_batch_and_size(checkpoint, tmp_path):
    frozen(checkpoint, tmp_path / 'edvr.pb', data__eval_batch_size=2, data__eval_in_size='7,9')
    check(tmp_path / 'edvr.pb', checkpoint, [(2, 7, 9)])
    for shape in ((1, 7, 9), (2, 8, 12)):
        with pytest.raises(ValueError, match='Cannot feed value of shape'):
            run_of(tmp_path / 'edvr.pb')(frames_of(*shape))


@pytest.mark.parametrize('more, given, expected', [
    ({}, [None, 3, None, None, 3], [None, None, None, 3]),
    ({'batch': 2, 'sides': (6, 8)}, [2, 3, 6, 8, 3], [2, 24, 32, 3]),
    ({'batch': 2, 'sides': (6, 8), 'dimensions': 4}, [6, 6, 8, 3], [2, 24, 32, 3]),
    ({'dimensions': 4, 'to_uint8': True}, [None, None, None, 3], [None, None, None, 3])])
def test_names_and_shapes(more, given, expected):
    """Those of the input and output, and of the variables; operators that every version has."""
    weights, size = weights_of()
    graph_def = freeze.frozen(size, weights, **more)
    nodes = {node.name: node.op for node in graph_def.node}
    assert [name for name, op in nodes.items() if op == 'Placeholder'] == ['L_input']
    assert {name for name in weights if nodes[name] == 'Const'} == set(weights)
    assert not [op for op in nodes.values() if 'Variable' in op or op.startswith('PyFunc')]
    assert not graph_def.library.function
    with tf.Graph().as_default() as graph:
        tf.import_graph_def(graph_def, name='')
    for name, shape in (('L_input', given), ('SR_output', expected)):
        assert graph.get_tensor_by_name(f'{name}:0').shape.as_list() == shape


def test_onnx(tmp_path, capsys):
    for package in ('onnx', 'onnxruntime', 'tf2onnx'):
        pytest.importorskip(package)
    source = save(tmp_path / 'port', compat='port', with_tsa=False)
    frozen(source, tmp_path / 'edvr.onnx', model__input_format_dimension=4, model__convert_output_to_uint8=True, **ANY)
    assert len(re.findall(r'^network [\d.]+ dB, ONNX [\d.]+ dB$', capsys.readouterr().out, re.MULTILINE)) == 2
    import onnxruntime
    session = onnxruntime.InferenceSession(str(tmp_path / 'edvr.onnx'), providers=['CPUExecutionProvider'])
    ends = [(end.name, end.shape) for end in (*session.get_inputs(), *session.get_outputs())]
    assert ends == [('L_input', ['nt', 'h', 'w', 3]), ('SR_output', ['n', 'sh', 'sw', 3])]
    check(tmp_path / 'edvr.onnx', source, [(2, 8, 12), (1, 5, 7)], dimensions=4, to_uint8=True)


def test_what_onnx_lacks(checkpoint, tmp_path, monkeypatch):
    source = save(tmp_path / 'port', compat='port', upsampling='bicubic')
    with pytest.raises(ValueError, match="ONNX has no bicubic resizing like the port's"):
        frozen(source, tmp_path / 'edvr.onnx')
    monkeypatch.setitem(sys.modules, 'onnx', None)
    with pytest.raises(ValueError, match='install onnx, onnxruntime and tf2onnx'):
        frozen(checkpoint, tmp_path / 'edvr.onnx')


@pytest.mark.parametrize('size', [
    {'compat': 'port', 'upsampling': 'bicubic', 'mid_channels': 64}, {'with_tsa': False, 'mid_channels': 64}], ids=str)
def test_a_frozen_graph_says_whose_numerics_it_has(size, tmp_path, capsys):
    weights, size = weights_of(**size)
    files.write_frozen(freeze.frozen(size, weights), str(tmp_path / 'edvr.pb'))
    found, found_size, dialect = read_weights(tmp_path / 'edvr.pb')
    assert found_size == size and dialect == 'frozen' and 'note' not in capsys.readouterr().out
    assert set(found) == set(weights) and all(np.array_equal(found[name], weights[name]) for name in weights)


def test_a_wrong_export_is_refused_and_an_earlier_file_stays(checkpoint, tmp_path, monkeypatch):
    output, right = tmp_path / 'edvr.pb', freeze.frozen
    output.write_bytes(b'an earlier file')

    def wrong(size, weights, *more):
        bias = 'G/reconstruction/conv_last/bias'
        return right(size, dict(weights, **{bias: 0.02 + weights[bias]}), *more)
    monkeypatch.setattr(freeze, 'frozen', wrong)
    with pytest.raises(ValueError, match='refused, nothing was written'):
        frozen(checkpoint, output, **ANY)
    assert list(tmp_path.iterdir()) == [output] and output.read_bytes() == b'an earlier file'


@pytest.mark.parametrize('given, words', [
    ({'output': 'edvr.h5'}, r'output edvr.h5: expected a name in .pb \(frozen graph\) or .onnx'),
    ({'output': 'taken'}, 'taken: is there already; a SavedModel needs a folder of its own'),
    ({'data__eval_batch_size': 0}, 'data.eval_batch_size 0: expected 1 or more'),
    ({'data__eval_in_size': '8'}, r'data.eval_in_size \[8\]: expected height and width'),
    ({'data__eval_in_size': '8,0'}, r'data.eval_in_size \[8, 0\]: expected height and width'),
    ({'edvr__compat': 'port'}, 'a network of compat paper, not port'), ({'checkpoint': 'nowhere'}, 'nowhere')])
def test_what_does_not_agree_is_refused(given, words, tmp_path, monkeypatch):
    source = save(tmp_path / 'edvr')
    (tmp_path / 'taken').write_text('something')
    before = sorted(tmp_path.iterdir())
    monkeypatch.chdir(tmp_path)
    with pytest.raises((ValueError, OSError), match=words):
        frozen(**dict({'checkpoint': source, 'output': 'edvr.pb'}, **given))
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize('output, checkpoint, expected', [
    ('', 'a/EDVR-5', ('.pb', 'a/EDVR-5.pb')), ('', 'a/EDVR-5.index', ('.pb', 'a/EDVR-5.pb')),
    ('', 'a/edvr/', ('.pb', 'a/edvr.pb')), ('', '', ('.pb', 'outputs/edvr.pb')), ('E.PB', 'a', ('.pb', 'E.PB')),
    ('e', 'a', ('', 'e')), ('x2.5/', 'a', ('', 'x2.5/'))])
def test_names_and_formats(output, checkpoint, expected):
    assert freeze.destination(configure(output=output, checkpoint=checkpoint)) == expected
