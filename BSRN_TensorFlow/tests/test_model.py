"""The network against the authors' own numbers (golden/), and against tables of names and shapes."""
import argparse
import json
from pathlib import Path

import numpy as np
import pytest

from common.tf.ranks import Alone, tf
from models.bsrn import BSRN, add_size_options, initial_weights, scale_list, size_from, size_of
from models.checkpoint import assign
from models.session_config import open_device

GOLDEN = Path(__file__).parent / 'golden'
PARAMETERS = {(2,): 593_987, (3,): 778_627, (4,): 741_699, (2, 3, 4): 1_225_225}
RELEASED = {'conv_features': 64, 'state_features': 64}


@pytest.fixture(scope='module', params=['x4_c16_s16_r4', 'x234_c16_s8_r3'])
def golden(request):
    """{name: array} of a run of the authors' code, and under 'size' the arguments of BSRN.

    Of outputs, sample 0 and every third row (x3: every second); moved/: what three steps of Adam changed, in 2.5e-6.
    """
    with np.load(GOLDEN / f'{request.param}.npz') as file:
        arrays = dict(file)
    config = json.loads(str(arrays['meta']))
    return dict(arrays, size=dict(config, scales=tuple(config['scales'])))


@pytest.fixture(scope='module', params=['builtin', 'native'])
def device(request):
    opened = open_device('cpu', kernels=request.param)
    try:
        opened.convolutions()
    except ValueError as error:
        assert 'no C++ compiler' in str(error)  # kernels that are wrong are no reason to skip
        pytest.skip(str(error))
    return opened


def weights_in(golden):
    return {name[len('var/'):]: value for name, value in golden.items() if name.startswith('var/')}


def on(device, size):
    """(graph, network) of that size."""
    with tf.Graph().as_default() as graph:
        return graph, BSRN(**size, conv=device.convolutions())


def rows(scale):
    return slice(None, None, 2 if scale == 3 else 3)


def test_every_output_loss_and_gradient(golden, device):
    graph, network = on(device, golden['size'])
    lr = golden['input']
    with graph.as_default(), device.session(graph) as session:
        assign(session, network.variables, weights_in(golden))
        for scale in network.scales:
            x, hr = tf.constant(lr, tf.float32), tf.constant(golden[f'truth_x{scale}'], tf.float32)
            outputs = network.outputs(x, scale)
            loss, errors = network.losses(outputs, hr)
            adam = tf.train.AdamOptimizer(1e-4)
            gradients, _ = Alone(device).gradients(adam, loss, network.variables, [])
            found = session.run([outputs, loss, errors, network.sr(x, scale), network.sr(x, scale, 'last'),
                                 network.sr(x, scale, 2), gradients])
            check_outputs(golden, scale, *found[:-1])
            check_gradients(golden, scale, {v.op.name: g for v, g in zip(network.variables, found[-1])})


def check_outputs(golden, scale, outputs, loss, errors, ensemble, last, second):
    for number, output in enumerate(outputs, 1):
        expected = golden[f'intermediate_x{scale}_{number}']
        np.testing.assert_allclose(output[0, rows(scale)], expected, rtol=0, atol=1e-3)
    assert len(outputs) == golden['size']['recursions']
    np.testing.assert_allclose(ensemble[0, rows(scale)], golden[f'ensemble_x{scale}'], rtol=0, atol=1e-3)
    np.testing.assert_allclose(last, outputs[-1], rtol=0, atol=1e-4)
    np.testing.assert_allclose(second, outputs[1], rtol=0, atol=1e-4)
    np.testing.assert_allclose(errors, golden[f'l1_x{scale}'], rtol=1e-5)
    np.testing.assert_allclose(loss, golden[f'loss_x{scale}'], rtol=1e-5)


def check_gradients(golden, scale, gradients):
    for name, gradient in gradients.items():
        norm = golden[f'grad_norm_x{scale}/{name}']
        np.testing.assert_allclose(np.linalg.norm(gradient), norm, rtol=1e-4, err_msg=name)
        if f'grad_x{scale}/{name}' in golden:
            np.testing.assert_allclose(gradient, golden[f'grad_x{scale}/{name}'], rtol=0, atol=1e-4 * max(norm, 1e-9))
    untouched = {name for name, gradient in gradients.items() if not gradient.any()}
    other = {name for name in gradients if '/x' in name and f'/x{scale}/' not in name}
    assert untouched == other  # zeros, so that Adam moves them on as the authors' does


