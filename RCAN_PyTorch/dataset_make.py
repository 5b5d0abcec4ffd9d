"""python3 dataset_make.py --input_zip_path zips/ --dataset_path tiles/ --scale 2

Cuts DIV2K_train_HR.zip and DIV2K_valid_HR.zip into training tiles, as the released port does; main.py also trains from
DIV2K as it is, so this is for those who want tiles. Pictures are read inside the archives: nothing is extracted.

    tiles/X2/train/HR/0001_00_00.png, tiles/X2/train/LR_bicubic/X2/0001_00_00x2.png    tiles of scale * patch_size
    tiles/X2/valid/HR/0801.png, tiles/X2/valid/LR_bicubic/X2/0801x2.png                whole pictures, never trained on

The last row and column of tiles lie flush with the picture's edge, overlapping the one before: of what --scale divides
no pixel is lost. Run it again after an interruption, and it goes on where it stopped.
"""

import os
import tempfile
import zipfile
import zlib
from concurrent.futures import ProcessPoolExecutor
from functools import partial

from common import cli, images
from common.logs import Progress
from common.resize import imresize, mod_crop

ARCHIVES = {'train': 'DIV2K_train_HR.zip', 'valid': 'DIV2K_valid_HR.zip'}


def members(archive):
    """Names of the pictures inside an archive, sorted. Raises ValueError for a broken archive or one without any."""
    try:
        with zipfile.ZipFile(archive) as file:
            names = sorted(name for name in file.namelist()
                           if name.lower().endswith(images.EXTENSIONS) and not os.path.basename(name).startswith('.'))
    except zipfile.BadZipFile as error:
        raise ValueError(f'{archive}: {error}; download it again') from None
    if not names:
        raise ValueError(f'{archive}: no pictures in it; expected DIV2K_train_HR/0001.png and so on')
    return names


def starts(length, tile):
    """Where tiles begin so that they cover 0..length, the last flush with the end."""
    return [*range(0, length - tile, tile), length - tile]


def pieces(stem, height, width, tile):
    """[(label, y, x, height, width)] of a picture's tiles; of the whole picture where tile is 0."""
    if not tile:
        return [(stem, 0, 0, height, width)]
    return [(f'{stem}_{row:02d}_{column:02d}', y, x, tile, tile) for row, y in enumerate(starts(height, tile))
            for column, x in enumerate(starts(width, tile))]


def paths(folder, label, scale):
    """The HR and the LR file of a tile."""
    return (os.path.join(folder, 'HR', f'{label}.png'),
            os.path.join(folder, 'LR_bicubic', f'X{scale}', f'{label}x{scale}.png'))


