"""Mode train: the mathematics of a step against numpy, what it writes and records, the values that it refuses."""
import json
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import SIZE, TINY, configure, initial_weights, refused, save, state_of, weights_of, words

from ascendcv.runner.sess_config import Device
from ascendvsr import config as configuration
from ascendvsr import learning
from ascendvsr.learning import Model, losses, next_scale, optimizer_of, tf
from ascendvsr.models import checkpoint as files
from ascendvsr.models.edvr import EDVR
from ascendvsr.models.layers import size_of
from ascendvsr.schedule import periods_of, rate_of, total_of
from common.logs import read_records
from common.tf.checkpoint import assign
from common.tf.ranks import Alone
from upscaler import load

GOLDEN = Path(__file__).parent / 'golden'
CPU = Device('cpu', kernels='auto')
LINE = (r'\d{4}-\d\d-\d\d \d\d:\d\d:\d\d Step:(\d+), lr:\d\.\d{8}, loss:\d+\.\d{8}, session time:\d+\.\d\dms, '
        r'session fps:\d+\.\d\d, device_id: 95 data_wait=\d+\.\d% eta=\d:\d\d:\d\d offset=\d+\.\d\d')
STEPS = 'solver__lr_schedule__total_steps'


def batch():
    """(lr, hr): noise, and bright pictures, so that gradients are not sums of what cancels."""
    return np.random.default_rng(0).integers(0, 128, (2, 3, 16, 16, 3)).astype(np.uint8), np.full(
        (2, 64, 64, 3), 200, np.uint8)


def model_of(device=CPU, weights=None, **keys):
    model = Model(configure(**dict(TINY, **keys)), SIZE, device, Alone(device))
    model.load(weights or weights_of()[0], 0)
    return model


@pytest.fixture(scope='module')
def of_the_port():
    """(sr, hr, {name: loss}) of a run of the released port."""
    with np.load(str(GOLDEN / 'port_small.npz')) as file:
        golden = {name: file[name] for name in file.files}
    weights = {name[4:]: value for name, value in golden.items() if name.startswith('var/')}
    with tf.Graph().as_default(), tf.Session() as session:
        network = EDVR(**dict(size_of(weights), compat='port', upsampling='bilinear'), conv=CPU.layers())
        assign(session, network.variables, weights)
        sr = session.run(network.sr(tf.constant(golden['input'])))
    return sr, golden['target'], {name[5:]: value for name, value in golden.items() if name.startswith('loss/')}


@pytest.mark.parametrize('kind, margin', [('l1', 0), ('l2', 0), ('charbonnier', 1e-6), ('marginal l1', 0.05)])
def test_losses_of_the_released_port(kind, margin, of_the_port):
    sr, hr, expected = of_the_port
    with tf.Graph().as_default(), tf.Session() as session:
        found = session.run(losses(tf.constant(sr), tf.constant(hr), kind, margin))
    assert found.shape == (2,) and found.dtype == np.float32
    name = kind.replace(' ', '_')
    np.testing.assert_allclose([found.mean(), found.sum()], [expected[f'{name}_mean'], expected[f'{name}_sum']],
                               rtol=1e-5)


def gradients_of(lr, hr):
    """A function from {name: weight} to {name: gradient} of the loss l2, mean, by a graph of its own."""
    with tf.Graph().as_default():
        network, session = EDVR(**SIZE, conv=CPU.layers()), tf.Session()
        sr = network.sr(tf.constant(lr / np.float32(255)))
        loss = tf.reduce_sum(tf.square(sr - tf.constant(hr / np.float32(255)))) / len(lr)
        gradients = dict(zip((v.op.name for v in network.variables), tf.gradients(loss, network.variables)))

    def at(weights):
        assign(session, network.variables, {name: value.astype(np.float32) for name, value in weights.items()})
        return session.run(gradients)
    return at


