"""A run's checkpoints where weights are read: the same values in their shards, or one sentence."""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors import safe_open

from tests.training import tiny_distillation as tiny
from tm_jax.errors import InputError
from tm_jax.models.dit import DiT
from tm_jax.models.dit_config import DiTConfig
from tm_jax.models.vae_config import VAEConfig
from tm_jax.pretrained.files import MappedFiles, SlicedTensor, open_checkpoint
from tm_jax.pretrained.sources import load_any
from tm_jax.pretrained.weights import load_model, read_header, save_model
from tm_jax.sharding import MeshConfig, ShardingRules, make_mesh, shardings_like
from tm_jax.training.checkpoint import Checkpoints
from tm_jax.training.loop import train
from tm_jax.training.loop_config import LoopConfig
from tm_jax.training.networks import _in_files, open_dit
from tm_jax.training.teacher_phase import TeacherPhase
from tm_jax.training.vae_phase import VaeExperiment

MODEL = dataclasses.replace(tiny.MODEL, dtype="bfloat16", width=64)
RULES = ShardingRules()


@pytest.fixture(autouse=True, scope="module")
def quick_compiling():
    """XLA without its optimisations: compiling is what these tests would spend their time on."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


class Phase(TeacherPhase):
    """A teacher that moves its average and learns nothing: no loss is compiled."""

    def step(self, state, batch, index):
        move = jax.jit(lambda ema: jax.tree.map(lambda leaf: leaf + 0.01 * (index + 1), ema))
        return state.replace(ema=move(state.ema)), {"loss": jnp.ones(())}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A teacher's run of two steps on eight devices, and its training; its average is not its model."""
    folder = tmp_path_factory.mktemp("made")
    tiny.prepare(folder)
    loop = {"run_dir": folder / "run", "steps": 2, "checkpoint_every": 1, "mesh": MeshConfig(fsdp=8)}
    experiment = dataclasses.replace(tiny.teacher(folder, **loop), model=MODEL)
    state = train(Phase(experiment), experiment.loop, experiment)
    assert (np.asarray(state.ema.head.kernel[...]) != np.asarray(state.model.head.kernel[...])).any()
    return folder, folder / "run", experiment


def filled(phase, seed):
    """The phase's state with random values; nothing is compiled."""
    rng = np.random.default_rng(seed)

    def one(leaf):
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.random.key(seed)
        return jnp.asarray(rng.normal(size=leaf.shape), leaf.dtype)

    return jax.tree.map(one, jax.eval_shape(phase.init, jax.random.key(0)))


def equal(one, other):
    """Bit for bit, in dtype and value."""
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return all(a.dtype == b.dtype and (np.asarray(a) == np.asarray(b)).all() for a, b in pairs)


@pytest.mark.parametrize("frozen", [False, True])
def test_it_is_what_the_run_ships_in_the_same_shards(made, frozen, monkeypatch):
    """Float32 to train on and bfloat16 kernels to be taught by, on another mesh than the run's."""
    _, run, _ = made
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    with jax.set_mesh(mesh):
        shipped = open_dit(run / "weights.safetensors", MODEL)
        source = open_dit(run, MODEL)
        asked = []
        restore = type(source.checkpoint).restore
        spy = lambda self, wanted: asked.append(set(wanted)) or restore(self, wanted)
        monkeypatch.setattr(type(source.checkpoint), "restore", spy)
        ours, theirs = source.load(RULES, frozen=frozen), shipped.load(RULES, frozen=frozen)
        monkeypatch.undo()
        assert source.digest(RULES) == shipped.digest(RULES)
    assert equal(ours, theirs) and len(asked) == 1 and ours.config == MODEL
    kernel = ours.blocks.self_attention.query.kernel[...]
    assert kernel.dtype == ("bfloat16" if frozen else "float32")
    assert kernel.addressable_shards[0].data.shape == (2, 32, 32)
    wanted = jax.tree.leaves(shardings_like(ours, mesh))
    for leaf, where in zip(jax.tree.leaves(ours), wanted, strict=True):
        assert leaf.sharding.is_equivalent_to(where, leaf.ndim)


