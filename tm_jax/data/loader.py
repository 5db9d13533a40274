"""The Grain pipeline from a phase's elements to batches: shuffle, repeat, split by process, batch, prefetch.

The order is a function of the seed alone, and the iterator's state is a small dict, so a checkpoint holds
the exact place in the data.
"""

import grain

from tm_jax.errors import InputError


def loader(
    dataset: grain.MapDataset,
    batch_size: int,
    seed: int,
    *,
    process_index: int = 0,
    process_count: int = 1,
    threads: int = 4,
    prefetch: int = 8,
    workers: int = 0,
) -> grain.DatasetIterator:
    """An endless iterator over this process's share of every batch.

    Every epoch visits all elements in a new order; batches may span two epochs, so none is short.

    Args:
      dataset: elements (dicts of equal-shaped NumPy arrays), finite.
      batch_size: elements in one batch over all processes.
      threads: threads that read elements ahead, in this process.
      prefetch: batches read ahead.
      workers: processes that read ahead instead; 0 reads in threads.

    Raises:
      InputError: the dataset is smaller than a batch, or the batch does not split over the processes.
    """
    if len(dataset) < batch_size:
        raise InputError(
            f"The data set has {len(dataset)} elements, fewer than one batch of {batch_size}: "
            "lower the batch size or add data."
        )
    if batch_size % process_count:
        raise InputError(
            f"A batch of {batch_size} does not split evenly over {process_count} processes: "
            "choose a multiple of their number."
        )
    shuffled = dataset.seed(seed).shuffle(seed=seed).repeat()
    if process_count > 1:
        shuffled = shuffled[process_index::process_count]
    batches = shuffled.batch(batch_size // process_count, drop_remainder=True)
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=prefetch)
    if not workers:
        return iter(batches.to_iter_dataset(options))
    processes = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=prefetch)
    return iter(batches.to_iter_dataset(options).mp_prefetch(processes))
