"""Checkpoint files: names as the authors have them, whole or not at all, and what is said of those that cannot be."""
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import SIZE, call, picture_weights, save

from common import checkpoints
from common.tf import checkpoint as shared
from common.tf.checkpoint import numbered
from common.tf.frozen import write_frozen
from models import checkpoint as files
from models.bsrn import initial_weights
from models.restored import tf

TABLE = json.loads((Path(__file__).parent / 'golden' / 'checkpoint_variables.json').read_text())
LIMITED = '''
import resource, sys
import numpy as np
from common import cli
from models import checkpoint
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
cli.run(lambda: checkpoint.write(sys.argv[1], {'a': np.zeros(100000, np.float32)}, {}))
'''


@pytest.fixture
def arrays():
    return dict(picture_weights()[0], beta1_power=np.float32(0.9))


def same(one, other):
    return set(one) == set(other) and all(np.array_equal(one[name], other[name]) for name in one)


def test_what_is_written_is_read(arrays, tmp_path):
    prefix = tmp_path / 'a run' / 'model.ckpt-7'
    files.write(prefix, arrays, {'size': SIZE, 'progress': {'step': 7}})
    assert {path.name for path in prefix.parent.iterdir()} == {
        'checkpoint', 'model.ckpt-7.index', 'model.ckpt-7.json', 'model.ckpt-7.data-00000-of-00001'}
    for path in (prefix, f'{prefix}.index', f'{prefix}.meta', f'{prefix}.data-00000-of-00001', prefix.parent):
        found, read = files.load(path)
        assert found == str(prefix) and same(read, arrays)
    assert read['beta1_power'].shape == () and same(files.weights_of(read), picture_weights()[0])
    assert files.notes(str(prefix))['progress'] == {'step': 7}
    assert files.size(str(prefix), read) == SIZE
    assert tf.train.latest_checkpoint(str(prefix.parent)) == str(prefix)


def test_the_authors_code_restores_ours_and_ours_theirs(tmp_path):
    """tf.train.Saver over variables of the released checkpoint's names and shapes, in both directions."""
    rng = np.random.default_rng(0)
    ours = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in TABLE['variables'].items()}
    assert len(ours) == TABLE['count_all'] == 68
    files.write(tmp_path / 'ours.ckpt', ours, {})
    with tf.Graph().as_default() as graph, tf.Session(graph=graph) as session:
        variables = [tf.get_variable(name, shape) for name, shape in TABLE['variables'].items()]
        saver = tf.train.Saver(variables)
        saver.restore(session, str(tmp_path / 'ours.ckpt'))
        assert all(np.array_equal(session.run(v), ours[v.op.name]) for v in variables)
        saver.save(session, str(tmp_path / 'theirs.ckpt'))
    theirs = files.read(tmp_path / 'theirs.ckpt')
    assert same(theirs, ours)
    model = files.weights_of(theirs)
    assert {name: list(value.shape) for name, value in model.items()} == TABLE['model_variables']


def test_a_folder_gives_its_newest_valid_checkpoint(arrays, tmp_path, capsys):
    for step in (9, 10, 100):
        files.write(tmp_path / f'model.ckpt-{step}', arrays, {'size': SIZE})
    files.write(tmp_path / 'model.ckpt-best', arrays, {'size': SIZE})
    assert [step for step, _ in numbered(tmp_path, files.STEM)] == [100, 10, 9]
    assert files.load(tmp_path)[0] == str(tmp_path / 'model.ckpt-100') and not capsys.readouterr().err
    data = tmp_path / 'model.ckpt-100.data-00000-of-00001'
    content = bytearray(data.read_bytes())
    content[1000] ^= 4
    data.write_bytes(content)
    assert files.load(tmp_path)[0] == str(tmp_path / 'model.ckpt-10')
    assert 'warning: checkpoint skipped: ' in capsys.readouterr().err
    (tmp_path / 'model.ckpt-10.data-00000-of-00001').unlink()
    (tmp_path / 'model.ckpt-9.index').write_bytes(b'')
    with pytest.raises(ValueError, match='no model.ckpt-N that can be read'):
        files.load(tmp_path)


def cut(path, size):
    with open(str(path), 'r+b') as file:
        file.truncate(size)


DAMAGES = {
    'half the numbers': lambda prefix: cut(f'{prefix}.data-00000-of-00001', 2000),
    'no numbers': lambda prefix: os.remove(f'{prefix}.data-00000-of-00001'),
    'half an index': lambda prefix: cut(f'{prefix}.index', 200),
    'an empty index': lambda prefix: cut(f'{prefix}.index', 0),
    'another index': lambda prefix: Path(f'{prefix}.index').write_bytes(os.urandom(500))}


