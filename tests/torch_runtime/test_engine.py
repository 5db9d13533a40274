"""The PyTorch engine behind the shared surface, and the small parts it is made of."""

import dataclasses
import io
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch

from tests.streaming.embedding import talk
from tests.test_imports import ROOT
from tests.torch_runtime import exports
from tm_jax.bench.__main__ import main as bench
from tm_jax.export.write import write_export
from tm_jax.nn.masks import positions
from tm_jax.streaming.statistics import Statistics
from tm_jax.torch_runtime import devices, fp8, graphs
from tm_jax.torch_runtime.cache import place
from tm_jax.torch_runtime.engine import load_engine
from tm_jax.torch_runtime.layers import Linear
from tm_jax.torch_runtime.random_parts import CONFIGS, random_backend
from tm_jax.torch_runtime.vae import patchify, unpatchify


@pytest.fixture(scope="module")
def export(tmp_path_factory):
    folder = tmp_path_factory.mktemp("engine")
    write_export(exports.small_checkpoint(folder / "checkpoint"), folder / "export", "f32")
    return folder / "export"


@pytest.fixture(scope="module")
def engine(export):
    made = load_engine(export, dit_device="cpu")
    made.warm_up()
    return made


PICTURE, SOUND = exports.inputs((16, 16))


def test_same_seed_same_video_whatever_the_blocks(engine):
    frames = lambda sound, seed: np.concatenate([c.frames for c in engine.stream(PICTURE, sound, seed=seed)])
    whole = frames([SOUND], 3)
    np.testing.assert_array_equal(whole, frames(np.array_split(SOUND, 37), 3))
    assert (whole != frames([SOUND], 4)).any() and len(whole) == 75


