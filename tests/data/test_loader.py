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


@pytest.mark.parametrize("batch", [3, 2])
def test_the_elements_taken_are_the_place_in_the_data_whatever_the_batch(batch):
    whole = [number for part in take(loader(numbers(), 3, seed=1), 7) for number in part]
    rest = take(loader(numbers(), batch, seed=1, start=6), 5)
    assert [number for part in rest for number in part] == whole[6:][: 5 * batch]


def test_processes_hold_the_rows_of_one_batch_that_are_theirs():
    whole = take(loader(numbers(), 4, seed=1, start=4), 5)
    parts = [take(loader(numbers(), 4, seed=1, start=4, rows=rows), 5) for rows in ((0, 1), (2, 3))]
    assert [first + second for first, second in zip(*parts, strict=True)] == whole
    assert take(loader(numbers(), 4, seed=1, start=4, rows=(1, 3)), 2) == [batch[1::2] for batch in whole[:2]]


def test_random_transforms_draw_afresh_in_every_epoch():
    dataset = numbers(4).seed(0).random_map(Noisy())
    iterator = loader(dataset, 4, seed=1)
    first, second = next(iterator), next(iterator)
    by_index = lambda batch: batch["draw"][np.argsort(batch["index"])]
    assert not np.any(np.isclose(by_index(first), by_index(second)))


def test_too_little_data_is_told():
    with pytest.raises(InputError, match="10 elements, fewer than one batch of 16"):
        loader(numbers(), 16, seed=0)
