"""main.py: what it learns, writes and records; fine-tuning; the options and pictures that it refuses."""
import json
import shutil

import numpy as np
import pytest
import torch
from conftest import BEST, LAST, SIZE, TINY, python, refused, state_of, tiny

import main
import training
import upscaler
from common import images
from common.logs import read_records


def test_fine_tuning_at_another_scale_keeps_all_but_the_upsampler(train, out, capsys):
    train(train_steps=5, lr=1e-2)
    trained = state_of(out / 'X2' / LAST)['model']
    assert train(train_steps=1, scale=4, lr=1e-12, iffinetuning=True,
                 finetuning_checkpoint_path=out / 'X2' / LAST) == 0
    assert 'all kept but the upsampler, which is new for x4' in capsys.readouterr().out
    tuned = state_of(out / 'X4' / LAST)['model']
    for name, value in tuned.items():
        if not name.startswith('upscale.'):
            assert torch.allclose(value, trained[name], rtol=0, atol=1e-9), name
    for name in ('upscale.0.weight', 'upscale.0.bias'):
        assert not torch.equal(tuned[name], trained[name])
    assert 'upscale.2.weight' in tuned and state_of(out / 'X4' / LAST)['step'] == 1


@pytest.mark.parametrize('prefix', ['', 'module.'])
def test_fine_tuning_from_a_port_checkpoint(prefix, train, out, tmp_path, capsys):
    weights = tiny(style='port').state_dict()
    torch.save({'model': {prefix + name: value for name, value in weights.items()}, 'best': np.float64(30.0)},
               tmp_path / 'model_best_amp.pth')
    tuning = {'iffinetuning': True, 'finetuning_checkpoint_path': tmp_path / 'model_best_amp.pth', 'train_steps': 1}
    assert train(style='port', lr=1e-12, **tuning) == 0
    assert '(port, x2): all layers kept' in capsys.readouterr().out
    tuned = state_of(out / 'X2' / LAST)['model']
    assert all(torch.allclose(tuned[name], value, rtol=0, atol=1e-9) for name, value in weights.items())
    refused(capsys, train, 'style port (here paper)', style='paper', **tuning)


def test_fine_tuning_refuses_another_trunk(train, out, tmp_path, capsys):
    torch.save({'model': tiny(num_rg=2).state_dict()}, tmp_path / 'big.pth')
    refused(capsys, train, 'big.pth', 'num_rg 2 (here 1)', train_steps=1, iffinetuning=True,
            finetuning_checkpoint_path=tmp_path / 'big.pth')
    assert not out.exists()


def test_fine_tuning_with_a_reduction_that_does_not_divide(train, out):
    train(train_steps=1, reduction=3)  # 8 // 3 channels, as with a reduction of 4
    assert train(train_steps=1, reduction=3, iffinetuning=True, finetuning_checkpoint_path=out / 'X2' / LAST) == 0


@pytest.mark.parametrize('options, words', [
    ({'multiprocessing_distributed': True, 'device_id': 0}, ('--device_id', '--multiprocessing_distributed')),
    ({'multiprocessing_distributed': True, 'world_size': 2}, ('--world_size', 'torchrun')),
    ({'num_feature': 8}, ('unknown option --num_feature', 'did you mean --num_features?')),
    ({'num': 8}, ('unknown option --num',)),
    ({'iffinetuning': True}, ('--finetuning_checkpoint_path',)),
    ({'iffinetuning': True, 'finetuning_checkpoint_path': 'a', 'ifcontinue': True}, ('no run with',)),
    ({'arch': 'a/b'}, ('--arch', 'file names')), ({'lr': 'inf'}, ('--lr',)), ({'seed': 2 ** 64}, ('--seed',)),
    ({'checkpoint_path': 'a.pth'}, ('--ifcontinue', '--iffinetuning')), ({'ifcontinue': True}, ('no run with', 'X2')),
    ({'batch_size': 0}, ('--batch_size 0',)), ({'lr': -1}, ('--lr -1',)), ({'lr': 'nan'}, ('--lr nan',)),
    ({'scale': 5}, ('scale 5',)), ({'loss_scale': 0}, ('loss_scale',)), ({'loss_scale': 'x'}, ('loss_scale',)),
    ({'device': 'tpu'}, ('tpu', 'npu')), ({'device_list': 'a,b'}, ('device_list',)),
    ({'patch_size': 4000}, ('0001', '4000')),
    ({'train_steps': -3}, ('--train_steps -3',)), ({'test_pictures': -1}, ('--test_pictures -1',)),
    ({'lr_halve_steps': -2}, ('--lr_halve_steps -2',)), ({'seed': -1}, ('seed',)),
    ({'finetuning_checkpoint_path': 'nowhere.pth', 'iffinetuning': True}, ('nowhere.pth',))],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else '')
