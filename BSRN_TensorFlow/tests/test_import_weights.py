"""Released weights in every form in which they come; what is refused, and by which words."""
import json
from pathlib import Path

import numpy as np
import pytest
from conftest import SIZE, flags, picture_weights, python, save

import export
import import_weights as program
import upscaler
from models import checkpoint as files
from models.restored import tf

TABLE = json.loads((Path(__file__).parent / 'golden' / 'checkpoint_variables.json').read_text())
LR = np.random.default_rng(0).uniform(0, 255, (9, 8, 3)).astype(np.float32)


def saved_by_tensorflow(path, arrays, **saver):
    """A checkpoint as the authors' programs write it, by tf.train.Saver; its prefix."""
    with tf.Graph().as_default() as graph, tf.Session(graph=graph) as session:
        variables = [tf.get_variable(name, initializer=tf.constant(value)) for name, value in arrays.items()]
        session.run(tf.global_variables_initializer())
        return tf.train.Saver(variables, **saver).save(session, str(path))


def trained(weights):
    """Those weights with the state of Adam."""
    moments = {f'{name}/{slot}': np.ones_like(value) for name, value in weights.items() for slot in ('Adam', 'Adam_1')}
    return dict(weights, **moments, beta1_power=np.float32(0.5), beta2_power=np.float32(0.6))


def check(source, tmp_path, capsys, *words, **given):
    """Imported into a checkpoint and an .npz, both give the picture of picture_weights()."""
    expected = upscaler.load(save(tmp_path / 'expected.ckpt'))(LR)
    for name in ('ours.ckpt', 'ours.npz'):
        program.main(flags(source=source, output=tmp_path / name, **given))
        said = capsys.readouterr().out
        for word in (*words, 'sha256 ', f'written to {tmp_path / name}', 'scales=2, conv_features=8'):
            assert word in said
        assert np.array_equal(upscaler.load(tmp_path / name)(LR), expected)
        assert 'note: ' not in capsys.readouterr().out  # what the source did not say is said now


@pytest.mark.parametrize('version', [1, 2])
def test_the_authors_checkpoints(version, tmp_path, capsys):
    prefix = saved_by_tensorflow(tmp_path / 'authors.ckpt', trained(picture_weights()[0]), write_version=version)
    assert Path(prefix + '.index').exists() == (version == 2)
    check(prefix, tmp_path, capsys, ': authors weights', bsrn_recursions=3)
    assert set(files.read(tmp_path / 'ours.ckpt')) == set(picture_weights()[0])


def test_the_ports_checkpoints(tmp_path, capsys):
    arrays = dict(trained(picture_weights()[0]), global_step=np.int64(540), loss_scale=np.float32(2))
    prefix = saved_by_tensorflow(tmp_path / 'model.ckpt', arrays, write_version=2)
    check(prefix, tmp_path, capsys, ': port weights', 'note: ignored: global_step, loss_scale', bsrn_recursions=3)


def test_a_frozen_graph(tmp_path, capsys):
    export.main(flags(checkpoint=save(tmp_path / 'x2.ckpt'), output=tmp_path / 'x2.pb'))
    check(tmp_path / 'x2.pb', tmp_path, capsys, ': frozen weights', bsrn_recursions=3)


def test_our_own_checkpoints(tmp_path, capsys):
    size = {'recursions': 3, 'recursion_frequency': 3, 'rgb_mean': (1.0, 2.0, 3.0)}
    program.main(flags(source=save(tmp_path / 'model.ckpt-4', **size).parent, output=tmp_path / 'b.npz'))
    assert 'model.ckpt-4: ours weights' in capsys.readouterr().out
    weights, found, dialect = program.read_weights(tmp_path / 'b.npz')
    assert found == dict(SIZE, **size) and dialect == 'ours'
    assert all(value.dtype == np.float32 for value in weights.values())
    save(tmp_path / 'plain.ckpt')
    check(tmp_path / 'plain.ckpt.index', tmp_path, capsys, 'plain.ckpt: ours weights')