@pytest.mark.parametrize('scales', PARAMETERS, ids=str)
def test_full_size_names_and_shapes(scales):
    weights = initial_weights(dict(RELEASED, scales=scales), np.random.default_rng(0))
    assert sum(value.size for value in weights.values()) == PARAMETERS[scales]
    table = json.loads((GOLDEN / 'checkpoint_variables.json').read_text())
    if len(scales) > 1:
        assert {name: list(value.shape) for name, value in weights.items()} == table['model_variables']
        assert PARAMETERS[scales] == table['parameters_model']
    assert size_of(weights) == dict(RELEASED, scales=scales)
    with tf.Graph().as_default():
        variables = BSRN(scales=scales).variables
    assert {v.op.name: tuple(v.shape.as_list()) for v in variables} == {n: v.shape for n, v in weights.items()}
    last = 'generator/last_conv/x2/conv2d/kernel' if len(scales) > 1 else 'generator/last_conv/conv2d/kernel'
    assert weights[last].shape == (3, 3, 64, 3)


def test_initial_weights():
    """As the authors draw them; one seed gives one network."""
    size = dict(RELEASED, scales=(2, 3))
    first = initial_weights(size, np.random.default_rng(3))
    for name, value in first.items():
        n_in, n_out = value.shape[2:] if value.ndim == 4 else (0, 0)
        if value.ndim == 1:
            assert not value.any()
        elif name.endswith(('residual_modules/conv2d/kernel', 'conv2d_1/kernel')):
            deviation = (1.3e-4 / (9 * n_in)) ** 0.5
            assert deviation == pytest.approx(3.359274e-4, rel=1e-5)
            assert 1.9 * deviation < np.abs(value).max() <= 2 * deviation
            assert value.std() == pytest.approx(0.8796 * deviation, rel=0.01)  # a normal cut at two deviations
        else:
            limit = (6 / (9 * (n_in + n_out))) ** 0.5
            assert 0.98 * limit < np.abs(value).max() <= limit
            assert value.std() == pytest.approx(limit / 3 ** 0.5, rel=0.05)
    again, other = (initial_weights(size, np.random.default_rng(seed)) for seed in (3, 4))
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert not np.array_equal(first['generator/first_conv/conv2d/kernel'], other['generator/first_conv/conv2d/kernel'])
    assert np.abs(first['generator/first_conv/conv2d/kernel']).max() == pytest.approx(0.09975, rel=0.01)


def evaluated(device, size, lr, *wanted):
    """For each wanted (scale, recursion) the picture that a network with random weights gives."""
    graph, network = on(device, size)
    with graph.as_default(), device.session(graph) as session:
        rng = np.random.default_rng(5)
        weights = initial_weights(size, rng)
        for name, value in weights.items():  # the block's own initial weights are almost nothing
            value[...] = 0.1 * rng.standard_normal(value.shape) if 'residual' in name else value
        assign(session, network.variables, weights)
        return session.run([network.sr(tf.constant(lr), scale, recursion) for scale, recursion in wanted])


def sized(**changed):
    return dict({'scales': (2,), 'conv_features': 8, 'state_features': 4, 'recursions': 4}, **changed)


LR = np.random.default_rng(1).uniform(0, 255, (2, 7, 5, 3)).astype(np.float32)


def test_recursion_frequency(device):
    """Every second pass gives an output; those equal the ones of a network in which each does."""
    every = evaluated(device, sized(), LR, (2, 2), (2, 4), (2, 'last'), (2, 3))
    second = evaluated(device, sized(recursion_frequency=2), LR, (2, 2), (2, 4), (2, 'last'), (2, 'ensemble'))
    for ours, theirs in zip(second[:3], every[:3]):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-3)
    assert np.abs(every[1] - every[3]).max() > 1
    np.testing.assert_allclose(second[3], (every[0] + 4 * every[1]) / 5, rtol=0, atol=1e-3)  # 2^2 and 2^4
    third = evaluated(device, sized(recursion_frequency=3), LR, (2, 'last'), (2, 'ensemble'))
    np.testing.assert_allclose(third[0], every[3], rtol=0, atol=1e-3)  # pass 4 is none of its outputs
    np.testing.assert_allclose(third[1], every[3], rtol=0, atol=1e-3)


