"""Every dialect of released weights is recognised and gives the same network; other networks are refused by name."""
import hashlib
import zipfile
from collections import OrderedDict

import mindspore as ms
import numpy as np
import pytest
import torch
from conftest import python
from dialects import DIALECTS, network, refusal, save_mindspore, save_torch, weights

import import_weights
import upscaler
from common.ms.checkpoint import save_checkpoint, weights_of
from import_weights import read_weights
from src.model import RGB_MEAN

LR = np.random.default_rng(7).uniform(0, 255, (9, 13, 3)).astype(np.float32)
FILES = {'authors': 'edsr.pt', 'BasicSR': 'EDSR.pth', 'port': 'edsr-1000_1000.ckpt', 'rewrite': 'edsr_x2.ckpt'}


def save(dialect, path, content):
    (save_mindspore if dialect in ('port', 'rewrite') else save_torch)(content, path)


def of_the_optimiser(arrays, prefix=''):
    """What training with MindSpore's Adam leaves in a checkpoint beside the weights."""
    moments = {f'{moment}.{prefix}{name}': np.ones_like(value) for moment in ('moment1', 'moment2')
               for name, value in arrays.items()}
    scalars = {name: np.float32(0.5) for name in ('learning_rate', 'beta1_power', 'beta2_power')}
    return {**moments, **scalars, 'global_step': np.int32([7])}


def assert_network(path, dialect, arrays, scale, res_scale, file_is=None):
    """The file is read as that dialect, and our network gives what the dialect's own gives."""
    found, size, spoken = read_weights(str(path), res_scale)
    assert spoken == (file_is or dialect)
    assert size == {'scale': scale, 'n_resblocks': 2, 'n_feats': 6, 'rgb_range': 255, 'res_scale': res_scale}
    assert all(value.dtype == np.float32 for value in found.values())
    expected = network(dialect, arrays, LR, scale, res_scale)
    upscale = upscaler.load(path, kernels='builtin', res_scale=res_scale)
    np.testing.assert_allclose(upscale(LR), expected, rtol=0, atol=3e-6 * np.abs(expected).max())
    for name, value in weights_of(upscale.network).items():
        assert np.array_equal(found[name], value)


@pytest.mark.parametrize('scale', [2, 3, 4])
@pytest.mark.parametrize('dialect', DIALECTS)
def test_the_dialects_network_and_ours_agree(dialect, scale, tmp_path):
    arrays = weights(dialect, scale)
    path = tmp_path / FILES[dialect]
    save(dialect, path, arrays)
    assert_network(path, dialect, arrays, scale, 0.3)


def test_channel_order_and_range_are_what_tells_the_dialects_apart():
    """The golden rule of these tests: read as another dialect, the numbers would be far off."""
    arrays = weights('port', 2)
    as_authors = {name.replace('tail.0', 'tail.0.0').replace('tail.2', 'tail.1'): v for name, v in arrays.items()}
    ours, wrong = network('port', arrays, LR, 2, 1), network('authors', as_authors, LR, 2, 1)
    assert np.abs(ours - wrong).max() > 10


@pytest.mark.parametrize('zip_format', [True, False], ids=['zip', 'torch-0.4'])
@pytest.mark.parametrize('prefix', ['', 'model.', 'module.model.'])
@pytest.mark.parametrize('wrap', [OrderedDict, lambda state: {'state_dict': state, 'epoch': 3}], ids=['bare', 'inside'])
def test_wrapped_weights(wrap, prefix, zip_format, tmp_path):
    arrays = weights('authors', 3)
    state = {prefix + name: torch.from_numpy(value) for name, value in arrays.items()}
    torch.save(wrap(state), tmp_path / 'edsr.pt', _use_new_zipfile_serialization=zip_format)
    assert zipfile.is_zipfile(tmp_path / 'edsr.pt') == zip_format
    found, size, dialect = read_weights(str(tmp_path / 'edsr.pt'))
    assert dialect == 'authors' and size['scale'] == 3
    assert set(found) == set(arrays) and all(np.array_equal(found[name], value) for name, value in arrays.items())


def test_tensors_of_other_kinds(tmp_path):
    state = {name: torch.from_numpy(value) for name, value in weights('authors', 2).items()}
    torch.save({name: torch.nn.Parameter(value.bfloat16()) for name, value in state.items()}, tmp_path / 'edsr.pt')
    head = read_weights(tmp_path / 'edsr.pt')[0]['head.0.weight']
    assert np.array_equal(head, state['head.0.weight'].bfloat16().float().numpy())
    torch.save({**state, 'head.0.bias': state['head.0.bias'].to_sparse(), 'res_scale': 'text'}, tmp_path / 'edsr.pt')
    refusal(tmp_path / 'edsr.pt', 'no plain array of numbers')


