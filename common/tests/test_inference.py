import errno
import os
import sys

import numpy as np
import pytest
from PIL import Image

from common import images, inference, tiles
from common.resize import imresize


def nearest(lr, scale=2):
    return lr.repeat(scale, 0).repeat(scale, 1)


def picture(*shape, dtype=np.uint8, seed=0):
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max + 1, shape).astype(dtype)


@pytest.mark.parametrize('dtype', [np.uint8, np.uint16])
@pytest.mark.parametrize('channels', [None, 2, 3, 4])
def test_every_kind_of_picture_keeps_its_kind(channels, dtype):
    image = picture(*((9, 7) if channels is None else (9, 7, channels)), dtype=dtype)
    seen = []

    def upscale(lr):
        seen.append(lr)
        return nearest(lr)
    sr = inference.upscale_picture(upscale, image, 2)
    assert seen[0].shape == (9, 7, 3) and seen[0].dtype == np.float32 and seen[0].max() <= 255
    expected = nearest(image)
    if channels in (2, 4):
        expected[:, :, -1] = imresize(image[:, :, -1], 2)
    assert sr.dtype == dtype
    np.testing.assert_array_equal(sr, expected)


def test_results_are_rounded_and_clamped():
    image = np.array([[[0, 255, 100]]], np.uint8)
    sr = inference.upscale_picture(lambda lr: nearest(lr) + [-9, 9, 0.6], image, 2)
    np.testing.assert_array_equal(sr[0, 0], [0, 255, 101])
    sr = inference.upscale_picture(lambda lr: nearest(lr) + [-9, 9, 0.5], image.astype(np.uint16) * 257, 2)
    np.testing.assert_array_equal(sr[0, 0], [0, 65535, 25828])


@pytest.mark.parametrize('upscale, message', [(lambda lr: nearest(lr) * np.nan, 'NaN'), (lambda lr: lr, 'scale 2')])
def test_a_bad_answer_of_the_network_is_an_error(upscale, message):
    with pytest.raises(ValueError, match=message):
        inference.upscale_picture(upscale, picture(4, 4, 3), 2)


def test_a_picture_to_a_folder_or_a_file(tmp_path):
    source = tmp_path / 'a b.JPG'
    images.write(source, np.full((6, 5, 3), 77, np.uint8))
    assert inference.upscale_path(nearest, source, tmp_path / 'out', 2) == [tmp_path / 'out' / 'a b_x2.png']
    assert images.size(tmp_path / 'out' / 'a b_x2.png') == (12, 10)
    inference.upscale_path(nearest, str(source), str(tmp_path / 'new' / 'c.webp'), 2)
    assert images.size(tmp_path / 'new' / 'c.webp') == (12, 10)
    inference.upscale_path(nearest, source, tmp_path, 2)
    assert (tmp_path / 'a b_x2.png').exists()
    for given in (source, tmp_path):
        inference.upscale_path(nearest, given, tmp_path / 'x2', 2, ending='')
    assert sorted(path.name for path in (tmp_path / 'x2').iterdir()) == ['a b.png', 'a b_x2.png']


@pytest.mark.parametrize('source, target, message', [
    ('a.png', 'a.png', 'one file'), ('a.png', 'link.png', 'one file'), ('a.png', 'b.xyz', r'cannot write \.xyz'),
    ('a.txt', 'out', 'unknown kind.*known extensions.*png.*mp4'), ('none.png', 'out', 'no such file'),
    ('empty', 'out', 'no pictures'), ('.', 'b.png', 'need a folder'), ('broken.png', 'out', r'broken\.png')])
def test_bad_paths_are_named_and_nothing_is_written(tmp_path, source, target, message):
    images.write(tmp_path / 'a.png', picture(4, 4, 3))
    (tmp_path / 'link.png').symlink_to(tmp_path / 'a.png')
    (tmp_path / 'a.txt').write_text('text')
    (tmp_path / 'broken.png').write_bytes((tmp_path / 'a.png').read_bytes()[:40])
    (tmp_path / 'empty').mkdir()
    before = (tmp_path / 'a.png').read_bytes(), sorted(tmp_path.rglob('*'))
    with pytest.raises(ValueError, match=message):
        inference.upscale_path(nearest, tmp_path / source, tmp_path / target, 2)
    assert before == ((tmp_path / 'a.png').read_bytes(), sorted(tmp_path.rglob('*')))


def test_a_run_says_what_it_does_and_has_done(tmp_path, capsys):
    for name in ('a.png', 'b.png'):
        images.write(tmp_path / 'in' / name, picture(40, 30, 3))
    by_tiles = tiles.tiled(nearest, 2, 20, 2)
    inference.upscale_path(by_tiles, tmp_path / 'in' / 'a.png', tmp_path, 2)
    printed = capsys.readouterr()
    assert printed.out == f'written to {tmp_path / "a_x2.png"}\n'
    assert printed.err.startswith('upscale: 4/4 tiles ')
    inference.upscale_path(lambda lr: tiles.self_ensemble(by_tiles, lr), tmp_path / 'in' / 'a.png', tmp_path, 2)
    assert capsys.readouterr().err.startswith('upscale: 32/32 tiles ')
    inference.upscale_path(nearest, tmp_path / 'in' / 'a.png', tmp_path, 2)
    assert capsys.readouterr().err == ''
    inference.upscale_path(by_tiles, tmp_path / 'in', tmp_path / 'out', 2)
    printed = capsys.readouterr()
    assert printed.out == f'2 of 2 pictures written to {tmp_path / "out"}\n' and 'tiles' not in printed.err


