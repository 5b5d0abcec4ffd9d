"""What every entry script does with its command line: `if __name__ == '__main__': cli.run(main)`.

Exit status: 0 done, 2 the user's input is at fault (one line `error: ...` on stderr), 130 stopped by Ctrl-C.
`python -X dev script.py ...` shows the traceback of an error as well.
"""
from __future__ import annotations

import argparse
import ctypes
import difflib
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1  # of <sys/prctl.h>


class Parser(argparse.ArgumentParser):
    """An argument parser that prints defaults in --help, takes no abbreviations and names the nearest known option."""

    def __init__(self, **kwargs):
        kwargs.setdefault('formatter_class', argparse.ArgumentDefaultsHelpFormatter)
        super().__init__(allow_abbrev=False, **kwargs)

    def parse_args(self, args=None, namespace=None):
        """Like argparse; a misspelt option is reported before an option it leaves missing."""
        given = list(sys.argv[1:] if args is None else args)
        before_dashes = given[:given.index('--')] if '--' in given else given
        for flag in (token.split('=')[0] for token in before_dashes if token.startswith('--')):
            if flag not in self._option_string_actions:
                self.error(f'unknown option {flag}{nearest(flag, self._option_string_actions)}')
        return super().parse_args(given, namespace)

    def error(self, message):
        """Print `error: message` and where help is, then exit with status 2."""
        self.exit(2, f'error: {message}\n`{self.prog} --help` lists the options\n')


def nearest(word, known):
    """`; did you mean X?` for the known word most like `word`, or '' when none is near."""
    bare = {other.lstrip('-'): other for other in known}  # equal dashes make no likeness
    matches = difflib.get_close_matches(word.lstrip('-'), list(bare), n=1)
    return f'; did you mean {bare[matches[0]]}?' if matches else ''


def run(main):
    """Call main() and end the process: with its return value where that is an int, else with 0; errors as above."""
    try:
        status = main()
        sys.stdout.flush()
    except KeyboardInterrupt:
        print('stopped by Ctrl-C', file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # the reader of `script | head` has gone; a second failing flush at exit would print noise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except (ValueError, OSError) as error:
        if sys.flags.dev_mode:
            raise
        print(f'error: {describe(error)}', file=sys.stderr)
        sys.exit(2)
    sys.exit(status if isinstance(status, int) else 0)


def end_with_parent(parent):
    """Initializer of process pools: has the kernel end this worker with process `parent`, even one killed by kill -9.

        ProcessPoolExecutor(workers, initializer=cli.end_with_parent, initargs=(os.getpid(),))

    Without it the workers of a killed program wait for ever. On Linux; elsewhere it does nothing.
    """
    if not sys.platform.startswith('linux'):
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before that call
        os._exit(1)


def describe(error, about=''):
    """The message of an exception, without errno: `PATH: No space left on device`. about: a path it shall begin with,
    unless it names that itself.
    """
    text = _text(error)
    return text if not about or str(about) in text else f'{about}: {text}'


def _text(error):
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f'{error.filename}: {error.strerror}'
    return str(error) or type(error).__name__