@pytest.mark.parametrize('container', ['params', 'params_ema', 'both'])
def test_containers_of_basicsr(container, tmp_path):
    wanted, other = ({n: torch.from_numpy(v) for n, v in weights('BasicSR', 2, seed=seed).items()} for seed in (1, 2))
    torch.save({'params': {'params': wanted}, 'params_ema': {'params_ema': wanted},
                'both': {'params': other, 'params_ema': wanted}}[container], tmp_path / 'EDSR.pth')
    found, _, dialect = read_weights(str(tmp_path / 'EDSR.pth'))
    assert dialect == 'BasicSR' and np.array_equal(found['head.0.weight'], wanted['conv_first.weight'])
    assert np.array_equal(found['sub_mean.bias'], np.float32(-255 * np.array(RGB_MEAN)))


@pytest.mark.parametrize('dialect, prefix', [('port', ''), ('rewrite', ''), ('rewrite', 'net.')])
def test_the_optimisers_state_is_left_out(dialect, prefix, tmp_path):
    arrays = weights(dialect, 4)
    named = {prefix + name: value for name, value in arrays.items()}
    save_mindspore({**named, **of_the_optimiser(arrays, prefix)}, tmp_path / 'edsr.ckpt',
                   append_dict={'epoch_num': 100, 'step_num': 5, 'note': 'text'})
    assert_network(tmp_path / 'edsr.ckpt', dialect, arrays, 4, 1.0)


def test_statistics_that_a_rewrite_has_of_its_own(tmp_path):
    """Another mean and deviation than the usual ones are kept; a mean of 0 is no rgb_range of 0."""
    arrays = weights('rewrite', 2)
    arrays['norm.weight'][0, 1] *= 1.5
    arrays['de_norm.bias'][:] = 0
    save_mindspore(arrays, tmp_path / 'edsr.ckpt')
    assert_network(tmp_path / 'edsr.ckpt', 'rewrite', arrays, 2, 1.0)


def test_trained_mean_shift_is_kept(tmp_path):
    arrays = weights('authors', 2)
    arrays['sub_mean.weight'][0, 1] = 0.25
    arrays['add_mean.bias'] += 3
    save_torch(arrays, tmp_path / 'edsr.pt')
    assert_network(tmp_path / 'edsr.pt', 'authors', arrays, 2, 1.0)


def test_range_of_one(tmp_path):
    arrays = weights('port', 2)
    for name in ('sub_mean.bias', 'add_mean.bias'):
        arrays[name] /= 255
    save_mindspore(arrays, tmp_path / 'edsr.ckpt')
    assert read_weights(str(tmp_path / 'edsr.ckpt'))[1]['rgb_range'] == 1
    expected = 255 * network('port', arrays, LR / 255, 2, 1)
    ours = upscaler.load(tmp_path / 'edsr.ckpt', kernels='builtin')(LR)
    np.testing.assert_allclose(ours, expected, rtol=0, atol=3e-6 * np.abs(expected).max())


def test_res_scale(tmp_path, capsys):
    save_torch(weights('authors', 2), tmp_path / 'small.pt')
    assert read_weights(tmp_path / 'small.pt')[1]['res_scale'] == 1
    said = capsys.readouterr().out
    assert said.startswith('note: ') and 'small.pt' in said and '1 is taken' in said and '--res_scale' in said
    save_torch(weights('authors', 2, blocks=1, n_feats=256), tmp_path / 'large.pt')
    assert read_weights(tmp_path / 'large.pt')[1]['res_scale'] == 0.1
    assert '0.1 is taken' in capsys.readouterr().out
    assert read_weights(tmp_path / 'large.pt', 0.5)[1]['res_scale'] == 0.5
    assert not capsys.readouterr().out
    save_mindspore(weights('authors', 2), tmp_path / 'ours.ckpt', append_dict={'res_scale': 0.1})
    _, size, dialect = read_weights(tmp_path / 'ours.ckpt')
    assert (size['res_scale'], dialect) == (0.1, 'ours') and not capsys.readouterr().out
    assert read_weights(tmp_path / 'ours.ckpt', 0.1000001)[1]['res_scale'] == 0.1
    with pytest.raises(ValueError, match='ours.ckpt: a network of res_scale 0.1, not 1; leave --res_scale out'):
        read_weights(tmp_path / 'ours.ckpt', 1.0)


