"""Faces as a photograph shows them: the drawn parts in colours that light, skin and strands have gone over.

What is still lies in the identity's maps (``photograph_maps``); here the head carries it along, and mouth,
lids, gaze and brows move as in every other style.
"""

import jax.numpy as jnp

from tm_jax.data.puppets.features import body, ears, eyes, hair, mouth
from tm_jax.data.puppets.photograph_maps import LIGHTING, MAP, REACH
from tm_jax.data.puppets.shapes import Named, bump, face_frame, lerp, over, parallax, smooth, times


def _sampled(face, x, y):
    """The map's planes at head coordinates, between its cells."""
    place = lambda a: jnp.clip((a / REACH + 1.0) * (MAP / 2) - 0.5, 0.0, MAP - 1.001)
    column, row = place(x), place(y)
    left, top = jnp.floor(column), jnp.floor(row)
    right, down = column - left, row - top
    first = (top * MAP + left).astype(jnp.int32)
    cells = face.reshape(-1, face.shape[-1])
    at = lambda step: cells.at[first + step].get(mode="promise_in_bounds")
    above = lerp(at(0), at(1), right[..., None])
    below = lerp(at(MAP), at(MAP + 1), right[..., None])
    planes = lerp(above, below, down[..., None])
    return tuple(planes[..., index] for index in range(face.shape[-1]))


def _lit(s):
    """The photograph's way of lighting a colour by its normal."""

    def lit(p, colour, nx, ny, nz, shine):
        facing = nx * s.light_x + ny * s.light_y + nz * s.light_z
        level = 1.0 - s.key + 1.12 * s.key * jnp.clip((facing + 0.25) / 1.25, 0.0, 1.0)
        half = jnp.clip(nx * s.light_x * 0.6 + ny * s.light_y * 0.6 + nz * 0.8, 0.0, 1.0)
        squared = half * half
        fourth = squared * squared
        spec = fourth * fourth * shine * 0.13 * s.key
        return tuple(c + spec for c in _darkened(colour, level))

    return lit


def _darkened(colour, level):
    """Light of this level on skin: red comes through the shadows farthest."""
    return tuple(c * (1.0 - (1.0 - level) * k) for c, k in zip(colour, (0.88, 1.03, 1.1), strict=True))


def carried(p, m, x, y, photograph):
    """The map's planes at every pixel, as the head carries them along, and where hair is kept."""
    s = Named(LIGHTING, photograph.lighting)
    u, v, _, ry, _, q = face_frame(p, m, x, y)
    fu, fv = parallax(m, u, v, q)
    # The chin's skin goes down with the jaw; hair beside it does not.
    inside = 1.0 - smooth(q, 0.98, 1.08)
    stretch = jnp.where(fv > 0.0, fv * (p.head_h / ry), fv)
    red, level, gloss, strand, gap = _sampled(photograph.face, fu, lerp(fv, stretch, inside))
    # Strands leave the outline; short hair ends above the ears, without the drawn styles' points.
    frayed = s.tousle * (strand - 1.0)
    kept = 1.0 - smooth(p.hair_len, 0.4, 0.2) * smooth(v + frayed, -0.12, 0.02)
    return red, level, gloss, strand, gap, frayed, kept


def paint(p, m, x, y, px, photograph, planes):
    """The three planes of a picture, from what ``carried`` gives."""
    s = Named(LIGHTING, photograph.lighting)
    edge = lambda width: lambda d: 1.0 - smooth(d, -width * px, width * px)
    cover, soft, lit = edge(s.focus), edge(s.focus + 0.6), _lit(s)
    u, v, _, _, d_face, q = face_frame(p, m, x, y)
    fu, fv = parallax(m, u, v, q)
    red, level, gloss, strand, gap, frayed, kept = planes
    front, back, front_alpha, back_alpha, cast = hair(
        p, u + 0.02 * m.yaw + 0.6 * frayed, v + 0.012 * m.pitch + frayed, soft, px, lit
    )
    *picture, folds = (photograph.background[..., index] for index in range(4))
    picture = over(picture, times(back, strand), back_alpha * kept)
    dressed = p.painted(cloth=times(p.colour("cloth"), folds))
    picture = body(dressed, m, picture, x, y, cover, px, lit)
    picture = ears(p, picture, u, v, cover, lit)
    face = _face(p, m, s, fu, fv, q, red, level, gap, cover, soft)
    dim = 1.0 - s.cast * 0.7 * cast - 0.15 * smooth(q, 0.8, 1.0)
    face = _darkened(face, dim)
    face = tuple(c + gloss for c in face)
    picture = over(picture, face, cover(d_face))
    picture = over(picture, times(front, strand), front_alpha * kept)
    return _developed(s, picture)


def _face(p, m, s, fu, fv, q, red, level, gap, cover, soft):
    """Skin, mouth, eyes and brows under the light of the map."""
    # Painted in plain colours and tinted together: planes for colours would cost twice the time.
    beard = p.beard * smooth(fv, 0.12, 0.3) * smooth(q, 0.45, 0.72)
    skin = over(p.colour("skin"), p.colour("brow"), 0.6 * beard)
    face = mouth(p, m, skin, fu, fv, soft)
    face = eyes(p, m, face, fu, fv, cover)
    # Brows and beard are hairs between which the skin shows.
    face = over(face, p.colour("skin"), gap)
    ball = bump((jnp.abs(fu) - p.eye_dx) / (1.25 * p.eye_w), (fv - p.eye_y) / (1.6 * p.eye_h))
    face = tuple(c * (1.0 + red * k) for c, k in zip(face, (0.45, -0.55, -0.4), strict=True))
    return _darkened(face, level * (1.0 - 0.42 * ball))


def _developed(s, picture):
    """The camera's gains and contrast."""
    gained = tuple(
        jnp.clip(c * g, 0.0, 1.0) for c, g in zip(picture, (s.gain_r, s.gain_g, s.gain_b), strict=True)
    )
    return tuple(lerp(c, c * c * (3.0 - 2.0 * c), s.contrast) for c in gained)
