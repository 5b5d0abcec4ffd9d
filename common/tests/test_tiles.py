import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common import tiles


def conv3(x, weights):
    """3x3 convolution with zero padding; x [H,W,C], weights [3,3,C,D]."""
    padded = np.pad(x, ((1, 1), (1, 1), (0, 0)))
    height, width = x.shape[:2]
    return sum(padded[i:i + height, j:j + width] @ weights[i, j] for i in range(3) for j in range(3))


def network(scale, layers, seed):
    """A random convolutional network of receptive radius `layers`, with ReLU between and a pixel shuffle at the end."""
    rng = np.random.default_rng(seed)
    sizes = [3] + [4] * (layers - 1) + [3 * scale * scale]
    weights = [rng.normal(size=(3, 3, a, b)).astype(np.float32) / 6 for a, b in zip(sizes, sizes[1:])]

    def upscale(lr):
        x = lr
        for number, kernel in enumerate(weights):
            x = conv3(np.maximum(x, 0) if number else x, kernel)
        height, width = lr.shape[:2]
        x = x.reshape(height, width, scale, scale, 3).transpose(0, 2, 1, 3, 4)
        return x.reshape(scale * height, scale * width, 3)
    return upscale


def picture(height, width, seed=0):
    return np.random.default_rng(seed).uniform(0, 255, (height, width, 3)).astype(np.float32)


def nearest(lr, scale=2):
    return lr.repeat(scale, 0).repeat(scale, 1)


class Recorder:
    """An upscale function that remembers the shapes it saw and runs out of memory above a number of pixels."""

    def __init__(self, limit=10 ** 9, error=None):
        self.shapes, self.limit, self.error = [], limit, error or MemoryError()

    def __call__(self, lr):
        self.shapes.append(lr.shape[:2])
        if lr.shape[0] * lr.shape[1] > self.limit:
            raise self.error
        return nearest(lr)


@settings(max_examples=80, deadline=None)
@given(height=st.integers(1, 60), width=st.integers(1, 60), tile=st.integers(0, 40), scale=st.integers(1, 4),
       layers=st.integers(1, 4), more_halo=st.integers(0, 5), seed=st.integers(0, 99))
def test_tiles_equal_the_whole_when_the_halo_covers_the_receptive_field(height, width, tile, scale, layers, more_halo,
                                                                        seed):
    upscale, lr, shapes = network(scale, layers, seed), picture(height, width, seed), set()

    def recorded(window):
        shapes.add(window.shape)
        return upscale(window)
    whole = upscale(lr)
    sr = tiles.upscale_tiled(recorded, lr, scale, tile, layers + more_halo)
    assert sr.dtype == np.float32
    np.testing.assert_allclose(sr, whole, rtol=0, atol=1e-4 * whole.std())
    assert len(shapes) == 1
    side = (tile or 60) + 2 * (layers + more_halo)
    assert max(shapes.pop()[:2]) <= side


def test_a_halo_that_is_too_small_shows():
    upscale, lr = network(2, 3, 0), picture(40, 40)
    assert np.abs(tiles.upscale_tiled(upscale, lr, 2, 16, 2) - upscale(lr)).max() > 1


@pytest.mark.parametrize('size, tile, calls', [((30, 20), 0, [(30, 20)]), ((30, 20), 30, [(30, 20)]),
                                               ((20, 65), 33, [(20, 37)] * 2), ((64, 64), 32, [(36, 36)] * 4),
                                               ((64, 96), 32, [(36, 40)] * 6)])
def test_calls(size, tile, calls):
    upscale = Recorder()
    lr = picture(*size)
    np.testing.assert_array_equal(tiles.upscale_tiled(upscale, lr, 2, tile, 4), nearest(lr))
    assert upscale.shapes == calls


OUT_OF_MEMORY = [
    MemoryError(), type('OutOfMemoryError', (RuntimeError,), {})('CUDA'), RuntimeError('NPU out of memory. Tried 2 G'),
    type('ResourceExhaustedError', (Exception,), {})('OOM'), RuntimeError('RESOURCE_EXHAUSTED: too big'),
    RuntimeError("DefaultCPUAllocator: can't allocate memory"), RuntimeError('Failed to allocate 3 bytes')]


@pytest.mark.parametrize('error', OUT_OF_MEMORY, ids=[f'{type(e).__name__} {e}' for e in OUT_OF_MEMORY])
def test_memory_runs_out_and_the_tile_is_halved(error, capsys):
    upscale = Recorder(limit=36 * 36, error=error)
    lr = picture(100, 50)
    np.testing.assert_array_equal(tiles.upscale_tiled(upscale, lr, 2, 0, 4), nearest(lr))
    assert upscale.shapes[:2] == [(100, 50), (54, 50)] and set(upscale.shapes[2:]) == {(33, 29)}
    assert 'going on with tiles of 25 pixels' in capsys.readouterr().err


