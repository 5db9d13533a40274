"""Damaged elements: left out, counted, and too many of them are told."""

import pytest

from tm_jax.data.skipping import Skipping
from tm_jax.errors import InputError


class Numbers:
    """100 numbers, some of which cannot be read."""

    def __init__(self, damaged):
        self.damaged = damaged

    def __len__(self):
        return 100

    def __getitem__(self, index):
        if index in self.damaged:
            raise ValueError(f"record {index} has another checksum")
        return index


def test_a_neighbour_takes_the_place_of_a_damaged_element():
    source = Skipping(Numbers({3, 4, 99}), share=0.03)
    assert [source[index] for index in (2, 3, 4, 5, 99)] == [2, 5, 5, 5, 0]
    assert source.skipped == 3


def test_too_many_are_told_with_the_first_reason_and_missing_ones_count():
    source = Skipping(Numbers({3}), share=0.0)
    with pytest.raises(
        InputError, match=r"1 of the 100 elements .* element 3: record 3 has another checksum"
    ):
        source[3]
    with pytest.raises(InputError, match=r"20 of the 120 elements .* more than the 10\.0%"):
        Skipping(Numbers(()), share=0.1, missing=20)
