"""One caption scored in a notebook: ``balcap.score(image, caption, reference)``.

    import balcap
    result = balcap.score("tower.jpg", "A white tower stands on a hill.", "A white tower with a red door …")
    result.rewards            {"precision": 1.0, "recall": 0.5, "linguistic": 1.0}
    result.judgement          every statement with its verdicts, every unit with its coverage

The judge is ``lexical``, which sees words only (its limits: ``balcap.judge.lexical``), or the oracle for a
:class:`~balcap.records.Sample` that carries its scene.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from balcap.collect.units import split_units as split_english
from balcap.hashing import image_id
from balcap.images import decode
from balcap.judge import JUDGES
from balcap.judge.guard import Guard
from balcap.llm.background import GRACE, Background
from balcap.records import Caption, Judge, Judgement, Question, Reference, Sample
from balcap.rewards import REWARDS, bind, length
from balcap.scenes import split_units as split_atoms

DEADLINE_SECONDS = 300.0


@dataclass(frozen=True, slots=True)
class Scored:
    """What is known of one caption; rewards in [0, 1], NaN = unknown, the linguistic one without the length mask."""

    rewards: dict[str, float]
    length_ratio: float
    """Words of the caption per word of the reference; training masks the linguistic reward outside its interval."""
    judgement: Judgement
    reference: Reference
    judge: str


def score(
    image: Sample | Image.Image | bytes | str | Path,
    caption: Caption | str,
    reference: Reference | str,
    questions: tuple[Question, ...] = (),
    judge: Judge | None = None,
) -> Scored:
    """Judge one caption of one picture against a reference, whose units are split from the text if it is a string.

    The oracle's units are single facts, as ``collect_references`` splits them; all others are statements in English.
    ``questions`` add the reward ``utility``; ``judge`` takes the place of the one by rule and is closed. ``image`` is a
    path, encoded bytes, a PIL image or a stored sample. Raises ``balcap.images.Rejected`` for bytes that are no
    picture, ``FileNotFoundError`` for a missing file, ``TypeError`` for anything else.
    """
    sample = image if isinstance(image, Sample) else _sample(image)
    said = caption if isinstance(caption, Caption) else Caption(caption)
    judge = judge or JUDGES["oracle" if "scene" in sample.meta else "lexical"]()
    target = reference if isinstance(reference, Reference) else _reference(sample, reference)
    with Background() as loop:  # a notebook's own thread already runs an event loop
        asked = Guard(judge, DEADLINE_SECONDS).judge_group(sample, target, [said], questions)
        (judgement,) = loop.run(asked, DEADLINE_SECONDS + GRACE)
        loop.run(judge.close(), DEADLINE_SECONDS)
    rules = bind(judge.fills)
    wanted = [name for name in REWARDS if name != "utility" or questions]
    rewards = {name: float(rules[name](judgement, said, target, questions)) for name in wanted}
    return Scored(rewards, length.ratio(said, target), judgement, target, judge.name)


def _sample(image: Image.Image | bytes | str | Path) -> Sample:
    """A picture as a sample without scene, under its identity."""
    if isinstance(image, Image.Image):
        buffer = io.BytesIO()
        image.convert("RGB").save(buffer, "PNG")
        data = buffer.getvalue()
    elif isinstance(image, bytes):
        data = image
    elif isinstance(image, str | Path):
        data = Path(image).read_bytes()
    else:
        raise TypeError(f"image is {type(image).__name__}; give a path, bytes, a PIL image or a Sample")
    rgb = decode(data)
    return Sample(image_id(*rgb.size, rgb.tobytes()), data, "", "given", "unknown")


def _reference(sample: Sample, text: str) -> Reference:
    split = split_atoms if "scene" in sample.meta else split_english
    return Reference(sample.image_id, text, split(text), "given", "")
