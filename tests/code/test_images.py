"""Decoding within limits, orientation, conversion, resizing; what is refused, and why."""

from __future__ import annotations

import io
import pickle
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from balcap.hashing import image_id
from balcap.images import Rejected, decode, difference_hash, encode, read_picture, resize
from balcap.params.prepare import Images, Limits

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
LIMITS = Limits(max_pixels=100_000, max_bytes=200_000, min_side=8, max_reject_share=0.0)
PNG = Images(size=64, format="png", quality=None)
JPEG = Images(size=64, format="jpeg", quality=90)
PHOTOS = sorted((Path(__file__).parents[2] / "data/examples/photos/images").glob("*.jpg"))
RED, GREEN = (200, 30, 30), (30, 160, 60)


def noise(width: int = 40, height: int = 30, channels: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def two_halves(mode: str = "RGB") -> Image.Image:
    """Red on the left, green on the right; 32 x 16."""
    image = Image.new("RGB", (32, 16), RED)
    image.paste(GREEN, (16, 0, 32, 16))
    return image.convert(mode)


def bomb_png(width: int, height: int) -> bytes:
    """A tiny file whose header promises a huge picture."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    )


def frames(kind: str) -> bytes:
    pictures = [Image.fromarray(noise(seed=i)) for i in range(3)]
    return saved(pictures[0], kind, save_all=True, append_images=pictures[1:])


def corrupt_png() -> bytes:
    data = bytearray(saved(Image.fromarray(noise()), "PNG"))
    data[60:200] = bytes(140)
    return bytes(data)


REFUSED = {
    "empty": (b"", "empty"),
    "text": (b"just some text, renamed to .jpg", "not_an_image"),
    "a text that begins like a bitmap": (b"BMW is a maker of cars, and this is a text about it", "not_an_image"),
    "pdf": (b"%PDF-1.4 ...", "not_an_image"),
    "postscript, which Pillow would run": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not_an_image"),
    "sound in the container of WebP": (b"RIFF\x24\0\0\0WAVEfmt ", "not_an_image"),
    "truncated jpeg": (saved(Image.fromarray(noise()), "JPEG")[:-200], "truncated"),
    "jpeg header only": (saved(Image.fromarray(noise()), "JPEG")[:30], "truncated"),
    "truncated png": (saved(Image.fromarray(noise()), "PNG")[:-900], "truncated"),
    "truncated webp": (saved(Image.fromarray(noise()), "WEBP")[:-200], "truncated"),
    "truncated gif": (saved(Image.fromarray(noise()), "GIF")[:-400], "truncated"),
    "truncated bmp": (saved(Image.fromarray(noise()), "BMP")[:-400], "truncated"),
    "truncated tiff": (saved(Image.fromarray(noise()), "TIFF")[:300], "truncated"),
    "corrupt png": (corrupt_png(), "broken"),
    "animated gif": (frames("GIF"), "animated"),
    "animated png": (frames("PNG"), "animated"),
    "animated webp": (frames("WEBP"), "animated"),
    "tiff of several pages": (frames("TIFF"), "animated"),
    "bomb above the limit": (bomb_png(2000, 2000), "too_many_pixels"),
    "bomb above Pillow's own limit": (bomb_png(30_000, 30_000), "too_many_pixels"),
    "too many bytes": (saved(Image.fromarray(noise(300, 300)), "PNG"), "too_many_bytes"),
    "too small": (saved(Image.fromarray(noise(40, 7)), "PNG"), "too_small"),
    "floats": (saved(Image.fromarray(np.ones((9, 9), np.float32)), "TIFF"), "unsupported_pixels"),
    "32-bit integers": (saved(Image.fromarray(np.ones((9, 9), np.int32)), "TIFF"), "unsupported_pixels"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_bad_files_are_refused_with_a_reason(what: str) -> None:
    data, reason = REFUSED[what]
    details = set()
    for _ in range(2):
        with pytest.raises(Rejected) as refused:
            read_picture(data, PNG, LIMITS)
        assert refused.value.reason == reason
        details.add(refused.value.detail)
    assert len(details) == 1 and "0x" not in details.pop()  # equal from run to run


def test_a_bomb_is_not_decoded() -> None:
    """900 million pixels would need 2.7 GB; the header alone decides."""
    import tracemalloc

    tracemalloc.start()
    with pytest.raises(Rejected):
        read_picture(bomb_png(30_000, 30_000), PNG, LIMITS)
    assert tracemalloc.get_traced_memory()[1] < 1_000_000
    tracemalloc.stop()


@given(st.binary(max_size=200), st.sampled_from([b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"II*\0"]))
def test_no_bytes_end_otherwise_than_refused(tail: bytes, head: bytes) -> None:
    with pytest.raises(Rejected):
        decode(head + tail, LIMITS)


@given(st.integers(0, 2**32), st.sampled_from(["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"]), st.integers(1, 40))
def test_damaged_files_decode_or_are_refused(seed: int, kind: str, wrong: int) -> None:
    rng = np.random.default_rng(seed)
    data = np.frombuffer(saved(Image.fromarray(noise(24, 24)), kind), np.uint8).copy()
    data[rng.integers(0, len(data), wrong)] = rng.integers(0, 256, wrong)
    try:
        assert decode(data.tobytes(), LIMITS).mode == "RGB"
    except Rejected as why:
        assert why.reason


def test_a_rejection_travels_between_processes() -> None:
    again = pickle.loads(pickle.dumps(Rejected("broken", "why")))
    assert (again.reason, again.detail) == ("broken", "why")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(orientation: int) -> None:
    upright = noise(40, 30)
    # what a camera held that way stores, by the definition of the tag: where its rows and columns begin
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: upright.transpose(1, 0, 2)[::-1],
        7: upright.transpose(1, 0, 2)[::-1, ::-1],
        8: upright.transpose(1, 0, 2)[:, ::-1],
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = saved(Image.fromarray(np.ascontiguousarray(stored)), "PNG", exif=exif)
    assert np.array_equal(np.asarray(decode(data)), upright)
    assert read_picture(data, PNG, LIMITS).image_id == image_id(40, 30, upright.tobytes())


def test_identity_is_that_of_the_pixels_before_resizing() -> None:
    pixels = noise(90, 50)
    png = read_picture(saved(Image.fromarray(pixels), "PNG"), PNG, LIMITS)
    bmp = read_picture(saved(Image.fromarray(pixels), "BMP"), JPEG, LIMITS)
    assert png.image_id == bmp.image_id == image_id(90, 50, pixels.tobytes())
    assert png == read_picture(pixels, PNG, LIMITS)  # a source may give pixels instead of a file
    assert (png.width, png.height, png.stored_width, png.stored_height) == (90, 50, 64, 36)
    assert decode(png.image).size == (64, 36)
    changed = pixels.copy()
    changed[0, 0, 0] ^= 1
    assert read_picture(changed, PNG, LIMITS).image_id != png.image_id


def test_transparency_is_laid_on_white() -> None:
    clear = np.zeros((16, 16, 4), np.uint8)
    clear[:, 8:] = (*RED, 255)
    clear[:4, 8:, 3] = 128
    for kind in ("PNG", "WEBP"):
        found = np.asarray(decode(saved(Image.fromarray(clear), kind, lossless=True)))
        assert (found[8, 0] == 255).all() and (found[8, 12] == RED).all()
        assert np.abs(found[0, 12] - (np.array(RED) * 128 + 255 * 127) / 255).max() <= 1
    palette = two_halves().quantize(4)
    data = saved(palette, "PNG", transparency=palette.getpixel((0, 0)))
    assert (np.asarray(decode(data))[8, [0, 31]] == [(255, 255, 255), GREEN]).all()
    keyed = saved(two_halves(), "PNG", transparency=RED)
    assert (np.asarray(decode(keyed))[8, [0, 31]] == [(255, 255, 255), GREEN]).all()
    grey = saved(Image.new("LA", (16, 16), (0, 0)), "PNG")
    assert (np.asarray(decode(grey)) == 255).all()


@pytest.mark.parametrize(
    ("mode", "kind"), [("P", "PNG"), ("P", "GIF"), ("CMYK", "JPEG"), ("CMYK", "TIFF"), ("L", "PNG")]
)
def test_other_modes_become_rgb(mode: str, kind: str) -> None:
    image = two_halves().quantize(4) if mode == "P" else two_halves(mode)
    found = np.asarray(decode(saved(image, kind)).convert("RGB"), int)[8, [2, 29]]
    wanted = np.asarray(two_halves("L").convert("RGB") if mode == "L" else two_halves(), int)[8, [2, 29]]
    assert np.abs(found - wanted).max() < 12


def test_sixteen_bits_keep_their_brightness() -> None:
    ramp = np.linspace(0, 65535, 256, dtype=np.uint16).reshape(16, 16)
    found = np.asarray(decode(saved(Image.fromarray(ramp), "PNG")))
    assert np.array_equal(found[..., 0], ramp >> 8) and (found[..., 0] == found[..., 2]).all()
    bilevel = Image.fromarray(np.eye(16, dtype=bool))
    assert np.array_equal(np.asarray(decode(saved(bilevel, "PNG")))[..., 1], np.eye(16) * 255)


def test_no_metadata_is_stored() -> None:
    exif = Image.Exif()
    exif[0x010E] = "a secret place"
    data = saved(two_halves(), "JPEG", exif=exif, comment=b"a secret comment", icc_profile=b"a secret profile")
    for images in (PNG, JPEG):
        assert b"secret" not in read_picture(data, images, LIMITS).image


@given(st.integers(1, 300), st.integers(1, 300), st.integers(16, 128))
def test_resizing_keeps_the_ratio_and_never_enlarges(width: int, height: int, size: int) -> None:
    found = resize(Image.new("RGB", (width, height)), size).size
    assert max(found) == min(size, max(width, height))
    assert abs(found[0] * height - found[1] * width) <= max(width, height)  # within half a pixel, at least one
    if max(width, height) <= size:
        assert found == (width, height)


def test_resizing_in_two_steps_is_nearly_lanczos() -> None:
    for path in PHOTOS:
        photo = decode(path.read_bytes())
        for size in (64, 128, 160):
            found = resize(photo, size)
            wanted = photo.resize(found.size, Image.Resampling.LANCZOS)
            error = np.mean((np.asarray(found, float) - np.asarray(wanted, float)) ** 2)
            assert 10 * np.log10(255**2 / max(error, 1e-9)) > 36  # dB; JPEG of quality 90 has 31 to 35


def test_png_loses_nothing_and_jpeg_little() -> None:
    photo = resize(decode(PHOTOS[0].read_bytes()), 64)
    assert np.array_equal(np.asarray(decode(encode(photo, PNG))), np.asarray(photo))
    error = np.abs(np.asarray(decode(encode(photo, JPEG)), float) - np.asarray(photo))
    assert 0 < error.mean() < 8


def test_the_perceptual_hash_sees_likeness() -> None:
    hashes = {path: difference_hash(resize(decode(path.read_bytes()), 128)) for path in PHOTOS}
    assert len(set(hashes.values())) == len(PHOTOS)
    for path, found in hashes.items():
        small = difference_hash(resize(decode(saved(decode(path.read_bytes()), "JPEG", quality=50)), 80))
        assert len(found) == 16
        assert (int(found, 16) ^ int(small, 16)).bit_count() <= 10
    ramp = np.broadcast_to(np.arange(0, 256, 2, dtype=np.uint8)[:, None], (128, 128, 3))  # brighter downwards only
    assert difference_hash(Image.fromarray(np.ascontiguousarray(ramp))) == "0" * 16
    falling = np.broadcast_to(np.arange(255, 0, -2, dtype=np.uint8)[None, :, None], (128, 128, 3))
    assert difference_hash(Image.fromarray(np.ascontiguousarray(falling))) == "f" * 16


def test_exif_orientation_of_a_jpeg() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright: the stored picture lies on its left side
    found = decode(saved(two_halves(), "JPEG", exif=exif, quality=95))
    assert found.size == (16, 32)
    assert np.abs(np.asarray(found, int)[[4, 27], 8] - [RED, GREEN]).max() < 12
