"""The Grain pipeline from a phase's elements to batches: shuffle, repeat, split by process, batch, prefetch.

The order is a function of the seed alone, so that the number of elements taken so far is the exact place in
the data, whatever the batch size, the processes or the threads were.
"""

from collections.abc import Sequence
from typing import Any

import grain

from tm_jax.errors import InputError


class Rows(grain.MapDataset):
    """Some rows of every batch of an endless dataset, one after the other."""

    def __init__(self, parent: grain.MapDataset, start: int, batch: int, rows: Sequence[int]):
        """Args:
        start: the element that the first batch begins with.
        batch: elements in a batch.
        rows: which of them.
        """
        super().__init__(parent)
        self._start, self._batch, self._rows = start, batch, tuple(rows)

    def __len__(self) -> int:
        return (len(self._parent) - self._start) // self._batch * len(self._rows)

    def __getitem__(self, index: int) -> Any:
        if isinstance(index, slice):
            return self.slice(index)
        number, place = divmod(index, len(self._rows))
        return self._parent[self._start + number * self._batch + self._rows[place]]


def loader(
    dataset: grain.MapDataset,
    batch_size: int,
    seed: int,
    *,
    start: int = 0,
    rows: Sequence[int] | None = None,
    threads: int = 4,
    prefetch: int = 8,
    workers: int = 0,
) -> grain.DatasetIterator:
    """An endless iterator over this process's share of every batch.

    Every epoch visits all elements in a new order; batches may span two epochs, so none is short.

    Args:
      dataset: elements (dicts of equal-shaped NumPy arrays), finite.
      batch_size: elements in one batch over all processes.
      start: elements that were taken before.
      rows: the rows of each batch that this process holds; None is all of them.
      threads: threads that read elements ahead, in this process.
      prefetch: batches read ahead.
      workers: processes that read ahead instead; 0 reads in threads.

    Raises:
      InputError: the dataset is smaller than a batch.
    """
    if len(dataset) < batch_size:
        raise InputError(
            f"The data set has {len(dataset)} elements, fewer than one batch of {batch_size}: "
            "lower the batch size or add data."
        )
    rows = range(batch_size) if rows is None else rows
    shuffled = dataset.seed(seed).shuffle(seed=seed).repeat()
    batches = Rows(shuffled, start, batch_size, rows).batch(len(rows), drop_remainder=True)
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=prefetch)
    if not workers:
        return iter(batches.to_iter_dataset(options))
    processes = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=prefetch)
    return iter(batches.to_iter_dataset(options).mp_prefetch(processes))
