"""python3 modelarts_entry_perf.py --data_url=/data --train_url=/results

The boot file of a ModelArts job that measures speed: test/train_performance_1p.sh, as modelarts_entry_acc.py has the
full training.
"""
from common import cli
from modelarts_entry_acc import launch

if __name__ == '__main__':
    cli.run(lambda: launch('train_performance_1p.sh', __doc__))