def test_the_released_checkpoint(tmp_path, capsys):
    """Its names and shapes; the numbers are not here."""
    arrays = {name: np.zeros(shape, np.float32) for name, shape in TABLE['variables'].items()}
    files.write(tmp_path / 'bsrn_c64_s64_x234.ckpt', arrays, {})
    weights, size, dialect = program.read_weights(tmp_path / 'bsrn_c64_s64_x234.ckpt')
    assert size == {'scales': (2, 3, 4), 'conv_features': 64, 'state_features': 64, 'recursions': 16,
                    'recursion_frequency': 1, 'rgb_mean': (127.5, 127.5, 127.5)}
    assert dialect == 'authors' and len(weights) == TABLE['count_model']
    assert 'note: ' in capsys.readouterr().out


def changed(change):
    weights = picture_weights()[0]
    change(weights)
    return weights


@pytest.mark.parametrize('weights, words', [
    (changed(lambda w: w.pop('generator/last_conv/conv2d/bias')), 'missing generator/last_conv/conv2d/bias; extra n'),
    (changed(lambda w: w.update({'generator/attention/kernel': np.zeros(3)})), 'extra generator/attention/kernel'),
    (changed(lambda w: w.update({'generator/last_conv/conv2d/kernel': np.zeros((3, 3, 8, 4), np.float32)})),
     r'last_conv/conv2d/kernel \(3, 3, 8, 4\) \(expected \(3, 3, 8, 3\)\)'),
    (changed(lambda w: w.update({'generator/upscale/x5/conv2d/bias': np.zeros(3)})), r'scales \[2, 5\]'),
    ({'layer1/weights': np.zeros((3, 3))}, 'not a BSRN: expected generator/first_conv/conv2d/kernel')])
def test_what_is_no_bsrn_is_refused(weights, words, tmp_path):
    files.write(tmp_path / 'other.ckpt', weights, {})
    with pytest.raises(ValueError, match=f'other.ckpt: .*{words}'):
        program.main(flags(source=tmp_path / 'other.ckpt', output=tmp_path / 'ours.ckpt'))
    assert not list(tmp_path.glob('ours*'))


def test_a_graph_that_claims_too_much(tmp_path):
    """A constant of one number and a large shape would take all memory."""
    graph = tf.GraphDef()
    node = graph.node.add(op='Const', name='generator/first_conv/conv2d/kernel')
    node.attr['dtype'].type = tf.float32.as_datatype_enum
    node.attr['value'].tensor.dtype = tf.float32.as_datatype_enum
    node.attr['value'].tensor.float_val.append(1)
    for side in (3, 3, 100000, 100000):
        node.attr['value'].tensor.tensor_shape.dim.add(size=side)
    (tmp_path / 'large.pb').write_bytes(graph.SerializeToString())
    with pytest.raises(ValueError, match='large.pb: damaged.*it claims 360,000,000,000 bytes'):
        program.read_weights(tmp_path / 'large.pb')


@pytest.mark.parametrize('ending', ['', '.index'])
def test_the_source_is_not_overwritten(ending, checkpoint):
    with pytest.raises(ValueError, match='is the source itself'):
        program.main(flags(source=checkpoint, output=f'{checkpoint}{ending}'))


def test_the_newest_of_a_folder_is_not_overwritten(tmp_path):
    newest = save(tmp_path / 'model.ckpt-5')
    with pytest.raises(ValueError, match='is the source itself'):
        program.main(flags(source=tmp_path, output=newest))


def test_as_a_user_starts_it(checkpoint, tmp_path):
    done = python('import_weights.py', source=checkpoint, output=tmp_path / 'ours.ckpt')
    assert done.returncode == 0 and not done.stderr and ': ours weights, BSRN(scales=2' in done.stdout
    done = python('import_weights.py', source=tmp_path / 'nowhere.ckpt', output=tmp_path / 'b.ckpt')
    assert done.returncode == 2 and done.stderr.startswith('error: ') and 'there are: ours.ckpt' in done.stderr
    assert done.stderr.count('\n') == 1
