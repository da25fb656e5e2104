"""The report for people: one HTML file that needs nothing else, offline, on a phone and without a mouse.

    html = render_report(results, params.evaluate, plots)

Everything that comes from data is escaped; pictures and plots are embedded. No clock, so that equal results give equal
bytes.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from balcap.evaluation.cases import Case, Row
from balcap.evaluation.detectors import DETECTORS
from balcap.evaluation.rewards import PARTS
from balcap.evaluation.run import Results
from balcap.evaluation.stats import Score
from balcap.images import decode
from balcap.params.evaluate import Evaluate
from balcap.records import MARKS, Assertion

THUMBNAIL = 512
"""Longest side in pixels up to which a picture is embedded as it is stored."""
POOR = 0.3
"""b-CapScore below which the report warns of using the captions at all."""
CUT = 0.05
"""Share of captions without an end above which the report says so."""
LENGTH = 0.25
"""Change of the mean number of words, as a share, above which the report says so."""
ABOUT = {
    "b_capscore": ("b-CapScore", "harmonic mean of the three below: no view of quality won at the cost of another"),
    "precision": ("Precision", "statements that are true and can be pointed at"),
    "recall": ("Recall", "what the reference says and the caption covers"),
    "linguistic": ("Linguistic", "clarity, fluency and coherency, without the length mask"),
    "qa_accuracy": ("Question answering", "questions answered rightly from the caption alone"),
    "arena": ("Arena", "wins minus losses against three other captioners, −1 to 1"),
    "words": ("Words", "per caption"),
    "length_ratio": ("Length ratio", "words per word of the reference"),
    "repetition": ("Repetition", "of 100 words, those that say again what stood there"),
    "hedging": ("Hedging", "expressions per 100 words that leave a statement open"),
    "self_praise": ("Self-praise", "expressions per 100 words that speak of the caption's own quality"),
}
DIGITS = {"words": 1, **dict.fromkeys(DETECTORS, 2)}
"""Of the metric table, where it is not three."""
NEUTRAL = ("words", "length_ratio", *DETECTORS)
"""Metrics that are not better for being larger: their change is no rise and no fall of quality."""
PLOTS = {
    "scores": ("Scores with their intervals", "Bars of the table's scores, base beside policy, each with its interval"),
    "change": ("Change per picture", "Histograms of policy minus base per picture, one per score"),
    "length": ("Words per caption", "Histograms of words per caption: references, base and policy"),
}
FILLED_BY = {"precision": {"assertions"}, "recall": {"covered"}, "linguistic": set(MARKS), "qa_accuracy": {"answers"}}
"""The parts of a judgement that a metric is made of, one at least."""


@dataclass(frozen=True)
class Line:
    """One line of the metric table, as text."""

    name: str
    about: str
    base: tuple[str, str]
    policy: tuple[str, str]
    change: tuple[str, str]
    """Value and interval, as of both models."""
    trend: str
    n: int
    missing: str


@dataclass(frozen=True)
class Shown:
    """One picture of the report."""

    case: Case
    image: str
    small: bool
    """A picture of few pixels, enlarged without blur."""
    gain: float
    units: list[tuple[str, str, str]]
    """Each unit of the reference with the marks of base and policy."""


def render_report(results: Results, params: Evaluate, plots: Path) -> str:
    """The report as one HTML text; ``plots`` is the folder with the PNGs."""
    env = Environment(
        loader=PackageLoader("balcap.evaluation", "."), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    env.filters |= {"verdict": verdict, "signed": signed, "facts": row_facts}
    return env.get_template("report.html.j2").render(
        headline=headline(results.scores),
        remarks=remarks(results, params),
        lines=[line(results, params, name) for name in ABOUT],
        plots=[(*texts, data_uri((plots / f"{name}.png").read_bytes())) for name, texts in PLOTS.items()],
        sections=sections(results.cases, params.report_images),
        params=params,
        results=results,
        confidence=f"{params.confidence * 100:g} %",
    )


def headline(scores: dict[str, dict[str, Score]]) -> tuple[str, str]:
    """The verdict: a class (``better``, ``worse``, ``same``, ``unknown``) and one sentence."""
    base, policy, change = (scores[part]["b_capscore"] for part in ("base", "policy", "difference"))
    if change.value is None or change.low is None or change.high is None:
        return "unknown", "Nothing can be said: the judge could not measure all parts of b-CapScore."
    facts = (
        f"b-CapScore {number(base.value)} → {number(policy.value)} on {change.n} held-out pictures, "
        f"a change of {signed(change.value)} (interval {signed(change.low)} to {signed(change.high)})"
    )
    if change.low > 0:
        return "better", f"The trained captioner is better than the one it started from: {facts}."
    if change.high < 0:
        return "worse", f"The trained captioner is worse than the one it started from: {facts}."
    return "same", f"No clear difference between the trained captioner and the one it started from: {facts}."


def remarks(results: Results, params: Evaluate) -> list[str]:
    """What a reader must know before believing the numbers."""
    found = []
    score = results.scores["policy"]["b_capscore"].value
    if score is not None and score < POOR:
        found.append(f"The captions are poor all the same: b-CapScore {number(score)} of 1. Do not rely on them.")
    cut = sum(case.policy.caption.truncated for case in results.cases)
    if cut > CUT * len(results.cases):
        found.append(
            f"{cut} of the policy's {len(results.cases)} captions were cut off at the length limit; precision, recall "
            "and linguistic count them as 0."
        )
    for name in (*PARTS, "qa_accuracy", "arena"):
        change = results.scores["difference"][name]
        if change.high is not None and change.high < 0:
            found.append(f"{ABOUT[name][0]} fell: {' '.join(interval(change, sign=True))}.")
    found += length_remark(results)
    for name in DETECTORS:
        change = results.scores["difference"][name]
        if change.low is not None and change.low > 0:
            found.append(f"{ABOUT[name][0]} rose: {' '.join(interval(change, 2, sign=True))} per 100 words.")
    missing = [ABOUT[name][0].lower() for name, score in results.scores["policy"].items() if score.n == 0]
    if missing:
        found.append(f"Not measured: {', '.join(missing)}.")
    marks = [mark for mark in MARKS if mark not in results.fills]
    if marks and results.scores["policy"]["linguistic"].n:
        found.append(f"Linguistic quality is measured without {' and '.join(marks)}: judge {params.judge.name} cannot.")
    if params.allow_training_judge:
        found.append("The judge may be the one that gave the rewards in training.")
    if len(results.cases) < 50:
        found.append(f"Only {len(results.cases)} pictures: intervals are wide, and a little too narrow even so.")
    if results.failure_rate > 0:
        found.append(f"{results.failure_rate:.1%} of the judge's verdicts are unknown and left out, not counted as 0.")
    return found


def length_remark(results: Results) -> list[str]:
    """One sentence if the captions' length changed much: length alone moves many scores."""
    base, policy, change = (results.scores[part]["words"] for part in ("base", "policy", "difference"))
    if not base.value or policy.value is None or abs(policy.value / base.value - 1) <= LENGTH:
        return []
    ratio = number(results.scores["policy"]["length_ratio"].value, 2)
    return [
        f"The captions became {'longer' if policy.value > base.value else 'shorter'}: {number(base.value, 1)} → "
        f"{number(policy.value, 1)} words ({' '.join(interval(change, 1, sign=True))}), {ratio} times the reference."
    ]


