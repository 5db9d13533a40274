"""Checkpoints: what comes back, what survives donation, and what a damaged one says."""

import dataclasses
import itertools
import subprocess
import sys

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tm_jax.errors import InputError
from tm_jax.pretrained import checkpoint_files
from tm_jax.sharding import MeshConfig, make_mesh, shardings_like
from tm_jax.training import checkpoint
from tm_jax.training.checkpoint import Checkpoints


@dataclasses.dataclass(frozen=True)
class Config:
    model: int = 1
    lr: float = 0.1


@flax.struct.dataclass
class State:
    weights: jax.Array
    key: jax.Array
    step: jax.Array


def init(key):
    return State(jnp.arange(2**18, dtype=jnp.float32), key, jnp.zeros((), jnp.int32))


@pytest.fixture
def placed():
    mesh = make_mesh(MeshConfig())
    abstract = jax.eval_shape(init, jax.random.key(3))
    shardings = shardings_like(abstract, mesh)
    return abstract, shardings, jax.jit(init, out_shardings=shardings)(jax.random.key(3))


def open_checkpoints(folder, config=Config(), keep=2, **settings):
    return Checkpoints(folder, keep=keep, config=config, same=("model",), **settings)


def saved(folder, placed, steps=(1,), **settings):
    """A folder of checkpoints whose weights begin with the number of their step."""
    checkpoints = open_checkpoints(folder, **settings)
    for step in steps:
        state = placed[2].replace(weights=placed[2].weights.at[0].set(step))
        checkpoints.save(step, state, {"elements": 8 * step}, {"error": abs(step - 2.0)})
    checkpoints.close()


def kept(folder):
    return sorted(path.name for path in folder.iterdir() if path.name.isdigit())


def damage(folder):
    for path in folder.rglob("*"):
        if path.is_file() and path.name not in ("commit_success.txt", "_METADATA"):
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def test_state_keys_and_extra_come_back_although_the_state_was_donated(placed, tmp_path):
    abstract, shardings, state = placed
    checkpoints = open_checkpoints(tmp_path)
    overwrite = jax.jit(lambda s: s.replace(weights=jnp.full_like(s.weights, -1)), donate_argnums=0)
    checkpoints.save(7, state, {"elements": 56}, {})
    overwrite(state)
    checkpoints.close()

    fresh = open_checkpoints(tmp_path, Config(lr=0.2))
    step, restored, extra = fresh.restore(abstract, shardings)
    np.testing.assert_array_equal(restored.weights, np.arange(2**18))
    np.testing.assert_array_equal(jax.random.key_data(restored.key), jax.random.key_data(jax.random.key(3)))
    assert step == 7 and extra["elements"] == 56 and extra["config"]["lr"] == 0.1
    fresh.close()


def test_only_the_newest_are_kept_and_the_best(placed, tmp_path):
    saved(tmp_path / "newest", placed, (1, 2, 3, 4), keep=2)
    assert kept(tmp_path / "newest") == ["3", "4"]
    saved(tmp_path / "best", placed, (1, 2, 3, 4), keep=1, best="error")
    assert kept(tmp_path / "best") == ["2", "4"]


@pytest.mark.parametrize("part", ["meta", "state", "one file gone"])
def test_a_damaged_checkpoint_is_set_aside_for_the_one_before(placed, tmp_path, part):
    abstract, shardings, _ = placed
    saved(tmp_path, placed, (1, 2))
    if part == "one file gone":
        max((tmp_path / "2" / "state").rglob("*"), key=lambda path: path.stat().st_size).unlink()
    else:
        # Without the noted sizes, reading has to find it.
        (tmp_path / "sizes-2.json").unlink()
        damage(tmp_path / "2" / part)
    told = []
    fresh = open_checkpoints(tmp_path, say=told.append)
    step, restored, extra = fresh.restore(abstract, shardings)
    assert step == 1 and float(restored.weights[0]) == 1 and extra["elements"] == 8
    assert len(told) == 1 and "going on from step 1" in told[0] and "\n" not in told[0]
    fresh.save(2, restored, {}, {})
    fresh.close()
    assert kept(tmp_path) == ["1", "2"] and (tmp_path / "damaged-2").is_dir()


def test_without_a_whole_checkpoint_a_run_does_not_begin_anew(placed, tmp_path):
    abstract, shardings, _ = placed
    saved(tmp_path, placed)
    damage(tmp_path / "1")
    fresh = open_checkpoints(tmp_path, say=lambda _: None)
    with pytest.raises(InputError, match=r"No checkpoint in .* can be read") as error:
        fresh.restore(abstract, shardings)
    assert "\n" not in str(error.value)
    fresh.close()


@dataclasses.dataclass(frozen=True)
class OtherConfig:
    model: int = 1