def test_a_run_its_checkpoints_and_one_of_them(made):
    _, run, _ = made
    of = lambda path: open_dit(path, MODEL).digest(RULES)
    newest, before = of(run), of(run / "checkpoints" / "1")
    assert of(run / "checkpoints") == of(run / "checkpoints" / "2") == newest != before
    # Everything that reads weights of ours reads them too.
    assert equal(load_model(run, DiT, DiTConfig), load_model(run / "weights.safetensors", DiT, DiTConfig))
    ours, theirs = read_header(run), read_header(run / "weights.safetensors")
    assert ours.config == theirs.config and ours.meta["step"] == theirs.meta["step"] == 2


def test_only_what_is_asked_for_is_read(made, monkeypatch):
    """Of the state no other array is given to Orbax, and so neither model nor moments are read."""
    _, run, _ = made
    source = open_dit(run, MODEL)
    name = "head.kernel"
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    shape = jax.ShapeDtypeStruct(source.checkpoint.tensors[name].shape, jnp.float32, sharding=here)
    assert list(source.checkpoint.restore({name: shape})) == [name]
    assert all(not key.startswith(("model.", "opt_state.")) for key in source.checkpoint.tensors)


def test_training_begins_with_it_and_what_is_new_begins_afresh(made, tmp_path):
    folder, run, _ = made
    experiment = tiny.teacher(folder, run_dir=tmp_path / "next")
    model = dataclasses.replace(MODEL, audio_dim=24)
    before = load_model(run, DiT, DiTConfig)
    phase = dataclasses.replace(experiment, model=model, init_from=str(run)).build()
    state = phase.start(filled(phase, 0))
    assert state.model.blocks.audio.key.kernel.shape == (2, 24, 64)
    for part in ("cross_attention", "feed_forward"):
        assert equal(getattr(state.ema.blocks, part), getattr(before.blocks, part))


def test_a_digest_does_not_depend_on_the_parts(made):
    path = made[1] / "weights.safetensors"
    tensors = open_checkpoint(path).tensors
    with MappedFiles() as mapped:
        for name in ("blocks.feed_forward.inner.kernel", "head.bias"):
            whole = tensors[name]
            halves = whole.divided(2)
            rest = tuple(slice(0, size) for size in whole.shape[1:])
            cut = whole.shape[0] // 2
            parts = ((slice(0, cut), *rest), halves[0]), ((slice(cut, 2 * cut), *rest), halves[1])
            sliced = _in_files(mapped, SlicedTensor(whole.shape, parts))
            np.testing.assert_array_equal(sliced, _in_files(mapped, whole))
            with safe_open(path, framework="numpy") as file:
                np.testing.assert_array_equal(sliced, file.get_tensor(name).reshape(-1))


def cut(folder):
    """Cuts a checkpoint's files of arrays off."""
    for path in (folder / "state").rglob("d/*"):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def test_a_damaged_one_gives_way_to_the_one_before_and_stays_where_it_is(made, tmp_path, capfd):
    run = shutil.copytree(made[1], tmp_path / "run")
    checkpoints = run / "checkpoints"
    cut(checkpoints / "2")
    source = open_dit(run, MODEL)
    assert source.digest(RULES) == open_dit(checkpoints / "1", MODEL).digest(RULES)
    told = capfd.readouterr().err
    assert told.count("\n") == 1 and "checkpoints/2 is damaged" in told and "taking step 1" in told
    with pytest.raises(InputError, match=r"checkpoints/2 is damaged .*: name another"):
        open_dit(checkpoints / "2", MODEL)
    # Without the noted sizes, Orbax has to find it: when it opens them, or later when it reads.
    (checkpoints / "sizes-2.json").unlink()
    assert open_dit(run, MODEL).checkpoint.path == checkpoints / "1"
    told = capfd.readouterr().err
    assert told.count("\n") == 1 and "checkpoints/2 cannot be read" in told
    cut(checkpoints / "1")
    with pytest.raises(InputError, match=r"checkpoints/1 cannot be read .*name an earlier one") as error:
        source.load(RULES)
    assert "\n" not in str(error.value)
    shutil.rmtree(checkpoints / "2")
    with pytest.raises(InputError, match=r"checkpoints/1 is damaged"):
        open_dit(run, MODEL)
    assert sorted(path.name for path in checkpoints.iterdir() if path.is_dir()) == ["1"]
    assert "Traceback" not in capfd.readouterr().err