def line(results: Results, params: Evaluate, name: str) -> Line:
    """One metric as text; the trend says whether the interval of the difference excludes zero."""
    base, policy, change = (results.scores[part][name] for part in ("base", "policy", "difference"))
    trend = "same"
    if change.low is not None and change.high is not None:
        trend = "up" if change.low > 0 else "down" if change.high < 0 else "same"
    if name in NEUTRAL:
        trend = "same"
    label, about = ABOUT[name]
    digits = DIGITS.get(name, 3)
    texts = (interval(base, digits), interval(policy, digits), interval(change, digits, sign=True))
    return Line(label, about, *texts, trend, change.n, "" if change.n else why_missing(results, params, name))


def why_missing(results: Results, params: Evaluate, name: str) -> str:
    """The reason for n = 0."""
    if name in FILLED_BY and not FILLED_BY[name] & results.fills:
        return f"not measured by judge {params.judge.name}"
    if name == "arena":
        return "needs pictures of the embedded world"
    return "no questions" if name == "qa_accuracy" else "unknown for every picture"


def sections(cases: Sequence[Case], count: int) -> list[tuple[str, str, list[Shown]]]:
    """Some ``count`` pictures: biggest gains, biggest losses, and others that nobody selected; none appears twice."""
    gains = np.array([gain(case) for case in cases])
    order = [int(i) for i in np.argsort(-gains, kind="stable") if math.isfinite(gains[i])]
    best = [i for i in order if gains[i] > 0][: count // 3]
    worst = [i for i in reversed(order) if gains[i] < 0][: count // 3]
    rest = [i for i in range(len(cases)) if i not in best + worst][: count - len(best) - len(worst)]
    groups = (
        ("Biggest gains", "Where precision, recall and linguistic quality together rose most.", best),
        ("Biggest losses", "Where they fell most.", worst),
        ("Not selected", "The first of the other pictures by identity, whatever their scores.", rest),
    )
    return [(title, text, [show(cases[i], float(gains[i])) for i in group]) for title, text, group in groups if group]


def show(case: Case, change: float) -> Shown:
    """A picture as the template needs it."""
    image = case.picture.sample.image
    small = max(Image.open(io.BytesIO(image)).size) < 200
    marks = [row.judgement.covered or ("?",) * len(case.picture.reference.units) for row in (case.base, case.policy)]
    signs = [["?" if mark == "?" else "✓" if mark else "✗" for mark in row] for row in marks]
    return Shown(case, picture_uri(image), small, change, list(zip(case.picture.reference.units, *signs, strict=True)))


def gain(case: Case) -> float:
    """Policy - base of the mean over the rewards that are known for both; NaN when none is."""
    known = [case.policy.scores[name] - case.base.scores[name] for name in PARTS]
    known = [change for change in known if math.isfinite(change)]
    return math.fsum(known) / len(known) if known else math.nan


def picture_uri(image: bytes) -> str:
    """A stored picture for embedding; larger ones than :data:`THUMBNAIL` are reduced first."""
    if max(Image.open(io.BytesIO(image)).size) <= THUMBNAIL:
        return data_uri(image)
    small, buffer = decode(image), io.BytesIO()
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    small.save(buffer, "JPEG", quality=85)
    return data_uri(buffer.getvalue())


def data_uri(image: bytes) -> str:
    """PNG or JPEG bytes as a data URI."""
    kind = "png" if image.startswith(b"\x89PNG") else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(image).decode()}"


def verdict(assertion: Assertion) -> tuple[str, str, str]:
    """Class, sign and words of an assertion's two verdicts: colour is never the only carrier."""
    if not assertion.verified:
        return "false", "✗", "false or not verified"
    return ("good", "✓", "true and pointable") if assertion.pointable else ("vague", "~", "not pointable")


def number(value: float | None, digits: int = 3) -> str:
    """A number as read by people; a dash for unknown."""
    return "–" if value is None or not math.isfinite(value) else f"{value:.{digits}f}".replace("-", "−")


def signed(value: float | None, digits: int = 3) -> str:
    """A difference with its sign; one that rounds to zero has none."""
    text = number(value, digits)
    return f"+{text}" if value is not None and math.isfinite(value) and round(value, digits) > 0 else text


def interval(score: Score, digits: int = 3, sign: bool = False) -> tuple[str, str]:
    """Value and interval, such as ``("0.838", "[0.812, 0.861]")``; dashes for unknown."""
    show = signed if sign else number
    return show(score.value, digits), f"[{show(score.low, digits)}, {show(score.high, digits)}]"


def row_facts(row: Row) -> list[tuple[str, str]]:
    """The scores of one caption, short, unknown ones left out."""
    labels = {"precision": "P", "recall": "R", "linguistic": "L", "qa_accuracy": "QA", "arena": "arena"}
    facts = [(label, number(row.scores[name], 2)) for name, label in labels.items() if math.isfinite(row.scores[name])]
    return [*facts, ("words", number(row.scores["words"], 0))]
