"""PSNR and SSIM of an upscale function over a test set, every score with the protocol it was measured by."""
from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import dataclass

import numpy as np

from common import cli, datasets, files, images, logs, tiles
from common.metrics import psnr, ssim
from common.resize import imresize


@dataclass(frozen=True)
class Protocol:
    """How two pictures are compared. The paper's: Protocol('y', crop_border=scale)."""

    channel: str  # 'y': BT.601 luma; 'rgb': all three
    crop_border: int  # HR pixels left out on every side
    quantise: str = 'round'  # to 8 bit before comparing: 'round' (half to even) or 'truncate', both clamped to 0..255
    sample_covariance: bool = False  # SSIM with n/(n-1), as scikit-image has it

    def __post_init__(self):
        if self.quantise not in ('round', 'truncate'):
            raise ValueError(f"unknown quantise {self.quantise!r}; known: 'round', 'truncate'")

    @property
    def name(self):
        """`y/crop2`; what differs from the papers' habit is added: `y/crop8/truncate/sample`."""
        return (f'{self.channel}/crop{self.crop_border}' + '/truncate' * (self.quantise == 'truncate')
                + '/sample' * self.sample_covariance)

    def measure(self, sr, hr):
        """{'psnr': dB, 'ssim': 0..1} of sr [H,W,3] float or uint8, 0..255, against hr uint8 [H,W,3]."""
        eight_bit = images.to_uint8(np.floor(sr) if self.quantise == 'truncate' else sr)
        where = {'crop_border': self.crop_border, 'channel': self.channel}
        return {'psnr': float(psnr(eight_bit, hr, **where)),
                'ssim': float(ssim(eight_bit, hr, sample_covariance=self.sample_covariance, **where))}


def evaluate(upscale, pairs, scale, *, dataset, protocols, output_dir=None, save_pictures=True,
             load=datasets.load_pair, model='', also=None, place=None):
    """Measure `upscale` over a set: print a table and one line per protocol, write metrics.json and the pictures.

    upscale: float32 RGB [h,w,3] -> [scale*h, scale*w, 3], 0..255; pairs: of datasets.Pair; load(pair, scale) gives
    (lr, hr), uint8. protocols: the paper's first. output_dir gets metrics.json and the pictures {name}_x{scale}.png,
    rounded to 8 bit; place(name, '') gives them other paths. Returns what metrics.json holds. also() is called after
    each picture for {name: sr} of other answers of the same run of the network: they are measured, too, and written to
    place(picture's name, their name). A pair that cannot be read, or for which the network gives NaN, is named and left
    out; the others are measured, and then ValueError is raised; so it is for pictures that could not be written, whose
    scores count.
    The bicubic beside it enlarges the 8-bit RGB that the network gets: 33.67/0.9303 on Set5 x2. The papers' tables have
    33.66/0.9299, from the Y channel alone made smaller and larger in floating point (as SRCNN's code does).
    """
    if not pairs:
        raise ValueError(f'{dataset}: no pictures to evaluate')
    unsaved, place = set(), place or (lambda name, other: os.path.join(str(output_dir), f'{name}_x{scale}.png'))

    def measure(pair):
        row, answers = _measure(upscale, pair, scale, protocols, load, also)
        if output_dir and save_pictures:
            row['picture'] = os.path.relpath(place(pair.name, ''), str(output_dir))
            for other, sr in answers.items():
                _save(place(pair.name, other), sr, pair.name, unsaved)
        return row
    result = tabulate(pairs, measure, scale, dataset=dataset, protocols=protocols, output_dir=output_dir, model=model)
    _raise_for(result['failed'], unsaved, f'of {len(pairs)} pictures of {dataset}', output_dir)
    return result


def tabulate(items, measure, scale, *, dataset, protocols, output_dir=None, model='', kind='picture'):
    """Print a row for each item, the means, and one line per protocol; write metrics.json. Returns what that holds.

    items have a .name; measure(item) gives the row: {'name', 'seconds', 'bicubic': {protocol's name: score}, and a
    score for each protocol's name}. One for which it raises ValueError or OSError is named, and stands in result
    ['failed'] with the reason; the others are measured. kind: what an item is called.
    """
    print(_header(protocols, kind), flush=True)
    rows, failures = [], {}
    for item in items:
        try:
            row = measure(item)
        except (ValueError, OSError) as error:
            failures[item.name] = cli.describe(error)
            print(f'error: {item.name}: {failures[item.name]}', file=sys.stderr, flush=True)
            continue
        rows.append(row)
        print(_row(row['name'], row, protocols), flush=True)
    result = _summary(rows, failures, protocols, model=model, dataset=dataset, scale=scale)
    if rows:
        print(_row('mean', dict(result['mean'], bicubic=result['bicubic'], seconds=result['seconds']), protocols))
        _print_scores(result, protocols)
    if output_dir:
        _write_json(os.path.join(str(output_dir), 'metrics.json'), result)
    return result


