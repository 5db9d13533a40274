"""The benchmarks of the engines: they run at small sizes, and their bounds tell good from bad."""

import dataclasses

import numpy as np
import pytest

from tests.torch_runtime import exports
from tm_jax.bench import precisions, soak, stages
from tm_jax.bench.__main__ import main as bench
from tm_jax.data.puppets.world import PuppetWorld
from tm_jax.evaluation.drift import Minute
from tm_jax.export.write import write_export


@pytest.fixture(scope="module")
def export(tmp_path_factory):
    folder = tmp_path_factory.mktemp("engines")
    write_export(exports.small_checkpoint(folder / "checkpoint"), folder / "export", "f32")
    return folder / "export"


def test_a_soak_reports_every_tenth(export, capsys):
    bench(["soak", "--backend", "torch", "--weights", str(export), "--chunks", "25"])
    rows = [line.split("|")[1:-1] for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert [int(row[0]) for row in rows[1:]] == [2, 5, 7, 10, 12, 15, 17, 20, 22, 25]
    assert all(float(row[1]) > 50 and int(row[2]) > 1 and float(row[3]) >= 0 for row in rows[1:])
    assert bench(["soak", "--chunks", "9"]) == 2


def test_a_soak_fails_where_memory_or_threads_go_on_growing():
    def report(mebibytes, threads):
        pairs = zip(mebibytes, threads, strict=True)
        return soak.Report("torch", tuple(soak.Tenth(i, float(m), t, 1.0) for i, (m, t) in enumerate(pairs)))

    flat, steady = [400, 420, 430, 430, 430, 430, 431, 431, 431, 432], [8] * 10
    assert report(flat, steady).within_bound
    assert not report([400 + 5 * i for i in range(10)], steady).within_bound
    assert not report(flat, [8] * 9 + [9]).within_bound


def test_stages_are_timed_alone_and_together(export, capsys):
    status = bench(["stages", "--folder", str(export), "--chunks", "2", "--rounds", "1"])
    told = capsys.readouterr().out
    assert status in (0, 1) and "DiT alone" in told and "the bound of 1.25" in told
    report = stages.Report(dit=(0.1, 0.1, 0.1), vae=(0.2, 0.2, 0.2), both=(0.24, 0.5, 0.2))
    assert report.ratio == pytest.approx(1.2) and report.within_bound
    assert not dataclasses.replace(report, both=(0.3, 0.3, 0.2)).within_bound


def test_a_precision_is_judged_on_clips_and_at_the_end():
    minute = lambda sync, identity: Minute(1500, identity, (1.0, 2.0, 3.0), 4.0, 1.0, 1.0, sync)
    whole = precisions.Quality("f32", 0.94, 0.070, minute(0.95, 0.070), minute(0.94, 0.080))
    changed = lambda **fields: dataclasses.replace(whole, name="fp8", **fields).keeps_up_with(whole)
    assert changed(lip_sync=0.915, identity=0.073) and changed(last=minute(0.92, 0.083))
    assert not changed(lip_sync=0.90) and not changed(identity=0.074)
    assert not changed(last=minute(0.90, 0.080)) and not changed(last=minute(0.94, 0.09))
    assert not changed(lip_sync=float("nan"))
    assert "WORSE" in str(precisions.Report((whole, dataclasses.replace(whole, name="b", identity=0.1))))


def test_characters_listen_where_their_clips_do():
    track = PuppetWorld(seed=0, split="heldout", size=128).truth(1, 8.0)
    frames = np.arange(len(track.mode))
    listens = np.zeros(len(frames), bool)
    for begin, end in precisions.listening(track):
        listens |= (frames / 25 >= begin - 1e-9) & (frames / 25 < end - 1e-9)
    np.testing.assert_array_equal(listens, track.mode == 0)
