"""The parts of a puppet: shoulders and neck, hair, ears, eyes and mouth, under a light that is given."""

import jax
import jax.numpy as jnp

from tm_jax.data.puppets.shapes import bump, ellipse, lerp, mix, over, smooth, times


def body(p, m, picture, x, y, cover, px, lit):
    """Shoulders, neckline and neck."""
    hx, hy = p.head_x + m.x, p.head_y + m.y
    bx, by = x - 0.25 * m.x, y - 0.012 * m.breath
    top = p.shoulder_y
    d_body, _ = ellipse(bx, by - top - 0.6, p.shoulder_w, 0.6)
    nx = bx / p.shoulder_w
    ny = jnp.clip((by - top - 0.6) / 0.6, -1.0, 0.0)
    nz = jnp.sqrt(jnp.maximum(1.0 - nx * nx - ny * ny, 0.02))
    cloth = lit(p, p.colour("cloth"), nx, ny, nz, 0.2)
    # The outline of anime drawings: a darker rim inside every shape.
    line = p.is_anime * 0.55
    cloth = over(cloth, times(p.colour("cloth"), 0.45), line * cover(-d_body - 1.5 * px))
    picture = over(picture, cloth, cover(d_body))
    # Neck: leans with the head; its lower end opens into the neckline.
    s = smooth(by, 0.35, 0.85)
    cx = lerp(hx, 0.0, s)
    wide = p.neck_w + 0.10 * smooth(by, top - 0.2, top + 0.1)
    d_neck = jnp.maximum(jnp.abs(bx - cx) - wide, jnp.maximum(hy - by, by - top - 0.06))
    d_line, _ = ellipse(bx, by - top - 0.01, p.neckline_w, p.neckline_h)
    d_skin = jnp.minimum(d_neck, d_line)
    nx = jnp.clip((bx - cx) / (wide * 1.15), -1.0, 1.0)
    nz = jnp.sqrt(jnp.maximum(1.0 - nx * nx, 0.05))
    skin = lit(p, p.colour("skin"), nx, 0.0, nz, 0.0)
    chin = hy + p.head_h
    shadow = 1.0 - (0.34 - 0.12 * p.is_anime) * (1.0 - smooth(by, chin - 0.02, chin + 0.2))
    skin = tuple(c * (1.0 - (1.0 - shadow) * k) for c, k in zip(skin, (0.85, 1.0, 1.05), strict=True))
    d_collar = jnp.abs(d_line) - 0.03
    picture = over(picture, skin, cover(d_skin))
    below = cover(top - 0.03 - by)
    return over(picture, times(p.colour("cloth"), 0.72), p.collar * below * cover(d_collar))


def hair(p, u, v, cover, px, lit):
    """Colour of the hair, and the coverage of the part behind the face and of the part before it."""
    vol = p.hair_vol
    d_cap, _ = ellipse(u, v + 0.3 * vol, p.head_w + 0.75 * vol, p.head_h + vol)
    # Behind: the cap, and for long hair a rounded curtain down to hair_len.
    wide = p.head_w + p.hair_w * smooth(v, -0.3, 0.3) + 0.04 * smooth(v, 0.0, 0.8)
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
    base = times(p.colour("hair"), 1.0 + wave)
    colour = lit(p, base, nx, ny, nz, 0.9)
    ring_y = -0.62 * p.head_h + 0.25 * b * b + 0.03 * (1.0 - 2.0 * tri)
    ring = p.is_anime * 0.5 * cover(jnp.abs(v - ring_y) - 0.035) * smooth(1.0 - jnp.abs(b), 0.15, 0.5)
    colour = over(colour, mix(p.colour("hair"), (1.0, 1.0, 1.0), 0.55), ring)
    line = p.is_anime * 0.6
    dark = times(p.colour("hair"), 0.5)
    front = over(colour, dark, line * cover(-d_front - 1.6 * px))
    back = over(times(colour, 0.74), times(dark, 0.8), line * cover(-d_back - 1.6 * px))
    # A soft shadow of the fringe on the forehead.
    cast = (1.0 - smooth(d_edge, 0.0, 0.1)) * p.hair_on
    return front, back, cover(d_front) * p.hair_on, cover(d_back) * p.hair_on, cast


