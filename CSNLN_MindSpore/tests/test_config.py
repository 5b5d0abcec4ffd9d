"""The options: keys of default_config.yaml, files of --config_path, flags; the released port's file; what is wrong."""
import os

import pytest
import yaml
from conftest import refused

from src import config

# the released port's default_config.yaml, data_path apart
RELEASED = '''
output_path: "./cache/train"
load_path: "./cache/checkpoint_path"
device_target: "GPU"
rank: 0
dataset_name: "DIV2K"
name: "DIV2K"
pre_trained: False
data_test: "Set5/image_SRF_2"
data_train: "DIV2K"
data_range: "1-800/801-810"
ext: "sep"
scale: [ 2 ]
patch_size: 48
rgb_range: 1
n_colors: 3
keep_checkpoint_max: 10
checkpoint_path: "./train_CSNLN_DIV2k.ckpt"
no_argument: False
decay: "200-1000"
lr_init: 0.0001
gamma: 0.5
momentum: 0.9
weight_decay: 0.0001
beta1: 0.9
beta2: 0.99
epsilon: 0.00000001
pre_train: False
n_feats: 128
shift_mean: True
depth: 12
model: "CSNLN"
epoches: 500
batch_size: 16
test_only: False
test_every: 1000
distribute: True
device_num: 4
ckpt_file: ""
file_name: csnln
file_format: "MINDIR"
ckpt_save_dir: "./ckpt/"
save: "./CSNLN_X2/"
---
save: what another document says of it
'''


@pytest.fixture
def parse(tmp_path):
    """parse('--scale=3', file='scale: 2'): the options, with that file for --config_path; a data folder is there."""
    def options(*words, file=None, measuring=False):
        if file is not None:
            (tmp_path / 'my.yaml').write_text(file)
            words = (f'--config_path={tmp_path / "my.yaml"}', *words)
        return config.parse([f'--data_path={tmp_path}', *words], 'doc', measuring)
    return options


def test_defaults_are_the_released_recipe(parse):
    options = vars(parse())
    with open(config.DEFAULTS) as file:
        assert list(yaml.safe_load(file)) == list(config.FLAT) == list(options)
    expected = {'data_train': ['DIV2K'], 'data_range': [[1, 800], [801, 810]], 'scale': 2, 'patch_size': 48,
                'batch_size': 16, 'test_every': 1000, 'epoches': 500, 'lr_init': 1e-4, 'lr_halve_epochs': 200,
                'beta1': 0.9, 'beta2': 0.999, 'epsilon': 1e-8, 'n_feats': 128, 'depth': 12, 'rgb_range': 1.0,
                'compat': 'paper', 'memory_limit': None, 'keep_checkpoint_max': 10, 'device_target': 'auto'}
    assert {name: options[name] for name in expected} == expected
    assert options['cache_dir'].startswith(os.environ['XDG_CACHE_HOME'])


def test_flags_before_the_file_before_the_defaults(parse):
    options = parse('--depth=3', '--pre_trained', '--ckpt_file=x', '--memory_limit=1.5', '--device=Ascend',
                    '--epochs=7', file='depth: 2\nn_feats: 64\nlr_init: 1e-3\ndata_test: ""\n')
    assert (options.depth, options.n_feats, options.lr_init, options.data_test) == (3, 64, 1e-3, [])
    assert (options.pre_trained, options.memory_limit) == (True, 1.5e9)
    assert (options.device_target, options.epoches) == ('npu', 7)
    assert parse('--test_only=False', '--device_target=CPU').device_target == 'cpu'
    assert parse('--data_test=Set5+B100').data_test == ['Set5', 'B100']
    assert parse('--scale=[3]').scale == 3


def test_the_file_of_the_released_port_is_taken(parse):
    options = parse(file=RELEASED)
    assert (options.scale, options.beta2, options.save, options.device_target) == (2, 0.99, './CSNLN_X2/', 'gpu')
    assert not {'rank', 'decay', 'output_path'} & set(vars(options))


@pytest.mark.parametrize('side, scale, expected', [(None, 2, 48), (None, 3, 54), (None, 4, 48), (96, 2, 96), (9, 3, 9)])
def test_patch_sizes(side, scale, expected, parse):
    assert parse(f'--scale={scale}', *[f'--patch_size={side}'] * bool(side)).patch_size == expected


