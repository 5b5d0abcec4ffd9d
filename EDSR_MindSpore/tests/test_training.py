"""train.py: what it learns, writes and records; warm starts; the options and pictures that it refuses."""
import json

import mindspore as ms
import numpy as np
import pytest
from conftest import BEST, LAST, refused, state_of, tiny
from mindspore import Tensor, nn

import train as program
import upscaler
from common import images
from common.logs import read_records
from common.ms.checkpoint import weights_of
from common.ms.runs import Loss, TrainStep
from common.ms.training import Model

ADAM = ('moment1.', 'moment2.')


def weights_in(path):
    return {name: value for name, value in state_of(path).items() if '.' in name and not name.startswith(ADAM)}


def test_a_x2_network_starts_x4(train, out, capsys):
    train(train_steps=5, lr=1e-2)
    trained = weights_in(out / 'X2' / LAST)
    assert train(train_steps=1, scale='2+4', task_id=1, lr=1e-12, ckpt_path=out / 'X2' / LAST) == 0
    assert '(ours, x2, res_scale 1): all kept but the tail, which is new for x4' in capsys.readouterr().out
    tuned = weights_in(out / 'X4' / LAST)
    for name, value in tuned.items():
        if not name.startswith('tail.'):
            assert np.allclose(value, trained[name], rtol=0, atol=1e-9), name
    for name in ('tail.0.0.weight', 'tail.1.weight'):
        assert not np.allclose(tuned[name], trained[name], rtol=0, atol=1e-3)
    assert 'tail.0.2.weight' in tuned and state_of(out / 'X4' / LAST)['progress']['step'] == 1
    refused(capsys, train, 'cannot start from it', 'n_resblocks 1 (here 2)', n_resblocks=2, train_steps=1,
            ckpt_path=out / 'X2' / LAST)
    refused(capsys, train, 'res_scale 1, not 0.1', res_scale=0.1, train_steps=1, ckpt_path=out / 'X2' / LAST)
    assert sorted(path.name for path in out.iterdir()) == ['X2', 'X4']


def test_a_checkpoint_says_its_res_scale(train, out, tmp_path, capsys):
    """With --ckpt_path and --resume it need not be given: one of ours tells it, for others the authors' rule holds."""
    train(train_steps=1, res_scale=0.25)
    train(train_steps=1, res_scale=None, ckpt_path=out / 'X2' / LAST)
    assert '(ours, x2, res_scale 0.25): all layers kept' in capsys.readouterr().out
    assert train(train_steps=2, res_scale=None, resume=True) == 0
    state = state_of(out / 'X2_2' / LAST)
    assert state['progress']['step'] == 2 and state['options']['res_scale'] == state['res_scale'] == 0.25
    ms.save_checkpoint(tiny(), str(tmp_path / 'authors.ckpt'))
    train(train_steps=1, res_scale=None, ckpt_path=tmp_path / 'authors.ckpt')
    said = capsys.readouterr().out
    assert 'does not say its res_scale; 1 is taken' in said and '(authors, x2, res_scale 1): all layers kept' in said
    assert state_of(out / 'X2_3' / LAST)['res_scale'] == 1


def test_a_checkpoint_of_the_port_starts_a_training(train, out, tmp_path, capsys):
    """Its upsampler's channels have another order: c*4 + t of ours is t*8 + c there."""
    weights = weights_of(tiny())
    flat = {'tail.0.0': 'tail.0', 'tail.1': 'tail.2'}
    values = []
    for name, value in weights.items():
        if name.startswith('tail.0.0.'):
            value = value.reshape(8, 4, *value.shape[1:]).swapaxes(0, 1).reshape(value.shape)
        layer, kind = name.rsplit('.', 1)
        values.append({'name': f'{flat.get(layer, layer)}.{kind}', 'data': Tensor(value)})
    ms.save_checkpoint(values, str(tmp_path / 'port.ckpt'))
    assert train(lr=1e-12, ckpt_path=tmp_path / 'port.ckpt', train_steps=1) == 0
    assert '(port, x2, res_scale 1): all layers kept' in capsys.readouterr().out
    tuned = weights_in(out / 'X2' / LAST)
    assert all(np.allclose(tuned[name], value, rtol=0, atol=1e-9) for name, value in weights.items())