def cut(name, archive, folder, scale, tile):
    """Write the tiles of one picture, or the whole picture where tile is 0. Returns how many, or an error's text.

    A marker with the member's checksum and size, written last, says what is done; tiles removed since are made again.
    """
    stem = os.path.splitext(os.path.basename(name))[0]
    marker = os.path.join(folder, '.done', f'{stem}_{tile}')
    try:
        crc = member_crc(archive, name)
        done = read_marker(marker)
        if done and done[0] == crc:
            found = pieces(stem, *done[1:], tile)
            if all(os.path.exists(path) for piece in found for path in paths(folder, piece[0], scale)):
                return len(found)
        hr = mod_crop(read_member(archive, name), scale)
        lr = imresize(hr, 1 / scale)
        if tile and min(hr.shape[:2]) < tile:
            raise ValueError(f'{hr.shape[1]}x{hr.shape[0]} is smaller than a tile of {tile}')
        found = pieces(stem, *hr.shape[:2], tile)
        for label, y, x, height, width in found:
            hr_path, lr_path = paths(folder, label, scale)
            images.write(hr_path, hr[y:y + height, x:x + width])
            images.write(lr_path, lr[y // scale:(y + height) // scale, x // scale:(x + width) // scale])
        with open(marker, 'w') as file:
            file.write(f'{crc} {hr.shape[0]} {hr.shape[1]}')
    except (ValueError, OSError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:  # RuntimeError: encrypted
        return f'{name}: {error}'
    return len(found)


def member_crc(archive, name):
    with zipfile.ZipFile(archive) as file:
        return file.getinfo(name).CRC


def read_marker(path):
    """[checksum, height, width], or None where there is none that is whole."""
    try:
        with open(path) as file:
            numbers = [int(word) for word in file.read().split()]
    except (FileNotFoundError, ValueError):
        return None
    return numbers if len(numbers) == 3 else None


def read_member(archive, name):
    """A picture inside an archive as uint8 [H,W,3]; only its content is used, never the path it asks for."""
    with zipfile.ZipFile(archive) as file, tempfile.NamedTemporaryFile(suffix=os.path.splitext(name)[1]) as copy:
        copy.write(file.read(name))
        copy.flush()
        return images.read(copy.name, channels=3)


def split_folder(options, split):
    return os.path.join(options.dataset_path, f'X{options.scale}', split)


def make(split, archive, options):
    """Cut one archive; returns (tiles written or found, errors)."""
    folder = split_folder(options, split)
    os.makedirs(os.path.join(folder, '.done'), exist_ok=True)
    tile = options.scale * options.patch_size if split == 'train' else 0
    others = {name.rsplit('_', 1)[1] for name in os.listdir(os.path.join(folder, '.done'))} - {str(tile)}
    if others:
        raise ValueError(f'{folder}: holds tiles of {", ".join(sorted(others))} pixels, not {tile}; choose another '
                         '--dataset_path, or the --patch_size of before')
    names = members(archive)
    stems = [os.path.splitext(os.path.basename(name))[0] for name in names]
    twice = next((stem for stem, other in zip(sorted(stems), sorted(stems)[1:]) if stem == other), None)
    if twice:
        raise ValueError(f'{archive}: several pictures are called {twice}; their tiles would replace one another')
    work = partial(cut, archive=archive, folder=folder, scale=options.scale, tile=tile)
    counts, errors = 0, []
    with ProcessPoolExecutor(options.workers, initializer=cli.end_with_parent, initargs=(os.getpid(),)) as pool, \
            Progress(len(names), split, 'pictures') as progress:
        for result in pool.map(work, names):
            if isinstance(result, str):
                errors.append(result)
            else:
                counts += result
            progress.update()
    return counts, errors


def main(argv=None):
    parser = cli.Parser(description=__doc__)
    add = parser.add_argument
    add('--input_zip_path', required=True, help='folder with DIV2K_train_HR.zip and DIV2K_valid_HR.zip')
    add('--dataset_path', required=True, help='folder to write; --train_dataset_dir and --test_dataset_dir of main.py')
    add('--scale', type=int, default=2, help='upscaling factor')
    add('--patch_size', type=int, default=48, help='LR side of a tile, pixels')
    add('--workers', type=int, default=os.cpu_count(), help='processes')
    options = parser.parse_args(argv)
    for name in ('scale', 'patch_size', 'workers'):
        if getattr(options, name) < 1:
            raise ValueError(f'--{name} {getattr(options, name)}: expected 1 or more')
    archives = {split: os.path.join(options.input_zip_path, name) for split, name in ARCHIVES.items()}
    there = {split: path for split, path in archives.items() if os.path.isfile(path)}
    if 'train' not in there:
        raise ValueError(f'{archives["train"]}: no such file; --input_zip_path is the folder that holds it')
    errors = []
    for split, path in there.items():
        count, failed = make(split, path, options)
        print(f'{split_folder(options, split)}: {count} {"tiles" if split == "train" else "pictures"}')
        errors += failed
    if 'valid' not in there:
        print(f'{archives["valid"]} is not there: no validation pictures were made')
    if errors:
        raise ValueError(f'{len(errors)} pictures could not be cut:\n  ' + '\n  '.join(errors[:20]))


if __name__ == '__main__':
    cli.run(main)
