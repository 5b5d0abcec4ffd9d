"""The HTML of a smoke run's report: one page without any outside resource, in light and dark."""
import base64
import html
import math

import cv2

STYLE = '''
:root { color-scheme: light dark; --page: #f6f7f9; --card: #fff; --ink: #1b1f24; --soft: #667080; --line: #dfe3e8;
  --accent: #2f6fde; --good: #1a7f4b; --bad: #c62f3c }
@media (prefers-color-scheme: dark) { :root { --page: #111418; --card: #1a1f25; --ink: #e8ebef; --soft: #98a2b0;
  --line: #2c333c; --accent: #7aa7ff; --good: #4cc38a; --bad: #ff6b77 } }
* { box-sizing: border-box }
body { margin: 0 auto; max-width: 68rem; padding: 2rem 1.25rem 4rem; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, "Segoe UI", Roboto, "Helvetica Neue", sans-serif }
h1 { font-size: 1.6rem; margin: 0 } h2 { font-size: 1.25rem; margin: 0 } h3 { font-size: 1rem; margin: 1.4rem 0 .5rem }
p { margin: .3rem 0 } .soft, figcaption span { color: var(--soft) }
.small { font-size: .85rem } .small b { font-weight: 600; color: var(--ink) }
.banner { margin: 1rem 0; padding: .7rem 1rem;
  border-radius: .6rem; color: #fff; background: #1a7f4b; font-weight: 600 }
.banner.bad { background: #b3202d }
.card { margin: 1.25rem 0; padding: 1.25rem; background: var(--card); border: 1px solid var(--line);
  border-radius: .8rem }
.card > header { display: flex; gap: .8rem; align-items: baseline; flex-wrap: wrap }
.good { color: var(--good); font-weight: 600 } .bad-text { color: var(--bad); font-weight: 600 }
.scroll { overflow-x: auto }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums }
th, td { padding: .4rem .7rem; text-align: left; border-bottom: 1px solid var(--line); white-space: nowrap }
th { color: var(--soft); font-weight: 500; font-size: .85rem } tr:last-child td { border-bottom: 0 }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1rem; margin: .6rem 0 0 }
dt { color: var(--soft) } dd { margin: 0; overflow-wrap: anywhere }
.crops { display: grid; grid-template-columns: repeat(4, minmax(0, 1fr)); gap: .75rem; margin-bottom: 1rem }
@media (max-width: 40rem) { .crops { grid-template-columns: repeat(2, 1fr) } }
figure { margin: 0 } figcaption { font-size: .85rem; margin-top: .3rem } figcaption span { display: block }
figure img { width: 100%; border-radius: .4rem; image-rendering: pixelated; display: block }
svg { width: 100%; height: auto; display: block } svg text { font: 11px system-ui, sans-serif; fill: var(--soft) }
svg .grid { stroke: var(--line) }
svg .curve { fill: none; stroke: var(--accent); stroke-width: 2; stroke-linejoin: round }
svg circle { fill: var(--accent) }
details { margin-top: .8rem } summary { cursor: pointer; color: var(--soft) }
pre { overflow-x: auto; padding: .8rem; border: 1px solid var(--line); border-radius: .5rem; font-size: 12px;
  line-height: 1.4 }
'''


def render(runs, columns, rows, environment):
    """The page; runs as ci/report.py gathers them, rows as it prints them, environment [(what, value)]."""
    failed = [run['name'] for run in runs if run['problems']]
    passed = f'{len(runs) - len(failed)} of {len(runs)} passed'
    words = passed + f'; failed: {", ".join(failed)}' * bool(failed)
    return f'''<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Smoke run of the super-resolution ModelZoo</title><style>{STYLE}</style></head><body>
<h1>Smoke run of the super-resolution ModelZoo</h1>
<p class="soft">Tiny networks, trained for a few steps by the users' own launchers: this shows that everything runs, not
how well the published networks do.</p>
<p class="soft small">{' · '.join(f'<b>{text(what)}</b> {text(value)}' for what, value in environment)}</p>
<div class="banner{' bad' * bool(failed)}">{text(words)}</div>
<section class="card"><h2>Results</h2>{table(columns, rows)}</section>
{''.join(section(run) for run in runs)}
</body></html>
'''


def text(value):
    return html.escape(str(value))


def table(columns, rows):
    def cell(value):
        style = {'FAILED': ' class="bad-text"', 'passed': ' class="good"'}.get(value, '')
        return f'<td{style}>{text(value)}</td>'
    head = ''.join(f'<th>{text(column)}</th>' for column in columns)
    body = ''.join(f'<tr>{"".join(map(cell, row))}</tr>' for row in rows)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def pairs(items):
    return '<dl>' + ''.join(f'<dt>{text(key)}</dt><dd>{text(value)}</dd>' for key, value in items) + '</dl>'


