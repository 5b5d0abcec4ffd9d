import json
import os
import platform
import pty

import numpy as np
import pytest

from common import logs


def test_step_prints_the_house_line_and_keeps_raw_values(tmp_path, capsys):
    log = logs.RunLog(tmp_path / 'run')
    log.step({'epoch': 1, 'step': (10, 200), 'loss': np.float32(0.0123456), 'learning_rate': 1e-4, 'images/sec': 12.34,
              'data_wait': 0.004}, eta=81.7)
    assert capsys.readouterr().out == ('epoch=1 step=10/200 loss=0.012346 learning_rate=1.0e-04 images/sec=12.3 '
                                       'data_wait=0.4% eta=0:01:22\n')
    record = json.loads((tmp_path / 'run' / 'train.jsonl').read_text())
    assert record == {'kind': 'step', 'epoch': 1, 'step': 10, 'steps': 200, 'loss': pytest.approx(0.0123456),
                      'learning_rate': 1e-4, 'images/sec': 12.34, 'data_wait': 0.004, 'eta': 81.7}


def test_a_resumed_run_appends_and_readers_take_the_last_of_a_step(tmp_path):
    first = logs.RunLog(tmp_path)
    for step in (1, 2, 3):
        first.step(step=step, loss=1.0)
    first.event('note', text='killed here')
    with open(first.path, 'a') as file:
        file.write('{"kind": "step", "ste')  # kill -9 in the middle of a record
    second = logs.RunLog(tmp_path)
    second.step(step=3, loss=0.5)
    second.step(step=4, loss=float('nan'))
    records = logs.read_records(second.path)
    assert [(r['step'], r['loss']) for r in records] == [(1, 1.0), (2, 1.0), (3, 0.5), (4, 'nan')]
    assert logs.read_records(second.path, 'note') == [{'kind': 'note', 'text': 'killed here'}]


def test_quiet_does_nothing(tmp_path, capsys):
    log = logs.RunLog(tmp_path / 'rank1', quiet=True)
    log.line('x')
    log.step(step=1)
    log.event('note')
    assert capsys.readouterr().out == '' and not (tmp_path / 'rank1').exists()


def test_progress_without_a_terminal_is_few_plain_lines(capsys, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(logs.time, 'time', lambda: now[0])
    monkeypatch.setattr(logs.sys.stderr, 'isatty', lambda: False, raising=False)
    monkeypatch.delenv('PROGRESS_TTY', raising=False)
    with logs.Progress(30, 'upscale', 'pictures') as progress:
        for i in range(30):
            now[0] += 1
            progress.update(text=f'{i}.png')
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == 'upscale: 10/30 pictures 1/s eta 0:00:20 9.png'
    assert lines[-1] == 'upscale: 30/30 pictures 1/s in 0:00:30 29.png'
    assert len(lines) == 4


def test_progress_on_a_terminal_redraws_one_line(monkeypatch):
    master, slave = pty.openpty()
    with os.fdopen(slave, 'w') as terminal:
        monkeypatch.setattr(logs.sys, 'stderr', terminal)
        with logs.Progress(4, 'eval') as progress:
            progress.shown = 0  # a redraw is due
            progress.update(2)
            progress.update(2)
        drawn = ''
        while '\n' not in drawn:  # a terminal hands over what it has so far
            drawn += os.read(master, 10000).decode()
    os.close(master)
    assert drawn.startswith('\reval [##########..........] 2/4') and 'eta' in drawn
    assert '\reval [####################] 4/4' in drawn and drawn.count('\n') == 1


def test_summary_has_the_modelzoo_words(tmp_path, capsys):
    name = logs.case_name('RCAN', 160, 8, 'acc')
    path = logs.modelzoo_summary(tmp_path, network='RCAN', rank_size=8, batch_size=160, case_name=name,
                                 images_per_sec=1303.857, seconds_per_step=0.1227, loss=0.0123, accuracy=37.815,
                                 e2e_seconds=3599.6, extra=[('Final SSIM', 0.96)], fields=[('ValPSNR', 37.815)])
    assert capsys.readouterr().out.splitlines() == [
        '------------------ Final result ------------------', 'Final Performance images/sec : 1303.86',
        'Final Performance sec/step : 0.1227', 'E2E Training Duration sec : 3600', 'Final Train Accuracy : 37.81',
        'Final SSIM : 0.96']
    assert os.path.basename(path) == 'RCAN_bs160_8p_acc.log'
    with open(path) as file:
        assert file.read() == (
            'Network = RCAN\nRankSize = 8\nBatchSize = 160\nDeviceType = ' + platform.machine() +
            '\nCaseName = RCAN_bs160_8p_acc\nActualFPS = 1303.86\nTrainingTime = 0.1227\nValPSNR = 37.815\n'
            'ActualLoss = 0.012300\nE2ETrainingTime = 3600\n')


def test_summary_without_a_measured_accuracy_leaves_its_line_out(tmp_path, capsys):
    logs.modelzoo_summary(tmp_path, network='N', rank_size=1, batch_size=1, case_name='c', images_per_sec=1.0,
                          seconds_per_step=1.0, loss=1.0, accuracy=None, e2e_seconds=1)
    assert 'Accuracy' not in capsys.readouterr().out
