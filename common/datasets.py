"""Where DIV2K, the benchmark sets and REDS lie on a user's disk, in the layouts of all five released ports.

A `root` may be the folder that holds DIV2K/, benchmark/ and reds/; one that holds dataset/ (or data/) with those; or
the set's own folder: DIV2K, DIV2K_train_HR, Set5, Set5/HR, reds. Folder names are matched regardless of case.

    DIV2K       DIV2K_train_HR/0001.png, DIV2K_train_LR_bicubic/X2/0001x2.png, DIV2K_valid_HR, DIV2K_valid_LR_bicubic;
                pictures 0801..0900 are validation wherever they lie (the EDSR port keeps all 900 in DIV2K_train_HR)
    benchmark   Set5/HR/baby.png + LR_bicubic/X2/babyx2.png (EDSR, CSNLN)
                SR/baby.png + LR/x2/baby.png (BSRN); GTmod12/baby.png + LRbicx2/baby.png (BasicSR)
                HR/Set5/x2/baby_HR_x2.png + LR/LRBI/Set5/x2/baby_LRBI_x2.png (RCAN)
                image_SRF_2/baby_SRF_2_HR.png + baby_SRF_2_LR.png; plain Set5/*.bmp, for which the LR is made
    REDS        images/000/truth + images/000/blur4 (EDVR port), or images/truth/000 + images/blur4/000 (its `prefix`)
                train/train_sharp/000 + train/train_sharp_bicubic/X4/000, and val likewise
                GT/calendar + BIx4/calendar (Vid4 and other test clips)
"""
import os
import re
from collections import namedtuple

from common import images
from common.resize import imresize, mod_crop

Pair = namedtuple('Pair', 'name hr lr')  # name without extension, two file paths; lr is None: to be made from hr
Clip = namedtuple('Clip', 'name hr lr')  # the same for two folders of frames

DIV2K_FOLDERS = ('DIV2K', '')  # below a root: its own folder, or the root is it
ALIASES = (('B100', 'BSD100', 'BSDS100', 'CBSD100'),)
WELL_KNOWN = ('set5', 'set14', 'b100', 'bsd100', 'bsds100', 'cbsd100', 'urban100', 'manga109')
REDS4 = ('000', '011', '015', '020')  # held out of training by the EDVR paper, 5.1
_REDS_SPLITS = {  # which clips of a layout (see reds_layouts) make a split
    'all': {'train': 'others', 'val': 'REDS4', 'REDS4': 'REDS4'}, 'train': {'train': 'others', 'REDS4': 'REDS4'},
    'val': {'val': 'every'}, 'test': {'val': 'every', 'REDS4': 'REDS4'}}
EXCESS = 12  # an HR side may exceed scale * LR by less: the LR was made of an HR cropped to multiples of up to 12


def find_div2k(root, split, scale, *, kind='bicubic', first=None, last=None):
    """[Pair] of DIV2K's 'train' or 'valid' split, sorted by name; kind is the degradation, 'bicubic' or 'unknown'.

    first, last: 1-based inclusive positions as in EDSR's --data_range; in 'valid' both 1 and 801 are the first.
    ValueError: nothing found (names the places), an LR picture missing, an empty range.
    """
    hr, lr_folder = locate_div2k(root, split, scale, kind=kind)
    if lr_folder is None and kind != 'bicubic':
        folder = os.path.dirname(hr[0])
        raise ValueError(f'{folder}: no LR pictures of kind {kind!r} for x{scale} beside it; looked for:'
                         f'{_lines(lr_places(folder, scale, kind))}')
    start, stop = first or 1, last or 900
    if split == 'valid':
        start, stop = (p - 800 if p > 800 else p for p in (start, stop))
    chosen = hr[max(start, 1) - 1:stop]
    if not chosen:
        raise ValueError(f'pictures {first}-{last} of DIV2K {split}: the range is empty; {len(hr)} pictures are there')
    return complete(*match(chosen, lr_folder, scale), lr_folder)


