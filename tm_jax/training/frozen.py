"""The transformers of a distillation that never change, read slice by slice when they are first needed."""

import hashlib
from typing import Any

import jax
import numpy as np

from tm_jax.errors import InputError
from tm_jax.models.dit import DiT
from tm_jax.sharding import AnyMesh
from tm_jax.training.abstract import placed
from tm_jax.training.networks import frozen_dit, open_dit
from tm_jax.training.student_experiment import StudentExperiment


class Frozen:
    """The teacher, and with ``lora`` what student and critic change: the teacher too, or ``init_from``."""

    def __init__(self, config: StudentExperiment):
        self.config = config
        self._read: dict[str, DiT] = {}
        self._checked = False

    def teacher(self) -> DiT:
        """The teacher on the current mesh.

        Raises:
            InputError: it is missing or of another config; so do the others.
        """
        return self._load(str(self.config.teacher))

    def of_critic(self) -> DiT | None:
        """What the critic changes; None where all its parameters are trained."""
        return self.teacher() if self.config.lora else None

    def of_student(self) -> DiT | None:
        """What the student changes; None where all its parameters are trained."""
        return self._load(self.config.init_from or str(self.config.teacher)) if self.config.lora else None

    def _load(self, path: str) -> DiT:
        if path not in self._read:
            source = open_dit(path, self.config.model)
            self._read[path] = source.load(self.config.loop.rules, frozen=True)
        return self._read[path]

    def abstract(self, mesh: AnyMesh) -> tuple[DiT, DiT | None, DiT | None]:
        """Shapes of the teacher, of what the student changes and of what the critic changes."""
        one = lambda: placed(
            jax.eval_shape(lambda: frozen_dit(self.config.model)), mesh, self.config.loop.rules
        )
        teacher = one()
        if not self.config.lora:
            return teacher, None, None
        return teacher, one() if self.config.init_from else teacher, teacher

    def digest(self) -> np.ndarray:
        """What the values in the files are: an uint32."""
        config = self.config
        of = [open_dit(path, config.model).digest() for path in (config.teacher, config.init_from) if path]
        return np.array(int(hashlib.sha256(repr(of).encode()).hexdigest()[:8], 16), np.uint32)

    def check(self, digest: Any) -> None:
        """Refuses, once, to go on with changes of other transformers than the files hold.

        Args:
            digest: as the run began with; None where nothing is held of it.

        Raises:
            InputError: the files hold others now.
        """
        config = self.config
        if not self._checked and digest is not None and self.digest() != np.asarray(digest):
            raise InputError(
                f"The checkpoint of {config.loop.name} holds low-rank changes of other transformers than "
                f"{config.init_from or config.teacher}: give --teacher and --init-from as the run began, or "
                "another --loop.name."
            )
        self._checked = True
