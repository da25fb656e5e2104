"""A picture as it arrives at the registered model: base64 in, RGB out, with limits; nothing but pixels is read."""

from __future__ import annotations

import base64
import binascii
import io
import warnings

from PIL import Image, ImageOps, UnidentifiedImageError

MAX_BYTES = 50_000_000
MAX_PIXELS = 50_000_000
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF")


class PictureError(ValueError):
    """Not a picture that can be captioned; the message says why."""


def from_base64(text: str, longest_side: int) -> Image.Image:
    """Decode one picture, upright, RGB, at most ``longest_side`` pixels; raises :class:`PictureError`."""
    if len(text) > MAX_BYTES * 4 // 3 + 4:
        raise PictureError(f"more than {MAX_BYTES:,} bytes")
    try:
        data = base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise PictureError(f"not base64: {error}") from None
    return decode(data, longest_side)


def decode(data: bytes, longest_side: int) -> Image.Image:
    """Decode the bytes of one picture as :func:`from_base64` does."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the limit below is ours
            image: Image.Image = Image.open(io.BytesIO(data), formats=FORMATS)
        if image.width * image.height > MAX_PIXELS:
            raise PictureError(f"{image.width} x {image.height} is more than {MAX_PIXELS:,} pixels")
        if getattr(image, "n_frames", 1) > 1:
            raise PictureError("animated")
        image = ImageOps.exif_transpose(image).convert("RGB")
    except UnidentifiedImageError:
        raise PictureError(f"not a picture of a known format ({', '.join(FORMATS)})") from None
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise PictureError(f"broken picture: {error}") from None
    image.thumbnail((longest_side, longest_side), Image.Resampling.LANCZOS)
    return image
