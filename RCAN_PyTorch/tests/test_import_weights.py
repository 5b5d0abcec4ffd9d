"""Every dialect of released weights is recognised and gives the same network; every other file is refused by name."""
import hashlib
import os
import pickle
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import torch
from conftest import python, random_picture, tiny
from dialects import basicsr_network, to_authors, to_basicsr

import import_weights
import upscaler
from import_weights import import_file, read_weights


def refusal(path, *words):
    """read_weights refuses the file; the message names it and says each of the words."""
    with pytest.raises(ValueError) as error:
        read_weights(str(path))
    for word in (str(path), *words):
        assert word in str(error.value)
    return str(error.value)


def as_port_saves(state):
    """What the released port's training writes: numpy scores and times, apex's state, a 0-based epoch."""
    return {'model': OrderedDict(state), 'optimizer': {'state': {}, 'param_groups': [{'lr': 1e-4, 'params': [0]}]},
            'epoch': 3, 'amp': {'loss_scaler0': {'loss_scale': 128.0, 'unskipped': 7}}, 'best': np.float64(31.5),
            'ck_performance': [[np.float64(31.5), np.float32(0.9)]], 'ck_time': [0.01]}


def distributed(state):
    return {f'module.{name}': value for name, value in state.items()}


def assert_same(path, network, dialect):
    weights, size, spoken = read_weights(str(path))
    assert spoken == dialect
    assert size['scale'] == network.scale and size['style'] == network.style
    expected = network.state_dict()
    assert set(weights) == set(expected)
    assert all(torch.equal(weights[name], value) for name, value in expected.items())


@pytest.mark.parametrize('scale', [2, 3, 4, 8])
@pytest.mark.parametrize('zip_format', [True, False], ids=['zip', 'torch-0.4'])
def test_authors(scale, zip_format, tmp_path):
    network = tiny(scale, num_rg=2, num_rcab=3)
    torch.save(OrderedDict(to_authors(network.state_dict())), tmp_path / 'RCAN.pt',
               _use_new_zipfile_serialization=zip_format)
    assert zipfile.is_zipfile(tmp_path / 'RCAN.pt') == zip_format
    assert_same(tmp_path / 'RCAN.pt', network, 'authors')


@pytest.mark.parametrize('scale', [2, 3, 4, 8])
@pytest.mark.parametrize('container', ['bare', 'params', 'params_ema', 'both'])
def test_basicsr(scale, container, tmp_path):
    network = tiny(scale, num_rg=3, num_rcab=2)
    tensors, others = (to_basicsr(tiny(scale, num_rg=3, num_rcab=2, seed=seed).state_dict()) for seed in (1, 2))
    content = {'bare': tensors, 'params': {'params': tensors}, 'params_ema': {'params_ema': tensors},
               'both': {'params': others, 'params_ema': tensors}}[container]
    torch.save(content, tmp_path / 'RCAN.pth')
    assert_same(tmp_path / 'RCAN.pth', network, 'BasicSR')


@pytest.mark.parametrize('scale', [2, 3, 4, 5, 8])
@pytest.mark.parametrize('wrap', [lambda state: as_port_saves(state), lambda state: as_port_saves(distributed(state)),
                                  lambda state: state, distributed], ids=['port', 'port 8p', 'yjn870', 'yjn870 8p'])
def test_port(scale, wrap, tmp_path):
    network = tiny(scale, 'port', num_rg=2, num_rcab=2)
    torch.save(wrap(network.state_dict()), tmp_path / 'model_best_amp.pth')
    assert_same(tmp_path / 'model_best_amp.pth', network, 'port')


def test_ours_and_half_precision(tmp_path):
    network = tiny().half().float()
    torch.save({'model': network.half().state_dict(), 'step': 3}, tmp_path / 'half.pth')
    weights, _, dialect = read_weights(str(tmp_path / 'half.pth'))
    assert dialect == 'ours' and {value.dtype for value in weights.values()} == {torch.float32}
    torch.save({'model': network.float().state_dict(), 'step': 3}, tmp_path / 'ours.pth')
    assert_same(tmp_path / 'ours.pth', network, 'ours')


@pytest.mark.parametrize('rename, dialect', [(to_authors, 'authors'), (to_basicsr, 'BasicSR'), (dict, 'ours')])
def test_safetensors(rename, dialect, tmp_path):
    save_file = pytest.importorskip('safetensors.torch').save_file
    network = tiny(4)
    save_file(rename(network.state_dict()), str(tmp_path / 'rcan.safetensors'))
    assert_same(tmp_path / 'rcan.safetensors', network, dialect)