def test_without_a_state(device):
    """state_features 0: as if the state's channels were cut away."""
    picture, = evaluated(device, sized(state_features=0), LR, (2, 'last'))
    assert picture.shape == (2, 14, 10, 3)
    weights = initial_weights(sized(state_features=0), np.random.default_rng(0))
    assert weights['generator/residual_modules/conv2d/kernel'].shape == (3, 3, 8, 8)
    assert size_of(weights) == {'scales': (2,), 'conv_features': 8, 'state_features': 0}


def test_all_scales(device):
    pictures = evaluated(device, sized(scales=(2, 3, 4, 8)), LR, *((scale, 'ensemble') for scale in (2, 3, 4, 8)))
    assert [picture.shape[1:3] for picture in pictures] == [(7 * scale, 5 * scale) for scale in (2, 3, 4, 8)]
    assert all(np.isfinite(picture).all() and picture.std() > 1 for picture in pictures)


def test_a_recursion_that_is_not_there():
    with tf.Graph().as_default(), pytest.raises(ValueError, match=r'recursion 3: expected one of \[2, 4\], ensemble'):
        BSRN(**sized(recursion_frequency=2)).sr(tf.constant(LR), 2, 3)


@pytest.mark.parametrize('changed, words', [
    ({'scales': (5,)}, r'scales \[5\]'), ({'scales': ()}, r'scales \[\]'), ({'scales': (2, 2)}, 'each once'),
    ({'conv_features': 0}, 'conv_features 0'), ({'state_features': -1}, 'state_features -1'),
    ({'recursions': 0}, 'of 0 recursions'), ({'recursion_frequency': 5}, 'recursion_frequency 5 of 4')])
def test_impossible_sizes(changed, words):
    with tf.Graph().as_default(), pytest.raises(ValueError, match=words):
        BSRN(**sized(**changed))


def test_what_is_no_bsrn_is_named():
    weights = initial_weights(sized(scales=(2, 3)), np.random.default_rng(0))
    lacking = {name: value for name, value in weights.items() if name != 'generator/upscale/x3/conv2d/bias'}
    with pytest.raises(ValueError, match='missing generator/upscale/x3/conv2d/bias; extra none'):
        size_of(lacking)
    with pytest.raises(ValueError, match='extra generator/more'):
        size_of(dict(weights, **{'generator/more': np.zeros(1)}))
    with pytest.raises(ValueError, match=r'conv2d/bias \(3,\) \(expected \(8,\)\)'):
        size_of(dict(weights, **{'generator/first_conv/conv2d/bias': np.zeros(3)}))
    with pytest.raises(ValueError, match='not a BSRN: expected generator/first_conv'):
        size_of({'conv1/weight': np.zeros(3)})


def options(*words):
    parser = argparse.ArgumentParser()
    add_size_options(parser.add_argument)
    parser.add_argument('--scales', type=scale_list, default='2,3,4')
    return parser.parse_args(words)


def test_size_on_the_command_line(capsys):
    size = size_from(options('--scales=4', '--bsrn_model_scales=2,3,4', '--bsrn_recursions=3', '--bsrn_rgb_mean=1,2,3'))
    assert size == {'scales': (2, 3, 4), 'conv_features': 64, 'state_features': 64, 'recursions': 3,
                    'recursion_frequency': 1, 'rgb_mean': (1, 2, 3)}
    assert size_from(options())['scales'] == (2, 3, 4)
    with pytest.raises(ValueError, match='x4 is not of --bsrn_model_scales 2,3'):
        size_from(options('--scales=4', '--bsrn_model_scales=2,3'))
    assert size_from(options('--bsrn_model_scales=-1'))['scales'] == (2, 3, 4)
    for wrong in ('--scales=2,2', '--scales=x', '--bsrn_model_scales=2,5', '--bsrn_rgb_mean=1,2',
                  '--bsrn_rgb_mean=1,2,inf'):
        with pytest.raises(SystemExit):
            options(wrong)
