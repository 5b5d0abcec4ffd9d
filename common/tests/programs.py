"""What the tests of every model's directory need: programs run as a user starts them, quiet surroundings, refusals.

pytest runs in a model's directory, so that its programs are found there.
"""
import contextlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path.cwd()
TEST_DEVICE_ID = '95'  # launchers file their logs under it, in test/output/95
OF_USERS = ('RANK', 'RANK_ID', 'RANK_SIZE', 'LOCAL_RANK', 'WORLD_SIZE', 'DEVICE_ID', 'DEVICE_INDEX', 'MASTER_ADDR',
            'MASTER_PORT', 'MS_WORKER_NUM', 'MS_ROLE', 'RANK_TABLE_FILE', 'PROGRESS_TTY', 'etp_running_flag',
            'PYTHONPATH')


@contextlib.contextmanager
def quiet(cache, **environment):
    """A cache of its own, these variables, and nothing of the user's environment that a launcher reads."""
    patch = pytest.MonkeyPatch()
    for name in OF_USERS:
        patch.delenv(name, raising=False)
    for name, value in dict(environment, XDG_CACHE_HOME=str(cache), PYTHON=sys.executable,
                            ASCEND_DEVICE_ID=TEST_DEVICE_ID).items():
        patch.setenv(name, value)
    yield
    patch.undo()
    shutil.rmtree(str(ROOT / 'test' / 'output' / TEST_DEVICE_ID), ignore_errors=True)


def flags(**options):
    """Options as command-line words; True is a bare flag, None leaves it out."""
    given = {name: value for name, value in options.items() if value is not None}
    return [f'--{name}' if value is True else f'--{name}={value}' for name, value in given.items()]


def start(*command, folder=ROOT, **environment):
    """A program, its output in pipes; TensorFlow's own lines are not kept from it by what this process has set."""
    around = {name: value for name, value in os.environ.items() if name != 'TF_CPP_MIN_LOG_LEVEL'}
    return subprocess.Popen([str(word) for word in command], cwd=str(folder), env=dict(around, **environment),
                            universal_newlines=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def call(*command, **more):
    """Runs a program to its end: an object with returncode, stdout and stderr; `more` is for start."""
    with start(*command, **more) as process:
        try:
            output, errors = process.communicate(timeout=120)
        finally:
            process.kill()
    return subprocess.CompletedProcess(command, process.returncode, output, errors)


def python(script, **options):
    """Runs a script of the model's folder with those options."""
    return call(sys.executable, script, *flags(**options))


def refused(capsys, run, *words, **options):
    """run(**options) ends with ValueError, OSError or exit 2, and with those words; returns all it said."""
    with pytest.raises((ValueError, OSError, SystemExit)) as error:
        run(**options)
    text = str(error.value) if error.type is not SystemExit else capsys.readouterr().err
    assert error.type is not SystemExit or error.value.code == 2
    for word in words:
        assert word in text
    return text
