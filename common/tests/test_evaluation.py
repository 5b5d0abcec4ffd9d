import errno
import json
from pathlib import Path

import numpy as np
import pytest

from common import datasets, evaluation, images
from common.evaluation import Protocol
from common.metrics import luma, psnr, ssim
from common.resize import imresize

BENCHMARK = Path(__file__).resolve().parents[3] / 'shared' / 'benchmark'
PAPER, PORT = Protocol('y', 2), Protocol('y', 8, quantise='truncate', sample_covariance=True)


@pytest.fixture
def pairs(tmp_path):
    """Three pictures of smooth noise, 40x48 HR, with their LR made on reading."""
    made = []
    for number in range(3):
        rng = np.random.default_rng(number)
        path = tmp_path / 'set' / f'p{number}.png'
        images.write(path, imresize(rng.integers(0, 256, (10, 12, 3)).astype(np.uint8), 4))
        made.append(datasets.Pair(f'p{number}', str(path), None))
    return made


def bicubic(lr):
    return imresize(lr, 2) + np.float32(0.4)


@pytest.mark.parametrize('protocol, name', [
    (PAPER, 'y/crop2'), (Protocol('rgb', 4), 'rgb/crop4'), (PORT, 'y/crop8/truncate/sample'),
    (Protocol('y', 0, quantise='truncate'), 'y/crop0/truncate')])
def test_protocol_names(protocol, name):
    assert protocol.name == name


def test_unknown_quantise_is_named():
    with pytest.raises(ValueError, match="'floor'; known: 'round', 'truncate'"):
        Protocol('y', 2, quantise='floor')


def test_scores_pictures_and_files(pairs, tmp_path, capsys):
    out = tmp_path / 'out'
    result = evaluation.evaluate(bicubic, pairs, 2, dataset='Noise', protocols=[PAPER, PORT], output_dir=out, model='M')
    scores = []
    for pair in pairs:
        lr, hr = datasets.load_pair(pair, 2)
        sr = bicubic(lr.astype(np.float32))
        saved = images.read(out / f'{pair.name}_x2.png')
        np.testing.assert_array_equal(saved, images.to_uint8(sr))
        cut = np.clip(np.floor(sr), 0, 255)
        scores.append([psnr(saved, hr, crop_border=2, channel='y'), ssim(saved, hr, crop_border=2, channel='y'),
                       psnr(cut, hr, crop_border=8, channel='y'),
                       ssim(cut, hr, crop_border=8, channel='y', sample_covariance=True)])
    mean = np.mean(scores, axis=0)
    assert list(result['mean']) == ['y/crop2', 'y/crop8/truncate/sample']
    np.testing.assert_allclose([result['mean'][p.name][k] for p in (PAPER, PORT) for k in ('psnr', 'ssim')], mean)
    assert json.loads((out / 'metrics.json').read_text()) == result
    assert [row['name'] for row in result['pictures']] == ['p0', 'p1', 'p2'] and result['pictures'][0]['seconds'] > 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ['picture', 'bicubic', 'y/crop2', 'y/crop2', 'y/crop8/truncate/sample', 'seconds']
    assert [line.split()[0] for line in lines[1:5]] == ['p0', 'p1', 'p2', 'mean']
    assert lines[5:7] == [
        f'dataset=Noise scale=2 psnr={mean[0]:.2f} ssim={mean[1]:.4f} protocol=y/crop2',
        f'dataset=Noise scale=2 psnr={mean[2]:.2f} ssim={mean[3]:.4f} protocol=y/crop8/truncate/sample']
    assert lines[7].startswith('model=bicubic dataset=Noise scale=2 psnr=') and len(lines) == 9
    assert result['bicubic']['y/crop2']['psnr'] != result['mean']['y/crop2']['psnr']


def test_other_answers_of_a_run_are_measured_beside_it(pairs, tmp_path):
    calls = []

    def also():
        calls.append(1)
        return {'darker': np.zeros((40, 48, 3)) + len(calls)}
    out = tmp_path / 'out'
    result = evaluation.evaluate(bicubic, pairs, 2, dataset='Noise', protocols=[PAPER, PORT], output_dir=out / 'a',
                                 also=also, place=lambda name, other: str(out / (other or 'a') / f'{name}.png'))
    assert len(calls) == 3
    for number, (pair, row) in enumerate(zip(pairs, result['pictures']), 1):
        saved = images.read(out / 'darker' / f'{pair.name}.png')
        assert (saved == number).all() and row['picture'] == f'{pair.name}.png'
        hr = datasets.load_pair(pair, 2)[1]
        assert row['also'] == {'darker': {protocol.name: protocol.measure(saved, hr) for protocol in (PAPER, PORT)}}
        assert images.read(out / 'a' / row['picture']).std() > 1
    expected = np.mean([row['also']['darker'][PORT.name]['psnr'] for row in result['pictures']])
    assert result['also']['darker'][PORT.name]['psnr'] == pytest.approx(expected)
    assert json.loads((out / 'a' / 'metrics.json').read_text()) == result