def test_another_config_run_or_format_is_one_sentence(placed, tmp_path, monkeypatch):
    abstract, shardings, _ = placed
    monkeypatch.setattr(checkpoint, "FORMAT", 3)
    saved(tmp_path, placed)
    for config, number, message in (
        (Config(model=2), 3, "model: 1 against 2"),
        (OtherConfig(), 3, "of another run, a Config and not a OtherConfig"),
        (Config(), 2, "is of format 3 and this program reads up to 2"),
    ):
        monkeypatch.setattr(checkpoint_files, "FORMAT", number)
        fresh = open_checkpoints(tmp_path, config)
        with pytest.raises(InputError, match=message) as error:
            fresh.restore(abstract, shardings)
        assert "\n" not in str(error.value)
        fresh.close()
    assert kept(tmp_path) == ["1"]


FULL = """
import resource, sys
from pathlib import Path
import jax
from tests.training.test_checkpoint import open_checkpoints
from tm_jax.errors import InputError

checkpoints = open_checkpoints(Path(sys.argv[1]))
state = {f"p{index}": jax.random.normal(jax.random.key(index), (100, 100)) for index in range(60)}
checkpoints.save(1, state, {}, {})
checkpoints.close()
checkpoints = open_checkpoints(Path(sys.argv[1]))
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
try:
    checkpoints.save(2, {name: leaf + 0.1 for name, leaf in state.items()}, {}, {})
    checkpoints.close()
except InputError as error:
    print(error)
"""


def test_many_files_that_cannot_be_written_are_one_sentence_and_the_last_good_checkpoint_stays(tmp_path):
    made = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path / "run" / "checkpoints")], capture_output=True, text=True
    )
    assert made.stdout.startswith("A checkpoint of run could not be written (")
    assert made.stdout.endswith(
        "the last good checkpoint is step 1: make room, then start the same command again.\n"
    )
    assert "Traceback" not in made.stderr and kept(tmp_path / "run" / "checkpoints") == ["1"]


def test_a_lost_process_is_no_fault_of_the_disk_or_of_a_checkpoint(tmp_path, monkeypatch):
    checkpoints = open_checkpoints(tmp_path)
    lost = jax.errors.JaxRuntimeError("UNKNOWN: Gloo AllGather failed: connection reset by peer")
    for guard in (checkpoints._writing, lambda: checkpoint_files.reading(tmp_path, 1)):
        with pytest.raises(InputError, match=r"could not be written|cannot be read"), guard():
            raise lost
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    for guard in (checkpoints._writing, lambda: checkpoint_files.reading(tmp_path, 1)):
        with pytest.raises(jax.errors.JaxRuntimeError), guard():
            raise lost
        with pytest.raises(jax.errors.JaxRuntimeError), guard():
            raise TimeoutError("the barrier timed out") from lost


EDITS = {
    "what no manager lists": ("_CHECKPOINT_METADATA", b"5"),
    "nesting": ("_CHECKPOINT_METADATA", b"[" * 9999),
    "where arrays lie": ("state/array_metadatas/process_0", b'{"array_metadatas": [{"a": 1}]}'),
    "the map of the database": ("state/manifest.ocdbt", b""),
    "a figure": ("meta/metadata", None),
}


# A figure keeps its length, so that its checksum alone can tell.
UNTOLD = [("a figure", False)]


@pytest.mark.parametrize(
    ("edit", "noted"), [pair for pair in itertools.product(EDITS, (True, False)) if pair not in UNTOLD]
)
def test_an_edited_checkpoint_is_set_aside_in_one_sentence(placed, tmp_path, capfd, edit, noted):
    abstract, shardings, _ = placed
    saved(tmp_path, placed, (1, 2))
    name, content = EDITS[edit]
    file = tmp_path / "2" / name
    if content is None:
        content = file.read_bytes().replace(b'"elements": 16', b'"elements": 99')
        assert content != file.read_bytes()
    file.write_bytes(content)
    if not noted:
        (tmp_path / "sizes-2.json").unlink()
    told = []
    fresh = open_checkpoints(tmp_path, say=told.append)
    step, _, extra = fresh.restore(abstract, shardings)
    fresh.close()
    assert step == 1 and extra["elements"] == 8
    assert len(told) == 1 and "going on from step 1" in told[0] and "\n" not in told[0]
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize("note", [b"[]", b"[" * 9999, b'{"_CHECKPOINT_METADATA": 361}'])
def test_notes_that_say_nothing_or_sizes_alone_let_a_checkpoint_be_read(placed, tmp_path, note):
    abstract, shardings, _ = placed
    saved(tmp_path, placed)
    size = (tmp_path / "1" / "_CHECKPOINT_METADATA").stat().st_size
    (tmp_path / "sizes-1.json").write_bytes(note.replace(b"361", str(size).encode()))
    fresh = open_checkpoints(tmp_path)
    assert fresh.restore(abstract, shardings)[0] == 1
    fresh.close()
