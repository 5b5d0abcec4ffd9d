"""What a run says: log lines with JSON Lines beside them, a progress bar, and the closing ModelZoo summary."""
from __future__ import annotations

import json
import math
import os
import platform
import shutil
import sys
import time


class RunLog:
    """Lines on the screen and records in `<folder>/<name>.jsonl`; quiet=True (ranks above 0) does nothing at all.

    A resumed run appends to the records of the earlier one: `read_records` gives the last record of each step.
    """

    def __init__(self, folder, name='train', *, quiet=False):
        self.quiet = quiet
        self.path = os.path.join(str(folder), f'{name}.jsonl')
        if not quiet:
            os.makedirs(str(folder), exist_ok=True)
            _end_last_line(self.path)

    def line(self, text):
        """Print one line of text at once."""
        if not self.quiet:
            print(text, flush=True)

    def step(self, fields=None, **more):
        """Print `epoch=1 step=10/200 loss=0.012345 ...` and append the raw values as one record of kind 'step'.

        Fields come in the order given: first those of the dict (for names such as 'images/sec'), then the keywords.
        step: int, or a pair (step, total). learning_rate: number; data_wait: share 0..1; eta: seconds.
        """
        fields = dict(fields or {}, **more)
        self.line(' '.join(f'{name}={_readable(name, value)}' for name, value in fields.items()))
        self.event('step', **fields)

    def event(self, kind, **fields):
        """Append one record {"kind": kind, ...}; a pair step=(10, 200) becomes "step": 10, "steps": 200."""
        if self.quiet:
            return
        if isinstance(fields.get('step'), (tuple, list)):
            fields['step'], fields['steps'] = fields['step']
        record = json.dumps(dict(kind=kind, **{name: plain(value) for name, value in fields.items()}))
        with open(self.path, 'a', encoding='utf-8') as file:
            file.write(record + '\n')


def _end_last_line(path):
    """A killed run may have left half a record: close its line, so that only that record is lost."""
    if os.path.exists(path) and os.path.getsize(path):
        with open(path, 'rb+') as file:
            file.seek(-1, os.SEEK_END)
            if file.read() != b'\n':
                file.write(b'\n')


def read_records(path, kind='step'):
    """Records of one kind from a .jsonl file, as dicts; steps sorted, the last record of each; broken lines skipped."""
    records = []
    with open(path, encoding='utf-8', errors='replace') as file:
        for line in file:
            try:
                records.append(json.loads(line))
            except ValueError:
                continue
    records = [record for record in records if isinstance(record, dict) and record.get('kind') == kind]
    if kind != 'step':
        return records
    steps = {record['step']: record for record in records if isinstance(record.get('step'), (int, float))}
    return [steps[step] for step in sorted(steps)]


