"""Weight files that are damaged, of another kind, or bombs: one line says so, and nothing in them is trusted."""
import os
import pickle
import sys

import mindspore as ms
import numpy as np
import pytest
import torch
from dialects import refusal, save_mindspore, save_torch, weights
from mindspore.train.checkpoint_pb2 import Checkpoint

from common import images
from common.ms.checkpoint import load_checkpoint
from import_weights import read_weights


@pytest.mark.parametrize('name', ['edsr.pth', 'edsr.ckpt', 'edsr.safetensors'])
@pytest.mark.parametrize('content', [b'', b'no checkpoint at all\n', b'\n', b'\nDear reader\n', b'PK\x03\x04',
                                     b'\x80\x02}q\x00.', b'\x80'],
                         ids=['empty', 'text', 'a line', 'letter', 'zip start', 'empty dict', 'pickle start'])
def test_what_is_no_checkpoint(name, content, tmp_path, capfd):
    (tmp_path / name).write_bytes(content)
    refusal(tmp_path / name)
    assert capfd.readouterr() == ('', '')


def test_a_picture_is_no_checkpoint(tmp_path):
    images.write(tmp_path / 'edsr.png', np.zeros((9, 9, 3), np.uint8))
    refusal(tmp_path / 'edsr.png', 'no checkpoint of MindSpore or PyTorch')


@pytest.mark.parametrize('content', [[torch.zeros(3)], torch.zeros(3), {0: torch.zeros(3)}, {'model': 'text'}, 7,
                                     {'params': {}}], ids=['list', 'tensor', 'numbered', 'text', 'number', 'empty'])
def test_checkpoints_of_other_things(content, tmp_path):
    torch.save(content, tmp_path / 'edsr.pth')
    refusal(tmp_path / 'edsr.pth', 'no weights by name')


@pytest.mark.parametrize('kind', ['zip', 'torch-0.4', 'safetensors', 'mindspore', 'checksum'])
def test_truncated_files(kind, tmp_path, capfd):
    path = tmp_path / ('edsr.safetensors' if kind == 'safetensors' else 'edsr.ckpt')
    if kind == 'safetensors':
        pytest.importorskip('safetensors.numpy').save_file(weights('authors', 2), path)
    elif kind in ('mindspore', 'checksum'):
        save_mindspore(weights('authors', 2), path, crc_check=kind == 'checksum')
        path.chmod(0o644)
    else:
        save_torch(weights('authors', 2), path, _use_new_zipfile_serialization=kind == 'zip')
    whole = path.read_bytes()
    capfd.readouterr()
    for length in [*range(40), *range(40, len(whole) - 20, len(whole) // 60)]:
        path.write_bytes(whole[:length])
        refusal(path)
    assert capfd.readouterr() == ('', '')


def test_damaged_mindspore_files(tmp_path):
    """MindSpore's own reader gives numbers of other files, or ends the process, for some of these."""
    path = tmp_path / 'edsr.ckpt'
    save_mindspore(weights('port', 2), path, crc_check=True)
    path.chmod(0o644)
    whole = path.read_bytes()
    path.write_bytes(whole[:5000] + b'XYZ' + whole[5003:])
    refusal(path, 'damaged: its checksum is wrong')
    for changed in ({'dims': [30000, 3, 3, 3]}, {'dims': [-1, -1, 3, 3]}, {'kind': 'Bfloat12'}, {'content': b'123'}):
        proto = Checkpoint.FromString(whole[:-17])
        tensor = next(entry.tensor for entry in proto.value if entry.tag == 'head.0.weight')
        tensor.dims[:] = changed.get('dims', tensor.dims)
        tensor.tensor_type = changed.get('kind', tensor.tensor_type)
        tensor.tensor_content = changed.get('content', tensor.tensor_content)
        path.write_bytes(proto.SerializeToString())
        refusal(path, changed.get('kind', 'damaged'))
    proto = Checkpoint.FromString(whole[:-17])
    tensor = proto.value.add(tag='note').tensor
    tensor.tensor_type, tensor.tensor_content = 'str', b'\xff\xff\xff\x7f'  # no letter has that number
    path.write_bytes(proto.SerializeToString())
    refusal(path, 'damaged', "can't decode")


def test_mindspore_files_are_read_whole(tmp_path):
    """As MindSpore reads them: types, numbers, texts, and tensors that come in several parts."""
    path = tmp_path / 'all.ckpt'
    values = {'a.half': np.float16([1.5, 2]), 'a.whole': np.int32([[1], [2]]), 'a.long': np.int64(7),
              'a.truth': np.bool_([0, 1])}
    save_mindspore(values, path, append_dict={'text': 'Größe 漢字', 'empty': '', 'number': 3, 'rate': 0.1, 'yes': True})
    found, theirs = load_checkpoint(path), ms.load_checkpoint(str(path))
    assert set(found) == set(theirs) == {*values, 'text', 'empty', 'number', 'rate', 'yes'}
    for name, value in theirs.items():
        same = value == found[name] if isinstance(value, str) else np.array_equal(value.asnumpy(), found[name])
        assert same and isinstance(found[name], str) == isinstance(value, str), name
    assert {name: found[name].dtype for name in values} == {name: value.dtype for name, value in values.items()}
    proto = Checkpoint()
    for part in ([1, 2], [3, 4]):
        entry = proto.value.add(tag='a.large')
        entry.tensor.dims[:], entry.tensor.tensor_type = [2, 2], 'Float32'
        entry.tensor.tensor_content = np.float32(part).tobytes()
    path.chmod(0o644)
    path.write_bytes(proto.SerializeToString())
    assert np.array_equal(load_checkpoint(path)['a.large'], [[1, 2], [3, 4]])


class Bomb:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f'touch "{self.marker}"',)


@pytest.mark.parametrize('write', [
    lambda content, path: torch.save(content, path),
    lambda content, path: torch.save(content, path, _use_new_zipfile_serialization=False),
    lambda content, path: path.write_bytes(pickle.dumps(content, protocol=2))], ids=['zip', 'torch-0.4', 'pickle'])
def test_no_code_in_a_file_is_run(write, tmp_path):
    path, marker = tmp_path / 'edsr.pt', tmp_path / 'executed'
    write({'head.0.weight': torch.zeros(8, 3, 3, 3), 'best': Bomb(marker)}, path)
    refusal(path, 'could run code')
    assert not marker.exists()


def test_pytorch_is_asked_for_where_it_is_needed_only(tmp_path, monkeypatch):
    save_torch(weights('authors', 2), tmp_path / 'edsr.pt')
    save_mindspore(weights('port', 2), tmp_path / 'edsr.ckpt')
    monkeypatch.setitem(sys.modules, 'torch', None)
    refusal(tmp_path / 'edsr.pt', 'PyTorch is not installed: pip install torch')
    assert read_weights(tmp_path / 'edsr.ckpt')[2] == 'port'
