"""Clips cut on the device are those that the host cuts."""

import dataclasses

import grain
import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.training.tiny import CLIP, CONFIG, videos
from tm_jax.data.encoded_videos import EncodedConfig
from tm_jax.data.latent_clips import LatentClips, stream_frames
from tm_jax.diffusion.schedule import RolloutConfig
from tm_jax.errors import InputError
from tm_jax.training.device_clips import DeviceClips, put_videos
from tm_jax.training.loop_config import LoopConfig
from tm_jax.training.ode_pairs import OdePairs
from tm_jax.training.paired_clips import PairedClips
from tm_jax.training.student_experiment import StudentExperiment

CUT = dataclasses.replace(CLIP, chunks=3, blinks=0.5)


def world():
    return [dataclasses.replace(video, lids=np.eye(30)[n + 12]) for n, video in enumerate(videos(3))]


def equal(made, told):
    jax.tree.map(np.testing.assert_array_equal, jax.tree.map(lambda x: x[0], made), told)


def test_the_same_clips_in_the_same_order():
    host = grain.MapDataset.source(world()).seed(5).random_map(LatentClips(CUT))
    device = DeviceClips(CUT, world())
    places = device.dataset(5)
    for index in range(6):
        equal(device.batch(jax.tree.map(lambda x: x[None], places[index])), host[index])


@pytest.mark.parametrize("chunks", [5, 12])
def test_the_same_pairs_and_streams(tmp_path, chunks):
    """A stream that is longer than its video hears it again."""
    clean = np.random.default_rng(1).normal(size=(2, 9, 2, 2, 4)).astype(np.float16)
    save_file({"clean": clean}, tmp_path / "pairs")
    rollout = RolloutConfig(correlation=0.5)
    frames = np.stack([np.arange(9), np.arange(3, 12)])
    pairs = OdePairs(np.array([0, 2]), frames, (tmp_path / "pairs",), 2, 0, rollout)
    model = dataclasses.replace(CONFIG, trained_frames=9)
    paths = {"vae": tmp_path / "vae", "teacher": tmp_path / "teacher"}
    experiment = StudentExperiment(
        LoopConfig("s"), model, long_chunks=chunks, clip=CUT, rollout=rollout, **paths
    )
    host = grain.MapDataset.source(world()).seed(5).random_map(PairedClips(experiment, world(), pairs))
    device = DeviceClips(CUT, world(), pairs, chunks)
    places = device.dataset(5)
    for index in range(4):
        equal(device.batch(jax.tree.map(lambda x: x[None], places[index])), host[index])
    heard = host[0]["stream"]["conditioning"]
    assert len(heard["mode"]) == 3 * chunks
    np.testing.assert_array_equal(heard["mode"][30:], heard["mode"][: max(0, 3 * chunks - 30)])


def test_a_stream_goes_on_in_whole_chunks_of_its_video():
    seven = dataclasses.replace(CUT, chunk=7)
    np.testing.assert_array_equal(stream_frames(30, seven, 6), [*range(28), *range(14)])
    with pytest.raises(ValueError, match="the video has 6"):
        stream_frames(6, seven, 6)


def test_puppets_speak_as_long_as_a_clip(tmp_path):
    paths = {"vae": tmp_path / "vae", "teacher": tmp_path / "teacher"}
    videos = EncodedConfig(seconds=1.0)
    with pytest.raises(ValueError, match=r"videos\.seconds 1: that is 7 latent frames, and a clip takes 9"):
        StudentExperiment(LoopConfig("s"), CONFIG, clip=CUT, long_chunks=5, videos=videos, **paths)


def test_videos_that_cannot_be_stacked_are_refused():
    short = videos(1, frames=24)
    with pytest.raises(InputError, match="equal length"):
        put_videos([*videos(1), *short])
