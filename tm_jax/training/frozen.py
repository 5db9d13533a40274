"""The transformers of a distillation that never change, read slice by slice when they are first needed."""

import jax

from tm_jax.models.dit import DiT
from tm_jax.sharding import AnyMesh
from tm_jax.training.abstract import placed
from tm_jax.training.networks import DiTSource, frozen_dit, open_dit
from tm_jax.training.student_experiment import StudentExperiment


class Frozen:
    """The teacher, and with ``lora`` what student and critic change: the teacher too, or ``init_from``."""

    def __init__(self, config: StudentExperiment):
        self.config = config
        self._sources: dict[str, DiTSource] = {}
        self._read: dict[str, DiT] = {}
        self._digests: dict[str, str] = {}

    def source(self, field: str) -> DiTSource:
        """The files of ``teacher``, or of ``init_from``, where the student starts: the teacher without it.

        The same files for as long as the run lasts.

        Raises:
            InputError: they are missing or of another config; so do the others.
        """
        if field == "init_from" and self.config.init_from is None:
            return self.source("teacher")
        if field not in self._sources:
            self._sources[field] = open_dit(getattr(self.config, field), self.config.model)
        return self._sources[field]

    def digest(self, field: str) -> str:
        """What the values of a source depend on."""
        if field not in self._digests:
            self._digests[field] = self.source(field).digest(self.config.loop.rules)
        return self._digests[field]

    def teacher(self) -> DiT:
        """The teacher on the current mesh."""
        return self._load("teacher")

    def of_critic(self) -> DiT | None:
        """What the critic changes; None where all its parameters are trained."""
        return self.teacher() if self.config.lora else None

    def of_student(self) -> DiT | None:
        """What the student changes; None where all its parameters are trained."""
        return self._load("init_from" if self.config.init_from else "teacher") if self.config.lora else None

    def _load(self, field: str) -> DiT:
        if field not in self._read:
            self._read[field] = self.source(field).load(self.config.loop.rules, frozen=True)
        return self._read[field]

    def abstract(self, mesh: AnyMesh) -> tuple[DiT, DiT | None, DiT | None]:
        """Shapes of the teacher, of what the student changes and of what the critic changes."""
        one = lambda: placed(
            jax.eval_shape(lambda: frozen_dit(self.config.model)), mesh, self.config.loop.rules
        )
        teacher = one()
        if not self.config.lora:
            return teacher, None, None
        return teacher, one() if self.config.init_from else teacher, teacher