def test_impossible_options(options, words, train, out, capsys):
    refused(capsys, train, *words, **dict({'train_steps': 2}, **options))
    assert not out.exists()


def test_missing_option(capsys):
    with pytest.raises(SystemExit):
        main.main(['--outputs_dir=x'])
    assert '--train_dataset_dir' in capsys.readouterr().err


def test_missing_data_lists_the_places(tmp_path, out):
    (tmp_path / 'empty').mkdir()
    done = python('main.py', **dict(TINY, train_dataset_dir=tmp_path / 'empty', outputs_dir=out))
    assert done.returncode == 2 and done.stderr.startswith('error: ') and 'Traceback' not in done.stderr
    for place in ('DIV2K_train_HR', 'HR'):
        assert str(tmp_path / 'empty') in done.stderr and place in done.stderr
    assert not out.exists()


@pytest.mark.parametrize('place', ['DIV2K_train_HR/0002.png', 'DIV2K_train_LR_bicubic/X2/0003x2.png',
                                   'DIV2K_valid_HR/0801.png'])
def test_a_broken_picture_is_found_before_the_training(place, train, data, out, tmp_path, capsys):
    copy = tmp_path / 'copy'
    shutil.copytree(data, copy)
    broken = copy / 'DIV2K' / place
    broken.write_bytes(broken.read_bytes()[:-100])
    refused(capsys, train, str(broken), train_dataset_dir=copy, test_dataset_dir=copy, train_steps=2)
    assert not out.exists()


def test_a_pair_of_other_sizes_is_named(train, data, out, tmp_path, capsys, photo):
    copy = tmp_path / 'copy'
    shutil.copytree(data, copy)
    images.write(copy / 'DIV2K' / 'DIV2K_train_LR_bicubic' / 'X2' / '0002x2.png', photo[:20, :20])
    refused(capsys, train, 'sizes disagree', '0002x2.png', '20x20', train_dataset_dir=copy, train_steps=2)


def test_learning_rate_is_halved(train, out):
    train(train_steps=5, lr_halve_steps=2, lr=8e-4)
    rates = {r['step']: r['learning_rate'] for r in read_records(out / 'X2' / 'train.jsonl')}
    assert rates == {1: 8e-4, 2: 8e-4, 3: 4e-4, 4: 4e-4, 5: 2e-4}


def test_records(train, data, out):
    train(num_epochs=2, test_dataset_dir=data, log_every=4)
    record = out / 'X2' / 'train.jsonl'
    first = json.loads(record.read_text().splitlines()[0])
    assert first['kind'] == 'options' and first['batch_size'] == 4 and first['style'] == 'paper'
    steps = read_records(record)
    assert [r['step'] for r in steps] == [*range(4, 54, 4), 54]
    for r in steps:
        assert set(r) == {'kind', 'epoch', 'step', 'steps', 'learning_rate', 'loss', 'images/sec', 'data_wait', 'eta'}
        assert r['steps'] == 54 and r['epoch'] == (r['step'] - 1) // 27 + 1
        assert 0 < r['loss'] < 256 and r['images/sec'] > 0 and 0 <= r['data_wait'] <= 1
    checks = read_records(record, 'validation')
    assert [r['step'] for r in checks] == [27, 54] and all(r['protocol'] == 'y/crop2' for r in checks)
    assert all(5 < r['psnr'] < 60 for r in checks)


