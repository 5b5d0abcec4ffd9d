"""The configuration: defaults, files, the command line; what cannot be, named with what is known."""
import re
import sys

import pytest
from conftest import ROOT, call

from ascendvsr import config as configuration
from ascendvsr.config.defaults import CHOICES, KEYS


def read(*words, path=''):
    return configuration.as_dict(configuration.read(str(path), words))


@pytest.fixture
def written(tmp_path):
    def write(text):
        (tmp_path / 'my.yaml').write_text(text)
        return tmp_path / 'my.yaml'
    return write


def test_defaults():
    values = read()
    assert values == {key: entry.default for key, entry in KEYS.items()}
    config = configuration.read()
    assert config.edvr.mid_channels == 64 and config.solver.optimizer.type == 'Adam' and config.mode == 'train'
    assert all(default in known for default, known in ((KEYS[key].default, known) for key, known in CHOICES.items()))


def test_every_key_of_the_released_port_is_there():
    """But for its other networks', and what only its loaders had."""
    port = '''mode model.name model.scale model.num_frames model.input_format_dimension model.convert_output_to_uint8
        data.data_dir data.train_set data.eval_set data.train_batch_size data.train_raw_size data.train_in_size
        data.train_data_queue_size data.num_threads data.eval_batch_size data.eval_raw_size data.eval_in_size
        data.eval_in_patch data.eval_pad_size data.read_mode data.noise.noise_type data.noise.random_seed
        data.noise.mean data.noise.std data.noise.amount data.noise.salt_ratio data.noise.min_std data.noise.max_std
        solver.optimizer.type solver.lr_schedule.type solver.lr_schedule.base_lr solver.lr_schedule.min_lr
        solver.lr_schedule.total_steps solver.lr_schedule.restart_weights solver.mix_precision solver.loss_scale
        solver.xla solver.checkpoint_interval solver.print_interval edvr.with_tsa edvr.mid_channels edvr.num_groups
        edvr.num_deform_groups edvr.num_blocks_extraction edvr.num_blocks_reconstruction edvr.loss_type
        edvr.loss_reduction edvr.loss_margin edvr.dcn_version edvr.impl edvr.upsampling device device_ids rank_size
        root_rank output_dir inference_result_dir checkpoint continue_training random_seed writer_num_threads
        writer_queue_size'''
    assert not set(port.split()) - set(KEYS)


def test_every_key_is_read():
    """In the sources, as .name of its last part; where several keys end so, as often."""
    sources = '\n'.join(path.read_text() for path in sorted(ROOT.rglob('*.py')) if 'config' not in path.parts
                        and 'tests' not in path.parts and 'common' not in path.relative_to(ROOT).parts)
    sources += (ROOT / 'ascendvsr' / 'config' / '__init__.py').read_text()
    only_one = {key for key, known in CHOICES.items() if len(known) == 1} | {'data.read_mode'}
    unread = [key for key in KEYS if key not in only_one
              and not re.search(rf"\b{key.rpartition('.')[2]}\b", sources)]
    assert not unread


def test_files_and_the_command_line(written):
    path = written('edvr: {mid_channels: 32, with_tsa: False}\nsolver:\n  lr_schedule:\n    base_lr: 1e-3\n'
                   'output_dir: "my out"\n')
    values = read('edvr.mid_channels', '16', 'device=cpu', '--mode', 'eval', path=path)
    changed = {key: value for key, value in values.items() if value != KEYS[key].default}
    assert changed == {'edvr.mid_channels': 16, 'edvr.with_tsa': False, 'solver.lr_schedule.base_lr': 0.001,
                       'output_dir': 'my out', 'device': 'cpu', 'mode': 'eval'}
    assert read(path=written('')) == read()


@pytest.mark.parametrize('key, text, expected', [
    ('data.eval_in_size', '180,320', [180, 320]), ('data.eval_in_size', '[180, 320]', [180, 320]),
    ('data.eval_in_size', '[]', []), ('data.eval_in_size', '', []), ('device_ids', '1', [1]),
    ('solver.lr_schedule.total_steps', '[100]', [100]), ('solver.lr_schedule.restart_weights', '1,0.5', [1, 0.5]),
    ('solver.lr_schedule.restart_weights', '1,5e-1', [1, 0.5]), ('solver.lr_schedule.base_lr', '4e-4', 0.0004),
    ('solver.lr_schedule.base_lr', '1', 1.0), ('solver.xla', 'true', True), ('solver.xla', 'False', False),
    ('data.noise.random_seed', '3', 3), ('data.noise.random_seed', 'None', None),
    ('data.noise.random_seed', 'null', None), ('checkpoint', '123', '123'), ('checkpoint', '', ''),
    ('checkpoint', 'a=b', 'a=b'), ('edvr.loss_type', 'marginal l1', 'marginal l1'), ('random_seed', '0', 0)])
def test_values(key, text, expected):
    for words in ((key, text), (f'{key}={text}',)):
        found = read(*words)[key]
        assert found == expected and isinstance(found, type(KEYS[key].default) if KEYS[key].default is not None
                                                else type(expected))


