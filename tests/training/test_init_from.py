"""A teacher that starts from a public Wan checkpoint: its output is Wan's, and only a new run reads it."""

import dataclasses
import json
import shutil

import diffusers
import grain
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from safetensors.numpy import load_file, save_file

import configs
from tests.models.dit_cases import inputs
from tm_jax.config import load
from tm_jax.data.latent_clips import clip_config
from tm_jax.errors import InputError
from tm_jax.models.dit import DiT
from tm_jax.models.dit_config import DiTConfig
from tm_jax.nn.masks import Bidirectional
from tm_jax.pretrained.weights import save_model
from tm_jax.sharding import MeshConfig, shardings_like
from tm_jax.training.loop import train
from tm_jax.training.loop_config import LoopConfig
from tm_jax.training.teacher_phase import TeacherExperiment, TeacherPhase

MODEL = DiTConfig(
    width=48, ffn=40, heads=4, layers=2, patch=(1, 1, 1), in_channels=12, out_channels=4, text_width=8,
    # diffusers finds the image tokens by counting 512 text tokens from the end.
    text_length=512, image_width=4, image_length=4, audio_width=6, audio_dim=16, audio_lookahead=0,
    time_frequencies=16, dtype="float32", remat="products",
)  # fmt: skip


@pytest.fixture(autouse=True, scope="module")
def quick_compiling():
    """XLA without its optimisations: compiling is what these tests would spend their time on."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="module")
def wan(tmp_path_factory):
    """A tiny I2V transformer, and the pipeline's folder that diffusers itself wrote for it."""
    torch.manual_seed(0)
    model = diffusers.WanTransformer3DModel(
        patch_size=MODEL.patch, num_attention_heads=4, attention_head_dim=12, in_channels=12, out_channels=4,
        text_dim=8, freq_dim=16, ffn_dim=40, num_layers=2, image_dim=4, added_kv_proj_dim=48,
    ).eval()  # fmt: skip
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            # What starts at 1 or 0 would hide a fault.
            if parameter.ndim < 2 or "table" in name:
                parameter.add_(0.3 * torch.randn_like(parameter))
    folder = tmp_path_factory.mktemp("wan")
    model.save_pretrained(folder / "transformer", max_shard_size="40KB")
    assert len(list((folder / "transformer").glob("*.safetensors"))) > 1
    return folder, model


class Phase(TeacherPhase):
    """The teacher on random latents, with no VAE, and without learning: its state stays that of step 0."""

    def dataset(self):
        rng = np.random.default_rng(0)
        noisy, _, conditioning = inputs(self.config.model, rng, batch=16, frames=2, height=2, width=2)
        clips = {"latents": noisy, **vars(conditioning)}
        return grain.MapDataset.source([{k: np.asarray(v[i]) for k, v in clips.items()} for i in range(16)])

    def start(self, state):
        state = super().start(state)
        self.shardings = [leaf.sharding for leaf in jax.tree.leaves((state.model, state.ema))]
        return state

    def _update(self, state, batch):
        # Compiling a real update takes longer than all that is tested here.
        return state.replace(step=state.step + 1), {"loss": batch["latents"].mean()}


def experiment(folder, source, steps=1):
    loop = LoopConfig(
        "t",
        steps=steps,
        batch_size=8,
        run_dir=folder,
        preview_every=0,
        mesh=MeshConfig(data=2, fsdp=2, tensor=2),
    )
    clip = clip_config(MODEL, 3)
    return TeacherExperiment(loop, MODEL, folder / "no.safetensors", str(source), clip=clip)


def run(folder, source, steps=1):
    config = experiment(folder, source, steps)
    phase = Phase(config)
    return train(phase, config.loop, config), phase


