"""Files that appear whole or not at all: where they are written, and what a killed writer left there."""
from __future__ import annotations

import contextlib
import errno
import os
import re


def destination(path):
    """The file that writing `path` replaces, as str: of a link what it leads to, so that the link stays.

    Raises ValueError when something else than a regular file stands there: a folder, a pipe, a device.
    """
    real = followed(path)
    if os.path.lexists(real) and not os.path.isfile(real):
        kind = 'a folder' if os.path.isdir(real) else 'a pipe, a device or a link that leads nowhere'
        raise ValueError(f'{path}: is {kind}, not a file that can be replaced; name another one')
    return real


def followed(path):
    """`path` as str; of a link, what it leads to."""
    path = str(path)
    return os.path.realpath(path) if os.path.islink(path) else path


def temporary(path, extension=None):
    """Name of a file beside `path` to be renamed to it; such files of `path` whose writer was killed are removed.

    extension: of that file, when it shall be another than that of `path`. The folder must exist.
    """
    folder, name = os.path.split(os.path.abspath(str(path)))
    stem, own = os.path.splitext(name)
    extension = own if extension is None else extension
    _remove_leftovers(folder, stem, extension)
    return os.path.join(folder, f'.{stem}.{os.getpid()}.tmp{extension}')


@contextlib.contextmanager
def naming(path):
    """An OSError from within names `path`: that of a full disk names nothing, others name the temporary file."""
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


def disk_is_full(error):
    """Whether an exception says that the disk, or what this user may have of it, is full."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def _remove_leftovers(folder, stem, extension):
    pattern = re.compile(re.escape(f'.{stem}.') + r'(\d+)\.tmp' + re.escape(extension))
    for name in os.listdir(folder):
        match = pattern.fullmatch(name)
        if match and not _alive(int(match.group(1))):
            os.remove(os.path.join(folder, name))


def _alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
