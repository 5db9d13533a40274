"""The two lists of dependencies agree: requirements.txt in full, pyproject.toml by purpose."""

import itertools
import re
import tomllib
from pathlib import Path

from tm_jax.command import EXTRAS

ROOT = Path(__file__).parent.parent


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


def test_the_sentence_about_a_missing_package_names_an_extra_that_brings_it():
    installed_as = {"orbax": "orbax-checkpoint", "array_record": "array-record"}
    installed_as |= {"espeakng_loader": "espeakng-loader", "prometheus_client": "prometheus-client"}
    for module, extra in EXTRAS.items():
        wanted = installed_as.get(module, module)
        assert {name for name in brought(extra) if name == wanted or name.startswith(f"{wanted}-")}, module
