"""The sizes of the viseme encoder, apart from it: whoever reads them needs no JAX."""

import dataclasses

MOUTH = ("opening", "width", "rounding")
"""What the head is told of the mouth."""


@dataclasses.dataclass(frozen=True)
class VisemeConfig:
    """Sizes of the viseme encoder."""

    inputs: int = 80
    """Width of a log-mel token."""
    width: int = 256
    """Hidden units."""
    dilations: tuple[int, ...] = (1, 1, 2, 4, 8)
    """Distance of each layer's three taps, in tokens of 20 ms."""
    outputs: int = 64
    """Width of a token."""
    offsets: tuple[int, ...] = (-7, -3, 1)
    """Moments, in tokens after a token's own start, at which the head tells the mouth."""

    def __post_init__(self):
        if not self.dilations or min(self.dilations) < 1:
            raise ValueError(f"VisemeConfig.dilations {self.dilations}: give distances of at least 1")

    @property
    def past(self) -> int:
        """Earlier log-mel tokens that a token hears."""
        return 2 * sum(self.dilations)
