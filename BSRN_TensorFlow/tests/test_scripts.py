"""The released port's scripts/ and ModelArts' boot files: what they start, with what, and their exit status."""
import sys

import pytest
from conftest import ROOT, call

SCRIPTS = sorted(path.name for path in (ROOT / 'scripts').glob('*.sh'))
MODELARTS = ('run_npu.sh', 'run_npu_restore.sh', 'validate_npu.sh')
ENTRIES = {'modelarts_entry_acc.py': ('--max_steps=300000', '--save_freq=50000', '--case=acc'),
           'modelarts_entry_perf.py': ('--max_steps=160', '--save_freq=80', '--case=perf')}


@pytest.fixture
def stand_in(tmp_path):
    """stand_in(status): an interpreter that prints what it is called with and ends with that status."""
    def made(status=0):
        path = tmp_path / 'python'
        path.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@"\nexit {status}\n')
        path.chmod(0o755)
        return str(path)
    return made


@pytest.fixture
def words(stand_in):
    """words(script, ...): the words that its program is started with."""
    def started(script, *given):
        done = call('bash', ROOT / 'scripts' / script, *given, PYTHON=stand_in())
        assert done.returncode == 0, done.stderr
        return [line for line in done.stdout.splitlines() if line != 'device id is 95']
    return started


def test_all_of_the_release_are_there():
    assert SCRIPTS == ['run_gpu.sh', 'run_npu.sh', 'run_npu_restore.sh', 'test.sh', 'validate_gpu.sh',
                       'validate_npu.sh']


@pytest.mark.parametrize('script', SCRIPTS)
def test_help(script):
    done = call('bash', ROOT / 'scripts' / script, '--help')
    assert done.returncode == 0 and not done.stderr and f'bash scripts/{script}' in done.stdout.splitlines()[0]


def test_training_on_a_gpu(words):
    program, *options = words('run_gpu.sh', '--data_path=/my data', '--', '--log_freq=5')
    assert program == 'train.py' and options[-1] == '--log_freq=5'
    assert {'--data_path=/my data', '--train_path=output/X4', '--device=gpu', '--max_steps=1000000', '--batch_size=8',
            '--save_freq=100000', '--scales=4', '--dataloader=div2k_loader', '--case=acc'} < set(options)
    assert '--device=cpu' in words('run_gpu.sh', '--data_path=/d', '--chip=cpu')


def test_training_on_modelarts(words):
    given = (str(ROOT), '/data', '/result')
    program, *options = words('run_npu.sh', *given, 'obs://bucket/a')
    assert program == 'train.py'
    assert {'--data_path=/data', '--train_path=/result/X4', '--device=npu', '--max_steps=1000000', '--save_freq=10000',
            '--platform=modelarts', '--obs_dir=obs://bucket/a'} < set(options)
    assert not any('modelarts' in word or 'obs' in word for word in words('run_npu.sh', *given))


def test_training_on_from_a_checkpoint_on_modelarts(words):
    given = (str(ROOT), '/data', '/result', 'obs://bucket/a')
    program, *options = words('run_npu_restore.sh', *given)
    assert program == 'train.py'
    assert {'--restore_path=/data/result/model.ckpt-100', '--global_step=100', '--max_steps=200', '--save_freq=50',
            '--device=npu', '--obs_dir=obs://bucket/a'} < set(options)
    options = words('run_npu_restore.sh', *given, '--global_step=7', '--restore_path=/other', '--max_steps=9')
    assert {'--restore_path=/other', '--global_step=7', '--max_steps=9'} < set(options)


def test_measuring_and_upscaling(words):
    program, *options = words('validate_gpu.sh', '--data_path=/data', '--restore_path=/x4')
    assert (program, set(options)) == ('validate_bsrn.py', {
        '--dataset=BSD100', '--data_path=/data', '--restore_path=/x4', '--save_path=result-pictures', '--scales=4',
        '--device=gpu'})
    program, *options = words('validate_npu.sh', str(ROOT), '/data', '/result', '--', '--ensemble_only')
    assert (program, set(options)) == ('validate_bsrn.py', {
        '--dataset=BSD100', '--data_path=/data', '--restore_path=/data/result', '--scales=4', '--device=npu',
        '--save_path=/result/result-pictures', '--ensemble_only'})
    assert words('validate_npu.sh', str(ROOT), '/data', '/result', 'obs://a')[-2:] == [
        '--platform=modelarts', '--obs_dir=obs://a']
    program, *options = words('test.sh', '--restore_path=/x4')
    assert (program, set(options)) == ('test_bsrn.py', {'--input_path=LR', '--output_path=SR', '--restore_path=/x4',
                                                        '--scales=4', '--device=auto'})


def test_upscaling_as_in_the_port(checkpoint, data, tmp_path):
    done = call('bash', ROOT / 'scripts' / 'test.sh', f'--restore_path={checkpoint}', '--scales=2', '--device=cpu',
                f'--input_path={data}/benchmark/Tiny/LR_bicubic/X2', f'--output_path={tmp_path}/SR')
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in (tmp_path / 'SR' / 'x2').iterdir()) == ['catx2.png', 'nosex2.png']


@pytest.mark.parametrize('script', MODELARTS)
def test_what_is_wrong_on_modelarts(script, stand_in, tmp_path):
    for given, problem in (((tmp_path, '/data', '/result'), f"code_dir is '{tmp_path}', but this script belongs to"),
                           ((ROOT, '/data'), 'output_path is missing'),
                           ((ROOT, '/a', '/b', 'c', 'd'), "'d' is one argument too many")):
        done = call('bash', ROOT / 'scripts' / script, *given, PYTHON=stand_in())
        assert done.returncode == 2 and problem in done.stderr
    done = call('bash', ROOT / 'scripts' / script, ROOT, '/data', '/result', 'obs://a', PYTHON=stand_in(7))
    assert done.returncode == 7


@pytest.mark.parametrize('entry', ENTRIES)
def test_the_boot_files_of_modelarts(entry, stand_in, tmp_path):
    given = (sys.executable, ROOT / entry, '--data_url=some data', '--train_url', 'results')
    done = call(*given, '--', '--device=cpu', folder=tmp_path, PYTHON=stand_in(7))
    assert done.returncode == 7
    program, *options = done.stdout.splitlines()[1:]
    assert program == 'train.py' and {*ENTRIES[entry], f'--data_path={tmp_path}/some data',
                                      f'--train_path={tmp_path}/results/X4'} < set(options)
    assert options[-2:] == [f'--summary_dir={tmp_path}/results', '--device=cpu']
    done = call(sys.executable, ROOT / entry, '--data_url=/data', '--train_url=obs://a')
    assert done.returncode == 2 and done.stderr.startswith('error: --train_url obs://a: expected a folder')
