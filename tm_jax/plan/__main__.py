"""Plan a training before renting the machines: memory, work and time on a named topology, with none here.

    python -m tm_jax.plan wan14b_teacher wan14b_student --topology v5p:4x4x4
    python -m tm_jax.plan wan14b_student --topology gpu:h100:8x8 --mesh fsdp=32,context=2 --json plan.json
    python -m tm_jax.plan wan14b_student --topology v6e:16x16 --search
    python -m tm_jax.plan wan14b_student --smallest v5p

Flags of a preset (--model.remat …, --loop.batch-size …) hold for all presets named.
"""

import argparse
import difflib
import importlib
import json
import sys
from pathlib import Path
from typing import Any

from tm_jax.command import run
from tm_jax.config import load
from tm_jax.errors import InputError
from tm_jax.flags import Parser


def arguments() -> Parser:
    """The command's own flags."""
    parser = Parser(
        prog="python -m tm_jax.plan",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "presets", nargs="+", metavar="PRESET", help="names of presets, as train.py takes them"
    )
    parser.add_argument(
        "--topology", help="such as v5p:4x4x4, v5e:16x16*2 (two slices), gpu:h100:8x8 (nodes × GPUs)"
    )
    parser.add_argument("--mesh", help="such as data=1,fsdp=32,context=1,tensor=2; the preset's if not given")
    parser.add_argument(
        "--clips", type=int, default=1, help="clips on a device at a time; the batch is the preset's"
    )
    parser.add_argument(
        "--programs",
        help="which programs to compile, with commas; all if not given, "
        "with --search and --smallest those that take the most memory",
    )
    parser.add_argument("--no-compile", action="store_true", help="sizes and rates alone, in seconds")
    parser.add_argument(
        "--search", action="store_true", help="try meshes, remat and parts; compile the best that may fit"
    )
    parser.add_argument(
        "--smallest", metavar="KIND", help="find the smallest slice of v5p, v6e, gpu:h100, … that fits"
    )
    parser.add_argument("--best", type=int, default=3, help="candidates that --search and --smallest compile")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything as JSON too")
    return parser


class Progress:
    """What is being compiled, on one line of a terminal; elsewhere a line for each program."""

    def __init__(self) -> None:
        self.last = ""

    def __call__(self, line: str) -> None:
        about, terminal = line.split(":")[0], sys.stderr.isatty()
        if terminal or about != self.last:
            print(f"{line:<78}", end="\r" if terminal else "\n", file=sys.stderr, flush=True)
        self.last = about


def _refuse_mistyped(overrides: list[str], parser: Parser) -> None:
    """Flags that no preset has, but that are nearly this command's own."""
    own = [flag for action in parser._actions for flag in action.option_strings]
    for token in overrides:
        flag = token.split("=")[0]
        if flag.startswith("--") and (near := difflib.get_close_matches(flag, own, n=1, cutoff=0.8)):
            raise InputError(f"there is no flag {flag} (did you mean {near[0]}?); --help lists all flags")


def main(argv: list[str] | None = None) -> int:
    """Plans; the exit status is 1 if something does not fit, 2 after bad input."""
    return run("tm_jax.plan", lambda: _plan(argv))


def _plan(argv: list[str] | None) -> int:
    """Parse, plan, print, write."""
    parser = arguments()
    options, overrides = parser.parse_known_args(argv)
    _refuse_mistyped(overrides, parser)
    # The presets are looked up as the user names them: this room lies below theirs.
    configs = importlib.import_module("configs")
    prog = "python -m tm_jax.plan"
    chosen = {name: load(configs, [name, *overrides], prog=prog) for name in options.presets}
    plans = _plans(options, chosen)
    if options.json is not None:
        options.json.write_text(json.dumps([plan.json() for plan in plans], indent=1), encoding="utf-8")
    return 1 if any(plan.fits is False for plan in plans) else 0


def _plans(options: argparse.Namespace, chosen: dict[str, Any]) -> list[Any]:
    from tm_jax.plan import planning, report, search
    from tm_jax.plan.hardware import topology
    from tm_jax.plan.recipe import mesh_config
    from tm_jax.plan.streaming import STREAMED

    if (options.topology is None) == (options.smallest is None):
        raise InputError("give either --topology or --smallest; --help explains both")
    if options.clips < 1:
        raise InputError(f"--clips {options.clips}: at least one clip must be on a device")
    for name, experiment in chosen.items():
        if not hasattr(experiment, "videos") or not hasattr(experiment.model, "heads"):
            raise InputError(f"{name} is no training of a transformer: plan teachers and students.")
    mesh, progress = mesh_config(options.mesh) if options.mesh else None, Progress()
    only = options.programs.split(",") if options.programs else None
    if options.smallest:
        plans = search.smallest(chosen, options.smallest, best=options.best, only=only, said=progress)
    elif options.search:
        where = topology(options.topology)
        plans = search.search(chosen, where, best=options.best, only=only, said=progress)
    else:
        where, plans = topology(options.topology), []
        for name, experiment in chosen.items():
            streams = STREAMED if hasattr(experiment, "rollout") else ()
            streamed = [program for program in only or streams if program in streams]
            trained = [program for program in only or () if program not in streams]
            if only is None or trained:
                plan = planning.plan(
                    name, experiment, where, mesh, clips=options.clips,
                    only=trained or None, compiled=not options.no_compile, said=progress,
                )  # fmt: skip
                print(report.table(plan), end="\n\n", flush=True)
                plans.append(plan)
            if streamed:
                stream = planning.plan_stream(
                    name, experiment, where, only=streamed, compiled=not options.no_compile, said=progress
                )
                print(report.table(stream), end="\n\n", flush=True)
                plans.append(stream)
    if len(plans) > 1:
        print(report.overview(plans))
        if not (options.search or options.smallest):
            print(f"together: {sum(plan.hours.chips for plan in plans if plan.hours):,.0f} chip-hours")
    return plans


if __name__ == "__main__":
    sys.exit(main())
