"""Commands about public weights.

python -m tm_jax.pretrained check DIR_OR_HUB_ID     what it holds and whether it is complete; exit 2 if not
python -m tm_jax.pretrained embed-prompt DIR_OR_HUB_ID --out FILE    a prompt's embedding, for streams
python -m tm_jax.pretrained measure-loading         a synthetic checkpoint loaded by several processes
python -m tm_jax.pretrained measure-speed           our VAE and DiT against PyTorch's on this machine
"""

import argparse
import sys
import warnings
from pathlib import Path

from tm_jax.flags import Parser
from tm_jax.pretrained.check import check
from tm_jax.pretrained.hub import resolve
from tm_jax.types import InputError


def _check(arguments: argparse.Namespace) -> int:
    parts, faults = check(resolve(arguments.source))
    for part in parts:
        print(part)
    for fault in faults:
        print(fault, file=sys.stderr)
    return 2 if faults else 0


def _embed(arguments: argparse.Namespace) -> int:
    from tm_jax.pretrained.prompts import DEFAULT_PROMPT, embed_prompts, save_prompt

    if arguments.out.suffix != ".safetensors":
        raise InputError(f"--out {arguments.out} is to be a safetensors file: end its name in .safetensors.")
    (prompt,) = embed_prompts(
        arguments.source, [DEFAULT_PROMPT if arguments.prompt is None else arguments.prompt]
    )
    save_prompt(arguments.out, prompt)
    tokens, width = prompt.embedding.shape
    print(f"{arguments.out}: {prompt.text!r}, {tokens} tokens of width {width}")
    return 0


def _measure(arguments: argparse.Namespace) -> int:
    from tm_jax.pretrained.measure import measure

    report = measure(
        gib=arguments.gib,
        files=arguments.files,
        processes=arguments.processes,
        devices=arguments.devices,
        dtype=arguments.dtype,
        folder=arguments.folder,
    )
    print(report)
    return 0 if report.within_bound else 1


def _measure_speed(arguments: argparse.Namespace) -> int:
    from tm_jax.pretrained.speed import measure_speed, table

    print(table(measure_speed(arguments.size, arguments.repeats, arguments.blocks, arguments.seed)))
    return 0


def main(argv: list[str] | None = None) -> int:
    """Runs one command; the exit status is 2 after bad input, told in one sentence."""
    parser = Parser(prog="python -m tm_jax.pretrained", description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("check", help="what a folder holds and whether it is complete")
    command.add_argument("source", help="a folder, a safetensors file or a Hub id")
    command.set_defaults(run=_check)
    command = commands.add_parser("embed-prompt", help="a prompt's embedding, so that no stream loads UMT5")
    command.add_argument("source", help="a pipeline with text_encoder and tokenizer: a folder or a Hub id")
    command.add_argument(
        "--out", type=Path, required=True, help="file to write, such as weights/prompt.safetensors"
    )
    command.add_argument("--prompt", default=None, help="the text (default: the one that infer.py expects)")
    command.set_defaults(run=_embed)
    command = commands.add_parser("measure-loading", help="load a synthetic checkpoint, measure memory")
    command.add_argument("--gib", type=float, default=3.0, help="size of the checkpoint in GiB")
    command.add_argument("--files", type=int, default=4, help="files it is split into")
    command.add_argument("--processes", type=int, default=2, help="processes that load it together")
    command.add_argument("--devices", type=int, default=8, help="virtual devices of all processes together")
    command.add_argument("--dtype", choices=("F32", "BF16", "F16"), default="BF16", help="storage type")
    command.add_argument("--folder", type=Path, default=None, help="where to write it (default: temporary)")
    command.set_defaults(run=_measure)
    command = commands.add_parser("measure-speed", help="our VAE and DiT against PyTorch's, as a ratio")
    command.add_argument("--size", choices=("tiny", "small", "medium"), default="small", help="see SIZES")
    command.add_argument("--repeats", type=int, default=3, help="calls in a block")
    command.add_argument("--blocks", type=int, default=3, help="blocks of either side, in turn")
    command.add_argument("--seed", type=int, default=0, help="seed of weights and inputs")
    command.set_defaults(run=_measure_speed)
    try:
        arguments = parser.parse_args(argv)
        return arguments.run(arguments)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2


if __name__ == "__main__":
    warnings.filterwarnings("ignore", category=UserWarning)
    sys.exit(main())
