"""The commands and flags that a Markdown file tells its readers to type: do the programs exist and take the flags?

Read are the fenced blocks marked bash, sh, shell, console or not at all. Looked at are `bash X.sh ...`,
`python X.py ...` and `torchrun ... X.py ...`; what such a program takes is what its own --help prints.
In the text and its tables, `code` that begins with a flag is read.
"""
import functools
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

LANGUAGES = ('', 'bash', 'sh', 'shell', 'console')
FENCE = re.compile(r'^ {0,3}(```+|~~~+) *([\w+-]*)')
FLAG = re.compile(r'(?<![\w-])--[A-Za-z][\w-]*')
HELP_SECONDS = 120  # importing a framework on a busy machine


def check(path, root, missing):
    """Findings `file:line: ...` about the commands of a Markdown file; missing: model directories not there yet."""
    for number, folder, words in commands(path):
        place = f'{path.relative_to(root)}:{number}'
        script, flags, forwarded = parse(words)
        if script is None:
            continue
        file = Path(os.path.normpath(folder / script))
        if any(part in missing for part in (*file.parts, *path.relative_to(root).parts)):
            continue
        if not file.is_file():
            if not os.path.isabs(script):
                yield f'{place}: {script}: no such file, from {os.path.relpath(folder, root)}'
            continue
        yield from (f'{place}: {script} takes no {flag}' for flag in unknown(file, flags))
        program = program_of(file) if forwarded else None
        if program:
            yield from (f'{place}: {program.name}, which gets what follows --, takes no {flag}'
                        for flag in unknown(program, forwarded))


def named_flags(path, leave_out):
    """{flag: line} of what `code` beginning with a flag names outside fenced blocks and the section `leave_out`."""
    flags, heading = {}, ''
    for number, line in enumerate(without_blocks(path.read_text(encoding='utf-8')).splitlines(), 1):
        heading = line if line.startswith('## ') else heading
        if not heading.startswith(f'## {leave_out}'):
            for code in re.findall('`(--[^`]+)`', line):
                flags.update((flag, number) for flag in FLAG.findall(code) if flag not in flags)
    return flags


def without_code(text):
    """The Markdown with its fenced blocks and its `code` left empty, so that line numbers stay."""
    return re.sub('`[^`\n]*`', '', without_blocks(text))


def without_blocks(text):
    """The Markdown with the lines of its fenced blocks left empty."""
    lines, fence = [], None
    for line in text.splitlines():
        mark = FENCE.match(line)
        if mark and fence is None:
            fence = mark.group(1)
        elif fence is not None:
            fence = None if line.strip().startswith(fence) else fence
        else:
            lines.append(line)
            continue
        lines.append('')
    return '\n'.join(lines)


def blocks(text):
    """Yields (number of its first line, [lines]) of each fenced block that holds commands."""
    fence = language = None
    for number, line in enumerate(text.splitlines(), 1):
        mark = FENCE.match(line)
        if fence is None and mark:
            fence, language, start, inside = mark.group(1), mark.group(2), number + 1, []
        elif fence is not None and line.strip().startswith(fence):
            if language in LANGUAGES:
                yield start, inside
            fence = None
        elif fence is not None:
            inside.append(line)


def commands(path):
    """Yields (line number, folder it is typed in, [words]) of each command; `cd` moves what follows in its block."""
    for start, lines in blocks(path.read_text(encoding='utf-8')):
        folder, begun = path.parent, ''
        for number, line in enumerate(lines, start):
            line = begun + re.sub(r'^\s*\$ ', '', line)
            begun = line[:-1] + ' ' if line.endswith('\\') else ''
            if begun:
                continue
            for words in split(line):
                if words[0] == 'cd' and len(words) == 2:
                    folder = folder / words[1]
                else:
                    yield number, folder, words


def split(line):
    """The simple commands of a shell line, each a list of words without the variables set in front of it."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars='();<>|&')
    lexer.whitespace_split = True
    try:
        words = list(lexer)
    except ValueError:  # an apostrophe in what is no command, such as printed output
        return
    command = []
    for word in [*words, ';']:
        if set(word) <= set('();|&'):
            if command:
                yield command
            command = []
        elif command or not re.match(r'\w+=', word):
            command.append(word)


def parse(words):
    """(script or None, its flags, the flags behind a lone --) of a command."""
    program, rest = os.path.basename(words[0]), words[1:]
    if words[:3] and re.fullmatch(r'python[\d.]*', program) and rest[:2] == ['-m', 'torch.distributed.run']:
        program, rest = 'torchrun', rest[2:]
    if program in ('bash', 'sh'):
        rest = rest if rest and rest[0].endswith('.sh') else []
    elif program == 'torchrun':  # its own flags come before the script
        rest = rest[next((i for i, word in enumerate(rest) if word.endswith('.py')), len(rest)):]
    elif not (re.fullmatch(r'python[\d.]*', program) and rest and rest[0].endswith('.py')):
        return None, [], []
    if not rest:
        return None, [], []
    end = rest.index('--') if '--' in rest else len(rest)
    return rest[0], flags_of(rest[1:end]), flags_of(rest[end + 1:])


def flags_of(words):
    return [word.split('=')[0] for word in words if FLAG.match(word)]


def unknown(file, flags):
    return [flag for flag in dict.fromkeys(flags) if flag not in ('--help', *accepted(file))]


def program_of(launcher):
    """The Python program that a launcher runs, in the folder that it runs in, or None."""
    text = launcher.read_text(encoding='utf-8', errors='replace')
    folder = launcher.parent.parent if launcher.parent.name in ('test', 'script', 'scripts') else launcher.parent
    names = re.findall(r'^\s*(?:run|run_ranks)\b[^\n]*?(?:\\\n[^\n]*?)*?([\w./-]+\.py)\b', text, re.MULTILINE)
    return next((folder / name for name in names if (folder / name).is_file()), None)


@functools.lru_cache(maxsize=None)
def accepted(file):
    """The flags in what a script's --help prints; --helpfull for absl, whose --help is about the main module only."""
    program = ['bash'] if file.suffix == '.sh' else [sys.executable]
    environment = {**os.environ, 'PYTHON': sys.executable, 'COLUMNS': '200'}
    for ask in ('--help', '--helpfull'):
        done = subprocess.run([*program, file.name, ask], cwd=file.parent, env=environment, stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=HELP_SECONDS)
        text = done.stdout.decode(errors='replace')
        if '--helpfull' not in text:
            break
    return frozenset(FLAG.findall(text))
