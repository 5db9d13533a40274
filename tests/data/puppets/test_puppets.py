"""The puppets: repeatable everywhere, splits apart, and a mouth that says what the phonemes say."""

import errno
import os
import subprocess
import sys
import wave

import jax
import numpy as np
import pytest

from tm_jax.audio.speech import Request, speak
from tm_jax.data.puppets.ahead import drawn_ahead
from tm_jax.data.puppets.draw import MOTION, render
from tm_jax.data.puppets.motion import Phoneme, mouth
from tm_jax.data.puppets.sentences import LANGUAGES, TEMPLATES, sentence
from tm_jax.data.puppets.showing import write_speech
from tm_jax.data.puppets.visemes import VOWELS, visemes
from tm_jax.data.puppets.world import FPS, SAMPLES_PER_FRAME, VOICES, PuppetWorld, Spoken, frame_count
from tm_jax.errors import InputError

SPLITS = ("train", "heldout", "language")

_DIGESTS = """
import hashlib
from tm_jax.data.puppets.world import PuppetWorld
def digest(index):
    clip = PuppetWorld(seed=3, split="train", size=32).window(index, 20, 5)
    return hashlib.sha256(clip.audio.tobytes() + clip.frames.tobytes() + clip.opening.tobytes()).hexdigest()
"""


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    """A speech cache of this module's own, so that the tests speak and do not read an older cache."""
    folder = str(tmp_path_factory.mktemp("cache"))
    before = os.environ.get("TM_JAX_CACHE")
    os.environ["TM_JAX_CACHE"] = folder
    yield folder
    if before is None:
        del os.environ["TM_JAX_CACHE"]
    else:
        os.environ["TM_JAX_CACHE"] = before


@pytest.fixture(scope="module")
def tracks():
    """Twelve clips of every split, not drawn."""
    return {split: [PuppetWorld(split=split).truth(i) for i in range(12)] for split in SPLITS}


def test_a_clip_has_the_promised_shapes():
    clip = PuppetWorld(size=32).clip(0, seconds=2.0)
    t = clip.frames.shape[0]
    assert t == 49 and t % 4 == 1
    assert clip.frames.shape == (t, 32, 32, 3) and clip.frames.dtype == np.uint8
    assert clip.audio.shape == (t * SAMPLES_PER_FRAME,) and clip.audio.dtype == np.float32
    assert clip.opening.shape == clip.mode.shape == (t,)
    assert np.abs(clip.audio).max() <= 1 and 0 <= clip.opening.min() and clip.opening.max() <= 1
    assert set(np.unique(clip.mode)) <= {0, 1}
    assert clip.opening[0] == 0 and clip.meta["blink"][0] == 0 and clip.meta["head_angle"][0] == 0


@pytest.mark.parametrize(("seconds", "frames"), [(10.0, 249), (0.04, 1), (0.2, 5), (1.0, 25), (0.19, 1)])
def test_frame_count(seconds, frames):
    assert frame_count(seconds) == frames


def test_bad_requests_are_told_in_one_sentence():
    with pytest.raises(InputError, match="split is 'test'"):
        PuppetWorld(split="test")
    with pytest.raises(InputError, match="outside the clip's 49 frames"):
        PuppetWorld(size=32).window(0, 48, 2, seconds=2.0)
    with pytest.raises(InputError, match="less than one frame"):
        PuppetWorld().truth(0, seconds=0.0)
    with pytest.raises(InputError, match="no voice 'nowhere'"):
        speak(Request(text="hello", voice="nowhere"))


def test_another_process_in_another_order_gives_the_same_clips(tmp_path):
    here = {}
    exec(_DIGESTS, here)
    ours = [here["digest"](index) for index in (0, 1)]
    environment = os.environ | {"TM_JAX_CACHE": str(tmp_path), "JAX_PLATFORMS": "cpu"}
    code = _DIGESTS + "print(digest(1), digest(0))"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.stdout.split() == ours[::-1], done.stderr
    assert ours[0] != ours[1]


def test_a_window_is_a_cut_and_a_short_clip_the_beginning_of_a_long_one():
    world = PuppetWorld(size=32)
    whole, window = world.clip(2, seconds=2.0), world.window(2, 10, 7, seconds=2.0)
    np.testing.assert_array_equal(window.frames, whole.frames[10:17])
    np.testing.assert_array_equal(window.audio, whole.audio[10 * 640 : 17 * 640])
    for index in range(6):
        short, long = world.truth(index, 3.0), world.truth(index, 21.0)
        t = len(short.opening)
        np.testing.assert_allclose(short.motion, long.motion[:t], atol=1e-6)
        np.testing.assert_array_equal(short.mode, long.mode[:t])
        np.testing.assert_allclose(short.audio, long.audio[: len(short.audio)], atol=1e-6)


