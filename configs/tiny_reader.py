"""The face reader of the evaluation: python train.py tiny_reader; about 6 minutes on one core.

Expect a correlation of 0.99 with the true opening on held-out faces.
"""

from tm_jax.training.loop_config import LoopConfig
from tm_jax.training.optim import OptimConfig
from tm_jax.training.reader_phase import FacesConfig, ReaderExperiment

STEPS = 900

PRESET = ReaderExperiment(
    loop=LoopConfig(name="tiny_reader", steps=STEPS, batch_size=8, preview_every=300, checkpoint_every=300),
    optim=OptimConfig(lr=2e-3, warmup_steps=50, schedule="cosine", decay_steps=STEPS - 50, clip=1.0),
    faces=FacesConfig(identities=1000, poses=12),
)