class Adam:
    """Adam in numpy, as TensorFlow has it: epsilon beside the uncorrected root."""

    def __init__(self, beta1, beta2, epsilon):
        self.beta1, self.beta2, self.epsilon, self.m, self.v, self.t = beta1, beta2, epsilon, 0, 0, 0

    def __call__(self, value, gradient, rate):
        self.t += 1
        self.m = self.beta1 * self.m + (1 - self.beta1) * gradient.astype(np.float64)
        self.v = self.beta2 * self.v + (1 - self.beta2) * gradient.astype(np.float64) ** 2
        rate *= (1 - self.beta2 ** self.t) ** 0.5 / (1 - self.beta1 ** self.t)
        return value - rate * self.m / (np.sqrt(self.v) + self.epsilon)


def test_steps_of_adam_with_tsa_first_and_a_running_mean():
    """Two steps train TSA alone, two all; what joins later has an Adam that begins then, as the authors' has."""
    keys = {'solver__tsa_steps': 2, 'solver__ema': 0.9, 'solver__optimizer__beta2': 0.99,
            'solver__optimizer__epsilon': 0.01}
    lr, hr = batch()
    gradients_at = gradients_of(lr, hr)
    with model_of(**keys) as model:
        arrays = model.arrays()
        adams = {name: Adam(0.9, 0.99, 0.01) for name in files.weights_of(arrays)}
        for step in (1, 2, 3, 4):
            before, rate = arrays, 1e-3 / step
            gradients = gradients_at(before)
            model.train(lr, hr, rate, step <= 2)
            arrays = model.arrays()
            for name, adam in adams.items():
                value = before[name]
                if step > 2 or name.startswith('G/tsa_fusion/'):
                    value = adam(value, gradients[name], rate)
                    moved = np.abs(value - before[name]).max()
                    assert moved > 1e-6, name
                    np.testing.assert_allclose(arrays[name], value, rtol=0, atol=0.01 * moved + 5e-8, err_msg=name)
                assert step > 2 or name.startswith('G/tsa_fusion/') or np.array_equal(arrays[name], value), name
                np.testing.assert_allclose(arrays[name + files.MEAN], 0.9 * before[name + files.MEAN] + 0.1 * arrays[
                    name], rtol=1e-5, atol=1e-8, err_msg=name)
        with model.averaged():
            assert np.array_equal(model.session.run(model.network.variables[0]),
                                  arrays['G/extraction/conv_first/kernel' + files.MEAN])
        again = model.arrays()
    assert all(np.array_equal(again[name], value) for name, value in arrays.items())


def test_momentum():
    options = configure(solver__optimizer__type='Momentum', solver__optimizer__momentum=0.5).solver.optimizer
    with tf.Graph().as_default(), tf.Session() as session:
        x = tf.get_variable('x', initializer=tf.constant([2.0, -1.0]))
        step = optimizer_of(options, tf.constant(0.1)).minimize(tf.reduce_sum(tf.square(x)))
        session.run(tf.global_variables_initializer())
        value, moment = np.array([2.0, -1.0]), 0
        for _ in range(3):
            session.run(step)
            moment = 0.5 * moment + 2 * value
            value = value - 0.1 * moment
        np.testing.assert_allclose(session.run(x), value, rtol=1e-5)


def test_learning_rates():
    config = configure()
    periods, schedule = periods_of(config, 7), config.solver.lr_schedule
    assert total_of(periods) == 600000
    for step, rate in ((0, 4e-4), (75000, 2.0005e-4), (149999, 1.0000004e-7), (150000, 2e-4), (599999, 0.5e-7)):
        assert rate_of(schedule, periods, step) == pytest.approx(rate, rel=1e-6)
    assert periods_of(configure(solver__train_epochs=3), 7) == [(21, 1.0)]
    assert periods_of(configure(solver__lr_schedule__type='Cosine', solver__lr_schedule__total_steps='4,6'), 7) == [
        (10, 1.0)]
    assert periods_of(configure(solver__lr_schedule__total_steps=9), 7) == [(9, 1.0)]
    for keys, words_ in (({'restart_weights': '1,1'}, 'a factor for each of the 4 periods'),
                         ({'total_steps': '10,0'}, 'whole numbers of steps'), ({'min_lr': 1}, 'min_lr 1'),
                         ({'base_lr': 0}, 'base_lr 0')):
        with pytest.raises(ValueError, match=words_):
            periods_of(configure(**{f'solver__lr_schedule__{key}': value for key, value in keys.items()}), 7)


