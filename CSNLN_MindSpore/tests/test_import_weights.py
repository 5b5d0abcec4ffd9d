"""Every dialect of released weights is recognised and gives its network; other networks are refused by name."""
import hashlib
import pickle
import sys
from math import prod

import mindspore as ms
import numpy as np
import pytest
import torch
from conftest import python
from dialects import DIALECTS, Network, refusal, save_mindspore, save_torch, shapes, weights
from hypothesis import given, settings
from hypothesis import strategies as st
from mindspore import Tensor, nn

import import_weights
from common.ms.checkpoint import load_weights, weights_of
from import_weights import read_weights
from src.CSNLN import COMPATS, CSNLN, SCALES
from src.sizes import shapes_of, size_of

LR = np.random.default_rng(7).uniform(0, 1, (12, 18, 3)).astype(np.float32)
FILES = {'authors': 'model_best.pt', 'port': 'model_499.ckpt'}
COMPAT = {'authors': 'paper', 'port': 'port'}
TRAINABLE = {('authors', 2): 3_061_265, ('authors', 3): 6_010_385, ('authors', 4): 6_568_603,
             ('port', 2): 3_062_145, ('port', 3): 6_011_265, ('port', 4): 6_570_113}


@pytest.fixture
def without_graphs():
    """Networks run once need not be compiled."""
    ms.set_context(mode=ms.PYNATIVE_MODE)
    yield
    ms.set_context(mode=ms.GRAPH_MODE)


def save(dialect, path, content):
    (save_mindspore if dialect == 'port' else save_torch)(content, path)


def ours(dialect, name):
    """What we call a weight of that dialect."""
    return name[:-6] + 'w' if dialect == 'authors' and name.endswith('.1.weight') else name


def of_the_optimiser(arrays):
    """What the released port's training cell leaves in a checkpoint beside the weights."""
    moments = {f'{moment}.{name}': np.ones_like(value) for moment in ('moment1', 'moment2')
               for name, value in arrays.items() if '_mean.' not in name}
    scalars = {name: np.float32(0.5) for name in ('learning_rate', 'beta1_power', 'beta2_power')}
    return {'global_step': np.int32([7]), **scalars, **moments}


@pytest.mark.parametrize('scale', SCALES)
@pytest.mark.parametrize('dialect', DIALECTS)
def test_full_size_names_and_shapes(dialect, scale):
    """Ours, in the paper's size, are the authors' table but for names of slopes, and the port's; nothing is extra."""
    theirs = {ours(dialect, name): shape for name, shape in shapes(dialect, scale).items()
              if not name.endswith('.escape_NaN')}
    found = shapes_of(scale, 12, 128, COMPAT[dialect])
    assert found == theirs
    assert sum(prod(shape) for name, shape in found.items() if '_mean.' not in name) == TRAINABLE[dialect, scale]
    assert size_of({name: np.broadcast_to(np.float32(0), shape) for name, shape in found.items()}) == {
        'scale': scale, 'depth': 12, 'n_feats': 128, 'rgb_range': 1.0, 'compat': COMPAT[dialect]}


@pytest.mark.parametrize('compat', COMPATS)
@pytest.mark.parametrize('scale', SCALES)
def test_names_and_shapes_without_a_network_are_those_of_one(scale, compat):
    network = CSNLN(scale, depth=3, n_feats=6, compat=compat)
    assert list(shapes_of(scale, 3, 6, compat).items()) == [
        (name, parameter.shape) for name, parameter in network.parameters_and_names()]


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(SCALES), st.integers(1, 40), st.integers(1, 200), st.sampled_from(COMPATS),
       st.floats(1e-4, 1e5))
def test_a_size_is_in_its_weights(scale, depth, half, compat, rgb_range):
    weights = {name: np.broadcast_to(np.float32(0), shape)
               for name, shape in shapes_of(scale, depth, 2 * half, compat).items()}
    weights['add_mean.bias'] = np.float32(rgb_range * np.array([0.4488, 0.4371, 0.4040]))
    found = size_of(weights)
    assert found.pop('rgb_range') == pytest.approx(rgb_range, rel=1e-5)
    assert found == {'scale': scale, 'depth': depth, 'n_feats': 2 * half, 'compat': compat}


