"""Commands about public weights.

python -m tm_jax.pretrained check DIR_OR_HUB_ID     what it holds and whether it is complete; exit 2 if not
python -m tm_jax.pretrained embed-prompt DIR_OR_HUB_ID --out FILE    a prompt's embedding, for streams
python -m tm_jax.pretrained convert FILE.pth --to FILE.safetensors    a pickle's tensors, and no code of it
"""

import argparse
import sys
import warnings
from pathlib import Path

from tm_jax.command import run
from tm_jax.errors import InputError
from tm_jax.flags import Parser


def _check(arguments: argparse.Namespace) -> int:
    # Importing JAX takes seconds: a mistyped flag is answered before.
    from tm_jax.pretrained.check import check
    from tm_jax.pretrained.hub import resolve

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


def _convert(arguments: argparse.Namespace) -> int:
    from tm_jax.pretrained.convert import convert

    print(convert(arguments.source, arguments.to, arguments.part))
    return 0


def main(argv: list[str] | None = None) -> int:
    """Runs one command; returns the exit status."""
    return run("tm_jax.pretrained", lambda: _run(argv))


def _run(argv: list[str] | None) -> int:
    """Parse and run one of the commands."""
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
    command = commands.add_parser("convert", help="a pickle's tensors as safetensors; none of its code runs")
    command.add_argument("source", type=Path, help="a file of torch.save: .pth, .pt, .ckpt or .bin")
    command.add_argument("--to", type=Path, required=True, help="file to write, which must not exist")
    command.add_argument("--part", default=None, help="only what lies under this name, such as generator_ema")
    command.set_defaults(run=_convert)
    arguments = parser.parse_args(argv)
    return arguments.run(arguments)


if __name__ == "__main__":
    warnings.filterwarnings("ignore", category=UserWarning)
    sys.exit(main())
