"""What a distillation reads at each step: a clip, a pair of the teacher's and a long stream."""

import grain
import numpy as np

from tm_jax.data.latent_clips import EncodedVideo, LatentClips, conditioning_arrays, stream_frames
from tm_jax.training.clip_data import Videos
from tm_jax.training.ode_pairs import OdePairs
from tm_jax.training.student_experiment import StudentExperiment


class PairedClips(grain.transforms.RandomMap):
    """Adds to an encoded video's clip a cached pair and the video from its start as a long stream."""

    def __init__(self, config: StudentExperiment, videos: Videos, pairs: OdePairs):
        self.config, self.videos, self.pairs = config, videos, pairs
        self.clips = LatentClips(config.clip)

    def random_map(self, element: EncodedVideo, rng: np.random.Generator) -> dict:
        """{"clip": {…}, "pair": {…}, "stream": {…}}."""
        row = int(rng.integers(len(self.pairs.video)))
        frames = stream_frames(len(element.mode), self.config.clip, self.config.long_chunks)
        return {
            "clip": self.clips.random_map(element, rng),
            "pair": self.pairs.element(row, self.videos, self.config.clip),
            "stream": {"conditioning": conditioning_arrays(element, frames, self.config.clip)},
        }
