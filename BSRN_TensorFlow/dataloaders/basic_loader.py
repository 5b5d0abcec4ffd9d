"""--dataloader=basic_loader: HR pictures in HR/, LR pictures of the same names in LR/x2, LR/x3 ..."""
import dataloaders


def add_options(add):
    dataloaders.add_options(add, 'LR', 'HR', 'x4/NAME.png of HR/NAME.png')


def pairs(options, scale):
    """[Pair] of all pictures."""
    return dataloaders.pairs_in(options.data_truth_path, options.data_input_path, scale)
