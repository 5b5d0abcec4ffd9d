"""Launchers built in a folder whose name holds spaces and quotes, over the real common/launch.sh."""
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

LIBRARY = Path(__file__).resolve().parents[1] / 'launch.sh'
LINUX = shutil.which('bash') and os.path.isdir('/proc/self') and sys.version_info >= (3, 8)
pytestmark = pytest.mark.skipif(not LINUX, reason='the shell on Linux; one of two Pythons is enough to show it')

SHOW = '''
option data_path '' 'folder that holds DIV2K/' path
option output_path ./output 'where results go' path
option device auto 'npu, gpu or cpu'
option batch_size 160 'patches per step'
switch ifcontinue 'resume'
synonym train_dataset_dir data_path
positional dataset 'Set5, Set14 or a folder'
positional checkpoint 'weights' path
parse_options "$@"
printf '<%s>' "$data_path" "$output_path" "$device" "$batch_size" "$ifcontinue" "$dataset" "$checkpoint"
printf '<%s>' "${forwarded[@]}"
'''
RUN = '''
option device_id 0 'device'; option nproc 2 'processes'; option device_list '' 'devices'
parse_options "$@"
train_log
run "$python" "${forwarded[@]}"
'''
RANKS = RUN.replace('run "$python"', 'run_ranks "$nproc" "$python"')
SLEEP = 'import time; print("ready", flush=True); time.sleep(60)'
STUBBORN = 'import signal\nfor s in (1, 2, 15): signal.signal(s, signal.SIG_IGN)\n' + SLEEP


def orphan(program):
    """Python text that starts the program in a session of its own, as torchrun starts its ranks."""
    return f'import subprocess, sys\nsubprocess.Popen([sys.executable, "-c", {program!r}], start_new_session=True)\n'


class Model:
    """A repository with one model directory, whose launchers source the real library."""

    def __init__(self, tmp_path):
        self.user = tmp_path / 'user dir'
        self.root = self.user / 'my "repo" $HOME'
        self.path = self.root / 'RCAN it'
        self.path.mkdir(parents=True)
        (self.root / 'common').mkdir()
        (self.root / 'common' / 'launch.sh').symlink_to(LIBRARY)
        self.env = {k: v for k, v in os.environ.items() if k not in (
            'ASCEND_DEVICE_ID', 'RANK_TABLE_FILE', 'PROGRESS_TTY', 'PYTHONPATH', 'etp_running_flag', 'LAUNCHED_BY')}
        self.env.update(PYTHON=sys.executable, STOP_GRACE='1', LC_ALL='C')

    def write(self, body, place='test/go.sh'):
        file = self.path / place
        file.parent.mkdir(exist_ok=True)
        up = '../' * (place.count('/') + (not (self.path / 'common').exists()))
        file.write_text(f'#!/usr/bin/env bash\n# Try: bash {place}\n. "$(dirname "$0")/{up}common/launch.sh"\n{body}')
        return str(file)

    def start(self, script, *args, shell='bash', **env):
        # A session of its own; signals as a terminal gives them, though the tests run in the background or under nohup.
        return subprocess.Popen(
            [shell, script, *args], cwd=str(self.user), env={**self.env, **env}, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, universal_newlines=True, start_new_session=True,
            preexec_fn=lambda: [signal.signal(number, signal.SIG_DFL) for number in (signal.SIGINT, signal.SIGHUP)])

    def call(self, script, *args, **kwargs):
        """Returns (exit status, standard output, standard error)."""
        process = self.start(script, *args, **kwargs)
        out, err = process.communicate(timeout=20)
        return process.returncode, out, err

    def log(self, name='0/train_0.log'):
        file = self.path / 'test' / 'output' / name
        return file.read_text() if file.exists() else ''


@pytest.fixture
def model(tmp_path):
    model = Model(tmp_path)
    yield model
    assert not processes(str(tmp_path)), 'a process outlived its launcher'


def processes(marker):
    """Ids of the processes whose environment contains the marker (PYTHONPATH holds the repository)."""
    found = []
    for folder in Path('/proc').glob('[0-9]*'):
        try:
            if marker.encode() in (folder / 'environ').read_bytes():
                found.append(int(folder.name))
        except OSError:
            pass  # ended meanwhile, or another user's
    return found


def values(out):
    return re.findall(r'<([^>]*)>', out)


def wait_for(condition, seconds=10):
    end = time.time() + seconds
    while not condition():
        assert time.time() < end, 'waited in vain'
        time.sleep(0.02)


