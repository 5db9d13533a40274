"""Processes that find each other, and that miss one which is dead."""

import os
import socket
import subprocess
import sys
import threading
import time

import pytest

from tm_jax.errors import InputError
from tm_jax.training.cluster import RESTART, ClusterConfig, SignsOfLife, join, several_hosts


def pair(folder, timeout=0.5, sessions=(7, 7)):
    """Two processes' signs in this one, and the sentences that the first was told."""
    told, heard = [], threading.Event()

    def note(sentence):
        told.append(sentence)
        heard.set()

    make = lambda process, on_death: SignsOfLife(
        folder, timeout, process=process, processes=2, session=sessions[process], on_death=on_death
    )
    return make(0, note), make(1, lambda _: None), told, heard


def test_a_silent_process_is_named_with_its_host_and_last_step(tmp_path):
    first, second, told, heard = pair(tmp_path)
    second.step = 41
    time.sleep(0.3)
    assert first.dead() is None
    second._over.set()  # as if it had been killed: no word of farewell
    assert heard.wait(5)
    first.close()
    who = f"process 1 on {socket.gethostname()} (pid {os.getpid()}) has given no sign of life"
    assert who in told[0] and "since step 41" in told[0] and "\n" not in told[0]


def test_a_process_that_ends_with_a_fault_takes_the_others_along(tmp_path):
    first, second, told, heard = pair(tmp_path, timeout=60.0)
    first._over.set()
    second.close("the clips are damaged")
    assert "ended at step 0: the clips are damaged" in first.dead()
    first.close()
    assert not told and not heard.is_set()


def test_a_process_that_is_done_is_not_missed_and_older_sessions_are_not_read(tmp_path):
    first, second, told, _ = pair(tmp_path)
    second.close()
    time.sleep(1.0)
    first.close()
    assert not told
    ended, other, told, heard = pair(tmp_path / "other", sessions=(8, 7))
    other.close("an old fault")
    assert heard.wait(5) and "process 1 has given no sign of life" in told[0] and "old fault" not in told[0]
    ended.close()


ABORTED = """
import os, sys
from pathlib import Path
from tm_jax.training.cluster import SignsOfLife, _before_an_abort, end_process
life = SignsOfLife(Path(sys.argv[1]), 5.0, process=0, processes=2, on_death=print)
with _before_an_abort(lambda: end_process(life.explain("see above"))):
    os.abort()
"""
LEAVES_ALONE = """
import os, jax
from tm_jax.errors import InputError
from tm_jax.training.cluster import leaving
jax.distributed.is_initialized, jax.distributed.shutdown = lambda: True, os.abort
with leaving():
    raise InputError("the clips are damaged")
"""


def test_a_process_that_jax_aborts_says_who_is_dead(tmp_path):
    other = SignsOfLife(tmp_path, 60.0, process=1, processes=2)
    other.step = 3
    other.close("out of memory")
    found = subprocess.run([sys.executable, "-c", ABORTED, tmp_path], capture_output=True, text=True)
    assert found.returncode == RESTART, found.stderr
    assert f"process 1 on {socket.gethostname()} (pid {os.getpid()}) ended at step 3: out of" in found.stderr


def test_a_process_that_nobody_waits_for_says_why_it_ended():
    found = subprocess.run([sys.executable, "-c", LEAVES_ALONE], capture_output=True, text=True)
    assert found.returncode == 2 and "train.py: the clips are damaged" in found.stderr


@pytest.mark.parametrize(
    ("environment", "several"),
    [
        ({}, False),
        ({"SLURM_NTASKS": "8"}, False),
        ({"SLURM_NTASKS": "8", "SLURM_STEP_NODELIST": "gpu[1-8]"}, True),
        ({"SLURM_NTASKS": "1", "SLURM_STEP_NODELIST": "gpu1"}, False),
        ({"OMPI_COMM_WORLD_SIZE": "4"}, True),
        ({"TPU_WORKER_HOSTNAMES": "a,b,c,d"}, True),
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, False),
        ({"MEGASCALE_NUM_SLICES": "2"}, True),
        ({"JOB_COMPLETION_INDEX": "3", "JAX_COORDINATOR_ADDRESS": "train-0"}, True),
    ],
)
def test_the_environment_tells_whether_there_are_others(environment, several):
    assert several_hosts(environment) is several


def test_half_an_address_is_refused_and_one_process_joins_nothing():
    with pytest.raises(ValueError, match="give coordinator, processes and process together"):
        ClusterConfig(coordinator="host:1")
    with pytest.raises(ValueError, match="process 2 is not one of 0 … 1"):
        ClusterConfig("host:1", processes=2, process=2)
    join(ClusterConfig())


def test_processes_that_do_not_come_are_one_sentence(monkeypatch):
    def nobody(**_):
        raise RuntimeError("DEADLINE_EXCEEDED: Barrier timed out\nmany more lines")

    monkeypatch.setattr("jax.distributed.initialize", nobody)
    with pytest.raises(InputError, match="did not find each other in 120 s") as error:
        join(ClusterConfig("host:1", processes=2, process=0))
    assert "\n" not in str(error.value)