@pytest.mark.parametrize('options, words', [
    ({'n_resblock': 8}, ('unknown option --n_resblock', 'did you mean --n_resblocks?')),
    ({'n_res': 8}, ('unknown option --n_res',)), ({'resume': True}, ('no run with', 'X2')),
    ({'lr': 'inf'}, ('--lr',)), ({'lr': -1}, ('--lr -1',)), ({'seed': 2 ** 64}, ('--seed',)),
    ({'batch_size': 0}, ('--batch_size 0',)), ({'train_steps': -3}, ('--train_steps -3',)),
    ({'scale': 5}, ('5', '2, 3, 4')), ({'scale': '2+x'}, ('2+x',)), ({'task_id': 1}, ('--task_id 1', '--scale')),
    ({'tile': -1}, ('--tile -1', '0 or more')), ({'data_test': 'Tiny+tiny'}, ('Tiny+tiny', 'twice')),
    ({'patch_size': 25}, ('--patch_size 25', 'HR', 'multiple of --scale 2')), ({'patch_size': 4000}, ('0001', '2000')),
    ({'n_colors': 1}, ('--n_colors 1', 'RGB')), ({'model': 'RCAN'}, ('RCAN', 'EDSR')),
    ({'data_range': '800'}, ('800', '1-800/801-900')), ({'data_range': '9-3'}, ('9-3', 'smaller one first')),
    ({'data_range': '0-3'}, ('0-3', '1 to 900')), ({'data_range': '700-750/801-900'}, ('700-750', 'empty')),
    ({'data_train': ''}, ('--data_train',)), ({'data_train': 'Flickr2K'}, ('Flickr2K',)),
    ({'data_test': 'Set55'}, ('Set55', 'there are: Tiny')),
    ({'device': 'tpu'}, ('tpu', 'npu')), ({'kernels': 'native', 'amp_level': 'O1'}, ('--kernels=native', 'O1')),
    ({'amp_level': 'O4'}, ('O4', 'auto')), ({'ext': 'bin'}, ('bin', 'sep_reset')),
    ({'test_only': True}, ('--test_only', '--ckpt_path')), ({'ckpt_path': 'nowhere.ckpt'}, ('nowhere.ckpt',))],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else '')
def test_impossible_options(options, words, train, out, capsys):
    refused(capsys, train, *words, **dict({'train_steps': 2}, **options))
    assert not out.exists()


def test_missing_data_lists_the_places(train, tmp_path, out, capsys):
    (tmp_path / 'empty').mkdir()
    refused(capsys, train, str(tmp_path / 'empty'), 'DIV2K_train_HR', dir_data=tmp_path / 'empty')
    with pytest.raises(SystemExit):
        program.main(['--epochs=1'])
    assert '--dir_data' in capsys.readouterr().err and not out.exists()


