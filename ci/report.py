"""bash ci/smoke.sh

Gathers what a smoke run left below its folder, prints the closing table and writes one self-contained report.html:

    python ci/report.py output/smoke                    # every DIRECTORY there
    python ci/report.py output/smoke RCAN_PyTorch       # this one

It reads of each: DIRECTORY/result.json and smoke.log (of ci/smoke.sh), train/**/train.jsonl (of common/logs.py), and
eval/**/metrics.json with the pictures beside it (of common/evaluation.py). Exit status 1 when a directory left no
training log or no scores.
"""
import json
import math
import os
import platform
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # `common` and `ci` are imported from there

from ci import page  # noqa: E402
from common import cli, datasets, images, logs  # noqa: E402
from common.metrics import luma  # noqa: E402
from common.resize import imresize  # noqa: E402

SIDE = 96  # HR pixels of a crop: a multiple of every scale
PICTURES = 3  # shown of one test set
LOG_LINES = 40  # of a directory's log
FRAMEWORKS = ('torch', 'torch-npu', 'tensorflow', 'tensorflow-cpu', 'mindspore', 'numpy', 'opencv-python-headless',
              'opencv-python', 'onnx', 'onnxruntime')
COLUMNS = ('directory', 'result', 'device', 'steps', 'loss first', 'loss last', 'PSNR bicubic', 'PSNR model',
           'protocol', 'seconds')


def gather(folder, data):
    """What the run of one directory left, as a dict for `row` and the page; 'problems' names what is missing."""
    run = dict(result(folder / 'result.json'), name=folder.name, problems=[], options={}, steps=[], sets=[],
               log=tail(folder / 'smoke.log'),
               exports=[(str(path.relative_to(folder)), path.stat().st_size)
                        for path in sorted(folder.glob('export/**/*')) if path.is_file()])
    if run['status']:
        run['problems'].append(f'tests/smoke.sh ended with status {run["status"]}')
    logfiles = sorted(folder.glob('train/**/train.jsonl'))
    if logfiles:
        run['steps'] = [record for record in logs.read_records(logfiles[0]) if is_number(record.get('loss'))]
        run['options'] = next(iter(logs.read_records(logfiles[0], kind='options')), {})
    if not run['steps']:
        run['problems'].append('no steps in train/**/train.jsonl')
    for path in sorted(folder.glob('eval/**/metrics.json')):
        try:
            metrics, protocol = scores(path)
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            run['problems'].append(f'{path.relative_to(folder)} is not as common/evaluation.py writes it: '
                                   f'{type(error).__name__}: {error}')
            continue
        run['sets'].append({'metrics': metrics, 'protocol': protocol, **crops(metrics, path.parent, data)})
    if not any(shown['metrics']['pictures'] for shown in run['sets']):
        run['problems'].append('no scores in eval/**/metrics.json')
    return run


def result(path):
    """{'status', 'seconds'} as ci/smoke.sh writes them; words that say so when it did not."""
    try:
        return {key: int(json.loads(path.read_text(encoding='utf-8'))[key]) for key in ('status', 'seconds')}
    except (OSError, ValueError, LookupError, TypeError):
        return {'status': 'unknown: no whole result.json', 'seconds': '-'}


def scores(path):
    """(metrics, first protocol) of a metrics.json all of whose scores are there; an exception of some kind if not."""
    metrics = json.loads(path.read_text(encoding='utf-8'))
    protocol, rows = metrics['protocols'][0], metrics['pictures']
    shown = [*rows, *(row['bicubic'] for row in rows), *([metrics['mean'], metrics['bicubic']] if rows else [])]
    for part in shown:
        float(part[protocol]['psnr'])
    metrics = dict(metrics, dataset=str(metrics['dataset']), scale=int(metrics['scale']))
    return metrics, protocol


def is_number(value):
    return isinstance(value, (int, float)) and math.isfinite(value)


def tail(path):
    """The last lines of a log, or a line that says there is none."""
    if not path.is_file():
        return f'{path.name} is missing'
    return '\n'.join(path.read_text(encoding='utf-8', errors='replace').splitlines()[-LOG_LINES:])


def crops(metrics, folder, data):
    """{'crops': [...], 'note': why there are none}: of the first pictures of a set, their most detailed region.

    A crop is {'name', 'at': (row, column) in HR pixels, 'lr', 'bicubic', 'sr', 'hr': uint8 [SIDE,SIDE,3], 'scores'}.
    """
    scale, shown = metrics['scale'], []
    try:
        pairs = pairs_of(metrics, data)
        for row in metrics['pictures'][:PICTURES]:
            lr, hr = datasets.load_pair(pairs[row['name']], scale)
            sr = images.read(folder / row.get('picture', f'{row["name"]}_x{scale}.png'), channels=3)
            top, left = most_detailed(hr, scale)
            part = np.s_[top:top + SIDE, left:left + SIDE]
            nearest = lr.repeat(scale, axis=0).repeat(scale, axis=1)
            shown.append({'name': row['name'], 'at': (top, left), 'lr': nearest[part], 'sr': sr[part], 'hr': hr[part],
                          'bicubic': imresize(lr, scale)[part], 'scores': row})
    except (ValueError, OSError, KeyError) as error:
        return {'crops': shown, 'note': f'{type(error).__name__}: {error}'}
    return {'crops': shown, 'note': ''}


