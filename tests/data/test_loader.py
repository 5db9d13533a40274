"""The data's order: complete, seeded, resumable, split over processes, and fresh in every epoch."""

import grain
import numpy as np
import pytest

from tm_jax.data.loader import loader
from tm_jax.errors import InputError


class Noisy(grain.transforms.RandomMap):
    """Adds a random number, as clip sampling does."""

    def random_map(self, element, rng):
        return {"index": element, "draw": rng.random()}


def numbers(count=10):
    return grain.MapDataset.source(np.arange(count))


def take(iterator, batches):
    return [next(iterator).tolist() for _ in range(batches)]


def test_every_epoch_visits_everything_once_in_a_new_order():
    flat = [i for batch in take(loader(numbers(), 2, seed=1), 10) for i in batch]
    assert sorted(flat[:10]) == sorted(flat[10:]) == list(range(10))
    assert flat[:10] != flat[10:]


def test_the_seed_alone_decides_the_order():
    one = take(loader(numbers(), 3, seed=1, threads=1), 6)
    assert take(loader(numbers(), 3, seed=1, threads=4, prefetch=2), 6) == one
    assert take(loader(numbers(), 3, seed=2), 6) != one


def test_the_state_brings_the_iterator_back_to_its_place():
    iterator = loader(numbers(), 3, seed=1)
    take(iterator, 2)
    state = iterator.get_state()
    expected = take(iterator, 5)
    other = loader(numbers(), 3, seed=1)
    other.set_state(state)
    assert take(other, 5) == expected


def test_processes_share_out_the_batches_of_one():
    whole = take(loader(numbers(), 4, seed=1), 5)
    parts = [take(loader(numbers(), 4, seed=1, process_index=i, process_count=2), 5) for i in (0, 1)]
    for batch, first, second in zip(whole, *parts, strict=True):
        assert sorted(batch) == sorted(first + second)


def test_random_transforms_draw_afresh_in_every_epoch():
    dataset = numbers(4).seed(0).random_map(Noisy())
    iterator = loader(dataset, 4, seed=1)
    first, second = next(iterator), next(iterator)
    by_index = lambda batch: batch["draw"][np.argsort(batch["index"])]
    assert not np.any(np.isclose(by_index(first), by_index(second)))


def test_too_little_data_and_uneven_batches_are_told():
    with pytest.raises(InputError, match="10 elements, fewer than one batch of 16"):
        loader(numbers(), 16, seed=0)
    with pytest.raises(InputError, match="does not split evenly over 3 processes"):
        loader(numbers(), 4, seed=0, process_index=0, process_count=3)
