"""The run's log: means between its lines, pictures, and what counts as finite."""

import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from tm_jax.training.meters import Meters, peak_flops
from tm_jax.training.metrics import RunLog, not_finite
from tm_jax.training.run_files import _records, keep_until

METERS = Meters()


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_line_holds_means_over_the_steps_that_gave_the_figure(tmp_path):
    log = RunLog(tmp_path, name="run", start=0, steps=4, every=2)
    for step, metrics in enumerate(({"loss": 1.0}, {"loss": 3.0, "critic": 5.0}, {"loss": 7.0}), start=1):
        log.step(step, metrics, METERS)
    log.close(3, METERS)
    first, last = lines(tmp_path)
    assert (first["step"], first["loss"], first["critic"]) == (2, 2.0, 5.0)
    assert (last["step"], last["loss"]) == (3, 7.0) and "critic" not in last
    assert first["steps_per_second"] >= 0 and 0 <= first["goodput"] <= 1


def test_all_figures_of_a_step_make_one_line(tmp_path):
    log = RunLog(tmp_path, name="run", start=0, steps=4, every=1)
    log.step(1, {"loss": 1.0}, METERS)
    log.scalars(1, {"preview_error": 0.5})
    log.step(2, {"loss": 2.0}, METERS)
    log.close(2, METERS)
    first, second = lines(tmp_path)
    assert (first["step"], first["loss"], first["preview_error"]) == (1, 1.0, 0.5) and second["step"] == 2


def test_what_is_later_than_a_checkpoint_is_dropped_from_both_logs(tmp_path):
    log = RunLog(tmp_path, name="run", start=0, steps=4, every=1)
    for step in range(1, 5):
        log.step(step, {"loss": float(step)}, METERS)
    log.close(4, METERS)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 1, "los')  # a process was killed inside a line
    board = next(tmp_path.glob("events.*"))
    board.write_bytes(board.read_bytes()[:-5])  # and inside a record
    keep_until(tmp_path, 2)
    assert [line["step"] for line in lines(tmp_path)] == [1, 2]
    steps = [event.step for _, event in _records(board.read_bytes()) if event.summary.value]
    assert set(steps) == {1, 2} and len(steps) == len(lines(tmp_path)[0]) * 2 - 2


def test_speed_waiting_and_goodput():
    meters = Meters()
    meters.waited(0.0)
    meters.step(1000.0, 2e9)
    figures = meters.figures()
    assert figures["tokens_per_second"] > 0 and figures["tflops_per_device"] > 0
    assert figures["data_wait"] == 0 and "mfu" not in figures
    older = Meters(began=meters.began - 1000, productive=500.0)
    assert 0.45 < older.figures()["goodput"] < 0.55
    assert peak_flops("NVIDIA H100 80GB HBM3") == 989.4e12 and peak_flops("TPU v5 lite") == 197e12
    assert peak_flops("TPU v5p") == peak_flops("TPU v5") == 459e12 and peak_flops("cpu") is None


def test_a_resumed_run_goes_on_in_the_same_log(tmp_path):
    for start in (0, 1):
        log = RunLog(tmp_path, name="run", start=start, steps=2, every=1)
        log.step(start + 1, {"loss": float(start)}, METERS)
        log.close(start + 1, METERS)
    assert [line["step"] for line in lines(tmp_path)] == [1, 2]


def test_pictures_and_scalars_reach_tensorboard(tmp_path):
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "grey.png")
    log = RunLog(tmp_path / "run", name="run", start=0, steps=1, every=1)
    log.pictures(1, tmp_path)
    log.step(1, {"loss": 1.0}, METERS)
    log.close(1, METERS)
    written = next((tmp_path / "run").glob("events.*")).read_bytes()
    assert b"grey" in written and b"loss" in written


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_not_finite_names_the_metrics(bad):
    assert not_finite({"loss": bad, "other": 1.0}) == ["loss"]


FULL = """
import resource, sys
from pathlib import Path
from tm_jax.training.meters import Meters
from tm_jax.training.metrics import RunLog

log = RunLog(Path(sys.argv[1]), name="full", start=0, steps=9, every=1)
resource.setrlimit(resource.RLIMIT_FSIZE, (400, resource.RLIM_INFINITY))
try:
    for step in range(1, 9):
        log.step(step, {"loss": 0.5}, Meters())
    log.write()
except OSError as error:
    print(error.strerror)
"""


def test_a_full_disk_is_one_error_and_no_thread_s_traceback(tmp_path):
    made = subprocess.run([sys.executable, "-c", FULL, str(tmp_path)], capture_output=True, text=True)
    assert made.stdout == "File too large\n" and "Traceback" not in made.stderr
    assert json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[0])["step"] == 1
