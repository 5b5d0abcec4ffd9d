"""eval.py and its launchers as a user starts them: help, typos, exit status, what they print and write."""
import json
import re
import shutil

import pytest
from conftest import ROOT, call

import eval as program
from common import images
from common.datasets import Pair
from import_weights import read_weights

LAUNCHERS = ('run_eval.sh', 'scripts/run_eval_gpu.sh')
LINE = re.compile(r'^dataset=(\S+) scale=2 psnr=([\d.]+) ssim=[\d.]+ protocol=(\S+)$', re.MULTILINE)


def launch(script, *words, **more):
    return call('bash', ROOT / script, *words, **more)


def said(done):
    """All that a launcher said, its programs' errors among it; no traceback, nothing of MindSpore's log."""
    everything = done.stdout + done.stderr
    assert 'Traceback' not in everything and '[WARNING]' not in everything and '[ERROR]' not in everything
    return everything


@pytest.mark.parametrize('script', LAUNCHERS)
def test_help(script):
    done = launch(script, '--help')
    assert done.returncode == 0 and not done.stderr
    first, *_ = done.stdout.splitlines()
    assert first.count(': bash ') == 1 and script in first
    assert dict(re.findall(r'^  --(\w+)(\S*)', done.stdout, re.MULTILINE))['device'] == '=auto'


@pytest.mark.parametrize('script, typo, meant', [
    ('run_eval.sh', '--datapath=x', '--data_path'), ('scripts/run_eval_gpu.sh', '--outputpath=x', '--output_path'),
    ('run_eval.sh', '--chops', '--chop')])
def test_a_typo_names_the_nearest_option(script, typo, meant):
    done = launch(script, typo)
    assert done.returncode == 2 and f'unknown option {typo.split("=")[0]}; did you mean {meant}?' in done.stderr


@pytest.mark.parametrize('script, words, missing', [
    ('run_eval.sh', ('Set5',), 'checkpoint is missing'), ('scripts/run_eval_gpu.sh', (), 'checkpoint is missing'),
    ('run_eval.sh', ('data', 'csnln.ckpt', 'Set5'), "'Set5' is one argument too many")])
def test_what_is_missing_is_named(script, words, missing):
    done = launch(script, *words)
    assert done.returncode == 2 and 'error: ' in done.stderr and missing in done.stderr


def test_run_eval(data, checkpoint, tmp_path):
    done = launch('run_eval.sh', 'tiny', checkpoint, f'--data_path={data}', '--output_path', tmp_path / 'eval',
                  '--device=cpu')
    assert done.returncode == 0, said(done)
    (dataset, score, protocol), = LINE.findall(said(done))
    assert (dataset, protocol) == ('tiny', 'y/crop2') and 20 < float(score) < 60
    assert 'model=bicubic' in done.stdout and not done.stderr
    assert 'CSNLN x2, 1 times 8 features, on CPU' in done.stdout and '24x24 pixels, whole: about ' in done.stdout
    found = json.loads((tmp_path / 'eval' / 'X2' / 'tiny' / 'metrics.json').read_text())
    mean = found['mean']['y/crop2']
    assert f'{mean["psnr"]:.2f}' == score and found['model'] == 'CSNLN'
    assert f'Mean psnr of tiny x2 is {mean["psnr"]:.4f} (y/crop2)\n' in done.stdout
    assert f'Mean ssim of tiny x2 is {mean["ssim"]:.4f} (y/crop2)\n' in done.stdout
    assert images.size(tmp_path / 'eval' / 'X2' / 'tiny' / 'cat_x2.png') == (48, 48)


def test_the_ports_launcher_and_its_log(data, checkpoint, tmp_path):
    """DIV2K in the paper's protocol and the port's, by parts and with self-ensemble; a second run adds to eval.log."""
    log = tmp_path / 'eval' / 'eval.log'
    log.parent.mkdir()
    log.write_text('the user wrote this\n')
    (tmp_path / 'eval' / 'X2').mkdir()
    (tmp_path / 'eval' / 'X2' / 'notes.txt').write_text('and this')
    done = launch('scripts/run_eval_gpu.sh', checkpoint, 'DIV2K', f'--data_path={data}', '--output_path=eval',
                  '--device=cpu', '--self_ensemble', '--chop', '--', '--data_range=801-801', folder=tmp_path)
    assert done.returncode == 0, said(done)
    scores = LINE.findall(said(done))
    assert [(name, protocol) for name, _, protocol in scores] == [
        ('DIV2K', 'rgb/crop8/chop'), ('DIV2K', 'y/crop2/chop')]
    assert '24x36 pixels, in parts of 24x30: about ' in done.stdout
    assert re.search(r'^Mean psnr of DIV2K x2 is [\d.]+ \(y/crop2/chop\)$', done.stdout, re.MULTILINE)
    assert done.stdout.endswith(f'log: {log}\n')
    assert json.loads((log.parent / 'X2' / 'DIV2K' / 'metrics.json').read_text())['model'] == 'CSNLN+'
    assert log.read_text().startswith('the user wrote this\n') and LINE.findall(log.read_text()) == scores
    assert (log.parent / 'X2' / 'notes.txt').read_text() == 'and this'
    assert (log.parent / 'X2' / 'DIV2K' / '0801_x2.png').exists()
    done = launch('scripts/run_eval_gpu.sh', tmp_path / 'nowhere.ckpt', f'--output_path={log.parent}')
    assert done.returncode == 2 and 'error: ' in said(done) and 'nowhere.ckpt' in log.read_text()


