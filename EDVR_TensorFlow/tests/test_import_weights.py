"""Released weights in every form in which they come; what is refused, and by which words."""
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import flags, python, save, weights_of

import import_weights as program
from ascendvsr.freeze import frozen
from ascendvsr.models import checkpoint as files
from ascendvsr.models.layers import shapes
from common.tf.devices import base_config, tf
from common.tf.frozen import write_frozen

NAMES = json.loads((Path(__file__).parent / 'golden' / 'authors_edvr_m.json').read_text())
FUSION = {'fusion.weight': [64, 320, 1, 1], 'fusion.bias': [64]}
WITHOUT_TSA = dict({name: shape for name, shape in NAMES.items() if not name.startswith('fusion.')}, **FUSION)
EDVR_M = {'num_frames': 5, 'mid_channels': 64, 'num_deform_groups': 8, 'num_blocks_extraction': 5,
          'num_blocks_reconstruction': 10, 'with_tsa': True, 'compat': 'paper', 'upsampling': 'bilinear'}
AS_64 = {'mid_channels': 64, 'num_frames': 1}  # both conventions have such variables


def pytorch(names=NAMES):
    """{the authors' name: array} with numbers of its own in every place."""
    rng = np.random.default_rng(0)
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in names.items()}


def saved(path, arrays):
    np.savez(str(path), **arrays)
    return path


def older(name):
    """The name in the older repository."""
    for present, then in (
            ('conv_l2_', 'fea_L2_conv'), ('conv_l3_', 'fea_L3_conv'), ('conv_hr', 'HRconv'),
            ('fusion.temporal_attn1', 'tsa_fusion.tAtt_2'), ('fusion.temporal_attn2', 'tsa_fusion.tAtt_1'),
            ('fusion.feat_fusion', 'tsa_fusion.fea_fusion'), ('fusion.spatial_attn_l', 'tsa_fusion.sAtt_L'),
            ('fusion.spatial_attn_add', 'tsa_fusion.sAtt_add_'), ('fusion.spatial_attn', 'tsa_fusion.sAtt_'),
            ('fusion', 'tsa_fusion'), ('reconstruction', 'recon_trunk')):
        if name.startswith(present):
            return then + name[len(present):]
    parts = name.split('.')
    if parts[0] == 'pcd_align' and parts[2] in ('l1', 'l2', 'l3'):
        what = {'dcn_pack': 'dcnpack', 'feat_conv': 'fea_conv'}.get(parts[1], parts[1])
        parts[1:3] = [f'{parts[2].upper()}_{what}']
    return '.'.join(parts).replace('.conv_offset.', '.conv_offset_mask.')


def test_the_authors_names_and_orders(tmp_path):
    """Kernels turned; every offset and sub-pixel where the sheet of the released files says it belongs."""
    theirs = pytorch()
    ours, size, dialect = program.read_weights(saved(tmp_path / 'a.npz', theirs))
    assert size == EDVR_M and dialect == 'BasicSR'
    assert {name: value.shape for name, value in ours.items()} == shapes(EDVR_M)
    for our, their in (('extraction/ResBlock/conv5b', 'feature_extraction.4.conv2'),
                       ('pcd_align/level3/offset_conv2', 'pcd_align.offset_conv2.l3'),
                       ('tsa_fusion/spatial_attn_l2', 'fusion.spatial_attn_l2'),
                       ('reconstruction/ResBlock/conv10a', 'reconstruction.9.conv1')):
        assert np.array_equal(ours[f'G/{our}/kernel'], theirs[f'{their}.weight'].transpose(2, 3, 1, 0))
        assert np.array_equal(ours[f'G/{our}/bias'], theirs[f'{their}.bias'])
    assert np.array_equal(ours['G/pcd_align/dcn_cas/b'], theirs['pcd_align.cas_dcnpack.bias'])
    assert np.array_equal(ours['G/pcd_align/level2/dcn_l2/W'],
                          theirs['pcd_align.dcn_pack.l2.weight'].transpose(2, 3, 1, 0))
    offset, theirs_offset = ours['G/pcd_align/dcn_cas/conv_offset/kernel'], theirs['pcd_align.cas_dcnpack.conv_offset.'
                                                                                   'weight'].transpose(2, 3, 1, 0)
    for group, tap in np.ndindex(8, 9):
        x, y, factor = (9 * (8 * part + group) + tap for part in range(3))
        assert np.array_equal(offset[..., x], theirs_offset[..., 18 * group + 2 * tap + 1])
        assert np.array_equal(offset[..., y], theirs_offset[..., 18 * group + 2 * tap])
        assert np.array_equal(offset[..., factor], theirs_offset[..., 144 + 9 * group + tap])
    for row, column, channel in np.ndindex(2, 2, 64):
        assert ours['G/reconstruction/upsample2/bias'][(2 * row + column) * 64 + channel] == theirs[
            'upconv2.bias'][4 * channel + 2 * row + column]