def _measure(upscale, pair, scale, protocols, load, also):
    """(what metrics.json holds of a picture, {name: sr} of all answers, '' being upscale's own)."""
    lr, hr = load(pair, scale)
    start = time.perf_counter()
    sr = tiles.call(upscale, lr.astype(np.float32), scale)
    seconds = time.perf_counter() - start
    bicubic = imresize(lr, scale)
    row = {'name': pair.name, 'size': list(hr.shape[:2]), 'seconds': seconds,
           'bicubic': {protocol.name: protocol.measure(bicubic, hr) for protocol in protocols}}
    row.update((protocol.name, protocol.measure(sr, hr)) for protocol in protocols)
    others = also() if also else {}
    if others:
        row['also'] = {name: {protocol.name: protocol.measure(other, hr) for protocol in protocols}
                       for name, other in others.items()}
    return row, dict({'': sr}, **others)


def _save(path, sr, name, unsaved):
    """Write a picture, or add its name to `unsaved`; the first one of these says why its folder cannot have it."""
    try:
        images.write(path, images.to_uint8(sr))
    except (ValueError, OSError) as error:
        if not unsaved:
            print(f'error: {os.path.dirname(path)}: pictures cannot be written: {cli.describe(error)}',
                  file=sys.stderr, flush=True)
        unsaved.add(name)


def _raise_for(failures, unsaved, of_the_set, output_dir):
    problems = []
    if failures:
        problems.append(f'{len(failures)} {of_the_set} could not be evaluated: ' + ', '.join(failures))
    if unsaved:
        problems.append(f'{len(unsaved)} {of_the_set} could not be written to {output_dir}; all scores are as printed')
    if problems:
        raise ValueError('; '.join(problems))


def mean_of(rows, protocols):
    """{protocol's name: {'psnr', 'ssim'}}: the mean of these scores of rows, {} of none."""
    return {protocol.name: {key: float(np.mean([row[protocol.name][key] for row in rows])) for key in ('psnr', 'ssim')}
            for protocol in protocols} if rows else {}


def _summary(rows, failures, protocols, **about):
    if rows and 'also' in rows[0]:
        about['also'] = {name: mean_of([row['also'][name] for row in rows], protocols) for name in rows[0]['also']}
    return dict(about, protocols=[protocol.name for protocol in protocols], mean=mean_of(rows, protocols),
                bicubic=mean_of([row['bicubic'] for row in rows], protocols),
                seconds=float(np.mean([row['seconds'] for row in rows])) if rows else 0.0,
                pictures=rows, failed=failures)


def _print_scores(result, protocols):
    for start, scores in (('', result['mean']), ('model=bicubic ', result['bicubic'])):
        for protocol in protocols:
            score = scores[protocol.name]
            print(f'{start}dataset={result["dataset"]} scale={result["scale"]} psnr={score["psnr"]:.2f} '
                  f'ssim={score["ssim"]:.4f} protocol={protocol.name}', flush=True)


def _header(protocols, kind):
    columns = ['bicubic ' + protocols[0].name, *(protocol.name for protocol in protocols)]
    return f'{kind:<24}' + ''.join(f'{column:>{_width(column)}}' for column in columns) + f'{"seconds":>10}'


def _row(name, row, protocols):
    cells = [('bicubic ' + protocols[0].name, row['bicubic'][protocols[0].name])]
    cells += [(protocol.name, row[protocol.name]) for protocol in protocols]
    return f'{name:<24}' + ''.join(f'{"{psnr:.2f}/{ssim:.4f}".format(**score):>{_width(column)}}'
                                   for column, score in cells) + f'{row["seconds"]:>10.2f}'


def _width(column):
    return max(15, len(column) + 2)


def _write_json(path, result):
    """Whole or not at all; not-finite numbers become strings, since JSON has none (PSNR of equal pictures: "inf")."""
    os.makedirs(os.path.dirname(path) or '.', exist_ok=True)
    place = files.destination(path)
    temporary = files.temporary(place)
    try:
        with files.naming(path):
            with open(temporary, 'w', encoding='utf-8') as file:
                json.dump(logs.plain(result), file, indent=1, ensure_ascii=False)
            os.replace(temporary, place)
    finally:
        if os.path.exists(temporary):
            os.remove(temporary)