@pytest.mark.parametrize('words, message', [
    (['edvr.mid_chanels', '16'], "unknown key 'edvr.mid_chanels'; did you mean edvr.mid_channels?"),
    (['mid_channels', '16'], "unknown key 'mid_channels'; did you mean edvr.mid_channels?"),
    (['xyz=1'], "unknown key 'xyz'"),
    (['mode', 'test'], "mode 'test': expected 'train' or 'eval' or 'inference' or 'freeze'"),
    (['model.scale', '2'], 'model.scale 2: expected 4'), (['edvr.mid_channels', '6.5'], 'expected a whole number'),
    (['edvr.mid_channels', 'many'], "edvr.mid_channels 'many': expected a whole number, such as 64"),
    (['edvr.mid_channels', 'True'], 'expected a whole number'), (['edvr.with_tsa', '1'], 'expected True or False'),
    (['solver.ema', 'nan'], 'expected a number'), (['solver.ema', 'inf'], 'expected a number'),
    (['solver.ema', '[1'], 'expected a number'), (['data.train_in_size', '64,true'], 'expected whole'),
    (['data.train_in_size', 'a,b'], 'expected whole numbers, such as [64, 64]'),
    (['data.eval_in_size', '36.5,64'], 'expected whole numbers'),
    (['solver.lr_schedule.restart_weights', '1,x'], 'expected numbers'),
    (['data.noise.random_seed', 'x'], 'whole number or None')])
def test_what_cannot_be(words, message):
    with pytest.raises(ValueError, match=f'^command line: .*{re.escape(message)}'):
        read(*words)


@pytest.mark.parametrize('text, message', [
    ('edvr: {mid_chanels: 16}', "unknown key 'edvr.mid_chanels'; did you mean edvr.mid_channels?"),
    ('edvr: 5', "unknown key 'edvr'"), ('solver: {xla: 1}', 'solver.xla 1: expected True or False'),
    ('edvr: {mid_channels: }', 'edvr.mid_channels None: expected a whole number'),
    ('device_ids: {a: 1}', "device_ids {'a': 1}: expected whole numbers"),
    ('mode: [eval]', "mode ['eval']: expected a word"),
    ('- mode', 'expected keys and values'), ('mode: "', 'not YAML'), ('just words', 'expected keys and values'),
    ('!!python/object/apply:os.system ["true"]', 'not YAML')])
def test_files_that_cannot_be(text, message, written):
    path = written(text)
    with pytest.raises(ValueError, match=f'^{re.escape(str(path))}: .*{re.escape(message)}'):
        read(path=path)


@pytest.mark.parametrize('word', ['mode', '--mode'])
def test_a_value_that_is_missing(word):
    with pytest.raises(ValueError, match='^mode: its value is missing; expected KEY VALUE KEY VALUE'):
        read('device', 'cpu', word)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError):
        read(path=tmp_path / 'none.yaml')
    (tmp_path / 'picture.yaml').write_bytes(b'\x89PNG\xff\xfe')
    with pytest.raises(ValueError, match='picture.yaml: not YAML'):
        read(path=tmp_path / 'picture.yaml')


def test_what_is_saved_is_read_again(tmp_path):
    config = configuration.read(words=['mode', 'eval', 'solver.lr_schedule.min_lr', '1e-12', 'data.data_dir', "it's #1",
                                       'data.noise.random_seed', '4', 'checkpoint', '007', 'output_dir', 'yes'])
    path = configuration.save(config, str(tmp_path / 'new'))
    assert path == str(tmp_path / 'new' / 'configure_eval.yaml')
    assert read(path=path) == configuration.as_dict(config)


@pytest.mark.parametrize('name', ['edvr.yaml', 'edvr_m.yaml'])
def test_the_files_that_come_with_it(name):
    config = configuration.read(str(ROOT / 'configs' / name))
    assert config.data.train_batch_size == 4 and config.data.num_threads == 8 and config.model.num_frames == 5
    if name == 'edvr.yaml':  # what the release promises
        assert config.solver.train_epochs == 1 and config.edvr.loss_type == 'l1'
    else:
        assert (config.edvr.loss_type, config.solver.optimizer.beta2, config.solver.ema) == ('charbonnier', 0.99, 0.999)
        assert sum(config.solver.lr_schedule.total_steps) == 600_000 and config.solver.tsa_steps == 50_000


def test_the_size_of_the_network():
    size = configuration.network_size(configuration.read(words=['edvr.mid_channels', '128', 'model.num_frames', '7']))
    assert size == {'num_frames': 7, 'mid_channels': 128, 'num_deform_groups': 8, 'num_blocks_extraction': 5,
                    'num_blocks_reconstruction': 10, 'with_tsa': True, 'compat': '', 'upsampling': 'bilinear'}


def test_as_a_user_starts_it():
    done = call(sys.executable, 'tools/main.py', '--help')
    assert done.returncode == 0 and all(key in done.stdout for key in KEYS)
    for words, message in ((['--config-file', 'nowhere.yaml'], 'nowhere.yaml'), (['mod', 'eval'], 'did you mean mode?'),
                           (['--config_file=a'], 'unknown option --config_file; did you mean --config-file?')):
        done = call(sys.executable, 'tools/main.py', *words)
        assert done.returncode == 2 and done.stderr.startswith('error: ') and message in done.stderr


def test_the_readme_has_every_key():
    text = (ROOT / 'README.md').read_text(encoding='utf-8')
    rows = dict(re.findall(r'^\| `([\w.]+)` \| .* \| (.*) \|$', text, re.MULTILINE))
    assert {key: rows.get(key) for key in KEYS} == {key: entry.meaning for key, entry in KEYS.items()}
    for name in ('README.md', 'README_CN.md'):
        words = re.findall(r'`((?:model|edvr|data|solver)\.[\w.]+)[` ]', (ROOT / name).read_text(encoding='utf-8'))
        for word in words:
            assert word.endswith(('.yaml', '.pb', '.onnx')) or any(
                key == word or key.startswith(f'{word}.') for key in KEYS), (name, word)