def test_the_ports_command(data, checkpoint, tmp_path, capsys):
    """A file of its keys, and the flags that its launcher gives to eval.py; several sets."""
    (tmp_path / 'their.yaml').write_text(
        f'data_path: "{data}"\ndata_test: Set5\ndevice_target: CPU\nscale: [2]\nn_feats: 8\ndepth: 1\nrgb_range: 1\n'
        'save: ./CSNLN_X2/\ndata_range: "1-800/801-801"\n')
    program.main([f'--config_path={tmp_path / "their.yaml"}', '--test_only=True', '--ckpt_file', str(checkpoint),
                  '--data_test=Tiny+DIV2K', f'--save={tmp_path}'])
    said = capsys.readouterr().out
    assert [name for name, _, _ in LINE.findall(said)] == ['Tiny', 'DIV2K', 'DIV2K']
    assert (tmp_path / 'X2' / 'DIV2K' / '0801_x2.png').exists()


@pytest.mark.parametrize('flag, words', [
    ('--scale=4', 'scale 2, not 4; leave --scale out'), ('--n_feats=64', 'n_feats 8, not 64'),
    ('--depth=12', 'depth 1, not 12'), ('--rgb_range=255', 'rgb_range 1.0, not 255'),
    ('--compat=port', 'compat paper, not port'), ('--memory_limit=0.001', '24x24 alone takes about'),
    ('--data_test=DIV2K --data_range=802-803', 'pictures 802-803 of DIV2K'),
    ('--data_test=Tiny+Set55', "no benchmark set 'Set55'"), ('--data_test=', '--data_test names no set'),
    ('--device=npu', '--device=npu: MindSpore')])
def test_what_does_not_fit_is_refused_before_anything_is_measured(flag, words, data, checkpoint, tmp_path, capsys):
    with pytest.raises(ValueError, match=re.escape(words)):
        program.main([f'--data_path={data}', '--data_test=Tiny', f'--ckpt_file={checkpoint}', '--device=cpu',
                      f'--save={tmp_path}', *flag.split()])
    assert 'psnr=' not in capsys.readouterr().out


def test_a_set_that_is_not_there(data, checkpoint):
    done = launch('run_eval.sh', 'Set55', checkpoint, f'--data_path={data}', '--device=cpu')
    assert done.returncode == 2 and "no benchmark set 'Set55'" in said(done) and 'there are: Tiny' in said(done)


def test_a_picture_that_cannot_be_read(data, checkpoint, tmp_path, photo, capsys):
    """It is named, and the others are measured: it has no say in how."""
    for name in ('cat', 'dog'):
        images.write(tmp_path / 'benchmark' / 'Two' / 'HR' / f'{name}.png', photo[:32, :32])
    (tmp_path / 'benchmark' / 'Two' / 'HR' / 'dog.png').write_bytes(b'none')
    with pytest.raises(ValueError, match='1 of 2 pictures of Two could not be evaluated: dog'):
        program.main([f'--data_path={tmp_path}', '--data_test=Two', f'--ckpt_file={checkpoint}', '--device=cpu',
                      f'--save={tmp_path / "out"}'])
    said = capsys.readouterr().out
    assert '16x16 pixels, whole' in said and len(LINE.findall(said)) == 1


def test_sizes(data, tmp_path):
    """By the LR where there is one, else by the HR; none that can be read says nothing."""
    hr, lr = (data / 'benchmark' / 'Tiny' / part for part in ('HR/cat.png', 'LR_bicubic/X2/catx2.png'))
    assert program.sizes([Pair('cat', hr, lr), Pair('cat', hr, None)], 2) == [(24, 24), (24, 24)]
    assert program.sizes([Pair('cat', hr, None)], 5) == [(9, 9)]
    assert program.sizes([Pair('cat', hr, tmp_path / 'nowhere.png')], 2) == []


def test_released_weights_are_measured_as_they_are(data, checkpoint, tmp_path, capsys):
    """The checkpoint under the authors' names: the same score."""
    torch = pytest.importorskip('torch')
    weights, _, _ = read_weights(checkpoint)
    torch.save({re.sub(r'\.1\.w$', '.1.weight', name): torch.from_numpy(value.copy())
                for name, value in weights.items()}, tmp_path / 'csnln.pt')
    for path in (checkpoint, tmp_path / 'csnln.pt'):
        program.main([f'--data_path={data}', '--data_test=Tiny', f'--ckpt_file={path}', f'--save={tmp_path}',
                      '--device=cpu'])
    said = capsys.readouterr().out
    assert len(LINE.findall(said)) == 2 and len(set(LINE.findall(said))) == 1


def test_where_the_log_is_by_default(tmp_path):
    """Below the model's folder, wherever the user is, so it is said in full; the set is Set5, the data default's."""
    root = tmp_path / 'model'  # a copy, so that no log of the user's is added to
    shutil.copytree(ROOT / 'scripts', root / 'scripts')
    shutil.copytree(ROOT.parent / 'common', tmp_path / 'common')
    printing = tmp_path / 'python'
    printing.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    printing.chmod(0o755)
    done = launch(root / 'scripts/run_eval_gpu.sh', 'csnln.ckpt', folder=tmp_path, PYTHON=printing)
    assert done.returncode == 0 and f'log: {root}/output/eval/eval.log\n' in done.stdout
    given = done.stdout.splitlines()
    assert f'--save={root}/output/eval' in given and '--data_test=Set5' in given
    assert f'--ckpt_file={tmp_path}/csnln.ckpt' in given and not any(word.startswith('--data_path') for word in given)
