"""Kill −9 at random moments of a distillation by two processes, over and over; it must end as if nothing was.

    python -m tests.training.kill_at_random FOLDER [--kills 20] [--seed 0]

Every kill takes both processes, or one: then the other must end by itself and name it.  Checkpoints are
written after every step, and every second kill waits for a save to begin.  At the end the weights must equal
those of a run that nobody disturbed, bit for bit, and the log must hold every step once.  A disturbed run
that is in FOLDER already is gone on with.
"""

import argparse
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from tests.training import tiny_distillation as tiny
from tm_jax.pretrained.runs import saved_steps
from tm_jax.training.cluster import RESTART

PORT = 23500


def start(folder: Path, run: Path, steps: int, attempt: int) -> list[subprocess.Popen]:
    """Two processes of four devices each."""
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": "4",
        "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "0",
    }
    found = []
    for process in range(2):
        flags = {
            "loop.run-dir": run,
            "loop.steps": steps,
            "loop.checkpoint-every": 1,
            "rollout.steps": 1,
            "loop.cluster.coordinator": f"127.0.0.1:{PORT + attempt}",
            "loop.cluster.processes": 2,
            "loop.cluster.process": process,
            "loop.cluster.timeout": 40,
        }
        words = [word for name, value in flags.items() for word in (f"--{name}", str(value))]
        log = (folder / f"process-{process}.log").open("ab")
        found.append(
            subprocess.Popen(
                [sys.executable, "-m", "tests.training.tiny_distillation", str(folder / "world"), *words],
                env=environment,
                stdout=log,
                stderr=log,
            )
        )
    return found


def finish(processes: list[subprocess.Popen], seconds: float) -> list[int]:
    """Exit statuses; a process that hangs is a fault of its own."""
    deadline = time.monotonic() + seconds
    return [process.wait(max(1.0, deadline - time.monotonic())) for process in processes]


def saving(run: Path) -> bool:
    """Whether a checkpoint is being written."""
    folder = run / "checkpoints"
    return folder.exists() and any("tmp" in path.name for path in folder.iterdir())


def weights(run: Path) -> dict[str, bytes]:
    """The bytes of every slice."""
    return {path.name: path.read_bytes() for path in sorted(run.glob("weights.step-*.safetensors"))}


def main() -> int:
    """Kills, restarts and compares; prints a line for each; returns 0 if all is well."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    folder, draw = given.folder, random.Random(given.seed)
    if not (folder / "world").exists():
        tiny.prepare(folder / "world")
    attempt = 0
    quiet, run = folder / "undisturbed", folder / "killed"
    if not weights(quiet):
        assert finish(start(folder, quiet, given.steps, attempt), 3600) == [0, 0], (
            "the undisturbed run failed"
        )
    print(f"undisturbed: {given.steps} steps", flush=True)
    kills = 0
    while True:
        attempt += 1
        processes = start(folder, run, given.steps, attempt)
        before = max(saved_steps(run / "checkpoints"), default=0)
        if kills >= given.kills:
            assert finish(processes, 3600) == [0, 0], "the last restart failed"
            break
        # From the moment when the steps begin; a step and its checkpoint take about a second here.
        while max(saved_steps(run / "checkpoints"), default=0) == before and all(
            process.poll() is None for process in processes
        ):
            time.sleep(0.05)
        time.sleep(draw.uniform(0.0, 2.0))
        while kills % 2 and not saving(run) and all(process.poll() is None for process in processes):
            time.sleep(0.002)
        time.sleep(draw.uniform(0.0, 0.1))
        if any(process.poll() is not None for process in processes):
            statuses = finish(processes, 600)
            assert statuses == [0, 0], f"ended with {statuses} before it was killed"
            print("the run ended before it was killed: once more from the beginning", flush=True)
            shutil.rmtree(run)
            continue
        victims = draw.choice(([0, 1], [0], [1]))
        for victim in victims:
            processes[victim].send_signal(signal.SIGKILL)
        inside = saving(run)
        statuses = finish(processes, 300)
        kills += 1
        for index in {0, 1} - set(victims):
            who = f"process {victims[0]} on {socket.gethostname()} (pid {processes[victims[0]].pid})"
            named = who in (folder / f"process-{index}.log").read_text(errors="replace")
            assert statuses[index] == RESTART and named, f"{statuses[index]}; named: {named}"
        step, where = max(saved_steps(run / "checkpoints"), default=0), ", inside a save" if inside else ""
        who = " and ".join(map(str, victims))
        print(f"kill {kills}: process {who} after step {step}{where}; {statuses}", flush=True)
    assert weights(run) == weights(quiet), "the weights differ from the undisturbed run's"
    lines = [[json.loads(line) for line in (one / "metrics.jsonl").open()] for one in (run, quiet)]
    assert [line["step"] for line in lines[0]] == list(range(1, given.steps + 1)), "a step is logged twice"
    for ours, theirs in zip(*lines, strict=True):
        assert all(ours[name] == theirs[name] for name in theirs if "loss" in name)
    print(f"{kills} kills: weights equal bit for bit, every step logged once", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
