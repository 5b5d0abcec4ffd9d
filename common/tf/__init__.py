"""What the TensorFlow directories share, in graph mode: 1.15 and 2.x from one source. Nothing else imports it.

Importing this package imports TensorFlow, without the lines that it prints then: of its log, users see errors only.
"""
import logging
import os
import sys
import tempfile


def _import_tensorflow():
    os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')
    if 'tensorflow' in sys.modules:
        return
    sys.stderr.flush()
    screen = os.dup(2)
    with tempfile.TemporaryFile() as said:
        os.dup2(said.fileno(), 2)
        try:
            import tensorflow.compat.v1  # noqa: F401
        except BaseException:
            said.seek(0)
            os.write(screen, said.read())
            raise
        finally:
            sys.stderr.flush()
            os.dup2(screen, 2)
            os.close(screen)
    logging.getLogger('tensorflow').setLevel(logging.ERROR)


_import_tensorflow()
