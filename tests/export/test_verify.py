"""The gate's way out for FP8: what one matrix spoils is found and left in bf16, and nothing else."""

import jax
import numpy as np
import pytest

from tests.streaming.tiny import VAE_CONFIG, _random, models
from tests.torch_runtime import exports
from tm_jax.export.__main__ import main
from tm_jax.export.verify import suspects
from tm_jax.models.dit import DiT
from tm_jax.models.visemes import VisemeEncoder
from tm_jax.pretrained.files import open_checkpoint
from tm_jax.pretrained.weights import save_model


@pytest.fixture
def quick_compiling():
    """XLA without its optimisations: compiling is what this test would spend its time on."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def breaking_student() -> DiT:
    """A student whose hidden unit 0 does nothing, but takes all the range that FP8 has for its neighbours.

    In layer 0 it is never on and its weights are enormous; in layer 1 it is always far on and has no weights.
    """
    student = _random(DiT, exports.HEARING, 1)
    inner, outer = student.blocks.feed_forward.inner, student.blocks.feed_forward.outer
    inner.kernel[...] = inner.kernel[...].at[:, :, 0].set(0)
    inner.bias[...] = inner.bias[...].at[:, 0].set(np.array([0.0, 1e6]))
    outer.kernel[...] = outer.kernel[...].at[0, 0].set(1e5).at[1, 0].set(0)
    return student


def test_what_breaks_under_fp8_stays_in_bf16_and_the_gate_passes(tmp_path, capsys, quick_compiling):
    folder, out = tmp_path / "checkpoint", tmp_path / "export"
    save_model(folder / "student.safetensors", breaking_student(), exports.HEARING, exports.rollout(3, 1))
    save_model(folder / "vae.safetensors", models()[0], VAE_CONFIG)
    visemes = _random(VisemeEncoder, exports.VISEMES, 5)
    save_model(folder / "visemes.safetensors", visemes, exports.VISEMES)
    flags = [str(folder), "--to", str(out), "--parts", str(folder), "--dtype", "fp8", "--chunks", "2"]
    assert main([*flags, "--verify"]) == 0
    told = capsys.readouterr().out
    assert "the gate refused it; in bf16 are now blocks.0.outer, blocks.1.outer\n" in told, told
    assert told.count("refused") == 1 and "parity of PyTorch (fp8) with JAX (f32): passed" in told
    stored = open_checkpoint(out / "transformer").tensors
    kinds = {name: stored[f"{name}.weight"].dtype for name in ("blocks.0.ffn.2", "blocks.1.ffn.2")}
    assert kinds == dict.fromkeys(kinds, "BF16")
    assert stored["blocks.0.ffn.0.weight"].dtype == stored["blocks.1.self_attn.q.weight"].dtype == "F8_E4M3"
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint", "export"}, "nothing is left behind"


def test_suspects_are_those_that_stand_out_or_the_worst_quarter():
    errors = dict.fromkeys("abcdefgh", 0.02)
    assert suspects({**errors, "c": 0.5}) == {"c"}
    assert suspects({name: 0.02 + index / 1e3 for index, name in enumerate("abcdefgh")}) == {"g", "h"}
    assert suspects({"a": 0.1}) == {"a"}