def test_splits_share_no_identity_voice_sentence_or_language(tracks):
    assert not set(VOICES["train"]) & set(VOICES["heldout"])
    assert not set(VOICES["train"]) & set(VOICES["language"])
    assert not set(LANGUAGES["train"]) & set(LANGUAGES["language"])
    assert not set(TEMPLATES["train"]) & set(TEMPLATES["heldout"])
    faces = {
        split: {PuppetWorld(split=split).identity(i).vector().tobytes() for i in range(90)}
        for split in SPLITS
    }
    assert all(len(group) == 90 for group in faces.values())
    assert len(set.union(*faces.values())) == 270
    said = {split: {text for track in tracks[split] for text in track.meta["text"]} for split in SPLITS}
    assert not said["train"] & (said["heldout"] | said["language"])
    rng = np.random.default_rng(0)
    for language in LANGUAGES["train"]:
        train, heldout = ({sentence(rng, language, split) for _ in range(400)} for split in SPLITS[:2])
        assert not train & heldout
    for split in SPLITS:
        for track in tracks[split]:
            language, variant = track.meta["voice"].split("+")
            assert language in LANGUAGES[split] and variant in VOICES[split]


def test_every_language_and_voice_can_be_spoken():
    for split in ("train", "language"):
        for language in LANGUAGES[split]:
            said = speak(
                Request(text=sentence(np.random.default_rng(1), language, split), voice=f"{language}+f3")
            )
            assert len(said.audio) > 8000 and len(said.phonemes) > 8
    for variant in VOICES["train"] + VOICES["heldout"]:
        assert np.abs(speak(Request(text="Good morning", voice=f"en-us+{variant}")).audio).max() > 0.02


def test_phonemes_are_nearly_all_known(tracks):
    symbols = [
        p.symbol for split in SPLITS for track in tracks[split] for p in track.phonemes if p.symbol.strip()
    ]
    unknown = {s for s in symbols if visemes(s) == visemes("")}
    assert sum(s in unknown for s in symbols) <= 0.002 * len(symbols), unknown


def test_lips_meet_at_m_b_p_and_in_listening_stretches(tracks):
    closures = 0
    for split in SPLITS:
        for track in tracks[split]:
            listening = track.mode == 0
            assert track.opening[listening].max(initial=0) < 0.01
            for phoneme in track.phonemes:
                frame = int(phoneme.start * FPS)
                if phoneme.symbol in ("m", "b", "p") and frame + 4 < len(track.opening):
                    closures += 1
                    assert track.opening[frame : frame + 5].min() < 0.03, (split, phoneme)
    assert closures > 150


def test_vowels_open_and_sound_leads_the_mouth():
    moves = mouth([Phoneme("ˈɑː", 0.4, 0.8)], frames=40)
    assert np.all(moves["opening"][:10] == 0) and moves["opening"].max() > 0.95
    half = np.argmax(moves["opening"] > 0.5) / FPS - 0.4
    assert 0.03 <= half <= 0.09
    narrow, wide = mouth([Phoneme("uː", 0.1, 0.6)], 20), mouth([Phoneme("iː", 0.1, 0.6)], 20)
    assert narrow["width"].min() < -0.9 and wide["width"].max() > 0.85 and narrow["rounding"].max() > 0.9


def test_the_future_does_not_move_the_mouth():
    past = [Phoneme("a", 0.1, 0.3), Phoneme("m", 0.3, 0.36), Phoneme("o", 0.36, 0.5)]
    one, two = mouth([*past, Phoneme("a", 0.52, 0.8)], 25), mouth([*past, Phoneme("p", 0.52, 0.8)], 25)
    np.testing.assert_array_equal(one["opening"][:13], two["opening"][:13])
    assert np.abs(one["opening"][15:] - two["opening"][15:]).max() > 0.5


def test_opening_follows_phonemes_and_not_energy(tracks):
    correlations = []
    for track in tracks["heldout"]:
        energy = np.sqrt(np.mean(np.square(track.audio.reshape(-1, SAMPLES_PER_FRAME)), axis=1))
        speaking = (track.mode == 1)[2:]
        # Two frames: the mouth's lag and half a frame of the energy's own window.
        correlations.append(np.corrcoef(energy[:-2][speaking], track.opening[2:][speaking])[0, 1])
    assert 0.15 < np.mean(correlations) < 0.75
    assert max(correlations) < 0.9


def test_pictures_show_the_true_opening():
    for index in range(12):
        world = PuppetWorld(size=128, split="heldout")
        v = world.identity(index).values
        motion = np.zeros((16, len(MOTION)), np.float32)
        motion[:, MOTION.index("opening")] = np.linspace(0, 1, 16)
        frames = render(world.identity(index).vector(), motion, 128)
        x = round((1 + v["head_x"]) * 64)
        y = round((1 + v["head_y"] + v["mouth_y"]) * 64)
        mouth_box = (slice(None), slice(y - 8, y + 22), slice(x - 14, x + 14))
        dark = np.abs(frames.astype(float) - 255 * np.array([0.17, 0.04, 0.05])).max(axis=-1) < 28
        area = dark[mouth_box].sum(axis=(1, 2))
        assert np.corrcoef(area, motion[:, MOTION.index("opening")])[0, 1] > 0.95
        changed = np.abs(frames[-1].astype(float) - frames[0]).max(axis=-1)[mouth_box[1:]] > 30
        assert changed.any(axis=1).sum() >= 14, "the open mouth must be at least 14 pixels high"


