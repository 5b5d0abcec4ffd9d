"""Frozen graphs, SavedModels and ONNX files that equal the network; what is refused, and that nothing is lost."""
import re
import sys

import numpy as np
import pytest
from conftest import ROOT, call, flags, picture_weights, save

import export
import upscaler
from models import frozen
from models.restored import tf

KINDS = {'.pb': 'frozen graph', '/': 'SavedModel', '.onnx': 'ONNX'}


@pytest.fixture(params=KINDS)
def ending(request):
    if request.param == '.onnx':
        for package in ('onnx', 'onnxruntime', 'tf2onnx'):
            pytest.importorskip(package)
    return request.param


def batch_of(n, height, width, seed=0):
    """float32 [n,height,width,3] in 0..255."""
    return np.random.default_rng(seed).uniform(0, 255, (n, height, width, 3)).astype(np.float32)


def run_of(path):
    """(lr, scale) -> sr of an exported file."""
    return export.run_onnx(str(path)) if str(path).endswith('.onnx') else frozen.run_file(str(path))


def check(path, checkpoint, scale, **more):
    upscale, run = upscaler.load(checkpoint, scale=scale, kernels='builtin', **more), run_of(path)
    for n, height, width in ((2, 17, 30), (1, 40, 9)):
        batch = batch_of(n, height, width)
        found = run(batch, scale)
        assert found.shape == (n, scale * height, scale * width, 3) and found.dtype == np.float32
        for lr, sr in zip(batch, found):
            np.testing.assert_allclose(sr, upscale(lr), rtol=0, atol=0.01)


def test_run_export(ending, checkpoint, tmp_path):
    path = f'{tmp_path / "bsrn x2"}{ending}'
    done = call('bash', ROOT / 'run_export.sh', checkpoint, path)
    assert done.returncode == 0 and not done.stderr, done.stdout + done.stderr
    assert len(re.findall(rf'^x2: network [\d.]+ dB, {KINDS[ending]} [\d.]+ dB$', done.stdout, re.MULTILINE)) == 2
    assert f'written to {path}: {KINDS[ending]}, scale 2, recursion ensemble' in done.stdout
    assert [one.name for one in tmp_path.iterdir()] == [f'bsrn x2{ending.rstrip("/")}']
    check(path, checkpoint, 2)


@pytest.mark.parametrize('ending', ['.pb', '/'])
@pytest.mark.parametrize('scales', [(2,), (2, 3, 4)], ids=str)
def test_the_scale_is_fed(ending, scales, tmp_path):
    path, source = f'{tmp_path / "bsrn"}{ending}', save(tmp_path / 'bsrn.ckpt', scales=scales)
    export.main(flags(checkpoint=source, output=path))
    for scale in scales:
        check(path, source, scale)
    for scale in (8, 0, 2.5):
        with pytest.raises(tf.errors.InvalidArgumentError, match=rf'this network has {", ".join(map(str, scales))}, '):
            run_of(path)(batch_of(1, 5, 5), scale)


def test_names_in_a_frozen_graph(checkpoint):
    """Those of the inputs and the output, and of the variables; operators that every version has."""
    weights, size = picture_weights()
    graph = frozen.frozen(size, weights, (2,))
    nodes = {node.name: node.op for node in graph.node}
    assert nodes['sr_input'] == nodes['sr_input_scale'] == 'Placeholder' and nodes['sr_output'] == 'Identity'
    assert {name for name in weights if nodes[name] == 'Const'} == set(weights)
    assert not [op for op in nodes.values() if 'Variable' in op] and not graph.library.function


@pytest.mark.parametrize('recursion', ['last', '2'])
def test_recursions_and_some_of_the_scales(recursion, ending, tmp_path, capsys):
    size = {'scales': (2, 3, 4), 'recursions': 4, 'recursion_frequency': 2, 'rgb_mean': (100, 120, 90)}
    source = save(tmp_path / 'bsrn.ckpt', **size)
    path = f'{tmp_path / "out" / "bsrn"}{ending}'
    export.main(flags(checkpoint=source, output=path, scales=3, recursion=recursion))
    assert f'scale 3, recursion {recursion}' in capsys.readouterr().out
    check(path, source, 3, recursion='last' if recursion == 'last' else 2)
    if ending != '.onnx':
        with pytest.raises(tf.errors.InvalidArgumentError, match='this network has 3, '):
            run_of(path)(batch_of(1, 5, 5), 2)


def test_names_in_onnx(checkpoint, tmp_path):
    onnxruntime = pytest.importorskip('onnxruntime')
    pytest.importorskip('tf2onnx')
    export.main(flags(checkpoint=checkpoint, output=tmp_path / 'bsrn.onnx'))
    session = onnxruntime.InferenceSession(str(tmp_path / 'bsrn.onnx'), providers=['CPUExecutionProvider'])
    ends = [(end.name, end.shape) for end in (*session.get_inputs(), *session.get_outputs())]
    assert ends == [('sr_input', ['n', 'h', 'w', 3]), ('sr_output', ['n', 'sh', 'sw', 3])]