def test_work_already_done_is_kept_when_memory_runs_out():
    lr, seen, failures = picture(64, 64), [], [True]

    def upscale(window):
        if len(seen) == 3 and failures and failures.pop():
            raise MemoryError
        seen.append(window.shape[:2])
        return nearest(window)
    steps = []
    sr = tiles.upscale_tiled(upscale, lr, 2, 32, 2, progress=lambda done, total: steps.append((done, total)))
    np.testing.assert_array_equal(sr, nearest(lr))
    assert seen == [(34, 34)] * 3 + [(20, 20)] * 4
    assert steps == [(1, 4), (2, 4), (3, 4), (4, 7), (5, 7), (6, 7), (7, 7)]


@pytest.mark.parametrize('error', [MemoryError('none at all'), RuntimeError('kernel crashed'), ValueError('allocate')])
def test_errors_that_smaller_tiles_cannot_mend_are_raised(error):
    upscale = Recorder(limit=0, error=error)
    with pytest.raises(type(error), match=str(error)):
        tiles.upscale_tiled(upscale, picture(70, 70), 2, 0, 4)
    assert len(upscale.shapes) == (3 if isinstance(error, MemoryError) else 1)  # 70, 35, 17


def test_tiled_remembers_the_tile_that_fitted():
    upscale = Recorder(limit=36 * 36)
    function = tiles.tiled(upscale, 2, 100, 4)
    lr = picture(100, 100)
    for _ in range(2):
        np.testing.assert_array_equal(function(lr), nearest(lr))
    assert [shape for shape in upscale.shapes if shape != (33, 33)] == [(100, 100), (54, 54)]


def test_bad_input_is_named():
    with pytest.raises(ValueError, match='tile -1'):
        tiles.upscale_tiled(nearest, picture(4, 4), 2, -1, 0)
    with pytest.raises(ValueError, match=r'made \(8, 8, 3\) of \(4, 4, 3\).*scale 3'):
        tiles.upscale_tiled(nearest, picture(4, 4), 3, 0, 0)


def test_self_ensemble_is_the_mean_over_the_eight_variants():
    upscale, lr = network(2, 2, 7), picture(9, 13)
    flips = [lambda x: x[:, ::-1], lambda x: x[::-1], lambda x: x.transpose(1, 0, 2)]
    variants = [lr]
    for flip in flips:
        variants += [flip(variant) for variant in variants]
    answers = [upscale(variant) for variant in variants]
    for number, answer in enumerate(answers):
        for bit, flip in reversed(list(enumerate(flips))):
            answer = flip(answer) if number >> bit & 1 else answer
        answers[number] = answer
    np.testing.assert_allclose(tiles.self_ensemble(upscale, lr), np.mean(answers, axis=0), rtol=1e-5, atol=1e-3)
    seen = []
    tiles.self_ensemble(lambda x: (seen.append(x), nearest(x))[1], lr)
    assert all(np.array_equal(a, b) and a.flags.c_contiguous for a, b in zip(seen, variants)) and len(seen) == 8


@pytest.mark.parametrize('height, width', [(1, 5), (5, 1), (1, 1)])
def test_what_upscale_gets_has_positive_strides_at_sides_of_length_one(height, width):
    """torch.from_numpy refuses negative ones."""
    def upscale(lr):
        assert lr.flags.c_contiguous and min(lr.strides) > 0
        return nearest(lr)
    lr = picture(height, width)
    np.testing.assert_allclose(tiles.self_ensemble(upscale, lr), nearest(lr), rtol=1e-6)
    np.testing.assert_array_equal(tiles.upscale_tiled(upscale, lr[::-1, ::-1], 2, 16, 4), nearest(lr[::-1, ::-1]))


def test_several_pictures_at_once():
    one, other, lr = network(2, 3, 0), network(2, 3, 1), picture(20, 26)
    sr = tiles.tiled(lambda part: np.dstack([one(part), other(part)]), 2, 8, 3, channels=6)(lr)
    np.testing.assert_allclose(sr[:, :, :3], one(lr), rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(sr[:, :, 3:], other(lr), rtol=1e-4, atol=1e-3)
    with pytest.raises(ValueError, match='expected .16, 16, 6.'):
        tiles.tiled(one, 2, 8, 0, channels=6)(lr[:8, :8])
