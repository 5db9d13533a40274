"""The two lists of dependencies agree: requirements.txt in full, pyproject.toml by purpose."""

import itertools
import re
import tomllib
from pathlib import Path

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


def test_streaming_needs_no_training_package():
    """What `make demo` installs names none of the heavy packages."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    base = {entry.split("==")[0] for entry in project["dependencies"]}
    assert not base & {"torch", "transformers", "diffusers", "orbax-checkpoint", "grain", "matplotlib"}
