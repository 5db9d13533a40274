"""The export in PyTorch says what the checkpoint says in JAX, chunk after chunk, past the pinning."""

import jax
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.torch_runtime import exports
from tm_jax.export import gate
from tm_jax.export.write import write_export
from tm_jax.torch_runtime.backend import TorchBackend
from tm_jax.torch_runtime.parts import load_backend, load_dit_stage


@pytest.fixture(autouse=True, scope="module")
def quick_compiling():
    """XLA without its optimisations: compiling is what these tests would spend their time on."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


CHECKPOINTS = {"small": exports.small_checkpoint, "wan": exports.wan_checkpoint}


def rolled_out(kind, folder, chunk, steps, chunks=8):
    """The source, its export's folder, and both rollouts."""
    source = CHECKPOINTS[kind](folder / "checkpoint", chunk, steps)
    write_export(source, folder / "export", "f32")
    reference = gate.reference_backend(source)
    picture, sound = exports.inputs(reference.size)
    box = exports.FACE_BOX if kind == "wan" else None
    run = lambda backend, to_host: gate.roll_out(
        backend, to_host, picture, sound, chunks=chunks, face_box=box
    )
    expected = run(reference, gate.of_jax)
    exported = load_backend(folder / "export", dit_device="cpu")
    return run, exported, expected


# Every size of chunk and number of steps, and each kind of student with both sizes.
@pytest.mark.parametrize(
    ("kind", "chunk", "steps"),
    [("small", 3, 1), ("small", 7, 2), ("small", 3, 4), ("wan", 3, 2), ("wan", 7, 1), ("wan", 7, 4)],
)
def test_eight_chunks_are_those_of_jax(kind, chunk, steps, tmp_path):
    run, exported, expected = rolled_out(kind, tmp_path, chunk, steps)
    made = run(exported, gate.of_torch)
    report = gate.judge(made, expected, exported, "f32")
    assert report.passed, str(report)
    assert max(parity.latents for parity in report.chunks) < 2e-5, "float32's own rounding"
    assert np.ptp(np.stack([chunk.frames[-1] for chunk in made])) > 40, "the comparison sees a picture"


@pytest.fixture(scope="module")
def wan(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wan")
    return (folder, *rolled_out("wan", folder, 3, 2, chunks=3))


def test_the_gate_fails_when_any_one_layer_is_off_by_one_percent(wan, monkeypatch):
    folder, run, exported, expected = wan
    (path,) = (folder / "export" / "transformer").glob("*.safetensors")
    whole, config = load_file(path), exported.config
    encoded = exported.encoded(exports.inputs(exported.size)[0])
    generator, passed = torch.Generator().manual_seed(0), []
    try:
        for name, value in whole.items():
            if name.endswith("bias"):
                continue
            off = torch.randn(value.shape, generator=generator)
            save_file({**whole, name: value + 0.01 * off * value.norm() / off.norm()}, path)
            stage = load_dit_stage(folder / "export", config, "f32", torch.device("cpu"))
            backend = TorchBackend(config, stage, exported.vae, exported.front_end)
            monkeypatch.setattr(backend, "encoded", lambda picture: encoded)
            if gate.judge(run(backend, gate.of_torch), expected, backend, "f32").passed:
                passed.append(name)
    finally:
        save_file(whole, path)
    assert not passed, passed


def test_lower_precisions_keep_their_bounds_and_differ(wan):
    folder, run, _, expected = wan
    for dtype in ("bf16", "fp8"):
        exported = load_backend(folder / "export", dit_device="cpu", dtype=dtype)
        parities = gate.compare(run(exported, gate.of_torch), expected)
        worst = max(parity.latents for parity in parities)
        assert 1e-4 < worst < 5 * gate.BOUNDS[dtype].latents, (dtype, worst)


def test_many_streams_share_one_set_of_weights_and_states_are_used_again(wan):
    _, run, exported, _expected = wan
    before = torch.get_num_threads()
    first = run(exported, gate.of_torch)
    again = run(exported, gate.of_torch)
    for one, other in zip(first, again, strict=True):
        np.testing.assert_array_equal(one.latents, other.latents)
        np.testing.assert_array_equal(one.frames, other.frames)
    assert len(exported.dit._streams._free) == 1, "the second stream took the first one's state"
    assert torch.get_num_threads() == before
