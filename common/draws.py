"""Random choices that follow from a seed and a step alone: threads, ranks and resumed runs all draw the same."""
import numpy as np


class Order:  # of training samples
    """order.at(step): which of `tickets` (int array) a step takes, [batch_size]; a sample may have several tickets.

    An epoch is a permutation of all tickets drawn from (seed, epoch). Epochs follow one another without a gap, so a
    batch may span two; several threads may ask at once.
    """

    def __init__(self, tickets, batch_size, seed):
        self._tickets, self._batch_size, self._seed, self._epochs = np.asarray(tickets), batch_size, seed, {}

    @property
    def steps_per_epoch(self):
        """Whole batches in an epoch, at least 1; the remainder is not dropped: the next batch begins with it."""
        return max(len(self._tickets) // self._batch_size, 1)

    def at(self, step):
        total = len(self._tickets)
        positions = np.arange(step * self._batch_size, (step + 1) * self._batch_size)
        return np.concatenate([self._epoch(epoch)[positions[positions // total == epoch] - epoch * total]
                               for epoch in range(positions[0] // total, positions[-1] // total + 1)])

    def _epoch(self, epoch):
        order = self._epochs.get(epoch)
        if order is None:
            order = self._tickets[np.argsort(random_words(self._seed, epoch, 2, len(self._tickets)), kind='stable')]
            self._epochs = {**{e: o for e, o in self._epochs.items() if abs(e - epoch) == 1}, epoch: order}
        return order


def choices(seed, step, counts):
    """One uniform draw for each of `counts` (array of positive ints), 0 to below it: int64 of that shape."""
    words = random_words(seed, step, 1, np.size(counts)).reshape(np.shape(counts)) >> np.uint64(32)
    return (words * np.asarray(counts, np.uint64) >> np.uint64(32)).astype(np.int64)  # 32 bits, scaled


def random_words(seed, index, stream, count):
    """uint64 words keyed by (seed, index): numpy keeps a generator's raw words for ever, but not its distributions."""
    return np.random.Philox(key=[seed, index], counter=[0, 0, 0, stream]).random_raw(count)
