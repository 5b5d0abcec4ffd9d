"""Noise on LR frames, of the released port's kinds."""
import numpy as np

CLEAN = 'clean'


def check(noise):
    """ValueError unless the keys data.noise.* can be."""
    for key in ('std', 'min_std', 'max_std'):
        if getattr(noise, key) < 0:
            raise ValueError(f'data.noise.{key} {getattr(noise, key)}: expected 0 or more')
    for key in ('amount', 'salt_ratio'):
        if not 0 <= getattr(noise, key) <= 1:
            raise ValueError(f'data.noise.{key} {getattr(noise, key)}: expected a share, 0 to 1')
    if noise.min_std > noise.max_std:
        raise ValueError(f'data.noise.min_std {noise.min_std}, max_std {noise.max_std}: expected the smaller one first')


def noisy(lr, noise, rng):
    """uint8 frames [T,h,w,3] with the noise of the keys data.noise.* (deviations in 0..1), from a numpy Generator."""
    if noise.noise_type == CLEAN:
        return lr
    if noise.noise_type == 'salt-pepper':
        drawn = rng.random(lr.shape[:3])
        lr = np.where((drawn < noise.amount)[..., None], np.uint8(0), lr)
        return np.where((drawn < noise.amount * noise.salt_ratio)[..., None], np.uint8(255), lr)
    values = lr.astype(np.float32)
    std = rng.uniform(noise.min_std, noise.max_std) if noise.noise_type == 'gaussian process' else noise.std
    drawn = std * rng.standard_normal(lr.shape, np.float32)
    if noise.noise_type == 'speckle':
        values *= 1 + drawn
    else:
        values += 255 * (drawn + (noise.mean if noise.noise_type == 'gaussian' else 0))
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)
