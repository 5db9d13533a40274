"""The varied world: what is true stays true under its framing, and the plain world is as it was."""

import dataclasses
import pickle

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import configs
from configs import tiny_recipe, tiny_recipe_large
from tm_jax import config
from tm_jax.data.encoded_videos import EncodedConfig, videos_digest
from tm_jax.data.puppet_windows import PuppetWindows, WindowConfig
from tm_jax.data.puppets import variety as variety_module
from tm_jax.data.puppets.draw import MOTION, render
from tm_jax.data.puppets.photograph_maps import noise
from tm_jax.data.puppets.showing import portraits
from tm_jax.data.puppets.variety import PLAIN, VARIED, Variety, appearance
from tm_jax.data.puppets.world import PuppetWorld
from tm_jax.diffusion.conditions import face_mask
from tm_jax.diffusion.face_cells import eye_mask, mouth_mask
from tm_jax.errors import InputError
from tm_jax.models.vae import VAE
from tm_jax.models.vae_config import VAEConfig
from tm_jax.training import clip_data

SIZE = 128
HALF = SIZE // 2
STRONG = Variety(photographs=0.5, scale=0.25, shift=0.1, roll=15.0)
PHOTOGRAPHS = Variety(photographs=1.0)
PLAIN_SUMS = {
    "train": [(378120, 376036), (499761, 495357), (283287, 282543)],
    "heldout": [(396244, 395580), (510545, 505470), (379432, 378927)],
}
"""Of a still frame and a moved one of each split's first three identities, at 32 pixels."""


def moved(**columns: float) -> np.ndarray:
    """A still face, and the same with these columns of its motion."""
    motion = np.zeros((2, len(MOTION)), np.float32)
    for name, value in columns.items():
        motion[1, MOTION.index(name)] = value
    return motion


def test_the_plain_world_is_as_it_was_before_there_was_another():
    """Sums over pictures of the three styles; another processor may round a few pixels otherwise."""
    for split, sums in PLAIN_SUMS.items():
        for number, before in enumerate(sums):
            shown = appearance(PLAIN, 0, split, number)
            motion = moved(opening=0.7, x=0.05, angle=0.1, blink=0.4)
            frames = render(shown.identity.vector(), motion, 32, shown.look(32)).astype(int)
            np.testing.assert_allclose(frames.sum((1, 2, 3)), before, atol=8)


def test_mouth_and_eyes_lie_where_they_are_said_to():
    world = PuppetWorld(size=SIZE, variety=STRONG)
    kinds = set()
    for number in range(6):
        shown = appearance(STRONG, 0, "train", number)
        v, kind = shown.identity.values, shown.seed is None
        kinds.add(kind)
        still, wide = world.frames(number, moved(opening=1.0)).astype(int)
        rows, columns = np.nonzero(np.abs(wide - still).max(axis=-1) > 8)
        y0, x0, y1, x1 = world.face_box(number)
        assert y0 <= rows.min() and rows.max() < y1 and x0 <= columns.min() and columns.max() < x1
        # What the opened mouth changes most is its dark inside.
        rows, columns = np.nonzero((still - wide).max(axis=-1) > 60)
        x, y = shown.camera.seen(v["head_x"], v["head_y"] + v["mouth_y"] + 0.3 * v["mouth_h"])
        centre = np.array([y + 1, x + 1]) * HALF
        assert np.abs([rows.mean(), columns.mean()] - centre).max() < 5, (number, kind)
        still, shut = world.frames(number, moved(blink=1.0)).astype(int)
        rows, columns = np.nonzero(np.abs(shut - still).max(axis=-1) > 40)
        x, y = shown.camera.seen(v["head_x"] + np.array([-1, 1]) * v["eye_dx"], v["head_y"] + v["eye_y"])
        x, y = (x + 1) * HALF, (y + 1) * HALF
        left = np.hypot(rows - y[0], columns - x[0]) < np.hypot(rows - y[1], columns - x[1])
        for eye, mine in enumerate((left, ~left)):
            assert abs(columns[mine].mean() - x[eye]) < 2.5 and abs(rows[mine].mean() - y[eye]) < 3
        assert abs((rows[~left].mean() - rows[left].mean()) - (y[1] - y[0])) < 1.5
    assert kinds == {True, False}