def started(model, body, program):
    process = model.start(model.write(body), '--', '-c', program)
    wait_for(lambda: '\nready\n' in model.log())
    return process


def test_defaults_and_both_forms_and_last_one_wins(model):
    script = model.write(SHOW)
    assert values(model.call(script)[1]) == ['', './output', 'auto', '160', '', '', '', '']
    _, out, _ = model.call(script, '--device=cpu', '--batch_size', '8', '--batch_size=16', '--ifcontinue')
    assert values(out)[2:5] == ['cpu', '16', 'true']
    assert values(model.call(script, '--ifcontinue', '--ifcontinue=false')[1])[4] == ''
    script = model.write('option device auto x\noption device_id 0 x\nparse_options "$@"\necho "<$device><$device_id>"')
    assert values(model.call(script, '--device_id=3')[1]) == ['auto', '3']


@pytest.mark.parametrize('value', [
    'a b', 'a=b=c', '"x" \'y\'', '$(touch boom) `id` $HOME', 'two\nlines\n', '*', '-1', '!', '\\n %s'])
@pytest.mark.parametrize('form', ['=', ' '])
def test_values_are_never_shell_text(model, value, form):
    args = ['--device=' + value] if form == '=' else ['--device', value]
    code, out, err = model.call(model.write(SHOW), *args, '--', value)
    assert (code, err) == (0, '')
    assert [values(out)[2], values(out)[-1]] == [value, value]
    assert not list(model.user.rglob('boom'))


def test_paths_mean_what_they_meant_to_the_user(model):
    _, out, _ = model.call(model.write(SHOW), '--train_dataset_dir=./my data\n', '--output_path=/abs', 'Set5', 'ck pt',
                           '--', 'a', '--b=x', '--')
    user = str(model.user)
    assert values(out) == [user + '/my data\n', '/abs', 'auto', '160', '', 'Set5', user + '/ck pt', 'a', '--b=x', '--']
    assert values(model.call(model.write(SHOW), '--data_path=~/x', HOME='/home/me')[1])[0] == '/home/me/x'


@pytest.mark.parametrize('args, expected', [
    (['--bacth_size=8'], 'unknown option --bacth_size; did you mean --batch_size?'),
    (['--data', 'x'], 'did you mean --data_path?'),
    (['--device_id=3'], 'unknown option --device_id; did you mean --device?'),
    (['-hlp'], 'unknown option -hlp; did you mean --help?'),
    (['--@=x'], 'unknown option --@;'),
    (['--a]b[$(touch boom)=x'], 'unknown option --a]b[$(touch boom)'),
    (['--batch_size'], 'batch_size needs a value: patches per step'),
    (['--batch_size=', '--ifcontinue'], 'batch_size needs a value'),
    (['--ifcontinue=maybe'], '--ifcontinue=maybe: a switch'),
    (['Set5', 'ckpt', 'more'], "'more' is one argument too many"),
])
def test_wrong_command_lines_exit_2_with_a_remedy(model, args, expected):
    code, out, err = model.call(model.write(SHOW), *args)
    assert (code, out) == (2, '')
    assert expected in err and '--help' in err and err.count('\n') == 1


def test_required_options_and_positionals(model):
    script = model.write("option data_path '' 'the data' path required\npositional set 'a set' required\n"
                         'parse_options "$@"\necho "<$data_path><$set>"')
    assert model.call(script, 'Set5')[::2] == (2, 'error: data_path is missing: the data (--help lists all options)\n')
    assert 'set is missing: a set' in model.call(script, '--data_path=/d')[2]
    for given in 'Set5', '--set=Set5':
        assert values(model.call(script, '--data_path=/d', given)[1]) == ['/d', 'Set5']


def test_help_lists_every_option_with_its_default(model):
    code, out, err = model.call(model.write(SHOW), '--help', RANK_TABLE_FILE='missing')
    assert (code, err) == (0, '') and model.call(model.write(SHOW), '-h') == (0, out, '')
    assert out.startswith('Try: bash test/go.sh\n\nusage: bash go.sh dataset checkpoint [--option=value ...]')
    assert re.search(r'--batch_size=160 +patches per step\n', out)
    assert all(text in out for text in ('=./output', '--ifcontinue', 'resume', 'same as --data_path', 'Set14'))


