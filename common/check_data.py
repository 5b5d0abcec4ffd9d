"""python common/check_data.py /data --scale 2 3 4

Decodes every picture of the sets found below a folder (DIV2K, benchmark sets, REDS, or a set itself) and names each
file that is unreadable, missing, mis-sized, or an LR without its HR. Exit status 1 when there is any, else 0.
"""
import os
import sys
from collections import namedtuple
from functools import partial

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))  # `common` is imported from there

from common import cli, datasets, images  # noqa: E402
from common.patches import in_order  # noqa: E402

Checked = namedtuple('Checked', 'label scale pairs missing lr_folder')  # missing: paths that should exist and do not


def picture_sets(root, scales):
    """[Checked] of DIV2K's splits and of the benchmark sets; of the folder itself when it holds neither."""
    found, names = [], datasets.list_benchmarks(root)
    for scale in scales:
        locators = [(name, partial(datasets.locate_benchmark, root, name, scale)) for name in names]
        for split in ('train', 'valid'):
            locate = partial(datasets.locate_div2k, root, split, scale)
            locators += [(f'DIV2K {split}', locate), (f'DIV2K {split} unknown', partial(locate, kind='unknown'))]
        for label, locate in locators:
            try:
                hr, lr_folder = locate()
            except ValueError:  # not there
                continue
            if lr_folder or not label.endswith('unknown'):
                found.append(_checked(label, scale, hr, lr_folder))
    if not found:
        name = os.path.basename(os.path.abspath(root))
        found = [_checked(name, scale, *datasets.locate_pairs(root, scale)) for scale in scales]
    return sorted(found, key=lambda checked: (checked.label, checked.scale))


def _checked(label, scale, hr, lr_folder):
    pairs, missing = datasets.match(hr, lr_folder, scale)
    stems = [os.path.splitext(os.path.basename(path))[0] for path in missing]
    expected = [os.path.join(lr_folder, f'{stem}x{scale}.png') for stem in stems]
    return Checked(label, scale, pairs + [datasets.Pair(None, path, None) for path in missing], expected, lr_folder)


def reds_sets(root):
    """[Checked] of each REDS layout, all clips in one; a frame of one resolution without the other is missing there."""
    found = []
    for part, clips in datasets.reds_layouts(root):
        pairs, missing = [], []
        for clip in clips:
            hr = {os.path.basename(path): path for path in images.list_pictures(clip.hr)}
            lr = {os.path.basename(path): path for path in images.list_pictures(clip.lr)} if clip.lr else {}
            pairs += [datasets.Pair(f'{clip.name}/{name}', hr[name], lr.get(name)) for name in sorted(hr)]
            if clip.lr is None:
                missing.append(f'the LR folder of {clip.hr}')
            else:
                missing += [os.path.join(clip.lr, name) for name in sorted(set(hr) - set(lr))]
            missing += [os.path.join(clip.hr, name) for name in sorted(set(lr) - set(hr))]
        found.append(Checked(f'REDS {part}', 4, pairs, missing, None))
    return found


def without_hr(sets):
    """LR pictures that belong to no HR picture of any set."""
    used = {str(path) for checked in sets for pair in checked.pairs for path in (pair.hr, pair.lr)}
    folders = {checked.lr_folder for checked in sets if checked.lr_folder}
    return sorted(str(path) for folder in folders for path in images.list_pictures(folder) if str(path) not in used)


def decode_all(sets):
    """{path: shape, or the message of why it cannot be read} of every file of the sets, each decoded once."""
    paths = sorted({str(path) for checked in sets for pair in checked.pairs for path in (pair.hr, pair.lr) if path})

    def shape(path):
        try:
            return images.read(path, channels=3).shape
        except (ValueError, OSError) as error:
            return str(error)
    return dict(zip(paths, in_order(shape, paths, 'check')))


def mis_sized(checked, shapes):
    """Messages about the pairs of a set whose sizes disagree."""
    problems = []
    for pair in checked.pairs:
        sizes = shapes[str(pair.hr)], shapes.get(str(pair.lr))
        if pair.lr and not any(isinstance(size, str) for size in sizes):
            try:
                datasets.check_sizes(pair, sizes[1], sizes[0], checked.scale)
            except ValueError as error:
                problems.append(str(error))
    return problems


def report(sets, shapes):
    """Prints the table and the problems; returns the exit status."""
    problems = [('unreadable', message) for message in shapes.values() if isinstance(message, str)]
    print(f'{"set":<24}{"scale":>6}{"HR":>9}{"LR":>9}{"missing":>9}{"mis-sized":>11}')
    for checked in sets:
        wrong = mis_sized(checked, shapes)
        lr_count = sum(pair.lr is not None for pair in checked.pairs)
        made = '' if lr_count or checked.missing else '  no LR folder: LR is made when needed'
        print(f'{checked.label:<24}{"x" + str(checked.scale):>6}{len(checked.pairs):>9}{lr_count:>9}'
              f'{len(checked.missing):>9}{len(wrong):>11}{made}')
        problems += [('missing', path) for path in checked.missing] + [('mis-sized', message) for message in wrong]
    problems += [('LR without HR', path) for path in without_hr(sets)]
    for kind, text in problems:
        print(f'{kind}: {text}')
    print(f'{len(shapes)} pictures decoded, {len(problems)} problems')
    return 1 if problems else 0


def main(argv=None):
    """Command line; returns the exit status."""
    parser = cli.Parser(prog='check_data.py', description='Name every unreadable, missing or mis-sized picture.')
    parser.add_argument('path', help='the folder that holds DIV2K/, benchmark/, reds/, or a set itself')
    parser.add_argument('--scale', type=int, nargs='+', default=[2, 3, 4], help='scales whose LR is checked')
    args = parser.parse_args(argv)
    if min(args.scale) < 2:
        raise ValueError(f'--scale {args.scale}: expected scales from 2 on')
    sets = reds_sets(args.path)
    try:
        sets = picture_sets(args.path, sorted(set(args.scale))) + sets
    except ValueError:
        if not sets:
            raise
    return report(sets, decode_all(sets))


if __name__ == '__main__':
    cli.run(main)
