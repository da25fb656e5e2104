"""A picture as it arrives at the registered model: base64 in, RGB out, decoded and shrunk as ``prepare`` does it."""

from __future__ import annotations

import base64
import binascii

from PIL import Image

from balcap.images import ANY, Rejected, check_bytes, decode, resize


class PictureError(ValueError):
    """Not a picture that can be captioned; the message says why."""


def from_base64(text: str, longest_side: int) -> Image.Image:
    """One picture, upright, RGB, at most ``longest_side`` pixels; raises :class:`PictureError`."""
    try:
        check_bytes(len(text) * 3 // 4, ANY)  # before the copy that decoding makes
        return resize(decode(base64.b64decode(text, validate=True), ANY), longest_side)
    except binascii.Error as error:
        raise PictureError(f"not base64: {error}") from None
    except Rejected as error:
        raise PictureError(str(error)) from None
