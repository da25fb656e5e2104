"""The report of a study as Markdown with pictures: a function of the committed results, equal data give equal bytes.

write_report(read_study(folder / "data"), folder)        README.md, *.png and pictures/ in ``folder``
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from balcap.files import atomic_path
from balcap.study import plots
from balcap.study.arms import ARMS, BASES, title
from balcap.study.claims import VERDICTS, Claim, Decided, Verdict, decide_all, load_claims, tally, untested
from balcap.study.data import EXAMPLE, Study
from balcap.study.stats import METRICS, At, Estimate, Metric, comparable, effect, level

MAIN = (
    "precision", "recall", "linguistic", "b_capscore", "qa_accuracy", "arena", "words",
    "commentary", "repeats", "repetition",
)  # fmt: skip
KINDS = ("relations", "place_first", "form_balance")
DIFFERENCES: tuple[tuple[str, At], ...] = (
    ("b_capscore", "end"), ("b_capscore", "curve"), ("qa_accuracy", "end"), ("arena", "end"),
)  # fmt: skip
COVERS = """\
**What the intervals cover** (95 %, `balcap/study/stats.py`). Arms are compared pair by pair: same seed, same warm
start, same pictures in the same order. At the end the interval is a t interval over the seeds, widened by a bootstrap
over the held-out pictures, which are the same for all seeds; it speaks of other seeds and other pictures of this world.
For a curve it is the t interval over the seeds: each takes the same pool of training pictures in another order, so
these intervals speak of other seeds, not of other pictures. None says anything of other worlds, judges or models; two
warm starts are too few to speak of others, and seeds that share one count as independent. Comparisons with a warm start
subtract the same captions in all seeds that begin there: they speak of training from these two warm starts. The level
of the warm start itself counts each of the two once. With three seeds t is 4.3 (with two warm starts 12.7): an effect
must be large or very even to be told from none. Intervals are not corrected for their number: of the {count} that
decide claims, about one in twenty misses the true value, and the tables hold more."""
OTHER_JUDGE = """\
–: what a curve says of quality is the word of the judge in training, and these two arms had different ones. Their end
was scored by the exact judge, as that of all arms."""
NOISY = """\
What these curves say of the quality of {arms} is the word of the noisy judge that trained there, so the exact judge's
curve of another arm is not drawn beside it."""
TWO_READINGS = """\
The scale on which the paper's vanilla GRPO sums the linguistic mark is not known: the arms with the raw mark and with
rewards in [0, 1] are two readings of one published row, so the second ones are counted apart."""
UNKNOWN = "–"
SAID = {"reproduced": "yes", "not reproduced": "no", "inconclusive": "inconclusive"}
"""Verdicts on questions of our own: nothing is there to be reproduced."""
SCALES = """\
P, R, L: precision (true and pointable), recall, linguistic quality without the length mask, 0 to 1. b-CapScore is
their harmonic mean over corpus means. QA: share of questions answered from the caption. Arena: wins less losses against
three opponents, -1 to 1. Commentary and repeats: statements per caption that nobody can check, and that stood there
before. Repetition: of 100 words, those that say again what stood there."""


def write_report(study: Study, folder: Path) -> None:
    """Write README.md and its plots; ``folder`` also holds ``data`` and ``pictures``."""
    arms = [name for name in ARMS if name in study.arms()]
    decided = decide_all(study, load_claims())
    files = plots.draw(study, arms, folder)
    opening, pictures = _opening(study, arms, len(decided)), _pictures(arms, files)
    parts = [*opening, *_verdicts(decided), *_tables(study, arms), *pictures, *_examples(study)]
    with atomic_path(folder / "README.md") as tmp:
        tmp.write_text("\n".join(parts).rstrip() + "\n", encoding="utf-8")


def _opening(study: Study, arms: Sequence[str], claims: int) -> list[str]:
    runs, seeds = study.runs, sorted({seed for arm in arms for seed in study.seeds(arm)})
    steps = sorted({len(rows["words"]) for rows in study.curves.values()})
    pictures = sorted({study.pictures(arm) for arm in arms})
    return [
        "# The ablations in miniature",
        "",
        "Written by `balcap study report` from the results in `data/`, which these commands made:",
        "",
        "```",
        *runs["commands"],
        "```",
        "",
        f"{len(arms)} arms, seeds {_listed(seeds)}, {_listed(steps)} steps of training each, {_listed(pictures)} "
        "held-out pictures whose scenes served no design decision. Even seeds of reinforcement learning start from the "
        "first warm start, odd ones from the second. An arm is `recipes/ablation-NAME.yaml`; which DVC experiment each "
        "run is stands in `data/runs.json`. What is claimed, and from which effect on, was committed before the runs: "
        "`balcap/study/claims.yaml`.",
        "",
        COVERS.format(count=claims),
        "",
    ]


def _listed(values: Iterable[Any]) -> str:
    return ", ".join(map(str, values))


def _verdicts(decided: Sequence[Decided]) -> list[str]:
    parts = []
    for source, heading in (("paper", "What the paper claims"), ("ours", "Further questions")):
        rows = [one for one in decided if one.claim.source == source]
        if not rows:
            continue
        yes, no = (_said(source, verdict) for verdict in ("reproduced", "not reproduced"))
        parts += [
            f"## {heading}",
            "",
            *_counts(rows, source),
            f"The verdict is *{yes}* when the whole interval lies at or beyond the threshold, *{no}* when the whole "
            "interval falls short of it, *inconclusive* otherwise.",
            "",
            "| claim | verdict | measured here | counts from | paper | expected |",
            "|---|---|---|---|---|---|",
            *(_verdict(one) for one in rows),
            "",
            *_surprises(rows),
        ]
    return [*parts, "Not tested by any arm: " + "; ".join(untested()) + ".", ""]


def _counts(rows: Sequence[Decided], source: str) -> list[str]:
    """How many claims have which verdict, second readings of a published figure apart."""
    again = [one for one in rows if one.claim.again]
    first = _tally([one for one in rows if not one.claim.again], source)
    return [f"{first}. Second readings: {_tally(again, source)}. {TWO_READINGS}" if again else f"{first}.", ""]


def _tally(rows: Sequence[Decided], source: str) -> str:
    count = tally(rows)
    return ", ".join(f"{count[verdict]} {_said(source, verdict)}" for verdict in VERDICTS)


def _said(source: str, verdict: Verdict) -> str:
    return verdict if source == "paper" else SAID[verdict]


def _verdict(one: Decided) -> str:
    claim, test = one.claim, one.claim.test
    metric = METRICS[test.metric]
    sign = 1 if test.direction == "up" else -1
    when = "end" if test.at == "end" else "mean of the curve"
    measured = (
        f"{metric.label}, {title(test.arm)} − {title(test.against)}, {when}: "
        f"{_signed(one.estimate, metric)}; seeds {_seeds(one.estimate, metric)}"
    )
    expected = _expected(claim)
    cells = [
        claim.claim, f"**{_found(one)}**", measured, _number(sign * test.threshold, metric.digits, sign=True),
        claim.paper, f"{expected} ({claim.note})" if claim.note else expected,
    ]  # fmt: skip
    return _row(cells)


def _found(one: Decided) -> str:
    return _said(one.claim.source, one.verdict)


def _expected(claim: Claim) -> str:
    return _said(claim.source, claim.expect) if claim.expect else UNKNOWN


def _surprises(rows: Sequence[Decided]) -> list[str]:
    other = [one for one in rows if one.claim.expect and one.claim.expect != one.verdict]
    if not other:
        return ["Every verdict is the expected one, where one was expected.", ""]
    said = [f"- {one.claim.claim}: expected {_expected(one.claim)}, found {_found(one)}." for one in other]
    return ["Otherwise than the feasibility study let us expect:", "", *said, ""]


def _tables(study: Study, arms: Sequence[str]) -> list[str]:
    everything = [name for name in [*BASES, *arms] if name in study.arms()]
    rows = [_differences(study, arm) for arm in arms if ARMS[arm].against in study.arms()]
    return [
        "## At the end of training",
        "",
        SCALES,
        "",
        *_table(["arm", *(METRICS[name].label for name in MAIN)], (_levels(study, arm, MAIN) for arm in everything)),
        "",
        "## Differences",
        "",
        "Arm less the arm it is compared with, and the difference of each seed.",
        "",
        *_table(["arm", "less", *(f"{METRICS[name].label}, {at}" for name, at in DIFFERENCES)], rows),
        "",
        *([OTHER_JUDGE, ""] if any(UNKNOWN in row for row in rows) else []),
        "## Kinds of sentences",
        "",
        "Relations per caption; share of the sentences about a placed thing that begin with the place; how evenly both "
        "forms are used (1: equally often, 0: one is left).",
        "",
        *_table(["arm", *(METRICS[name].label for name in KINDS)], (_levels(study, arm, KINDS) for arm in everything)),
        "",
    ]


def _levels(study: Study, arm: str, names: Sequence[str]) -> list[str]:
    return [title(arm), *(_plus_minus(level(study, arm, METRICS[name]), METRICS[name]) for name in names)]


def _differences(study: Study, arm: str) -> list[str]:
    against = ARMS[arm].against
    assert against is not None
    cells = []
    for name, at in DIFFERENCES:
        metric = METRICS[name]
        if not comparable(arm, against, metric, at):
            cells.append(UNKNOWN)
            continue
        found = effect(study, arm, against, metric, at)
        cells.append(f"{_signed(found, metric)}; {_seeds(found, metric)}")
    return [title(arm), title(against), *cells]


def _pictures(arms: Sequence[str], files: Sequence[str]) -> list[str]:
    curves = [name for name in files if name.startswith("curves")]
    noisy = [f"*{title(arm)}*" for arm in arms if ARMS[arm].judge == "noisy"]
    return [
        "## Learning curves",
        "",
        "What the judge in training says of the sampled captions of each step, in all arms alike, whatever they "
        f"reward; running means over {plots.SMOOTH} steps.",
        "",
        *([NOISY.format(arms=" and ".join(noisy)), ""] if noisy else []),
        *(f"![{name.removesuffix('.png')}]({name})\n" for name in curves),
        "## Lengths",
        "",
        "Dotted: the mean.",
        "",
        "![lengths](lengths.png)",
        "",
    ]


def _examples(study: Study) -> list[str]:
    """Captions of the first held-out pictures by image id: neither the best nor the worst were chosen."""
    parts = ["## Captions", "", "The first held-out pictures by id, neither the best nor the worst; first seed.", ""]
    for image_id in dict.fromkeys(row["image_id"] for row in study.examples):
        rows = [row for row in study.examples if row["image_id"] == image_id]
        parts += [
            f'<img src="pictures/{image_id[:12]}.png" width="192" alt="picture {image_id[:12]}">',
            "",
            *_table(["arm", "caption", "P", "R", "L"], (_example(row) for row in rows)),
            "",
        ]
    return parts


def _example(row: dict[str, Any]) -> list[str]:
    name = "reference" if row["arm"] == "reference" else title(row["arm"])
    return [name, row["caption"] or "(empty)", *(_number(row[part], 2) for part in EXAMPLE)]


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    return [_row(head), _row(["---"] * len(head)), *map(_row, rows)]


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _signed(found: Estimate, metric: Metric) -> str:
    """``+.021 [-.010, +.052]``; without an interval the value alone."""
    value = _number(found.value, metric.digits, sign=True)
    if math.isnan(found.low):
        return f"{value} (no interval)"
    return f"{value} [{', '.join(_number(end, metric.digits, sign=True) for end in (found.low, found.high))}]"


def _plus_minus(found: Estimate, metric: Metric) -> str:
    value = _number(found.value, metric.digits)
    return value if math.isnan(found.low) else f"{value} ± {_number(found.half, metric.digits)}"


def _seeds(found: Estimate, metric: Metric) -> str:
    return ", ".join(_number(value, metric.digits, sign=True) for value in found.per_seed)


def _number(value: float, digits: int, sign: bool = False) -> str:
    """``.838``, ``+1.20``, ``−.044``, and a dash for what is unknown."""
    if math.isnan(value):
        return UNKNOWN
    text = f"{abs(value):.{digits}f}"
    if digits > 1 and text.startswith("0."):
        text = text[1:]
    negative = value < 0 and float(f"{value:.{digits}f}") != 0
    return ("−" if negative else "+" if sign else "") + text
