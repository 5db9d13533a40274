"""The picture of a puppet: one elementwise program over the pixels, jitted on the CPU.

Every shape is a signed distance in half pictures (negative inside), turned into coverage by a smooth step
about 1.6 pixels wide, and painted back to front.  The style is data: the same program draws all three, so it
is compiled once for a size.  Colours are three planes, so that XLA fuses the whole without transposes.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float, UInt8

from tm_jax.data.puppets.identity import PARAMETERS
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


class _P:
    """Names for the columns of the parameter and motion vectors, colours as triples."""

    def __init__(self, names, vector):
        self._values = {name: vector[i] for i, name in enumerate(names)}

    def __getattr__(self, name):
        return self._values[name]

    def colour(self, name):
        return tuple(self._values[f"{name}_{axis}"] for axis in "rgb")


def _smooth(x, low, high):
    s = jnp.clip((x - low) / (high - low), 0.0, 1.0)
    return s * s * (3.0 - 2.0 * s)


def _lerp(a, b, s):
    return a + (b - a) * s


def _bump(dx, dy):
    """A soft hill of height 1 that reaches 0 at radius 1; cheaper than a Gaussian."""
    q = jnp.maximum(1.0 - dx * dx - dy * dy, 0.0)
    return q * q


def _ellipse(dx, dy, rx, ry):
    """Approximate distance to an ellipse and its normalised radius."""
    ax, ay = dx / rx, dy / ry
    k0 = jnp.sqrt(ax * ax + ay * ay + 1e-6)
    bx, by = ax / rx, ay / ry
    k1 = jnp.sqrt(bx * bx + by * by + 1e-6)
    return k0 * (k0 - 1.0) / k1, k0


def _over(picture, colour, alpha):
    return tuple(_lerp(p, c, alpha) for p, c in zip(picture, colour, strict=True))


def _times(colour, factor):
    return tuple(c * factor for c in colour)


def _mix(a, b, s):
    return tuple(_lerp(x, y, s) for x, y in zip(a, b, strict=True))


def _background(p, x, y):
    s = _smooth(y + 0.25 * x * p.light, -1.2, 1.2)
    tint = 0.0
    for i in range(3):
        size = 2.2 * getattr(p, f"blob{i}_s")
        cx, cy = getattr(p, f"blob{i}_x"), getattr(p, f"blob{i}_y")
        tint = tint + getattr(p, f"blob{i}_a") * _bump((x - cx) / size, (y - cy) / size)
    vignette = 1.0 - (0.22 * p.is_photo + 0.08 * p.is_shaded) * (x * x + y * y) * 0.6
    return tuple((c + tint) * vignette for c in _mix(p.colour("high"), p.colour("low"), s))


def _lit(p, colour, nx, ny, nz, shine):
    """Shade a colour by its normal: soft for shaded and photo, two flat tones for anime."""
    lx, ly, lz = 0.55 * p.light, -0.52, 0.72
    lambert = nx * lx + ny * ly + nz * lz
    soft = jnp.clip(lambert, 0.0, 1.0)
    cel = _smooth(lambert, 0.08, 0.2)
    level = (
        p.is_shaded * (0.5 + 0.62 * soft)
        + p.is_photo * (0.62 + 0.5 * soft)
        + p.is_anime * _lerp(0.83, 1.0, cel)
    )
    half = jnp.clip(nx * lx * 0.55 + ny * ly * 0.55 + nz * 0.9, 0.0, 1.0)
    s4 = half * half * half * half
    s16 = s4 * s4 * s4 * s4
    spec = s16 * shine * (0.32 * p.is_shaded + 0.1 * p.is_photo)
    # Shadows are warmer than light: blue falls faster than red.
    return tuple(c * (1.0 - (1.0 - level) * k) + spec for c, k in zip(colour, (0.9, 1.05, 1.12), strict=True))


def _body(p, m, picture, x, y, cover, px):
    """Shoulders, neckline and neck."""
    hx, hy = p.head_x + m.x, p.head_y + m.y
    bx, by = x - 0.25 * m.x, y - 0.012 * m.breath
    top = p.shoulder_y
    d_body, _ = _ellipse(bx, by - top - 0.6, p.shoulder_w, 0.6)
    nx = bx / p.shoulder_w
    ny = jnp.clip((by - top - 0.6) / 0.6, -1.0, 0.0)
    nz = jnp.sqrt(jnp.maximum(1.0 - nx * nx - ny * ny, 0.02))
    cloth = _lit(p, p.colour("cloth"), nx, ny, nz, 0.2)
    # The outline of anime drawings: a darker rim inside every shape.
    line = p.is_anime * 0.55
    cloth = _over(cloth, _times(p.colour("cloth"), 0.45), line * cover(-d_body - 1.5 * px))
    picture = _over(picture, cloth, cover(d_body))
    # Neck: leans with the head; its lower end opens into the neckline.
    s = _smooth(by, 0.35, 0.85)
    cx = _lerp(hx, 0.0, s)
    wide = p.neck_w + 0.10 * _smooth(by, top - 0.2, top + 0.1)
    d_neck = jnp.maximum(jnp.abs(bx - cx) - wide, jnp.maximum(hy - by, by - top - 0.06))
    d_line, _ = _ellipse(bx, by - top - 0.01, p.neckline_w, p.neckline_h)
    d_skin = jnp.minimum(d_neck, d_line)
    nx = jnp.clip((bx - cx) / (wide * 1.15), -1.0, 1.0)
    nz = jnp.sqrt(jnp.maximum(1.0 - nx * nx, 0.05))
    skin = _lit(p, p.colour("skin"), nx, 0.0, nz, 0.0)
    chin = hy + p.head_h
    shadow = 1.0 - (0.34 - 0.12 * p.is_anime) * (1.0 - _smooth(by, chin - 0.02, chin + 0.2))
    skin = tuple(c * (1.0 - (1.0 - shadow) * k) for c, k in zip(skin, (0.85, 1.0, 1.05), strict=True))
    d_collar = jnp.abs(d_line) - 0.03
    picture = _over(picture, skin, cover(d_skin))
    below = cover(top - 0.03 - by)
    return _over(picture, _times(p.colour("cloth"), 0.72), p.collar * below * cover(d_collar))


def _face_frame(p, m, x, y):
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
    d_face, q = _ellipse(u, v, rx, ry)
    return u, v, rx, ry, d_face, q


def _hair(p, u, v, cover, px):
    """Colour of the hair, and the coverage of the part behind the face and of the part before it."""
    vol = p.hair_vol
    d_cap, _ = _ellipse(u, v + 0.3 * vol, p.head_w + 0.75 * vol, p.head_h + vol)
    # Behind: the cap, and for long hair a rounded curtain down to hair_len.
    wide = p.head_w + p.hair_w * _smooth(v, -0.3, 0.3) + 0.04 * _smooth(v, 0.0, 0.8)
    hang = jnp.maximum(jnp.abs(u) - wide, jnp.maximum(v - p.hair_len, -v - 0.3))
    corner = jnp.sqrt(
        jnp.square(jnp.maximum(jnp.abs(u) - wide + 0.2, 0.0))
        + jnp.square(jnp.maximum(v - p.hair_len + 0.2, 0.0))
    )
    hang = jnp.maximum(hang, corner - 0.2)
    d_up = jnp.maximum(d_cap, v - jnp.maximum(p.hair_len, 0.0))
    d_back = jnp.minimum(d_up, hang)
    # Before: the cap above a hairline that arches down to the temples and may break into spikes.
    a = (u - p.part) / p.head_w
    phase = a * p.fringe_f * 0.5 + p.fringe_p
    tri = jnp.abs(phase - jnp.floor(phase) - 0.5) * 2.0
    tri = jnp.sqrt(tri * tri + 0.012)
    b = u / p.head_w
    edge = -p.hairline + p.arch * b * b * b * b + 0.12 * a * a + p.fringe * (1.0 - 2.0 * tri)
    slope = 2.0 * p.fringe * p.fringe_f / p.head_w
    d_edge = (v - edge) / jnp.sqrt(1.0 + slope * slope)
    d_front = jnp.maximum(d_cap, d_edge)
    nx = u / (p.head_w + vol)
    ny = jnp.clip((v + 0.3 * vol) / (p.head_h + vol), -1.0, 0.6)
    nz = jnp.sqrt(jnp.maximum(1.0 - nx * nx - ny * ny, 0.04))
    wave = 0.05 * (1.0 - p.is_anime) * jnp.sin(11.0 * (u - p.part) + 2.0 * jnp.sin(3.0 * v + p.mottle_b))
    base = _times(p.colour("hair"), 1.0 + wave)
    colour = _lit(p, base, nx, ny, nz, 0.9)
    ring_y = -0.62 * p.head_h + 0.25 * b * b + 0.03 * (1.0 - 2.0 * tri)
    ring = p.is_anime * 0.5 * cover(jnp.abs(v - ring_y) - 0.035) * _smooth(1.0 - jnp.abs(b), 0.15, 0.5)
    colour = _over(colour, _mix(p.colour("hair"), (1.0, 1.0, 1.0), 0.55), ring)
    line = p.is_anime * 0.6
    dark = _times(p.colour("hair"), 0.5)
    front = _over(colour, dark, line * cover(-d_front - 1.6 * px))
    back = _over(_times(colour, 0.74), _times(dark, 0.8), line * cover(-d_back - 1.6 * px))
    # A soft shadow of the fringe on the forehead.
    cast = (1.0 - _smooth(d_edge, 0.0, 0.1)) * p.hair_on
    return front, back, cover(d_front) * p.hair_on, cover(d_back) * p.hair_on, cast


def _ears(p, picture, u, v, cover):
    """Two ears, seen where the hair is short."""
    d_ear, _ = _ellipse(jnp.abs(u) - p.head_w * 0.99, v - 0.02, p.ear, 0.125)
    ear = _lit(p, p.colour("skin"), jnp.sign(u) * 0.6, 0.0, 0.7, 0.0)
    ear = _over(ear, _times(p.colour("skin"), 0.62), 0.5 * cover(d_ear + 0.045))
    # Long hair covers the ears; a sliver of them between two strands would look like a fault.
    return _over(picture, ear, cover(d_ear) * (1.0 - _smooth(p.hair_len * p.hair_on, 0.1, 0.3)))


def _skin(p, u, v, rx, ry, d_face, q, fu, fv, cast, cover, px):
    """Colour of the face with its modelling: nose, sockets, cheeks, chin, blush, beard."""
    nx, ny = u / rx, v / ry
    nose = _bump((fu) / (1.5 * p.nose_w), (fv - p.nose_y + 0.03) / 0.2)
    k = p.nose_k * 9.0
    mx = nx + nose * k * fu * 0.9
    side = jnp.abs(fu)
    cheek = _bump((side - 0.26) / 0.2, (fv - 0.2) / 0.2)
    socket = _bump((side - p.eye_dx) / (p.eye_w * 1.7), (fv - p.eye_y) / (p.eye_h * 2.0))
    tip = _bump(fu / p.nose_w, (fv - p.nose_y) / 0.075)
    my = ny + p.nose_k * (nose * (fv - p.nose_y + 0.05) * 2.0 + tip * (fv - p.nose_y) * 9.0)
    nz = jnp.sqrt(jnp.maximum(1.0 - nx * nx - ny * ny, 0.03))
    norm = jax.lax.rsqrt(mx * mx + my * my + nz * nz)
    base = p.colour("skin")
    mottle = p.is_photo * 0.03 * jnp.sin(p.mottle_a * fu + p.mottle_b) * jnp.sin(p.mottle_a * fv - p.mottle_b)
    base = _times(base, 1.0 + mottle)
    lit = _lit(p, base, mx * norm, my * norm, nz * norm, 0.6)
    solid = 1.0 - p.is_anime
    dim = 1.0 - solid * 0.16 * socket - 0.2 * cast - solid * 0.1 * _smooth(q, 0.75, 1.0)
    lit = tuple(c * (1.0 - (1.0 - dim) * s) for c, s in zip(lit, (0.85, 1.0, 1.08), strict=True))
    blush = 0.3 * p.blush * cheek
    lit = tuple(c * (1.0 - blush * s) for c, s in zip(lit, (0.05, 0.55, 0.45), strict=True))
    # The shadow under the nose, and for anime its only mark.
    under = _bump(fu / (p.nose_w * _lerp(0.85, 0.45, p.is_anime)), (fv - p.nose_y - 0.052) / 0.04)
    lit = tuple(c * (1.0 - under * s * 0.9) for c, s in zip(lit, (0.3, 0.42, 0.45), strict=True))
    chin = (1.0 - _smooth(fv, 0.12, 0.3)) * -1.0 + 1.0
    beard = p.beard * chin * _smooth(q, 0.45, 0.72)
    stubble = _times(p.colour("brow"), 0.9)
    lit = _over(lit, stubble, 0.85 * beard)
    line = p.is_anime * 0.7
    return _over(lit, _times(p.colour("skin"), 0.42), line * cover(-d_face - 1.4 * px))


def _eyes(p, m, picture, fu, fv, cover):
    """Both eyes at once, mirrored: white, iris, pupil, highlight, lids; then brows and glasses."""
    side = jnp.sign(fu)
    ex = jnp.abs(fu) - p.eye_dx
    ey = fv - p.eye_y + p.eye_tilt * ex
    w, h = p.eye_w, p.eye_h
    s = jnp.clip(ex / w, -1.3, 1.3)
    arc = 1.0 - s * s
    round_ = jnp.sqrt(jnp.maximum(arc, 1e-3))
    curve = jnp.where(arc > 0.0, _lerp(arc, round_, 0.35 + 0.5 * p.is_anime + 0.3 * p.is_shaded), arc)
    upper = _lerp(-h, 0.62 * h, m.blink) * curve
    lower = 0.78 * h * curve
    slope = jax.lax.rsqrt(1.0 + jnp.square(2.0 * h * s / w))
    d_side = jnp.abs(ex) - 0.99 * w
    d_eye = jnp.maximum(jnp.maximum(upper - ey, ey - lower) * slope, d_side)
    white = cover(d_eye)
    shade = 1.0 - 0.28 * (1.0 - _smooth(ey - upper, 0.0, 0.6 * h))
    ball = tuple(c * shade for c in (0.97, 0.965, 0.96))
    gx = ex - side * m.gaze_x * (w - 0.7 * p.iris) * 0.8
    gy = ey - 0.02 * h - m.gaze_y * 0.3 * h
    r = jnp.sqrt(gx * gx + gy * gy * _lerp(1.0, 0.75, p.is_anime) + 1e-6)
    ramp = _lerp(
        0.85 + 0.35 * _smooth(-gy, -p.iris, p.iris) * -1.0 + 0.3,
        0.62 + 0.75 * _smooth(gy, -p.iris, p.iris),
        p.is_anime,
    )
    iris = _times(p.colour("iris"), ramp)
    iris = _over(iris, _times(p.colour("iris"), 0.35), _smooth(r, 0.72 * p.iris, p.iris))
    iris = _over(iris, (0.05, 0.04, 0.06), cover(r - 0.48 * p.iris))
    ball = _over(ball, iris, cover(r - p.iris))
    hx, hy = gx * side + 0.33 * p.iris, gy + 0.38 * p.iris
    shine = jnp.sqrt(hx * hx + hy * hy + 1e-6) - (0.24 + 0.1 * p.is_anime) * p.iris
    ball = _over(ball, (1.0, 1.0, 1.0), cover(shine))
    gleam = jnp.sqrt(jnp.square(hx - 0.7 * p.iris) + jnp.square(hy - 0.85 * p.iris) + 1e-6) - 0.18 * p.iris
    ball = _over(ball, (1.0, 1.0, 1.0), 0.75 * p.is_anime * cover(gleam))
    # Closing lids are a shade darker than the face.
    open_upper = -h * curve
    d_lid = jnp.maximum(jnp.maximum(open_upper - 0.01 - ey, ey - lower) * slope, d_side)
    lid = cover(d_lid) * _smooth(m.blink, 0.02, 0.3)
    picture = _over(picture, _times(p.colour("skin"), 0.86), lid * 0.8)
    picture = _over(picture, ball, white)
    ends = cover(jnp.abs(ex) - 1.06 * w)
    lash = cover((jnp.abs(ey - upper + 0.4 * p.lash) - 0.5 * p.lash) * slope) * ends
    ink = _mix(_times(p.colour("brow"), 0.55), (0.07, 0.05, 0.06), 0.5)
    picture = _over(picture, ink, lash * (0.95 - 0.1 * p.is_photo))
    under = cover((jnp.abs(ey - lower) - 0.006) * slope) * cover(jnp.abs(ex) - 0.7 * w)
    picture = _over(picture, _times(p.colour("skin"), 0.5), under * 0.4)
    bx = ex + 0.01
    t = jnp.clip(bx / p.brow_w, -1.0, 1.0)
    by = fv - p.eye_y + p.brow_y + 0.035 * m.brow - p.brow_tilt * bx - 0.035 * t * t
    thick = p.brow_th * (1.0 - 0.5 * _smooth(t, -0.2, 1.0))
    d_brow = jnp.maximum(jnp.abs(by) - thick, jnp.abs(bx) - p.brow_w)
    picture = _over(picture, p.colour("brow"), 0.92 * cover(d_brow))
    rim = jnp.abs(jnp.sqrt(ex * ex + jnp.square((fv - p.eye_y) * 1.12) + 1e-6) - p.glasses_r) - 0.013
    bridge = jnp.maximum(jnp.abs(fv - p.eye_y + 0.02) - 0.012, jnp.abs(fu) - (p.eye_dx - p.glasses_r + 0.01))
    return _over(picture, p.colour("frame"), p.glasses * 0.92 * cover(jnp.minimum(rim, bridge)))


def _mouth(p, m, picture, fu, fv, cover):
    """Lips round a dark opening with teeth above and a tongue below."""
    h = p.mouth_h * m.opening
    w = p.mouth_w * (1.0 + 0.2 * m.width - 0.22 * m.rounding)
    x, y = fu, fv - p.mouth_y + 0.03
    s = jnp.clip(x / w, -1.25, 1.25)
    arc = 1.0 - s * s
    f = jnp.where(arc > 0.0, _lerp(arc, jnp.sqrt(jnp.maximum(arc, 1e-3)), 0.62), arc)
    bend = (p.smile * (1.0 - m.opening) + 0.012 * m.width) * (1.0 - 2.0 * s * s)
    top = bend - 0.2 * h * f
    bottom = bend + 0.8 * h * f
    slope = jax.lax.rsqrt(1.0 + jnp.square(1.6 * h * s / w))
    d_in = jnp.maximum(jnp.maximum(top - y, y - bottom) * slope, jnp.abs(x) - w)
    push = 1.0 + 0.35 * m.rounding
    bow = 1.0 - 0.3 * _bump(x / (0.28 * w), 0.0)
    reach = jnp.maximum(1.0 - jnp.square(x / (1.1 * w)), -0.4)
    lip_top = top - p.lip_u * push * reach * bow * 1.15
    lip_bottom = bottom + p.lip_l * push * reach * 1.1
    d_lip = jnp.maximum(jnp.maximum(lip_top - y, y - lip_bottom) * slope, jnp.abs(x) - 1.1 * w)
    solid = 1.0 - p.is_anime
    moustache = p.moustache * _bump(x / (1.5 * w), (y - top + 0.085) / 0.075)
    picture = _over(picture, _times(p.colour("brow"), 0.9), 0.95 * jnp.minimum(moustache * 2.0, 1.0))
    below = _bump(x / (0.8 * w), (y - lip_bottom - 0.035) / 0.04)
    picture = tuple(c * (1.0 - solid * 0.16 * below) for c in picture)
    light = 1.0 + solid * (
        0.2 * _bump(x / w, (y - bottom - 0.5 * p.lip_l) / (0.6 * p.lip_l)) - 0.1 * cover(y - top)
    )
    lip = _mix(_times(p.colour("lip"), light), _times(p.colour("skin"), 0.35), p.is_anime * 0.8)
    picture = _over(picture, lip, cover(d_lip) * _lerp(0.9, 0.95, p.is_anime))
    # Closed lips meet in a thin dark line; the inside darkens as they part.
    inner = _mix(_times(p.colour("lip"), 0.42), (0.17, 0.04, 0.05), _smooth(h, 0.0, 0.05))
    line = 0.011 + 0.004 * p.is_anime
    depth = cover(d_in - line * _smooth(1.02 - jnp.abs(s), 0.0, 0.1))
    tongue = cover(_ellipse(x, y - bend - 0.86 * h, 0.62 * w, 0.3 * h + 0.01)[0]) * _smooth(h, 0.06, 0.12)
    inside = _over(inner, (0.52, 0.17, 0.18), tongue * 0.9)
    teeth_h = jnp.minimum(0.28 * h, 0.05)
    teeth = (
        cover(y - top - teeth_h)
        * cover(jnp.abs(s) * w - 0.86 * w)
        * _smooth(h, 0.03, 0.07)
        * cover(d_in + 0.008)
    )
    inside = _over(inside, (0.95, 0.93, 0.9), teeth * 0.95)
    return _over(picture, inside, depth)


def _frame(size, parameters, motion):
    p, m = _P(PARAMETERS, parameters), _P(MOTION, motion)
    axis = (jnp.arange(size, dtype=jnp.float32) + 0.5) * (2.0 / size) - 1.0
    x = jnp.broadcast_to(axis[None, :], (size, size))
    y = jnp.broadcast_to(axis[:, None], (size, size))
    px = 2.0 / size
    cover = lambda d: 1.0 - _smooth(d, -0.85 * px, 0.85 * px)
    u, v, rx, ry, d_face, q = _face_frame(p, m, x, y)
    fu, fv = u - 0.055 * m.yaw * (1.0 - 0.5 * q * q), v - 0.045 * m.pitch
    front, back, front_alpha, back_alpha, cast = _hair(p, u + 0.02 * m.yaw, v + 0.012 * m.pitch, cover, px)
    picture = _background(p, x, y)
    picture = _over(picture, back, back_alpha)
    picture = _body(p, m, picture, x, y, cover, px)
    picture = _ears(p, picture, u, v, cover)
    face = _skin(p, u, v, rx, ry, d_face, q, fu, fv, cast, cover, px)
    face = _mouth(p, m, face, fu, fv, cover)
    face = _eyes(p, m, face, fu, fv, cover)
    picture = _over(picture, face, cover(d_face))
    picture = _over(picture, front, front_alpha)
    picture = jnp.stack(picture, axis=-1)
    return jnp.round(jnp.clip(picture, 0.0, 1.0) * 255.0).astype(jnp.uint8)


@functools.cache
def _host() -> Mesh:
    """A mesh of one processor: under another mesh, jit refuses arrays that lie on one device alone."""
    return make_mesh(MeshConfig(), jax.local_devices(backend="cpu")[:1])


@functools.cache
def _renderer(size: int):
    draw = jax.vmap(functools.partial(_frame, size), in_axes=(None, 0))
    return jax.jit(draw)


def render(
    parameters: Float[np.ndarray, " parameters"], motion: Float[np.ndarray, "t motion"], size: int
) -> UInt8[np.ndarray, "t size size 3"]:
    """Draw frames of one identity: `parameters` from `Identity.vector`, columns of `motion` as `MOTION`.

    It draws on the host, whatever devices and mesh the caller computes on.
    """
    draw, place = _renderer(size), replicated(_host())
    out = np.empty((len(motion), size, size, 3), np.uint8)
    with jax.set_mesh(_host()):
        parameters = jax.device_put(parameters, place)
        for start in range(0, len(motion), BATCH):
            part = motion[start : start + BATCH]
            padded = np.concatenate([part, np.repeat(part[-1:], BATCH - len(part), axis=0)])
            drawn = draw(parameters, jax.device_put(padded, place))
            out[start : start + len(part)] = np.asarray(drawn)[: len(part)]
    return out
