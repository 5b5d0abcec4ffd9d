"""python3 scripts/download_REDS.py --root_dir data/reds --train_sharp --train_sharp_bicubic --unzip

Downloads archives of REDS, ROOT_DIR/train_sharp.zip and so on. What was cut off is kept as .zip.part and goes on where
it stopped when the same command is given again. A whole archive is read once, every checksum in it compared.
"""
import http.client
import os
import shutil
import sys
import urllib.error
import urllib.request
import zipfile
import zlib

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))  # `common` is imported from there

from common import cli, logs  # noqa: E402

SERVERS = {  # name: (what it is, address of an archive; {name} and {id} are those of ARCHIVES)
    'snu': ('SNU CVLab', 'http://data.cv.snu.ac.kr:8008/webdav/dataset/REDS/{name}.zip'),
    'google': ('Google Drive', 'https://drive.usercontent.google.com/download?id={id}&export=download&confirm=t')}
ARCHIVES = {  # and under which ids Google Drive has them
    'train_sharp': '1YLksKtMhd2mWyVSkvhDaDLWSc1qYNCz-', 'train_blur': '1Be2cgzuuXibcqAuJekDgvHq4MLYkCgR8',
    'train_blur_comp': '1hi6348BB9QQFqVx2PY7pKn32HQM89CJ1', 'train_sharp_bicubic': '1a4PrjqT-hShvY9IyJm3sPF0ZaXyrCozR',
    'train_blur_bicubic': '10u8gthv2Q95RMCb1LeCN8N4ozB8TVjMt', 'val_sharp': '1MGeObVQ1-Z29f-myDP7-8c3u0_xECKXq',
    'val_blur': '1N8z2yD0GDWmh6U4d4EADERtcUgDzGrHx', 'val_blur_comp': '13d1uzqLdbsQzeZkWgdF5QVHqDSjfE4zZ',
    'val_sharp_bicubic': '1sChhtzN9Css10gX7Xsmc2JaC-2Pzco6a', 'val_blur_bicubic': '1i3NAb7EmF4fCYadGaHK54-Zgx9lIC2Gp',
    'test_blur': '1dr0--ZBKqr4P1M8lek6JKD1Vd6bhhrZT', 'test_blur_comp': '1OctyKR3ER_YWrZxKxQsZzLis3BvLSOFO',
    'test_sharp_bicubic': '1y0Jle6xB41TdRK_QMJ_E8W_iBMxwq_Rh', 'test_blur_bicubic': '14YszfzUAeAfwP0ZA2FRzAiVxxZLg7-tY'}
CHUNK, TIMEOUT, ATTEMPTS = 1 << 20, 60, 5  # bytes; seconds without a byte; connections that bring nothing new, at most


def download(name, server, root):
    """ROOT/NAME.zip, whole and checked; one that is there is taken. ValueError, OSError: what is wrong, and the remedy.
    """
    path, (title, address) = os.path.join(root, f'{name}.zip'), SERVERS[server]
    if os.path.exists(path):
        if not zipfile.is_zipfile(path):
            raise ValueError(f'{path}: is there, but not whole; rename it to {path}.part to go on from there, or move '
                             'it away')
        print(f'{path} is there already')
        return path
    print(f'Downloading {name}.zip from {title}', flush=True)
    fetch(address.format(name=name, id=ARCHIVES[name]), f'{path}.part', other=' or '.join(set(SERVERS) - {server}))
    print(f'checking {name}.zip', flush=True)
    check(f'{path}.part')
    os.replace(f'{path}.part', path)
    return path


def fetch(url, part, other):
    """Bring the file `part`, of which a beginning may be there, to the length that the server says."""
    failures = 0
    while True:
        before = os.path.getsize(part) if os.path.exists(part) else 0
        try:
            if fetch_rest(url, part, before):
                return
            reason = 'the connection ended'
        except urllib.error.HTTPError as error:
            raise OSError(f'{url}: {error.code} {error.reason}; try --server={other}') from None
        except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError) as error:
            reason = getattr(error, 'reason', None) or error
        after = os.path.getsize(part) if os.path.exists(part) else 0
        failures = 0 if after > before else failures + 1
        if failures == ATTEMPTS or (failures and not after):
            raise OSError(f'{url}: cannot be reached, or stopped after {after:,} bytes ({reason}). Give the same '
                          f'command again to go on, try --server={other}, or put the archive into '
                          f'{os.path.dirname(part) or "."} by other means')


