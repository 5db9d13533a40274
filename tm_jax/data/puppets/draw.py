"""The picture of a puppet: one elementwise program over the pixels, jitted on the CPU.

Every shape is a signed distance in half pictures (negative inside), turned into coverage by a smooth step
about 1.6 pixels wide, and painted back to front.  The style is data: the same program draws all three, so it
is compiled once for a size.  Colours are three planes, so that XLA fuses the whole without transposes.

The varied world has programs of its own, since more terms in this one would round plain pictures otherwise:
the same drawing seen by a camera, and the painting of ``photograph``.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float, UInt8

from tm_jax.data.puppets import photograph
from tm_jax.data.puppets.features import body, ears, eyes, hair, mouth
from tm_jax.data.puppets.identity import PARAMETERS
from tm_jax.data.puppets.shapes import Named, bump, face_frame, lerp, mix, over, parallax, smooth, times
from tm_jax.data.puppets.variety import Look
from tm_jax.sharding import MeshConfig, make_mesh, replicated

MOTION = (
    "x",
    "y",
    "angle",
    "yaw",
    "pitch",
    "blink",
    "gaze_x",
    "gaze_y",
    "brow",
    "opening",
    "width",
    "rounding",
    "breath",
)
"""Columns of a motion array: offsets in half pictures, angle in radians, yaw and pitch −1 … 1, blink 0 … 1,
gaze −1 … 1, brow raise −1 … 1, mouth opening 0 … 1, width −1 … 1, rounding 0 … 1, breath −1 … 1."""

BATCH = 4
"""Frames drawn by one call: small enough to stay in the cache of a core."""


def _background(p, x, y):
    s = smooth(y + 0.25 * x * p.light, -1.2, 1.2)
    tint = 0.0
    for i in range(3):
        size = 2.2 * getattr(p, f"blob{i}_s")
        cx, cy = getattr(p, f"blob{i}_x"), getattr(p, f"blob{i}_y")
        tint = tint + getattr(p, f"blob{i}_a") * bump((x - cx) / size, (y - cy) / size)
    vignette = 1.0 - (0.22 * p.is_photo + 0.08 * p.is_shaded) * (x * x + y * y) * 0.6
    return tuple((c + tint) * vignette for c in mix(p.colour("high"), p.colour("low"), s))


def _lit(p, colour, nx, ny, nz, shine):
    """Shade a colour by its normal: soft for shaded and photo, two flat tones for anime."""
    lx, ly, lz = 0.55 * p.light, -0.52, 0.72
    lambert = nx * lx + ny * ly + nz * lz
    soft = jnp.clip(lambert, 0.0, 1.0)
    cel = smooth(lambert, 0.08, 0.2)
    level = (
        p.is_shaded * (0.5 + 0.62 * soft)
        + p.is_photo * (0.62 + 0.5 * soft)
        + p.is_anime * lerp(0.83, 1.0, cel)
    )
    half = jnp.clip(nx * lx * 0.55 + ny * ly * 0.55 + nz * 0.9, 0.0, 1.0)
    s4 = half * half * half * half
    s16 = s4 * s4 * s4 * s4
    spec = s16 * shine * (0.32 * p.is_shaded + 0.1 * p.is_photo)
    # Shadows are warmer than light: blue falls faster than red.
    return tuple(c * (1.0 - (1.0 - level) * k) + spec for c, k in zip(colour, (0.9, 1.05, 1.12), strict=True))


def _skin(p, u, v, rx, ry, d_face, q, fu, fv, cast, cover, px):
    """Colour of the face with its modelling: nose, sockets, cheeks, chin, blush, beard."""
    nx, ny = u / rx, v / ry
    nose = bump((fu) / (1.5 * p.nose_w), (fv - p.nose_y + 0.03) / 0.2)
    k = p.nose_k * 9.0
    mx = nx + nose * k * fu * 0.9
    side = jnp.abs(fu)
    cheek = bump((side - 0.26) / 0.2, (fv - 0.2) / 0.2)
    socket = bump((side - p.eye_dx) / (p.eye_w * 1.7), (fv - p.eye_y) / (p.eye_h * 2.0))
    tip = bump(fu / p.nose_w, (fv - p.nose_y) / 0.075)
    my = ny + p.nose_k * (nose * (fv - p.nose_y + 0.05) * 2.0 + tip * (fv - p.nose_y) * 9.0)
    nz = jnp.sqrt(jnp.maximum(1.0 - nx * nx - ny * ny, 0.03))
    norm = jax.lax.rsqrt(mx * mx + my * my + nz * nz)
    base = p.colour("skin")
    mottle = p.is_photo * 0.03 * jnp.sin(p.mottle_a * fu + p.mottle_b) * jnp.sin(p.mottle_a * fv - p.mottle_b)
    base = times(base, 1.0 + mottle)
    face = _lit(p, base, mx * norm, my * norm, nz * norm, 0.6)
    solid = 1.0 - p.is_anime
    dim = 1.0 - solid * 0.16 * socket - 0.2 * cast - solid * 0.1 * smooth(q, 0.75, 1.0)
    face = tuple(c * (1.0 - (1.0 - dim) * s) for c, s in zip(face, (0.85, 1.0, 1.08), strict=True))
    blush = 0.3 * p.blush * cheek
    face = tuple(c * (1.0 - blush * s) for c, s in zip(face, (0.05, 0.55, 0.45), strict=True))
    # The shadow under the nose, and for anime its only mark.
    under = bump(fu / (p.nose_w * lerp(0.85, 0.45, p.is_anime)), (fv - p.nose_y - 0.052) / 0.04)
    face = tuple(c * (1.0 - under * s * 0.9) for c, s in zip(face, (0.3, 0.42, 0.45), strict=True))
    chin = (1.0 - smooth(fv, 0.12, 0.3)) * -1.0 + 1.0
    beard = p.beard * chin * smooth(q, 0.45, 0.72)
    stubble = times(p.colour("brow"), 0.9)
    face = over(face, stubble, 0.85 * beard)
    line = p.is_anime * 0.7
    return over(face, times(p.colour("skin"), 0.42), line * cover(-d_face - 1.4 * px))


def _drawn(p, m, x, y, px):
    """The three drawn styles."""
    cover = lambda d: 1.0 - smooth(d, -0.85 * px, 0.85 * px)
    u, v, rx, ry, d_face, q = face_frame(p, m, x, y)
    fu, fv = parallax(m, u, v, q)
    front, back, front_alpha, back_alpha, cast = hair(
        p, u + 0.02 * m.yaw, v + 0.012 * m.pitch, cover, px, _lit
    )
    picture = _background(p, x, y)
    picture = over(picture, back, back_alpha)
    picture = body(p, m, picture, x, y, cover, px, _lit)
    picture = ears(p, picture, u, v, cover, _lit)
    face = _skin(p, u, v, rx, ry, d_face, q, fu, fv, cast, cover, px)
    face = mouth(p, m, face, fu, fv, cover)
    face = eyes(p, m, face, fu, fv, cover)
    picture = over(picture, face, cover(d_face))
    return over(picture, front, front_alpha)


def _pixels(size, look):
    """Coordinates of every pixel in the world, and a pixel's side."""
    axis = (jnp.arange(size, dtype=jnp.float32) + 0.5) * (2.0 / size) - 1.0
    x = jnp.broadcast_to(axis[None, :], (size, size))
    y = jnp.broadcast_to(axis[:, None], (size, size))
    px = 2.0 / size
    if look is None:
        return x, y, px
    scale, right, down, roll = look.camera
    cos, sin = jnp.cos(roll) / scale, jnp.sin(roll) / scale
    x, y = x - right, y - down
    return cos * x + sin * y, cos * y - sin * x, px / scale


