"""python ci/check_layout.py

Checks that every model directory that is there looks like the others, and that what the READMEs say can be typed: the
files of each role, launchers, README headings, the flags of every command, links, the role table. Prints one line for
each finding; exit status 1 when there is any. `--table` prints the role table for README.md and CONTRIBUTING.md.
"""
import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # `common` and `ci` are imported from there

from ci import commands  # noqa: E402
from common import cli  # noqa: E402

ROLES = ('train', 'evaluate', 'infer (a picture, folder, video)', 'the one Python interface', 'export',
         'import released weights', 'network', 'data', 'device, session, process group', 'defaults, declared once',
         'launchers')
MODELS = {  # what plays each of the ROLES, in their order; a part with a dot or a slash is a path that must exist
    'BSRN_TensorFlow': (
        'train.py', 'validate_bsrn.py', 'test_bsrn.py', 'upscaler.py', 'export.py', 'import_weights.py',
        'models/bsrn.py', 'dataloaders/', 'models/session_config.py', 'flags beside what they configure', 'test/*.sh'),
    'RCAN_PyTorch': (
        'main.py', 'test.py', 'infer.py', 'upscaler.py', 'export.py', 'import_weights.py',
        'model.py', 'dataset.py', 'device.py', 'options.py', 'test/*.sh'),
    'EDSR_MindSpore': (
        'train.py', 'eval.py', 'infer.py', 'upscaler.py', 'export.py', 'import_weights.py',
        'src/model.py', 'src/data/', 'src/context.py', 'src/args.py', 'test/*.sh, script/*.sh'),
    'EDVR_TensorFlow': (
        'tools/main.py (mode train)', 'tools/main.py (mode eval)', 'tools/main.py (mode inference)', 'upscaler.py',
        'tools/main.py (mode freeze)', 'import_weights.py', 'ascendvsr/models/edvr.py', 'ascendcv/dataloader/',
        'ascendcv/runner/sess_config.py', 'ascendvsr/config/defaults.py, configs/edvr.yaml',
        'test/*.sh, scripts/*.sh'),
    'CSNLN_MindSpore': (
        'train.py', 'eval.py', 'infer.py', 'upscaler.py', 'export.py', 'import_weights.py',
        'src/CSNLN.py', 'src/dataset/', 'src/context.py', 'default_config.yaml', 'test/*.sh, scripts/*.sh')}
FILES = ('README.md', 'requirements.txt', 'run_eval.sh', 'run_infer.sh', 'run_export.sh', 'test/train_full_1p.sh',
         'test/train_full_8p.sh', 'test/train_performance_1p.sh', 'test/train_performance_8p.sh', 'tests/smoke.sh',
         'tests/test_*.py')
HEADINGS = ('Overview', 'Quick start', 'Data', 'Training', 'Evaluation', 'Inference', 'Export', 'Weights', 'Files',
            'Options', 'Differences from the released port', 'Speed', 'Results')
LAUNCHERS = ('test/**/*.sh', 'script/**/*.sh', 'scripts/**/*.sh', 'run_eval.sh', 'run_infer.sh', 'run_export.sh')
LAUNCHER_LINES = 30
TABLES = ('README.md', 'README_CN.md', 'CONTRIBUTING.md')  # these hold the role table; the Chinese one names roles anew


def findings(root):
    """Every finding about the checkout at root (a Path), as lines `place: what is wrong`."""
    there = [name for name in MODELS if (root / name).is_dir()]
    for path in sorted(root.glob('*/upscaler.py')):
        if path.parent.name not in MODELS:
            yield f'{path.parent.name}: a model directory that MODELS in ci/check_layout.py does not name'
    for name in there:
        yield from (f'{name}: {message}' for message in check_files(root / name, MODELS[name]))
        yield from (f'{name}/{message}' for message in check_launchers(root / name))
        yield from check_headings(root / name / 'README.md', name)
        yield from check_flags(root / name)
    for path in texts(root):
        yield from check_links(path, root)
        yield from commands.check(path, root, missing=set(MODELS) - set(there))
    for name in TABLES:
        yield from check_table(root / name, name)


def texts(root):
    """The Markdown files of the checkout, sorted; not those of .venv or output."""
    found = []
    for folder, folders, files in os.walk(root):  # links are not followed: common would be visited in every directory
        folders[:] = [name for name in folders if not name.startswith('.') and name != 'output']
        found += [Path(folder, name) for name in files if name.endswith('.md')]
    return sorted(found)


def check_files(directory, cells):
    """Messages about missing files: those of the roles, and those that every directory has."""
    for role, cell in zip(ROLES, cells):
        for part in (part.split(' (')[0] for part in cell.split(', ')):
            if re.search('[./]', part) and not any(directory.glob(part)):
                yield f'no {part}, which plays the role: {role}'
    for pattern in FILES:
        if not any(directory.glob(pattern)):
            yield f'no {pattern}, which every model directory has'