@pytest.mark.parametrize('damage', DAMAGES)
def test_damaged_files(damage, tmp_path):
    prefix = save(tmp_path / 'x2.ckpt')
    DAMAGES[damage](prefix)
    with pytest.raises(ValueError, match='x2.ckpt: damaged, or not a checkpoint of TensorFlow'):
        files.load(prefix)


@pytest.mark.parametrize('begin, words', [
    (b'', 'an empty file'), (b'\x89HDF\r\n\x1a\n', 'an HDF5 file'), (b'PK\x03\x04', 'a zip archive'),
    (b'hello', 'damaged, or not a checkpoint')])
def test_other_files(begin, words, tmp_path):
    (tmp_path / 'weights.h5').write_bytes(begin + b'x' * 300 * bool(begin))
    with pytest.raises(ValueError, match=f'weights.h5: {words}'):
        files.load(tmp_path / 'weights.h5')


@pytest.mark.parametrize('name', ['a.npz', 'a.pb'])
def test_other_files_by_their_extension(name, tmp_path):
    (tmp_path / name).write_bytes(b'no such thing' * 10)
    with pytest.raises(ValueError, match=f'{name}: damaged, or not '):
        files.load(tmp_path / name)


def test_what_is_not_there_names_what_is(tmp_path):
    save(tmp_path / 'model.ckpt-5')
    with pytest.raises(ValueError, match='model.ckpt-6: no such checkpoint.*there are: model.ckpt-5'):
        files.load(tmp_path / 'model.ckpt-6')
    with pytest.raises(ValueError, match='no such checkpoint.*there are: none'):
        files.load(tmp_path / 'nowhere' / 'model.ckpt-6')


def test_an_npz_that_would_run_code(tmp_path):
    np.savez(str(tmp_path / 'a.npz'), **{'generator/a': np.array([{}], dtype=object)})
    with pytest.raises(ValueError, match='not an .npz file of numbers'):
        files.load(tmp_path / 'a.npz')


def test_without_notes_the_authors_values_are_taken_and_said(tmp_path, capsys):
    prefix = save(tmp_path / 'x2.ckpt')
    arrays = files.read(prefix)
    os.remove(f'{prefix}.json')
    assert files.size(str(prefix), arrays) == dict(SIZE, recursions=16)
    said = capsys.readouterr().out
    assert 'does not say its recursions, recursion_frequency, rgb_mean' in said and '--bsrn_recursions=16' in said
    given = {'recursions': 4, 'recursion_frequency': 2, 'rgb_mean': (1.0, 2.0, 3.0), 'scales': (2,)}
    assert files.size(str(prefix), arrays, given) == dict(SIZE, **given)
    assert not capsys.readouterr().out


@pytest.mark.parametrize('notes', [
    '{', 'null', '[]', '{"size": [1]}', '{"size": {"recursions": "a"}}', '{"size": {"recursions": 2.5}}',
    '{"size": {"rgb_mean": 5}}', '{"size": {"rgb_mean": [1, null, 3]}}'])
def test_notes_that_cannot_be(notes, tmp_path):
    prefix = save(tmp_path / 'x2.ckpt')
    Path(f'{prefix}.json').write_text(notes)
    with pytest.raises(ValueError, match='x2.ckpt.json: damaged .*; without that file'):
        files.size(str(prefix), files.read(prefix))


@pytest.mark.parametrize('given, words', [
    ({'scales': (3,)}, 'scales 2, not 3; leave --bsrn_model_scales out'),
    ({'conv_features': 64}, 'conv_features 8, not 64; leave --bsrn_conv_features out'),
    ({'state_features': 0}, 'state_features 4, not 0')])
def test_a_size_that_does_not_agree(given, words, checkpoint):
    with pytest.raises(ValueError, match=words):
        files.size(str(checkpoint), files.read(checkpoint), given)


def test_assign_names_what_does_not_fit(arrays):
    with tf.Graph().as_default() as graph, tf.Session(graph=graph) as session:
        first, second = tf.get_variable('a', [2]), tf.get_variable('b', [3])
        files.assign(session, [first, second], {'a': np.float32([1, 2]), 'b': np.float32([3, 4, 5])})
        assert [value.tolist() for value in session.run([first, second])] == [[1, 2], [3, 4, 5]]
        with pytest.raises(ValueError, match='lacks, or has of another shape: b$'):
            files.assign(session, [first, second], {'a': np.zeros(2), 'b': np.zeros(2)})