def ears(p, picture, u, v, cover, lit):
    """Two ears, seen where the hair is short."""
    d_ear, _ = ellipse(jnp.abs(u) - p.head_w * 0.99, v - 0.02, p.ear, 0.125)
    ear = lit(p, p.colour("skin"), jnp.sign(u) * 0.6, 0.0, 0.7, 0.0)
    ear = over(ear, times(p.colour("skin"), 0.62), 0.5 * cover(d_ear + 0.045))
    # Long hair covers the ears; a sliver of them between two strands would look like a fault.
    return over(picture, ear, cover(d_ear) * (1.0 - smooth(p.hair_len * p.hair_on, 0.1, 0.3)))


def eyes(p, m, picture, fu, fv, cover):
    """Both eyes at once, mirrored: white, iris, pupil, highlight, lids; then brows and glasses."""
    side = jnp.sign(fu)
    ex = jnp.abs(fu) - p.eye_dx
    ey = fv - p.eye_y + p.eye_tilt * ex
    w, h = p.eye_w, p.eye_h
    s = jnp.clip(ex / w, -1.3, 1.3)
    arc = 1.0 - s * s
    round_ = jnp.sqrt(jnp.maximum(arc, 1e-3))
    curve = jnp.where(arc > 0.0, lerp(arc, round_, 0.35 + 0.5 * p.is_anime + 0.3 * p.is_shaded), arc)
    upper = lerp(-h, 0.62 * h, m.blink) * curve
    lower = 0.78 * h * curve
    slope = jax.lax.rsqrt(1.0 + jnp.square(2.0 * h * s / w))
    d_side = jnp.abs(ex) - 0.99 * w
    d_eye = jnp.maximum(jnp.maximum(upper - ey, ey - lower) * slope, d_side)
    white = cover(d_eye)
    shade = 1.0 - 0.28 * (1.0 - smooth(ey - upper, 0.0, 0.6 * h))
    ball = tuple(c * shade for c in (0.97, 0.965, 0.96))
    gx = ex - side * m.gaze_x * (w - 0.7 * p.iris) * 0.8
    gy = ey - 0.02 * h - m.gaze_y * 0.3 * h
    r = jnp.sqrt(gx * gx + gy * gy * lerp(1.0, 0.75, p.is_anime) + 1e-6)
    ramp = lerp(
        0.85 + 0.35 * smooth(-gy, -p.iris, p.iris) * -1.0 + 0.3,
        0.62 + 0.75 * smooth(gy, -p.iris, p.iris),
        p.is_anime,
    )
    iris = times(p.colour("iris"), ramp)
    iris = over(iris, times(p.colour("iris"), 0.35), smooth(r, 0.72 * p.iris, p.iris))
    iris = over(iris, (0.05, 0.04, 0.06), cover(r - 0.48 * p.iris))
    ball = over(ball, iris, cover(r - p.iris))
    hx, hy = gx * side + 0.33 * p.iris, gy + 0.38 * p.iris
    shine = jnp.sqrt(hx * hx + hy * hy + 1e-6) - (0.24 + 0.1 * p.is_anime) * p.iris
    ball = over(ball, (1.0, 1.0, 1.0), cover(shine))
    gleam = jnp.sqrt(jnp.square(hx - 0.7 * p.iris) + jnp.square(hy - 0.85 * p.iris) + 1e-6) - 0.18 * p.iris
    ball = over(ball, (1.0, 1.0, 1.0), 0.75 * p.is_anime * cover(gleam))
    # Closing lids are a shade darker than the face.
    open_upper = -h * curve
    d_lid = jnp.maximum(jnp.maximum(open_upper - 0.01 - ey, ey - lower) * slope, d_side)
    lid = cover(d_lid) * smooth(m.blink, 0.02, 0.3)
    picture = over(picture, times(p.colour("skin"), 0.86), lid * 0.8)
    picture = over(picture, ball, white)
    ends = cover(jnp.abs(ex) - 1.06 * w)
    lash = cover((jnp.abs(ey - upper + 0.4 * p.lash) - 0.5 * p.lash) * slope) * ends
    ink = mix(times(p.colour("brow"), 0.55), (0.07, 0.05, 0.06), 0.5)
    picture = over(picture, ink, lash * (0.95 - 0.1 * p.is_photo))
    under = cover((jnp.abs(ey - lower) - 0.006) * slope) * cover(jnp.abs(ex) - 0.7 * w)
    picture = over(picture, times(p.colour("skin"), 0.5), under * 0.4)
    bx = ex + 0.01
    t = jnp.clip(bx / p.brow_w, -1.0, 1.0)
    by = fv - p.eye_y + p.brow_y + 0.035 * m.brow - p.brow_tilt * bx - 0.035 * t * t
    thick = p.brow_th * (1.0 - 0.5 * smooth(t, -0.2, 1.0))
    d_brow = jnp.maximum(jnp.abs(by) - thick, jnp.abs(bx) - p.brow_w)
    picture = over(picture, p.colour("brow"), 0.92 * cover(d_brow))
    rim = jnp.abs(jnp.sqrt(ex * ex + jnp.square((fv - p.eye_y) * 1.12) + 1e-6) - p.glasses_r) - 0.013
    bridge = jnp.maximum(jnp.abs(fv - p.eye_y + 0.02) - 0.012, jnp.abs(fu) - (p.eye_dx - p.glasses_r + 0.01))
    return over(picture, p.colour("frame"), p.glasses * 0.92 * cover(jnp.minimum(rim, bridge)))


