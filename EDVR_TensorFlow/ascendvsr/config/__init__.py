"""The configuration of a run: defaults, a YAML file, and what the command line changes.

    config = read('configs/edvr.yaml', ['mode', 'eval', 'data.data_dir', '/data/reds'])
    config.data.data_dir

Values have the type of their default; keys that defaults.py does not have are errors.
"""
import math
import os
from types import SimpleNamespace

import yaml

from ascendvsr.config.defaults import CHOICES, KEYS
from common import checkpoints, cli


def read(path='', words=()):
    """The configuration: nested namespaces of the dotted keys of defaults.py.

    path: of a YAML file, '' for none; words: key value key value ..., or key=value. Raises ValueError naming the file
    or word, what is wrong, and the nearest key where one is unknown; OSError: the file cannot be read.
    """
    values = {key: entry.default for key, entry in KEYS.items()}
    changes = [(key, value, path) for key, value in flat(_load(path))] if path else []
    for key, value, place in changes + [(*pair, 'command line') for pair in pairs(words)]:
        try:
            values[key] = converted(key, value)
        except ValueError as error:
            raise ValueError(f'{place}: {error}') from None
    return nested(values)


def pairs(words):
    """[(key, value)] of the words of a command line, values as YAML reads them."""
    words, found = list(words), []
    while words:
        word = words.pop(0)
        key, equals, text = word.partition('=')
        key = key.lstrip('-')
        if not equals:
            if key in KEYS and not words:
                raise ValueError(f'{key}: its value is missing; expected KEY VALUE KEY VALUE ...')
            text = words.pop(0) if words else ''
        found.append((key, text))
    return found


def converted(key, value):
    """`value` in the type of the key's default. ValueError: no such key, another type, or none of its choices."""
    if key not in KEYS:
        raise ValueError(f'unknown key {key!r}{cli.nearest(key, KEYS)} (tools/main.py --help lists all)')
    default = KEYS[key].default
    if isinstance(value, str) and not isinstance(default, str):
        value = _parsed(key, value, default)
    if isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if isinstance(default, list):
        value = [value] if isinstance(value, (int, float)) else value
    if isinstance(value, bool) != isinstance(default, bool) or not _fits(value, default):
        raise ValueError(f'{key} {value!r}: expected {_kind(default)}, such as {default!r}')
    if value not in CHOICES.get(key, [value]):
        raise ValueError(f'{key} {value!r}: expected {" or ".join(map(repr, CHOICES[key]))}')
    return value


def _parsed(key, text, default):
    if isinstance(default, list) and not text.startswith('['):
        text = f'[{text}]'
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        raise ValueError(f'{key} {text!r}: expected {_kind(default)}, such as {default!r}') from None
    items = [_number(item) for item in value] if isinstance(value, list) else _number(value)
    return None if items == 'None' and default is None else items


def _number(value):
    """4e-4, which YAML takes for a word, as a number."""
    try:
        return float(value) if isinstance(value, str) and value else value
    except ValueError:
        return value


def _fits(value, default):
    if default is None:
        return value is None or isinstance(value, int)
    if isinstance(default, list):
        kinds = (int, float) if any(isinstance(item, float) for item in default) else int
        return isinstance(value, list) and all(isinstance(item, kinds) and not isinstance(item, bool)
                                               and math.isfinite(item) for item in value)
    return isinstance(value, type(default)) and (not isinstance(value, float) or math.isfinite(value))


def _kind(default):
    if isinstance(default, list):
        return 'numbers' if any(isinstance(item, float) for item in default) else 'whole numbers'
    return {bool: 'True or False', int: 'a whole number', float: 'a number', str: 'a word',
            type(None): 'a whole number or None'}[type(default)]


def _load(path):
    try:
        with open(path, encoding='utf-8') as file:
            found = yaml.safe_load(file)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f'{path}: not YAML ({" ".join(str(error).split())})') from None
    if not isinstance(found or {}, dict):
        raise ValueError(f'{path}: expected keys and values, such as those of configs/edvr.yaml')
    return found or {}


def flat(tree, prefix=''):
    """(dotted key, value) of nested dicts."""
    for name, value in tree.items():
        key = f'{prefix}{name}'
        if isinstance(value, dict) and key not in KEYS:
            yield from flat(value, key + '.')
        else:
            yield key, value


def nested(values):
    """Namespaces of {dotted key: value}."""
    root = SimpleNamespace()
    for key, value in values.items():
        *parents, name = key.split('.')
        node = root
        for parent in parents:
            if not hasattr(node, parent):
                setattr(node, parent, SimpleNamespace())
            node = getattr(node, parent)
        setattr(node, name, value)
    return root


def as_dict(config):
    """The configuration as {dotted key: value}."""
    return dict(_leaves(config, ''))


def _leaves(node, prefix):
    for name, value in vars(node).items():
        if isinstance(value, SimpleNamespace):
            yield from _leaves(value, f'{prefix}{name}.')
        else:
            yield prefix + name, value


def save(config, folder):
    """Write FOLDER/configure_<mode>.yaml, which --config-file takes; returns its path."""
    def tree(node):
        return {name: tree(value) if isinstance(value, SimpleNamespace) else value for name, value in
                vars(node).items()}

    def write(temporary):
        with open(temporary, 'w', encoding='utf-8') as file:
            yaml.safe_dump(tree(config), file, default_flow_style=None, sort_keys=False)
    path = os.path.join(folder, f'configure_{config.mode}.yaml')
    os.makedirs(folder, exist_ok=True)
    checkpoints.save(path, write)
    return path


def network_size(config):
    """Keyword arguments of EDVR; compat '' where the configuration does not say."""
    edvr = config.edvr
    return {'num_frames': config.model.num_frames, 'mid_channels': edvr.mid_channels,
            'num_deform_groups': edvr.num_deform_groups, 'num_blocks_extraction': edvr.num_blocks_extraction,
            'num_blocks_reconstruction': edvr.num_blocks_reconstruction, 'with_tsa': edvr.with_tsa,
            'compat': edvr.compat, 'upsampling': edvr.upsampling or 'bilinear'}