def test_what_cannot_be_a_source_is_one_sentence(made, tmp_path):
    _, run, _ = made
    with pytest.raises(InputError, match=r"checkpoints/2 was made with another config .*layers: 2 against 3"):
        open_dit(run, dataclasses.replace(MODEL, layers=3))
    with pytest.raises(InputError, match=r"There is no checkpoint .*/9: of .*run there are 1, 2"):
        open_dit(run / "checkpoints" / "9", MODEL)
    # Without a checkpoint, a folder is what it was.
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("warmup", "weights"):
        shutil.copy(run / "weights.safetensors", bare / f"{name}.safetensors")
    with pytest.raises(InputError, match=r"holds several safetensors files and no index"):
        open_dit(bare, MODEL)
    for change, sentence in (
        ({"lora": 4}, r"low-rank changes alone \(--lora 4\).*give .*weights\.safetensors"),
        ({"format": 9}, r"of format 9 and this program reads up to 2"),
        ({"weights": None}, r"does not say what its weights are.*give .*weights\.safetensors"),
    ):
        edited = shutil.copytree(run, tmp_path / next(iter(change)))
        for path in (edited / "checkpoints").glob("sizes-*"):
            path.unlink()
        path = edited / "checkpoints" / "2" / "meta" / "metadata"
        meta = json.loads(path.read_text())
        meta["config"].update({"lora": change.get("lora", 0)})
        meta["format"] = change.get("format", meta["format"])
        if "weights" in change:
            del meta["extra"]["weights"]
        path.write_text(json.dumps(meta))
        with pytest.raises(InputError, match=sentence) as error:
            open_dit(edited, MODEL)
        assert "\n" not in str(error.value)


def test_a_vae_with_the_statistics_that_it_ships(tmp_path):
    config = VAEConfig(base_dim=4)
    experiment = VaeExperiment(LoopConfig("vae", run_dir=tmp_path / "run", steps=1), config)
    phase = experiment.build()
    state = filled(phase, 0)
    shipped = dataclasses.replace(config, latents_mean=tuple(np.arange(16.0).tolist()))
    checkpoints = Checkpoints(tmp_path / "run" / "checkpoints", keep=1, config=experiment, same=("model",))
    weights = {"class": "VAE", "config": dataclasses.asdict(shipped), "meta": {}}
    checkpoints.save(1, state, {"weights": weights}, {})
    checkpoints.close()
    vae = load_any(tmp_path / "run", "vae")
    assert equal(vae, state.ema) and vae.config == shipped
    with pytest.raises(InputError, match=r"holds a VAE, not a DiT"):
        load_model(tmp_path / "run", DiT, DiTConfig)
    following = dataclasses.replace(experiment, init_from=tmp_path / "run").build()
    begun = following.start(filled(following, 1))
    assert equal(begun.model, state.ema) and following.model == shipped


def test_a_student_goes_on_with_equal_values_elsewhere_and_with_no_others(made, tmp_path):
    folder, run, _ = made
    shutil.copy(run / "weights.safetensors", tmp_path / "copy.safetensors")
    other = load_model(run, DiT, DiTConfig)
    other.head.bias[...] += 1
    save_model(tmp_path / "other.safetensors", other, MODEL)
    digest = lambda path, **fields: (
        dataclasses.replace(tiny.student(folder), model=MODEL, teacher=path, **fields).build().made_of()
    )
    ours = digest(run)
    assert digest(tmp_path / "copy.safetensors") == ours == digest(run / "weights.safetensors")
    assert digest(tmp_path / "other.safetensors")["teacher"] != ours["teacher"]
    changed = digest(run, lora=2, init_from=str(tmp_path / "other.safetensors"))
    assert changed["teacher"] == ours["teacher"] == digest(run, lora=2)["init_from"] != changed["init_from"]
    assert "init_from" not in digest(run, init_from=str(tmp_path / "other.safetensors"))