def test_best_and_last_checkpoints_and_pictures(train, data, out, capsys):
    train(num_epochs=4, test_dataset_dir=data, lr=1e-3)
    last, best = state_of(out / 'X2' / LAST), state_of(out / 'X2' / BEST)
    psnr = [score[0] for score in last['ck_performance']]
    assert len(psnr) == 4 and last['best'] == max(psnr) == best['best'] and last['step'] == 4 * best['step'] // (
        psnr.index(max(psnr)) + 1)
    metrics = json.loads((out / 'X2' / 'validation' / 'metrics.json').read_text())
    assert metrics['mean']['y/crop2']['psnr'] == pytest.approx(psnr[-1])
    sr = upscaler.load(out / 'X2' / LAST)(images.read(
        next(path for path in images.list_pictures(data / 'DIV2K/DIV2K_valid_LR_bicubic/X2')), channels=3))
    assert np.array_equal(images.read(out / 'X2' / 'validation' / '0801_x2.png'), images.to_uint8(sr))
    said = capsys.readouterr().out
    assert f'Final Val PSNR : {max(psnr):.4f}' in said and 'protocol=y/crop2' in said and 'protocol=y/crop8' in said


@pytest.mark.parametrize('amp', [None, True])
def test_summary_file(amp, train, data, out, tmp_path, capsys):
    train(num_epochs=1, test_dataset_dir=data, case='perf', arch='RCAN', summary_dir=tmp_path / 'sum', amp=amp)
    lines = (tmp_path / 'sum' / 'RCAN_bs4_1p_perf.log').read_text().splitlines()
    fields = dict(line.split(' = ') for line in lines)
    assert list(fields) == ['Network', 'RankSize', 'BatchSize', 'DeviceType', 'CaseName', 'ActualFPS', 'TrainingTime',
                            'ValPSNR', 'ActualLoss', 'E2ETrainingTime']
    assert (fields['Network'], fields['RankSize'], fields['BatchSize']) == ('RCAN', '1', '4')
    assert fields['CaseName'] == 'RCAN_bs4_1p_perf' and float(fields['ActualFPS']) > 0
    assert float(fields['ActualFPS']) * float(fields['TrainingTime']) == pytest.approx(4, rel=0.1)
    said = capsys.readouterr().out
    for label in ('Final Performance images/sec : ', 'Final Train Accuracy : ', 'E2E Training Duration sec : ',
                  'Time for one epoch : ', 'Final Val PSNR : ', 'Final loss : '):
        assert label in said
    record = read_records(out / 'X2' / 'train.jsonl')[-1]
    assert float(fields['ActualLoss']) == pytest.approx(record['loss'], abs=1e-6)


def test_training_learns(train, out):
    train(train_steps=150, lr=3e-3)
    losses = [r['loss'] for r in read_records(out / 'X2' / 'train.jsonl')]
    assert np.mean(losses[-20:]) < 0.6 * np.mean(losses[:5])


def test_seed_and_data_order(train, out):
    train(train_steps=3)
    train(train_steps=3)
    train(train_steps=3, seed=5)
    first, same, other = (state_of(out / name / LAST)['model']['sf.weight'] for name in ('X2', 'X2_2', 'X2_3'))
    assert torch.equal(first, same) and not torch.equal(first, other)


def test_opt_level_0_is_fp32(train, out):
    train(train_steps=3)
    train(train_steps=3, amp=True, opt_level='O0')
    one, two = state_of(out / 'X2' / LAST)['model'], state_of(out / 'X2_2' / 'RCAN_epoch_last_amp.pth')['model']
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_compiled_groups_share_the_weights():
    network = tiny(num_rg=2)
    twin = training.share_weights(network, dict(SIZE, num_rg=2, scale=2, style='paper'), True)
    ours = dict(network.named_parameters())
    assert all(parameter is ours[name] for name, parameter in twin.named_parameters()) and len(ours) > 20
    assert training.share_weights(network, {}, False) is network


@pytest.mark.skipif(not shutil.which('g++'), reason='torch.compile needs g++ on the CPU')
def test_compiled_training(train, out, tmp_path, monkeypatch):
    monkeypatch.setenv('TORCHINDUCTOR_CACHE_DIR', str(tmp_path / 'inductor'))
    train(train_steps=4)
    assert train(train_steps=4, compile=True) == 0
    one, two = (state_of(out / name / LAST)['model'] for name in ('X2', 'X2_2'))
    assert all(torch.allclose(one[name], two[name], rtol=0, atol=1e-3) for name in one)


def test_validating_on_training_pictures_is_said(train, data, capsys):
    train(train_steps=1, test_dataset_dir=data)
    assert 'warning' not in capsys.readouterr().out
    pictures = data / 'benchmark' / 'Tiny' / 'HR'
    train(train_steps=1, train_dataset_dir=pictures, test_dataset_dir=pictures)
    assert 'warning: 1 of 1 validation pictures are trained on too' in capsys.readouterr().out
