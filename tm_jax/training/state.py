"""What a training phase carries from step to step: a pytree that goes in, is donated, and comes out."""

from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jaxtyping import PRNGKeyArray

from tm_jax.training.optim import ema_update


@flax.struct.dataclass
class TrainState:
    """A model in training, its moving average, its optimizer and its randomness."""

    model: Any
    """The module whose parameters are trained."""
    ema: Any
    """The same module with averaged parameters: what is shipped.  None where nothing is, as of a critic."""
    opt_state: Any
    """The optimizer's state; its moments are modules like the model."""
    # Not annotated by shape: trees of shapes and of shardings are made of this class too.
    step: Any
    """Updates made so far, an int32 scalar."""
    key: Any
    """The phase's random key; draw with ``state.draw()``, which never repeats."""

    @classmethod
    def create(
        cls, model, tx: optax.GradientTransformation, key: PRNGKeyArray, *, averaged: bool = True
    ) -> "TrainState":
        """The state before the first step; call it inside jit, so that the copies are the compiler's."""
        return cls(
            model=model,
            ema=jax.tree.map(jnp.copy, model) if averaged else None,
            opt_state=tx.init(model),
            step=jnp.zeros((), jnp.int32),
            key=key,
        )

    def draw(self) -> PRNGKeyArray:
        """The key of this step."""
        return jax.random.fold_in(self.key, self.step)

    def begin_with(self, model) -> "TrainState":
        """The state with these parameters, which the average holds too."""
        return self.replace(model=model, ema=None if self.ema is None else jax.tree.map(jnp.copy, model))

    def apply(
        self,
        gradients,
        tx: optax.GradientTransformation,
        decay: float = 0.0,
        *,
        averaged: Callable = lambda model: model,
    ) -> "TrainState":
        """The state after one update by these gradients, with the moving average moved along.

        Args:
            averaged: what is averaged of the updated model.
        """
        updates, opt_state = tx.update(gradients, self.opt_state, self.model)
        model = optax.apply_updates(self.model, updates)
        ema = None if self.ema is None else ema_update(self.ema, averaged(model), decay, self.step)
        return self.replace(model=model, ema=ema, opt_state=opt_state, step=self.step + 1)
