"""Labelled sets: single statements with both verdicts, captions with the units they cover, captions with rewards.

    scenes_set(60, seed=0)              drawn pictures; truth by rule, exact
    photos_set(Path("data/photos"))     photographs with statements labelled by people (assertions.jsonl)

A statement is put before a judge as a caption of its own. Of a photograph's captions only this is known: of one made of
labelled statements (the true ones, half of each kind, the others) the precision; that its own reference covers every
unit, and that of a picture of another group none. People may have written variants of its reference (variants.jsonl).
"""

from __future__ import annotations

import io
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from balcap.hashing import image_id
from balcap.images import Rejected, decode
from balcap.records import Assertion, Judgement, Picture, Question, Reference, Sample
from balcap.scenes import (
    Scene,
    covered,
    draw_scene,
    marks,
    noisy_caption,
    parse,
    pointable,
    render,
    say,
    scene_questions,
    split_units,
    teacher_caption,
    verified,
)

NOISY = 3
"""Captions per drawn picture: from good to bad, so that rewards spread."""
QUESTIONS = 4
VARIANTS = ("short", "hallucinated", "padded", "disfluent")


class SetError(ValueError):
    """A labelled set that cannot be read; the message names file, line and reason."""


@dataclass(frozen=True)
class Claim:
    """One statement about a picture and what is true of it."""

    text: str
    verified: bool
    pointable: bool


@dataclass(frozen=True)
class Covering:
    """A caption and, per unit of the picture's reference, whether it covers it."""

    text: str
    covered: tuple[bool, ...]


@dataclass(frozen=True)
class Case:
    """A picture with everything that is known of it.

    ``truths`` are captions with their true judgements in the parts that are known, ``variants`` the reference rewritten
    by people: ``short``, ``hallucinated``, ``padded``, ``disfluent``.
    """

    picture: Picture
    claims: tuple[Claim, ...]
    coverings: tuple[Covering, ...]
    truths: tuple[tuple[str, Judgement], ...] = ()
    variants: Mapping[str, str] = field(default_factory=dict)


def scenes_set(count: int, seed: int) -> list[Case]:
    """``count`` drawn pictures; every label is computed from the facts of the scene."""
    return [_scene_case(draw_scene(seed, i, 1, 3), seed, i) for i in range(count)]


def _scene_case(scene: Scene, seed: int, i: int) -> Case:
    reference = teacher_caption(scene, seed=seed * 1_000_003 + i)
    units = split_units(reference)
    texts = [noisy_caption(scene, seed * 1_000_003 + i * NOISY + k) for k in range(NOISY)]
    picture = _scene_picture(scene, reference, units)
    claims = {
        say(atom): Claim(say(atom), verified(atom, scene), pointable(atom)) for t in texts for atom in parse(t).atoms()
    }
    return Case(
        picture,
        tuple(claim for claim in claims.values() if _is_one(claim.text)),
        tuple(Covering(text, covered(units, text)) for text in texts),
        tuple((text, _truth(scene, units, text)) for text in texts),
    )


def _is_one(text: str) -> bool:
    """Whether a statement is read back as one; some facts can only be said together with others."""
    return len(parse(text).atoms()) == 1


def _scene_picture(scene: Scene, reference: str, units: tuple[str, ...]) -> Picture:
    pixels, buffer = render(scene), io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    identity = image_id(pixels.shape[1], pixels.shape[0], pixels.tobytes())
    sample = Sample(identity, buffer.getvalue(), "eval", "scenes", "CC0-1.0", {"scene": scene.to_json()})
    nan = float("nan")
    asked = tuple(
        Question(identity, q.question, q.options, q.answer, nan, nan) for q in scene_questions(scene, 0, QUESTIONS)
    )
    return Picture(sample, Reference(identity, reference, units, "scenes", ""), asked)


