"""One video, one known speech, one line."""

import json

import jax
import numpy as np
import pytest
from flax import nnx

from tm_jax.data.puppets.__main__ import main as puppets
from tm_jax.data.puppets.showing import write_clip
from tm_jax.data.puppets.world import PuppetWorld
from tm_jax.errors import InputError
from tm_jax.evaluation import watch
from tm_jax.models.viseme_config import VisemeConfig
from tm_jax.models.visemes import VisemeEncoder
from tm_jax.pretrained.weights import save_model


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """A drawn clip as mp4, and its truth as the command writes it."""
    folder = tmp_path_factory.mktemp("watch")
    write_clip(folder / "clip.mp4", PuppetWorld(split="heldout", size=64).clip(6, 6.0))
    assert puppets(
        ["--speech", str(folder / "speech"), "--split", "heldout", "--clip", "6", "--seconds", "6"]
    ) in (0, None)
    return folder


def test_a_mouth_that_opens_as_asked_is_in_sync_and_its_control_is_not(
    given, tiny_reader, tmp_path, monkeypatch
):
    save_model(tmp_path / "reader.safetensors", tiny_reader, tiny_reader.config)
    truth = json.loads((given / "speech.json").read_text())
    late = np.roll(truth["opening"], 1)

    class Seen:
        def track(self, name):
            return late[None] if name == "opening" else None

    monkeypatch.setattr("tm_jax.evaluation.reader.read", lambda reader, frames: Seen())
    weights = tmp_path / "reader.safetensors"
    arguments = watch.Arguments(given / "clip.mp4", given / "speech.json", reader=weights)
    line = watch.watch(arguments)
    assert "+1 frames late" in line
    assert abs(float(line.split()[-1])) < 0.5 < float(line.split()[1])


def test_the_speech_has_a_sound_as_long_as_its_truth(given):
    import wave

    truth = json.loads((given / "speech.json").read_text())
    with wave.open(str(given / "speech.wav")) as sound:
        assert sound.getnframes() == 640 * len(truth["opening"]) == 640 * len(truth["mode"])


def test_a_sound_without_truth_is_compared_with_what_is_heard(given, tiny_reader, tmp_path, monkeypatch):
    encoder = jax.jit(lambda: VisemeEncoder(VisemeConfig(width=8, outputs=4), rngs=nnx.Rngs(0)))()
    save_model(tmp_path / "visemes.safetensors", encoder, encoder.config)
    save_model(tmp_path / "reader.safetensors", tiny_reader, tiny_reader.config)
    opening, mode = watch.viseme_opening(given / "speech.wav", tmp_path / "visemes.safetensors")
    truth = json.loads((given / "speech.json").read_text())
    assert opening.shape == mode.shape == (len(truth["opening"]),) and 0 < mode.mean() < 1

    class Seen:
        def track(self, name):
            return np.roll(opening, 2)[None] if name == "opening" else None

    monkeypatch.setattr("tm_jax.evaluation.reader.read", lambda reader, frames: Seen())
    files = {"reader": tmp_path / "reader.safetensors", "visemes": tmp_path / "visemes.safetensors"}
    line = watch.watch(watch.Arguments(given / "clip.mp4", audio=given / "speech.wav", **files))
    assert "that is heard" in line and "+2 frames late" in line
    with pytest.raises(InputError, match="one of --truth and --audio"):
        watch.watch(watch.Arguments(given / "clip.mp4"))


@pytest.mark.parametrize("wrong", ["video", "truth"])
def test_other_files_are_told_in_one_sentence(given, wrong):
    files = {"video": given / "clip.mp4", "truth": given / "speech.json"}
    files[wrong] = given / "speech.wav" if wrong == "video" else given / "clip.mp4"
    with pytest.raises(InputError, match=f"--{wrong} .*speech.wav|--{wrong} .*clip.mp4"):
        watch.watch(watch.Arguments(**files))


def test_the_shipped_truth_fits_the_shipped_speech():
    from pathlib import Path

    assets = Path(watch.__file__).parents[1] / "assets"
    opening, mode = watch.read_truth(assets / "speech.json")
    track = PuppetWorld(split="heldout").truth(6, 9.0)
    np.testing.assert_allclose(opening, track.opening, atol=1e-4)
    np.testing.assert_array_equal(mode, track.mode)


@pytest.mark.parametrize(
    "content",
    [
        '{"opening": null, "mode": 3}',
        '{"opening": [[1]], "mode": [1]}',
        '{"opening": [1, 2], "mode": [1]}',
        "[1]",
    ],
)
def test_a_truth_of_another_form_is_one_sentence(content, tmp_path):
    (tmp_path / "truth.json").write_text(content)
    with pytest.raises(InputError, match="has no opening and mode of every frame"):
        watch.read_truth(tmp_path / "truth.json")


def test_too_little_speech_gives_no_figure(given, tmp_path):
    (tmp_path / "truth.json").write_text(json.dumps({"opening": [0.5] * 60, "mode": [1] * 20 + [0] * 40}))
    with pytest.raises(InputError, match="share 60 frames, and in 20 of them somebody speaks"):
        watch.watch(watch.Arguments(given / "clip.mp4", tmp_path / "truth.json"))
