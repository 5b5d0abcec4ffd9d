import os
import subprocess
import sys
from pathlib import Path

import pytest

from common import cli

ROOT = Path(__file__).resolve().parents[2]


def script(body, *arguments, flags=()):
    """Run `main` with the given body under cli.run in a process of its own."""
    program = f'import os, sys\nfrom common import cli\ndef main():\n    {body}\ncli.run(main)\n'
    environment = dict(os.environ, PYTHONPATH=str(ROOT))
    return subprocess.run([sys.executable, *flags, '-c', program, *arguments], env=environment, capture_output=True,
                          text=True, timeout=60)


@pytest.mark.parametrize('body, status, message', [
    ('pass', 0, ''),
    ('return {"psnr": 1}', 0, ''),
    ('return 3', 3, ''),
    ('sys.exit(1)', 1, ''),
    ('raise ValueError("scale 5; known: 2, 3, 4")', 2, 'error: scale 5; known: 2, 3, 4\n'),
    ('open("/nowhere/x.png")', 2, 'error: /nowhere/x.png: No such file or directory\n'),
    ('raise OSError("network is down")', 2, 'error: network is down\n'),
    ('raise KeyboardInterrupt', 130, 'stopped by Ctrl-C\n'),
])
def test_status_and_message(body, status, message):
    done = script(body)
    assert (done.returncode, done.stderr) == (status, message)


def test_a_bug_keeps_its_traceback_and_dev_mode_shows_every_one():
    assert 'Traceback' in script('raise KeyError("x")').stderr
    assert 'Traceback' in script('raise ValueError("x")', flags=('-X', 'dev')).stderr


def test_a_closed_pipe_ends_quietly():
    program = 'from common import cli\ndef main():\n    for i in range(100000): print(i)\ncli.run(main)\n'
    done = subprocess.run(f'{sys.executable} -c "{program}" | head -1', shell=True, capture_output=True,
                          env=dict(os.environ, PYTHONPATH=str(ROOT)), timeout=60)
    assert (done.stdout, done.stderr) == (b'0\n', b'')


@pytest.mark.skipif(not sys.platform.startswith('linux'), reason='only Linux tells a process that its parent ended')
def test_a_worker_whose_parent_ended_before_it_began_ends():
    assert script('cli.end_with_parent(os.getppid())').returncode == 0
    assert script('cli.end_with_parent(-1)').returncode == 1


@pytest.fixture
def parser():
    parser = cli.Parser(prog='train.py')
    parser.add_argument('--scale', type=int, required=True, help='factor')
    parser.add_argument('--learning_rate', type=float, default=1e-4, help='start value')
    parser.add_argument('--amp', action='store_true', help='16 bit')
    parser.add_argument('--to', help='a short word: most of --foo with the dashes')
    parser.add_argument('rest', nargs='*')
    return parser


@pytest.mark.parametrize('arguments, message', [
    (['--sacle', '2'], 'error: unknown option --sacle; did you mean --scale?'),
    (['--scale=2', '--learning-rate=1'], 'error: unknown option --learning-rate; did you mean --learning_rate?'),
    (['--scale=2', '--learn=1'], 'error: unknown option --learn'),  # no abbreviations
    (['--scale=2', '--foo'], 'error: unknown option --foo\n'),
    (['--scale=2', '--ampp'], 'error: unknown option --ampp; did you mean --amp?'),
    (['--scale=2', '--zzzzzz'], 'error: unknown option --zzzzzz\n'),
    ([], 'error: the following arguments are required: --scale'),
    (['--scale=big'], "error: argument --scale: invalid int value: 'big'"),
])
def test_parser_names_what_is_wrong(parser, capsys, arguments, message):
    with pytest.raises(SystemExit) as stop:
        parser.parse_args(arguments)
    assert stop.value.code == 2
    assert capsys.readouterr().err.startswith(message)


def test_parser_takes_good_input(parser):
    options = parser.parse_args(['--scale', '3', '--learning_rate=-1', '--', '--not-ours'])
    assert (options.scale, options.learning_rate, options.rest) == (3, -1.0, ['--not-ours'])
    assert '(default: 0.0001)' in parser.format_help()
