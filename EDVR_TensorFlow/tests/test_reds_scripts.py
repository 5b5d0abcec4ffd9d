"""REDS brought, gathered and listed: downloads that go on, links that lose nothing, lists of what is on the disk."""
import http.server
import importlib.util
import io
import json
import os
import re
import threading
import zipfile

import numpy as np
import pytest
from conftest import ROOT, call, put_clip

from ascendcv.dataloader.clips import find_clips
from common import images
from common.make_sample import make_reds


def script(name):
    spec = importlib.util.spec_from_file_location(name, str(ROOT / 'scripts' / f'{name}.py'))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


download, regroup, listing = (script(name) for name in ('download_REDS', 'regroup_reds_dataset', 'make_reds_dataset'))


def archive_of(members):
    """The bytes of a zip archive."""
    with io.BytesIO() as file:
        with zipfile.ZipFile(file, 'w') as archive:
            for name, content in members.items():
                archive.writestr(name, content)
        return file.getvalue()


class Server:
    """Serves .content at any address. .limit: bytes after which a connection is cut; .whole: it does not know ranges;
    .page: a page instead. .asked: the ranges that came.
    """

    def __init__(self):
        self.content, self.limit, self.whole, self.page, self.asked = b'', None, False, False, []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                outer.answer(self)

            def log_message(self, *_):
                pass
        self.http = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
        threading.Thread(target=self.http.serve_forever, daemon=True).start()
        self.address = f'http://127.0.0.1:{self.http.server_address[1]}/{{name}}.zip?id={{id}}'

    def answer(self, request):
        start = int(re.fullmatch('bytes=([0-9]+)-', request.headers['Range']).group(1))
        self.asked.append(start)
        size, start = len(self.content), 0 if self.whole else start
        if start >= size:
            request.send_response(416)
            request.send_header('Content-Range', f'bytes */{size}')
            request.end_headers()
            return
        request.send_response(200 if self.whole else 206)
        request.send_header('Content-Type', 'text/html' if self.page else 'application/zip')
        request.send_header('Content-Length', str(size - start))
        request.end_headers()
        request.wfile.write(self.content[start:][:self.limit])


@pytest.fixture
def server(monkeypatch):
    found = Server()
    found.content = archive_of({f'train/train_sharp/000/{t:08d}.png': os.urandom(4000) for t in range(10)})
    monkeypatch.setattr(download, 'SERVERS', {'snu': ('SNU CVLab', found.address),
                                              'google': ('Google Drive', found.address)})
    yield found
    found.http.shutdown()
    found.http.server_close()


def names_in(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob('*') if path.is_file())


def test_a_download(server, tmp_path, capsys):
    root = tmp_path / 'new'
    download.main([f'--root_dir={root}', '--train_sharp'])
    assert (root / 'train_sharp.zip').read_bytes() == server.content and names_in(root) == ['train_sharp.zip']
    assert 'Downloading train_sharp.zip from SNU CVLab' in capsys.readouterr().out
    download.main([f'--root_dir={root}', '--train_sharp', '--server=google', '--unzip'])
    assert 'is there already' in capsys.readouterr().out and server.asked == [0]
    assert len(names_in(root / 'train' / 'train_sharp' / '000')) == 10
    (root / 'train/train_sharp/000/00000003.png').unlink()
    download.main([f'--root_dir={root}', '--train_sharp', '--unzip'])
    assert len(names_in(root / 'train' / 'train_sharp' / '000')) == 10