def find_benchmark(root, name, scale):
    """[Pair] of a benchmark set: Set5, Set14, B100 (= BSD100), Urban100, Manga109, any other; 'DIV2K': its valid split.

    ValueError: nothing found (names the places and the sets that are there), an LR picture missing.
    """
    if name.lower() == 'div2k':
        return find_div2k(root, 'valid', scale)
    hr, lr_folder = locate_benchmark(root, name, scale)
    return complete(*match(hr, lr_folder, scale), lr_folder)


def find_pairs(path, scale):
    """[Pair] of a folder that is itself the set: pictures, HR/ with LR_bicubic/X{scale}, or DIV2K (its training split).

    ValueError: no pictures found (names the places), an LR picture missing.
    """
    hr, lr_folder = locate_pairs(path, scale)
    return complete(*match(hr, lr_folder, scale), lr_folder)


def find_reds(root, split):
    """[Clip] of REDS: 'train' (never a REDS4 clip), 'REDS4' (000 011 015 020 of the training set) or 'val'.

    'val' is val_sharp where it exists, all clips of a GT/ folder, and REDS4 in the port's images/ layout, as in its
    val.json. lr is None when no clip has one. ValueError: nothing found (names the places), some clips without LR,
    frames of HR and LR that differ in name.
    """
    if split not in ('train', 'val', 'REDS4'):
        raise ValueError(f"unknown REDS split {split!r}; known: 'train', 'val', 'REDS4'")
    for part, clips in reds_layouts(root):
        wanted = _REDS_SPLITS[part].get(split)
        clips = [c for c in clips if wanted in ('every', 'REDS4' if c.name in REDS4 else 'others')]
        if clips:
            return whole_clips(clips)
    layouts = ('images/<clip>/truth', 'images/truth/<clip>', 'train/train_sharp/<clip>', 'train_sharp/<clip>',
               'val/val_sharp/<clip>', 'val_sharp/<clip>', 'GT/<clip>')
    places = [os.path.join(home, layout) for home in reds_homes(root) for layout in layouts]
    raise ValueError(f'{root}: no REDS clips for {split!r}; looked for:{_lines(places)}')


def load_pair(pair, scale):
    """(lr uint8 [h,w,3], hr uint8 [scale*h,scale*w,3]), RGB; the HR is cropped from the top left.

    Without an LR file the LR is the bicubic of the HR cropped to multiples of scale. ValueError: a picture that cannot
    be decoded; sizes that disagree.
    """
    hr = images.read(pair.hr, channels=3)
    if pair.lr is None:
        hr = mod_crop(hr, scale)
        return imresize(hr, 1 / scale), hr
    lr = images.read(pair.lr, channels=3)
    check_sizes(pair, lr.shape, hr.shape, scale)
    return lr, hr[:lr.shape[0] * scale, :lr.shape[1] * scale]


def check_sizes(pair, lr_shape, hr_shape, scale):
    """ValueError unless each HR side is `scale` times the LR side, or less than EXCESS pixels longer."""
    for lr_side, hr_side in zip(lr_shape[:2], hr_shape[:2]):
        if not 0 <= hr_side - lr_side * scale < EXCESS:
            raise ValueError(
                f'sizes disagree at x{scale}: {pair.lr or "the LR"} is {lr_shape[1]}x{lr_shape[0]}, {pair.hr} is '
                f'{hr_shape[1]}x{hr_shape[0]} (width x height), expected {lr_shape[1] * scale}x{lr_shape[0] * scale}')


# ---- the parts, for common/check_data.py too ----

