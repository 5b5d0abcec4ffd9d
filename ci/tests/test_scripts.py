"""ci/test.sh, ci/smoke.sh and .ci/run go on past a failure, say who failed, and end with the right status."""
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FILES = {
    'ci/check_layout.py': 'print("layout was checked")\n',
    'ci/report.py': 'import sys\n\nprint("report of", *sys.argv[2:])\n',
    'common/make_sample.py': 'import os\nimport sys\n\nos.makedirs(sys.argv[1])\n',
    'common/tests/test_a.py': 'import os\n\nimport pytest\n\n\ndef test_here():\n'
                              '    assert os.path.basename(os.getcwd()) == "common"\n\n\n@pytest.mark.slow\n'
                              'def test_slowly():\n    raise RuntimeError("the slow one ran")\n',
    'Good_A/tests/test_a.py': 'def test_a():\n    pass\n',
    'Good_A/tests/smoke.sh': 'echo "out of A"; echo "$1" >"$2/said"; test ! -e "$2/old"; ! read -r line\n',
    'Weak_B/tests/test_b.py': 'def test_b():\n    raise RuntimeError("B is weak")\n',
    'Weak_B/tests/smoke.sh': 'echo "out of B" >&2; exit 7\n',
    'pyproject.toml': '[tool.pytest.ini_options]\nmarkers = ["slow: x"]\n',
}


@pytest.fixture
def root(tmp_path):
    root = tmp_path / 'a checkout'
    for name, text in FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    for name in ('ci/env.sh', 'ci/test.sh', 'ci/smoke.sh', '.ci/run'):
        (root / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, root / name)
    (root / '.venv' / 'bin').mkdir(parents=True)  # as if the user had made it
    (root / '.venv' / 'bin' / 'python').write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    (root / '.venv' / 'bin' / 'python').chmod(0o755)
    return root


def bash(root, *command):
    """(exit status, output) of a script, started in another folder."""
    environment = {name: value for name, value in os.environ.items() if name not in ('RUN_SLOW', 'PYTHON')}
    done = subprocess.run(['bash', str(root / command[0]), *command[1:]], cwd=root.parent, env=environment,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=120)
    return done.returncode, done.stdout.decode()


def verdicts(output):
    closing = output[output.rindex('====\n'):].splitlines()[1:]
    return [line.split()[:-2] for line in closing]


def test_tests_of_all_directories(root):
    status, output = bash(root, 'ci/test.sh')
    assert status == 1
    assert verdicts(output) == [['passed', 'ruff'], ['passed', 'shell', 'syntax'], ['passed', 'layout'],
                                ['passed', 'Good_A'], ['FAILED', 'Weak_B'], ['passed', 'common']]
    assert 'B is weak' in output and '1 passed, 1 deselected' in output and 'layout was checked' in output


def test_tests_of_one_directory_and_slow_ones(root):
    assert bash(root, 'ci/test.sh', 'Good_A/')[0] == 0
    status, output = bash(root, 'ci/test.sh', '--slow', 'common')
    assert status == 1 and 'the slow one ran' in output and 'Good_A' not in output


def test_a_shell_script_that_does_not_parse(root):
    (root / 'Good_A' / 'broken.sh').write_text('if\n')
    status, output = bash(root, 'ci/test.sh', 'Good_A')
    assert status == 1 and './Good_A/broken.sh: line 2: syntax error' in output
    assert ['FAILED', 'shell', 'syntax'] in verdicts(output) and ['passed', 'Good_A'] in verdicts(output)


@pytest.mark.parametrize('script, known', [('ci/test.sh', 'Good_A Weak_B common'), ('ci/smoke.sh', 'Good_A Weak_B')])
def test_an_unknown_directory(root, script, known):
    status, output = bash(root, script, 'Good_A', 'God_A')
    assert status == 2 and "error: 'God_A' has no tests" in output and f'known: {known}\n' in output


def test_smoke_runs_of_all_directories(root):
    (root / 'output' / 'smoke' / 'Good_A').mkdir(parents=True)
    (root / 'output' / 'smoke' / 'Good_A' / 'old').touch()
    status, output = bash(root, 'ci/smoke.sh')
    smoke = root / 'output' / 'smoke'
    assert status == 1 and 'error: Weak_B/tests/smoke.sh ended with status 7' in output
    assert output.endswith('====\nreport of Good_A Weak_B\n')
    assert (smoke / 'Good_A' / 'said').read_text() == f'{smoke}/data\n'
    assert (smoke / 'Good_A' / 'smoke.log').read_text() == 'out of A\n' and 'out of A\n' in output
    assert (smoke / 'Weak_B' / 'smoke.log').read_text() == 'out of B\n'
    assert '"status": 7' in (smoke / 'Weak_B' / 'result.json').read_text()


def test_the_smoke_run_of_one_directory(root):
    status, output = bash(root, 'ci/smoke.sh', 'Good_A')
    assert status == 0 and output.endswith('report of Good_A\n') and 'Weak_B' not in output


@pytest.fixture
def tensorflow_1(root):
    """As if ci/env.sh --tf115 had built an environment of the user's own, for one model."""
    shutil.copytree(root / '.venv', root / '.venv-tf115')
    for name, text in (('test_t.py', 'def test_t():\n    pass\n'),
                       ('smoke.sh', 'echo "smoke with .venv${PYTHON##*.venv}"; test -d "$1"; mkdir "$2"\n')):
        (root / 'C_TensorFlow' / 'tests').mkdir(parents=True, exist_ok=True)
        (root / 'C_TensorFlow' / 'tests' / name).write_text(text)


def test_tensorflow_1(root, tensorflow_1):
    (root / 'output' / 'smoke-tf115' / 'C_TensorFlow').mkdir(parents=True)  # an earlier run's
    status, output = bash(root, 'ci/test.sh', '--tf115')
    assert status == 0 and 'smoke with .venv-tf115/bin/python\n' in output
    assert verdicts(output) == [['passed', 'C_TensorFlow'], ['passed', 'C_TensorFlow', 'smoke'], ['passed', 'common']]
    status, output = bash(root, 'ci/test.sh', 'Good_A', '--tf115')
    assert status == 2 and "'Good_A' has no tests; known: C_TensorFlow common\n" in output
    (root / 'C_TensorFlow' / 'tests' / 'smoke.sh').write_text('exit 3\n')
    status, output = bash(root, 'ci/test.sh', '--tf115', 'C_TensorFlow')
    assert status == 1 and verdicts(output)[-1] == ['FAILED', 'C_TensorFlow', 'smoke']


def test_without_a_python_for_tensorflow_1(root):
    (root / 'ci' / 'env.sh').write_text('echo "no Python 3.7"\n')
    assert bash(root, 'ci/test.sh', '--tf115') == (0, 'no Python 3.7\n')


def test_ci_runs_all_and_fails_when_one_does(root, tensorflow_1):
    shutil.rmtree(root / 'C_TensorFlow')
    status, output = bash(root, '.ci/run')
    assert status == 1 and output.count('passed  common') == 2 and 'report of Good_A Weak_B' in output
    (root / 'Weak_B' / 'tests' / 'test_b.py').write_text('def test_b():\n    pass\n')
    assert bash(root, '.ci/run')[0] == 1  # the smoke run still fails
    (root / 'Weak_B' / 'tests' / 'smoke.sh').write_text('true\n')
    assert bash(root, '.ci/run')[0] == 0


@pytest.mark.parametrize('script', ['ci/env.sh', 'ci/test.sh', 'ci/smoke.sh'])
def test_help(script):
    status, output = bash(ROOT, script, '--help')
    assert status == 0 and f'bash {script}' in output
