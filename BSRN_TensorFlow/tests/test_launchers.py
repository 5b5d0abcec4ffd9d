"""The training launchers as a user starts them: help, typos, the recipe, exit status, what they write."""
import re
import shutil

import pytest
from conftest import ROOT, TEST_DEVICE_ID, TINY, call, flags, state_of

from common.logs import read_records

ONE = ('test/train_full_1p.sh', 'test/train_performance_1p.sh')
EIGHT = ('test/train_full_8p.sh', 'test/train_performance_8p.sh')
LOGS = ROOT / 'test' / 'output' / TEST_DEVICE_ID
LAUNCHED = ('dataloader', 'batch_size', 'scales', 'device')  # options of TINY that the launcher has
SMALL = ('--', *flags(**{name: value for name, value in TINY.items() if name not in LAUNCHED}))


def launch(script, *words, **more):
    return call('bash', ROOT / script, *words, **more)


def said(done):
    """All that a launcher said, its program's errors among it; no traceback, nothing of TensorFlow's own log."""
    text = done.stdout + done.stderr
    assert 'Traceback' not in text and 'tensorflow' not in text and 'oneDNN' not in text
    return text


@pytest.mark.parametrize('script', (*ONE, *EIGHT))
def test_help(script):
    done = launch(script, '--help')
    assert done.returncode == 0 and not done.stderr
    assert script in done.stdout.splitlines()[0]
    options = dict(re.findall(r'^  --(\w+)(\S*)', done.stdout, re.MULTILINE))
    steps = 300000 if 'full' in script else 160 * (8 if script in EIGHT else 1)
    assert (options['train_steps'], options['batch_size'], options['scales']) == (f'={steps}', '=8', '=4')
    assert options['save_freq'] == (f'={steps // 2}' if steps < 2000 else '=50000')
    assert options['device'] == options['valid_set'] == '=auto'
    assert {'data_path', 'output_path', 'chip', 'max_steps', 'train_epochs', 'precision', 'resume'} < set(options)


@pytest.fixture
def printing(tmp_path):
    """An interpreter that prints what it is called with."""
    path = tmp_path / 'python'
    path.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    path.chmod(0o755)
    return path


@pytest.mark.parametrize('script, steps, save_freq, case', [(ONE[0], 300000, 50000, 'acc'), (ONE[1], 160, 80, 'perf')])
def test_the_recipe(script, steps, save_freq, case, printing):
    """What the program is given: the released recipe, and everything that its user adds."""
    done = launch(script, '--data_path=/my data', '--', '--bsrn_clip_norm=5', PYTHON=printing)
    assert done.returncode == 0
    words = [line for line in done.stdout.splitlines() if line.startswith('--')]
    assert words == ['--dataloader=div2k_loader', '--data_path=/my data', '--train_path=output/X4', '--device=auto',
                     '--batch_size=8', f'--max_steps={steps}', '--train_epochs=0', f'--save_freq={save_freq}',
                     '--scales=4', '--valid_set=auto', f'--summary_dir={LOGS}', f'--case={case}', '--bsrn_clip_norm=5']
    given = ('--chip=cpu', '--max_steps=7', '--precision=bf16', '--batch_size=3', '--valid_set=Set5', '--resume')
    done = launch(script, '--data_path=/d', '--output_path=/out', '--scales=2,3,4', *given, PYTHON=printing)
    words = done.stdout.splitlines()
    for word in ('--train_path=/out/X234', '--scales=2,3,4', '--device=cpu', *given[1:]):
        assert word in words


def test_device_id(printing):
    """It chooses a GPU, an NPU, and where the log is."""
    try:
        done = launch(ONE[0], '--data_path=/d', '--device_id=96', PYTHON=printing)
        assert '--cuda_device=96' in done.stdout.splitlines() and 'device id is 96' in done.stdout
    finally:
        shutil.rmtree(str(LOGS.parent / '96'), ignore_errors=True)