@pytest.mark.parametrize('scale', SCALES)
@pytest.mark.parametrize('dialect', DIALECTS)
def test_the_dialects_network_and_ours_agree(dialect, scale, tmp_path, without_graphs):
    """The port's file holds the state of its optimiser, too."""
    arrays, path = weights(dialect, scale), tmp_path / FILES[dialect]
    save(dialect, path, {**arrays, **of_the_optimiser(arrays)} if dialect == 'port' else arrays)
    found, size, spoken = read_weights(str(path))
    assert spoken == dialect
    assert size == {'scale': scale, 'depth': 2, 'n_feats': 8, 'rgb_range': 1.0, 'compat': COMPAT[dialect]}
    assert {name for name, value in found.items() if value.dtype == np.float32} == {
        ours(dialect, name) for name in arrays if not name.endswith('.escape_NaN')}
    network = CSNLN(**size)
    load_weights(network, found)
    sr = network(Tensor(LR.transpose(2, 0, 1)[None].copy())).asnumpy()[0].transpose(1, 2, 0)
    expected = Network(dialect, arrays, scale)(LR)
    np.testing.assert_allclose(sr, expected, rtol=0, atol=3e-6 * np.abs(expected).max())


@pytest.mark.parametrize('prefix', ['', 'model.', 'module.model.'])
@pytest.mark.parametrize('wrap', [dict, lambda state: {'state_dict': state, 'epoch': 3}], ids=['bare', 'inside'])
def test_wrapped_weights(wrap, prefix, tmp_path):
    arrays = weights('authors', 3)
    torch.save(wrap({prefix + name: torch.from_numpy(value) for name, value in arrays.items()}), tmp_path / 'csnln.pt')
    found, size, dialect = read_weights(str(tmp_path / 'csnln.pt'))
    assert dialect == 'authors' and size['scale'] == 3
    assert all(np.array_equal(found[ours(dialect, name)], value) for name, value in arrays.items()
               if not name.endswith('.escape_NaN'))


@pytest.mark.parametrize('rgb_range', [1.0, 255.0, 1.2345678])
def test_rgb_range(rgb_range, tmp_path):
    """The weights tell it to six digits; what is imported holds the number itself."""
    save_torch(weights('authors', 2, rgb_range=rgb_range), tmp_path / 'csnln.pt')
    assert read_weights(tmp_path / 'csnln.pt')[1]['rgb_range'] == pytest.approx(rgb_range, rel=1e-5)
    save_mindspore(weights('port', 2), tmp_path / 'ours.ckpt', append_dict={'rgb_range': Tensor(rgb_range, ms.float64)})
    import_weights.import_file(tmp_path / 'ours.ckpt', tmp_path / 'again.ckpt')
    _, size, dialect = read_weights(tmp_path / 'again.ckpt')
    assert (size['rgb_range'], size['compat'], dialect) == (rgb_range, 'port', 'ours')


@pytest.mark.parametrize('mean', [np.zeros(3), np.full(3, 0.3), np.full(3, np.nan), np.full(3, np.inf), -np.ones(3)])
def test_a_mean_that_tells_no_range(mean, tmp_path):
    save_torch({**weights('authors', 2), 'add_mean.bias': mean.astype(np.float32)}, tmp_path / 'csnln.pt')
    assert read_weights(tmp_path / 'csnln.pt')[1]['rgb_range'] == 1


@pytest.mark.parametrize('value', [float('nan'), float('inf'), -1.0, 0.0])
def test_an_impossible_range_is_refused(value, tmp_path):
    save_mindspore(weights('port', 2), tmp_path / 'ours.ckpt', append_dict={'rgb_range': value})
    refusal(tmp_path / 'ours.ckpt', f'rgb_range is {value:g} in it, expected a positive number')


def test_compat_must_be_the_files(tmp_path):
    save_mindspore(weights('port', 2), tmp_path / 'csnln.ckpt')
    assert read_weights(tmp_path / 'csnln.ckpt', 'port')[1]['compat'] == 'port'
    with pytest.raises(ValueError, match='csnln.ckpt: a network of compat port, not paper; leave --compat out'):
        read_weights(tmp_path / 'csnln.ckpt', 'paper')


