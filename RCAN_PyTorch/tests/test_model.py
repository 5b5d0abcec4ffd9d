"""The network against the reference code's own numbers (golden/), and against its tables of names and shapes."""
import gzip
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import upscaler
from common import images
from common.tiles import self_ensemble
from device import Device
from import_weights import read_weights
from main import Model, train_step
from model import RCAN, size_of

GOLDEN = Path(__file__).parent / 'golden'
PORT_COUNTS = {2: 15_444_643, 3: 15_629_283, 4: 15_887_779, 8: 17_660_323}
PAPER_COUNTS = {2: 15_444_667, 3: 15_629_307, 4: 15_592_379, 8: 15_740_091}  # 24 of them are the mean shift
PAPER_NAMES = {2: 1632, 3: 1632, 4: 1634, 8: 1636}


@pytest.fixture(scope='module')
def port():
    return np.load(GOLDEN / 'yjn870_x2_g2b2f16.npz')


@pytest.fixture(scope='module')
def authors(tmp_path_factory):
    """(golden arrays, file of the authors' dialect that holds their weights)."""
    golden = np.load(GOLDEN / 'authors_x4_g2b2f16.npz')
    path = tmp_path_factory.mktemp('authors') / 'RCAN_BIX4.pt'
    torch.save(parameters(golden), path)
    return golden, path


def parameters(golden):
    return {name[6:]: torch.from_numpy(golden[name]) for name in golden.files if name.startswith('param/')}


def port_network(port):
    network = RCAN(2, 16, 2, 2, 4, 'port')
    network.load_state_dict(parameters(port))
    return network


def assert_near(found, expected):
    """Within 1e-4 of the standard deviation of what is expected (float32 against float64 differs by 4e-6)."""
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * expected.std())


def meta(**size):
    with torch.device('meta'):
        return RCAN(**size).state_dict()


def test_port_output(port):
    with torch.no_grad():
        assert_near(port_network(port)(torch.from_numpy(port['input'])).numpy(), port['output'])


def test_port_gradients(port):
    network = port_network(port)
    loss = torch.nn.functional.l1_loss(network(torch.from_numpy(port['input'])), torch.from_numpy(port['target']))
    loss.backward()
    for name, parameter in network.named_parameters():
        expected = port[f'grad/{name}']
        np.testing.assert_allclose(parameter.grad.numpy(), expected, rtol=0, atol=1e-5 * np.abs(expected).max() + 1e-9,
                                   err_msg=name)


def test_three_steps_of_adam_are_the_references(port):
    device, network = Device('cpu', torch.device('cpu')), port_network(port)
    model = Model(device, None, network, network, device.adam(network.parameters(), 1e-4), device.scaler(None, 128))
    lr, hr = (torch.from_numpy(port[name]) * 255 for name in ('input', 'target'))
    losses = [train_step(model, lr, hr).item() for _ in range(4)]
    np.testing.assert_allclose(losses[:3], port['loss_trace'], rtol=1e-6)
    assert losses[3] == pytest.approx(port['loss_final'], rel=1e-6)


def test_weights_after_three_steps(port):
    device, network = Device('cpu', torch.device('cpu')), port_network(port)
    model = Model(device, None, network, network, device.adam(network.parameters(), 1e-4), device.scaler(None, 128))
    lr, hr = (torch.from_numpy(port[name]) * 255 for name in ('input', 'target'))
    for _ in range(3):
        train_step(model, lr, hr)
    for name, value in network.state_dict().items():
        gradient = np.abs(port[f'grad/{name}'])
        sure = gradient > 1e-4 * gradient.max()  # Adam begins with lr * sign(gradient): rounding decides near 0
        difference = np.abs(value.numpy() - port[f'after/{name}'])
        assert difference[sure].max() < 5e-6 and difference.max() <= 6.1e-4, name


def test_authors_output(authors):
    golden, path = authors
    upscale = upscaler.load(path)
    for lr, expected, eight_bit in zip(golden['input'], golden['output'], golden['output_uint8']):
        sr = upscale(lr.transpose(1, 2, 0))
        assert_near(sr.transpose(2, 0, 1), expected)
        assert (images.to_uint8(sr).transpose(2, 0, 1) != eight_bit).mean() < 1e-3  # ties of rounding alone


def test_authors_self_ensemble(authors):
    golden, path = authors
    sr = self_ensemble(upscaler.load(path), golden['input'][0].transpose(1, 2, 0))
    assert_near(sr.transpose(2, 0, 1), golden['output_self_ensemble'][0])
    assert np.abs(golden['output_self_ensemble'][0] - golden['output'][0]).max() > 1  # the golden data can tell