def locate_div2k(root, split, scale, *, kind='bicubic'):
    """(sorted HR paths, LR folder or None) of a DIV2K split; ValueError naming the places when there is none."""
    if split not in ('train', 'valid'):
        raise ValueError(f"unknown DIV2K split {split!r}; known: 'train', 'valid'")
    if kind not in ('bicubic', 'unknown'):
        raise ValueError(f"unknown DIV2K degradation {kind!r}; known: 'bicubic', 'unknown'")
    root = _folder(root)
    if os.path.basename(root).lower().startswith('div2k_'):
        root = os.path.dirname(root)
    tried = []
    for part in (split, 'train') if split == 'valid' else (split,):
        places = [os.path.join(home, div2k, f'DIV2K_{part}_HR') for home in _homes(root) for div2k in DIV2K_FOLDERS]
        folder = _first_with_pictures(places)
        hr = images.list_pictures(folder) if folder else []
        if part == 'train':
            hr = [path for path in hr if (801 <= _number(path) <= 900) == (split == 'valid')]
        if hr:
            return hr, _first_folder(lr_places(folder, scale, kind))
        tried += [place + ('/0801..0900' if part != split else '') for place in places]
    raise ValueError(f'{root}: no DIV2K {split} pictures; looked for:{_lines(tried)}{_what_is_there(root)}')


def locate_benchmark(root, name, scale):
    """(sorted HR paths, LR folder or None) of a benchmark set; ValueError naming the places when there is none."""
    names = next((group for group in ALIASES if name.lower() in (n.lower() for n in group)), (name,))
    names = (name,) + tuple(n for n in names if n.lower() != name.lower())
    root = _folder(root)
    folders = [os.path.join(home, parent, n)
               for n in names for home in _homes(root) for parent in ('benchmark', '', 'benchmarks', 'HR')]
    for own in (root, os.path.dirname(root)):  # the set's own folder, or its HR
        if os.path.basename(own).lower() in (n.lower() for n in names):
            folders.insert(0, own)
    for folder in filter(None, map(_existing, folders)):
        hr_folder = _first_with_pictures(_hr_places(folder, scale))
        if hr_folder:
            return hr_pictures(hr_folder), _first_folder(lr_places(hr_folder, scale, 'bicubic'))
    raise ValueError(f'{root}: no benchmark set {name!r}; looked for pictures, HR/, GTmod12/, SR/ with LR/, '
                     f'image_SRF_{scale}/ or x{scale}/ in:{_lines(folders)}{_what_is_there(root)}')


def locate_pairs(path, scale):
    """(sorted HR paths, LR folder or None) of a folder that is itself the set, as find_pairs has it."""
    path = _folder(path)
    places = _hr_places(path, scale)
    hr_folder = _first_with_pictures(places)
    if hr_folder and os.path.basename(hr_folder).lower() != 'div2k_train_hr':
        return hr_pictures(hr_folder), _first_folder(lr_places(hr_folder, scale, 'bicubic'))
    try:
        return locate_div2k(path, 'train', scale)
    except ValueError as error:
        extensions = ' '.join(images.EXTENSIONS)
        raise ValueError(f'no pictures ({extensions}) in:{_lines(places)}\nnor a DIV2K: {error}') from None


def list_benchmarks(root):
    """Sorted names of the benchmark sets below the root: with HR/, or, if well known or in benchmark/, plain."""
    found = set()
    for home in _homes(_folder(root)):
        for parent, plain in (('benchmark', True), ('benchmarks', True), ('HR', False), ('', False)):
            for name in _folders(_existing(os.path.join(home, parent))):
                folder = os.path.join(_existing(os.path.join(home, parent)), name)
                places = [place for s in (2, 3, 4, 8) for place in _hr_places(folder, s)]
                if not (plain or name.lower() in WELL_KNOWN):
                    places = [place for place in places if place != folder]
                if _first_with_pictures(places):
                    found.add(name)
    return sorted(name for name in found if not name.lower().startswith(('div2k', 'reds', 'lr', 'images')))


