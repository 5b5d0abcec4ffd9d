"""Which pictures a run of CSNLN trains and validates on; how they become patches is in common/ms/data.py."""
from common.ms import data


def training_pairs(options):
    """[Pair] of data_train: of DIV2K those of data_range, of other sets all. Errors name the places looked for."""
    return data.find_training(options.data_path, options.data_train, options.scale, options.data_range[0])


def test_sets(options):
    """[(name, [Pair])] of data_test, likewise; DIV2K is left out where data_range names no pictures for it."""
    chosen = options.data_range[1] if len(options.data_range) > 1 else None
    return data.find_tests(options.data_path, options.data_test, options.scale, chosen)


def open_sampler(options, device):
    """(PatchSampler of this rank over the training pictures, steps in an epoch)."""
    return data.open_sampler(training_pairs(options), options, device)