def test_learning_rate_is_halved_after_exactly_so_many_epochs(train, out, monkeypatch):
    set_rate, rates = Model.set_rate, []

    def watched(model, rate):
        set_rate(model, rate)
        rates.append(float(model.adam.learning_rate.asnumpy()))
    monkeypatch.setattr(Model, 'set_rate', watched)
    train(epochs=5, batch_size=3, test_every=2, lr_halve_epochs=2, lr=8e-4)
    assert rates == pytest.approx([8e-4] * 4 + [4e-4] * 4 + [2e-4] * 2)
    records = read_records(out / 'X2' / 'train.jsonl')
    assert [(r['epoch'], r['step'], r['learning_rate']) for r in records] == [
        ((step + 1) // 2, step, rate) for step, rate in zip(range(1, 11), [8e-4] * 4 + [4e-4] * 4 + [2e-4] * 2)]


def test_records_checkpoints_and_pictures(train, data, out, tmp_path, capsys):
    (out / 'X2').mkdir(parents=True)
    for name in ('notes.txt', 'edsr-1_5.ckpt', 'edsr-0_9.ckpt'):
        (out / 'X2' / name).write_text('of the user')
    train(epochs=4, data_test='DIV2K+Tiny', log_every=4, lr=1e-3, ckpt_save_interval=1, ckpt_save_max=2, case='perf',
          summary_dir=tmp_path / 'sum')
    said = capsys.readouterr().out
    check_records(out / 'X2' / 'train.jsonl')
    last, best = state_of(out / 'X2' / LAST), state_of(out / 'X2' / BEST)
    psnr = [score[0] for score in last['progress']['scores']]
    assert len(psnr) == 4 and last['progress']['best'] == max(psnr) == best['progress']['best']
    assert last['progress']['step'] == 36 and best['progress']['step'] == 9 * (psnr.index(max(psnr)) + 1)
    metrics = json.loads((out / 'X2' / 'validation' / 'DIV2K' / 'metrics.json').read_text())
    assert metrics['mean']['rgb/crop8']['psnr'] == psnr[-1]
    sr = upscaler.load(out / 'X2' / LAST, kernels='builtin')(images.read(
        data / 'DIV2K' / 'DIV2K_valid_LR_bicubic' / 'X2' / '0801x2.png', channels=3).astype(np.float32))
    assert np.array_equal(images.read(out / 'X2' / 'validation' / 'DIV2K' / '0801_x2.png'), images.to_uint8(sr))
    names = {path.name for path in (out / 'X2').iterdir()}
    assert names == {'train.jsonl', 'validation', LAST, 'edsr_last.1.ckpt', BEST, 'edsr_best.1.ckpt', 'notes.txt',
                     'edsr-1_5.ckpt', 'edsr-0_9.ckpt', 'edsr-3_9.ckpt', 'edsr-4_9.ckpt'}
    assert (out / 'X2' / LAST).stat().st_mode & 0o444 == 0o444
    assert state_of(out / 'X2' / 'edsr-3_9.ckpt')['progress']['step'] == 27
    check_summary(tmp_path / 'sum' / 'EDSR_bs4_1p_perf.log', said)
    assert f'Final Val PSNR : {max(psnr):.4f}' in said and 'protocol=rgb/crop8' in said and 'protocol=y/crop2' in said


def test_a_summary_that_cannot_be_written_is_an_error_before_the_training(train, out, tmp_path, capsys):
    (tmp_path / 'file').touch()
    refused(capsys, train, 'file', train_steps=1, summary_dir=tmp_path / 'file' / 'sum')
    assert not out.exists()


def check_records(path):
    first = json.loads(path.read_text().splitlines()[0])
    assert first['kind'] == 'options' and first['batch_size'] == 4 and first['data_range'] == [[1, 800], [801, 900]]
    steps = read_records(path)
    assert [r['step'] for r in steps] == [*range(4, 37, 4)]
    for r in steps:
        assert set(r) == {'kind', 'epoch', 'step', 'steps', 'learning_rate', 'loss', 'images/sec', 'data_wait', 'eta'}
        assert r['steps'] == 36 and r['epoch'] == (r['step'] - 1) // 9 + 1
        assert 0 < r['loss'] < 256 and r['images/sec'] > 0 and 0 <= r['data_wait'] <= 1
    checks = read_records(path, 'validation')
    assert [(r['step'], r['dataset'], r['protocol']) for r in checks] == [
        (9 * k, *of) for k in range(1, 5) for of in (('DIV2K', 'rgb/crop8'), ('Tiny', 'y/crop2'))]
    assert all(5 < r['psnr'] < 60 for r in checks)


def check_summary(path, said):
    fields = dict(line.split(' = ') for line in path.read_text().splitlines())
    assert list(fields) == ['Network', 'RankSize', 'BatchSize', 'DeviceType', 'CaseName', 'ActualFPS', 'TrainingTime',
                            'ValPSNR', 'ActualLoss', 'E2ETrainingTime']
    assert (fields['Network'], fields['RankSize'], fields['BatchSize']) == ('EDSR', '1', '4')
    assert fields['CaseName'] == 'EDSR_bs4_1p_perf' and float(fields['ActualFPS']) > 0
    assert float(fields['ActualFPS']) * float(fields['TrainingTime']) == pytest.approx(4, rel=0.1)
    for label in ('Final Performance images/sec : ', 'Final Train Accuracy : ', 'E2E Training Duration sec : ',
                  'Time for one epoch : ', 'Final Val PSNR : ', 'Final loss : '):
        assert label in said


def test_training_learns(train, out):
    train(train_steps=150, lr=3e-3)
    losses = [r['loss'] for r in read_records(out / 'X2' / 'train.jsonl')]
    assert np.mean(losses[-20:]) < 0.6 * np.mean(losses[:5])


def test_seed_workers_and_stores(train, out):
    """The weights follow from the seed alone, however the patches are made."""
    for options in ({}, {'ext': 'img', 'workers': 3}, {'ext': 'sep_reset'}, {'seed': 5}, {'no_augment': True}):
        train(train_steps=3, **options)
    first, *same, seed, plain = (weights_in(out / name / LAST)['head.0.weight']
                                 for name in ('X2', 'X2_2', 'X2_3', 'X2_4', 'X2_5'))
    assert all(np.array_equal(first, other) for other in same)
    assert not np.array_equal(first, seed) and not np.array_equal(first, plain)


def test_mixed_precision(train, out):
    """Nearly the losses of O0, but for the rounding to 11 bits; the loss is scaled, and the gradients are not."""
    for level in ('O0', 'O1', 'O2', 'O3', 'auto'):
        train(train_steps=3, amp_level=level)
    expected, *states = (state_of(out / name / LAST) for name in ('X2', 'X2_2', 'X2_3', 'X2_4', 'X2_5'))
    for name, half in zip(('X2_2', 'X2_3', 'X2_4', 'X2_5'), states):
        losses = [[r['loss'] for r in read_records(out / run / 'train.jsonl')] for run in ('X2', name)]
        assert losses[1] == pytest.approx(losses[0], rel=2e-3) and losses[1] != losses[0], name
        assert all(value.dtype == np.float32 for key, value in half.items() if '.' in key)
        moment = expected['moment1.head.0.weight']
        assert np.abs(half['moment1.head.0.weight'] - moment).max() < 0.02 * np.abs(moment).max(), name


def test_the_loss_is_really_scaled(train, out):
    """By 2^-20 the gradients become too small for float16, and by O0 nothing is scaled."""
    for options in ({'amp_level': 'O3', 'loss_scale': 2.0 ** -20}, {'loss_scale': 2.0 ** -20}):
        train(train_steps=1, **options)
    half, full = (state_of(out / name / LAST)['moment1.head.0.weight'] for name in ('X2', 'X2_2'))
    assert not half.any() and full.all()


def test_the_loss_is_the_mean_error_in_the_networks_range(data):
    network = tiny(rgb_range=2.0)
    rng = np.random.default_rng(0)
    lr, hr = (rng.integers(0, 256, (2, side, side, 3), dtype=np.uint8) for side in (7, 14))
    hr[1] = 0
    loss = float(Loss(network)(Tensor(lr), Tensor(hr)).asnumpy())
    planes = [Tensor(np.float32(patch.transpose(2, 0, 1)[None] * (2 / 255))) for patch in lr]
    sr = [network(x).asnumpy()[0].transpose(1, 2, 0) for x in planes]
    assert loss == pytest.approx(np.mean([np.abs(a - b * (2 / 255)).mean() for a, b in zip(sr, hr)]), rel=1e-5)


def test_adam_over_the_mean_of_the_ranks():
    """Gradients, loss and the wish to stop go through the all-reduce, before Adam sees the gradients."""
    class Double(nn.Cell):
        def construct(self, tensors):
            doubled = ()
            for tensor in tensors:
                doubled += (2 * tensor,)
            return doubled
    found = []
    lr, hr = (Tensor(np.full((1, side, side, 3), 99, np.uint8)) for side in (6, 12))
    for average in (None, Double()):
        network = tiny()
        adam = nn.Adam(network.trainable_params(), 1e-3)
        returned = TrainStep(Loss(network), adam, average, 1.0)(lr, hr, Tensor(15, ms.float32))
        found.append([tensor.asnumpy() for tensor in (adam.moment1[0], *returned)])
    for one, two in zip(*found):
        assert np.allclose(2 * one, two, rtol=1e-6) and one.any()


def test_test_only(train, out, checkpoint, capsys):
    assert not train(test_only=True, ckpt_path=checkpoint, data_test='DIV2K+tiny', data_range='1-2', n_resblocks=32)
    said = capsys.readouterr().out
    assert [line.split()[0] for line in said.splitlines() if 'protocol=' in line and not line.startswith('model')] == [
        'dataset=DIV2K', 'dataset=DIV2K', 'dataset=tiny']
    assert sorted(path.name for path in out.rglob('*.png')) == ['0001_x2.png', '0002_x2.png', 'cat_x2.png']
    metrics = json.loads((out / 'X2_test' / 'tiny' / 'metrics.json').read_text())
    assert metrics['mean']['y/crop2']['psnr'] > 20  # near to an enlargement by repeated pixels
    refused(capsys, train, '--test_only', '--data_test', test_only=True, ckpt_path=checkpoint)
    refused(capsys, train, 'scale 2, not 4', test_only=True, ckpt_path=checkpoint, data_test='tiny', scale=4)


def test_test_only_goes_by_the_checkpoint_and_what_is_given(train, out, tmp_path, data):
    ms.save_checkpoint(tiny(3), str(tmp_path / 'x3.ckpt'))
    train(test_only=True, ckpt_path=tmp_path / 'x3.ckpt', data_test='tiny', res_scale=0.5, tile=7)
    lr = images.read(data / 'benchmark' / 'Tiny' / 'LR_bicubic' / 'X3' / 'catx3.png', channels=3).astype(np.float32)
    found = images.read(out / 'X3_test' / 'tiny' / 'cat_x3.png').astype(int)
    for res_scale, same in ((0.5, True), (1.0, False)):
        sr = images.to_uint8(upscaler.load(tmp_path / 'x3.ckpt', res_scale=res_scale, kernels='builtin')(lr))
        assert (np.abs(found - sr).max() <= 1) == same


def test_validation_upscales_tiles(train, monkeypatch):
    upscale, shapes = upscaler.Upscaler.__call__, []

    def watched(self, lr):
        shapes.append(lr.shape)
        return upscale(self, lr)
    monkeypatch.setattr(upscaler.Upscaler, '__call__', watched)
    halo = tiny().halo
    train(train_steps=1, data_test='tiny', tile=16)
    assert len(shapes) == 9 and {max(shape) for shape in shapes} == {16 + 2 * halo}  # 48 x 48 pixels
