"""Files of weights that are no safetensors files: told by their first bytes, with what to do with each.

Nothing here opens a file's content: a pickle can run any code when it is opened.
"""

import zipfile
from pathlib import Path

from tm_jax.errors import InputError

PICKLES = (".pth", ".pt", ".bin", ".ckpt", ".pkl", ".pickle")
CONVERT = "python -m tm_jax.pretrained convert"

START = 16
"""How many of a file's first bytes tell its format."""

_WEB_PAGES = (b"<!doctype", b"<html", b"<?xml")


def is_pickle(start: bytes) -> bool:
    """Whether a file that starts with these bytes (nine or more) is a pickle, or a zip of pickles.

    A safetensors file may begin with a pickle's own two bytes, for it begins with a length; its ninth
    byte opens the JSON header.
    """
    protocol = start[:1] == b"\x80" and start[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05")
    return start[8:9] != b"{" and (start[:4] == b"PK\x03\x04" or protocol)


def pickle_refused(path: Path) -> InputError:
    """Why a pickle is not read, and the ways out."""
    return InputError(
        f"{path} is a PyTorch pickle, which can run any code when it is opened and so is not read here; "
        "take the safetensors version (for Wan, the -Diffusers repositories hold every part of it) or "
        f"make one: {CONVERT} {path} --to FILE.safetensors"
    )


def gguf_refused(path: Path) -> InputError:
    """Why a GGUF file is not read."""
    return InputError(
        f"{path} is a GGUF file, whose weights are quantised in blocks and are not read here; "
        "take the safetensors version in BF16 or F16"
    )


def refuse_foreign(path: Path, start: bytes) -> None:
    """Raise InputError where a file that starts with these bytes is plainly of another format.

    Args:
        start: its first ``START`` bytes, or all of them if there are fewer.
    """
    if start.startswith(b"GGUF"):
        raise gguf_refused(path)
    if start[8:9] == b"{":
        return
    if start.startswith(b"version "):
        raise InputError(f"{path} is a Git LFS pointer and not the file itself; run git lfs pull")
    if start.lstrip().lower().startswith(_WEB_PAGES):
        raise InputError(f"{path} is a web page that was saved in its place; download the file itself")
    if is_pickle(start):
        if start.startswith(b"PK") and not _zip_of_pickles(path):
            raise InputError(f"{path} is a zip archive; unpack it and give the safetensors file inside")
        raise pickle_refused(path)
    if start.startswith(b"\x89HDF"):
        raise InputError(f"{path} is an HDF5 file, which is not read here; take the safetensors version")
    if start.startswith(b"\x93NUMPY"):
        raise InputError(f"{path} is a NumPy array, which is not read here; take the safetensors version")


def _zip_of_pickles(path: Path) -> bool:
    """Whether a zip archive is PyTorch's; one whose list cannot be read is taken to be."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith(".pkl") for name in archive.namelist())
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return True