def test_checkpoints_of_a_training_cell(tmp_path):
    """What MindSpore itself writes for network and optimiser, as the released port has it written."""
    network = CSNLN(4, depth=1, n_feats=6, compat='port')
    network.initialise(np.random.default_rng(0))
    adam = nn.Adam(network.trainable_params(), learning_rate=1e-4, loss_scale=1024.0)
    cell = nn.TrainOneStepCell(nn.WithLossCell(network, nn.L1Loss()), adam)
    ms.save_checkpoint(cell, str(tmp_path / 'model_0.ckpt'))
    found, size, dialect = read_weights(tmp_path / 'model_0.ckpt')
    assert dialect == 'port' and size['scale'] == 4
    assert all(np.array_equal(found[name], value) for name, value in weights_of(network).items())


@pytest.mark.parametrize('names', [('head.0.weight', 'body.0.body.0.weight', 'tail.1.weight'),
                                   ('layer1.0.weight', 'fc.bias')], ids=['EDSR', 'another'])
@pytest.mark.parametrize('write', [save_torch, save_mindspore])
def test_other_networks_are_refused(names, write, tmp_path):
    write({name: np.zeros((3, 3), np.float32) for name in names}, tmp_path / 'net.ckpt')
    refusal(tmp_path / 'net.ckpt', 'this is another network, not a CSNLN', names[0])


@pytest.mark.parametrize('dialect', DIALECTS)
def test_missing_extra_and_misshapen_names(dialect, tmp_path):
    whole, path, one = weights(dialect, 2), tmp_path / FILES[dialect], 'SEM.post_conv.0.weight'
    save(dialect, path, {name: value for name, value in whole.items() if name != one})
    refusal(path, dialect, f'missing {one}')
    save(dialect, path, {**whole, 'SEM.unheard_of.weight': np.zeros(1, np.float32)})
    refusal(path, 'extra SEM.unheard_of.weight')
    save(dialect, path, {**whole, one: np.zeros((8, 8, 5, 5), np.float32)})
    refusal(path, f'{one} is (8, 8, 5, 5), expected (8, 8, 3, 3)')
    for name in ('head.0.0.weight', 'head.1.0.bias', 'SEM.down_sample_1.0.weight', 'tail.0.weight', 'add_mean.bias'):
        for changed in ({}, {name: whole[name][:0]}, {name: np.zeros((5, 7), np.float32)}, {name: np.float32(1)},
                        {name: np.zeros((8, 5, 3, 3), np.float32)}):
            save(dialect, path, {**{n: v for n, v in whole.items() if n != name}, **{
                n: np.asarray(v) for n, v in changed.items()}})
            refusal(path)


@pytest.mark.parametrize('name, shape, words', [
    ('SEM.down_sample_1.0.weight', (8, 8, 15, 15), 'no CSNLN of scale 2, 3, 4'),
    ('SEM.down_sample_1.0.weight', (8, 8, 7, 7), 'no CSNLN of scale 2, 3, 4'),
    ('tail.0.weight', (3, 20, 3, 3), 'an even number of channels'),
    ('head.0.0.weight', (7, 3, 3, 3), 'an even number of channels')])
def test_sizes_that_no_network_has(name, shape, words, tmp_path):
    save_torch({**weights('authors', 2), name: np.zeros(shape, np.float32)}, tmp_path / 'csnln.pt')
    refusal(tmp_path / 'csnln.pt', words, str(shape))


def test_a_small_file_that_claims_a_large_network(tmp_path):
    state = {name: torch.zeros(1).half().expand([6000 if side == 8 else 3000 if side == 4 else side for side in shape])
             for name, shape in shapes('authors', 2, 2, 8).items()}
    torch.save(state, tmp_path / 'bomb.pt')
    assert (tmp_path / 'bomb.pt').stat().st_size < 30000
    refusal(tmp_path / 'bomb.pt', 'damaged: it claims')