@pytest.mark.parametrize('res_scale, rgb_range', [(0.33333333, 1.2345678), (1e-7, 1e-4), (0.1, 255.0), (1.0, 65535.0)])
def test_what_no_weight_tells_survives_a_round_trip(res_scale, rgb_range, tmp_path):
    arrays = weights('authors', 2)
    for name in ('sub_mean.bias', 'add_mean.bias'):
        arrays[name] *= rgb_range / 255
    save_mindspore(arrays, tmp_path / 'edsr.ckpt')
    assert read_weights(tmp_path / 'edsr.ckpt')[1]['rgb_range'] == pytest.approx(rgb_range, rel=1e-5)
    values = [{'name': name, 'data': ms.Tensor(value)} for name, value in arrays.items()]
    save_checkpoint(tmp_path / 'ours.ckpt', values, {'res_scale': res_scale, 'rgb_range': rgb_range})
    import_weights.import_file(tmp_path / 'ours.ckpt', tmp_path / 'again.ckpt')
    _, size, dialect = read_weights(tmp_path / 'again.ckpt')
    assert (size['res_scale'], size['rgb_range'], dialect) == (res_scale, rgb_range, 'ours')


@pytest.mark.parametrize('name', ['res_scale', 'rgb_range'])
@pytest.mark.parametrize('value', [float('nan'), float('inf'), -1.0])
def test_impossible_numbers_are_refused(name, value, tmp_path):
    arrays, path = weights('authors', 2), tmp_path / 'edsr.ckpt'
    save_mindspore(arrays, path, append_dict={'res_scale': 1.0, name: value})
    refusal(path, f'{name} is {value:g} in it, expected a positive number')
    if name == 'res_scale':
        with pytest.raises(ValueError, match='--res_scale=.*: expected a positive number'):
            save_torch(arrays, tmp_path / 'edsr.pt')
            read_weights(tmp_path / 'edsr.pt', value)
    elif value != -1:
        arrays['add_mean.bias'][1] = value
        save_torch(arrays, tmp_path / 'edsr.pt')
        refusal(tmp_path / 'edsr.pt', 'add_mean.bias is', 'expected finite numbers')


def test_half_precision(tmp_path):
    arrays = {name: value.astype(np.float16) for name, value in weights('port', 2).items()}
    save_mindspore(arrays, tmp_path / 'half.ckpt')
    head = read_weights(tmp_path / 'half.ckpt')[0]['head.0.weight']
    assert head.dtype == np.float32 and np.array_equal(head, arrays['head.0.weight'])
    ms.save_checkpoint([{'name': name, 'data': ms.Tensor(value).astype(ms.bfloat16)} for name, value in arrays.items()],
                       str(tmp_path / 'brain.ckpt'))
    found = read_weights(tmp_path / 'brain.ckpt')[0]['head.0.weight']
    assert np.array_equal(found, torch.from_numpy(arrays['head.0.weight']).bfloat16().float().numpy())


@pytest.mark.parametrize('dialect', DIALECTS)
def test_safetensors(dialect, tmp_path):
    save_file = pytest.importorskip('safetensors.numpy').save_file
    arrays = weights(dialect, 4)
    save_file(arrays, tmp_path / 'edsr.safetensors')
    assert_network(tmp_path / 'edsr.safetensors', dialect, arrays, 4, 1.0)


@pytest.mark.parametrize('names, what', [
    (('head.0.weight', 'body.0.body.0.body.0.weight', 'body.0.body.0.body.3.conv_du.0.weight'), 'an RCAN'),
    (('sf.weight', 'rgs.0.module.0.module.3.module.1.weight'), 'an RCAN'),
    (('conv_first.weight', 'body.0.residual_group.0.rcab.3.attention.1.weight'), 'an RCAN'),
    (('head.0.weight', 'pre_process.0.0.body.0.weight', 'body.0.body.0.weight'), 'an MDSR'),
    (('layer1.0.weight', 'fc.bias'), 'another network')])
@pytest.mark.parametrize('write', [save_torch, save_mindspore])
def test_other_networks_are_refused_by_name(names, what, write, tmp_path):
    write({name: np.zeros((3, 3), np.float32) for name in names}, tmp_path / 'net.ckpt')
    refusal(tmp_path / 'net.ckpt', f'this is {what}, not an EDSR', names[0])


@pytest.mark.parametrize('dialect', DIALECTS)
def test_missing_extra_and_misshapen_names(dialect, tmp_path):
    whole, path = weights(dialect, 2), tmp_path / FILES[dialect]
    last = 'conv_after_body.weight' if dialect == 'BasicSR' else 'body.2.weight'
    save(dialect, path, {name: value for name, value in whole.items() if name != last})
    refusal(path, dialect, 'missing body.2.weight')
    save(dialect, path, {**whole, 'body.0.unheard_of': np.zeros(1, np.float32)})
    refusal(path, 'extra body.0.unheard_of')
    save(dialect, path, {**whole, last: np.zeros((8, 8, 5, 5), np.float32)})
    refusal(path, 'body.2.weight is (8, 8, 5, 5), expected (6, 6, 3, 3)')
    for name in whole:
        for changed in ({}, {name: whole[name][:0]}, {name: np.zeros((5, 7), np.float32)}, {name: np.float32(1)}):
            save(dialect, path, {**{n: v for n, v in whole.items() if n != name}, **{
                n: np.asarray(v) for n, v in changed.items()}})
            refusal(path)


