"""python common/make_lr.py DIV2K/DIV2K_train_HR --scales 2 3 4

Makes the low-resolution pictures of a folder of high-resolution ones where common/datasets.py looks for them:
DIV2K_train_HR/0001.png -> DIV2K_train_LR_bicubic/X2/0001x2.png, Set5/HR/baby.png -> Set5/LR_bicubic/X2/babyx2.png.
The bicubic is MATLAB's, of the picture cropped from the top left to multiples of the scale. Started again, it goes on
where it was stopped. Exit status 1 when pictures could not be used; they are named, the others are done.
"""
import os
import signal
import sys
from collections import Counter
from concurrent.futures import ProcessPoolExecutor, as_completed

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))  # `common` is imported from there

from common import cli, images  # noqa: E402
from common.datasets import hr_pictures, lr_places  # noqa: E402
from common.logs import Progress  # noqa: E402
from common.resize import imresize, mod_crop  # noqa: E402


def lr_path(hr, scale):
    """Where the LR of an HR path is written."""
    folder, name = os.path.split(os.path.abspath(str(hr)))
    return os.path.join(lr_places(folder, scale, 'bicubic')[0], f'{os.path.splitext(name)[0]}x{scale}.png')


def make(hr, scales):
    """Writes the LR of an HR path for each scale unless a readable one of that size is there; returns how many."""
    try:
        height, width = images.size(hr)
    except OSError as error:  # missing behind a link, or not ours to read: of no concern to the other pictures
        raise ValueError(f'{hr}: {error.strerror}') from None
    todo = [scale for scale in scales if not _is_there(lr_path(hr, scale), (height // scale, width // scale))]
    picture = images.read(hr, channels=3) if todo else None
    for scale in todo:
        images.write(lr_path(hr, scale), imresize(mod_crop(picture, scale), 1 / scale))
    return len(todo)


def _is_there(path, size):
    try:
        return images.read(path).shape[:2] == size
    except (ValueError, OSError):
        return False


def _begin_worker(parent):
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is left to the parent
    cli.end_with_parent(parent)


def make_all(pictures, scales, workers):
    """(LR pictures written, messages about HR pictures that could not be used), in `workers` processes."""
    written, problems = 0, []
    pool = ProcessPoolExecutor(workers, initializer=_begin_worker, initargs=(os.getpid(),))
    jobs = [pool.submit(make, path, scales) for path in pictures]
    try:
        with Progress(len(jobs), 'make_lr', 'pictures') as progress:
            for job in as_completed(jobs):
                try:
                    written += job.result()
                except ValueError as error:
                    problems.append(str(error))
                progress.update()
    finally:  # after Ctrl-C or a full disk: drop what has not begun
        for job in jobs:
            job.cancel()
        pool.shutdown()
    return written, sorted(problems)


def main(argv=None):
    """Command line; returns the exit status."""
    parser = cli.Parser(prog='make_lr.py', description='Make LR_bicubic pictures of a folder of HR pictures.')
    add = parser.add_argument
    add('folder', help='HR pictures: DIV2K_train_HR, Set5/HR, or any folder of pictures')
    add('--scales', type=int, nargs='+', default=[2, 3, 4, 8], help='one LR folder X{scale} for each')
    add('--workers', type=int, default=os.cpu_count(), help='processes')
    args = parser.parse_args(argv)
    if min(args.scales) < 2 or args.workers < 1:
        raise ValueError(f'--scales {args.scales} --workers {args.workers}: expected scales from 2, workers from 1 on')
    pictures = hr_pictures(args.folder)
    if not pictures:
        raise ValueError(f'{args.folder}: no pictures; expected files ending in {" ".join(images.EXTENSIONS)}')
    stems = Counter(path.stem for path in pictures)
    twins = [f'{path}: another picture is called {path.stem}, too, and both would have one LR; rename one'
             for path in pictures if stems[path.stem] > 1]
    single = [path for path in pictures if stems[path.stem] == 1]
    written, problems = make_all(single, sorted(set(args.scales)), args.workers)
    problems += twins
    folder = os.path.dirname(os.path.dirname(lr_path(pictures[0], args.scales[0])))
    print(f'{folder}: {written} LR pictures written for {len(pictures) - len(problems)} of {len(pictures)} HR pictures')
    for problem in problems:
        print(f'not used: {problem}', file=sys.stderr)
    return 1 if problems else 0


if __name__ == '__main__':
    cli.run(main)