@pytest.fixture(scope="module")
def started(wan, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    return folder, *run(folder, wan[0])


def test_the_teacher_says_what_wan_says_whatever_it_hears(started, wan, rng, relative_error):
    noisy, sigma, conditioning = inputs(MODEL, rng, batch=2, frames=3, height=3, width=4)
    tensor = lambda array: torch.from_numpy(np.array(array))
    with torch.no_grad():
        reference = wan[1](
            tensor(jnp.concatenate([noisy, conditioning.condition], -1)).permute(0, 4, 1, 2, 3),
            timestep=tensor(sigma * 1000.0),
            encoder_hidden_states=tensor(conditioning.text_tokens),
            encoder_hidden_states_image=tensor(conditioning.image_tokens),
            return_dict=False,
        )[0].permute(0, 2, 3, 4, 1)
    forward = jax.jit(lambda model, *given: model(*given, pattern=Bidirectional()))
    for teacher in (started[1].model, started[1].ema):
        teacher = jax.device_put(teacher, jax.devices()[0])
        assert relative_error(forward(teacher, noisy, sigma, conditioning), reference) <= 1e-5
    louder = conditioning.replace(audio_tokens=50 * conditioning.audio_tokens, mode=1 - conditioning.mode)
    assert relative_error(forward(teacher, noisy, sigma, louder), reference) <= 1e-5


def test_its_shards_lie_on_the_loop_s_mesh_and_only_the_audio_is_ours(started):
    model, phase = started[1].model, started[2]
    kernel = model.blocks.self_attention.query.kernel[...]
    wanted = jax.tree.leaves(shardings_like((model, model), kernel.sharding.mesh))
    for leaf, given, sharding in zip(jax.tree.leaves((model, model)), phase.shardings, wanted, strict=True):
        assert given.is_equivalent_to(sharding, leaf.ndim)
    assert kernel.addressable_shards[0].data.shape == (2, 24, 24)
    assert not np.asarray(model.blocks.audio.value.kernel[...]).any()
    assert np.asarray(model.blocks.audio.key.kernel[...]).std() > 0.01


def test_a_resumed_run_reads_its_checkpoint_alone(started, tmp_path):
    folder = shutil.copytree(started[0], tmp_path / "run")
    state, phase = run(folder, tmp_path / "gone", steps=2)
    assert phase.source is None and int(state.step) == 2
    for ours, theirs in zip(jax.tree.leaves(state.model), jax.tree.leaves(started[1].model), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_every_key_that_does_not_fit_is_told_before_anything_starts(wan, tmp_path):
    folder = tmp_path / "wan"
    folder.mkdir()
    tensors = {}
    for shard in (wan[0] / "transformer").glob("*.safetensors"):
        tensors |= load_file(shard)
    shutil.copy(wan[0] / "transformer" / "config.json", folder)
    for layer in range(2):
        del tensors[f"blocks.{layer}.attn2.norm_q.weight"]
    tensors |= {"proj_out.bias": np.zeros(3, np.float32), "blocks.1.surprise": np.zeros(3, np.float32)}
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(InputError) as told:
        experiment(tmp_path / "run", folder).build()
    for fault in (
        "missing blocks.{0–1}.attn2.norm_q.weight",
        "unknown blocks.1.surprise",
        "proj_out.bias has shape (3,) where the model has (4,)",
    ):
        assert fault in str(told.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [({"width": 96}, "width 96 here, 48 there"), ({"layers": 3}, "layers 3 here, 2 there")],
)
def test_a_checkpoint_of_another_size_is_refused(wan, tmp_path, change, sentence):
    config = experiment(tmp_path / "run", wan[0])
    with pytest.raises(InputError, match=sentence):
        dataclasses.replace(config, model=dataclasses.replace(MODEL, **change)).build()


def test_a_teacher_of_ours_keeps_all_but_its_hearing(started, tmp_path):
    before = DiT(MODEL, rngs=nnx.Rngs(5))
    save_model(tmp_path / "before.safetensors", before, MODEL)
    config = experiment(tmp_path / "run", tmp_path / "before.safetensors")
    model = dataclasses.replace(MODEL, audio_width=9)
    phase = TeacherPhase(dataclasses.replace(config, model=model))
    fresh = jax.jit(phase.init)(jax.random.key(0))
    state = phase.start(fresh)
    for ours in (state.model, state.ema):
        assert ours.config == model and ours.audio_embedding.projection.kernel.shape == (9, 16)
        assert not np.asarray(ours.blocks.audio.value.kernel[...]).any()
        np.testing.assert_array_equal(ours.head.kernel[...], before.head.kernel[...])
        kernel = lambda model: np.asarray(model.blocks.self_attention.query.kernel[...])
        np.testing.assert_array_equal(kernel(ours), kernel(before))
    with pytest.raises(InputError, match="width: 48 against 96"):
        wide = dataclasses.replace(config, model=dataclasses.replace(MODEL, width=96))
        TeacherPhase(wide)


def test_a_teacher_of_ours_that_is_to_predict_something_else_begins_its_last_layer_afresh(tmp_path):
    before = DiT(MODEL, rngs=nnx.Rngs(5))
    # What a fresh last layer holds is zeros.
    before.head.kernel[...] = jnp.ones_like(before.head.kernel[...])
    save_model(tmp_path / "before.safetensors", before, MODEL)
    config = experiment(tmp_path / "run", tmp_path / "before.safetensors")
    model = dataclasses.replace(MODEL, still_condition=True, predicts="change", change_scale=0.3)
    with pytest.raises(ValueError, match="still_condition is True in model and False in videos"):
        dataclasses.replace(config, model=model)
    videos = dataclasses.replace(config.videos, still_condition=True)
    phase = TeacherPhase(dataclasses.replace(config, model=model, videos=videos))
    ours = phase.start(jax.jit(phase.init)(jax.random.key(0))).model
    assert not np.asarray(ours.head.kernel[...]).any()
    for part in ("audio", "self_attention"):
        value = lambda model, part=part: np.asarray(getattr(model.blocks, part).value.kernel[...])
        np.testing.assert_array_equal(value(ours), value(before))


def test_the_flag_reaches_the_experiment(tmp_path):
    assert load(configs, ["tiny_teacher"]).init_from is None
    assert load(configs, ["tiny_teacher", "--init-from", "owner/name"]).init_from == "owner/name"
    with pytest.raises(InputError, match="does not exist"):
        experiment(tmp_path, tmp_path / "nothing").build()
    (tmp_path / "config.json").write_text(json.dumps({}))
    with pytest.raises(InputError, match="holds no safetensors file"):
        experiment(tmp_path / "run", tmp_path).build()
