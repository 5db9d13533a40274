"""The order of the rooms, read from the source: imports run downward, and some rooms know no framework."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# Each row may import the rows above it.  Rooms of one row do not import each other.
ORDER = (
    ("types", "errors", "command", "flags", "config", "sharding", "rates"),
    ("audio", "media", "nn"),
    ("models",),
    ("diffusion", "pretrained"),
    ("data",),
    ("streaming",),
    ("torch_runtime",),
    ("evaluation",),
    ("training",),
    ("plan", "export", "serve"),
    # Benchmarks measure every other room.
    ("bench",),
    ("configs",),
    ("train", "infer"),
)
RANK = {room: rank for rank, rooms in enumerate(ORDER) for room in rooms}
BASE = set(ORDER[0])

FRAMEWORKS = {"jax", "flax", "optax", "orbax", "chex", "grain", "torch", "diffusers", "transformers"}
JAX = {"jax", "flax", "optax", "orbax", "chex", "grain"}
TORCH = {"torch", "diffusers", "transformers", "torchao"}
# Rooms and files that both engines share: they must run where only one of the frameworks is installed.
WITHOUT_FRAMEWORK = (
    "tm_jax/errors.py",
    "tm_jax/command.py",
    "tm_jax/flags.py",
    "tm_jax/rates.py",
    "tm_jax/config.py",
    "tm_jax/audio/",
    "tm_jax/media/",
    "tm_jax/nn/backends.py",
    "tm_jax/models/dit_config.py",
    "tm_jax/models/flops.py",
    "tm_jax/models/vae_config.py",
    "tm_jax/models/viseme_config.py",
    "tm_jax/diffusion/noise.py",
    "tm_jax/diffusion/schedule.py",
    "tm_jax/streaming/backend.py",
    "tm_jax/streaming/channel.py",
    "tm_jax/streaming/engine.py",
    "tm_jax/streaming/inbox.py",
    "tm_jax/streaming/make_video.py",
    "tm_jax/streaming/reference.py",
    "tm_jax/streaming/session.py",
    "tm_jax/streaming/stages.py",
    "tm_jax/streaming/statistics.py",
)
# Where PyTorch may appear at all.
WITH_TORCH = ("tm_jax/torch_runtime/", "tm_jax/bench/", "tm_jax/pretrained/")
# What runs on a GPU host, where no JAX is installed.
WITHOUT_JAX = (
    "tm_jax/torch_runtime/",
    "tm_jax/serve/",
    "tm_jax/bench/serving",
    "tm_jax/bench/ranks.py",
    "tm_jax/bench/soak.py",
    "tm_jax/bench/stages.py",
    "tm_jax/bench/__main__.py",
)


def sources() -> list[Path]:
    """Every Python file of the project but the tests."""
    found = [*(ROOT / "tm_jax").rglob("*.py"), *(ROOT / "configs").glob("*.py")]
    return [*found, ROOT / "train.py", ROOT / "infer.py"]


def room_of(module: str) -> str | None:
    """The room of a module of ours; None for other people's modules and the package itself."""
    parts = module.split(".")
    if parts[0] == "tm_jax":
        return parts[1] if len(parts) > 1 else None
    return parts[0] if parts[0] in ("configs", "train", "infer") else None


def module_of(path: Path) -> str:
    """The dotted name of a file."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def imported(tree: ast.AST) -> list[str]:
    """Every module that a source imports, wherever in the file it does."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            found.append(node.module)
            # ``from tm_jax import x`` and ``from tm_jax.room import module`` name a module too.
            found += [f"{node.module}.{alias.name}" for alias in node.names if node.module == "tm_jax"]
    return found


def faults(module: str, tree: ast.AST) -> list[str]:
    """The imports of a module that climb, or that go across to a neighbour."""
    own = room_of(module)
    if own is None:
        return []
    wrong = []
    for name in imported(tree):
        room = room_of(name)
        if room is None or room == own:
            continue
        if RANK[room] > RANK[own] or (RANK[room] == RANK[own] and room not in BASE):
            wrong.append(f"{module} imports {name}")
    return wrong


def frameworks(path: Path, tree: ast.AST) -> set[str]:
    """The frameworks that a source imports."""
    return {name.split(".")[0] for name in imported(tree)} & FRAMEWORKS


def test_imports_run_downward_only():
    wrong = [fault for path in sources() for fault in faults(module_of(path), ast.parse(path.read_text()))]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("module", "source", "climbs"),
    [
        ("tm_jax.models.dit", "from tm_jax.diffusion.flow import add_noise", True),
        ("tm_jax.audio.log_mel", "def f():\n    import tm_jax.media.video", True),
        ("tm_jax.config", "import configs", True),
        ("tm_jax.diffusion.flow", "from tm_jax.models.dit import DiT", False),
        ("tm_jax.flags", "from tm_jax.errors import InputError", False),
    ],
)
def test_a_climbing_import_is_found(module, source, climbs):
    assert bool(faults(module, ast.parse(source))) == climbs


def test_shared_rooms_know_no_framework():
    for path in sources():
        name = path.relative_to(ROOT).as_posix()
        if name.startswith(WITHOUT_FRAMEWORK):
            assert not frameworks(path, ast.parse(path.read_text())), name


def test_pytorch_appears_only_where_it_may():
    for path in sources():
        name = path.relative_to(ROOT).as_posix()
        found = frameworks(path, ast.parse(path.read_text()))
        if not name.startswith(WITH_TORCH):
            assert not found & TORCH, name
        if name.startswith("tm_jax/torch_runtime/"):
            assert not found & JAX, name


WITHOUT = """
import importlib, sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {frameworks!r}:
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Missing())
for name in {modules!r}:
    importlib.import_module(name)
"""


def test_what_both_engines_share_runs_without_a_framework():
    """Not only the files themselves: what they import must do without, too."""
    shared = [
        module_of(path).removesuffix(".__init__")
        for path in sources()
        if path.relative_to(ROOT).as_posix().startswith(WITHOUT_FRAMEWORK)
    ]
    code = WITHOUT.format(frameworks=sorted(FRAMEWORKS), modules=shared)
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=120, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


def test_what_a_gpu_host_runs_needs_no_jax():
    """The PyTorch engine and its benchmark, with all that they import, and infer.py."""
    modules = [
        module_of(path).removesuffix(".__init__")
        for path in sources()
        if path.relative_to(ROOT).as_posix().startswith(WITHOUT_JAX)
    ]
    code = (
        "import sys, importlib\n"
        f"for name in {sorted(JAX)!r}: sys.modules[name] = None\n"
        f"for name in {[*modules, 'infer']!r}: importlib.import_module(name)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=120, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


STARTED_BY_OTHERS = ("compiling.py", "call_server.py", "loading.py")
"""Programs that a command of ours starts for itself."""


def test_every_command_begins_without_a_framework():
    """So that a mistyped flag is answered at once, and a framework that is missing in one sentence."""
    commands = [
        module_of(path).removesuffix(".__init__")
        for path in sources()
        if '__name__ == "__main__"' in path.read_text("utf-8") and path.name not in STARTED_BY_OTHERS
    ]
    assert {"infer", "train", "tm_jax.pretrained.__main__", "tm_jax.training.release"} <= set(commands)
    code = WITHOUT.format(frameworks=sorted(FRAMEWORKS), modules=commands)
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=120, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