def test_the_cells_of_mouth_and_eyes_hold_them_whatever_the_framing():
    world = PuppetWorld(size=SIZE, variety=VARIED)
    boxes = jnp.asarray([world.face_box(number) for number in range(60)])
    face = face_mask(boxes, (SIZE, SIZE), (16, 16))
    within = {"mouth_y": np.asarray(mouth_mask(face)), "eye_y": np.asarray(eye_mask(face))}
    held = {name: [] for name in within}
    for number in range(60):
        shown = appearance(VARIED, 0, "train", number)
        v = shown.identity.values
        for name, across in (("mouth_y", v["mouth_w"]), ("eye_y", v["eye_dx"])):
            x, y = shown.camera.seen(v["head_x"] + np.array([-across, across]), v["head_y"] + v[name])
            rows, columns = ((np.stack([y, x]) + 1) * 8).astype(int)
            held[name] += within[name][number, rows, columns].tolist()
    assert np.mean(held["mouth_y"]) == 1 and np.mean(held["eye_y"]) > 0.95


def test_heads_are_where_the_clip_says():
    world = PuppetWorld(size=SIZE, variety=dataclasses.replace(STRONG, photographs=0.0))
    plain, clip = PuppetWorld(size=SIZE).window(3, 20, 4), world.window(3, 20, 4)
    camera = appearance(world.variety, 0, "train", 3).camera
    x, y = camera.seen(plain.meta["head_x"] / HALF - 1, plain.meta["head_y"] / HALF - 1)
    np.testing.assert_allclose(
        [clip.meta["head_x"], clip.meta["head_y"]], [(x + 1) * HALF, (y + 1) * HALF], rtol=1e-5
    )
    np.testing.assert_allclose(clip.meta["head_angle"], plain.meta["head_angle"] + camera.roll)
    assert abs(camera.roll) > 0.01 and clip.face_box != plain.face_box
    assert np.array_equal(clip.audio, plain.audio) and np.array_equal(clip.opening, plain.opening)
    assert np.array_equal(clip.meta["motion"], plain.meta["motion"])


def test_skin_moves_with_the_head_and_the_background_stays():
    world = PuppetWorld(size=SIZE, variety=PHOTOGRAPHS)
    # Four pixels; above the mouth nothing moves against the skin.
    still, aside = world.frames(0, moved(x=0.0625)).astype(int)
    face = (slice(40, 74), slice(48, 80))
    along = np.abs(aside[face[0], 52:84] - still[face]).mean()
    assert along < 1.0 < 4.0 < np.abs(aside[face] - still[face]).mean()
    np.testing.assert_array_equal(still[:10, :10], aside[:10, :10])


def test_a_world_is_the_same_wherever_it_is_drawn():
    worlds = [PuppetWorld(size=SIZE, variety=VARIED) for _ in range(2)]
    worlds.append(pickle.loads(pickle.dumps(worlds[0])))
    for number in range(4):
        first, *others = (world.frames(number, moved(opening=0.5)) for world in worlds)
        assert all(np.array_equal(first, other) for other in others)
    faces = {PuppetWorld(size=SIZE, variety=PHOTOGRAPHS).portrait(number).tobytes() for number in range(4)}
    assert len(faces) == 4
    looks = [appearance(PHOTOGRAPHS, 0, split, 0).look(SIZE).photograph for split in ("train", "heldout")]
    assert not np.array_equal(looks[0].face, looks[1].face), "splits share no skin"


def test_a_share_of_the_identities_are_photographs_and_settings_keep_to_their_part():
    shown = [appearance(VARIED, 0, "train", number) for number in range(200)]
    assert 0.4 < np.mean([one.seed is not None for one in shown]) < 0.6
    framed = [appearance(Variety(scale=VARIED.scale), 0, "train", number) for number in range(200)]
    assert [one.camera.scale for one in framed] == [one.camera.scale for one in shown]
    assert all(one.seed is None and one.camera.roll == 0 for one in framed)
    scales = [one.camera.scale for one in shown]
    assert 1 / 1.12 <= min(scales) < 0.92 and 1.08 < max(scales) <= 1.12


