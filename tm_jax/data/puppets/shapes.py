"""What every puppet is painted with: soft shapes, layers of colour, and where the head is.

A shape is a signed distance in half pictures (negative inside); a colour is three planes or numbers.
"""

import jax.numpy as jnp


class Named:
    """Names for the columns of a vector, colours as triples."""

    def __init__(self, names, vector):
        self._values = {name: vector[i] for i, name in enumerate(names)}

    def __getattr__(self, name):
        return self._values[name]

    def colour(self, name):
        return tuple(self._values[f"{name}_{axis}"] for axis in "rgb")

    def painted(self, **colours):
        """The same names with other colours, which may be planes."""
        copy = Named((), ())
        copy._values = dict(self._values)
        for name, colour in colours.items():
            copy._values |= {f"{name}_{axis}": c for axis, c in zip("rgb", colour, strict=True)}
        return copy


def smooth(x, low, high):
    s = jnp.clip((x - low) / (high - low), 0.0, 1.0)
    return s * s * (3.0 - 2.0 * s)


def lerp(a, b, s):
    return a + (b - a) * s


def bump(dx, dy):
    """A soft hill of height 1 that reaches 0 at radius 1; cheaper than a Gaussian."""
    q = jnp.maximum(1.0 - dx * dx - dy * dy, 0.0)
    return q * q


def ellipse(dx, dy, rx, ry):
    """Approximate distance to an ellipse and its normalised radius."""
    ax, ay = dx / rx, dy / ry
    k0 = jnp.sqrt(ax * ax + ay * ay + 1e-6)
    bx, by = ax / rx, ay / ry
    k1 = jnp.sqrt(bx * bx + by * by + 1e-6)
    return k0 * (k0 - 1.0) / k1, k0


def over(picture, colour, alpha):
    return tuple(lerp(p, c, alpha) for p, c in zip(picture, colour, strict=True))


def times(colour, factor):
    return tuple(c * factor for c in colour)


def mix(a, b, s):
    return tuple(lerp(x, y, s) for x, y in zip(a, b, strict=True))


def face_frame(p, m, x, y):
    """Head coordinates of every pixel, the features' parallax, and the egg of the face."""
    dx, dy = x - p.head_x - m.x, y - p.head_y - m.y
    # The head turns about the neck, not about its middle.
    cos, sin = jnp.cos(m.angle), jnp.sin(m.angle)
    dy = dy - 0.5
    u, v = cos * dx + sin * dy, -sin * dx + cos * dy + 0.5
    jaw = 0.34 * p.mouth_h * m.opening
    below = jnp.clip((v + 0.05) / (p.head_h + 0.05), 0.0, 1.1)
    rx = p.head_w * (1.0 - p.taper * below * below)
    ry = p.head_h + jnp.where(v > 0.0, jaw, 0.0)
    d_face, q = ellipse(u, v, rx, ry)
    return u, v, rx, ry, d_face, q


def parallax(m, u, v, q):
    """Head coordinates of the features, which move against the outline as the head turns and nods."""
    return u - 0.055 * m.yaw * (1.0 - 0.5 * q * q), v - 0.045 * m.pitch
