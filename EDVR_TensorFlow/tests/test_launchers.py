"""The training launchers as a user starts them: help, typos, what the program is given, its exit status, its files."""
import json
import re
import shutil

import pytest
from conftest import ROOT, TEST_DEVICE_ID, TINY, call, state_of, words

from common.logs import read_records

ONE = ('test/train_full_1p.sh', 'test/train_performance_1p.sh', 'scripts/run_1p_train.sh')
EIGHT = ('test/train_full_8p.sh', 'test/train_performance_8p.sh', 'scripts/run_8p_train.sh')
LOGS = ROOT / 'test' / 'output' / TEST_DEVICE_ID
SMALL = ('--', *words({key: value for key, value in TINY.items() if key not in ('device', 'data.train_batch_size')}))


def launch(script, *more, **environment):
    return call('bash', ROOT / script, *more, **environment)


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
    assert options['train_steps'] == ('=160' if 'performance' in script else '=')
    assert options['config'] == '=configs/edvr.yaml' and options['device'] == '=auto'
    assert {'data_path', 'data_dir', 'output_path', 'batch_size', 'train_epochs', 'precision', 'precision_mode',
            'resume'} < set(options)
    assert ('nproc' in options) == (script in EIGHT)


@pytest.fixture
def printing(tmp_path):
    """An interpreter that prints what it is called with, or as a module, as the real one does."""
    path = tmp_path / 'python'
    path.write_text('#!/bin/sh\n[ "$1" != -m ] || exec "$REAL" "$@"\n[ "$1" != -c ] || exec "$REAL" "$@"\n'
                    'echo "$DEVICE_ID,$RANK_SIZE"; printf "%s\\n" "$@"\n')
    path.chmod(0o755)
    return path


@pytest.mark.parametrize('script, recipe', [
    (ONE[0], ['solver.case', 'acc']),
    (ONE[1], ['solver.lr_schedule.total_steps', '160', 'solver.train_epochs', '0', 'solver.eval_interval', '0',
              'solver.case', 'perf'])])
def test_what_the_program_is_given(script, recipe, printing):
    done = launch(script, '--data_dir=/my data', '--', 'edvr.with_tsa', 'False', PYTHON=printing)
    assert done.returncode == 0
    given = done.stdout.splitlines()
    assert given[given.index('tools/main.py'):] == [
        'tools/main.py', '--config-file', 'configs/edvr.yaml', 'data.data_dir', '/my data', 'output_dir', 'output/edvr',
        'device', 'auto', 'solver.summary_dir', str(LOGS), *recipe, 'edvr.with_tsa', 'False']
    done = launch(script, '--data_path=/d', '--output_path=/out', '--config=configs/edvr_m.yaml', '--device=cpu',
                  '--batch_size=3', '--train_epochs=7', '--precision_mode=allow_mix_precision', '--resume',
                  PYTHON=printing, folder=ROOT / 'test')
    text = ' '.join(done.stdout.splitlines())
    for part in ('--config-file configs/edvr_m.yaml ', 'output_dir /out/edvr device cpu ', 'data.train_batch_size 3 ',
                 'continue_training True ', 'solver.train_epochs 7 ', 'solver.precision mixed '):
        assert part in text


def test_device_id(printing, tmp_path):
    """It chooses a GPU, an NPU, and where the log is."""
    try:
        for start in ((ONE[0], '--device_id=96'), (ONE[2], '96')):
            done = launch(*start, '--data_path=/d', PYTHON=printing)
            given = done.stdout.splitlines()
            assert given[given.index('device_ids') + 1] == '96' and 'device id is 96' in done.stdout
    finally:
        shutil.rmtree(str(LOGS.parent / '96'), ignore_errors=True)


def table_of(form, devices):
    """An HCCL rank table."""
    if form == '1.0':
        return {'server_count': '1', 'version': '1.0', 'status': 'completed', 'server_list': [{
            'server_id': 'a', 'device': [{'device_id': str(device), 'device_ip': '192.168.1.1', 'rank_id': str(rank)}
                                         for rank, device in enumerate(devices)]}]}
    return {'group_count': '1', 'status': 'completed', 'group_list': [{
        'device_num': str(len(devices)), 'instance_list': [
            {'devices': [{'device_id': str(device), 'device_ip': '192.168.1.1'}], 'rank_id': str(rank),
             'server_id': 'a'} for rank, device in enumerate(devices)]}]}


