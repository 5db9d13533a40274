"""Mesh, logical axes and shardings: the only file that says PartitionSpec.

Parameters carry the logical names of their axes in their metadata (``axes=("embed", "mlp")``);
``ShardingRules`` maps those names onto the mesh.  Stacked layers have one leading axis more than
their names, which is the ``layer`` axis.
"""

import dataclasses
import math

import jax
from flax import nnx
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

AnyMesh = Mesh | AbstractMesh

MESH_AXES = ("data", "fsdp", "tensor")


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """Sizes of the mesh axes; their product must be the number of devices."""

    data: int = 1
    """Replicas of the model, each with its share of the batch."""
    fsdp: int = -1
    """Devices that share one copy of the parameters; -1 takes all that are left."""
    tensor: int = 1
    """Devices that share the heads and the hidden units of each layer."""

    def __post_init__(self):
        sizes = (self.data, self.fsdp, self.tensor)
        if sum(size == -1 for size in sizes) > 1 or any(size == 0 or size < -1 for size in sizes):
            raise ValueError(f"mesh sizes {sizes}: each must be positive, and one of them may be -1")

    def shape(self, device_count: int) -> tuple[int, int, int]:
        """The sizes with -1 resolved for this many devices."""
        sizes = [self.data, self.fsdp, self.tensor]
        known = math.prod(size for size in sizes if size != -1)
        if -1 in sizes and device_count % known == 0:
            sizes[sizes.index(-1)] = device_count // known
        if math.prod(sizes) != device_count:
            raise ValueError(f"mesh data×fsdp×tensor = {sizes} does not fill {device_count} devices")
        return tuple(sizes)


@dataclasses.dataclass(frozen=True)
class ShardingRules:
    """Logical axis name → mesh axis (or axes, or None for replicated)."""

    batch: str | tuple[str, ...] | None = ("data", "fsdp")
    layer: str | None = None
    embed: str | tuple[str, ...] | None = "fsdp"
    mlp: str | tuple[str, ...] | None = "tensor"
    heads: str | tuple[str, ...] | None = "tensor"
    condition: str | tuple[str, ...] | None = None

    def spec(self, names: tuple[str | None, ...]) -> PartitionSpec:
        """The PartitionSpec of an array whose axes carry these logical names."""
        axes = [None if name is None else getattr(self, name) for name in names]
        used = [axis for entry in axes if entry for axis in ((entry,) if isinstance(entry, str) else entry)]
        if len(used) != len(set(used)):
            raise ValueError(f"logical axes {names} land twice on one mesh axis: {axes}")
        return PartitionSpec(*axes)


def make_mesh(config: MeshConfig = MeshConfig(), devices: list | None = None) -> Mesh:
    """A mesh over the given devices (all of them by default), with automatic sharding propagation."""
    devices = jax.devices() if devices is None else devices
    shape = config.shape(len(devices))
    return jax.make_mesh(shape, MESH_AXES, axis_types=(AxisType.Auto,) * 3, devices=devices)


def replicated(mesh: AnyMesh) -> NamedSharding:
    """The sharding of an array that every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: AnyMesh, rules: ShardingRules = ShardingRules()) -> NamedSharding:
    """The sharding of arrays whose first axis is the batch."""
    return NamedSharding(mesh, rules.spec(("batch",)))


def batch_axes(rules: ShardingRules) -> tuple[str, ...]:
    """The mesh axes over which the batch is split."""
    return () if rules.batch is None else (rules.batch,) if isinstance(rules.batch, str) else rules.batch


def local_rows(sharding: NamedSharding, rows: int) -> list[int]:
    """The rows of an array of this many that this process holds, in the order in which it gives them."""
    cuts = {
        (cut[0].start or 0, cut[0].stop or rows)
        for cut in sharding.addressable_devices_indices_map((rows,)).values()
    }
    return [row for start, stop in sorted(cuts) for row in range(start, stop)]


def array_sharding(
    shape: tuple[int, ...],
    names: tuple[str | None, ...],
    mesh: AnyMesh,
    rules: ShardingRules = ShardingRules(),
) -> NamedSharding:
    """The sharding of an array whose first axes carry these names, where the mesh axes divide them."""
    return NamedSharding(mesh, _divides(shape, rules.spec(names), mesh))


def _divides(shape: tuple[int, ...], spec: PartitionSpec, mesh: AnyMesh) -> PartitionSpec:
    """The spec without the mesh axes that do not divide their dimension."""
    kept = []
    for size, entry in zip(shape, tuple(spec) + (None,) * (len(shape) - len(spec)), strict=True):
        axes = () if entry is None else (entry,) if isinstance(entry, str) else entry
        kept.append(entry if size % math.prod(mesh.shape[axis] for axis in axes) == 0 else None)
    return PartitionSpec(*kept)


def variable_sharding(variable: nnx.Variable, mesh: AnyMesh, rules: ShardingRules) -> NamedSharding:
    """The sharding of one parameter, from the logical names in its metadata."""
    names = variable.get_metadata().get("axes")
    shape = variable.shape
    if names is None:
        return replicated(mesh)
    if len(names) == len(shape) - 1:
        names = ("layer", *names)
    if len(names) != len(shape):
        raise ValueError(f"axes {names} do not name the dimensions of a parameter of shape {shape}")
    return NamedSharding(mesh, _divides(shape, rules.spec(names), mesh))


def shardings_like(tree, mesh: AnyMesh, rules: ShardingRules = ShardingRules()):
    """A tree of NamedShardings for a pytree of modules, optimizer state and scalars.

    Variables follow their logical names; everything else is replicated.  Optimizer moments of a
    module keep the module's Variables and so its shardings.
    """
    is_variable = lambda node: isinstance(node, nnx.Variable)

    def one(node):
        if is_variable(node) and not jax.tree.leaves(node):
            return node  # an optimizer's mark for a parameter that another part of it treats
        if is_variable(node):
            sharding = variable_sharding(node, mesh, rules)
            return jax.tree.map(lambda _: sharding, node)
        return replicated(mesh)

    return jax.tree.map(one, tree, is_leaf=is_variable)


def keep_sharded(tree, rules: ShardingRules = ShardingRules()):
    """The tree with every array where its names say; left to itself, a compiled step may move its outputs.

    For use inside jit under ``jax.set_mesh``; does nothing outside it or on one device.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return tree
    return jax.lax.with_sharding_constraint(tree, shardings_like(tree, mesh, rules))


def shard(x: jax.Array, *names: str | None, rules: ShardingRules = ShardingRules()) -> jax.Array:
    """Constrain an activation's sharding by logical names; does nothing outside ``jax.set_mesh``."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return x
    return jax.lax.with_sharding_constraint(x, _divides(x.shape, rules.spec(names), mesh))


def per_shard(function, *arrays: jax.Array, names, out, rules: ShardingRules = ShardingRules()) -> jax.Array:
    """``function`` of each device's own part of the arrays; of the whole arrays outside ``jax.set_mesh``.

    Args:
      names: the logical names of each array's axes; an axis that its mesh axes do not divide stays whole.
      out: those of the result, which has the size of the first array along them.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return function(*arrays)
    specs = tuple(_divides(x.shape, rules.spec(n), mesh) for x, n in zip(arrays, names, strict=True))
    whole = _divides(arrays[0].shape, rules.spec(out), mesh)
    return jax.shard_map(function, in_specs=specs, out_specs=whole, check_vma=False)(*arrays)