def plain(value):
    """A JSON-ready copy: numpy and framework scalars as numbers, not-finite ones as "inf", "-inf", "nan"."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if hasattr(value, 'tolist'):
        return plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if isinstance(value, (str, int, float, type(None))) else str(value)


FORMATS = {'learning_rate': '{:.1e}', 'data_wait': '{:.1%}', 'images/sec': '{:.1f}', 'psnr': '{:.2f}', 'ssim': '{:.4f}'}


def _readable(name, value):
    if isinstance(value, (tuple, list)):
        return '/'.join(str(item) for item in value)
    value = plain(value)
    if isinstance(value, (int, float)) and name == 'eta':
        return duration(value)
    if isinstance(value, (int, float)) and name in FORMATS:
        return FORMATS[name].format(value)
    return f'{value:.6f}' if isinstance(value, float) else str(value)


def duration(seconds):
    """Seconds as h:mm:ss."""
    minutes, second = divmod(int(round(float(seconds))), 60)
    return f'{minutes // 60}:{minutes % 60:02d}:{second:02d}'


class Progress:
    """A bar with rate and remaining time on a terminal; elsewhere plain lines, one in 10 s at most and one at the end.

    with Progress(len(files), 'upscale', 'pictures') as progress: ... progress.update()
    total: number of items, or None when unknown. A launcher whose output goes through tee sets PROGRESS_TTY=1: the bar
    is then drawn on /dev/tty and stays out of the log.
    """

    def __init__(self, total, label, unit=''):
        self.total, self.label, self.unit = total, label, unit
        self.done, self.text, self.start, self.shown = 0, '', time.time(), time.time()
        self.bar, self.stream = sys.stderr.isatty(), sys.stderr
        if not self.bar and os.environ.get('PROGRESS_TTY') == '1':
            try:
                self.bar, self.stream = True, open('/dev/tty', 'w')  # noqa: SIM115 - __exit__ closes it
            except OSError:  # no terminal: a batch job
                self.bar = False

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.total is not None or self.done:  # what never was counted has nothing to show
            self._show(end=True)
        if self.stream is not sys.stderr:
            self.stream.close()

    def update(self, n=1, text=''):
        """n more items are done; text is shown behind the figures."""
        self.done, self.text = self.done + n, text
        if time.time() - self.shown >= (0.1 if self.bar else 10):
            self._show()

    def _show(self, end=False):
        self.shown = time.time()
        rate = self.done / max(self.shown - self.start, 1e-9)
        parts = [f'{self.done}/{self.total}' if self.total else str(self.done), self.unit, f'{rate:.3g}/s']
        if end:
            parts.append(f'in {duration(self.shown - self.start)}')
        elif self.total and self.done:
            parts.append(f'eta {duration(max(self.total - self.done, 0) / rate)}')
        line = ' '.join(part for part in [*parts, self.text] if part)
        if self.bar:
            filled = min(20, 20 * self.done // self.total) if self.total else 0
            line = f'{self.label} [{"#" * filled}{"." * (20 - filled)}] {line}'
            columns = shutil.get_terminal_size().columns - 1
            print('\r' + line[:columns].ljust(columns), end='\n' if end else '', file=self.stream, flush=True)
        else:
            print(f'{self.label}: {line}', file=self.stream, flush=True)


def case_name(network, batch_size, rank_size, kind):
    """`RCAN_bs160_1p_acc`: the name of a ModelZoo run; kind is 'acc' (a full recipe) or 'perf' (a short one)."""
    return f'{network}_bs{batch_size}_{rank_size}p_{kind}'


def modelzoo_summary(folder, *, network, rank_size, batch_size, case_name, images_per_sec, seconds_per_step, loss,
                     accuracy, e2e_seconds, extra=(), fields=()):
    """Print the closing block and write `<folder>/<case_name>.log`, in the words that ModelZoo acceptance tools read.

    images_per_sec counts all ranks; loss is the last one; accuracy is validation PSNR in dB, or None when the run
    measured none (its line is left out). extra: further (label, value) lines of the block, such as
    ('Final SSIM', 0.96); fields: further (key, value) lines of the file, such as ('ValPSNR', 38.12).
    Returns the path of the file.
    """
    block = [('Final Performance images/sec', f'{images_per_sec:.2f}'),
             ('Final Performance sec/step', f'{seconds_per_step:.4f}'),
             ('E2E Training Duration sec', int(round(e2e_seconds)))]
    if accuracy is not None:
        block.append(('Final Train Accuracy', f'{accuracy:.2f}'))
    print('------------------ Final result ------------------')
    for label, value in [*block, *extra]:
        print(f'{label} : {value}', flush=True)
    pairs = [('Network', network), ('RankSize', rank_size), ('BatchSize', batch_size),
             ('DeviceType', platform.machine()), ('CaseName', case_name), ('ActualFPS', f'{images_per_sec:.2f}'),
             ('TrainingTime', f'{seconds_per_step:.4f}'), *fields, ('ActualLoss', f'{loss:.6f}'),
             ('E2ETrainingTime', int(round(e2e_seconds)))]
    os.makedirs(str(folder), exist_ok=True)
    path = os.path.join(str(folder), f'{case_name}.log')
    with open(path, 'w', encoding='utf-8') as file:
        file.writelines(f'{key} = {value}\n' for key, value in pairs)
    return path
