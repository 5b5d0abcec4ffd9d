"""ci/env.sh builds once, is quick the second time, starts anew after a kill: a stand-in for Python notes its calls."""
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ENV = Path(__file__).resolve().parents[1] / 'env.sh'
# `-c` and `-` are real Python; `-m venv` copies the stand-in, `-m pip` notes what it would install, or waits for ever.
STAND_IN = f'''#!/usr/bin/env bash
case $*  in
  '-m venv'*) echo venv >>calls; mkdir "$3/bin"; cp "$0" "$3/bin/python" ;;
  '-m pip'*)
    echo pip $(cat .venv/requirements.txt) >>calls
    [[ ! -e hang ]] || {{ echo $$ >hanging; exec sleep 100; }}
    [[ ! -e fail ]] ;;
  -V) echo Python 3.11 ;;
  *) exec {sys.executable} "$@" ;;
esac
'''
STAND_IN_37 = STAND_IN.replace('-V)', """'-c import sys, venv'*) ;;
  '-c import sys; print('*) echo 3.7 ;;
  -V)""").replace('cat .venv/', 'cat .venv-tf115/').replace('echo Python 3.11', 'echo Python 3.7.16')
PYPROJECT = '''[project]
dependencies = ["numpy"]
[project.optional-dependencies]
torch = ["torch>=2.1; python_version > '3'"]
tensorflow = ["tensorflow"]
dev = ["pytest"]
'''


@pytest.fixture
def checkout(tmp_path):
    root = tmp_path / 'a checkout'
    (root / 'ci').mkdir(parents=True)
    shutil.copy(ENV, root / 'ci')
    for name in ('constraints.txt', 'constraints-tf115.txt'):
        (root / 'ci' / name).write_text('numpy==1.26.4\n')
    (root / 'pyproject.toml').write_text(PYPROJECT)
    for name, text in (('stand-in', STAND_IN), ('stand-in-3.7', STAND_IN_37)):
        (root / name).write_text(text)
        (root / name).chmod(0o755)
    return root


def start(root, *words, **variables):
    environment = {**os.environ, 'PYTHON': './stand-in', 'PYTHON37': './stand-in-3.7', **variables}
    environment.pop('MODELZOO_EXTRAS', None) if 'MODELZOO_EXTRAS' not in variables else None
    return subprocess.Popen(['bash', 'ci/env.sh', *words], cwd=root, env=environment, stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT, start_new_session=True)


def env(root, *words, **variables):
    """(exit status, output) of ci/env.sh."""
    process = start(root, *words, **variables)
    output = process.communicate(timeout=60)[0].decode()
    return process.returncode, output


def calls(root):
    """What was called since the last look."""
    path = root / 'calls'
    lines = path.read_text().splitlines() if path.exists() else []
    path.write_text('')
    return lines


ALL = "pip numpy torch>=2.1; python_version > '3' tensorflow pytest"


def test_builds_once_and_updates_in_place(checkout):
    assert env(checkout)[0] == 0
    assert calls(checkout) == ['venv', ALL]
    assert env(checkout) == (0, '') and calls(checkout) == []
    with open(checkout / 'ci' / 'constraints.txt', 'a') as file:
        file.write('pytest==9\n')
    (checkout / '.venv' / 'added by the user').touch()
    assert env(checkout)[0] == 0 and calls(checkout) == [ALL]
    assert (checkout / '.venv' / 'added by the user').exists()


def test_chosen_extras(checkout):
    assert env(checkout, MODELZOO_EXTRAS='dev')[0] == 0
    assert calls(checkout) == ['venv', 'pip numpy pytest']
    status, output = env(checkout, MODELZOO_EXTRAS='dev,torhc')
    assert status == 2 and "unknown extra 'torhc' in MODELZOO_EXTRAS; known: ['dev', 'tensorflow', 'torch']" in output
    assert env(checkout, MODELZOO_EXTRAS='dev') == (0, '') and calls(checkout) == []  # the mistake did no harm


def test_half_built_is_built_anew(checkout):
    (checkout / 'hang').touch()
    process = start(checkout)
    deadline = time.time() + 30
    while not (checkout / 'hanging').exists() and time.time() < deadline:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    (checkout / 'hang').unlink()
    calls(checkout)
    assert env(checkout)[0] == 0 and calls(checkout) == ['venv', ALL]
    assert not (checkout / '.venv.old').exists()


