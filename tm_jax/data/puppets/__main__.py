"""Look at the puppets: ``python -m tm_jax.data.puppets --out out/puppets``.

Writes ``puppets.png`` (characters of the three styles down, mouth shapes, blinks and head turns across) and
one sample with sound per style, ``puppet_shaded.mp4`` and so on.  With ``--varied`` they are of the world
that the accelerator's presets train on, and ``faces.png`` shows 24 plain faces beside the same numbers there.
With ``--speech NAME`` it draws nothing: it writes the sound of one clip, ``NAME.wav``, and the mouth opening
that its phonemes ask for, ``NAME.json``.
The shipped speech is ``--speech tm_jax/assets/speech --split heldout --clip 6 --seconds 9``.
"""

import itertools
import sys
from pathlib import Path

from tm_jax.command import run
from tm_jax.errors import InputError
from tm_jax.flags import Parser
from tm_jax.media.files import written_whole


def main(argv: list[str] | None = None) -> int:
    """Show the world; returns the exit status."""
    return run("tm_jax.data.puppets", lambda: _show(argv))


def _show(argv: list[str] | None) -> None:
    """Write the contact sheet and the samples."""
    parser = Parser(prog="python -m tm_jax.data.puppets", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("out/puppets"), help="folder for the results")
    parser.add_argument("--split", default="train", help="train, heldout or language")
    parser.add_argument("--seed", type=int, default=0, help="seed of the world")
    parser.add_argument("--size", type=int, default=128, help="side of the picture in pixels")
    parser.add_argument("--identities", type=int, default=9, help="rows of the contact sheet")
    parser.add_argument("--seconds", type=float, default=10.0, help="length of each sample")
    parser.add_argument("--varied", action="store_true", help="vary the framing, half photograph-like faces")
    parser.add_argument("--speech", type=Path, help="write NAME.wav and NAME.json of one clip, nothing else")
    parser.add_argument("--clip", type=int, default=0, help="the clip of --speech")
    args = parser.parse_args(argv)
    if min(args.seed, args.clip) < 0 or args.identities < 1:
        raise InputError(
            f"--seed {args.seed} --clip {args.clip} --identities {args.identities}: "
            "give a seed and a clip of 0 or more, and at least one identity."
        )
    if args.size % 2:
        raise InputError(f"--size {args.size} is odd, which no video can be: give an even number.")
    # Importing JAX takes seconds: a mistyped flag is answered before.
    from tm_jax.data.puppets.showing import contact_sheet, portraits, write_clip, write_speech
    from tm_jax.data.puppets.variety import PLAIN, VARIED
    from tm_jax.data.puppets.world import STYLES, PuppetWorld

    plain, varied = (
        PuppetWorld(seed=args.seed, split=args.split, size=args.size, variety=variety)
        for variety in (PLAIN, VARIED)
    )
    world = varied if args.varied else plain
    if args.speech is not None:
        args.speech.parent.mkdir(parents=True, exist_ok=True)
        write_speech(args.speech, world, args.clip, args.seconds)
        return
    args.out.mkdir(parents=True, exist_ok=True)
    with written_whole(args.out / "puppets.png") as place:
        contact_sheet(world, args.identities).save(place)
    if args.varied:
        with written_whole(args.out / "faces.png") as place:
            portraits([plain, varied], 24).save(place)
    for style in STYLES:
        index = next(i for i in itertools.count() if world.identity(i).style == style)
        clip = world.clip(index, args.seconds)
        write_clip(args.out / f"puppet_{clip.style}.mp4", clip)
        print(f"{clip.style}: {clip.meta['voice']}: {' '.join(clip.meta['text'])}")


if __name__ == "__main__":
    sys.exit(main())