def check_launchers(directory):
    """Messages about launchers: carriage returns, more than LAUNCHER_LINES lines, what `bash -n` says."""
    for path in sorted({path for pattern in LAUNCHERS for path in directory.glob(pattern)}):
        place, content = path.relative_to(directory), path.read_bytes()
        if 'output' in place.parts:
            continue
        if b'\r' in content:
            number = content[:content.index(b'\r')].count(b'\n') + 1
            yield f'{place}:{number}: a carriage return; launchers end lines with LF only'
        lines = len(content.splitlines())
        if lines > LAUNCHER_LINES:
            yield f'{place}: {lines} lines; a launcher has at most {LAUNCHER_LINES}'
        syntax = subprocess.run(['bash', '-n', str(place)], cwd=directory, stdout=subprocess.PIPE,
                                stderr=subprocess.STDOUT)
        if syntax.returncode:
            yield syntax.stdout.decode(errors='replace').splitlines()[0]  # begins with the file's name and the line


def check_flags(directory):
    """Findings about flags that a model's texts name, and that none of its launchers and programs takes.

    The section on differences is left out: it speaks of the released port's flags, too.
    """
    named = [(path, *item) for path in sorted(directory.glob('*.md'))
             for item in commands.named_flags(path, leave_out='Differences from the released port').items()]
    for program in programs(directory):  # launchers first: they answer at once, Python imports its framework
        named = [(path, flag, line) for path, flag, line in named if flag in commands.unknown(program, [flag])]
        if not named:
            return
    yield from (f'{directory.name}/{path.name}:{line}: no launcher or program of this directory takes {flag}'
                for path, flag, line in named)


def programs(directory):
    """The launchers, then the Python programs, of a model directory."""
    launchers = sorted({path for pattern in LAUNCHERS for path in directory.glob(pattern)})
    roles = [directory / part.split(' (')[0] for cell in MODELS[directory.name] for part in cell.split(', ')]
    others = [*sorted(directory.glob('*.py')), directory / 'tests' / 'bench.py']
    scripts = [path for path in dict.fromkeys([*roles, *others]) if path.suffix == '.py' and path.is_file()]
    return ([path for path in launchers if path.relative_to(directory).as_posix() in FILES
             or '/common/launch.sh"' in path.read_text(encoding='utf-8', errors='replace')]
            + [path for path in scripts if '__main__' in path.read_text(encoding='utf-8', errors='replace')])


def check_headings(path, name):
    """Findings about a model's README: each of HEADINGS must be there, in their order."""
    if not path.is_file():
        return
    given = re.findall('^## (.+?) *$', commands.without_code(path.read_text(encoding='utf-8')), re.MULTILINE)
    for heading in HEADINGS:
        if heading not in given:
            yield f"{name}/README.md: no heading '## {heading}'"
    ours = [heading for heading in given if heading in HEADINGS]
    if ours != sorted(ours, key=HEADINGS.index):
        yield f'{name}/README.md: the headings come in the order {", ".join(ours)}; expected {", ".join(HEADINGS)}'


def check_links(path, root):
    """Findings about relative links of a Markdown file that lead nowhere."""
    for number, line in enumerate(commands.without_code(path.read_text(encoding='utf-8')).splitlines(), 1):
        for target in re.findall(r'\]\(<?([^)>\s]+)', line):
            file = target.split('#')[0]
            if file and not re.match('[a-z]+:', target) and not (path.parent / file).exists():
                yield f'{path.relative_to(root)}:{number}: the link {target} leads nowhere'


def table_rows():
    """The rows of the role table, the head first, each a list of cells."""
    return [['role', *MODELS], *([role, *(cells[i] for cells in MODELS.values())] for i, role in enumerate(ROLES))]


def check_table(path, name):
    """Findings about the role table of a text: it must be there and say what MODELS says; ours to word: column one."""
    if not path.is_file():
        yield f'{name}: missing'
        return
    rows = [[cell.strip(' `') for cell in line.strip().strip('|').split('|')]
            for line in path.read_text(encoding='utf-8').splitlines() if line.startswith('|')]
    head, *wanted = table_rows()
    start = next((i for i, row in enumerate(rows) if row[1:] == head[1:]), None)
    if start is None:
        yield f'{name}: no role table with the columns {", ".join(head[1:])} (--table prints it)'
        return
    for given, row in zip(rows[start + 2:] + [[]] * len(wanted), wanted):
        if given[1:] != row[1:]:
            yield f'{name}: the role table differs from ci/check_layout.py at: {row[0]} (--table prints it)'


def main(argv=None):
    """Command line; returns the exit status."""
    parser = cli.Parser(description='Check that the model directories and the READMEs agree.')
    parser.add_argument('--root', type=Path, default=ROOT, help='checkout to look at')
    parser.add_argument('--table', action='store_true', help='print the role table and end')
    args = parser.parse_args(argv)
    if args.table:
        head, *rows = table_rows()
        print(*(f'| {" | ".join(row)} |' for row in (head, ['---'] * len(head), *rows)), sep='\n')
        return 0
    count = 0
    for count, line in enumerate(findings(args.root.resolve()), 1):  # noqa: B007 - counts what is printed
        print(line, flush=True)
    print(f'layout: {count} findings')
    return int(count > 0)


if __name__ == '__main__':
    cli.run(main)