def section(run):
    """One directory: result, loss curve, crops of each test set, options, the end of its log."""
    failed = bool(run['problems'])
    verdict = '<span class="bad-text">FAILED</span>' if failed else '<span class="good">passed</span>'
    banner = f'<div class="banner bad">{text("; ".join(run["problems"]))}</div>' if failed else ''
    last = run['steps'][-1] if run['steps'] else {}
    rate = last.get('images/sec')
    speed = f' · {rate:.1f} images/s in training' if isinstance(rate, (int, float)) else ''
    curve = f'<h3>Training loss</h3>{loss_curve(run["steps"])}' if run['steps'] else ''
    exports = ''.join(f'<p class="soft">Exported: {text(name)}, {size:,} bytes</p>' for name, size in run['exports'])
    options = [(key, value) for key, value in run['options'].items() if key != 'kind']
    return f'''<section class="card"><header><h2>{text(run['name'])}</h2>{verdict}
<span class="soft">{run['seconds']} s in all{speed}</span></header>{banner}{curve}
{''.join(test_set(shown) for shown in run['sets'])}{exports}
<details><summary>Options of the training</summary>{pairs(options)}</details>
<details{' open' * failed}><summary>The end of its log</summary><pre>{text(run['log'])}</pre></details></section>
'''


def test_set(shown):
    """The crops of one test set, LR | bicubic | SR | HR, each with its picture's PSNR and the protocol."""
    metrics, protocol = shown['metrics'], shown['protocol']
    parts = [f'<h3>{text(metrics["dataset"])}, x{metrics["scale"]}</h3>']
    if shown['note']:
        parts.append(f'<p class="soft">No further pictures: {text(shown["note"])}</p>')
    for crop in shown['crops']:
        scores = crop['scores']
        captions = (('lr', f'LR, {crop["name"]}', 'pixels repeated'),
                    ('bicubic', 'Bicubic', decibels(scores['bicubic'], protocol)),
                    ('sr', 'SR', decibels(scores, protocol)), ('hr', 'HR', 'row {}, column {}'.format(*crop['at'])))
        parts.append('<div class="crops">' + ''.join(
            f'<figure><img alt="{text(title)}" src="{picture(crop[key])}"><figcaption>{text(title)}'
            f'<span>{text(words)}</span></figcaption></figure>' for key, title, words in captions) + '</div>')
    return ''.join(parts)


def decibels(scores, protocol):
    return f'{float(scores[protocol]["psnr"]):.2f} dB {protocol}, whole picture'


def picture(rgb):
    """A data: address of uint8 RGB [H,W,3] as PNG."""
    png = cv2.imencode('.png', rgb[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 9])[1].tobytes()
    return 'data:image/png;base64,' + base64.b64encode(png).decode()


def loss_curve(steps, width=900, height=240):
    """An SVG of the loss over the steps; the loss axis is logarithmic where all losses are positive."""
    points = [(record['step'], record['loss']) for record in steps]
    logarithmic = min(loss for _, loss in points) > 0
    scale = math.log10 if logarithmic else float
    low, high = (scale(limit(loss for _, loss in points)) for limit in (min, max))
    low, high = (low, high) if high > low else (low - 0.5, high + 0.5)
    first, last = points[0][0], max(points[-1][0], points[0][0] + 1)
    left, right, top, bottom = 56, width - 16, 12, height - 28

    def x(step):
        return left + (right - left) * (step - first) / (last - first)

    def y(value):
        return bottom - (bottom - top) * (value - low) / (high - low)
    lines = ''.join(f'<line class="grid" x1="{left}" x2="{right}" y1="{y(value):.1f}" y2="{y(value):.1f}"/>'
                    f'<text x="{left - 8}" y="{y(value) + 4:.1f}" text-anchor="end">'
                    f'{10 ** value if logarithmic else value:.3g}</text>'
                    for value in (low + (high - low) * part / 4 for part in range(5)))
    lines += ''.join(f'<text x="{x(step):.1f}" y="{height - 8}" text-anchor="middle">{step}</text>'
                     for step in sorted({first, (first + last) // 2, points[-1][0]}))
    path = ' '.join(f'{x(step):.1f},{y(scale(loss)):.1f}' for step, loss in points)
    marks = ''.join(f'<circle cx="{x(step):.1f}" cy="{y(scale(loss)):.1f}" r="3"/>'
                    for step, loss in (points[0], points[-1]))
    return (f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="training loss over steps">{lines}'
            f'<polyline class="curve" points="{path}"/>{marks}</svg>')
