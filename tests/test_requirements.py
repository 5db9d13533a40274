"""The two lists of dependencies agree: requirements.txt in full, pyproject.toml by purpose."""

import ast
import itertools
import re
import sys
import tomllib

from tests.test_imports import ROOT, WITHOUT_FRAMEWORK, WITHOUT_JAX, imported, sources
from tm_jax.command import EXTRAS


def pins(lines: list[str]) -> set[str]:
    """The requirements of a list, without comments."""
    return {line.strip() for line in lines if re.match(r"[A-Za-z]", line)}


def test_pyproject_holds_the_pins_of_requirements():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    # What compiles for accelerators that are not here is nobody's but the planner's.
    installed = [extras[name] for name in extras if name != "plan"]
    by_purpose = [*project["dependencies"], *itertools.chain(*installed)]
    own = {entry for entry in by_purpose if not entry.startswith("tm_jax[")}
    listed = pins((ROOT / "requirements.txt").read_text().splitlines())
    assert own == listed
    assert all("==" in entry for entry in listed)


def brought(*extras: str) -> set[str]:
    """What ``pip install ".[…]"`` asks for: the base, the extras, and the extras that those bring along."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    found, waiting, seen = set(project["dependencies"]), list(extras), set()
    while waiting:
        extra = waiting.pop()
        for entry in () if extra in seen else project["optional-dependencies"][extra]:
            own = re.fullmatch(r"tm_jax\[(.*)\]", entry)
            waiting += own[1].split(",") if own else []
            found |= set() if own else {entry}
        seen.add(extra)
    return {re.split(r"[=\[]", entry)[0] for entry in found}


TRAINING = {"orbax-checkpoint", "grain", "optax", "diffusers"}


def test_each_engine_is_installed_without_the_other():
    """What `make demo` installs, what a GPU host does, and what calls add to either."""
    for extras in (["serving"], ["serving", "live"]):
        assert "torch" in brought(*extras) and not brought(*extras) & {"jax", "flax", *TRAINING}
    for extras in (["jax"], ["jax", "live"]):
        assert {"jax", "flax"} <= brought(*extras)
        assert not brought(*extras) & {"torch", "transformers", "matplotlib", *TRAINING}
    assert {"jax", "flax", "torch", "aiohttp"} <= brought("test")


INSTALLED_AS = {
    "cv2": "opencv-python-headless",
    "PIL": "pillow",
    "webrtcvad": "webrtcvad-wheels",
    "livekit": "livekit-agents",
    "orbax": "orbax-checkpoint",
}
"""Distributions whose names are not those of their modules, dashes aside."""
ASKED_FOR = {"piper", "faster_whisper"}
"""What a flag asks for by name, and is told to install."""


def test_what_a_host_without_jax_imports_is_installed_there():
    there = {name.replace("-", "_") for name in brought("serving", "live")}
    for path in sources():
        name = path.relative_to(ROOT).as_posix()
        if name.startswith((*WITHOUT_FRAMEWORK, *WITHOUT_JAX)):
            modules = {module.split(".")[0] for module in imported(ast.parse(path.read_text()))}
            foreign = modules - sys.stdlib_module_names - {"tm_jax"} - ASKED_FOR
            missing = {one for one in foreign if INSTALLED_AS.get(one, one).replace("-", "_") not in there}
            assert not missing, (name, missing)


def test_the_sentence_about_a_missing_package_names_an_extra_that_brings_it():
    for module, extra in EXTRAS.items():
        there = {name.replace("-", "_") for name in brought(extra)}
        assert INSTALLED_AS.get(module, module).replace("-", "_") in there, module