def fetch_rest(url, part, start):
    """Append what the server has behind byte `start`; whether the file is whole then."""
    request = urllib.request.Request(url, headers={'Range': f'bytes={start}-'})
    try:
        answer = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == 416 and error.headers.get('Content-Range', '') == f'bytes */{start}':
            return True
        if error.code == 416:
            raise ValueError(f'{part}: has {start:,} bytes, which is not a beginning of {url}; move it away') from None
        raise
    with answer:
        if answer.headers.get_content_type() == 'text/html':
            raise OSError(f'{url}: a page instead of an archive (too many downloads there today?); try another '
                          '--server')
        start = start if answer.status == 206 else 0  # a server that cannot go on begins anew
        length = answer.headers.get('Content-Length')
        total = start + int(length) if length else None
        needed = (total or 0) - start
        free = shutil.disk_usage(os.path.dirname(os.path.abspath(part))).free
        if needed > free:
            raise ValueError(f'{part}: {needed:,} bytes are to come, {free:,} are free there')
        with open(part, 'r+b' if start else 'wb') as file, \
                logs.Progress(total and total / 1e6, 'download', 'MB') as progress:
            file.seek(start)
            progress.update(start / 1e6)
            for chunk in iter(lambda: answer.read(CHUNK), b''):
                file.write(chunk)
                progress.update(len(chunk) / 1e6)
        return total is None or os.path.getsize(part) == total


def check(path):
    """ValueError where an archive is not whole: its index, or a checksum of a member."""
    try:
        with zipfile.ZipFile(path) as archive:
            wrong = archive.testzip()
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        wrong = error
    if wrong:
        raise ValueError(f'{path}: damaged ({wrong}); remove it and download it again')


def unzip(path, root):
    """Extract into ROOT what is not there yet. ValueError for a member that would lie elsewhere."""
    with zipfile.ZipFile(path) as archive:
        members = [member for member in archive.infolist() if not member.filename.endswith('/')]
        inside = os.path.join(os.path.realpath(root), '')
        for member in members:
            if not os.path.realpath(os.path.join(root, member.filename)).startswith(inside):
                raise ValueError(f'{path}: its member {member.filename!r} would lie outside {root}; refused')
        with logs.Progress(len(members), f'unzip {os.path.basename(path)}', 'files') as progress:
            for member in members:
                extract(archive, member, os.path.join(root, member.filename))
                progress.update()


def extract(archive, member, target):
    """One member, whole or not at all; a file of its size stays."""
    if os.path.exists(target) and os.path.getsize(target) == member.file_size:
        return
    os.makedirs(os.path.dirname(target), exist_ok=True)
    with archive.open(member) as source, open(f'{target}.part', 'wb') as file:
        shutil.copyfileobj(source, file, CHUNK)
    os.replace(f'{target}.part', target)


def main(argv=None):
    parser = cli.Parser(description=__doc__.splitlines()[2])
    add = parser.add_argument
    add('--server', default='snu', choices=SERVERS, help='where to download from')
    add('--root_dir', default='.', help='folder for the archives, and for what is in them')
    add('--unzip', action='store_true', help='extract each archive when it is whole; it stays')
    add('--all', action='store_true', help='all archives')
    for name in ARCHIVES:
        add(f'--{name}', action='store_true', help=f'{name}.zip')
    options = parser.parse_args(argv)
    wanted = [name for name in ARCHIVES if options.all or getattr(options, name)]
    if not wanted:
        raise ValueError('no archive is named; for training: --train_sharp --train_sharp_bicubic --val_sharp '
                         '--val_sharp_bicubic')
    os.makedirs(options.root_dir, exist_ok=True)
    for name in wanted:
        path = download(name, options.server, options.root_dir)
        if options.unzip:
            unzip(path, options.root_dir)


if __name__ == '__main__':
    cli.run(main)
