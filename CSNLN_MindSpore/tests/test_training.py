"""train.py: what it learns, writes and records; first weights of other runs; mixed precision; losses that stop it."""
import json
import re
import shutil

import mindspore as ms
import numpy as np
import pytest
from conftest import BEST, LAST, TINY, flags, refused, state_of, tiny
from mindspore import Tensor

import train as program
import upscaler
from common import images
from common.logs import read_records
from common.ms.checkpoint import weights_of
from src import config, precision
from src.context import Device
from src.dataset import dataset


def test_training_learns_at_a_rate_that_is_halved(trained):
    records = read_records(trained / 'train.jsonl')
    assert [(r['epoch'], r['step'], r['learning_rate']) for r in records] == [
        ((step + 8) // 9, step, 4e-3 if step <= 18 else 2e-3) for step in range(1, 37)]
    losses = [r['loss'] for r in records]
    assert np.mean(losses[-5:]) < 0.6 * losses[0]


def test_records_checkpoints_and_pictures(trained, data):
    first = json.loads((trained / 'train.jsonl').read_text().splitlines()[0])
    assert first['kind'] == 'options' and first['batch_size'] == 4 and first['data_range'] == [[1, 800], [801, 810]]
    for r in read_records(trained / 'train.jsonl'):
        assert set(r) == {'kind', 'epoch', 'step', 'steps', 'learning_rate', 'loss', 'images/sec', 'data_wait', 'eta'}
    checks = read_records(trained / 'train.jsonl', 'validation')
    assert [(r['step'], r['dataset'], r['protocol']) for r in checks] == [
        (9 * k, *of) for k in range(1, 5) for of in (('Tiny', 'y/crop2'), ('DIV2K', 'rgb/crop8'))]
    assert all(5 < r['psnr'] < 60 and 0 < r['ssim'] < 1 for r in checks)
    last, best = state_of(trained / LAST), state_of(trained / BEST)
    psnr = [score[0] for score in last['progress']['scores']]
    assert len(psnr) == 4 and last['progress']['best'] == max(psnr) == best['progress']['best']
    assert last['progress']['step'] == 36 and best['progress']['step'] == 9 * (psnr.index(max(psnr)) + 1)
    assert (last['compat'], last['rgb_range']) == ('paper', 1)
    assert [state_of(trained / f'model_{epoch}.ckpt')['progress']['step'] for epoch in (3, 4)] == [27, 36]
    assert {path.name for path in trained.iterdir()} == {
        'train.jsonl', 'validation', LAST, 'model_latest.1.ckpt', BEST, 'model_best.1.ckpt', 'model_3.ckpt',
        'model_4.ckpt', 'CSNLN_bs4_1p_perf.log'} - ({'model_best.1.ckpt'} if psnr[0] == max(psnr) else set())
    sr = upscaler.load(trained / LAST)(images.read(
        data / 'benchmark' / 'Tiny' / 'LR_bicubic' / 'X2' / 'catx2.png', channels=3).astype(np.float32))
    assert np.array_equal(images.read(trained / 'validation' / 'Tiny' / 'cat_x2.png'), images.to_uint8(sr))
    summary = dict(line.split(' = ') for line in (trained / 'CSNLN_bs4_1p_perf.log').read_text().splitlines())
    assert (summary['Network'], summary['BatchSize'], summary['ValPSNR']) == ('CSNLN', '4', f'{max(psnr):.4f}')


def options(data, *words):
    return config.parse([*flags(**dict(TINY, data_path=data)), *words], '')


def test_adam_is_as_the_options_say(data):
    model, _ = program.build(options(data, '--beta1=0.8', '--beta2=0.9', '--epsilon=1e-4'), Device('cpu'), [])
    adam = model.adam
    assert [round(float(value.asnumpy()), 6) for value in (adam.beta1, adam.beta2, adam.eps)] == [0.8, 0.9, 1e-4]
    model.set_rate(3e-3)
    assert adam.learning_rate.asnumpy() == np.float32(3e-3)


def test_weights_of_other_runs(trained, data, tmp_path, capsys):
    """Of another scale and depth all is kept that has the same shape; of another width nothing can be."""
    def started(path, *words):
        chosen = options(data, '--pre_trained', f'--ckpt_file={path}', *words)
        return weights_of(program.build(chosen, Device('cpu'), [])[0].network)
    earlier = state_of(trained / LAST)
    same = started(trained / LAST)
    assert all(np.array_equal(value, earlier[name]) for name, value in same.items())
    assert f'start from {trained / LAST} (ours, x2, depth 1): all layers kept' in capsys.readouterr().out
    other = started(trained / LAST, '--scale=4', '--patch_size=24', '--depth=2')
    assert '(ours, x2, depth 1): all kept but SEM.down_sample_3, ' in capsys.readouterr().out
    kept = {name for name, value in other.items() if np.array_equal(value, earlier.get(name, 0))}
    fresh = {name for name in other if name not in kept}
    assert {'head.0.0.weight', 'SEM.error_encode.0.weight', 'tail.0.bias'} <= kept
    assert {'tail.0.weight', 'SEM.error_encode_2.0.weight', 'SEM.multi_source_projection_2.upsample.0.weight'} <= fresh
    for words, problem in ((('--n_feats=16',), 'n_feats 8 (here 16)'), (('--compat=port',), 'compat paper (here port)'),
                           (('--rgb_range=255',), 'rgb_range 1.0 (here 255.0)')):
        with pytest.raises(ValueError, match='cannot start from it, its network has ' + re.escape(problem)):
            started(trained / LAST, *words)


def test_the_options_of_upscaling_are_those_of_a_validation(data, capsys):
    pairs = dataset.test_sets(options(data, '--data_test=Tiny'))[0][1]
    for words, name in (((), 'y/crop2'), (('--chop',), 'y/crop2/chop')):
        _, measures = program.build(options(data, *words), Device('cpu'), pairs)
        assert measures('Tiny', 2)[0].name == name
    assert 'in parts' in capsys.readouterr().out


def test_half_precision(data):
    """Nearly the loss and the gradients of float32, but for the rounding to 11 bits."""
    lr, hr = dataset.open_sampler(options(data), Device('cpu'))[0].batch(0)
    found = []
    for level in ('O0', 'O2'):
        model, _ = program.build(options(data, f'--amp_level={level}'), Device('cpu'), [])
        loss, _ = model.step(Tensor(lr), Tensor(hr), Tensor(0, ms.float32))
        found.append((float(loss.asnumpy()), np.concatenate([m.asnumpy().ravel() for m in model.adam.moment1])))
        assert {parameter.dtype for parameter in model.network.get_parameters()} == {ms.float32}
    (loss, moment), (half, rounded) = found
    assert half == pytest.approx(loss, rel=2e-3) and half != loss
    assert 0 < np.linalg.norm(rounded - moment) < 0.02 * np.linalg.norm(moment)


def test_levels_of_precision(data):
    def layers(level):
        return precision.layers(options(data, f'--amp_level={level}'), Device('cpu'))
    half = [layers(level) for level in ('O1', 'O2', 'O3', 'auto')]
    assert all(isinstance(level.pointwise, precision.HalfConv) for level in half)
    products = [level.cross_scale.weigh.some.product for level in half]
    assert [isinstance(product, precision.HalfProduct) for product in products] == [False, True, True, True]
    assert not isinstance(layers('O0').pointwise, precision.HalfConv)


def test_losses_that_stop_a_training(train, trained, out, capsys):
    """One that explodes, and NaN: named, and never saved."""
    shutil.copytree(trained, out / 'X2')
    path = out / 'X2' / LAST
    sound = path.read_bytes()
    refused(capsys, train, 'the loss is', 'its running mean was', '--lr', train_steps=60, resume=True, lr=1e9,
            save_every=1)
    assert path.read_bytes() == sound
    network = tiny()
    network.head[0][0].weight.set_data(Tensor(np.full((8, 3, 3, 3), np.nan, np.float32)))
    ms.save_checkpoint(network, str(out / 'nan.ckpt'))
    refused(capsys, train, 'step 1:', 'nan', train_steps=3, save_every=1, pre_trained=True, ckpt_file=out / 'nan.ckpt')
    assert not (out / 'X2_2' / LAST).exists()


def test_test_only_measures(train, trained, out, capsys):
    assert not train(test_only=True, ckpt_file=trained / BEST, data_test='Tiny', n_feats=None, depth=None)
    said = capsys.readouterr().out
    assert f"psnr={state_of(trained / BEST)['progress']['best']:.2f}" in said and 'Mean psnr of Tiny x2 is ' in said
    refused(capsys, train, 'n_feats 8, not 16', test_only=True, ckpt_file=trained / BEST, data_test='Tiny', n_feats=16)


@pytest.mark.parametrize('given, words', [
    ({'resume': True}, ('no run with', 'X2')), ({'data_train': 'Flickr2K'}, ('Flickr2K',)),
    ({'patch_size': 4000}, ('0001', '2000')), ({'data_range': '700-750/801-900'}, ('700-750', 'empty')),
    ({'data_test': 'Set55'}, ('Set55', 'there are: Tiny')), ({'device': 'gpu'}, ('--device=gpu', '--device=cpu')),
    ({'pre_trained': True, 'ckpt_file': 'nowhere.ckpt'}, ('nowhere.ckpt',))],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else '')
def test_what_is_wrong_is_found_before_the_training(given, words, train, out, capsys):
    refused(capsys, train, *words, **dict({'train_steps': 2}, **given))
    assert not out.exists()
