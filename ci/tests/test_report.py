"""The closing table and the page of a smoke run, of a run as it should be and of runs that went wrong."""
import json
import re
import xml.dom.minidom

import numpy as np
import pytest

from ci import page, report
from common import images, logs
from common.datasets import find_benchmark
from common.evaluation import Protocol, evaluate
from common.resize import imresize

SCALE = 2


@pytest.fixture
def smoke(tmp_path):
    """A smoke folder with one directory, MODEL, whose network is the bicubic, and two pictures, one of them small."""
    rng = np.random.default_rng(0)
    for name, sides in (('large', (144, 200)), ('small', (60, 50))):
        hr = images.to_uint8(imresize(rng.uniform(0, 255, (sides[0] // 4, sides[1] // 4 + 1, 3)), 4))[:, :sides[1]]
        images.write(tmp_path / f'data/benchmark/Sample/HR/{name}.png', hr)
        images.write(tmp_path / f'data/benchmark/Sample/LR_bicubic/X2/{name}x2.png', imresize(hr, 1 / SCALE))
    folder = tmp_path / 'MODEL'
    log = logs.RunLog(folder / 'train' / 'X2')
    log.event('options', device='cpu', odd='<b>&"')
    for step, loss in ((10, 8.0), (20, float('nan')), (30, 0.5)):
        log.step({'step': (step, 30), 'loss': loss, 'images/sec': 12.5})
    pairs = find_benchmark(tmp_path / 'data', 'Sample', SCALE)
    evaluate(lambda lr: imresize(lr, SCALE), pairs, SCALE, dataset='Sample',
             protocols=[Protocol('y', SCALE), Protocol('rgb', 0)], output_dir=folder / 'eval' / 'X2')
    images.write(folder / 'export' / 'x.onnx.png', np.zeros((2, 2, 3), np.uint8))
    (folder / 'smoke.log').write_text('first line\n' * 100 + 'last <line>\n')
    (folder / 'result.json').write_text('{"status": 0, "seconds": 12}')
    return tmp_path


def test_pictures_of_clips(tmp_path):
    clip = tmp_path / 'data/reds/images/000'
    for frame in ('00000000', '00000001'):
        images.write(clip / f'truth/{frame}.png', np.full((16, 16, 3), int(frame), np.uint8))
        images.write(clip / f'blur4/{frame}.png', np.zeros((4, 4, 3), np.uint8))
    metrics = {'dataset': 'REDS4', 'scale': 4, 'pictures': [{'name': '000', 'picture': '000/00000001.png'}]}
    pair = report.pairs_of(metrics, tmp_path / 'data')['000']
    assert images.read(pair.hr).max() == 1 and images.read(pair.lr).shape == (4, 4, 3)


def test_the_table(smoke, capsys):
    metrics = json.loads((smoke / 'MODEL/eval/X2/metrics.json').read_text())
    scores = [f"{metrics[of]['y/crop2']['psnr']:.2f}" for of in ('bicubic', 'mean')]
    assert report.main([str(smoke)]) == 0
    head, row, closing = capsys.readouterr().out.splitlines()
    assert re.split('  +', head) == list(report.COLUMNS)
    assert re.split('  +', row)[:6] == ['MODEL', 'passed', 'cpu', '30', '8.0000', '0.5000']
    assert re.split('  +', row)[6:] == [*scores, 'Sample x2 y/crop2', '12']
    assert closing.endswith('report.html')


def test_the_page(smoke):
    report.main([str(smoke), 'MODEL'])
    text = (smoke / 'report.html').read_text(encoding='utf-8')
    assert text.count('<img') == text.count('src="data:image/png;base64,') == 2 * 4
    assert not re.search(r'https?:|<script|<link|@import|url\(', text)
    assert '1 of 1 passed' in text and '<div class="banner">' in text and 'banner bad"' not in text
    assert '&lt;b&gt;&amp;&quot;' in text and 'last &lt;line&gt;' in text
    assert text.count('first line') == report.LOG_LINES - 1
    assert 'dB y/crop2' in text and 'export/x.onnx.png' in text and '<b>Python</b>' in text
    body = text[text.index('<body>'):text.index('</html>')]
    xml.dom.minidom.parseString(re.sub('(<img[^>]*)>', r'\1/>', body))  # every tag is closed


@pytest.mark.parametrize('harm, expected', [
    (lambda folder: (folder / 'result.json').write_text('{"status": 3, "seconds": 1}'), 'ended with status 3'),
    (lambda folder: (folder / 'train/X2/train.jsonl').unlink(), 'no steps in train/**/train.jsonl'),
    (lambda folder: (folder / 'train/X2/train.jsonl').write_text('{"kind": "step", "st'), 'no steps in train/'),
    (lambda folder: (folder / 'train/X2/train.jsonl').write_text('{"kind": "step", "loss": 1}'), 'no steps in train/'),
    (lambda folder: (folder / 'eval/X2/metrics.json').unlink(), 'no scores in eval/**/metrics.json'),
    (lambda folder: (folder / 'result.json').write_text('{"sta'), 'no whole result.json'),
    (lambda folder: (folder / 'result.json').unlink(), 'no whole result.json'),
    (lambda folder: (folder / 'eval/X2/metrics.json').write_text('{"pictures": ['), 'metrics.json is not as'),
    (lambda folder: (folder / 'eval/X2/metrics.json').write_text('[{"psnr": 30.1}]'), 'metrics.json is not as'),
    (lambda folder: (folder / 'eval/X2/metrics.json').write_text(
        '{"dataset": "reds", "scale": 4, "protocols": ["rgb/crop0"], "pictures": [{"rgb/crop0": {"psnr": 30.1}}]}'),
     'it: KeyError'),
])
def test_what_went_wrong_is_told(smoke, harm, expected, capsys):
    harm(smoke / 'MODEL')
    (smoke / 'SECOND').mkdir()
    (smoke / 'SECOND' / 'result.json').write_text('{"status": 0, "seconds": 1}')
    assert report.main([str(smoke), 'MODEL', 'SECOND']) == 1
    output, text = capsys.readouterr().out, (smoke / 'report.html').read_text(encoding='utf-8')
    assert 'error: MODEL: ' in output and expected in output and 'FAILED' in output
    assert 'banner bad' in text and expected in text and '<details open>' in text


def test_a_directory_that_left_nothing(smoke, capsys):
    (smoke / 'EMPTY').mkdir()
    (smoke / 'EMPTY' / 'result.json').write_text('{"status": 1, "seconds": 0}')
    assert report.main([str(smoke)]) == 1
    assert 'smoke.log is missing' in (smoke / 'report.html').read_text() and 'MODEL' in capsys.readouterr().out


def test_pictures_that_cannot_be_shown_are_explained(smoke):
    (smoke / 'data/benchmark/Sample/HR/large.png').unlink()
    assert report.main([str(smoke)]) == 0
    text = (smoke / 'report.html').read_text()
    assert 'No further pictures: KeyError' in text and '<img' not in text


def test_no_run_at_all(tmp_path):
    with pytest.raises(ValueError, match='run bash ci/smoke.sh first'):
        report.main([str(tmp_path)])


def test_the_most_detailed_region():
    picture = np.full((300, 400, 3), 90, np.uint8)
    picture[150:246, 203:299] = np.random.default_rng(0).integers(0, 256, (96, 96, 3))
    row, column = report.most_detailed(picture, 3)
    assert row % 3 == column % 3 == 0 and abs(row - 150) <= 3 and abs(column - 203) <= 3
    assert report.most_detailed(picture[:95], 2) == report.most_detailed(picture[:, :40], 2) == (0, 0)
    assert report.most_detailed(picture[150:246, 203:299], 2) == (0, 0)


@pytest.mark.parametrize('losses', [[1.0], [2.0, 2.0], [5.0, 0.01, 3.0], [1.0, -1.0], [0.0, 0.0]])
def test_the_loss_curve_stays_inside(losses):
    svg = page.loss_curve([{'step': 10 * i, 'loss': loss} for i, loss in enumerate(losses)], width=900, height=240)
    points = np.array([point.split(',') for point in re.search('points="(.*?)"', svg).group(1).split()], float)
    assert len(points) == len(losses)
    assert (points >= 0).all() and (points <= (900, 240)).all()
    xml.dom.minidom.parseString(svg)


def test_the_machine_and_the_versions():
    found = dict(report.environment())
    assert found['numpy'] == np.__version__ and re.fullmatch(r'\d+ GiB', found['memory'])
    assert 'cores' in found['CPU'] and 'torch-npu' not in found
