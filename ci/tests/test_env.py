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
PYPROJECT = '''[project]
dependencies = ["numpy"]
[project.optional-dependencies]
torch = ["torch>=2.1; python_version > '3'"]
dev = ["pytest"]
'''


@pytest.fixture
def checkout(tmp_path):
    root = tmp_path / 'a checkout'
    (root / 'ci').mkdir(parents=True)
    shutil.copy(ENV, root / 'ci')
    (root / 'ci' / 'constraints.txt').write_text('numpy==1.26.4\n')
    (root / 'pyproject.toml').write_text(PYPROJECT)
    (root / 'stand-in').write_text(STAND_IN)
    (root / 'stand-in').chmod(0o755)
    return root


def start(root, **variables):
    environment = {**os.environ, 'PYTHON': './stand-in', **variables}
    environment.pop('MODELZOO_EXTRAS', None) if 'MODELZOO_EXTRAS' not in variables else None
    return subprocess.Popen(['bash', 'ci/env.sh'], cwd=root, env=environment, stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT, start_new_session=True)


def env(root, **variables):
    """(exit status, output) of ci/env.sh."""
    process = start(root, **variables)
    output = process.communicate(timeout=60)[0].decode()
    return process.returncode, output


def calls(root):
    """What was called since the last look."""
    path = root / 'calls'
    lines = path.read_text().splitlines() if path.exists() else []
    path.write_text('')
    return lines


ALL = "pip numpy torch>=2.1; python_version > '3' pytest"


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
    assert status == 2 and "unknown extra 'torhc' in MODELZOO_EXTRAS; known: ['dev', 'torch']" in output
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
    assert status == 1 and 'no usable Python among: /nowhere/python. Expected 3.10, 3.11 or 3.12' in output
    assert not (checkout / '.venv').exists()
