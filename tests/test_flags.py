"""Faulty flags get one sentence with the nearest flag, from both kinds of parser and from the commands."""

import dataclasses
import importlib
import subprocess
import sys
from pathlib import Path
from typing import Literal

import pytest

from tm_jax.errors import InputError
from tm_jax.flags import Parser, nearest, parse


@dataclasses.dataclass(frozen=True)
class Optim:
    lr: float = 1.0
    lr_end: float = 0.0

    def __post_init__(self):
        if self.lr < 0:
            raise ValueError(f"lr {self.lr} must not be negative")


@dataclasses.dataclass(frozen=True)
class Arguments:
    out: Path
    steps: int = 3
    mode: Literal["fast", "slow"] = "fast"
    resume: bool = True
    optim: Optim = Optim()
    critic_optim: Optim = Optim()


FAULTS = {
    "typo": (["--out", "a", "--stepps", "4"], "there is no flag --stepps (did you mean --steps?)"),
    "typo with =": (["--out", "a", "--stepps=4"], "there is no flag --stepps (did you mean --steps?)"),
    "typo of a required flag": (["--outt", "a"], "there is no flag --outt (did you mean --out?)"),
    "typo of a switch": (["--out", "a", "--no-resum"], "--no-resum (did you mean --no-resume?)"),
    "typo of a part": (["--out", "a", "--optm.lr", "1"], "--optm.lr (did you mean --optim.lr?)"),
    "no part named": (["--out", "a", "--lr", "1"], "--lr (did you mean --optim.lr or --critic-optim.lr?)"),
    "two": (["--out", "a", "--zzz", "--modee", "fast"], "--zzz and no --modee (did you mean --mode?)"),
    "nothing like it": (["--out", "a", "--qqqq", "1"], "there is no flag --qqqq; --help lists all flags"),
    "stray word": (["--out", "a", "b"], "nothing takes 'b'"),
    "left out": ([], "--out must be given"),
    "no value": (["--out", "a", "--steps"], "--steps needs a value after it"),
    "no integer": (["--out", "a", "--steps", "1.5"], "--steps: it takes a whole number, not '1.5'"),
    "no number": (["--out", "a", "--optim.lr", "x"], "--optim.lr: it takes a number, not 'x'"),
    "no such choice": (["--out", "a", "--mode", "fsat"], "--mode fsat: it takes one of fast, slow"),
    "refused by the config": (["--out", "a", "--optim.lr", "-1"], "lr -1.0 must not be negative"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_get_one_sentence_and_print_nothing(fault, capsys):
    args, sentence = FAULTS[fault]
    with pytest.raises(InputError) as error:
        parse(Arguments, prog="it", args=args)
    assert sentence in str(error.value) and "\n" not in str(error.value)
    assert capsys.readouterr() == ("", "")


def test_good_flags_override_the_default():
    default = Arguments(Path("a"), optim=Optim(lr=2.0))
    given = parse(Arguments, prog="it", default=default, args=["--steps", "5", "--optim.lr-end", "1"])
    assert given == Arguments(Path("a"), steps=5, optim=Optim(lr=2.0, lr_end=1.0))


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (["run", "--sizze", "4"], "there is no flag --sizze (did you mean --size?)"),
        (["run", "--siz", "4"], "there is no flag --siz (did you mean --size?)"),
        (["run", "--size", "x"], "invalid int value: 'x'"),
        (["rnu"], "invalid choice: 'rnu'"),
    ],
)
def test_argparse_commands_answer_alike(args, sentence, capsys):
    parser = Parser(prog="it")
    parser.add_subparsers(required=True).add_parser("run").add_argument("--size", type=int)
    with pytest.raises(InputError) as error:
        parser.parse_args(args)
    assert sentence in str(error.value) and capsys.readouterr() == ("", "")


def test_the_nearest_of_underscored_flags():
    assert nearest("--run_dri", ["--run-dir", "--resume"]) == ["--run-dir"]


@pytest.mark.parametrize(
    ("command", "typo", "meant"),
    [
        (["train", "tiny_vae"], "--loop.stepz", "--loop.steps"),
        (["tm_jax.evaluation.__main__"], "--clisp", "--clips"),
        (["tm_jax.data.puppets.__main__"], "--identites", "--identities"),
        (["tm_jax.bench.__main__", "loading"], "--procesess", "--processes"),
        (["tm_jax.training.release"], "--studnet", "--student"),
    ],
)
def test_every_command_says_one_sentence_and_exits_with_2(command, typo, meant, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [*command, typo, "1"])
    assert importlib.import_module(command[0]).main() == 2
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.count("\n") == 1
    assert f"there is no flag {typo} (did you mean {meant}?)" in printed.err


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        (["train", "tiny_vae", "--loop.seed", "-1"], "seed -1: give 0 to 4294967295"),
        (
            ["train", "tiny_teacher", "--model.heads", "0"],
            "width, ffn, heads, layers, in_channels and",
        ),
        (["tm_jax.evaluation.__main__", "--batch", "0"], "--batch must be at least 1"),
        (["tm_jax.evaluation.__main__", "--seed", "-1"], "must not be negative"),
        (["tm_jax.data.puppets.__main__", "--seed", "-1"], "--seed -1 --clip 0 --identities 9: give"),
        (["tm_jax.data.puppets.__main__", "--identities", "0"], "at least one identity"),
        (["tm_jax.data.puppets.__main__", "--size", "33"], "--size 33 is odd"),
    ],
)
def test_numbers_that_cannot_be_are_told_before_anything_is_computed(command, sentence, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", command)
    assert importlib.import_module(command[0]).main() == 2
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.count("\n") == 1 and sentence in printed.err


def test_reading_flags_imports_no_jax():
    code = "import sys, infer, tm_jax.flags; assert 'jax' not in sys.modules"
    root = Path(__file__).parent.parent
    assert subprocess.run([sys.executable, "-c", code], cwd=root, timeout=120).returncode == 0


@pytest.mark.parametrize(
    "command",
    [
        ["train", "--help"],
        ["train", "tiny_student", "--help"],
        ["infer", "--help"],
        ["tm_jax.data.prepare.__main__", "--help"],
        ["tm_jax.evaluation.__main__", "--help"],
        ["tm_jax.data.puppets.__main__", "--help"],
        ["tm_jax.pretrained.__main__", "--help"],
        ["tm_jax.training.release", "--help"],
        ["tm_jax.bench.__main__", "loading", "--help"],
    ],
    ids=" ".join,
)
def test_help_fits_a_narrow_terminal(command, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", command)
    monkeypatch.setenv("COLUMNS", "60")
    with pytest.raises(SystemExit) as ended:
        importlib.import_module(command[0]).main()
    printed = capsys.readouterr().out
    assert ended.value.code == 0 and "--help" in printed
    assert [line for line in printed.splitlines() if len(line) > 60] == []