def test_sessions_at_the_same_time_do_not_mix(engine):
    alone = [[c.frames for c in engine.stream(PICTURE, [SOUND], seed=seed)] for seed in range(3)]
    made: dict[int, list] = {}

    def run(seed):
        made[seed] = [c.frames for c in engine.stream(PICTURE, [SOUND], seed=seed)]

    threads = [threading.Thread(target=run, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for seed in range(3):
        np.testing.assert_array_equal(np.concatenate(made[seed]), np.concatenate(alone[seed]))


def test_a_closed_session_leaves_no_thread_and_its_state_to_the_next(engine):
    for _ in range(3):
        session = engine.session(PICTURE)
        session.push(SOUND)
        next(session.pieces())
        session.close()
    assert not [t for t in threading.enumerate() if t.name in ("tm_jax-dit", "tm_jax-vae")]
    del session
    assert len(engine.backend.dit._streams._free) <= 3


def test_what_a_stream_holds_stays_where_it_is_for_a_minute_of_chunks(engine):
    state = engine.backend.begin(engine.backend.reference(PICTURE))
    held = sum(cache.nbytes for cache in state.stream.content.caches)
    addresses = [cache.keys.data_ptr() for cache in state.stream.content.caches]
    sound, statistics = np.tile(SOUND, 20), Statistics()
    for piece in engine.stream(PICTURE, [sound]):
        statistics.add(piece)
    assert statistics.chunks == 126
    assert sum(cache.nbytes for cache in state.stream.content.caches) == held
    assert [cache.keys.data_ptr() for cache in state.stream.content.caches] == addresses


def test_the_example_of_the_documentation_runs_as_printed(engine):
    shown = []
    microphone = [(32767 * block).astype(np.int16) for block in np.array_split(SOUND, 10)]
    microphone.insert(3, np.zeros((4, 4), np.int16))  # a bad block is told and left out
    printed, sys.stdout = sys.stdout, io.StringIO()
    try:
        talk(engine, PICTURE, microphone, lambda frames, audio: shown.append((frames, audio)))
        told = sys.stdout.getvalue()
    finally:
        sys.stdout = printed
    assert sum(len(frames) for frames, _ in shown) == 75 and "block" in told


def test_the_documentation_prints_the_example_that_is_tested():
    source = (ROOT / "tests" / "streaming" / "embedding.py").read_text()
    assert source.split("\n", 2)[2].strip() in (ROOT / "docs" / "serving.md").read_text()


def test_places_are_the_masks_positions():
    for frames in (3, 7):
        for chunk in range(12):
            here = place(chunk, frames, 21)
            own, following = (
                int(positions(index, role, chunk=frames, trained_frames=21)[0])
                for index, role in ((chunk, "current"), (chunk + 1, "previous"))
            )
            assert here.start == own and here.later == (0 if chunk == 0 else following)
            before = place(chunk - 1, frames, 21).slot if chunk else None
            assert before is None or ((chunk < 2 or before != 0) and here.slot != before)
            assert here.slots == min(chunk + 1, 3)
    with pytest.raises(ValueError, match="do not hold three chunks"):
        place(0, 8, 21)


def test_one_compilation_serves_all_blocks_and_both_slots(export):
    """The compiler's front half alone: what it would generate code for, it is asked for once.

    In a process of its own, because the type checks of these tests would be compiled too.
    """
    code = f"""
import numpy as np, torch
from pathlib import Path
from tm_jax.streaming.engine import StreamEngine
from tm_jax.torch_runtime.parts import load_backend
torch.backends.mkldnn.is_available = lambda: False
graphs = []
whole = torch.compile
def counting(graph, inputs):
    graphs.append(graph)
    return graph.forward
torch.compile = lambda f, **options: whole(f, backend=counting, **options)
from tm_jax.torch_runtime import denoising
backend = load_backend(Path({str(export)!r}), dit_device="cpu")
backend.dit.compiled = True
backend = backend.with_rollout(backend.rollout)
given = np.load({str(export.parent / "inputs.npz")!r})
frames = [c.frames for c in StreamEngine(backend).stream(given["picture"], [given["sound"]], seed=3)]
np.save({str(export.parent / "compiled.npy")!r}, np.concatenate(frames))
assert len(graphs) == 4, len(graphs)
"""
    np.savez(export.parent / "inputs.npz", picture=PICTURE, sound=SOUND)
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    plain = [c.frames for c in load_engine(export, dit_device="cpu").stream(PICTURE, [SOUND], seed=3)]
    apart = np.load(export.parent / "compiled.npy").astype(int) - np.concatenate(plain)
    assert np.abs(apart).max() <= 1


def test_a_graph_is_captured_once_and_replayed(monkeypatch):
    """On a machine without a GPU the library's part is played by a fake that records."""
    ran, replayed = [], []

    class FakeGraph:
        def replay(self):
            replayed.append(1)

    class FakeCapture:
        def __init__(self, graph, capture_error_mode):
            assert capture_error_mode == "thread_local"

        def __enter__(self):
            ran.append("capture")

        def __exit__(self, *_):
            pass

    monkeypatch.setattr(graphs.torch.cuda, "CUDAGraph", FakeGraph)
    monkeypatch.setattr(graphs.torch.cuda, "graph", FakeCapture)
    call = graphs.Replayed(lambda: ran.append("run"), torch.device("cuda:0"))
    for _ in range(3):
        call()
    assert ran == ["run", "capture", "run"] and len(replayed) == 2


def test_quantised_rows_are_near_and_a_matrix_in_fp8_says_the_same():
    sizes = torch.tensor([[1e-3], [1], [9], [1e3], [0]])
    x = torch.randn(5, 64, generator=torch.Generator().manual_seed(0)) * sizes
    given, scale = fp8.quantise_rows(x)
    back = given.float() * scale
    assert ((back - x).norm(dim=1) <= 0.04 * x.norm(dim=1) + 1e-12).all()
    linear = Linear(64, 32, dtype=torch.bfloat16)
    torch.nn.init.normal_(linear.weight)
    torch.nn.init.normal_(linear.bias)
    token = torch.randn(7, 64).bfloat16()
    plain = linear(token).float()
    weight, scales = fp8.quantise_rows(linear.weight)
    linear.quantise(weight, scales.flatten())
    assert 1e-3 < ((linear(token).float() - plain).norm() / plain.norm()) < 0.06


def test_patches_go_there_and_back():
    video = torch.arange(2 * 8 * 8 * 3.0).view(2, 8, 8, 3)
    assert torch.equal(unpatchify(patchify(video, 4), 4), video) and patchify(video, 4).shape == (2, 2, 2, 48)


def test_the_full_size_fits_one_gpu_by_the_count():
    """18 B: 13.2 B parameters a step, 4.2 B once a stream; FP8 beside its VAE within 80 GB."""
    config = CONFIGS["wan14b"]
    assert 34e9 < devices.student_bytes(config.student, "bf16") < 36e9
    assert 21e9 < devices.student_bytes(config.student, "fp8") < 23e9
    stream = devices.stream_bytes(config, "bf16")
    assert 15e9 < stream < 16.5e9
    dit, vae = devices.working_bytes(config, "fp8")
    assert devices.student_bytes(config.student, "fp8") + stream + dit + vae < 60e9


def test_random_weights_stream_and_the_benchmark_reports(tmp_path, capsys):
    out = tmp_path / "serving"
    flags = ["--random", "tiny", "--chunks", "3", "--no-live", "--no-decode", "--out", str(out)]
    assert bench(["serving", *flags]) == 0
    told = capsys.readouterr().out
    assert "| f32 | 3 | 2 | cpu | left out |" in told
    assert {path.name for path in out.iterdir()} == {"serving.json", "serving.txt", "timeline.png"}
    for more, sentence in [
        (["--folder", str(tmp_path)], "Give either an export"),
        (["--chunks", "1"], "--chunks must be at least 3"),
        (["--dit-devices", "cuda:3"], "--dit-devices cuda:3: this machine has cpu"),
    ]:
        assert bench(["serving", *flags, *more]) == 2
        assert sentence in capsys.readouterr().err


def test_another_rollout_shares_the_weights():
    cpu, config = torch.device("cpu"), CONFIGS["tiny"]
    backend = random_backend("tiny", config.rollout, "f32", cpu, cpu)
    other = backend.with_rollout(dataclasses.replace(config.rollout, chunk=7, steps=1))
    assert other.dit.student is backend.dit.student and other.rollout.chunk == 7