def mouth(p, m, picture, fu, fv, cover):
    """Lips round a dark opening with teeth above and a tongue below."""
    h = p.mouth_h * m.opening
    w = p.mouth_w * (1.0 + 0.2 * m.width - 0.22 * m.rounding)
    x, y = fu, fv - p.mouth_y + 0.03
    s = jnp.clip(x / w, -1.25, 1.25)
    arc = 1.0 - s * s
    f = jnp.where(arc > 0.0, lerp(arc, jnp.sqrt(jnp.maximum(arc, 1e-3)), 0.62), arc)
    bend = (p.smile * (1.0 - m.opening) + 0.012 * m.width) * (1.0 - 2.0 * s * s)
    top = bend - 0.2 * h * f
    bottom = bend + 0.8 * h * f
    slope = jax.lax.rsqrt(1.0 + jnp.square(1.6 * h * s / w))
    d_in = jnp.maximum(jnp.maximum(top - y, y - bottom) * slope, jnp.abs(x) - w)
    push = 1.0 + 0.35 * m.rounding
    bow = 1.0 - 0.3 * bump(x / (0.28 * w), 0.0)
    reach = jnp.maximum(1.0 - jnp.square(x / (1.1 * w)), -0.4)
    lip_top = top - p.lip_u * push * reach * bow * 1.15
    lip_bottom = bottom + p.lip_l * push * reach * 1.1
    d_lip = jnp.maximum(jnp.maximum(lip_top - y, y - lip_bottom) * slope, jnp.abs(x) - 1.1 * w)
    solid = 1.0 - p.is_anime
    moustache = p.moustache * bump(x / (1.5 * w), (y - top + 0.085) / 0.075)
    picture = over(picture, times(p.colour("brow"), 0.9), 0.95 * jnp.minimum(moustache * 2.0, 1.0))
    below = bump(x / (0.8 * w), (y - lip_bottom - 0.035) / 0.04)
    picture = tuple(c * (1.0 - solid * 0.16 * below) for c in picture)
    light = 1.0 + solid * (
        0.2 * bump(x / w, (y - bottom - 0.5 * p.lip_l) / (0.6 * p.lip_l)) - 0.1 * cover(y - top)
    )
    lip = mix(times(p.colour("lip"), light), times(p.colour("skin"), 0.35), p.is_anime * 0.8)
    picture = over(picture, lip, cover(d_lip) * lerp(0.9, 0.95, p.is_anime))
    # Closed lips meet in a thin dark line; the inside darkens as they part.
    inner = mix(times(p.colour("lip"), 0.42), (0.17, 0.04, 0.05), smooth(h, 0.0, 0.05))
    line = 0.011 + 0.004 * p.is_anime
    depth = cover(d_in - line * smooth(1.02 - jnp.abs(s), 0.0, 0.1))
    tongue = cover(ellipse(x, y - bend - 0.86 * h, 0.62 * w, 0.3 * h + 0.01)[0]) * smooth(h, 0.06, 0.12)
    inside = over(inner, (0.52, 0.17, 0.18), tongue * 0.9)
    teeth_h = jnp.minimum(0.28 * h, 0.05)
    teeth = (
        cover(y - top - teeth_h)
        * cover(jnp.abs(s) * w - 0.86 * w)
        * smooth(h, 0.03, 0.07)
        * cover(d_in + 0.008)
    )
    inside = over(inside, (0.95, 0.93, 0.9), teeth * 0.95)
    return over(picture, inside, depth)