@pytest.mark.parametrize('words, problem', [
    ((ONE[0], '--batchsize=4'), 'unknown option --batchsize; did you mean --batch_size?'),
    ((ONE[1], '--train_epoch=4'), 'did you mean --train_epochs?'), ((ONE[0],), 'data_path is missing'),
    ((ONE[0], '--data_path='), 'data_path'), ((ONE[0], '--data_path=/x', '--device_id=a'), '--device_id=a; expected'),
    ((EIGHT[0], '--data_path=/x', '--nprocs=2'), 'did you mean --nproc?'),
    ((EIGHT[1], '--data_path=/x', '--nproc=0'), '--nproc=0; expected a number')])
def test_what_is_wrong_is_named(words, problem):
    done = launch(*words)
    assert done.returncode == 2 and 'error: ' in done.stderr and problem in done.stderr


def train_options(out):
    return (f'--output_path={out}', '--device=cpu', '--batch_size=4', '--train_steps=4', '--scales=2')


def test_train_full_1p(data, tmp_path):
    shutil.rmtree(str(LOGS), ignore_errors=True)
    out = tmp_path / 'my output'
    done = launch(ONE[0], f'--data_path={data}', *train_options(out), *SMALL)
    assert done.returncode == 0, said(done)
    assert f'device id is {TEST_DEVICE_ID}' in said(done) and 'Final Performance images/sec : ' in done.stdout
    state = state_of(out / 'X2' / 'model.ckpt-4')
    assert state['progress']['step'] == 4 and len(state['progress']['scores']) == 1
    assert (out / 'X2' / 'model.ckpt-best.index').exists()
    assert [r['step'] for r in read_records(out / 'X2' / 'train.jsonl')] == [1, 2, 3, 4]
    log = (LOGS / f'train_{TEST_DEVICE_ID}.log').read_text()
    assert 'step 4, scale x2, loss ' in log and 'Final SSIM : ' in log and 'protocol=y/crop2' in log
    summary = (LOGS / 'BSRN_bs4_1p_acc.log').read_text()
    assert 'CaseName = BSRN_bs4_1p_acc\n' in summary and 'RankSize = 1\n' in summary


def test_two_ranks_train_as_one(train, data, out, tmp_path):
    """--train_steps counts the steps of all; batch, schedule, loss and the closing figures are those of both."""
    done = launch(EIGHT[1], '--nproc=2', f'--data_path={data}', f'--output_path={tmp_path / "two"}', '--device=cpu',
                  '--batch_size=2', '--train_steps=8', '--scales=2', *SMALL)
    assert done.returncode == 0, said(done)
    assert '2 process(es); from step 0 to 4' in said(done)
    assert train(max_steps=4) == 0
    one, two = ([record['loss'] for record in read_records(folder / 'X2' / 'train.jsonl')]
                for folder in (out, tmp_path / 'two'))
    assert len(one) == 4 and two == pytest.approx(one, rel=1e-4)
    assert 'RankSize = 2\nBatchSize = 2\n' in (LOGS / 'BSRN_bs2_2p_perf.log').read_text()
    resumed = launch(EIGHT[1], '--nproc=2', f'--data_path={data}', f'--output_path={tmp_path / "two"}', '--device=cpu',
                     '--batch_size=2', '--train_steps=11', '--scales=2', '--resume', *SMALL)
    assert resumed.returncode == 0 and 'from step 4 to 6' in said(resumed)


def test_the_status_of_a_failing_training_is_passed_on(tmp_path):
    """Its folder is relative to where the user is."""
    (tmp_path / 'empty').mkdir()
    done = launch(ONE[0], '--data_path=empty', *train_options(tmp_path / 'out'), *SMALL, folder=tmp_path)
    assert done.returncode == 2 and f'error: {tmp_path / "empty"}: no DIV2K train pictures' in said(done)
    assert 'DIV2K_train_HR' in (LOGS / f'train_{TEST_DEVICE_ID}.log').read_text()


def test_npu_that_is_not_there(data, tmp_path):
    done = launch(ONE[1], f'--data_path={data}', *train_options(tmp_path / 'out'), '--device', 'npu', *SMALL)
    assert done.returncode == 2 and 'error: --device=npu' in done.stdout and '--device=cpu' in done.stdout
    assert not (tmp_path / 'out').exists()