@pytest.mark.parametrize('shell', list(filter(shutil.which, ['sh', 'dash', 'bash'])))
@pytest.mark.parametrize('place', ['test/go.sh', 'script/go.sh', 'scripts/go.sh', 'go.sh'])
def test_any_shell_and_any_place(model, shell, place):
    (model.path / 'common').symlink_to('../common')  # as in every model directory
    script = model.write(SHOW + 'echo "$PWD"; printf "<%s>" "$root" "$PYTHONPATH"', place)
    relative = os.path.relpath(script, str(model.user))
    code, out, err = model.call(relative, '--device', 'a  b', shell=shell, CDPATH='.', POSIXLY_CORRECT='1')
    assert (code, err) == (0, '')
    assert values(out)[2] == 'a  b' and values(out)[-2:] == [str(model.root)] * 2
    assert str(model.path) + '\n' in out


def test_python_choice(model):
    script = model.write('parse_options "$@"\necho "<$python>"')
    assert values(model.call(script, PYTHON='')[1]) == ['python3']
    venv = model.root / '.venv' / 'bin' / 'python'
    venv.parent.mkdir(parents=True)
    venv.symlink_to(sys.executable)
    assert values(model.call(script, PYTHON='')[1]) == [str(venv)]
    assert values(model.call(script)[1]) == [sys.executable]
    assert model.call(script, PYTHON='no/python')[0] == 2


def test_rank_table_must_exist_and_becomes_absolute(model):
    script = model.write('parse_options "$@"\nrun "$python" -c \'import os; print(os.environ["RANK_TABLE_FILE"])\'')
    code, _, err = model.call(script, RANK_TABLE_FILE='table.json')
    assert code == 2 and str(model.user / 'table.json') in err
    (model.user / 'table.json').write_text('{}')
    assert model.call(script, RANK_TABLE_FILE='table.json') == (0, str(model.user / 'table.json') + '\n', '')


def test_npu_environment(model):
    script = model.write('option device npu x\nparse_options "$@"\nnpu_environment\necho "${CANN:-}"')
    assert model.call(script) == (0, '\n', '')
    (model.path / 'test' / 'env_npu.sh').write_text('export CANN=here$UNSET_VARIABLE')
    assert model.call(script) == (0, 'here\n', '')
    assert model.call(script, '--device=cpu') == model.call(script, etp_running_flag='true') == (0, '\n', '')


def test_run_passes_status_and_tees_both_streams(model):
    script = model.write(RUN)
    program = 'import sys, common; print("out"); sys.stderr.write("err"); sys.exit(3)'
    assert model.call(script, '--', '-c', program) == (3, 'device id is 0\nout\nerr', '')
    first = model.log()
    assert re.match(r'==== \d{4}-\d\d-\d\d \d\d:\d\d:\d\d .*python.* -c .*\nout\nerr$', first)
    assert model.call(script, '--', '-c', 'for i in range(50000): print(i)')[0] == 0
    assert model.log().startswith(first + '==== ')
    assert model.log().endswith('\n' + '\n'.join(map(str, range(50000))) + '\n')
    assert 'device id is 5\n' in model.call(script, '--device_id=5', '--', '-c', 'print("x")')[1]
    assert model.log('5/train_5.log').endswith('x\n')
    assert 'device id is 2\n' in model.call(script, '--device_id=5', '--', '-c', '', ASCEND_DEVICE_ID='2')[1]
    assert model.call(script, '--device_id=../x', '--', '-c', '')[0] == 2


def test_output_is_logged_at_once_and_status_of_a_signal_is_told(model):
    process = started(model, RUN, SLEEP)
    child, = set(processes('LAUNCHED_BY')) & set(processes(str(model.root)))
    os.kill(child, signal.SIGKILL)
    out = process.communicate(timeout=10)[0]
    line = f'(pid {child}) was killed by signal 9\n'
    assert process.returncode == 137 and line in out and line in model.log()


def test_two_commands_without_log_and_a_misspelt_variable(model):
    body = 'parse_options "$@"\nrun false || echo "status $?"\nrun echo done\necho "$misspelt"'
    assert re.match(r"\(1, 'status 1\\ndone\\n', .*misspelt: unbound variable", repr(model.call(model.write(body))))


def test_a_process_left_behind_is_ended(model):
    start = time.time()
    assert model.call(model.write(RUN), '--', '-c', orphan(SLEEP))[0] == 0
    assert time.time() - start < 5


