"""The training launchers as a user starts them: help, typos, what the program is given, what they write."""
import re
import shutil

import pytest
from conftest import ROOT, SIZE, TEST_DEVICE_ID, call, flags, state_of

from common.logs import read_records

ONE, GPU = ('test/train_full_1p.sh', 'test/train_performance_1p.sh'), 'scripts/run_train_gpu.sh'
LAUNCHERS = (*ONE, 'test/train_full_8p.sh', 'test/train_performance_8p.sh', GPU)
LOGS = ROOT / 'test' / 'output' / TEST_DEVICE_ID
SMALL = ('--', *flags(**SIZE, workers=1, log_every=1))


def launch(script, *words, **more):
    return call('bash', ROOT / script, *words, **more)


def said(done):
    """All that a launcher said, its program's errors among it; no traceback, nothing of MindSpore's own log."""
    text = done.stdout + done.stderr
    assert 'Traceback' not in text and 'WARNING' not in text
    return text


@pytest.mark.parametrize('script', LAUNCHERS)
def test_help(script):
    done = launch(script, '--help')
    assert done.returncode == 0 and not done.stderr
    first, *rest = done.stdout.splitlines()
    assert first.count(': bash ') == 1 and script in first and 'default_config.yaml' in rest[0]
    options = dict(re.findall(r'^  --(\w+)(\S*)', done.stdout, re.MULTILINE))
    short, devices = 'performance' in script, 8 if '8p' in script else 1
    assert (options['epoches'], options['test_every']) == (('=2', f'={devices * 100}') if short else ('=', '='))
    assert options.get('nproc') == ('=8' if '8p' in script else None)


@pytest.fixture
def printing(tmp_path):
    """An interpreter that prints what it is called with, and the GPUs that it may see."""
    path = tmp_path / 'python'
    path.write_text('#!/bin/sh\n[ "$1" = train.py ] || exec python3 "$@"\nprintf "%s\\n" "$@"\n'
                    'echo "GPUs $CUDA_VISIBLE_DEVICES, device $DEVICE_ID of $RANK_SIZE"\n')
    path.chmod(0o755)
    return path


@pytest.mark.parametrize('script, expected', [
    (ONE[0], ['--device_id=0', '--case=acc']), (GPU, ['--case=acc']),
    (ONE[1], ['--epoches=2', '--test_every=100', '--device_id=0', '--case=perf'])])
def test_what_the_program_is_given(script, expected, printing):
    """The recipe is that of default_config.yaml, but for what the user adds."""
    where = ('1', '3') if script == GPU else ()
    done = launch(script, *where, PYTHON=printing)
    assert done.returncode == 0
    assert [line for line in done.stdout.splitlines() if line.startswith('--')] == [f'--summary_dir={LOGS}', *expected]
    assert script != GPU or 'GPUs 3, device 0 of 1' in done.stdout
    done = launch(script, *where, '--train_epochs=7', '--scale', '4', '--dir_data=/my data', '--resume', '--lr=1e-3',
                  '--config_path=/my.yaml', '--ckpt_file=/x2.ckpt', '--output_path=/out', '--', '--depth=6',
                  PYTHON=printing)
    words = done.stdout.splitlines()
    for word in ('--epoches=7', '--scale=4', '--data_path=/my data', '--resume', '--lr_init=1e-3', '--pre_trained',
                 '--config_path=/my.yaml', '--ckpt_file=/x2.ckpt', '--save=/out', '--depth=6'):
        assert word in words


def test_several_gpus(printing):
    done = launch(GPU, '2', '5,7', '--data_path=/data', PYTHON=printing)
    assert done.returncode == 0 and 'GPUs 5,7, device 0 of 2' in done.stdout
    assert 'GPUs 5,7, device 1 of 2' in (LOGS / 'train_1.log').read_text()


@pytest.mark.parametrize('words, problem', [
    ((ONE[0], '--batchsize=4'), 'unknown option --batchsize; did you mean --batch_size?'),
    ((ONE[1], '--train_epoch=4'), 'did you mean --train_epochs?'),
    (('test/train_performance_8p.sh', '--nproc=0'), '--nproc=0; expected a number'), ((GPU,), 'device_num is missing'),
    ((GPU, '0'), "'0'; expected a number such as 1 or 8"), ((GPU, '8', '0,1'), "'0,1' names 2 devices, not 8"),
    ((GPU, '1', '0', '/x'), "'/x' is one argument too many")])
def test_what_is_wrong_is_named(words, problem):
    done = launch(*words)
    assert done.returncode == 2 and 'error: ' in done.stderr and problem in done.stderr


def test_train_full_1p(data, tmp_path):
    """With a configuration of the user's, in the folder where the user is."""
    shutil.rmtree(LOGS, ignore_errors=True)
    (tmp_path / 'my.yaml').write_text(f'data_path: {data}\ndata_test: Tiny\nlr_init: 3e-4\npatch_size: 24\n')
    done = launch(ONE[0], '--config_path=my.yaml', '--output_path=my output', '--device=cpu', '--batch_size=4',
                  '--train_steps=3', *SMALL, folder=tmp_path)
    assert done.returncode == 0, said(done)
    assert f'device id is {TEST_DEVICE_ID}' in said(done) and 'Final Performance images/sec : ' in done.stdout
    run = tmp_path / 'my output' / 'X2'
    state = state_of(run / 'model_latest.ckpt')
    assert state['progress']['step'] == 3 and len(state['progress']['scores']) == 1
    assert [(r['step'], r['learning_rate']) for r in read_records(run / 'train.jsonl')] == [
        (1, 3e-4), (2, 3e-4), (3, 3e-4)]
    log = (LOGS / f'train_{TEST_DEVICE_ID}.log').read_text()
    assert 'epoch=1 step=3/3' in log and 'Final Val PSNR : ' in log and 'protocol=y/crop2' in log
    assert 'CaseName = CSNLN_bs4_1p_acc\n' in (LOGS / 'CSNLN_bs4_1p_acc.log').read_text()


def test_a_gpu_that_is_not_there(data, tmp_path):
    done = launch(GPU, '1', '0', f'--data_path={data}', f'--save={tmp_path / "out"}', '--device=gpu', *SMALL)
    assert done.returncode == 2 and 'error: --device=gpu: MindSpore' in said(done) and '--device=cpu' in said(done)
    assert not (tmp_path / 'out').exists()
