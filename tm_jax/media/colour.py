"""Pictures in the colours of sRGB, whatever their own profile says: telephones write Display P3."""

import io

from PIL import Image, ImageCms

_SPACES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK", "LAB": "LAB"}
"""Colour space of a profile → Pillow's mode of the pixels that it is about."""


def to_srgb(picture: Image.Image, profile: bytes | None) -> Image.Image:
    """The picture by its profile: RGB or grey of eight bits, transparency kept; without one as it is.

    A profile that is broken, or about other pixels than these, is ignored.

    Args:
      picture: eight bits a channel.
    """
    if not profile:
        return picture
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        mode = _SPACES.get(source.profile.xcolor_space.strip())
        colours = picture
        if picture.has_transparency_data and picture.mode in ("RGB", "L", "P", "PA"):
            # A colour that stands for transparency would be another one afterwards.
            colours = picture.convert("LA" if picture.mode == "L" else "RGBA")
        alpha = colours.getchannel("A") if colours.mode in ("RGBA", "LA") else None
        if colours.mode in ("RGBA", "P", "PA") or (mode == "RGB" and colours.mode in ("L", "LA", "1")):
            colours = colours.convert("RGB")
        elif colours.mode in ("LA", "1"):
            colours = colours.convert("L")
        if mode is None or colours.mode != mode:
            return picture
        converted = ImageCms.profileToProfile(
            colours, source, ImageCms.createProfile("sRGB"), outputMode="RGB"
        )
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError, AttributeError, MemoryError):
        return picture
    if alpha is not None:
        converted.putalpha(alpha)
    return converted