def match(hr, lr_folder, scale):
    """([Pair] of the HR pictures whose LR is there, [HR paths whose LR is not]); without a folder every lr is None."""
    if lr_folder is None:
        return [Pair(_base(path, scale), path, None) for path in hr], []
    truth = set(hr)  # image_SRF_2/ holds both
    there = {path.stem: path for path in images.list_pictures(lr_folder) if path not in truth}
    pairs, missing = [], []
    for path in hr:
        base, stem = _base(path, scale), os.path.splitext(os.path.basename(path))[0]
        names = (f'{base}x{scale}', f'{base}_x{scale}', f'{base}_LRBI_x{scale}', f'{base}_SRF_{scale}_LR',
                 f'{base}_LR', f'{base}_LR_x{scale}', base, f'{stem}x{scale}', stem)
        lr = next((there[name] for name in names if name in there), None)
        if lr is None:
            missing.append(path)
        else:
            pairs.append(Pair(base, path, lr))
    return pairs, missing


def reds_layouts(root):
    """Yields (part, [Clip]) for each layout found: part is 'all' (images/), 'train', 'val' or 'test' (GT/)."""
    for home in reds_homes(root):
        folder = _existing(os.path.join(home, 'images'))
        clips = [Clip(name, hr, _existing(os.path.join(folder, name, 'blur4'))) for name in _folders(folder)
                 for hr in [_existing(os.path.join(folder, name, 'truth'))] if hr]
        if clips:
            yield 'all', clips
        for part, hr_place, lr_places in (
                ('all', 'images/truth', ('images/blur4',)),
                ('train', 'train/train_sharp', ('train/train_sharp_bicubic/X4',)),
                ('train', 'train_sharp', ('train_sharp_bicubic/X4',)),
                ('val', 'val/val_sharp', ('val/val_sharp_bicubic/X4',)),
                ('val', 'val_sharp', ('val_sharp_bicubic/X4',)),
                ('test', 'GT', ('BIx4', 'sharp_bicubic', 'LR_bicubic/X4'))):
            folder = _existing(os.path.join(home, hr_place))
            lr_folder = _first_folder([os.path.join(home, place) for place in lr_places])
            clips = [Clip(name, os.path.join(folder, name), lr_folder and _existing(os.path.join(lr_folder, name)))
                     for name in _folders(folder)]
            if clips:
                yield part, clips


# ---- folders ----

def _folder(path):
    path = os.path.abspath(os.path.expanduser(os.fspath(path)))
    if not os.path.isdir(path):
        what = 'a file' if os.path.exists(path) else 'no such folder'
        raise ValueError(f'{path}: {what}; expected the one that holds DIV2K/, benchmark/ or reds/, or a set')
    return path


def _homes(root):
    places = [os.path.join(root, name) for name in ('dataset', 'data', 'datasets')]
    return [root] + [place for place in places if _existing(place)]


def reds_homes(root):
    """The folders that may hold REDS' own: images/, sets/, train/ and so on."""
    root = _folder(root)
    while os.path.basename(root).lower() in ('images', 'train', 'val', 'gt', 'train_sharp', 'val_sharp'):
        root = os.path.dirname(root)
    return [os.path.join(home, reds) for home in _homes(root) for reds in ('reds', '')]


def _existing(path):
    """The folder of that path, its names matched regardless of case where need be, or None."""
    if os.path.isdir(path):
        return path.rstrip(os.sep) or os.sep
    parent, name = os.path.split(path.rstrip(os.sep))
    parent = _existing(parent) if name else None
    return next((os.path.join(parent, n) for n in _folders(parent) if n.lower() == name.lower()), None)


def _folders(folder):
    return sorted(e.name for e in os.scandir(folder) if e.is_dir() and not e.name.startswith('.')) if folder else []


def _first_folder(places):
    return next(filter(None, map(_existing, places)), None)


def _first_with_pictures(places):
    return next((folder for folder in filter(None, map(_existing, places)) if hr_pictures(folder)), None)


