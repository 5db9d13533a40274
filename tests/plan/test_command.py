"""The command without a compiler: its table and JSON, and one sentence for whatever is wrong."""

import json

import pytest

from tm_jax.plan import compiling, devices
from tm_jax.plan.__main__ import main
from tm_jax.plan.compiling import Compiled
from tm_jax.plan.hardware import topology


def run(capsys, *argv):
    status = main(list(argv))
    return status, *capsys.readouterr()


def test_sizes_and_rates_alone(capsys, tmp_path):
    path = tmp_path / "plan.json"
    flags = "--topology v5p:4x4x4 --mesh fsdp=64 --no-compile --json".split()
    status, out, err = run(capsys, "wan14b_teacher", "wan14b_student", *flags, str(path))
    assert status == 0 and not err
    assert "64 chips, data 1 × fsdp 64 × context 1 × tensor 1; batch 64 clips" in out
    assert "student_long" in out and "chip-hours" in out and "together" in out
    teacher, student, stream = json.loads(path.read_text())
    assert teacher["fits"] is None and teacher["time"]["update"]["mfu"] > 0.45
    assert stream["hours"] is None and 10 < stream["fps"] < 100
    assert student["mesh"] == {"data": 1, "fsdp": 64, "context": 1, "tensor": 1}


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["wan14b_teacher"], "give either --topology or --smallest"),
        (["wan14b_taecher", "--topology", "v5p:4x4x4"], "did you mean wan14b_teacher"),
        (["wan14b_teacher", "--topologie", "v5p:4x4x4"], "did you mean --topology?"),
        (["wan14b_teacher", "--topology", "v5p:4x4x4", "--model.remta", "full"], "--model.remat"),
        (["wan14b_teacher", "--topology", "v5p:4x4x4", "--mesh", "fsdp=5"], "does not fill 64 devices"),
        (["tiny_vae", "--topology", "v5p:4x4x4"], "tiny_vae is no training of a transformer"),
        (["wan14b_teacher", "--topology", "v5p:4x4x4", "--programs", "gap"], "no program called gap"),
        (["wan14b_teacher", "--topology", "v5p:4x4x4", "--programs", "chunk"], "no program called chunk"),
        (["wan14b_teacher", "--smallest", "v7"], "it takes one of v4"),
        (["wan14b_teacher", "--topology", "v5p:4x4x4", "--clips", "0"], "at least one clip"),
    ],
)  # fmt: skip
def test_bad_input_is_one_sentence(argv, told, capsys):
    status, out, err = run(capsys, *argv)
    assert status == 2 and told in err and err.count("\n") == 1 and not out


@pytest.mark.parametrize(("where", "package"), [("v5p:4x4x4", "libtpu"), ("gpu:h100:1x8", "jax-cuda13-pjrt")])
def test_a_missing_compiler_says_what_to_install(where, package, capsys, monkeypatch):
    monkeypatch.setattr(devices.importlib.util, "find_spec", lambda name: None)
    status, _, err = run(capsys, "wan14b_teacher", "--topology", where)
    assert status == 2 and package in err and "pip install" in err and err.count("\n") == 1


@pytest.fixture
def compiler(monkeypatch):
    """In the compiler's place, a table: peak bytes by program."""
    asked = []

    def install(peaks):
        def compile_program(experiment, where, program, *, said):
            asked.append((where, program))
            peak = peaks(experiment, program)
            return Compiled(
                program, peak <= topology(where).chip.hbm, peak, 1e9, 0.0, {"parameters": 1e9}, 1.0, 1.0, 1.0
            )

        monkeypatch.setattr("tm_jax.plan.planning.compile_program", compile_program)
        monkeypatch.setattr("tm_jax.plan.planning.check_installed", lambda where: None)

    install.asked = asked
    return install


def test_what_does_not_fit_is_said_and_by_how_much(compiler, capsys):
    compiler(lambda experiment, program: 120e9 if program == "gap" else 50e9)
    status, out, _ = run(capsys, "wan14b_student", "--topology", "v5p:4x4x4")
    assert status == 1
    assert "17.2 too much" in out and "does not fit: at most 120.0 of 102.8 GB, in gap" in out
    assert "52.8 free" in out


def test_the_smallest_slice_is_the_first_that_fits(compiler, capsys):
    size = lambda experiment: (
        experiment.loop.mesh.fsdp * experiment.loop.mesh.context * experiment.loop.mesh.tensor
    )
    compiler(lambda experiment, program: 2000e9 / size(experiment))
    status, out, _ = run(capsys, "wan14b_student", "--smallest", "gpu:h100")
    assert status == 0
    # 2,000 GB in all: 25 devices of 80 GB.
    assert "everything fits" in out and compiler.asked[-1][0] == "gpu:h100:4x8"
    assert not any(where in ("gpu:h100:1x1", "gpu:h100:1x2") for where, _ in compiler.asked)


def test_named_programs_alone_are_compiled(compiler, capsys):
    compiler(lambda experiment, program: 50e9)
    assert run(capsys, "wan14b_student", "--topology", "v5p:4x4x4", "--programs", "critic,chunk")[0] == 0
    assert run(capsys, "wan14b_student", "--smallest", "v5p", "--programs", "student_long")[0] == 0
    assert [program for _, program in compiler.asked] == ["critic", "chunk", "student_long"]


def test_a_search_compiles_the_fastest_that_may_fit(compiler, capsys):
    compiler(lambda experiment, program: 200e9 if experiment.loop.mesh.tensor == 1 else 50e9)
    status, out, _ = run(capsys, "wan14b_teacher", "--topology", "v5p:4x4x4", "--search", "--best", "6")
    assert status == 0
    lines = [line for line in out.splitlines() if line.startswith("wan14b_teacher on v5p:4x4x4 ")]
    assert len(lines) == 6
    assert "tensor" in out.split("everything fits")[0].splitlines()[-1] or "tensor 2" in out


def test_the_compiler_s_complaint_says_how_much_it_wanted():
    complaint = (
        "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space hbm. "
        "Used 16.70G of 15.75G hbm. Exceeded hbm capacity by 973.37M."
    )
    assert compiling.over(complaint) == pytest.approx(16.7 * 2**30)
    assert compiling.over("INTERNAL: something else") is None