@pytest.mark.parametrize('scale', [2, 3, 4, 8])
def test_basicsr_network_and_ours_agree(scale, tmp_path):
    tensors = to_basicsr(tiny(scale, num_rg=2, num_rcab=2).state_dict())
    torch.save({'params': tensors}, tmp_path / 'RCAN.pth')
    lr = random_picture(9, 13)
    x = torch.from_numpy(lr).permute(2, 0, 1)[None] / 255
    theirs = 255 * basicsr_network(tensors, x, scale)[0].permute(1, 2, 0)
    ours = upscaler.load(tmp_path / 'RCAN.pth')(lr)
    np.testing.assert_allclose(ours, theirs.numpy(), rtol=0, atol=1e-5 * np.abs(ours).max())
    torch.save(to_authors(tiny(scale, num_rg=2, num_rcab=2).state_dict()), tmp_path / 'RCAN.pt')
    assert np.array_equal(upscaler.load(tmp_path / 'RCAN.pt')(lr), ours)


def test_trained_mean_shift_is_kept(tmp_path):
    network = tiny()
    network.sub_mean.weight[0, 1] = 0.25
    network.add_mean.bias += 3
    torch.save(to_authors(network.state_dict()), tmp_path / 'RCAN.pt')
    assert_same(tmp_path / 'RCAN.pt', network, 'authors')
    lr = random_picture(6, 6)
    expected = network(torch.from_numpy(lr).permute(2, 0, 1)[None])[0].permute(1, 2, 0).numpy()
    np.testing.assert_allclose(upscaler.load(tmp_path / 'RCAN.pt')(lr), expected, rtol=1e-5, atol=1e-3)


def edsr(names):
    body = {name: torch.zeros(8, 8, 3, 3) for name in names}
    return {**body, names[0].replace('weight', 'bias'): torch.zeros(8)}


@pytest.mark.parametrize('names', [
    ('head.0.weight', 'body.0.body.0.weight', 'body.0.body.2.weight', 'body.1.weight', 'tail.0.0.weight'),
    ('conv_first.weight', 'body.0.conv1.weight', 'body.0.conv2.weight', 'conv_after_body.weight', 'conv_last.weight')],
    ids=['authors', 'BasicSR'])
def test_edsr_is_refused_by_name(names, tmp_path):
    torch.save(edsr(names), tmp_path / 'EDSR_x2.pt')
    refusal(tmp_path / 'EDSR_x2.pt', 'EDSR', 'not an RCAN', names[0])


def test_another_network_is_refused(tmp_path):
    torch.save({'layer1.0.weight': torch.zeros(3), 'fc.bias': torch.zeros(3)}, tmp_path / 'resnet.pth')
    refusal(tmp_path / 'resnet.pth', 'another network', 'layer1.0.weight')


@pytest.mark.parametrize('rename', [dict, to_authors, to_basicsr], ids=['ours', 'authors', 'BasicSR'])
def test_missing_extra_and_misshapen_names(rename, tmp_path):
    whole = rename(tiny(num_rcab=2).state_dict())
    last = next(name for name in whole if name.split('.')[0] in ('conv1', 'conv_after_body') or name == 'body.1.weight')
    path = tmp_path / 'RCAN.pth'
    torch.save({name: value for name, value in whole.items() if name != last}, path)
    refusal(path, 'missing conv1.weight')
    torch.save({**whole, 'body.0.unheard_of': torch.zeros(1)}, path)
    refusal(path, 'extra body.0.unheard_of')
    torch.save({**whole, last: torch.zeros(8, 8, 5, 5)}, path)
    refusal(path, 'conv1.weight is (8, 8, 5, 5), expected (8, 8, 3, 3)')
    first = next(name for name in whole if name in ('sf.weight', 'head.0.weight', 'conv_first.weight'))
    torch.save({name: value for name, value in whole.items() if name != first}, path)
    refusal(path)


def test_a_file_with_only_the_first_names(tmp_path):
    torch.save({'sf.weight': torch.zeros(8, 3, 3, 3), 'a.3.module.1.weight': torch.zeros(1)}, tmp_path / 'a.pth')
    refusal(tmp_path / 'a.pth')
    torch.save({'sf.weight': torch.tensor(1.0), 'rgs.x.3.module.1.weight': torch.zeros(1)}, tmp_path / 'b.pth')
    refusal(tmp_path / 'b.pth')
    torch.save({'head.0.weight': torch.zeros(8, 3, 3, 3), 'body.x.body.conv_du': torch.zeros(1)}, tmp_path / 'c.pth')
    refusal(tmp_path / 'c.pth')


