"""Which checkpoints a run's folder holds; nothing is opened."""

from pathlib import Path

FOLDER = "checkpoints"
"""Where a run keeps them."""


def saved_steps(folder: Path) -> list[int]:
    """Steps of the finished checkpoints in a folder, which need not exist."""
    names = [path.name for path in folder.glob("*") if path.is_dir()]
    return sorted(int(name) for name in names if name.isdigit())


def steps_named(path: Path) -> tuple[Path, list[int]]:
    """The folder and the steps of the checkpoints that a path means: a run, its checkpoints, or one of them.

    No steps where it is no run's folder; the step that is named need not be there.
    """
    if path.name.isdigit() and path.parent.name == FOLDER and path.parent.is_dir():
        return path.parent, [int(path.name)]
    folder = path if path.name == FOLDER else path / FOLDER
    return folder, saved_steps(folder)


def is_run(path: Path) -> bool:
    """Whether a path means checkpoints of a run."""
    return bool(steps_named(path)[1])