def test_failing_pip_is_reported_and_mended_by_the_same_command(checkout):
    (checkout / 'fail').touch()
    status, output = env(checkout)
    assert status == 1 and 'error: pip could not install everything' in output
    (checkout / 'fail').unlink()
    assert env(checkout)[0] == 0 and env(checkout) == (0, '')


def test_two_at_a_time_build_one(checkout):
    processes = [start(checkout) for _ in range(4)]
    assert [process.communicate(timeout=60) and process.returncode for process in processes] == [0] * 4
    assert calls(checkout) == ['venv', ALL]


def test_an_environment_of_the_users_own_stays(checkout):
    (checkout / '.venv' / 'bin').mkdir(parents=True)
    shutil.copy(checkout / 'stand-in', checkout / '.venv' / 'bin' / 'python')
    assert env(checkout) == (0, '') and calls(checkout) == []
    (checkout / '.venv' / 'bin' / 'python').unlink()
    status, output = env(checkout)
    assert status == 1 and 'ci/env.sh did not make it; move it away' in output and (checkout / '.venv' / 'bin').exists()


def test_an_empty_environment_and_one_whose_python_has_gone_are_built(checkout):
    (checkout / '.venv').mkdir()
    assert env(checkout)[0] == 0 and calls(checkout) == ['venv', ALL]
    (checkout / '.venv' / 'bin' / 'python').unlink()
    assert env(checkout)[0] == 0 and calls(checkout) == ['venv', ALL]


def test_shims_that_do_not_work_are_skipped(checkout):
    for folder, text in (('shims', '#!/bin/sh\nexit 127\n'), ('real', STAND_IN)):
        (checkout / folder).mkdir()
        (checkout / folder / 'python3.11').write_text(text)
        (checkout / folder / 'python3.11').chmod(0o755)
    path = f'{checkout}/shims:{checkout}/real:{os.environ["PATH"]}'
    assert env(checkout, PYTHON='', PATH=path)[0] == 0 and calls(checkout) == ['venv', ALL]


def test_no_python_is_a_message(checkout):
    status, output = env(checkout, PYTHON='/nowhere/python')
    assert status == 1 and 'no usable Python among: /nowhere/python. Expected 3.10 or 3.11 or 3.12' in output
    assert not (checkout / '.venv').exists()


def test_tensorflow_1_is_built_beside_it(checkout):
    assert env(checkout, '--tf115')[0] == 0
    assert calls(checkout) == ['venv', 'pip numpy tensorflow pytest'] and not (checkout / '.venv').exists()
    assert env(checkout, '--tf115') == (0, '') and calls(checkout) == []
    assert env(checkout)[0] == 0 and calls(checkout) == ['venv', ALL]
    (checkout / 'ci' / 'constraints-tf115.txt').write_text('numpy==1.18.5\n')
    assert env(checkout) == (0, '') and env(checkout, '--tf115')[0] == 0
    assert calls(checkout) == ['pip numpy tensorflow pytest']


def test_a_python_37_of_pyenv_is_found_and_none_is_a_line(checkout):
    path = ':'.join(folder for folder in os.environ['PATH'].split(':') if not os.path.exists(f'{folder}/python3.7'))
    where = {'PYTHON37': '', 'PATH': path, 'PYENV_ROOT': str(checkout / 'py env')}
    status, output = env(checkout, '--tf115', **where)
    assert status == 0 and output == 'no Python 3.7 on PATH, in pyenv or $PYTHON37: without TensorFlow 1.15\n'
    assert not (checkout / '.venv-tf115').exists()
    folder = checkout / 'py env' / 'versions' / '3.7.16' / 'bin'
    folder.mkdir(parents=True)
    shutil.copy(checkout / 'stand-in-3.7', folder / 'python3.7')
    assert env(checkout, '--tf115', **where)[0] == 0 and calls(checkout) == ['venv', 'pip numpy tensorflow pytest']


def test_a_python_37_that_does_not_work_is_a_message(checkout):
    status, output = env(checkout, '--tf115', PYTHON37='./stand-in')
    assert status == 1 and f'no usable Python among: {checkout}/stand-in. Expected 3.7 with its venv module' in output
