"""Mesh, logical axes and shardings: the only file that says PartitionSpec.

Parameters carry the logical names of their axes in their metadata (``axes=("embed", "mlp")``);
``ShardingRules`` maps those names onto the mesh.  Stacked layers have one leading axis more than
their names, which is the ``layer`` axis.
"""

import dataclasses
import math
from functools import partial

import jax
from flax import nnx
from jax.experimental import mesh_utils
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from tm_jax.errors import InputError

AnyMesh = Mesh | AbstractMesh
Entry = str | tuple[str, ...] | None

MESH_AXES = ("data", "fsdp", "context", "tensor")
"""From the slowest network to the fastest: neighbours in the last axis are neighbours in the machine."""


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """Sizes of the mesh axes; their product must be the number of devices."""

    data: int = 1
    """Replicas of the model, each with its share of the batch; over the slices where there are several."""
    fsdp: int = -1
    """Devices that share one copy of the parameters and the batch; -1 takes all that are left."""
    context: int = 1
    """Devices that share the tokens of each clip, and one copy of the parameters too."""
    tensor: int = 1
    """Devices that share the heads and the hidden units of each layer."""

    def __post_init__(self):
        sizes = (self.data, self.fsdp, self.context, self.tensor)
        if sum(size == -1 for size in sizes) > 1 or any(size == 0 or size < -1 for size in sizes):
            raise ValueError(f"mesh sizes {sizes}: each must be positive, and one of them may be -1")

    def shape(self, device_count: int) -> tuple[int, int, int, int]:
        """The sizes with -1 resolved for this many devices."""
        sizes = [self.data, self.fsdp, self.context, self.tensor]
        known = math.prod(size for size in sizes if size != -1)
        if -1 in sizes and device_count % known == 0:
            sizes[sizes.index(-1)] = device_count // known
        if math.prod(sizes) != device_count:
            raise ValueError(f"mesh data×fsdp×context×tensor = {sizes} does not fill {device_count} devices")
        return tuple(sizes)


@dataclasses.dataclass(frozen=True)
class ShardingRules:
    """Logical axis name → mesh axis (or axes, or None for replicated)."""

    batch: str | tuple[str, ...] | None = ("data", "fsdp")
    tokens: str | tuple[str, ...] | None = "context"
    """The tokens of a latent frame, inside a block."""
    stream: str | tuple[str, ...] | None = ("context", "tensor")
    """The same between blocks, where nothing is split by heads or hidden units."""
    layer: str | None = None
    embed: str | tuple[str, ...] | None = ("fsdp", "context")
    mlp: str | tuple[str, ...] | None = "tensor"
    heads: str | tuple[str, ...] | None = "tensor"
    whole_heads: str | tuple[str, ...] | None = ("tensor", "context")
    """Heads while each device holds all tokens of its own: in self-attention, and in a stream's cache."""
    condition: str | tuple[str, ...] | None = None
    rows: str | tuple[str, ...] | None = "context"
    """The rows of a picture, and of a decoder's arrays at every resolution."""

    def spec(self, names: tuple[str | None, ...]) -> PartitionSpec:
        """The PartitionSpec of an array whose axes carry these logical names."""
        axes = [None if name is None else getattr(self, name) for name in names]
        used = [axis for entry in axes for axis in _axes(entry)]
        if len(used) != len(set(used)):
            raise ValueError(f"logical axes {names} land twice on one mesh axis: {axes}")
        return PartitionSpec(*axes)


def make_mesh(config: MeshConfig = MeshConfig(), devices: list | None = None) -> Mesh:
    """A mesh over the given devices (all of them by default), with automatic sharding propagation.

    Several TPU slices share the data axis, whose traffic their slow network bears.

    Raises:
      ValueError: the sizes don't fill the devices, or data isn't a multiple of the slices.
    """
    devices = jax.devices() if devices is None else devices
    shape = config.shape(len(devices))
    # GPUs call every host a slice, but their network carries fsdp as well.
    slices = len({getattr(d, "slice_index", 0) for d in devices}) if devices[0].platform == "tpu" else 1
    if shape[0] % slices:
        raise ValueError(f"mesh data = {shape[0]} does not split over {slices} slices: give a multiple of it")
    if slices > 1:
        within = (shape[0] // slices, *shape[1:])
        layout = mesh_utils.create_hybrid_device_mesh(
            within, (slices, 1, 1, 1), devices, allow_split_physical_axes=True
        )
    else:
        layout = mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
    return Mesh(layout, MESH_AXES, axis_types=(AxisType.Auto,) * len(MESH_AXES))


_COUNTED = {
    "batch": "clips of a batch",
    "tokens": "tokens of a latent frame",
    "embed": "channels of a token",
    "mlp": "hidden units of a layer",
    "heads": "attention heads",
    "rows": "rows of the latents",
}


def check_mesh(mesh: AnyMesh, sizes: dict[str, int], rules: ShardingRules = ShardingRules()) -> None:
    """Refuses a mesh whose axes don't divide what they are to split.

    Args:
      sizes: logical axis name → its length, for those among batch, tokens, embed, mlp, heads and rows that
        matter.

    Raises:
      InputError: naming the axes and the sizes that do divide.
    """
    for name, size in sizes.items():
        split = {axis: mesh.shape[axis] for axis in _axes(getattr(rules, name)) if mesh.shape[axis] > 1}
        if size % math.prod(split.values()):
            fitting = ", ".join(str(n) for n in range(1, min(size, 1024) + 1) if size % n == 0)
            given = " × ".join(f"{axis} {ways}" for axis, ways in split.items())
            raise InputError(
                f"A mesh of {given} does not split the {size} {_COUNTED[name]}: choose among {fitting}."
            )


def platform() -> str:
    """Where the code that is being traced will run: ``tpu``, ``gpu`` or ``cpu``.

    Under ``jax.set_mesh`` it is what the mesh's devices are, also when they are only described; otherwise the
    default device.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if not mesh.empty and mesh.abstract_device is not None:
        return mesh.abstract_device.platform
    return jax.default_backend()


def replicated(mesh: AnyMesh) -> NamedSharding:
    """The sharding of an array that every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: AnyMesh, rules: ShardingRules = ShardingRules()) -> NamedSharding:
    """The sharding of arrays whose first axis is the batch."""
    return NamedSharding(mesh, rules.spec(("batch",)))