def test_signature_of_a_saved_model(checkpoint, tmp_path):
    export.main(flags(checkpoint=checkpoint, output=tmp_path / 'bsrn'))
    with tf.Graph().as_default() as graph, tf.Session(graph=graph) as session:
        signature = tf.saved_model.load(session, ['serve'], str(tmp_path / 'bsrn')).signature_def['serving_default']
    assert {key: value.name for key, value in signature.inputs.items()} == {
        'sr_input': 'sr_input:0', 'sr_input_scale': 'sr_input_scale:0'}
    assert {key: value.name for key, value in signature.outputs.items()} == {'sr_output': 'sr_output:0'}


def test_a_wrong_export_is_refused_and_an_earlier_file_stays(ending, checkpoint, tmp_path, monkeypatch):
    output, earlier = tmp_path / f'bsrn{ending}', ending != '/'
    if earlier:
        output.write_bytes(b'an earlier file')
    right = export.frozen

    def wrong(size, weights, *more, **options):
        last = 'generator/last_conv/conv2d/kernel'
        return right(size, dict(weights, **{last: 1.02 * weights[last]}), *more, **options)
    monkeypatch.setattr(export, 'frozen', wrong)
    with pytest.raises(ValueError, match='refused, nothing was written'):
        export.main(flags(checkpoint=checkpoint, output=output))
    assert [path.name for path in tmp_path.iterdir()] == [output.name] * earlier
    assert not earlier or output.read_bytes() == b'an earlier file'


@pytest.mark.parametrize('given, words', [
    ({'scales': 4}, 'a network of scale 2,3, not 4'), ({'bsrn_conv_features': 64}, 'conv_features 8, not 64'),
    ({'output': 'bsrn.h5'}, r'bsrn.h5: expected a name in .pb \(frozen graph\) or .onnx'),
    ({'output': 'bsrn.onnx'}, 'ONNX has one scale: choose one of 2,3'), ({'output': '.'}, r'--output=\.: '),
    ({'output': 'taken'}, 'taken: is there already; a SavedModel needs a folder of its own'),
    ({'recursion': 9}, 'recursion 9: expected one of'), ({'photo': 'nowhere.png'}, 'nowhere.png')])
def test_what_does_not_agree_is_refused(given, words, tmp_path, monkeypatch):
    source = save(tmp_path / 'bsrn.ckpt', scales=(2, 3))
    (tmp_path / 'taken').write_text('something')
    before = sorted(tmp_path.iterdir())
    monkeypatch.chdir(tmp_path)
    with pytest.raises((ValueError, OSError), match=words):
        export.main(flags(**dict({'checkpoint': source, 'output': 'bsrn.pb'}, **given)))
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize('output, checkpoint, expected', [
    ('', 'a/model.ckpt-5', ('.pb', 'a/model.ckpt-5.pb')), ('', 'a/model.ckpt-5.index', ('.pb', 'a/model.ckpt-5.pb')),
    ('', 'a/X4/', ('.pb', 'a/X4.pb')), ('B.PB', 'a', ('.pb', 'B.PB')), ('b.onnx', 'a', ('.onnx', 'b.onnx')),
    ('b', 'a', ('', 'b')), ('x2.5/', 'a', ('', 'x2.5/'))])
def test_names_and_formats(output, checkpoint, expected):
    class Options:
        pass
    Options.output, Options.checkpoint = output, checkpoint
    assert export.destination(Options) == expected


def test_export_names_what_it_needs(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'onnx', None)
    with pytest.raises(ValueError, match='install onnx, onnxruntime and tf2onnx'):
        export.main(flags(checkpoint=checkpoint, output=tmp_path / 'bsrn.onnx'))


@pytest.mark.skipif(not sys.platform.startswith('linux'), reason='limits files as Linux does')
@pytest.mark.parametrize('ending', ['.pb', '/'])
def test_a_disk_that_is_full(ending, checkpoint, tmp_path):
    limited = ('import resource, sys, export\nfrom common import cli\n'
               'resource.setrlimit(resource.RLIMIT_FSIZE, (2000, resource.RLIM_INFINITY))\n'
               'cli.run(lambda: export.main(sys.argv[1:]))')
    done = call(sys.executable, '-c', limited, *flags(checkpoint=checkpoint, output=f'{tmp_path / "bsrn"}{ending}'))
    assert done.returncode == 2 and 'could not be written' in done.stderr and 'Traceback' not in done.stderr
    assert not list(tmp_path.iterdir())