@pytest.mark.parametrize('body', [RUN, RANKS])
@pytest.mark.parametrize('send', [os.kill, os.killpg])
@pytest.mark.parametrize('number, status', [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_reaches_python_and_the_last_lines_are_kept(model, body, send, number, status):
    program = f'''
import signal, sys
def save(*_):
    print("saved", flush=True)
    sys.exit(7)
signal.signal({int(number)}, save)
{SLEEP}'''
    process = started(model, body, program)
    send(process.pid, number)  # the fixture checks that nothing is left
    out, err = process.communicate(timeout=10)
    assert (process.returncode, err) == (status, '')
    assert out.endswith('\nsaved\n') and model.log().endswith('\nsaved\n')


@pytest.mark.parametrize('body, grace', [(RUN, 1), (RANKS, 1), (RUN, 60)])
def test_a_child_that_ignores_signals_is_killed_after_the_grace_or_at_the_second_ctrl_c(model, body, grace):
    model.env['STOP_GRACE'] = str(grace)
    process = started(model, body, orphan(STUBBORN) + STUBBORN)
    start = time.time()
    os.killpg(process.pid, signal.SIGINT)
    if grace > 1:
        time.sleep(1.2)
        os.killpg(process.pid, signal.SIGINT)
    process.communicate(timeout=10)
    assert process.returncode == 130 and 1 <= time.time() - start < 5


@pytest.mark.skipif(shutil.which('setpriv') is None, reason='no setpriv')
def test_kill_9_of_the_launcher_ends_the_child(model):
    process = started(model, RANKS, SLEEP)
    process.kill()
    process.communicate(timeout=10)
    wait_for(lambda: not processes(str(model.root)), 5)


def test_ctrl_c_on_a_terminal(model):
    script = model.write(RUN)
    program = 'import os; open("/dev/tty", "w").write("b" + "ar"); print("tty" + os.environ["PROGRESS_TTY"]); ' + SLEEP
    pid, terminal = pty.fork()
    if pid == 0:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.execvpe('bash', ['bash', '-c', 'stty tostop; bash "$0" -- -c "$1"', script, program], model.env)
    seen = b''
    while select.select([terminal], [], [], 5)[0]:
        try:
            seen += os.read(terminal, 1000)
        except OSError:
            break  # the terminal's last process has ended
        if seen.endswith(b'ready\r\n'):
            os.write(terminal, b'\x03')
    os.close(terminal)  # hangs up whatever is left
    assert os.WEXITSTATUS(os.waitpid(pid, 0)[1]) == 130
    assert b'tty1' in seen and b'bar' in seen and b'KeyboardInterrupt' in seen
    assert 'bar' not in model.log() and model.log().endswith('KeyboardInterrupt\n')


def test_ranks_get_their_variables_and_logs(model):
    names = ['RANK', 'LOCAL_RANK', 'RANK_ID', 'WORLD_SIZE', 'RANK_SIZE', 'DEVICE_ID', 'ASCEND_DEVICE_ID', 'MASTER_ADDR',
             'PROGRESS_TTY', 'MASTER_PORT']
    program = f'import os; print(" ".join(os.environ.get(name, "-") for name in {names}))'
    script = model.write(RANKS)
    assert model.call(script, '--nproc=3', '--device_list=4,5,7,9', '--', '-c', program, PROGRESS_TTY='1')[0] == 0
    for rank, device, tty in (0, '4', '1'), (1, '5', '-'), (2, '7', '-'):
        line = model.log(f'0/train_{rank}.log').split('\n')[-2].split()
        assert line[:-1] == [str(rank)] * 3 + ['3', '3', device, device, '127.0.0.1', tty]
        assert 20000 <= int(line[-1]) <= 32002
    assert model.call(script, '--nproc=3', '--device_list=4,5', '--', '-c', '')[0] == 2
    assert model.call(script, '--nproc=none', '--', '-c', '')[0] == 2


@pytest.mark.parametrize('rank, death, words, status', [
    (3, 'sys.exit(3)', 'exited with status 3', 3),
    (2, 'os.kill(os.getpid(), 9)', 'was killed by signal 9', 137),
    (0, 'sys.exit(1)', 'exited with status 1', 1),
])
def test_a_failing_rank_ends_all_and_is_named(model, rank, death, words, status):
    program = f'''
import os, sys
if os.environ["RANK"] == "{rank}":
    print("last words", flush=True)
    {death}
{STUBBORN}'''
    start = time.time()
    grace = '300' if rank == 3 else '0'  # what a step may take; ten seconds of it are granted at most
    code, out, err = model.call(model.write(RANKS), '--nproc', '4', '--', '-c', program, STOP_GRACE=grace)
    assert (code, err) == (status, '') and time.time() - start < (20 if rank == 3 else 5)
    line = rf'rank {rank} \(pid \d+\) {words}; ending the other ranks\n'
    assert len(re.findall('rank .* ending the other ranks', out)) == 1 and '\nlast words\n' in out
    assert re.search(line, out) and re.search(line, model.log())