def test_a_perfect_network_scores_inf_and_json_stays_readable(pairs, tmp_path, capsys):
    answers = iter([datasets.load_pair(pair, 2)[1] for pair in pairs])
    result = evaluation.evaluate(lambda lr: next(answers), pairs, 2, dataset='Noise', protocols=[PAPER],
                                 output_dir=tmp_path / 'out', save_pictures=False)
    assert result['mean']['y/crop2'] == {'psnr': float('inf'), 'ssim': pytest.approx(1)}

    def refuse(word):
        raise AssertionError(f'{word} is not JSON')
    stored = json.loads((tmp_path / 'out' / 'metrics.json').read_text(), parse_constant=refuse)
    assert stored['mean']['y/crop2']['psnr'] == 'inf' and stored['pictures'][0]['y/crop2']['psnr'] == 'inf'
    assert [path.name for path in (tmp_path / 'out').iterdir()] == ['metrics.json']
    assert 'psnr=inf ssim=1.0000' in capsys.readouterr().out


def test_a_broken_pair_is_named_and_the_rest_measured(pairs, tmp_path, capsys):
    Path(pairs[1].hr).write_bytes(b'broken')
    with pytest.raises(ValueError, match='1 of 3 pictures of Noise could not be evaluated: p1'):
        evaluation.evaluate(bicubic, pairs, 2, dataset='Noise', protocols=[PAPER], output_dir=tmp_path / 'out')
    printed = capsys.readouterr()
    assert 'error: p1: ' in printed.err and 'dataset=Noise scale=2 psnr=' in printed.out
    stored = json.loads((tmp_path / 'out' / 'metrics.json').read_text())
    assert [row['name'] for row in stored['pictures']] == ['p0', 'p2'] and list(stored['failed']) == ['p1']


def test_pictures_that_cannot_be_written_cost_no_scores(pairs, tmp_path, capsys, monkeypatch):
    def refuse(path, image):
        raise OSError(errno.ENOSPC, 'No space left on device', str(path))
    monkeypatch.setattr(images, 'write', refuse)
    out = tmp_path / 'out'
    with pytest.raises(ValueError, match=r'3 of 3 pictures of Noise could not be written to .*out'):
        evaluation.evaluate(bicubic, pairs, 2, dataset='Noise', protocols=[PAPER], output_dir=out)
    printed = capsys.readouterr()
    assert printed.err == (f'error: {out}: pictures cannot be written: {out / "p0_x2.png"}: No space left on device\n')
    assert [line.split()[0] for line in printed.out.splitlines()[1:5]] == ['p0', 'p1', 'p2', 'mean']
    assert 'dataset=Noise scale=2 psnr=' in printed.out
    assert json.loads((out / 'metrics.json').read_text())['failed'] == {}


@pytest.mark.parametrize('upscale, message', [
    (lambda lr: bicubic(lr) * np.nan, 'NaN'), (lambda lr: lr, 'is it for scale 2')])
def test_a_bad_answer_names_the_picture(pairs, upscale, message, capsys):
    with pytest.raises(ValueError, match='3 of 3 pictures of Noise'):
        evaluation.evaluate(upscale, pairs, 2, dataset='Noise', protocols=[PAPER])
    printed = capsys.readouterr()
    assert 'error: p0: ' in printed.err and message in printed.err and 'psnr=' not in printed.out


def test_no_pictures_is_an_error():
    with pytest.raises(ValueError, match='Set5: no pictures'):
        evaluation.evaluate(bicubic, [], 2, dataset='Set5', protocols=[PAPER])


@pytest.mark.skipif(not BENCHMARK.is_dir(), reason='the benchmark pictures are not beside the checkout')
def test_published_scores_of_set5(capsys):
    """RCAN paper, table 2, x2: RCAN 38.27/0.9614 from its published pictures, bicubic 33.66/0.9299 as SRCNN made it."""
    pairs = datasets.find_benchmark(BENCHMARK.parent, 'Set5', 2)
    answers = iter([images.read(BENCHMARK / 'Set5' / 'SR_RCAN' / 'X2' / f'{pair.name}.png') for pair in pairs])
    evaluation.evaluate(lambda lr: next(answers), pairs, 2, dataset='Set5', protocols=[PAPER])
    out = capsys.readouterr().out
    assert '\ndataset=Set5 scale=2 psnr=38.27 ssim=0.9614 protocol=y/crop2\n' in out
    assert 'model=bicubic dataset=Set5 scale=2 psnr=33.67 ssim=0.9303 protocol=y/crop2' in out
    scores = []
    for pair in pairs:  # the Y channel alone made smaller and larger in floating point
        y = np.rint(luma(datasets.load_pair(pair, 2)[1]))
        up = images.to_uint8(255 * imresize(imresize(y / 255, 0.5), 2))
        scores.append([measure(up, y, crop_border=2, channel='y') for measure in (psnr, ssim)])
    assert '{:.2f}/{:.4f}'.format(*np.mean(scores, axis=0)) == '33.66/0.9299'
