"""Checkpoint files that no full disk, kill -9 or power cut can spoil. What is inside is the framework's affair."""
from __future__ import annotations

import errno
import os
import re
import shutil
import sys

from common import files


def save(path, write, keep=1):
    """Write a checkpoint so that `path` is at every instant either the whole old file or the whole new one.

    write(temporary_path) makes the file: in the same folder, with the same extension. It is fsynced, `keep - 1` earlier
    versions stay as name.1.pth (the one before), name.2.pth ..., and it takes the name `path`.
    Of a link, the file that it leads to is replaced. Raises OSError naming path and free space when it cannot be
    written; the earlier files are then untouched. ValueError for a path where no file but a folder, pipe or device is.
    """
    path = os.path.abspath(files.destination(path))
    folder = os.path.dirname(path)
    os.makedirs(folder, exist_ok=True)
    temporary = files.temporary(path)
    try:
        write(temporary)
        _sync(temporary)
        _rotate(path, keep)
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:  # torch and MindSpore report a full disk as RuntimeError
        reason = getattr(error, 'strerror', None) or error
        free = shutil.disk_usage(folder).free
        raise OSError(getattr(error, 'errno', None) or errno.EIO, f'could not be written ({reason}); {free} bytes are '
                      'free there; what was there before is untouched', path) from error
    finally:
        if os.path.exists(temporary):
            os.remove(temporary)
    _sync(folder)


def versions(path):
    """The files of a checkpoint that exist, newest first: name.pth, name.1.pth, name.2.pth ..."""
    path = files.followed(path)
    folder, (stem, extension) = os.path.dirname(path), _split(path)
    pattern = re.compile(re.escape(stem) + r'(?:\.(\d+))?' + re.escape(extension))
    names = os.listdir(folder or '.') if os.path.isdir(folder or '.') else []
    found = [(int(match.group(1) or 0), name) for name, match in ((n, pattern.fullmatch(n)) for n in names) if match]
    return [os.path.join(folder, name) for _, name in sorted(found)]


def newest_valid(path_or_paths, load):
    """(path, load(path)) of the newest version that loads; one that does not is skipped with a warning on stderr.

    path_or_paths: one checkpoint with its versions, or several: then the latest modified file comes first.
    Raises FileNotFoundError when there is none, ValueError naming all that were tried when none loads.
    """
    several = not isinstance(path_or_paths, (str, os.PathLike))
    wanted = [str(path) for path in path_or_paths] if several else [str(path_or_paths)]
    candidates = [version for path in wanted for version in versions(path)]
    if several:
        candidates = sorted(dict.fromkeys(candidates), key=os.path.getmtime, reverse=True)
    if not candidates:
        raise FileNotFoundError(errno.ENOENT, 'no checkpoint found', ', '.join(wanted))
    failures = []
    for candidate in candidates:
        try:
            return candidate, load(candidate)
        except Exception as error:  # noqa: BLE001 - a damaged file can raise anything in a framework's reader
            failures.append(f'{candidate}: {type(error).__name__}: {error}')
            print(f'warning: checkpoint skipped: {failures[-1]}', file=sys.stderr, flush=True)
    raise ValueError('no checkpoint could be loaded; tried\n  ' + '\n  '.join(failures))


def _split(path):
    return os.path.splitext(os.path.basename(path))


def _sync(path):
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if not (os.path.isdir(path) and error.errno in (errno.EINVAL, errno.ENOTSUP)):  # folders of some network disks
            raise
    finally:
        os.close(handle)


def _rotate(path, keep):
    """Move name.1 to name.2 and so on, and give the present file the second name name.1; `path` itself stays."""
    if keep < 2 or not os.path.exists(path):
        return
    stem, extension = os.path.splitext(path)
    for number in range(keep - 1, 1, -1):
        if os.path.exists(f'{stem}.{number - 1}{extension}'):
            os.replace(f'{stem}.{number - 1}{extension}', f'{stem}.{number}{extension}')
    second = os.path.join(os.path.dirname(path), f'.{os.path.basename(stem)}.{os.getpid()}.tmp{extension}.1')
    try:
        try:
            os.link(path, second)
        except OSError:  # a disk without hard links
            shutil.copy2(path, second)
        os.replace(second, f'{stem}.1{extension}')
    finally:
        if os.path.exists(second):
            os.remove(second)