def _hr_places(folder, scale):
    """Where the HR pictures of a set may lie; BSRN's port calls them SR, which elsewhere are a network's results."""
    truth = ['HR', 'GTmod12', 'SR'] if _existing(os.path.join(folder, 'LR')) else ['HR', 'GTmod12']
    names = truth + [f'image_SRF_{scale}', f'x{scale}']
    return [os.path.join(folder, name) for name in names] + [folder]


def lr_places(hr_folder, scale, kind):
    """Where the LR pictures that belong to a folder of HR pictures may lie; common/make_lr.py writes into the first."""
    parent, name = os.path.split(hr_folder)
    if name.lower().endswith('_hr'):
        kinds = [f'LR_{kind}/X{scale}'] + [f'LR_x{scale}'] * (kind == 'bicubic')  # DIV2K_train_LR_x8 is distributed so
        return [os.path.join(parent, name[:-2] + place) for place in kinds]
    if name.lower() == f'image_srf_{scale}':
        return [hr_folder]
    if name.lower() == f'x{scale}':
        top, dataset = os.path.split(parent)
        return [os.path.join(os.path.dirname(top), 'LR', 'LRBI', dataset, name)]
    beside = parent if name.lower() in ('hr', 'sr') or name.lower().startswith('gtmod') else hr_folder
    return [os.path.join(beside, place) for place in (f'LR_{kind}/X{scale}', f'LR/X{scale}', f'LRbicx{scale}')]


def hr_pictures(folder):
    """Sorted paths of the HR pictures in a folder: all pictures, save where a layout keeps LR pictures beside them."""
    paths = images.list_pictures(folder)
    if re.fullmatch('(image_srf_|x)[0-9]+', os.path.basename(folder).lower()):
        return [path for path in paths if re.search('_HR(_x[0-9]+)?$', os.path.splitext(path)[0])]
    return paths


def _base(path, scale):
    return re.sub(rf'(_SRF_{scale}_HR|_HR_x{scale}|_HR)$', '', os.path.splitext(os.path.basename(path))[0])


def _number(path):
    stem = os.path.splitext(os.path.basename(path))[0]
    return int(stem) if re.fullmatch('[0-9]+', stem) else 0


def complete(pairs, missing, lr_folder):
    """The pairs that match() found, sorted by name. ValueError: an LR picture is missing, or two HR share a name."""
    if missing:
        names = ', '.join(map(os.path.basename, missing[:5])) + (', ...' if len(missing) > 5 else '')
        raise ValueError(f'{lr_folder}: no LR picture for {len(missing)} of {len(pairs) + len(missing)} HR pictures in '
                         f'{os.path.dirname(missing[0])}: {names}; common/make_lr.py makes them')
    for one, other in zip(pairs, pairs[1:]):  # sorted by name; they would share an LR and a result
        if one.name == other.name:
            raise ValueError(f'{one.hr} and {other.hr} have one name; remove one of them')
    return pairs


def whole_clips(clips):
    """The clips. ValueError: some have no LR folder, or frames of HR and LR differ in name."""
    without = [clip.name for clip in clips if clip.lr is None]
    if without and len(without) < len(clips):
        raise ValueError(f'{len(without)} of {len(clips)} clips have no LR folder: {", ".join(without[:5])}; '
                         f'the HR folders are like {clips[0].hr}')
    for clip in clips:
        if clip.lr is not None:
            hr, lr = (set(map(os.path.basename, images.list_pictures(folder))) for folder in (clip.hr, clip.lr))
            if hr != lr:
                raise ValueError(f'{clip.hr} has {len(hr)} frames and {clip.lr} has {len(lr)}; '
                                 f'in one only: {", ".join(sorted(hr ^ lr)[:5])}')
    return clips


def _what_is_there(root):
    there = list_benchmarks(root) or _folders(root)[:20]
    return f'\nthere are: {", ".join(there)}' if there else '\nthe folder holds no folders'


def _lines(places):
    return ''.join(f'\n  {place}' for place in places)
