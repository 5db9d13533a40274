"""Clips cut on the device are those that the host cuts."""

import dataclasses

import grain
import numpy as np
import pytest

from tests.training.tiny import CLIP, videos
from tm_jax.data.latent_clips import LatentClips
from tm_jax.errors import InputError
from tm_jax.training.device_clips import clip_places, compiled_cut, put_videos

CUT = dataclasses.replace(CLIP, chunks=3, blinks=0.5)


def test_the_same_clips_in_the_same_order():
    world = [dataclasses.replace(video, lids=np.eye(30)[n + 12]) for n, video in enumerate(videos(3))]
    host = grain.MapDataset.source(world).seed(5).random_map(LatentClips(CUT))
    places, cut, store = clip_places(CUT, world, 5), compiled_cut(CUT), put_videos(world)
    for index in range(6):
        place = {name: value[None] for name, value in places[index].items()}
        made, told = cut(store, place), host[index]
        conditioning = made.pop("conditioning")
        for name, value in {**{k: v for k, v in told.items() if k != "conditioning"}}.items():
            np.testing.assert_array_equal(made[name][0], value, err_msg=name)
        for name, value in told["conditioning"].items():
            np.testing.assert_array_equal(conditioning[name][0], value, err_msg=name)


def test_videos_that_cannot_be_stacked_are_refused():
    short = videos(1, frames=24)
    with pytest.raises(InputError, match="equal length"):
        put_videos([*videos(1), *short])
