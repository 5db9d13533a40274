"""Name maps: how a public checkpoint's tensors correspond to ours, declared as data and read both ways.

A rule pairs a pattern of our parameter paths with a pattern of their keys and says how the axes move::

    Rule("blocks.{layer}.attention.query.kernel", "blocks.{layer}.attn1.to_q.weight", LINEAR)

Paths are the names of a module's attributes joined by dots.  ``{word}`` stands for one name between dots
(``{i}`` for the index of a list, say) and must occur on both sides.  ``{layer}`` is special: it stands
in their keys alone, where one stacked array of ours, with the layer axis first, holds N of their tensors::

    Rule("blocks.query.kernel", "blocks.{layer}.attn1.to_q.weight", LINEAR)

What a public checkpoint calls a thing is a fact about it; everything else is done by these few functions.
"""

import dataclasses
import functools
import re
from collections.abc import Iterable, Iterator, Mapping

import jax
import numpy as np
from flax import nnx

from tm_jax.errors import InputError

_FIELD = re.compile(r"\{(\w+)\}")


@dataclasses.dataclass(frozen=True)
class Transform:
    """How one of their tensors becomes one of ours: axes are dropped, then permuted; never mixed.

    Because axes stay axes, a slice of ours is a slice of theirs, and a shard can be read alone.
    """

    axes: tuple[int, ...] | None = None
    """Their axis that becomes our axis 0, 1, …; None keeps them all in order."""
    drop: tuple[int, ...] = ()
    """Their axes of size 1 that ours lacks; the numbers in ``axes`` still count them."""

    def to_ours(self, theirs):
        """Our array (or layer) from their tensor; a view where NumPy can make one."""
        if self.axes is None:
            return theirs
        return theirs.transpose(*self.axes, *self.drop).reshape([theirs.shape[axis] for axis in self.axes])

    def to_theirs(self, ours):
        """Their tensor from our array (or layer)."""
        if self.axes is None:
            return ours
        grown = ours.reshape(*ours.shape, *(1 for _ in self.drop))
        return grown.transpose(np.argsort((*self.axes, *self.drop)).tolist())

    def shape_to_theirs(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of their tensor for a shape of ours."""
        return self._reorder(tuple(shape), 1)

    def slices_to_theirs(self, slices: tuple[slice, ...]) -> tuple[slice, ...]:
        """Where in their tensor a slice of ours lies, one slice per axis of ours given."""
        return self._reorder(tuple(slices), slice(0, 1))

    def _reorder(self, ours: tuple, filling) -> tuple:
        if self.axes is None:
            return ours
        of_axis = dict(zip(self.axes, ours, strict=True)) | dict.fromkeys(self.drop, filling)
        return tuple(of_axis[axis] for axis in range(len(of_axis)))


KEEP = Transform()
LINEAR = Transform((1, 0))
CONV1D = Transform((2, 1, 0))
CONV2D = Transform((2, 3, 1, 0))
CONV3D = Transform((2, 3, 4, 1, 0))
POINTWISE2D = Transform((1, 0), drop=(2, 3))
POINTWISE3D = Transform((1, 0), drop=(2, 3, 4))


@dataclasses.dataclass(frozen=True)
class Rule:
    """One correspondence of a pattern of our paths with a pattern of their keys."""

    ours: str
    """Our path, such as ``encoder.conv_in.kernel``, with ``{word}`` for a name that varies."""
    theirs: str
    """Their key, with the same words; ``{layer}`` may stand here alone (see the module)."""
    transform: Transform = KEEP
    """How the axes move."""

    def __post_init__(self):
        ours, theirs = (set(_FIELD.findall(pattern)) for pattern in (self.ours, self.theirs))
        if theirs - ours not in (set(), {"layer"}) or ours - theirs:
            raise ValueError(f"the words of {self.ours} and {self.theirs} differ")

    @property
    def stacked(self) -> bool:
        """Whether one array of ours holds one of their tensors per layer."""
        return "{layer}" in self.theirs and "{layer}" not in self.ours


def rules(ours: str, theirs: str, kernel: Transform, *, bias: bool = True) -> tuple[Rule, ...]:
    """The rules of one layer: ``kernel`` ↔ ``weight`` by the transform, ``bias`` ↔ ``bias`` if it has one."""
    pair = Rule(f"{ours}.kernel", f"{theirs}.weight", kernel)
    return (pair, Rule(f"{ours}.bias", f"{theirs}.bias")) if bias else (pair,)


@dataclasses.dataclass(frozen=True)
class Place:
    """Where one of their tensors goes: the path of our array, and the layer of it if it is stacked."""

    path: str
    layer: int | None
    transform: Transform


class NameMap:
    """Reads a table of rules in both directions."""

    def __init__(self, table: Iterable[Rule]):
        self.rules = tuple(table)
        self._ours = [(re.compile(_pattern(rule.ours)), rule) for rule in self.rules]
        self._theirs = [(re.compile(_pattern(rule.theirs)), rule) for rule in self.rules]

    def to_ours(self, key: str) -> Place | None:
        """The place of one of their keys, or None if no rule knows it."""
        match, rule = _the_match(self._theirs, key)
        if rule is None:
            return None
        layer = int(match["layer"]) if rule.stacked else None
        return Place(rule.ours.format(**match), layer, rule.transform)

    def to_theirs(self, path: str, layer: int | None = None) -> tuple[str, Transform] | None:
        """Their key for one of our paths (for this layer of it if it is stacked), or None."""
        match, rule = _the_match(self._ours, path)
        if rule is None:
            return None
        if rule.stacked != (layer is not None):
            raise ValueError(
                f"{path} is {'stacked: say' if rule.stacked else 'not stacked: do not say'} which layer"
            )
        return rule.theirs.format(**match, **({"layer": layer} if rule.stacked else {})), rule.transform

    def stacked(self, path: str) -> bool:
        """Whether our array at this path holds one of their tensors per layer."""
        _, rule = _the_match(self._ours, path)
        return rule is not None and rule.stacked

    def places(self, path: str, shape: tuple[int, ...]) -> Iterator[tuple[int | None, str, Transform]]:
        """Every (layer, their key, transform) that our array of this path and shape is made of."""
        for layer in range(shape[0]) if self.stacked(path) else (None,):
            found = self.to_theirs(path, layer)
            if found is None:
                raise KeyError(f"no rule names our parameter {path}")
            yield layer, *found


def paths(model: nnx.Module) -> dict[str, nnx.Variable]:
    """Every parameter of a model (or of its abstract shape) by its dotted path."""
    leaves = jax.tree_util.tree_leaves_with_path(model, is_leaf=lambda node: isinstance(node, nnx.Variable))
    return {".".join(map(_step, path)): leaf for path, leaf in leaves if isinstance(leaf, nnx.Variable)}


def expected(model: nnx.Module, names: NameMap) -> dict[str, tuple[int, ...]]:
    """Every key of a complete checkpoint of this model, with its shape there; the model may be abstract."""
    shapes = {}
    for path, variable in paths(model).items():
        for layer, key, transform in names.places(path, variable.shape):
            shapes[key] = transform.shape_to_theirs(variable.shape if layer is None else variable.shape[1:])
    return shapes


def check(shapes: Mapping[str, tuple[int, ...]], model: nnx.Module, names: NameMap, source: str) -> None:
    """Raise one InputError that lists every unknown, missing and misshapen key of a checkpoint.

    Args:
        shapes: key → shape of what the checkpoint holds.
        source: what to call the checkpoint in the message.
    """
    wanted = expected(model, names)
    faults = [f"unknown {key}" for key in sorted(shapes.keys() - wanted.keys())]
    faults += [f"missing {key}" for key in sorted(wanted.keys() - shapes.keys())]
    for key in sorted(wanted.keys() & shapes.keys()):
        if tuple(shapes[key]) != wanted[key]:
            faults.append(f"{key} has shape {tuple(shapes[key])} where this model has {wanted[key]}")
    if faults:
        raise InputError(
            f"{source} does not fit this model, check that its config is the same: {'; '.join(faults)}"
        )


def load(
    model: nnx.Module, tensors: Mapping[str, np.ndarray], names: NameMap, source: str = "the checkpoint"
):
    """A copy of the model (which may be abstract), filled from their tensors in the model's own dtypes."""
    check({key: tensor.shape for key, tensor in tensors.items()}, model, names, source)
    values = {}
    for path, variable in paths(model).items():
        parts = [
            move.to_ours(np.asarray(tensors[key])) for _, key, move in names.places(path, variable.shape)
        ]
        value = np.stack(parts) if names.stacked(path) else parts[0]
        values[path] = jax.numpy.asarray(value, variable.dtype)
    return with_values(model, values)


def dump(model: nnx.Module, names: NameMap) -> dict[str, np.ndarray]:
    """The model's parameters under their keys and in their layout."""
    tensors = {}
    for path, variable in paths(model).items():
        ours = np.asarray(variable[...])
        for layer, key, transform in names.places(path, ours.shape):
            tensors[key] = np.ascontiguousarray(transform.to_theirs(ours if layer is None else ours[layer]))
    return tensors


def with_values(model: nnx.Module, values: Mapping[str, jax.Array]):
    """A copy of the model (which may be abstract) that holds these arrays, one for every dotted path."""

    def fill(path, leaf):
        return leaf.replace(values[".".join(map(_step, path))]) if isinstance(leaf, nnx.Variable) else leaf

    return jax.tree_util.tree_map_with_path(fill, model, is_leaf=lambda node: isinstance(node, nnx.Variable))


def _step(entry) -> str:
    """One entry of a tree path, without its brackets and dots."""
    for name in ("name", "key", "idx"):
        if hasattr(entry, name):
            return str(getattr(entry, name))
    raise TypeError(f"unnamed tree entry {entry!r}")


@functools.cache
def _pattern(text: str) -> str:
    """The regular expression of a pattern."""
    seen: set[str] = set()
    parts = []
    for index, part in enumerate(_FIELD.split(text)):
        if index % 2 == 0:
            parts.append(re.escape(part))
        elif part in seen:
            parts.append(f"(?P={part})")
        else:
            seen.add(part)
            parts.append(rf"(?P<{part}>\d+)" if part == "layer" else rf"(?P<{part}>[^.]+)")
    return "".join(parts)


def _the_match(table: list[tuple[re.Pattern, Rule]], text: str) -> tuple[dict[str, str], Rule | None]:
    """The words and the rule of the one pattern that matches; two that match are a fault of the table."""
    found = [(match.groupdict(), rule) for pattern, rule in table if (match := pattern.fullmatch(text))]
    if len(found) > 1:
        raise ValueError(f"{text} is claimed by several rules: {[rule.ours for _, rule in found]}")
    return found[0] if found else ({}, None)