def test_noise_has_unit_variance_and_falls_with_frequency():
    rough, fine = (noise(np.random.default_rng(0), (64, 64), slope) for slope in (2.0, 0.0))
    for field in (rough, fine):
        np.testing.assert_allclose([field.mean(), field.std()], [0, 1], atol=1e-6)
    assert np.diff(rough, axis=0).std() < 0.4 < 1.2 < np.diff(fine, axis=0).std()


def test_windows_and_sheets_show_the_variety():
    varied = WindowConfig(frames=5, size=SIZE, variety=VARIED, crop=16)
    first, again = (PuppetWindows(varied)[2]["frames"] for _ in range(2))
    plain = PuppetWindows(dataclasses.replace(varied, variety=PLAIN))[2]["frames"]
    assert first.shape == plain.shape == (2, 5, 16, 16, 3)
    assert np.array_equal(first, again) and not np.array_equal(first, plain)
    worlds = [PuppetWorld(size=SIZE, variety=variety) for variety in (PLAIN, VARIED)]
    assert portraits(worlds, 3, columns=2).size == (4 * SIZE, 2 * SIZE)


def test_encoded_videos_of_another_variety_are_others(monkeypatch):
    vae = VAE(
        VAEConfig(
            base_dim=8, z_dim=4, dim_mult=(1,), num_res_blocks=0, temporal_downsample=(),
            spatial_downsample=(), patch_size=8, latents_mean=(0.0,) * 4, latents_std=(1.0,) * 4,
        ),
        rngs=nnx.Rngs(0),
    )  # fmt: skip
    # The first identity is a photograph in none of them.
    varieties = [PLAIN, VARIED, Variety(photographs=0.1), Variety(photographs=0.2)]
    key = lambda variety: videos_digest(vae, EncodedConfig(size=SIZE, variety=variety))
    keys = [key(variety) for variety in varieties]
    assert len(set(keys)) == len(varieties)
    assert EncodedConfig(size=SIZE, variety=VARIED).world.variety == VARIED
    shade = variety_module.shade_photograph
    darker = lambda *given: shade(*given)._replace(background=0 * shade(*given).background)
    monkeypatch.setattr(variety_module, "shade_photograph", darker)
    assert key(VARIED) != keys[1], "photographs that are painted otherwise are other videos"


def test_presets_for_an_accelerator_see_the_varied_world_and_show_the_plain_one(monkeypatch):
    of = lambda name, *flags: config.load(configs, [name, *flags])
    assert of("tiny_teacher").videos.variety == of("tiny_student").videos.variety == PLAIN
    assert of("tiny_teacher_large").videos.variety == of("tiny_student_large").videos.variety == VARIED
    assert tiny_recipe.PRESET.teacher.videos.variety == PLAIN
    large = tiny_recipe_large.PRESET
    assert large.teacher.videos.variety == large.student.videos.variety == VARIED
    asked = of("tiny_teacher", "--videos.variety.photographs", "0.3", "--videos.variety.roll", "2")
    assert asked.videos.variety == Variety(photographs=0.3, roll=2.0)
    assert of("tiny_vae", "--windows.variety.scale", "0.1").windows.variety == Variety(scale=0.1)
    assert config.from_json(EncodedConfig, config.to_json(asked.videos)) == asked.videos

    def encoded(vae, front_end, videos, folder):
        raise LookupError(videos)

    for name, replacement in (("load_any", print), ("load_front_end", str), ("encoded_videos", encoded)):
        monkeypatch.setattr(clip_data, name, replacement)
    with pytest.raises(LookupError) as asked:
        clip_data.heldout_clips(large.teacher)
    (shown,) = asked.value.args
    assert (shown.split, shown.variety) == ("heldout", PLAIN)


@pytest.mark.parametrize(
    ("flag", "value", "said"),
    [
        ("photographs", "1.5", "photographs is 1.5; it is a share, 0 to 1"),
        ("scale", "0.5", "scale is 0.5; give 0 to 0.25"),
        ("shift", "-0.1", "shift is -0.1; give 0 to 0.15"),
        ("roll", "nan", "roll is nan; give 0 to 20.0"),
    ],
)
def test_settings_that_leave_the_picture_are_told_in_one_sentence(flag, value, said):
    with pytest.raises(InputError, match=said):
        config.load(configs, ["tiny_teacher", f"--videos.variety.{flag}", value])
