import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from common import checkpoints, files

ROOT = Path(__file__).resolve().parents[2]


def writer(content):
    def write(path):
        with open(path, 'w') as file:
            file.write(content)
    return write


def read(path):
    with open(path) as file:
        text = file.read()
    if not text.startswith('good'):
        raise EOFError('truncated')
    return text


def listing(folder):
    return sorted(os.listdir(str(folder)))


def test_keep_rotates_and_versions_come_newest_first(tmp_path):
    path = str(tmp_path / 'new' / 'last.pth')
    for number in range(5):
        checkpoints.save(path, writer(f'good {number}'), keep=3)
    found = checkpoints.versions(path)
    assert [os.path.basename(name) for name in found] == ['last.pth', 'last.1.pth', 'last.2.pth']
    assert [read(name) for name in found] == ['good 4', 'good 3', 'good 2']
    checkpoints.save(path, writer('good 5'), keep=2)
    assert [read(name) for name in checkpoints.versions(path)] == ['good 5', 'good 4', 'good 2']
    assert listing(tmp_path / 'new') == ['last.1.pth', 'last.2.pth', 'last.pth']


def test_the_temporary_file_lies_beside_and_has_the_extension(tmp_path):
    seen = []
    path = tmp_path / 'a.ckpt'
    checkpoints.save(path, lambda name: (seen.append(name), writer('good')(name)))
    assert os.path.dirname(seen[0]) == str(tmp_path) and seen[0].endswith('.ckpt') and seen[0] != str(path)


@pytest.mark.skipif(not os.path.exists('/dev/full'), reason='no /dev/full here')
def test_full_disk_names_path_and_space_and_spares_the_old_file(tmp_path):
    path = tmp_path / 'last.pth'
    checkpoints.save(path, writer('good old'))

    def write(name):
        writer('good ne')(name)
        with open('/dev/full', 'w') as file:
            file.write('x')
    with pytest.raises(OSError, match=r'No space left on device.*bytes are free.*last\.pth'):
        checkpoints.save(path, write, keep=2)
    assert listing(tmp_path) == ['last.pth'] and read(path) == 'good old'


def test_a_limit_on_file_size_hits_a_real_write(tmp_path):
    """The child may write 1 MB per file: write() fails halfway, as on a full disk."""
    path = tmp_path / 'last.pth'
    checkpoints.save(path, writer('good old'))
    program = ('import resource, sys\nfrom common import checkpoints, cli\n'
               'resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))\n'
               'def write(name):\n    with open(name, "wb") as file: file.write(bytes(4 << 20))\n'
               'cli.run(lambda: checkpoints.save(sys.argv[1], write, keep=3))\n')
    done = subprocess.run([sys.executable, '-c', program, str(path)], env=dict(os.environ, PYTHONPATH=str(ROOT)),
                          stderr=subprocess.PIPE, text=True, timeout=60)
    assert done.returncode == 2 and done.stderr.startswith(f'error: {path}: could not be written (File too large)')
    assert listing(tmp_path) == ['last.pth'] and read(path) == 'good old'


@pytest.mark.parametrize('error, raised', [(RuntimeError('disk'), OSError), (TypeError('bug'), TypeError),
                                           (KeyboardInterrupt(), KeyboardInterrupt)])
def test_any_failure_leaves_no_temporary_file(tmp_path, error, raised):
    path = tmp_path / 'last.pth'
    checkpoints.save(path, writer('good old'))

    def write(name):
        writer('good')(name)
        raise error
    with pytest.raises(raised):
        checkpoints.save(path, write, keep=2)
    assert listing(tmp_path) == ['last.pth'] and read(path) == 'good old'


