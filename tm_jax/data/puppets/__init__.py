"""A synthetic world of talking puppets: pictures, speech, and the true mouth opening of every frame."""

from tm_jax.data.puppets.world import FPS, SAMPLES_PER_FRAME, Clip, PuppetWorld, Track, frame_count

__all__ = ["FPS", "SAMPLES_PER_FRAME", "Clip", "PuppetWorld", "Track", "frame_count"]