class Bomb:
    def __reduce__(self):
        return eval, ('1 / 0',)


@pytest.mark.parametrize('name', ['csnln.pt', 'csnln.ckpt', 'csnln.safetensors'])
@pytest.mark.parametrize('content', [b'', b'\nDear reader\n', b'PK\x03\x04',
                                     pickle.dumps({'head.0.0.weight': Bomb()}, protocol=2)],
                         ids=['empty', 'letter', 'zip start', 'code'])
def test_what_is_no_checkpoint(name, content, tmp_path, capfd):
    (tmp_path / name).write_bytes(content)
    refusal(tmp_path / name)
    assert capfd.readouterr() == ('', '')


@pytest.mark.parametrize('dialect', DIALECTS)
def test_truncated_files(dialect, tmp_path):
    save(dialect, tmp_path / FILES[dialect], weights(dialect, 2))
    (tmp_path / FILES[dialect]).chmod(0o644)
    whole = (tmp_path / FILES[dialect]).read_bytes()
    for length in range(0, len(whole) - 20, len(whole) // 20):
        (tmp_path / FILES[dialect]).write_bytes(whole[:length])
        refusal(tmp_path / FILES[dialect])


def test_pytorch_is_asked_for_where_it_is_needed_only(tmp_path, monkeypatch):
    save_torch(weights('authors', 2), tmp_path / 'csnln.pt')
    save_mindspore(weights('port', 2), tmp_path / 'csnln.ckpt')
    monkeypatch.setitem(sys.modules, 'torch', None)
    refusal(tmp_path / 'csnln.pt', 'PyTorch is not installed: pip install torch')
    assert read_weights(tmp_path / 'csnln.ckpt')[2] == 'port'


def test_safetensors(tmp_path):
    pytest.importorskip('safetensors.numpy').save_file(weights('authors', 4), tmp_path / 'csnln.safetensors')
    assert read_weights(tmp_path / 'csnln.safetensors')[1:] == (
        {'scale': 4, 'depth': 2, 'n_feats': 8, 'rgb_range': 1.0, 'compat': 'paper'}, 'authors')


def test_missing_file(tmp_path):
    with pytest.raises(OSError, match='nowhere.pt'):
        read_weights(str(tmp_path / 'nowhere.pt'))


def test_command_line(tmp_path):
    save_torch(weights('authors', 3), tmp_path / 'model_best.pt')
    source, output = tmp_path / 'model_best.pt', tmp_path / 'csnln_x3.ckpt'
    done = python('import_weights.py', source=source, output=output)
    assert done.returncode == 0 and not done.stderr, done.stderr
    assert done.stdout == (f'{source}: authors weights, CSNLN(scale=3, depth=2, n_feats=8, rgb_range=1.0, '
                           f'compat=paper), sha256 {hashlib.sha256(source.read_bytes()).hexdigest()}\n'
                           f'written to {output}\n')
    found, size, dialect = read_weights(output)
    assert dialect == 'ours' and size['scale'] == 3
    assert all(np.array_equal(value, found[name]) for name, value in read_weights(source)[0].items())


def test_command_line_refuses_in_one_line(tmp_path):
    (tmp_path / 'letter.pt').write_text('Dear reader')
    done = python('import_weights.py', source=tmp_path / 'letter.pt', output=tmp_path / 'out.ckpt')
    assert done.returncode == 2 and done.stderr.startswith('error: ') and 'letter.pt' in done.stderr
    assert len(done.stderr.splitlines()) == 1 and not (tmp_path / 'out.ckpt').exists()


@pytest.mark.parametrize('output, words', [
    ('csnln.ckpt', 'is the source itself'), ('link.ckpt', 'is the source itself'),
    ('csnln.npz', 'expected a name in .ckpt')])
def test_outputs_that_are_refused(output, words, tmp_path):
    save_mindspore(weights('port', 2), tmp_path / 'csnln.ckpt')
    (tmp_path / 'link.ckpt').symlink_to('csnln.ckpt')
    with pytest.raises(ValueError, match=words):
        import_weights.main([f'--source={tmp_path / "csnln.ckpt"}', f'--output={tmp_path / output}'])