def test_kill_in_the_middle_of_a_write(tmp_path):
    path = tmp_path / 'last.pth'
    checkpoints.save(path, writer('good old'))
    program = ('import sys, time\nfrom common import checkpoints\n'
               'def write(name):\n    open(name, "w").write("goo")\n    print("half", flush=True)\n    time.sleep(60)\n'
               'checkpoints.save(sys.argv[1], write)\n')
    child = subprocess.Popen([sys.executable, '-c', program, str(path)], env=dict(os.environ, PYTHONPATH=str(ROOT)),
                             stdout=subprocess.PIPE)
    assert child.stdout.readline() == b'half\n'
    checkpoints.save(tmp_path / 'best.pth', writer('good'))  # another file's save leaves it alone, as does ours now:
    files.temporary(path)
    assert len(listing(tmp_path)) == 3
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()
    assert checkpoints.newest_valid(path, read) == (str(path), 'good old')
    checkpoints.save(path, writer('good new'))
    assert listing(tmp_path) == ['best.pth', 'last.pth'] and read(path) == 'good new'


def test_the_path_never_vanishes_while_saving(tmp_path):
    path = tmp_path / 'last.pth'
    checkpoints.save(path, writer('good'), keep=3)
    program = ('import sys\nfrom common import checkpoints\n'
               'for i in range(300): checkpoints.save(sys.argv[1], lambda n: open(n, "w").write("good"), keep=3)\n')
    child = subprocess.Popen([sys.executable, '-c', program, str(path)], env=dict(os.environ, PYTHONPATH=str(ROOT)))
    looks, end = 0, time.time() + 60
    while child.poll() is None and time.time() < end:
        read(path)
        looks += 1
    assert child.wait() == 0 and looks > 100


def test_newest_valid_skips_damaged_files_with_a_warning(tmp_path, capsys):
    path = str(tmp_path / 'last.pth')
    for content in ('good 1', 'good 2', 'broken'):
        checkpoints.save(path, writer(content), keep=3)
    assert checkpoints.newest_valid(path, read) == (str(tmp_path / 'last.1.pth'), 'good 2')
    assert f'warning: checkpoint skipped: {path}: EOFError: truncated' in capsys.readouterr().err


def test_newest_valid_of_several_goes_by_modification_time(tmp_path):
    best, last = str(tmp_path / 'best.pth'), str(tmp_path / 'last.pth')
    for age, path in ((100, best), (50, last)):
        checkpoints.save(path, writer('good ' + path))
        os.utime(path, (time.time() - age,) * 2)
    assert checkpoints.newest_valid([best, last], read)[0] == last
    os.utime(last, (0, 0))
    assert checkpoints.newest_valid([best, last], read)[0] == best


def test_newest_valid_without_any_good_file(tmp_path):
    path = str(tmp_path / 'last.pth')
    with pytest.raises(FileNotFoundError, match=r'no checkpoint found.*last\.pth'):
        checkpoints.newest_valid(path, read)
    for _ in range(2):
        checkpoints.save(path, writer('broken'), keep=2)
    with pytest.raises(ValueError, match=r'(?s)last\.pth: EOFError.*last\.1\.pth: EOFError'):
        checkpoints.newest_valid(path, read)


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / 'disk').mkdir()
    link, target = tmp_path / 'last.pth', tmp_path / 'disk' / 'real.pth'
    link.symlink_to(target)
    for number in range(2):
        checkpoints.save(link, writer(f'good {number}'), keep=2)
    assert link.is_symlink() and [read(name) for name in checkpoints.versions(link)] == ['good 1', 'good 0']
    assert listing(tmp_path / 'disk') == ['real.1.pth', 'real.pth'] and listing(tmp_path) == ['disk', 'last.pth']


@pytest.mark.parametrize('place', ['pipe', 'link', 'folder'])
def test_what_is_no_file_is_not_replaced(tmp_path, place):
    os.mkfifo(str(tmp_path / 'pipe'))
    (tmp_path / 'link').symlink_to(tmp_path / 'pipe')
    (tmp_path / 'folder').mkdir()
    before = listing(tmp_path)
    with pytest.raises(ValueError, match=f'{place}: is a .*, not a file that can be replaced'):
        checkpoints.save(tmp_path / place, writer('good'))
    assert listing(tmp_path) == before and (tmp_path / 'pipe').is_fifo() and (tmp_path / 'link').is_symlink()


def test_names_with_special_characters(tmp_path):
    path = str(tmp_path / 'x2 (best)+.v1.pth')
    for number in range(2):
        checkpoints.save(path, writer(f'good {number}'), keep=2)
    assert [read(name) for name in checkpoints.versions(path)] == ['good 1', 'good 0']