def pairs_of(metrics, data):
    """{name of a row: Pair} of a test set; of clips, that of the frame whose picture the row names."""
    if metrics['dataset'] != 'REDS4':
        return {pair.name: pair for pair in datasets.find_benchmark(data, metrics['dataset'], metrics['scale'])}
    frames = {row['name']: os.path.basename(row['picture']) for row in metrics['pictures']}
    return {clip.name: datasets.Pair(clip.name, *(os.path.join(folder, frames[clip.name])
                                                  for folder in (clip.hr, clip.lr)))
            for clip in datasets.find_reds(data, 'REDS4') if clip.name in frames}


def most_detailed(hr, scale):
    """(row, column), multiples of scale, of the SIDE x SIDE region of hr [H,W,3] with the greatest gradient energy."""
    down, right = np.gradient(luma(hr))
    energy = (down ** 2 + right ** 2).cumsum(axis=0).cumsum(axis=1)
    energy = np.pad(energy, ((1, 0), (1, 0)))
    sums = energy[SIDE:, SIDE:] - energy[:-SIDE, SIDE:] - energy[SIDE:, :-SIDE] + energy[:-SIDE, :-SIDE]
    if not sums.size:  # a picture smaller than a crop is shown whole
        return 0, 0
    sums = sums[::scale, ::scale]
    row, column = np.unravel_index(sums.argmax(), sums.shape)
    return int(row) * scale, int(column) * scale


def row(run):
    """The cells of COLUMNS, as text; '-' for what the run did not leave."""
    first, last = (run['steps'][0], run['steps'][-1]) if run['steps'] else ({}, {})
    shown = next((shown for shown in run['sets'] if shown['metrics']['pictures']), None)
    metrics = shown['metrics'] if shown else {}

    def psnr(scores):
        return f'{float(scores[shown["protocol"]]["psnr"]):.2f}' if shown else '-'
    return (run['name'], 'FAILED' if run['problems'] else 'passed', device(run['options']),
            str(last.get('step', '-')), *(f'{record["loss"]:.4f}' if record else '-' for record in (first, last)),
            psnr(metrics.get('bicubic')), psnr(metrics.get('mean')),
            f'{metrics["dataset"]} x{metrics["scale"]} {shown["protocol"]}' if shown else '-', str(run['seconds']))


def device(options):
    """What a run's options call the device, by the names that the directories have for it."""
    return str(options.get('device', options.get('device_target', '-')))


def environment():
    """[(what, value)] of the machine, the versions and the commit."""
    versions = {}
    for name in FRAMEWORKS:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return [('time', time.strftime('%Y-%m-%d %H:%M:%S %z')), ('commit', commit()),
            ('CPU', f'{grep("/proc/cpuinfo", "model name", ":") or platform.machine()}, {os.cpu_count()} cores'),
            ('memory', f'{int((grep("/proc/meminfo", "MemTotal", ":") or "0 kB").split()[0]) / 2 ** 20:.0f} GiB'),
            ('system', f'{grep("/etc/os-release", "PRETTY_NAME", "=") or platform.system()}, {platform.machine()}'),
            ('accelerators', ask('nvidia-smi', '--query-gpu=name', '--format=csv,noheader')
             or ask('npu-smi', 'info', '-m') or 'none'),
            ('Python', platform.python_version()), *versions.items()]


def commit():
    """Short name of the commit, with a word when files differ from it; 'unknown' outside a checkout."""
    name = ask('git', '-C', str(ROOT), 'log', '-1', '--format=%h %s')
    changed = bool(name and ask('git', '-C', str(ROOT), 'status', '--porcelain'))
    return name + ' (with changes)' * changed or 'unknown'


def ask(*command):
    """What a program prints, its lines joined by commas; '' when it is not there or fails."""
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return ''
    return ', '.join(done.stdout.decode(errors='replace').split('\n')).strip(', ')


def grep(path, key, separator):
    """The value of the first line `key...separator value` of a file, or ''."""
    try:
        lines = Path(path).read_text(encoding='utf-8').splitlines()
    except OSError:
        return ''
    return next((line.split(separator, 1)[1].strip(' "') for line in lines
                 if line.startswith(key) and separator in line), '')


def print_table(rows):
    widths = [max(map(len, column)) for column in zip(COLUMNS, *rows)]
    for cells in (COLUMNS, *rows):
        print('  '.join(cell.ljust(width) for cell, width in zip(cells, widths)).rstrip())


def main(argv=None):
    """Command line; returns the exit status."""
    parser = cli.Parser(description='Print the table of a smoke run and write its report.html.')
    parser.add_argument('folder', help='folder of the smoke run, with data/ and one folder for each directory')
    parser.add_argument('directories', nargs='*', help='model directories; by default all that were run')
    args = parser.parse_args(argv)
    folder = Path(args.folder)
    names = args.directories or sorted(path.parent.name for path in folder.glob('*/result.json'))
    if not names:
        raise ValueError(f'{folder}: no */result.json; run bash ci/smoke.sh first')
    runs = [gather(folder / name, folder / 'data') for name in names]
    rows = [row(run) for run in runs]
    print_table(rows)
    for run in runs:
        for problem in run['problems']:
            print(f'error: {run["name"]}: {problem}')
    report = folder / 'report.html'
    report.write_text(page.render(runs, COLUMNS, rows, environment()), encoding='utf-8')
    print(f'the same with pictures: {report}')
    return int(any(run['problems'] for run in runs))


if __name__ == '__main__':
    cli.run(main)