def test_only_numbered_ones_are_named_in_the_text_file(arrays, tmp_path):
    files.write(tmp_path / 'model.ckpt-best', arrays, {})
    assert not (tmp_path / 'checkpoint').exists()
    files.write(tmp_path / 'model.ckpt-8', arrays, {})
    files.write(tmp_path / 'model.ckpt-12', arrays, {})
    assert tf.train.get_checkpoint_state(str(tmp_path)).model_checkpoint_path == str(tmp_path / 'model.ckpt-12')


def test_names_of_another_directory(tmp_path):
    """What common/tf/checkpoint.py writes and reads goes by the stem and the scope that it is given."""
    arrays = {name: np.float32([3]) for name in ('G/dcn/W', 'G/dcn/b', 'G/conv/kernel', 'G/conv/kernel/Adam', 'step')}
    for name in ('EDVR-8', 'EDVR-12', 'EDVR-best', 'model.ckpt-90', 'EDVR-L-3'):
        shared.write(tmp_path / name, arrays, {'compat': 'paper'}, 'EDVR')
    assert [number for number, _ in numbered(tmp_path, 'EDVR')] == [12, 8]
    assert tf.train.latest_checkpoint(str(tmp_path)) == str(tmp_path / 'EDVR-12')
    prefix, found = shared.load(tmp_path, 'EDVR', 'G')
    assert prefix == str(tmp_path / 'EDVR-12') and same(found, arrays)
    weights = shared.weights_of(found, 'G')
    assert set(weights) == {'G/dcn/W', 'G/dcn/b', 'G/conv/kernel'}
    with tf.Graph().as_default() as graph:
        for name in (*weights, 'G/add/y', 'H/conv/kernel'):
            tf.constant(np.float32([3]), name=name)
    write_frozen(graph.as_graph_def(), str(tmp_path / 'x.pb'))
    assert same(shared.load(tmp_path / 'x.pb', 'EDVR', 'G')[1], weights)

    def refuse(notes):
        raise ValueError(f'compat: {notes["compat"]}')
    with pytest.raises(ValueError, match='EDVR-12.json: damaged .compat: paper.; without that file'):
        shared.notes(prefix, refuse)


@pytest.mark.skipif(not sys.platform.startswith('linux'), reason='limits files as Linux does')
def test_a_disk_that_is_full(tmp_path):
    """What is read afterwards is whole, or is not there; nothing of the failed writing stays."""
    for limit in (1000, 399_990):  # in a writing by TensorFlow; just before the end
        done = call(sys.executable, '-c', LIMITED, tmp_path / 'model.ckpt-3', limit)
        assert done.returncode == 2 and 'could not be written' in done.stderr and 'Traceback' not in done.stderr
        assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('after', [0, 1, 2])
@pytest.mark.parametrize('before', [True, False], ids=['one was there', 'none was there'])
def test_a_writing_that_ends_half_way(after, before, arrays, tmp_path, monkeypatch):
    """No index stands beside numbers or notes that are not its own, and the next writing succeeds."""
    save_one, count, prefix = checkpoints.save, [], tmp_path / 'model.ckpt-1'
    if before:
        files.write(prefix, dict(arrays, beta1_power=np.float32(0.5)), {'number': 1})

    def killed(path, write):
        if len(count) == after:
            raise KeyboardInterrupt
        count.append(path)
        save_one(path, write)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(checkpoints, 'save', killed)
        files.write(prefix, arrays, {'number': 2})
    with pytest.raises(ValueError, match='no such checkpoint'):
        files.load(prefix)
    (tmp_path / '.saving' / 'model.tmp').mkdir(parents=True)  # what kill -9 leaves
    files.write(prefix, arrays, {'number': 3})
    assert same(files.read(prefix), arrays) and files.notes(str(prefix)) == {'number': 3}
    assert not (tmp_path / '.saving').exists()


def test_released_size(tmp_path):
    """All of the released network, with Adam's moments: 15 MB."""
    size = dict(SIZE, scales=(2, 3, 4), conv_features=64, state_features=64, recursions=16)
    weights = initial_weights(size, np.random.default_rng(0))
    files.write(tmp_path / 'released.ckpt', dict(weights, **{name + '/Adam': value for name, value in weights.items()}),
                {})
    assert same(files.weights_of(files.read(tmp_path / 'released.ckpt')), weights)