@pytest.mark.parametrize('names', [NAMES, WITHOUT_TSA], ids=['TSA', 'no TSA'])
def test_nothing_is_lost(names):
    """Every number of a file comes once, under one name; there and back it is what it was."""
    first, places = 0, {}
    for name, shape in names.items():  # numbers that float32 holds
        places[name] = first + np.arange(np.prod(shape)).reshape(shape)
        first += places[name].size
    _, ours = program.translated('', places)
    numbers = np.concatenate([value.ravel() for value in ours.values()]).astype(int)
    assert len(ours) == len(names) and np.array_equal(np.sort(numbers), np.arange(first))
    theirs = np.concatenate([value.ravel() for value in pytorch(names).values()])
    back = np.empty_like(theirs)
    _, translated = program.translated('', pytorch(names))
    back[numbers] = np.concatenate([translated[name].ravel() for name in ours])
    assert np.array_equal(back, theirs)


@pytest.mark.parametrize('names', [NAMES, WITHOUT_TSA], ids=['TSA', 'no TSA'])
def test_the_older_names(names, tmp_path):
    expected, size, _ = program.read_weights(saved(tmp_path / 'present.npz', pytorch(names)))
    arrays = {older(name): value for name, value in pytorch(names).items()}
    assert 'pcd_align.L3_dcnpack.conv_offset_mask.weight' in arrays and 'recon_trunk.0.conv1.bias' in arrays
    found, found_size, dialect = program.read_weights(saved(tmp_path / 'older.npz', arrays))
    assert dialect == 'authors' and found_size == size == dict(EDVR_M, with_tsa=names is NAMES)
    assert set(found) == set(expected) and all(np.array_equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize('zipped', [True, False])  # the released files are of the form before PyTorch 1.6
@pytest.mark.parametrize('around', ['params', 'params_ema', 'module.', ''])
def test_files_of_pytorch(around, zipped, tmp_path):
    torch = pytest.importorskip('torch')
    tensors = {name: torch.from_numpy(value) for name, value in pytorch(WITHOUT_TSA).items()}
    content = {around + name: value for name, value in tensors.items()} if around == 'module.' else tensors
    if around.startswith('params'):
        content = {around: tensors, 'params' if around == 'params_ema' else 'other': {}}
    torch.save(content, str(tmp_path / 'edvr.pth'), _use_new_zipfile_serialization=zipped)
    found, size, dialect = program.read_weights(tmp_path / 'edvr.pth')
    assert size == dict(EDVR_M, with_tsa=False) and dialect == 'BasicSR'
    expected = program.translated('', pytorch(WITHOUT_TSA))[1]
    assert all(np.array_equal(found[name], expected[name]) for name in expected)


def test_safetensors(tmp_path):
    numpy = pytest.importorskip('safetensors.numpy')
    numpy.save_file(pytorch(), str(tmp_path / 'edvr.safetensors'))
    assert program.read_weights(tmp_path / 'edvr.safetensors')[1] == EDVR_M
    (tmp_path / 'broken.safetensors').write_bytes((tmp_path / 'edvr.safetensors').read_bytes()[:5000])
    with pytest.raises(ValueError, match='broken.safetensors: damaged, or not a file of safetensors'):
        program.read_weights(tmp_path / 'broken.safetensors')


def test_a_package_that_is_missing(tmp_path, monkeypatch):
    for package, name in (('torch', 'a.pth'), ('safetensors.numpy', 'a.safetensors')):
        monkeypatch.setitem(sys.modules, package, None)
        (tmp_path / name).write_bytes(b'anything')
        with pytest.raises(ValueError, match=f'{name}: reading it needs {package.split(".")[0]}: .* an .npz'):
            program.read_weights(tmp_path / name)


class Harmful:
    def __reduce__(self):
        return print, ('this code was run',)


def test_no_code_is_run(tmp_path, capfd):
    np.savez(str(tmp_path / 'edvr.npz'), weight=np.array(Harmful(), object))
    with pytest.raises(ValueError, match='edvr.npz: damaged, or not an .npz file of numbers'):
        program.read_weights(tmp_path / 'edvr.npz')
    torch = pytest.importorskip('torch')
    torch.save({'params': Harmful()}, str(tmp_path / 'edvr.pth'))
    with pytest.raises(ValueError, match='edvr.pth: it holds more than numbers, and reading that could run code'):
        program.read_weights(tmp_path / 'edvr.pth')
    assert 'this code' not in capfd.readouterr().out


@pytest.mark.parametrize('share', [0, 0.5, 0.99])
@pytest.mark.parametrize('name', ['edvr.pth', 'edvr.npz'])
def test_files_that_were_cut_off(name, share, tmp_path):
    path = tmp_path / name
    if name.endswith('.pth'):
        torch = pytest.importorskip('torch')
        torch.save({name: torch.from_numpy(value) for name, value in pytorch(FUSION).items()}, str(path))
    else:
        saved(path, pytorch(FUSION))
    path.write_bytes(path.read_bytes()[:int(share * path.stat().st_size)])
    with pytest.raises(ValueError, match=f'{name}: damaged, or not a'):
        program.read_weights(path)


def test_the_ports_checkpoints(tmp_path, capsys):
    """With Adam's state and what its NPU sessions add; without notes."""
    weights, size = weights_of(compat='port', **AS_64)
    arrays = {f'{name}/{slot}': np.ones_like(value) for name, value in weights.items() for slot in ('Adam', 'Adam_1')}
    arrays.update(weights, beta1_power=np.float32(0.5), beta2_power=np.float32(0.6), global_step=np.int64(540),
                  loss_scale=np.float32(2))
    with tf.Graph().as_default() as graph, tf.Session(graph=graph, config=base_config('cpu')) as session:
        variables = [tf.get_variable(name, initializer=tf.constant(value)) for name, value in arrays.items()]
        session.run(tf.global_variables_initializer())
        prefix = tf.train.Saver(variables).save(session, str(tmp_path / 'EDVR-600000'))
    program.main(flags(source=prefix, output=tmp_path / 'ours'))
    said = capsys.readouterr().out
    for word in (': port weights, EDVR(num_frames=1, mid_channels=64', 'note: ignored: global_step, loss_scale\n',
                 'does not say its compat, upsampling; taken as the released port has it: edvr.compat port, '
                 'edvr.upsampling bilinear', 'parameters, sha256 ', f'written to {tmp_path / "ours"}'):
        assert word in said
    found, found_size, dialect = program.read_weights(tmp_path / 'ours')
    assert found_size == size and dialect == 'ours' and 'note' not in capsys.readouterr().out
    assert set(files.load(str(tmp_path / 'ours'))[1]) == set(weights)
    assert all(np.array_equal(found[name], weights[name]) for name in weights)


def test_what_a_file_does_not_say_is_taken_as_given(tmp_path, capsys):
    weights, size = weights_of(**AS_64)
    files.write(tmp_path / 'edvr', weights, {})
    given = {'compat': 'paper', 'upsampling': 'bicubic', 'mid_channels': 64, 'with_tsa': None}
    assert program.read_weights(tmp_path / 'edvr', given)[1] == dict(size, upsampling='bicubic')
    assert program.read_weights(tmp_path / 'edvr', {'compat': '', 'upsampling': 'bilinear'})[1]['compat'] == 'port'
    assert capsys.readouterr().out.count('does not say its compat;') == 1
    weights, _ = weights_of()  # 8 channels, 64 at the end: the authors'
    files.write(tmp_path / 'narrow', weights, {})
    assert program.read_weights(tmp_path / 'narrow')[1]['compat'] == 'paper'


@pytest.mark.parametrize('given, words', [
    ({'compat': 'port'}, 'a network of compat paper, not port'),
    ({'upsampling': 'bicubic'}, 'of upsampling bilinear, not bicubic'),
    ({'mid_channels': 64}, 'of mid_channels 8, not 64'), ({'with_tsa': False}, 'of with_tsa True, not False')])
def test_what_a_file_says_must_be_the_same(given, words, checkpoint):
    with pytest.raises(ValueError, match=f'tiny edvr: a network {words.replace("a network ", "")}'):
        program.read_weights(checkpoint, given)


def test_running_means_are_taken(tmp_path):
    weights, size = weights_of()
    means = {name + files.MEAN: value + 1 for name, value in weights.items()}
    files.write(tmp_path / 'EDVR-7', dict(weights, **means), {'size': size})
    found, _, dialect = program.read_weights(tmp_path)
    assert dialect == 'ours' and all(np.array_equal(found[name], weights[name] + 1) for name in weights)


def test_our_own_files(checkpoint, tmp_path, capsys):
    weights, size = weights_of()
    write_frozen(frozen(size, weights), str(tmp_path / 'edvr.pb'))
    for source, dialect in ((f'{checkpoint}.index', 'ours'), (tmp_path / 'edvr.pb', 'frozen')):
        for name in ('again', 'again.npz'):
            program.main(flags(source=source, output=tmp_path / name))
            assert f': {dialect} weights, EDVR(num_frames=3' in capsys.readouterr().out
            found, found_size, again = program.read_weights(tmp_path / name)
            assert found_size == size and again == 'ours'
            assert all(np.array_equal(found[name], weights[name]) for name in weights)


@pytest.mark.parametrize('changes, words', [
    ({'upconv1.bias': None}, 'missing G/reconstruction/upsample1/bias; extra none; of another shape none'),
    ({'upconv3.bias': (3,)}, 'missing none; extra upconv3.bias;'),
    ({'conv_hr.weight': (64, 32, 3, 3)},
     r'of another shape G/reconstruction/conv_hr/kernel \(3, 3, 32, 64\) \(expected \(3, 3, 64, 64\)\)'),
    ({'conv_first.weight': None}, 'expected G/extraction/conv_first/kernel of 4 dimensions'),
    ({'conv_first.weight': (3,)}, 'expected G/extraction/conv_first/kernel of 4 dimensions'),
    ({name: tuple(shape) for name, shape in FUSION.items()}, 'extra G/tsa_fusion'),
    ({'predeblur.conv_first.bias': (64,)}, r'an EDVR that deblurs .*\(with_predeblur\), which this network is not'),
    ({'pre_deblur.conv_first_1.bias': (64,)}, 'an EDVR that deblurs'),
    ({'conv_first_1.weight': (64, 3, 3, 3)}, r'for input of high resolution \(hr_in\)')])
def test_another_edvr_is_refused(changes, words, tmp_path):
    arrays = pytorch()
    for name, shape in changes.items():
        arrays[name] = shape and np.zeros(shape)
    check_refused({name: value for name, value in arrays.items() if value is not None}, words, tmp_path)


@pytest.mark.parametrize('names, words', [
    (['head.0.weight', 'body.0.body.0.body.0.weight'],
     'an RCAN or EDSR, which this network is not; it has head.0.weight, body.0'),
    (['generator/first_conv/conv2d/kernel'], 'a BSRN, which this network is not'),
    (['layer1'], 'not an EDVR; it holds layer1'), ([], 'not an EDVR; it holds none'),
    (['G/dense/kernel'], 'not an EDVR: expected G/extraction/conv_first/kernel')])
def test_what_is_no_edvr_is_refused(names, words, tmp_path):
    check_refused({name: np.zeros((3, 3)) for name in names}, words, tmp_path)


def check_refused(arrays, words, tmp_path):
    with pytest.raises(ValueError, match=f'other.npz: .*{words}'):
        program.main(flags(source=saved(tmp_path / 'other.npz', arrays), output=tmp_path / 'ours'))
    assert not list(tmp_path.glob('ours*'))


def test_notes_that_cannot_be(tmp_path):
    weights, size = weights_of()
    for change, words in (({'compat': 'torch'}, "compat: 'torch'"), ({'upsampling': 4}, 'upsampling: 4')):
        files.write(tmp_path / 'edvr', weights, {'size': dict(size, **change)})
        with pytest.raises(ValueError, match=rf'edvr.json: damaged \({words}\)'):
            program.read_weights(tmp_path / 'edvr')
    files.write(tmp_path / 'edvr', weights, {'size': dict(size, compat='port')})
    with pytest.raises(ValueError, match='edvr: not an EDVR of 8 channels: .* of another shape G/reconstruction'):
        program.read_weights(tmp_path / 'edvr')


@pytest.mark.parametrize('ending', ['', '.index'])
def test_the_source_is_not_overwritten(ending, checkpoint):
    with pytest.raises(ValueError, match='is the source itself'):
        program.main(flags(source=checkpoint, output=f'{checkpoint}{ending}'))


def test_the_newest_of_a_folder_is_not_overwritten(tmp_path):
    newest = save(tmp_path / 'EDVR-5')
    with pytest.raises(ValueError, match='is the source itself'):
        program.main(flags(source=tmp_path, output=newest))


def test_as_a_user_starts_it(checkpoint, tmp_path):
    done = python('import_weights.py', source=checkpoint, output=tmp_path / 'ours')
    assert done.returncode == 0 and not done.stderr and ': ours weights, EDVR(num_frames=3' in done.stdout
    done = python('import_weights.py', source=tmp_path / 'nowhere', output=tmp_path / 'b')
    assert done.returncode == 2 and done.stderr.startswith('error: ') and 'there are: ours' in done.stderr
    assert done.stderr.count('\n') == 1
