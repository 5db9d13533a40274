"""The small speech encoder of the tiny world: python train.py tiny_visemes; about 15 minutes on two cores.

Expect a correlation of 0.9 or more with the true opening of held-out voices.
"""

from tm_jax.training.loop_config import LoopConfig
from tm_jax.training.optim import OptimConfig
from tm_jax.training.viseme_phase import VisemeExperiment

STEPS = 4000

PRESET = VisemeExperiment(
    loop=LoopConfig(
        name="tiny_visemes",
        steps=STEPS,
        batch_size=16,
        preview_every=500,
        checkpoint_every=500,
        log_every=50,
    ),
    optim=OptimConfig(
        name="muon",
        lr=2e-3,
        warmup_steps=100,
        schedule="cosine",
        decay_steps=STEPS - 100,
        clip=1.0,
        weight_decay=1e-2,
    ),
)
