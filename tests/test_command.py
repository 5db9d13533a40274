"""How commands end: one sentence and the right exit status, whatever stops them and whoever reads."""

import ast
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import tm_jax
from tm_jax.command import run
from tm_jax.errors import InputError

ROOT = Path(__file__).parent.parent


def raising(error):
    def work():
        raise error

    return work


def nothing_there():
    open("/nowhere/at/all")


ENDS = {
    "bad input": (raising(InputError("x is wrong: mend it")), 2, "name: x is wrong: mend it\n"),
    "Ctrl-C": (raising(KeyboardInterrupt()), 130, "name: stopped; it goes on.\n"),
    "no memory": (raising(MemoryError()), 2, "name: the memory of this machine does not suffice.\n"),
    "no file": (nothing_there, 2, "name: /nowhere/at/all cannot be used (No such file or directory): check"),
    "no network": (
        raising(ConnectionResetError(104, "Connection reset by peer")),
        2,
        "Connection reset by peer",
    ),
}


@pytest.mark.parametrize("end", ENDS)
def test_what_stops_a_command_is_one_sentence(end, capsys):
    work, status, sentence = ENDS[end]
    assert run("name", work, stopped="it goes on") == status
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.count("\n") == 1 and sentence in printed.err


def test_statuses_go_through_and_faults_of_ours_do_too():
    assert (run("name", lambda: None), run("name", lambda: 0), run("name", lambda: 1)) == (0, 0, 1)
    with pytest.raises(SystemExit) as end:
        run("name", raising(SystemExit(3)))
    assert end.value.code == 3
    with pytest.raises(ZeroDivisionError):
        run("name", lambda: 1 / 0)


def command(work, shell):
    """Runs work in a process of its own, as the shell's line says; its status and what it complained of."""
    code = f"import sys\nfrom tm_jax.command import run\ndef work():\n    {work}\nsys.exit(run('name', work))"
    line = shell.format(f"{sys.executable} -c {shlex.quote(code)}")
    done = subprocess.run(["bash", "-c", line], cwd=ROOT, capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout, done.stderr


LONG = "[print('x' * 1000) for _ in range(1000)]"


@pytest.mark.parametrize(
    ("work", "shell", "status", "complaint"),
    [
        (LONG, "{} | head -1 >/dev/null; exit ${{PIPESTATUS[0]}}", 141, ""),
        ("print('short')", "{} | true; exit ${{PIPESTATUS[0]}}", None, ""),
        (LONG, "{} >/dev/full", 2, "name: the output or a file cannot be used (No space left on device)"),
        (LONG, "{} >&-", 0, ""),
        ("print('fine'); raise SystemExit(0)", "{} >/dev/full", 2, "No space left on device"),
        ("from tm_jax.errors import InputError; raise InputError('x')", "{} 2>&-", 2, ""),
        ("print('×–→')", "PYTHONIOENCODING=ascii {}", 0, ""),
    ],
)
def test_whoever_reads_the_output(work, shell, status, complaint):
    found, out, err = command(work, shell)
    assert found == status or (status is None and found in (0, 141))
    assert complaint in err and bool(err) == bool(complaint)
    if "2>&-" in shell:
        assert out == ""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_stopped_command_cleans_up(number, tmp_path):
    code = (
        "import signal, sys, time, pathlib\nfrom tm_jax.command import run\n"
        # Whoever runs the tests in the background ignores these signals, and children inherit that.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "signal.signal(signal.SIGHUP, signal.SIG_DFL)\n"
        f"part, ready = pathlib.Path({str(tmp_path / 'part')!r}), pathlib.Path({str(tmp_path / 'ready')!r})\n"
        "def work():\n    part.touch()\n    try:\n        ready.touch()\n        time.sleep(60)\n"
        "    finally:\n        part.unlink()\nsys.exit(run('name', work, stopped='nothing is lost'))"
    )
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stderr=subprocess.PIPE, text=True)
    while not (tmp_path / "ready").exists() and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(number)
    _, told = process.communicate(timeout=30)
    assert process.returncode == 128 + number and told == "name: stopped; nothing is lost.\n"
    assert not (tmp_path / "part").exists()


def test_text_files_are_utf8_whatever_the_locale():
    """A machine whose locale is not UTF-8 reads and writes the same files."""
    unsaid = []
    for path in Path(tm_jax.__file__).parent.rglob("*.py"):
        for call in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(call, ast.Call) and getattr(call.func, "attr", "") in ("read_text", "write_text"):
                said = [keyword.arg for keyword in call.keywords]
                place = 1 if call.func.attr == "write_text" else 0
                if "encoding" not in said and len(call.args) <= place and "/proc" not in ast.unparse(call):
                    unsaid.append(f"{path.name}:{call.lineno}")
    assert unsaid == []