def test_a_dynamic_scale_grows_and_shrinks(monkeypatch):
    monkeypatch.setattr(learning, 'GROW_AFTER', 3)
    with tf.Graph().as_default(), tf.Session() as session:
        state, finite = tf.placeholder(tf.float32, [3]), tf.placeholder(tf.bool, [])
        following, scales, now = next_scale(state, finite), [], [16, 0, 0]
        for good in (True, True, True, True, False, True, False, False, False, False, True):
            now = session.run(following, {state: now, finite: good}).tolist()
            scales.append(now[0])
        assert scales == [16, 16, 32, 32, 32, 32, 32, 16, 16, 8, 8] and now == [8, 1, 0]
        assert session.run(following, {state: [1, 0, 1], finite: False}).tolist() == [1, 0, 0]


class Half(Device):
    half_gradients = True


@pytest.mark.parametrize('word, scale', [('d', 2.0 ** 32), ('fx7', 128.0)])
def test_a_scaled_loss_trains_as_one_that_is_not(word, scale):
    lr, hr = batch()
    with model_of() as plain, model_of(Half('cpu', kernels='auto'), solver__loss_scale=word) as scaled:
        found = [model.train(lr, hr, 1e-3)[:2] for _ in range(2) for model in (plain, scaled)]
        np.testing.assert_allclose(found[::2], found[1::2], rtol=1e-5)
        arrays = [model.arrays() for model in (plain, scaled)]
    assert arrays[1].pop('loss_scale').tolist() == [scale, 2 * (word == 'd'), 0] and set(arrays[0]) == set(arrays[1])
    for name, value in arrays[0].items():
        np.testing.assert_allclose(arrays[1][name], value, rtol=1e-3, atol=1e-6, err_msg=name)


def test_a_step_whose_scaled_gradients_overflow_is_left_out(capsys):
    lr, hr = batch()
    weights = dict(weights_of()[0], loss_scale=np.array([1e38, 0, 0], np.float32))
    with model_of(Half('cpu', kernels='auto'), weights, solver__loss_scale='d') as model:
        before = model.arrays()
        assert np.isfinite(model.train(lr, hr, 1e-3)[0]) and np.isfinite(model.train(lr, hr, 1e-3)[0])
        after = model.arrays()
    assert after.pop('loss_scale') == pytest.approx([0.5e38, 0, 0])
    assert all(np.array_equal(before[name], value) for name, value in after.items())
    assert learning.first_scale('d', False) is None and learning.first_scale('off', True) is None
    assert 'solver.loss_scale d is left out: gradients are of 32 bits here' in capsys.readouterr().out
    for word in ('x', 'fx33', 'f'):
        with pytest.raises(ValueError, match=f'solver.loss_scale {word}: expected off, d'):
            learning.first_scale(word, True)


@pytest.mark.parametrize('word, scale', [('fx7', 1e38), ('d', 1.0)])
def test_gradients_that_no_smaller_scale_can_mend(word, scale):
    lr, hr = batch()
    weights = dict(weights_of()[0], loss_scale=np.array([scale, 0, 0], np.float32))
    if scale == 1:
        weights['G/reconstruction/conv_last/kernel'] = weights['G/reconstruction/conv_last/kernel'] + np.float32(1e38)
    with model_of(Half('cpu', kernels='auto'), weights, solver__loss_scale=word) as model:
        assert np.isnan(model.train(lr, hr, 1e-3)[0])