def _axes(entry: Entry) -> tuple[str, ...]:
    return () if entry is None else (entry,) if isinstance(entry, str) else entry


def one_each(mesh: Mesh) -> NamedSharding:
    """The sharding of a vector with one element, or several, for each device."""
    return NamedSharding(mesh, PartitionSpec(mesh.axis_names))


def batch_axes(rules: ShardingRules) -> tuple[str, ...]:
    """The mesh axes over which the batch is split."""
    return _axes(rules.batch)


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
    """The spec without the mesh axes that do not divide their dimension; of several, the last go first."""
    kept = []
    for size, entry in zip(shape, tuple(spec) + (None,) * (len(shape) - len(spec)), strict=True):
        axes = _axes(entry)
        while size % math.prod(mesh.shape[axis] for axis in axes):
            axes = axes[:-1]
        kept.append(entry if axes == _axes(entry) else axes or None)
    return PartitionSpec(*kept)


def variable_sharding(variable: nnx.Variable, mesh: AnyMesh, rules: ShardingRules) -> NamedSharding:
    """The sharding of one parameter, from the logical names in its metadata."""
    names, shape = _names(variable), variable.shape
    if names is None:
        return replicated(mesh)
    if len(names) != len(shape):
        raise ValueError(f"axes {names} do not name the dimensions of a parameter of shape {shape}")
    return NamedSharding(mesh, _divides(shape, rules.spec(names), mesh))


def _names(variable: nnx.Variable) -> tuple[str | None, ...] | None:
    """The logical names of a parameter's axes, that of stacked layers included."""
    names = variable.get_metadata().get("axes")
    return ("layer", *names) if names is not None and len(names) == variable.ndim - 1 else names


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


def gathered(
    tree, dtype: str, rules: ShardingRules = ShardingRules(), *, whole: tuple[str, ...] = ("embed",)
):
    """The parameters that carry names, in this precision, whole along axes that are split for storage alone.

    Left to itself the compiler may rather move activations, which are larger.  Gradients go back to where the
    parameters lie.  Does nothing but the rounding outside ``jax.set_mesh`` or on one device.

    Args:
      whole: logical names of those axes.
    """
    mesh = jax.sharding.get_abstract_mesh()
    in_use = dataclasses.replace(rules, **dict.fromkeys(whole))

    def one(variable):
        names = _names(variable)
        if names is None:
            return variable
        value = variable[...].astype(dtype)
        if not mesh.empty and mesh.size > 1:
            spec = lambda rules: _divides(value.shape, rules.spec(names), mesh)
            value = _moved(value, spec(in_use), spec(rules))
        return variable.replace(value)

    return jax.tree.map(one, tree, is_leaf=lambda node: isinstance(node, nnx.Variable))


@partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _moved(x: jax.Array, there: PartitionSpec, back: PartitionSpec) -> jax.Array:
    return jax.lax.with_sharding_constraint(x, there)


def _moved_back(there: PartitionSpec, back: PartitionSpec, _, gradient: jax.Array) -> tuple[jax.Array]:
    summed = jax.lax.with_sharding_constraint(gradient, there)
    return (jax.lax.with_sharding_constraint(summed, back),)


_moved.defvjp(lambda x, there, back: (_moved(x, there, back), None), _moved_back)


def shard(x: jax.Array, *names: str | None, rules: ShardingRules = ShardingRules()) -> jax.Array:
    """Constrain an activation's sharding by logical names; does nothing outside ``jax.set_mesh``."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return x
    return jax.lax.with_sharding_constraint(x, _divides(x.shape, rules.spec(names), mesh))


def split_over(name: str, size: int, rules: ShardingRules = ShardingRules()) -> tuple[str, ...]:
    """The mesh axes that split an axis of this name and size under ``jax.set_mesh``; () outside of it."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return ()
    axes = _axes(_divides((size,), rules.spec((name,)), mesh)[0])
    return tuple(axis for axis in axes if mesh.shape[axis] > 1)


def per_shard(function, *inputs, names, out, rules: ShardingRules = ShardingRules()) -> tuple:
    """``function`` of each device's own part of the arrays; of the whole arrays outside ``jax.set_mesh``.

    Args:
      inputs: arrays, or trees of arrays whose axes bear the same names.
      names: for each input the logical names of its axes; an axis that its mesh axes do not divide stays
        whole.
      out: for each of the tuple of results, the names of its axes and its shape when whole.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return function(*inputs)

    def specs(tree, names):
        return jax.tree.map(lambda x: _divides(x.shape, rules.spec(names), mesh), tree)

    given = tuple(map(specs, inputs, names))
    made = tuple(_divides(shape, rules.spec(of), mesh) for of, shape in out)
    return jax.shard_map(function, in_specs=given, out_specs=made, check_vma=False)(*inputs)
