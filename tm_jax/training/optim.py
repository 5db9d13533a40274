"""Optimizers for module pytrees: AdamW or Muon, with clipping, warm-up and decay, and the moving average.

The transforms are plain optax on modules: ``tx.init(model)``, ``tx.update(gradients, state, model)``,
``optax.apply_updates(model, updates)``.  Moments are modules of the same class with the same Variables, so
they keep the logical axes and the sharding of their parameters.
"""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Float, Int

_is_variable = lambda node: isinstance(node, nnx.Variable)


@dataclasses.dataclass(frozen=True)
class OptimConfig:
    """One optimizer: method, learning rate over time, and what keeps it stable."""

    name: Literal["adamw", "muon"] = "adamw"
    """adamw, or muon: kernels by orthogonalised momentum, everything else by Adam."""
    lr: float = 1e-4
    """Peak learning rate."""
    warmup_steps: int = 0
    """Steps over which the learning rate grows linearly from 0."""
    schedule: Literal["constant", "cosine", "linear"] = "constant"
    """How the learning rate goes from lr to lr_end after the warm-up."""
    lr_end: float = 0.0
    """Learning rate at the end of the decay (unused when constant)."""
    decay_steps: int = 0
    """Steps of the decay, counted after the warm-up (unused when constant)."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay of Adam's first and second moments."""
    weight_decay: float = 0.0
    """Decoupled weight decay, on kernels only."""
    clip: float = 0.0
    """Largest global norm of the gradient; 0 switches clipping off."""
    eps: float = 1e-8
    """Adam's ε."""
    moments: Literal["float32", "bfloat16"] = "float32"
    """Precision of the first moment, and of muon's.  The second is always float32: a decay of 0.999 changes
    it by less than bfloat16 tells apart."""
    muon_beta: float = 0.95
    """Momentum of the kernels under muon."""
    muon_rms: float = 0.2
    """Size of muon's update relative to lr: 0.2 resembles Adam's; 0 leaves it orthonormal, which bounds the
    change of each layer's output whatever its fan-in."""

    slow: tuple[str, ...] = ()
    """Parts of parameters' names, such as conv_in: those parameters learn at slow_factor times the rate."""
    slow_factor: float = 0.1
    """See slow."""

    def __post_init__(self):
        if self.lr < 0 or self.lr_end < 0 or self.warmup_steps < 0 or self.clip < 0:
            raise ValueError("optim: lr, lr_end, warmup_steps and clip must not be negative")
        if self.schedule != "constant" and self.decay_steps <= 0:
            raise ValueError(f"optim: schedule {self.schedule!r} needs decay_steps > 0")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"optim: betas {self.betas} must lie in [0, 1)")


def learning_rate(config: OptimConfig) -> optax.Schedule:
    """The learning rate as a function of the number of updates made so far."""
    if config.schedule == "constant":
        after = optax.constant_schedule(config.lr)
    elif config.schedule == "linear":
        after = optax.linear_schedule(config.lr, config.lr_end, config.decay_steps)
    else:
        floor = config.lr_end / config.lr if config.lr else 0.0
        after = optax.cosine_decay_schedule(config.lr, config.decay_steps, alpha=floor)
    if not config.warmup_steps:
        return after
    # The first update already moves: it is made at lr / warmup_steps, not at 0.
    warmup = lambda count: config.lr * (count + 1) / config.warmup_steps
    return optax.join_schedules((warmup, after), (config.warmup_steps,))


def _stacked(variable: nnx.Variable) -> bool:
    """Whether the kernel's first axis counts layers: it then has one axis more than logical names.

    A kernel of three axes without names is taken for stacked dense layers.
    """
    names = variable.get_metadata().get("axes")
    return variable.ndim == 3 if names is None else len(names) == variable.ndim - 1


def _is_kernel(path: tuple, variable: nnx.Variable) -> bool:
    return str(path[-1].name if hasattr(path[-1], "name") else path[-1]).endswith("kernel")


def _map_variables(make, params):
    """The tree of params with every array replaced by make(path, variable), inside the same Variables."""

    def one(path, variable):
        value = make(path, variable)
        return jax.tree.map(lambda _: value, variable)

    return jax.tree_util.tree_map_with_path(one, params, is_leaf=_is_variable)


def kernel_mask(params):
    """True on kernels (matrices and convolutions, stacked or not); False on biases, norms and tables."""
    return _map_variables(_is_kernel, params)


def muon_dimensions(params):
    """Which axes Muon orthogonalises: (all but the last) × last of each kernel, layers one by one.

    None (everything that is not a kernel) goes to Adam.
    """

    def one(path, variable):
        if not _is_kernel(path, variable):
            return None
        first = 1 if _stacked(variable) else 0
        return optax.contrib.MuonDimensionNumbers(tuple(range(first, variable.ndim - 1)), variable.ndim - 1)

    return _map_variables(one, params)


def name_mask(params, beginnings: tuple[str, ...]):
    """True on the parameters whose dotted names begin so."""
    named = lambda path: jax.tree_util.keystr(path, simple=True, separator=".")
    return _map_variables(lambda path, _: named(path).startswith(beginnings), params)


def make_optimizer(config: OptimConfig, *, only: tuple[str, ...] = ()) -> optax.GradientTransformation:
    """The optax transform of a config; gradients are clipped before anything else.

    Args:
        only: beginnings of the names of the parameters that learn, () for all; the others have no moments.
    """
    method = _method(config)
    if not only:
        return method
    label = lambda params: jax.tree.map(
        lambda learns: "learns" if learns else "stays", name_mask(params, only)
    )
    return optax.partition({"learns": method, "stays": optax.set_to_zero()}, label)


def _method(config: OptimConfig) -> optax.GradientTransformation:
    rate = learning_rate(config)
    if config.name == "adamw":
        method = optax.adamw(
            rate,
            b1=config.betas[0],
            b2=config.betas[1],
            eps=config.eps,
            weight_decay=config.weight_decay,
            mask=kernel_mask,
            mu_dtype=config.moments,
        )
    else:
        method = optax.contrib.muon(
            rate,
            beta=config.muon_beta,
            eps=config.eps,
            weight_decay=config.weight_decay,
            adam_b1=config.betas[0],
            adam_b2=config.betas[1],
            consistent_rms=config.muon_rms or None,
            mu_dtype=config.moments,
            muon_weight_dimension_numbers=muon_dimensions,
        )
    if config.slow:
        method = optax.chain(method, _slowed(config))
    return optax.chain(optax.clip_by_global_norm(config.clip), method) if config.clip else method


def _slowed(config: OptimConfig) -> optax.GradientTransformation:
    """Scales the updates of the slow parameters."""

    def one(path, variable):
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        return config.slow_factor if any(part in name for part in config.slow) else 1.0

    def scale(updates, params):
        return jax.tree.map(lambda update, factor: factor * update, updates, _map_variables(one, params))

    return optax.stateless(scale)


def ema_decay(decay: float, updates: Int[Array, ""]) -> Float[Array, ""]:
    """The decay after a number of updates, min(decay, (1+n)/(10+n)): young averages forget faster."""
    n = updates.astype(jnp.float32)
    return jnp.minimum(decay, (1 + n) / (10 + n))


def ema_update(ema, model, decay: float, updates: Int[Array, ""]):
    """The moving average of a module's parameters, one update on; `updates` counts those made before."""
    rate = ema_decay(decay, updates)
    return jax.tree.map(lambda old, new: old + (1 - rate).astype(old.dtype) * (new - old), ema, model)