@pytest.mark.parametrize('whole', [False, True])
def test_it_goes_on(whole, server, tmp_path):
    """From what an earlier run left, and by itself where the connection ends."""
    size = len(server.content)
    (tmp_path / 'val_sharp.zip.part').write_bytes(server.content[:1000])
    server.whole, server.limit = whole, None if whole else size // 3
    download.main([f'--root_dir={tmp_path}', '--val_sharp'])
    assert (tmp_path / 'val_sharp.zip').read_bytes() == server.content
    assert server.asked == [1000] if whole else server.asked == [1000, 1000 + size // 3, 1000 + 2 * (size // 3)]


def test_a_whole_part_is_checked_and_kept(server, tmp_path):
    (tmp_path / 'val_sharp.zip.part').write_bytes(server.content)
    download.main([f'--root_dir={tmp_path}', '--val_sharp'])
    assert names_in(tmp_path) == ['val_sharp.zip'] and server.asked == [len(server.content)]


def spoiled(content):
    return content[:500] + bytes([content[500] ^ 1]) + content[501:]


@pytest.mark.parametrize('change, words', [
    (lambda server, path: setattr(server, 'content', spoiled(server.content)), r'.part: damaged \(train/train_sharp'),
    (lambda server, path: setattr(server, 'content', b'no archive'), r'.part: damaged \(File is not a zip file\)'),
    (lambda server, path: setattr(server, 'page', True), 'a page instead of an archive .*; try another --server'),
    (lambda server, path: setattr(server, 'limit', 0), 'stopped after 0 bytes .* Give the same command again to go on'),
    (lambda server, path: path.write_bytes(b'half an archive'), 'is there, but not whole; rename it to .*.zip.part'),
    (lambda server, path: path.with_suffix('.zip.part').write_bytes(bytes(99999)), 'has 99,999 bytes, which is not a '),
])
def test_what_goes_wrong(change, words, server, tmp_path):
    change(server, tmp_path / 'val_sharp.zip')
    before = names_in(tmp_path)
    with pytest.raises((ValueError, OSError), match=words):
        download.main([f'--root_dir={tmp_path}', '--val_sharp'])
    assert set(before) <= set(names_in(tmp_path)) <= {'val_sharp.zip.part', *before}


def test_no_network_and_a_server_without_the_file(server, tmp_path, monkeypatch):
    monkeypatch.setattr(download, 'SERVERS', {'snu': ('x', 'http://127.0.0.1:9/{name}.zip'), 'google': ('y', '')})
    with pytest.raises(OSError, match='cannot be reached, .*refused.* try --server=google, or put the archive into'):
        download.main([f'--root_dir={tmp_path}', '--val_sharp'])
    server.answer = lambda request: request.send_error(404, 'Not Found')
    monkeypatch.setattr(download, 'SERVERS', {'snu': ('x', server.address), 'google': ('y', '')})
    with pytest.raises(OSError, match='404 Not Found; try --server=google'):
        download.main([f'--root_dir={tmp_path}', '--val_sharp'])
    assert not names_in(tmp_path)


def test_a_disk_that_is_too_small(server, tmp_path, monkeypatch):
    monkeypatch.setattr(download.shutil, 'disk_usage', lambda folder: type('Usage', (), {'free': 1000}))
    with pytest.raises(ValueError, match='bytes are to come, 1,000 are free there'):
        download.main([f'--root_dir={tmp_path}', '--val_sharp'])


@pytest.mark.parametrize('name', ['../outside.png', '/outside.png', 'train/../../outside.png'])
def test_members_stay_inside(name, server, tmp_path):
    server.content = archive_of({'inside.png': b'1', name: b'2'})
    with pytest.raises(ValueError, match='would lie outside'):
        download.main([f'--root_dir={tmp_path / "root"}', '--val_sharp', '--unzip'])
    assert names_in(tmp_path) == ['root/val_sharp.zip']


def test_flags_of_the_released_port():
    wanted = [f'{part}_{kind}' for part in ('train', 'val') for kind in (
        'sharp', 'blur', 'blur_comp', 'sharp_bicubic', 'blur_bicubic')]
    wanted += [f'test_{kind}' for kind in ('blur', 'blur_comp', 'sharp_bicubic', 'blur_bicubic')]
    assert list(download.ARCHIVES) == wanted and list(download.SERVERS) == ['snu', 'google']
    with pytest.raises(ValueError, match='no archive is named; for training: --train_sharp'):
        download.main([])


@pytest.fixture
def unpacked(tmp_path, photo):
    """A folder with train/ and val/ of a few small clips, as the archives are unpacked; and its files."""
    frame = images.to_uint8(photo[:16, :16])
    for part, clips in (('train', ('000', '001', '239')), ('val', ('000', '029'))):
        for clip in clips:
            for t in range(2):
                images.write(tmp_path / part / f'{part}_sharp' / clip / f'{t:08d}.png', frame)
                images.write(tmp_path / part / f'{part}_sharp_bicubic' / 'X4' / clip / f'{t:08d}.png', frame[:4, :4])
    return tmp_path, names_in(tmp_path)


@pytest.mark.parametrize('kind', ['', '--symlink', '--copy'])
def test_regrouping_loses_nothing(kind, unpacked, capsys):
    root, before = unpacked
    for _ in range(2):  # again: nothing to do
        assert regroup.main([str(root), *filter(None, [kind])]) == 0
        assert f'{root}/images: 5 clips of 270' in capsys.readouterr().out
        assert [name for name in names_in(root) if not name.startswith('images/')] == before
        assert names_in(root / 'images') == sorted(
            f'{clip}/{part}/{t:08d}.png' for clip in ('000', '001', '239', '240', '269') for part in ('truth', 'blur4')
            for t in range(2))
    target = root / 'images' / '269' / 'blur4' / '00000001.png'
    source = root / 'val' / 'val_sharp_bicubic' / 'X4' / '029' / '00000001.png'
    assert np.array_equal(images.read(target), images.read(source))
    assert target.is_symlink() == (kind == '--symlink') and target.samefile(source) == (kind != '--copy')


def test_regrouping_says_what_is_missing(unpacked, capsys):
    root, _ = unpacked
    (root / 'val/val_sharp_bicubic/X4/029/00000001.png').unlink()
    assert regroup.main([str(root)]) == 1
    said = capsys.readouterr()
    assert 'note: not there: 002, 003' in said.out and 'has 2 frames, those of REDS have 100' in said.out
    assert re.search('error: .*/val_sharp/029: 2 frames, 1 of LR in .*X4/029; first: 00000001.png', said.err)


def test_regrouping_overwrites_nothing(unpacked):
    root, _ = unpacked
    (root / 'images/001/truth').mkdir(parents=True)
    (root / 'images/001/truth/00000000.png').write_bytes(b'the user has this')
    with pytest.raises(ValueError, match='001/truth/00000000.png: is there, but not the file .*; move it away'):
        regroup.main([str(root)])
    assert (root / 'images/001/truth/00000000.png').read_bytes() == b'the user has this'


def test_regrouping_needs_clips_of_reds(tmp_path, monkeypatch, unpacked):
    with pytest.raises(ValueError, match='no train/train_sharp or val/val_sharp; scripts/download_REDS.py'):
        (tmp_path / 'empty').mkdir()
        regroup.main([str(tmp_path / 'empty')])

    def refuse(source, target):
        raise PermissionError(1, 'Operation not permitted')
    monkeypatch.setattr(regroup.os, 'link', refuse)
    with pytest.raises(OSError, match='no hard link can be made .*; choose --symlink or --copy'):
        regroup.main([str(unpacked[0])])
    (unpacked[0] / 'val/val_sharp/029').rename(unpacked[0] / 'val/val_sharp/030')
    with pytest.raises(ValueError, match='val_sharp/030: expected clips 000 ... 029 in that folder'):
        regroup.main([str(unpacked[0]), '--copy'])


def test_all_270_clips(tmp_path):
    """The released port lost the last; here frames are empty files."""
    for part, count in regroup.COUNT.items():
        for number in range(count):
            for place in (f'{part}_sharp', f'{part}_sharp_bicubic/X4'):
                folder = tmp_path / part / place / f'{number:03d}'
                folder.mkdir(parents=True)
                (folder / '00000000.png').touch()
    assert regroup.main([str(tmp_path)]) == 0
    assert sorted(os.listdir(str(tmp_path / 'images'))) == [f'{number:03d}' for number in range(270)]


def test_the_sample_is_listed(tmp_path):
    make_reds(str(tmp_path))
    listing.main([str(tmp_path)])
    train, val = (json.loads((tmp_path / 'reds' / 'sets' / f'{name}.json').read_text()) for name in ('train', 'val'))
    assert [video['name'] for video in val['videos']] == ['000', '011', '015', '020']
    assert train == {'prefix': False, 'gt_folder': 'truth', 'x4_folder': 'blur4', 'videos': [
        {'name': name, 'gt_shape': [144, 256], 'x4_shape': [36, 64], 'nframes': 12} for name in ('001', '002')]}
    for name, count in (('train.json', 2), ('val.json', 4)):
        assert len(find_clips(str(tmp_path), name)) == count


def test_the_prefix_layout_and_no_clip_of_reds4(tmp_path, photo, capsys):
    put_clip(tmp_path / 'clip', photo, (0, 0), frames=2, size=(8, 12))
    for part in ('truth', 'blur4'):
        (tmp_path / 'images' / part).mkdir(parents=True)
        (tmp_path / 'clip' / part).rename(tmp_path / 'images' / part / '269')
    listing.main([str(tmp_path)])
    assert 'note: no clips for val.json' in capsys.readouterr().out and not (tmp_path / 'sets/val.json').exists()
    found = json.loads((tmp_path / 'sets' / 'train.json').read_text())
    assert found['prefix'] is True and found['videos'] == [
        {'name': '269', 'gt_shape': [32, 48], 'x4_shape': [8, 12], 'nframes': 2}]
    assert [clip.name for clip in find_clips(str(tmp_path), 'train.json')] == ['269']


def test_what_cannot_be_listed(tmp_path, photo):
    (tmp_path / 'images').mkdir()
    with pytest.raises(ValueError, match='no images/<clip>/truth or images/truth/<clip>; scripts/regroup'):
        listing.main([str(tmp_path)])
    clip = tmp_path / 'images' / '001'
    put_clip(clip, photo, (0, 0), frames=2, size=(8, 12))
    images.write(clip / 'blur4' / '00000000.png', photo[:9, :12])
    with pytest.raises(ValueError, match='sizes disagree at x4: .*00000000.png is 12x9'):
        listing.main([str(tmp_path)])
    (clip / 'blur4' / '00000000.png').unlink()
    with pytest.raises(ValueError, match='truth has 2 frames and .*blur4 has 1'):
        listing.main([str(tmp_path)])
    (clip / 'blur4').rename(tmp_path / 'elsewhere')
    with pytest.raises(ValueError, match='truth: no LR frames beside it; expected a folder blur4'):
        listing.main([str(tmp_path)])


def test_all_of_it(unpacked):
    root, _ = unpacked
    done = call('bash', ROOT / 'scripts' / 'prepare_reds_dataset.sh', root, '--no_download')
    assert done.returncode == 0, done.stdout + done.stderr
    assert '[INFO] REDS dataset regrouped' in done.stdout and '[INFO] REDS dataset prepared' in done.stdout
    assert {path.name for path in (root / 'sets').iterdir()} == {'train.json', 'val.json'}
    (root / 'val/val_sharp_bicubic/X4/029/00000001.png').unlink()
    (root / 'images/269/blur4/00000001.png').unlink()
    done = call('bash', ROOT / 'scripts' / 'prepare_reds_dataset.sh', root, '--no_download')
    assert done.returncode == 1 and '[INFO] REDS dataset prepared' not in done.stdout