def test_other_scales_and_block_numbers(tmp_path):
    arrays = weights('rewrite', 2)
    arrays['tail.0.up.0.weight'] = np.zeros((25 * 6, 6, 3, 3), np.float32)  # x5
    save_mindspore(arrays, tmp_path / 'x5.ckpt')
    refusal(tmp_path / 'x5.ckpt', 'scale 2, 3, 4')
    arrays = weights('authors', 2)
    arrays['body.1000000000.body.0.weight'] = arrays['body.0.body.0.weight']
    save_torch(arrays, tmp_path / 'deep.pt')
    refusal(tmp_path / 'deep.pt', 'a block 1000000000, but only')


def test_a_small_file_that_claims_a_large_network(tmp_path):
    """Nothing of the claimed size is made before it is refused: of either file a layer would take terabytes."""
    save_torch({'head.0.weight': np.zeros((400000, 1, 1, 1), np.float32), 'body.0.body.0.weight': np.zeros(1, 'f4'),
                'tail.0.0.weight': np.zeros((1600000, 1, 1, 1), np.float32)}, tmp_path / 'thin.pt')
    refusal(tmp_path / 'thin.pt', 'that do not fit EDSR', 'missing')
    shapes = {name: [{6: 600000, 24: 2400000}.get(side, side) for side in value.shape]
              for name, value in weights('authors', 2).items()}
    torch.save({name: torch.zeros(1).half().expand(shape) for name, shape in shapes.items()}, tmp_path / 'bomb.pt')
    assert (tmp_path / 'bomb.pt').stat().st_size < 20000
    refusal(tmp_path / 'bomb.pt', 'damaged: it claims')


def test_missing_file(tmp_path):
    with pytest.raises(OSError, match='nowhere.pt'):
        read_weights(str(tmp_path / 'nowhere.pt'))


def test_command_line(tmp_path):
    arrays = {name: torch.from_numpy(value) for name, value in weights('BasicSR', 3).items()}
    torch.save({'params': arrays}, tmp_path / 'EDSR.pth')
    output = tmp_path / 'new' / 'edsr x3.ckpt'
    done = python('import_weights.py', source=tmp_path / 'EDSR.pth', output=output, res_scale=0.1)
    assert done.returncode == 0, done.stderr
    assert not done.stderr and 'BasicSR' in done.stdout and 'scale=3' in done.stdout and 'res_scale=0.1' in done.stdout
    assert hashlib.sha256((tmp_path / 'EDSR.pth').read_bytes()).hexdigest() in done.stdout
    (ours, size, dialect), theirs = read_weights(output), read_weights(tmp_path / 'EDSR.pth', 0.1)
    assert dialect == 'ours' and size == theirs[1]
    assert set(ours) == set(theirs[0]) and all(np.array_equal(ours[name], value) for name, value in theirs[0].items())
    assert set(ms.load_checkpoint(str(output))) == {*ours, 'res_scale', 'rgb_range'}  # MindSpore reads it, too
    assert output.stat().st_mode & 0o777 == 0o644 and [path.name for path in output.parent.iterdir()] == [output.name]
    refused = python('import_weights.py', source=tmp_path / 'EDSR.pth', output=tmp_path / 'edsr.pth')
    assert refused.returncode == 2 and 'expected a name in .ckpt' in refused.stderr


def test_command_line_refuses_without_a_traceback(tmp_path):
    (tmp_path / 'letter.pth').write_text('Dear reader')
    done = python('import_weights.py', source=tmp_path / 'letter.pth', output=tmp_path / 'out.ckpt')
    assert done.returncode == 2 and done.stderr.startswith('error: ') and 'letter.pth' in done.stderr
    assert len(done.stderr.splitlines()) == 1 and not (tmp_path / 'out.ckpt').exists()


def test_source_and_output_must_differ(tmp_path):
    save_mindspore(weights('port', 2), tmp_path / 'edsr.ckpt')
    with pytest.raises(ValueError, match='is the source itself'):
        import_weights.main([f'--source={tmp_path / "edsr.ckpt"}', f'--output={tmp_path / "edsr.ckpt"}'])
    (tmp_path / 'link.ckpt').symlink_to('edsr.ckpt')
    with pytest.raises(ValueError, match='is the source itself'):
        import_weights.main([f'--source={tmp_path / "link.ckpt"}', f'--output={tmp_path / "edsr.ckpt"}'])