@pytest.mark.parametrize('form', ['1.0', 'earlier'])
def test_ranks_have_the_devices_of_the_rank_table(form, printing, tmp_path):
    (tmp_path / 'table.json').write_text(json.dumps(table_of(form, [5, 3])))
    environment = {'PYTHON': printing, 'REAL': shutil.which('python3'), 'RANK_TABLE_FILE': str(tmp_path / 'table.json')}
    done = launch(EIGHT[2], '--nproc=2', **environment)
    assert done.returncode == 0 and '5,2' in done.stdout.splitlines(), said(done)
    assert '3,2' in (LOGS / 'train_1.log').read_text().split('====')[-1].splitlines()
    done = launch(EIGHT[0], '--data_path=/d', **environment)
    assert done.returncode == 2 and "device_list '5,3' is too short for 8 processes" in done.stderr


@pytest.mark.parametrize('given, problem', [
    ((ONE[0], '--batchsize=4'), 'unknown option --batchsize; did you mean --batch_size?'),
    ((ONE[0],), 'data_path is missing'), ((ONE[0], '--data_path=/x', '--device_id=a'), '--device_id=a; expected'),
    ((EIGHT[1], '--data_path=/x', '--nproc=0'), '--nproc=0; expected a number'),
    ((ONE[1], '--data_path=/x', '--precision_mode=high'), '--precision_mode=high; expected allow_mix_precision or'),
    ((ONE[2],), 'device_id is missing'), ((ONE[2], '0', '8'), 'bash scripts/run_8p_train.sh --nproc=8')])
def test_what_is_wrong_is_named(given, problem):
    done = launch(*given)
    assert done.returncode == 2 and 'error: ' in done.stderr and problem in done.stderr


def test_train_full_1p(reds, tmp_path):
    """--data_path is the folder of reds/; status, log, checkpoint at the end, the records of ModelZoo."""
    shutil.rmtree(str(LOGS), ignore_errors=True)
    out = tmp_path / 'my output'
    done = launch(ONE[0], f'--data_path={reds}', f'--output_path={out}', '--device=cpu', '--batch_size=2',
                  '--train_steps=3', *SMALL)
    assert done.returncode == 0, said(done)
    assert f'device id is {TEST_DEVICE_ID}' in said(done) and 'Final Performance images/sec : ' in done.stdout
    assert state_of(out / 'edvr' / 'EDVR-3')['progress']['step'] == 3
    assert [record['step'] for record in read_records(out / 'edvr' / 'train.jsonl')] == [1, 2, 3]
    assert ' Step:3, lr:' in (LOGS / f'train_{TEST_DEVICE_ID}.log').read_text()
    summary = (LOGS / 'EDVR_ID0056_for_TensorFlow_bs2_1p_acc.log').read_text()
    assert 'CaseName = EDVR_ID0056_for_TensorFlow_bs2_1p_acc\n' in summary and 'RankSize = 1\n' in summary


def test_the_status_of_a_failing_training_is_passed_on(tmp_path):
    """Its folder is relative to where the user is."""
    (tmp_path / 'empty').mkdir()
    done = launch(ONE[1], '--data_path=empty', f'--output_path={tmp_path / "out"}', '--device=cpu', *SMALL,
                  folder=tmp_path)
    assert done.returncode == 2 and f'error: {tmp_path / "empty"}: no REDS clips' in said(done)
    assert 'images/<clip>/truth' in (LOGS / f'train_{TEST_DEVICE_ID}.log').read_text()
    done = launch(ONE[1], '--data_path=empty', '--device', 'npu', *SMALL, folder=tmp_path)
    assert done.returncode == 2 and 'error: --device=npu' in done.stdout and not (tmp_path / 'out').exists()
