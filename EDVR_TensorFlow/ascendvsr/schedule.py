"""The learning rate: a function of the step alone, cosines that restart.

    periods = periods_of(config, steps_per_epoch)    # [(150000, 1.0), (150000, 0.5), ...]: steps, factor
    rate_of(config.solver.lr_schedule, periods, 75000)
"""
import math


def periods_of(config, steps_per_epoch):
    """[(steps, factor on the rate)] of the cosines of a training; their steps together are its length.

    ValueError: periods that cannot be, or without a factor.
    """
    schedule, epochs = config.solver.lr_schedule, config.solver.train_epochs
    lengths, weights = schedule.total_steps, schedule.restart_weights
    if epochs < 0 or not lengths or min(lengths) < 1:
        raise ValueError(f'solver.train_epochs {epochs}, solver.lr_schedule.total_steps {lengths}: expected 0 or more, '
                         'and whole numbers of steps from 1')
    if not 0 <= schedule.min_lr <= schedule.base_lr or not schedule.base_lr:
        raise ValueError(f'solver.lr_schedule.base_lr {schedule.base_lr}, min_lr {schedule.min_lr}: expected a number '
                         'above 0, and one from 0 to it')
    if epochs:
        return [(epochs * steps_per_epoch, 1.0)]
    if schedule.type == 'Cosine':
        return [(sum(lengths), 1.0)]
    if len(weights) < len(lengths):
        raise ValueError(f'solver.lr_schedule.restart_weights {weights}: expected a factor for each of the '
                         f'{len(lengths)} periods of total_steps')
    return [(length, float(weight)) for length, weight in zip(lengths, weights)]


def total_of(periods):
    """Steps of a training."""
    return sum(length for length, _ in periods)


def rate_of(schedule, periods, step):
    """The learning rate of a step, counted from 0: in each period half a cosine from base_lr down to min_lr."""
    for length, weight in periods:
        if step < length:
            least = schedule.min_lr / schedule.base_lr
            fall = 0.5 * (1 + math.cos(math.pi * step / length))
            return weight * schedule.base_lr * ((1 - least) * fall + least)
        step -= length
    raise AssertionError('a step after the last period')
