"""python3 modelarts_entry_acc.py --data_url=/data --train_url=/results

The boot file of a ModelArts job: test/train_full_1p.sh, whose results, <CaseName>.log among them, go to --train_url.
What follows a lone -- goes to train.py. The exit status is the training's.
"""
import os

from common import cli


def launch(name, doc, argv=None):
    """Become a launcher of test/ on the folders that ModelArts names."""
    parser = cli.Parser(description=doc)
    parser.add_argument('--data_url', required=True, help='folder that holds DIV2K/, or dataset/ with it')
    parser.add_argument('--train_url', required=True, help='folder for the results')
    parser.add_argument('forwarded', nargs='*', default=[], help='options of train.py')
    options = parser.parse_args(argv)
    for flag in ('data_url', 'train_url'):
        if '://' in getattr(options, flag):
            raise ValueError(f'--{flag} {getattr(options, flag)}: expected a folder of this machine; let the job map '
                             'the object store to one')
    script = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'test', name)
    os.execvp('bash', ['bash', script, f'--data_path={options.data_url}', f'--output_path={options.train_url}',
                       '--', f'--summary_dir={os.path.abspath(options.train_url)}', *options.forwarded])


if __name__ == '__main__':
    cli.run(lambda: launch('train_full_1p.sh', __doc__))