def test_a_blink_and_a_glance_are_seen():
    for index in range(3):
        world = PuppetWorld(size=128)
        motion = np.zeros((3, len(MOTION)), np.float32)
        motion[1, MOTION.index("blink")] = 1
        motion[2, MOTION.index("gaze_x")] = 1
        still, shut, glance = render(world.identity(index).vector(), motion, 128).astype(int)
        assert (np.abs(shut - still).max(axis=-1) > 40).sum() > 40
        assert (np.abs(glance - still).max(axis=-1) > 40).sum() > 15


def test_the_face_box_holds_the_mouth_and_frame_0_is_the_portrait():
    for index in range(9):
        world = PuppetWorld(size=128)
        v = world.identity(index).values
        y0, x0, y1, x1 = world.face_box(index)
        motion = np.zeros((2, len(MOTION)), np.float32)
        motion[1, MOTION.index("opening")] = 1
        shut, wide = render(world.identity(index).vector(), motion, 128).astype(int)
        rows, columns = np.nonzero(np.abs(wide - shut).max(axis=-1) > 8)
        # The jaw takes the chin down; the box holds all of it.
        assert y0 <= rows.min() and rows.max() < y1 and x0 <= columns.min() and columns.max() < x1
        assert 0 <= y0 < y1 <= 128 and 0 <= x0 < x1 <= 128 and (1 + v["head_y"]) * 64 > y0
        np.testing.assert_array_equal(world.portrait(index), world.window(index, 0, 1).frames[0])


def test_heads_live_while_they_listen(tracks):
    moving, still = [], []
    for track in tracks["train"]:
        speed = np.abs(np.diff(track.motion[:, [MOTION.index(n) for n in ("x", "y", "angle")]], axis=0)).sum(
            1
        )
        moving.append(speed[track.mode[1:] == 1])
        still.append(speed[track.mode[1:] == 0])
    assert 0.8 < np.concatenate(still).mean() / np.concatenate(moving).mean() < 1.8
    blink = np.concatenate([track.motion[:, MOTION.index("blink")] for track in tracks["train"]])
    starts = np.sum((blink[1:] > 0.5) & (blink[:-1] <= 0.5))
    assert 12 * 10 / 5.5 < starts < 12 * 10 / 2
    assert 0.9 < blink.max() <= 1


def test_a_quarter_of_the_time_is_listened(tracks):
    share = [float(np.mean(track.mode == 0)) for track in tracks["train"]]
    assert 0.15 < np.mean(share) < 0.4 and min(share) == 0
    assert all(visemes(v)[0].opening > 0.15 for v in VOWELS)


def test_drawing_is_the_same_under_a_mesh_of_many_devices(mesh8):
    world, motion = PuppetWorld(size=16), np.zeros((2, len(MOTION)), np.float32)
    alone = render(world.identity(0).vector(), motion, 16)
    with jax.set_mesh(mesh8):
        np.testing.assert_array_equal(render(world.identity(0).vector(), motion, 16), alone)
        assert jax.sharding.get_abstract_mesh().size == 8, "the caller's mesh is still set"


def test_a_way_of_speaking_changes_the_sound_and_not_the_face():
    plain = PuppetWorld(split="heldout", size=16).truth(1, 4.0)
    for spoken in (Spoken(english="en-gb-scotland"), Spoken(rate=90), Spoken(snr=5.0)):
        track = PuppetWorld(split="heldout", size=16, spoken=spoken).truth(1, 4.0)
        assert not np.array_equal(track.audio, plain.audio)
        assert np.array_equal(track.motion[:, MOTION.index("x")], plain.motion[:, MOTION.index("x")])
    assert track.meta["snr"] == 5 and np.array_equal(track.opening, plain.opening)
    noise = track.audio - plain.audio
    speaking = plain.audio[np.abs(plain.audio) > 0.01]
    assert 2 < 20 * np.log10(speaking.std() / noise.std()) < 9


def test_workers_draw_the_same_clips_in_order():
    world = PuppetWorld(size=16)
    alone = list(drawn_ahead(world, [2, 0, 1], 1.0))
    together = list(drawn_ahead(world, [2, 0, 1], 1.0, workers=1))
    assert [clip.meta["identity"] for clip in together] == [2, 0, 1]
    for a, b in zip(alone, together, strict=True):
        assert np.array_equal(a.frames, b.frames) and np.array_equal(a.audio, b.audio)


def test_what_cannot_be_written_leaves_the_file_before(tmp_path, monkeypatch):
    def full(file, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    (tmp_path / "a.wav").write_bytes(b"before")
    monkeypatch.setattr(wave.Wave_write, "writeframes", full)
    with pytest.raises(InputError, match=r"a.wav failed \(No space left on device\)"):
        write_speech(tmp_path / "a", PuppetWorld(), 0, 0.5)
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"before"]