def _truth(scene: Scene, units: tuple[str, ...], text: str) -> Judgement:
    made = tuple(Assertion(say(a), verified(a, scene), pointable(a)) for a in parse(text).atoms())
    return Judgement(made, covered(units, text), *marks(text))


def photos_set(folder: Path, limit: int | None = None) -> list[Case]:
    """Photographs with ``captions.jsonl`` and ``assertions.jsonl`` (fields as in data/examples/photos/README.md).

    ``variants.jsonl`` may be missing.
    """
    captions = {row["image"]: row for row in _rows(folder / "captions.jsonl", "image", "caption", "units")}
    groups = {row["image"]: row["group"] for row in _rows(folder / "photos.jsonl", "image", "group")}
    claims: dict[str, list[Claim]] = defaultdict(list)
    for row in _rows(folder / "assertions.jsonl", "image", "text", "verified", "pointable"):
        if not all(isinstance(row[name], bool) for name in ("verified", "pointable")):
            raise SetError(f"{folder / 'assertions.jsonl'}: {row['text']!r}: verified and pointable are true or false")
        claims[row["image"]].append(Claim(row["text"], row["verified"], row["pointable"]))
    written = folder / "variants.jsonl"
    variants = {row["image"]: row for row in _rows(written, "image", *VARIANTS)} if written.exists() else {}
    chosen = sorted(set(captions) & set(groups))[:limit]
    if len({groups[image] for image in chosen}) < 2:
        raise SetError(f"{folder / 'photos.jsonl'}: {len(chosen)} pictures of one group; coverage needs two groups")
    others = {image: _stranger(image, chosen, groups) for image in chosen}
    return [
        _photo_case(folder, captions[i], captions[others[i]]["caption"], claims[i], variants.get(i, {})) for i in chosen
    ]


def _photo_case(
    folder: Path, row: dict[str, Any], stranger: str, claims: list[Claim], variants: dict[str, str]
) -> Case:
    try:
        data = (folder / row["image"]).read_bytes()
        rgb = decode(data)
    except (OSError, Rejected) as error:
        raise SetError(f"{folder / row['image']}: {error}") from None
    identity, units = image_id(*rgb.size, rgb.tobytes()), tuple(row["units"])
    picture = Picture(
        Sample(identity, data, "eval", row["image"], "", {}), Reference(identity, row["caption"], units, "file", "")
    )
    extremes = Covering(row["caption"], (True,) * len(units)), Covering(stranger, (False,) * len(units))
    truths = [*_composed(claims), *((e.text, Judgement(covered=e.covered)) for e in extremes)]
    written = {name: variants[name] for name in VARIANTS if name in variants}
    return Case(picture, tuple(claims), extremes, tuple(truths), written)


def _composed(claims: Sequence[Claim]) -> Iterator[tuple[str, Judgement]]:
    """Captions made of labelled statements: those that count, half of each kind, the others."""
    good = [claim for claim in claims if claim.verified and claim.pointable]
    bad = [claim for claim in claims if not (claim.verified and claim.pointable)]
    for made in (good, good[: len(good) // 2] + bad[: len(bad) // 2], bad):
        if made:
            assertions = tuple(Assertion(claim.text, claim.verified, claim.pointable) for claim in made)
            yield " ".join(claim.text for claim in made), Judgement(assertions)


def _stranger(image: str, images: list[str], groups: dict[str, str]) -> str:
    """The next picture of another group."""
    at = images.index(image)
    return next(other for other in images[at:] + images[:at] if groups[other] != groups[image])


def _rows(path: Path, *fields: str) -> Iterator[dict[str, Any]]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise SetError(f"{path}: {error.strerror}; a labelled set needs it") from None
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
            missing = [name for name in fields if name not in row]
        except (json.JSONDecodeError, TypeError) as error:
            raise SetError(f"{path}: line {number}: {error}") from None
        if missing:
            raise SetError(f"{path}: line {number}: lacks {', '.join(missing)}")
        yield row
