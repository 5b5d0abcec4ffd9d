"""--dataloader=div2k_loader: DIV2K as it is distributed, HR/0001.png with LR_bicubic/X2/0001x2.png."""
import dataloaders
from common import datasets


def add_options(add):
    dataloaders.add_options(add, 'DIV2K_train_LR_bicubic', 'DIV2K_train_HR', 'X4/0001x4.png of 0001.png')
    add('--data_path', default='', help="instead of both: the folder that holds DIV2K/, whose training pictures are "
        'taken')


def pairs(options, scale):
    """[Pair] of all pictures; with --data_path, of those for training."""
    if options.data_path:
        return datasets.find_div2k(options.data_path, 'train', scale)
    return dataloaders.pairs_in(options.data_truth_path, options.data_input_path, scale)