def _carried(size, parameters, motion, look):
    """The planes of a photograph's map, where the head has taken them."""
    p, m = Named(PARAMETERS, parameters), Named(MOTION, motion)
    return photograph.carried(p, m, *_pixels(size, look)[:2], look.photograph)


def _frame(size, parameters, motion, look, planes):
    p, m = Named(PARAMETERS, parameters), Named(MOTION, motion)
    x, y, px = _pixels(size, look)
    if planes is None:
        picture = _drawn(p, m, x, y, px)
    else:
        picture = photograph.paint(p, m, x, y, px, look.photograph, planes)
    picture = jnp.stack(picture, axis=-1)
    return jnp.round(jnp.clip(picture, 0.0, 1.0) * 255.0).astype(jnp.uint8)


@functools.cache
def _host() -> Mesh:
    """A mesh of one processor: under another mesh, jit refuses arrays that lie on one device alone."""
    return make_mesh(MeshConfig(), jax.local_devices(backend="cpu")[:1])


@functools.cache
def _renderer(size: int):
    """The function that draws a batch of frames; it is one program for each kind of look."""
    carry = jax.jit(jax.vmap(functools.partial(_carried, size), in_axes=(None, 0, None)))
    draw = jax.jit(jax.vmap(functools.partial(_frame, size), in_axes=(None, 0, None, 0)))

    def batch(parameters, motion, look):
        # Two programs: in one, the map would be read again for every colour, at five times the cost.
        still = look is None or look.photograph is None
        return draw(parameters, motion, look, None if still else carry(parameters, motion, look))

    return batch


def render(
    parameters: Float[np.ndarray, " parameters"],
    motion: Float[np.ndarray, "t motion"],
    size: int,
    look: Look | None = None,
) -> UInt8[np.ndarray, "t size size 3"]:
    """Draw frames of one identity: `parameters` from `Identity.vector`, columns of `motion` as `MOTION`.

    It draws on the host, whatever devices and mesh the caller computes on.

    Args:
        look: how the varied world shows this identity; None is the plain world.
    """
    draw, place = _renderer(size), replicated(_host())
    out = np.empty((len(motion), size, size, 3), np.uint8)
    with jax.set_mesh(_host()):
        parameters, look = jax.device_put((parameters, look), place)
        for start in range(0, len(motion), BATCH):
            part = motion[start : start + BATCH]
            padded = np.concatenate([part, np.repeat(part[-1:], BATCH - len(part), axis=0)])
            drawn = draw(parameters, jax.device_put(padded, place), look)
            out[start : start + len(part)] = np.asarray(drawn)[: len(part)]
    return out