def test_colour_profiles_go_with_the_pictures(tmp_path, capsys):
    profile = bytes(16) + b'RGB ' + bytes(108)
    source = tmp_path / 'in' / 'a.jpg'
    images.write(source, picture(4, 4, 3), profile)
    inference.upscale_path(nearest, source, tmp_path, 2)
    inference.upscale_path(nearest, source.parent, tmp_path / 'out', 2)
    assert images.profile(tmp_path / 'a_x2.png') == images.profile(tmp_path / 'out' / 'a_x2.png') == profile
    assert 'profile' not in capsys.readouterr().err
    inference.upscale_path(nearest, source, tmp_path / 'a.bmp', 2)
    assert f'{tmp_path / "a.bmp"}: cannot hold the colour profile' in capsys.readouterr().err


def test_a_gif_of_one_frame_is_a_picture(tmp_path):
    colours = np.array([[[250, 0, 0], [0, 250, 0]], [[0, 0, 250], [9, 9, 9]]], np.uint8)
    Image.fromarray(colours).quantize(4).save(str(tmp_path / 'still.gif'))
    result, = inference.upscale_path(nearest, tmp_path / 'still.gif', tmp_path, 2)
    assert result == tmp_path / 'still_x2.png'
    np.testing.assert_array_equal(images.read(result), nearest(colours))
    (tmp_path / 'still.gif').write_bytes((tmp_path / 'still.gif').read_bytes()[:20])
    with pytest.raises(ValueError, match='still.gif: cannot be'):
        inference.upscale_path(nearest, tmp_path / 'still.gif', tmp_path, 2)


def test_what_the_target_cannot_hold_is_told_before_the_work(tmp_path):
    def upscale(_):
        raise AssertionError('the network ran')
    images.write(tmp_path / 'deep.png', np.zeros((4, 5), np.uint16))
    with pytest.raises(ValueError, match='deep_x2.jpg: .jpg does not hold 1 channel'):
        inference.upscale_path(upscale, tmp_path / 'deep.png', tmp_path / 'deep_x2.jpg', 2)


def test_a_folder_with_a_broken_picture_does_the_others(tmp_path, capsys):
    for name in ('b.png', 'a.png', 'a.bmp'):
        images.write(tmp_path / name, picture(4, 4, 3))
    (tmp_path / 'bad.png').write_bytes(b'not a picture')
    with pytest.raises(ValueError, match=r'1 of 4 pictures .* failed: bad\.png'):
        inference.upscale_path(nearest, tmp_path, tmp_path / 'out', 2)
    assert sorted(os.listdir(str(tmp_path / 'out'))) == ['a_bmp_x2.png', 'a_png_x2.png', 'b_x2.png']
    line = capsys.readouterr().err.splitlines()[0]
    assert line.startswith(f'error: {tmp_path / "bad.png"}: cannot be read') and line.count('bad.png') == 1


@pytest.mark.parametrize('number', [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_stops_a_folder(tmp_path, capsys, monkeypatch, number):
    for name in ('a.png', 'b.png', 'c.png'):
        images.write(tmp_path / name, picture(4, 4, 3))
    tried = []

    def refuse(path, *_):
        tried.append(path.name)
        raise OSError(number, 'full', str(path))
    monkeypatch.setattr(images, 'write', refuse)
    with pytest.raises(OSError, match='full.*a_x2.png'):
        inference.upscale_path(nearest, tmp_path, tmp_path / 'out', 2)
    assert tried == ['a_x2.png'] and 'error' not in capsys.readouterr().err


def test_a_folder_is_not_its_own_target(tmp_path):
    for name in ('b.png', 'b_x2.png'):
        images.write(tmp_path / name, picture(4, 4, 3))
    with pytest.raises(ValueError, match='a folder of their own'):
        inference.upscale_path(nearest, tmp_path, tmp_path / '.', 2)
    assert images.size(tmp_path / 'b_x2.png') == (4, 4)


def test_results_of_one_name_are_refused(tmp_path):
    for name in ('a.png', 'a.bmp', 'a_png.png'):
        images.write(tmp_path / name, picture(4, 4, 3))
    with pytest.raises(ValueError, match='several pictures would become a_png_x2.png'):
        inference.upscale_path(nearest, tmp_path, tmp_path / 'out', 2)


def test_video_without_pyav_names_the_package(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'av', None)
    (tmp_path / 'a.mp4').write_bytes(b'x')
    with pytest.raises(ValueError, match='pip install av'):
        inference.upscale_path(nearest, tmp_path / 'a.mp4', tmp_path / 'out', 2)