def test_records_checkpoints_and_pictures(train, reds, out, tmp_path, capsys):
    (out / 'edvr').mkdir(parents=True)
    (out / 'edvr' / 'notes.txt').write_text('of the user')
    keys = {STEPS: 8, 'solver__eval_interval': 4, 'solver__eval_frames': 2, 'solver__checkpoint_interval': 3,
            'solver__checkpoint_keep': 3, 'solver__print_interval': 4, 'solver__summary_interval': 4,
            'solver__case': 'perf', 'solver__summary_dir': tmp_path / 'sum', 'solver__ema': 0.5}
    assert train(**keys) == 0
    said, run = capsys.readouterr().out, out / 'edvr'
    assert sorted(path.stem for path in run.glob('EDVR-*.index')) == ['EDVR-4', 'EDVR-6', 'EDVR-8', 'EDVR-best']
    assert not list(run.glob('.*')) and (run / 'notes.txt').exists()
    assert 'model_checkpoint_path: "EDVR-8"' in (run / 'checkpoint').read_text()
    assert configuration.as_dict(configuration.read(str(run / 'configure_train.yaml'))) == configuration.as_dict(
        configure(**dict(TINY, data__data_dir=reds, output_dir=run, **keys)))
    check_records(run / 'train.jsonl')
    last, best = (state_of(run / f'EDVR-{name}')['progress'] for name in ('8', 'best'))
    assert len(last['scores']) == 2 and last['best'] == max(psnr for psnr, _ in last['scores']) == best['best']
    mean = json.loads((run / 'validation' / 'metrics.json').read_text())['mean']['rgb/crop0']
    assert last['scores'][-1] == [mean['psnr'], mean['ssim']]
    check_running_mean(run / 'EDVR-8')
    check_said(said)
    text = (tmp_path / 'sum' / 'EDVR_ID0056_for_TensorFlow_bs2_1p_perf.log').read_text()
    assert text.startswith('Network = EDVR_ID0056_for_TensorFlow\nRankSize = 1\nBatchSize = 2\n')
    for key in ('DeviceType', 'CaseName', 'ActualFPS', 'TrainingTime', 'ActualLoss', 'E2ETrainingTime'):
        assert f'\n{key} = ' in text
    check_events(run / 'events')


def check_records(path):
    first = json.loads(path.read_text().splitlines()[0])
    assert first['kind'] == 'options' and first['data.train_batch_size'] == 2 and first['world_size'] == 1
    steps = read_records(path)
    assert [r['step'] for r in steps] == [4, 8]
    for r in steps:
        assert set(r) == {'kind', 'step', 'steps', 'learning_rate', 'loss', 'images/sec', 'data_wait', 'eta', 'offset'}
        assert r['steps'] == 8 and r['loss'] > 0 and 0 <= r['data_wait'] <= 1 and r['offset'] >= 0
    assert [r['step'] for r in read_records(path, 'validation')] == [4, 8]


def check_running_mean(prefix):
    """Who loads a checkpoint of a training with a running mean gets that."""
    arrays = state_of(prefix)['arrays']
    name = 'G/reconstruction/conv_last/kernel'
    assert not np.array_equal(arrays[name], arrays[name + files.MEAN])
    frames = np.random.default_rng(1).uniform(0, 255, (3, 8, 8, 3)).astype(np.float32)
    means = {name: arrays[name + files.MEAN] for name in files.weights_of(arrays)}
    files.write(prefix.parent / 'means', means, {'size': SIZE})
    np.testing.assert_allclose(load(prefix)(frames), load(prefix.parent / 'means')(frames), atol=1e-4)


def check_said(said):
    assert 'data: 2 clips, 10 windows of 3 frames, 5 steps in an epoch' in said
    assert 'EDVR x4, 3 frames, 8 channels, 1 + 1 blocks, with TSA, compat paper, ' in said
    lines = [line for line in said.splitlines() if ' Step:' in line]
    assert [re.fullmatch(LINE, line).group(1) for line in lines] == ['4', '8'], lines
    block = said[said.index('------------------ Final result ------------------'):]
    for label in ('Final Performance images/sec', 'Final Performance sec/step', 'E2E Training Duration sec',
                  'Final Train Accuracy', 'Final SSIM', 'Final loss'):
        assert f'\n{label} : ' in block