def test_what_a_checkpoint_tells_is_open_where_nothing_is_trained(parse):
    for options in (parse('--ckpt_file=x', measuring=True), parse('--ckpt_file=x', '--test_only')):
        assert [getattr(options, name) for name in config.SIZE] == [None] * 5
    options = parse('--ckpt_file=x', '--n_feats=64', file='scale: 3', measuring=True)
    assert (options.scale, options.n_feats, options.depth) == (None, 64, None)


@pytest.mark.parametrize('file, words', [
    ('depht: 2', ('my.yaml: depht', 'unknown key', 'did you mean depth?')), ('depth: two', ("depth: 'two'", 'whole')),
    ('scale: 5', ("scale: '5'", '2, 3, 4')), ('scale: [2, 3]', ("'[2, 3]'",)), ('lr_init: fast', ('lr_init', 'number')),
    ('test_only: maybe', ('test_only', 'True or False')), ('ext: bin', ("'bin'", 'sep_reset')),
    ('epoches: 1\nepochs: 2', ('epochs', 'the same as epoches')), ('weight_decay: 0.1', ("'0.1'", 'no use', 'none')),
    ('decay: "100"', ('decay', 'lr_halve_epochs')), ('data_range: 800', ('data_range', '1-800/801-900')),
    ('memory_limit: -1', ("memory_limit: '-1'", 'GB')), ('- depth', ('my.yaml', 'lines such as')),
    ('a: [', ('my.yaml: not YAML',)), ('data_test: Tiny+tiny', ('data_test', 'twice'))],
    ids=lambda value: value if isinstance(value, str) else '')
def test_what_is_wrong_with_a_file_is_named(file, words, parse, capsys):
    refused(capsys, lambda: parse(file=file), *words)


@pytest.mark.parametrize('flag, words', [
    ('--n_feat=8', ('unknown option --n_feat', 'did you mean --n_feats?')), ('--n_feats=9', ('--n_feats 9', 'even')),
    ('--depth=0', ('--depth 0', '1 or more')), ('--train_steps=-3', ('--train_steps -3',)),
    ('--lr=inf', ('--lr_init',)), ('--lr=-1', ('--lr_init -1',)), ('--beta2=1', ('--beta2 1',)),
    ('--epsilon=0', ('--epsilon 0',)),
    ('--seed=18446744073709551616', ('--seed',)), ('--batch_size=1.5', ("'1.5'", 'whole number')),
    ('--n_colors=1', ('--n_colors 1', 'RGB')), ('--amp_level=O4', ('O4', 'auto')), ('--device=tpu', ('tpu', 'npu')),
    ('--patch_size=50', ('--patch_size 50', 'multiple of 4', '48 or 52')), ('--compat=old', ('old', 'paper, port')),
    ('--rank=1', ("'1'", 'the launchers number the ranks')), ('--pre_trained', ('--ckpt_file is missing', 'start')),
    ('--test_only', ('--ckpt_file is missing', 'measure')), ('--ckpt_file=x', ('--pre_trained', '--test_only')),
    ('--data_train=', ('--data_train is empty',)), ('--config_path=/nowhere.yaml', ('/nowhere.yaml',))])
def test_impossible_flags(flag, words, parse, capsys):
    refused(capsys, lambda: parse(flag), *words)


def test_flags_that_exclude_each_other(parse, capsys):
    refused(capsys, lambda: parse('--kernels=native', '--amp_level=O1'), '--kernels=native', 'O1')


def test_data_that_is_not_there(parse, tmp_path, capsys):
    refused(capsys, lambda: config.parse([], ''), 'dataset: no such folder', 'DIV2K/', config.DEFAULTS)
    refused(capsys, lambda: parse(f'--data_path={tmp_path}/x', file='scale: 2'), f'{tmp_path}/x', 'data_path in',
            'my.yaml')


def test_a_default_that_lacks(tmp_path, monkeypatch):
    (tmp_path / 'default_config.yaml').write_text('scale: 2\n')
    monkeypatch.setattr(config, 'DEFAULTS', str(tmp_path / 'default_config.yaml'))
    with pytest.raises(ValueError, match='data_path, .* missing; expected a default for every key'):
        config.parse([], '')


def test_help_tells_every_key_and_its_default(capsys):
    with pytest.raises(SystemExit):
        config.parse(['--help'], 'doc')
    said = ' '.join(capsys.readouterr().out.split())
    for key in config.FLAT:
        assert f'--{key} ' in said or f'--{key},' in said
    assert '(default: 1-800/801-810)' in said and '--rank' not in said