@pytest.mark.parametrize('scale', PORT_COUNTS)
def test_sizes_of_the_full_networks(scale):
    port, paper = meta(scale=scale, style='port'), meta(scale=scale)
    assert (len(port), sum(v.numel() for v in port.values())) == (1628, PORT_COUNTS[scale])
    assert (len(paper), sum(v.numel() for v in paper.values())) == (PAPER_NAMES[scale], PAPER_COUNTS[scale])


@pytest.mark.parametrize('table, dialect, size', [
    ('authors_bix2', 'authors', {'scale': 2, 'style': 'paper'}),
    ('yjn870_x2', 'port', {'scale': 2, 'style': 'port'}),
    ('basicsr_rcan', 'BasicSR', {'scale': 4, 'style': 'paper'})])
def test_full_size_names_and_shapes(table, dialect, size, tmp_path):
    with gzip.open(GOLDEN / 'names_and_shapes.json.gz') as file:
        known = json.load(file)[table]
    tensors = {name: torch.zeros(()).expand(shape) for name, shape in known['params'].items()}  # a file of one number
    assert sum(value.numel() for value in tensors.values()) == known['meta']['parameters']
    torch.save(tensors, tmp_path / 'full.pth')
    weights, found, spoken = read_weights(tmp_path / 'full.pth')
    assert spoken == dialect
    assert found == {'num_features': 64, 'num_rg': 10, 'num_rcab': 20, 'reduction': 16, **size}
    assert {name: value.shape for name, value in weights.items()} == {n: v.shape for n, v in meta(**size).items()}


def test_the_mean_shift_is_frozen_and_the_authors():
    network = RCAN(2, 8, 1, 1, 4)
    frozen = {name for name, value in network.named_parameters() if not value.requires_grad}
    assert frozen == {f'{way}_mean.{part}' for way in ('sub', 'add') for part in ('weight', 'bias')}
    expected = -255 * torch.tensor([0.4488, 0.4371, 0.4040])
    assert torch.equal(network.sub_mean.bias.data, expected) and torch.equal(network.add_mean.bias.data, -expected)


@pytest.mark.parametrize('arguments, words', [
    ({'scale': 5}, ('scale 5', 'powers of two', '--style=port')), ({'scale': 6}, ('scale 6',)),
    ({'scale': 1}, ('scale 1',)), ({'scale': 0, 'style': 'port'}, ('scale 0',)),
    ({'style': 'edsr'}, ('edsr', 'paper, port')),
    ({'num_rg': 0}, ('num_rg=0',)), ({'num_rcab': 0}, ('num_rcab=0',)), ({'num_features': 0}, ('num_features=0',)),
    ({'num_features': 8, 'reduction': 16}, ('reduction=16', 'at most num_features'))])
def test_impossible_networks(arguments, words):
    with pytest.raises(ValueError) as error:
        RCAN(**{'num_features': 16, 'num_rg': 1, 'num_rcab': 1, 'reduction': 4, **arguments})
    for word in words:
        assert word in str(error.value)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_size_is_read_back_from_the_weights(data):
    style = data.draw(st.sampled_from(('paper', 'port')))
    scale = data.draw(st.sampled_from((2, 3, 4, 8, 16)) if style == 'paper' else st.integers(1, 9))
    n_feats = data.draw(st.integers(1, 40))
    made = {'scale': scale, 'style': style, 'num_features': n_feats, 'num_rg': data.draw(st.integers(1, 12)),
            'num_rcab': data.draw(st.integers(1, 12)), 'reduction': data.draw(st.integers(1, n_feats))}
    weights = meta(**made)
    found = size_of(weights)
    # several reductions give one network; the one that is read must give it again
    assert n_feats // found['reduction'] == n_feats // made['reduction']
    assert {**found, 'reduction': 0} == {**made, 'reduction': 0}
    assert {n: v.shape for n, v in meta(**found).items()} == {n: v.shape for n, v in weights.items()}


@pytest.mark.parametrize('style, scale', [('paper', 2), ('paper', 3), ('paper', 8), ('port', 4), ('port', 5)])
def test_output_size_of_odd_pictures(style, scale):
    network = RCAN(scale, 8, 1, 1, 4, style)
    assert network(torch.zeros(2, 3, 1, 7)).shape == (2, 3, scale, 7 * scale)