@pytest.mark.parametrize('name', ['RCAN.pth', 'RCAN.safetensors'])
@pytest.mark.parametrize('content', [b'', b'no checkpoint at all\n', b'PK\x03\x04', b'\x80\x02}q\x00.', b'\x80'],
                         ids=['empty', 'text', 'zip start', 'empty dict', 'pickle start'])
def test_what_is_no_checkpoint(name, content, tmp_path):
    (tmp_path / name).write_bytes(content)
    refusal(tmp_path / name)


@pytest.mark.parametrize('content', [[torch.zeros(3)], torch.zeros(3), {0: torch.zeros(3)}, {'model': 'text'}, 7],
                         ids=['list', 'tensor', 'numbered', 'text', 'number'])
def test_checkpoints_of_other_things(content, tmp_path):
    torch.save(content, tmp_path / 'RCAN.pth')
    refusal(tmp_path / 'RCAN.pth')


@pytest.mark.parametrize('kind', ['zip', 'torch-0.4', 'safetensors'])
def test_truncated_files(kind, tmp_path):
    path = tmp_path / ('RCAN.safetensors' if kind == 'safetensors' else 'RCAN.pth')
    if kind == 'safetensors':
        pytest.importorskip('safetensors.torch').save_file(tiny().state_dict(), str(path))
    else:
        torch.save({'model': tiny().state_dict()}, path, _use_new_zipfile_serialization=kind == 'zip')
    whole = path.read_bytes()
    for length in [*range(1, 40), *range(40, len(whole) - 1, len(whole) // 40)]:
        path.write_bytes(whole[:length])
        refusal(path)


class Bomb:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f'touch "{self.marker}"',)


@pytest.mark.parametrize('write', [
    lambda content, path: torch.save(content, path),
    lambda content, path: torch.save(content, path, _use_new_zipfile_serialization=False),
    lambda content, path: path.write_bytes(pickle.dumps(content, protocol=2))], ids=['zip', 'torch-0.4', 'pickle'])
def test_no_code_in_a_file_is_run(write, tmp_path):
    path, marker = tmp_path / 'RCAN.pth', tmp_path / 'executed'
    write({'model': tiny().state_dict(), 'best': Bomb(marker)}, path)
    refusal(path, 'could run code')
    with pytest.raises(ValueError, match='could run code'):
        upscaler.load(path)
    assert not marker.exists()


def test_missing_file(tmp_path):
    with pytest.raises(OSError, match='nowhere.pt'):
        read_weights(str(tmp_path / 'nowhere.pt'))


def test_command_line(tmp_path):
    network = tiny(3)
    torch.save({'params': to_basicsr(network.state_dict())}, tmp_path / 'RCAN.pth')
    done = python('import_weights.py', source=tmp_path / 'RCAN.pth', output=tmp_path / 'new' / 'rcan x3.pth')
    assert done.returncode == 0, done.stderr
    assert 'BasicSR' in done.stdout and 'scale=3' in done.stdout
    assert hashlib.md5((tmp_path / 'RCAN.pth').read_bytes()).hexdigest() in done.stdout
    lr = random_picture(5, 8)
    upscale = upscaler.load(tmp_path / 'new' / 'rcan x3.pth')
    assert upscale.scale == 3 and np.array_equal(upscale(lr), upscaler.load(tmp_path / 'RCAN.pth')(lr))


def test_command_line_refuses_without_a_traceback(tmp_path):
    (tmp_path / 'letter.pth').write_text('Dear reader')
    done = python('import_weights.py', source=tmp_path / 'letter.pth', output=tmp_path / 'out.pth')
    assert done.returncode == 2 and done.stderr.startswith('error: ') and 'letter.pth' in done.stderr
    assert 'Traceback' not in done.stderr and not (tmp_path / 'out.pth').exists()


def test_source_and_output_must_differ(tmp_path, checkpoint):
    with pytest.raises(ValueError, match='is the source itself'):
        import_weights.main([f'--source={checkpoint}', f'--output={checkpoint}'])


def test_known_files_are_named(tmp_path, monkeypatch, capsys):
    assert import_weights.KNOWN_FILES['f567f8560fde71ba0973a7fe472a42f2'].startswith('RCAN_BIX2.pt')
    torch.save(to_authors(tiny().state_dict()), tmp_path / 'a.pt')
    digest = hashlib.md5((tmp_path / 'a.pt').read_bytes()).hexdigest()
    monkeypatch.setitem(import_weights.KNOWN_FILES, digest, 'a file that is known')
    import_file(str(tmp_path / 'a.pt'), str(tmp_path / 'a.pth'))
    assert f'md5 {digest}: a file that is known' in capsys.readouterr().out
