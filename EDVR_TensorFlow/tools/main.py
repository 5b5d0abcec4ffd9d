"""python3 tools/main.py --config-file configs/edvr.yaml mode eval data.data_dir /data/reds checkpoint edvr_m.ckpt

Trains, evaluates, runs or freezes EDVR, as the key `mode` says. After the file come keys and values that differ from
it, KEY VALUE KEY VALUE ... or KEY=VALUE ...
"""
import argparse
import importlib
import os
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path[0] = ROOT  # ascendcv, ascendvsr and common are imported from there

from ascendvsr import config as configuration  # noqa: E402
from ascendvsr.config.defaults import KEYS  # noqa: E402
from common import cli  # noqa: E402

MODES = {'train': 'ascendvsr.train', 'eval': 'ascendvsr.evaluate', 'inference': 'ascendvsr.infer',
         'freeze': 'ascendvsr.freeze'}


def main(argv=None):
    listed = '\n'.join(f'  {key} [{entry.default!r}]\n      {entry.meaning}' for key, entry in KEYS.items())
    parser = cli.Parser(description=__doc__, epilog=f'keys [default]:\n{listed}',
                        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--config-file', default='', help='YAML file with values of keys; empty: the defaults')
    parser.add_argument('words', nargs=argparse.REMAINDER, metavar='KEY VALUE', help='values of single keys')
    options = parser.parse_args(argv)
    config = configuration.read(options.config_file, options.words)
    return importlib.import_module(MODES[config.mode]).run(config)


if __name__ == '__main__':
    cli.run(main)
