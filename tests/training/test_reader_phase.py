"""The reader's training: what it is shown, told and spared."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.evaluation.conftest import filled
from tm_jax.data.puppets.draw import MOTION
from tm_jax.evaluation.reader import TRACKS, Reader, ReaderConfig
from tm_jax.training import reader_phase
from tm_jax.training.loop import Phase
from tm_jax.training.loop_config import LoopConfig
from tm_jax.training.reader_phase import FacesConfig, ReaderExperiment, ReadingLoss, draw_poses, true_tracks

MODEL = ReaderConfig(size=16, channels=(4, 6, 8), hidden=8, identity=6, traits=len(reader_phase.TRAITS))


@pytest.fixture
def phase(monkeypatch):
    monkeypatch.setattr(
        reader_phase, "render", lambda who, motion, size: np.full((len(motion), size, size, 3), 100, np.uint8)
    )
    faces = FacesConfig(identities=6, poses=3, size=32)
    return ReaderExperiment(loop=LoopConfig(name="test"), model=MODEL, faces=faces).build()


def test_poses_cover_what_puppets_do(rng):
    poses = dict(zip(MOTION, draw_poses(rng, 2000).T, strict=True))
    assert poses["opening"].min() == 0 and poses["opening"].max() > 1
    assert (poses["opening"] == 0).mean() > 0.1
    assert (poses["blink"] == 1).mean() > 0.05 and (poses["blink"] < 0.12).mean() > 0.4
    assert abs(np.corrcoef(poses["opening"], poses["width"])[0, 1]) < 0.1


def test_truth_is_absolute_and_eyes_are_open_not_shut():
    motion = np.zeros((1, len(MOTION)), np.float32)
    motion[0, MOTION.index("x")], motion[0, MOTION.index("blink")] = 0.1, 0.75
    told = true_tracks(motion, {"head_x": 0.02, "head_y": -0.05})[0]
    assert told[TRACKS.index("x")] == pytest.approx(0.12)
    assert told[TRACKS.index("y")] == pytest.approx(-0.05)
    assert told[TRACKS.index("eyes")] == pytest.approx(0.25)


def test_faces_are_the_same_at_every_visit(phase):
    element = phase.faces[4]
    assert element["frames"].shape == (3, 16, 16, 3) and element["frames"].dtype == np.uint8
    assert phase.faces[4] is element
    again = reader_phase.Faces(phase.config.faces, 16)[4]
    assert np.array_equal(again["tracks"], element["tracks"])
    assert not np.array_equal(phase.faces[3]["tracks"], element["tracks"])


def test_disturbing_is_mild_and_never_the_same(getkey):
    frames = 0.1 * jax.random.normal(getkey(), (64, 16, 16, 3))
    disturbed = reader_phase.disturb(frames, getkey(), ReadingLoss())
    change = np.sqrt(np.square(disturbed - frames).mean((1, 2, 3)))
    assert change.min() < 0.1 < change.max() < 0.4
    none = ReadingLoss(noise=0.0, coarse=0.0, colour=0.0)
    flat = jnp.full((2, 16, 16, 3), 0.3)
    assert np.allclose(reader_phase.disturb(flat, getkey(), none), flat, atol=1e-6)


def test_closed_eyes_are_not_asked_for_their_gaze(phase, getkey):
    reader = filled(lambda: phase.init(jax.random.key(0)).model, 0)
    frames = jnp.zeros((2, 3, 16, 16, 3))
    traits = jnp.zeros((2, len(reader_phase.TRAITS)))
    eyes, gaze = TRACKS.index("eyes"), TRACKS.index("gaze_x")
    config = phase.model

    def loss(openness, wanted):
        tracks = jnp.zeros((2, 3, len(TRACKS)))
        tracks = tracks.at[..., eyes].set((openness - config.track_mean[eyes]) / config.track_std[eyes])
        return reader_phase.reading_loss(
            reader, frames, tracks.at[..., gaze].set(wanted), traits, jax.random.key(0), ReadingLoss()
        )[0]

    assert loss(0.0, 5.0) == pytest.approx(loss(0.0, 0.0), rel=1e-5)
    assert loss(1.0, 5.0) > 1.5 * loss(1.0, 0.0)


def test_a_step_learns_and_the_shipped_reader_knows_its_units(phase):
    assert isinstance(phase, Phase)
    elements = [phase.faces[index] for index in range(6)]
    batch = {name: np.stack([element[name] for element in elements]) for name in elements[0]}
    state = jax.jit(phase.init)(jax.random.key(0))
    losses = []
    for index in range(12):
        state, metrics = phase.step(state, batch, index)
        losses.append(float(metrics["loss"]))
    assert losses[-1] < losses[0]
    shipped = phase.weights(state)
    assert isinstance(shipped, Reader)
    assert shipped.config.track_std[TRACKS.index("opening")] > 0.2