def check_events(folder):
    path, = folder.iterdir()
    found = {(event.step, value.tag): value for event in tf.train.summary_iterator(str(path))
             for value in event.summary.value}
    assert {step for step, _ in found} == {4, 8}
    tags = {tag for step, tag in found if step == 8}
    assert tags == {'loss', 'learning_rate', 'offset', *(f'{name}/image/{k}' for name in ('lr', 'sr', 'hr')
                                                         for k in (0, 1))}
    pictures = {name: cv2.imdecode(np.frombuffer(found[8, f'{name}/image/1'].image.encoded_image_string, np.uint8), 1)
                for name in ('lr', 'sr', 'hr')}
    assert [picture.shape for picture in pictures.values()] == [(16, 16, 3), (64, 64, 3), (64, 64, 3)]
    assert np.abs(pictures['sr'].astype(float) - pictures['hr']).mean() < 20


def test_stage_two_begins_with_a_network_without_tsa(train, out, tmp_path, capsys):
    stage_one = save(tmp_path / 'stage 1', with_tsa=False)
    assert train(**{STEPS: 1, 'checkpoint': stage_one, 'solver__lr_schedule__base_lr': 1e-9, 'solver__tsa_steps': 1,
                    'solver__lr_schedule__min_lr': 0}) == 0
    assert 'it has no TSA, which begins with first values: G/tsa_fusion/' in capsys.readouterr().out
    arrays = files.weights_of(state_of(out / 'edvr' / 'EDVR-1')['arrays'])
    before, first = weights_of(with_tsa=False)[0], initial_weights(SIZE, np.random.default_rng(20210126))
    for name, value in arrays.items():
        np.testing.assert_allclose(value, before.get(name, first[name]), rtol=0, atol=1e-7, err_msg=name)
    other = save(tmp_path / 'other', num_blocks_extraction=2)
    refused(capsys, train, str(other), 'num_blocks_extraction 2, not 1', **{STEPS: 1, 'checkpoint': other})
    refused(capsys, train, 'with_tsa True, not False', checkpoint=save(tmp_path / 'tsa'), edvr__with_tsa=False)
    assert not (out / 'edvr_2').exists()


@pytest.mark.parametrize('key, value, said', [
    ('rank_size', 8, 'rank_size 8, but the environment starts 1'), ('solver__ema', 1.0, 'solver.ema 1.0'),
    ('data__train_batch_size', 0, 'data.train_batch_size 0: expected 1 or more'),
    ('data__train_in_size', '16', 'data.train_in_size [16]: expected height,width'),
    ('data__train_in_size', '16,2.5', 'expected whole numbers'), ('edvr__loss_type', 'l3', "'l3': expected"),
    ('data__noise__std', -1, 'data.noise.std -1'), ('data__train_in_size', '64,64', 'smaller than the crop 64x64'),
    ('data__eval_set', 'Vid4', "no set of clips 'Vid4'"), ('edvr__num_deform_groups', 3, 'num_deform_groups 3'),
    ('edvr__impl', 'npu', 'edvr.impl npu'), ('solver__loss_scale', 'fx200', 'solver.loss_scale fx200'),
    ('model__num_frames', 4, 'model.num_frames 4: expected an odd number'),
    ('checkpoint', '/nowhere/EDVR-1', '/nowhere/EDVR-1')])
def test_values_that_cannot_be(key, value, said, train, out, capsys):
    refused(capsys, train, said, **{'solver__eval_interval': 9, key: value})
    assert not out.exists()


def test_a_margin_that_cannot_be(train, capsys):
    refused(capsys, train, 'edvr.loss_margin 0', edvr__loss_type='charbonnier', edvr__loss_margin=0)


def test_words_of_a_command_line():
    assert words({'a__b': [1, 2], 'c.d': None, 'e': True}) == ['a.b', '[1, 2]', 'e', 'True']


def test_tsa_alone_needs_tsa(train, out, capsys):
    refused(capsys, train, 'solver.tsa_steps 5: edvr.with_tsa is False', solver__tsa_steps=5, edvr__with_tsa=False)
    assert not out.exists()
