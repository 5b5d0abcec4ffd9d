"""The training launchers as a user starts them: help, typos, the recipe, exit status, what they write."""
import re
import shutil

import pytest
from conftest import ROOT, SIZE, TEST_DEVICE_ID, call, flags, state_of

from common.logs import read_records

ONE, STANDALONE = ('test/train_full_1p.sh', 'test/train_performance_1p.sh'), 'script/run_ascend_standalone.sh'
EIGHT, TABLE = ('test/train_full_8p.sh', 'test/train_performance_8p.sh'), 'script/run_ascend_distribute.sh'
LAUNCHERS = (*ONE, STANDALONE, *EIGHT, TABLE)
LOGS = ROOT / 'test' / 'output' / TEST_DEVICE_ID
SMALL = ('--', *flags(**SIZE, workers=1, log_every=1, kernels='builtin'))


def launch(script, *words, **more):
    return call('bash', ROOT / script, *words, **more)


def said(done):
    """All that a launcher said, its program's errors among it; no traceback, nothing of MindSpore's own log."""
    text = done.stdout + done.stderr
    assert 'Traceback' not in text and 'WARNING' not in text
    return text


def train_options(out):
    return (f'--output_path={out}', '--device=cpu', '--batch_size=4', '--train_steps=3', '--lr=3e-4', '--patch_size=24')


@pytest.mark.parametrize('script', LAUNCHERS)
def test_help(script):
    done = launch(script, '--help')
    assert done.returncode == 0 and not done.stderr
    first, *rest = done.stdout.splitlines()
    assert first.count(': bash ') == 1 and script in first
    options = dict(re.findall(r'^  --(\w+)(\S*)', done.stdout, re.MULTILINE))
    short, devices = 'performance' in script, 8 if script in (*EIGHT, TABLE) else 1
    assert options['epochs'] == ('=2' if short else '=1000')
    assert options['test_every'] == f'={devices * (100 if short else 1000)}'  # which the devices share
    assert (options['batch_size'], options['scale'], options['lr']) == (f'={16 // devices}', '=2', '=1e-4')
    assert options['device'] == '=auto' and len(re.findall(r'^  (?:--)?data_path', done.stdout, re.MULTILINE)) == 1


@pytest.fixture
def printing(tmp_path):
    """An interpreter that prints what it is called with."""
    path = tmp_path / 'python'
    path.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    path.chmod(0o755)
    return path


@pytest.mark.parametrize('script, expected', [
    (ONE[0], ('--epochs=1000', '--test_every=1000', '--case=acc')),
    (ONE[1], ('--epochs=2', '--test_every=100', '--case=perf')),
    (STANDALONE, ('--epochs=1000', '--test_every=1000', '--case=acc'))])
def test_the_recipe(script, expected, printing):
    """What the program is given: the released recipe, and everything that its user adds."""
    where = ('/my data',) if script == STANDALONE else ('--dir_data=/my data',)
    done = launch(script, *where, '--device=cpu', '--', '--n_feats=64', PYTHON=printing)
    assert done.returncode == 0
    words = [line for line in done.stdout.splitlines() if line.startswith('--')]
    assert words == ['--dir_data=/my data', '--ckpt_save_path=output', '--device=cpu', '--batch_size=16',
                     *expected[:2], '--train_steps=0', '--scale=2', '--lr=1e-4', '--amp_level=O0',
                     f'--summary_dir={LOGS}', '--device_id=0', expected[2], '--n_feats=64']
    done = launch(script, *where, '--train_epochs=7', '--scale', '4', '--patch_size=96', '--resume', '--amp_level=O2',
                  '--device_id=2', '--ckpt_path=/x2.ckpt', '--ckpt_save_path=/out', PYTHON=printing)
    words = done.stdout.splitlines()
    for word in ('--epochs=7', '--scale=4', '--patch_size=96', '--resume', '--amp_level=O2', '--device_id=2',
                 '--ckpt_path=/x2.ckpt', '--ckpt_save_path=/out'):
        assert word in words


@pytest.mark.parametrize('words, problem', [
    (('test/train_full_1p.sh', '--batchsize=4'), 'unknown option --batchsize; did you mean --batch_size?'),
    (('test/train_performance_1p.sh', '--train_epoch=4'), 'did you mean --train_epochs?'),
    (('script/run_ascend_standalone.sh', '/x', '--devices=cpu'), 'unknown option --devices; did you mean --device?'),
    (('test/train_full_8p.sh', '--data_path=/x', '--nprocs=2'), 'did you mean --nproc?'),
    (('test/train_performance_8p.sh', '--data_path=/x', '--nproc=0'), '--nproc=0; expected a number'),
    (('script/run_ascend_distribute.sh', 'table.json'), 'data_path is missing'),
    (('test/train_full_1p.sh',), 'data_path is missing'), (('test/train_full_1p.sh', '--data_path='), 'data_path'),
    (('script/run_ascend_standalone.sh',), 'data_path is missing'),
    (('script/run_ascend_standalone.sh', '/x', '/y'), "'/y' is one argument too many")])
def test_what_is_wrong_is_named(words, problem):
    done = launch(*words)
    assert done.returncode == 2 and 'error: ' in done.stderr and problem in done.stderr


def test_train_full_1p(data, tmp_path):
    shutil.rmtree(LOGS, ignore_errors=True)
    out = tmp_path / 'my output'
    done = launch('test/train_full_1p.sh', f'--data_path={data}', *train_options(out), *SMALL)
    assert done.returncode == 0, said(done)
    assert f'device id is {TEST_DEVICE_ID}' in said(done) and 'Final Performance images/sec : ' in done.stdout
    state = state_of(out / 'X2' / 'edsr_last.ckpt')
    assert state['progress']['step'] == 3 and len(state['progress']['scores']) == 1
    assert (out / 'X2' / 'edsr_best.ckpt').exists()
    records = read_records(out / 'X2' / 'train.jsonl')
    assert [(r['step'], r['learning_rate']) for r in records] == [(1, 3e-4), (2, 3e-4), (3, 3e-4)]
    log = (LOGS / f'train_{TEST_DEVICE_ID}.log').read_text()
    assert 'epoch=1 step=3/3' in log and 'Final Val PSNR : ' in log and 'protocol=rgb/crop8' in log
    summary = (LOGS / 'EDSR_bs4_1p_acc.log').read_text()
    assert 'CaseName = EDSR_bs4_1p_acc\n' in summary and 'RankSize = 1\n' in summary and 'ValPSNR = ' in summary


def test_run_ascend_standalone_fails_with_the_status_of_the_training(tmp_path):
    """Its folder is relative to where the user is; train.log is the log that the released README names."""
    (tmp_path / 'empty').mkdir()
    done = launch(STANDALONE, 'empty', *train_options(tmp_path / 'out'), *SMALL, folder=tmp_path)
    assert done.returncode == 2 and f'error: {tmp_path / "empty"}: no DIV2K train pictures' in said(done)
    assert f'log: {LOGS}/train.log\n' in done.stdout and 'DIV2K_train_HR' in (LOGS / 'train.log').read_text()


def test_npu_that_is_not_there(data, tmp_path):
    done = launch('test/train_performance_1p.sh', f'--data_path={data}', *train_options(tmp_path / 'out'),
                  '--device', 'npu', *SMALL)
    assert done.returncode == 2 and 'error: --device=npu' in said(done) and '--device=cpu' in said(done)
    assert not (tmp_path / 'out').exists()
