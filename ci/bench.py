"""python ci/bench.py RCAN_PyTorch [options of its benchmark; --help lists them]

Runs the benchmark of one model directory, tests/bench.py: its port beside its plain reference, in one process.
"""

import os
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def main():
    known = sorted(name for name in os.listdir(ROOT) if os.path.isfile(os.path.join(ROOT, name, 'tests', 'bench.py')))
    if len(sys.argv) < 2 or sys.argv[1].rstrip('/') not in known:
        print(f'usage: python ci/bench.py DIRECTORY [options]; directories with a benchmark: {", ".join(known)}',
              file=sys.stderr)
        return 2
    directory = os.path.join(ROOT, sys.argv[1].rstrip('/'))
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join([directory, ROOT]))
    return subprocess.call([sys.executable, os.path.join('tests', 'bench.py'), *sys.argv[2:]], cwd=directory,
                           env=environment)


if __name__ == '__main__':
    sys.exit(main())
