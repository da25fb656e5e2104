"""A calibration as a table, a JSON file and a reliability plot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib import rc_context, rcdefaults
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.table import Table

from balcap.calibration.measure import REWARDS, Measured
from balcap.calibration.probes import MOST_UNKNOWN, Moved, near_one
from balcap.evaluation.stats import Score
from balcap.files import atomic_path, write_json

REWARD_COLUMNS = ("bias", "noise", "correlation", "retest")
VERDICTS = ("verified", "pointable", "covered")
USELESS = 0.2
"""Cohen's kappa of a verdict, or correlation of a reward, up to which it tells hardly more than luck would."""


def write_calibration(folder: Path, measured: Measured) -> None:
    """``calibration.json`` and ``reliability.png`` in ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    scores = {part: {name: score.to_json() for name, score in row.items()} for part, row in measured.scores.items()}
    facts = {"judge": measured.judge, "unknown": dict(measured.unknown), "reasons": dict(measured.reasons)}
    facts |= {"verdict": verdict(measured)}
    write_json(folder / "calibration.json", facts | {"scores": scores, "std_floor": std_floor(measured)})
    with atomic_path(folder / "reliability.png") as tmp, rc_context():
        rcdefaults()
        figure = _reliability(measured)
        FigureCanvasAgg(figure)
        figure.savefig(tmp, format="png", dpi=130, metadata={"Software": None})


def std_floor(measured: Measured) -> dict[str, float]:
    """What ``train.advantage.std_floor`` should be: the noise of each reward of which enough is known.

    A group whose captions differ by less than the judge errs teaches the judge's errors (training, section 5.3).
    """
    noise = {name: measured.scores[name]["noise"].value for name in REWARDS}
    return {n: round(v, 4) for n, v in noise.items() if v is not None and _unknown(measured, n) <= MOST_UNKNOWN}


def verdict(measured: Measured) -> list[str]:
    """What a person has to know, as sentences."""
    found = {part: poor for part in VERDICTS if (poor := _luck(measured.scores[part]["kappa"]))}
    found |= {name: poor for name in REWARDS if (poor := _blind(measured.scores[name]))}
    said = [f"{part}: {what}" for part, what in found.items()]
    if found:
        tell = "tells" if len(found) == 1 else "tell"
        said.insert(0, f"This judge is bad: {', '.join(found)} {tell} hardly more than luck would. Do not train on it.")
    missing = {part: n for part, n in measured.unknown.items() if n}
    if missing:
        listed = ", ".join(f"{n} {part}" for part, n in missing.items())
        why = ", ".join(f"{reason}: {n}" for reason, n in measured.reasons.items()) or "no reason given"
        said.append(f"left unknown: {listed} ({why})")
    if lost := [part for part in missing if _unknown(measured, part) > MOST_UNKNOWN]:
        said.insert(0, f"This judge is bad: it leaves much unknown of {', '.join(lost)}. Do not train on it.")
    return said


def praise(measured: Measured) -> str:
    """What is said of a judge in which :func:`verdict` finds nothing."""
    counts = [f"{measured.scores[part]['error'].n} on {part}" for part in VERDICTS if measured.scores[part]["error"].n]
    captions = max(measured.scores[name]["bias"].n for name in REWARDS)
    return f"No fault found in {', '.join(counts)} and {captions} captions. How sure that is, the intervals tell."


def _unknown(measured: Measured, part: str) -> float:
    """Share of a verdict or reward that the judge left unknown."""
    known = measured.scores[part]["error" if part in VERDICTS else "bias"].n
    asked = known + measured.unknown[part]
    return measured.unknown[part] / asked if asked else 0.0


def _luck(kappa: Score) -> str:
    """What is wrong with a verdict; empty if nothing is known to be."""
    poor = kappa.n and kappa.high is not None and kappa.high < 1.0 and (kappa.low or 0.0) <= USELESS
    return f"kappa {cell(kappa)}" if poor else ""


def _blind(reward: Mapping[str, Score]) -> str:
    """What is wrong with a reward that errs: it does not follow the truth, or never changes."""
    noise, correlation = reward["noise"].value, reward["correlation"]
    if not noise or (correlation.low is not None and correlation.low > USELESS):
        return ""
    if correlation.n and correlation.value is None:
        return "the same for every caption"
    return f"correlation with the truth {cell(correlation)}" if correlation.n else ""


def verdict_table(measured: Measured) -> Table:
    """Error, precision, recall and kappa of each verdict."""
    table = Table(title=f"{measured.judge}: verdicts, 95 % intervals over pictures", title_justify="left", box=None)
    for column in ("verdict", "n", "error", "precision", "recall", "kappa"):
        table.add_column(column, justify="left" if column == "verdict" else "right")
    for part in VERDICTS:
        row = measured.scores[part]
        table.add_row(part, str(row["error"].n), *(cell(row[c]) for c in ("error", "precision", "recall", "kappa")))
    return table


def reward_table(measured: Measured) -> Table:
    """Bias, noise, correlation and the spread of a repetition of each reward."""
    table = Table(title="rewards against the truth", title_justify="left", box=None)
    for column in ("reward", "n", *REWARD_COLUMNS):
        table.add_column(column, justify="left" if column == "reward" else "right")
    for name in REWARDS:
        row = measured.scores[name]
        table.add_row(name, str(row["bias"].n), *(cell(row[column]) for column in REWARD_COLUMNS))
    return table


def probe_table(base: Mapping[str, Score], moved: Sequence[Moved]) -> Table:
    """Each probe's mean change per reward, and what is wrong with it."""
    table = Table(title="probes: mean change of each reward, 95 % intervals", title_justify="left", box=None)
    table.add_column("probe")
    for name in REWARDS:
        table.add_column(name, justify="right")
    table.add_column("n", justify="right")
    table.add_column("")
    low, pictures = near_one(base), max(score.n for score in base.values())
    table.add_row(
        "the reference itself", *(_counted(base[name], pictures) for name in REWARDS), str(pictures),
        f"[red]{' and '.join(low)} should be near 1" if low else "[green]as it should be",
    )  # fmt: skip
    for one in moved:
        fault = one.fault()
        state = "does not apply" if not one.pictures else f"[red]{fault}" if fault else "[green]as it should be"
        cells = (_counted(one.changes[name], one.pictures) for name in REWARDS)
        table.add_row(one.probe.name, *cells, str(one.pictures), state)
    return table


def probe_verdict(base: Mapping[str, Score], moved: Sequence[Moved]) -> str:
    """What a person has to know, in a sentence; empty for a judge that does as it should."""
    bad = [one.probe.name for one in moved if one.fault()] + [f"reference {name}" for name in near_one(base)]
    return f"This judge is bad: {', '.join(bad)}. Do not train on it." if bad else ""


def cell(score: Score) -> str:
    """``0.512 [0.498, 0.526]``; a dash for what is not known."""
    if score.value is None:
        return "–"
    return f"{score.value:.3f} [{score.low:.3f}, {score.high:.3f}]"


def _counted(score: Score, n: int) -> str:
    """A cell with its own n where that is not the row's."""
    return cell(score) if score.n in (0, n) else f"{cell(score)} n {score.n}"


def _reliability(measured: Measured) -> Figure:
    """One panel per reward: every caption, the mean of the judge per tenth of the truth, and the diagonal."""
    figure = Figure(figsize=(9.0, 3.6), layout="constrained")
    figure.suptitle(f"Rewards by {measured.judge}, against the truth")
    panels = dict(zip(REWARDS, figure.subplots(1, len(REWARDS)), strict=True))
    for name, axes in panels.items():
        _panel(axes, name, measured.points.get(name, []))
    first = next((axes for name, axes in panels.items() if measured.points.get(name)), None)
    if first is not None:
        first.legend(loc="upper left", fontsize="small")
    return figure


def _panel(axes: Axes, name: str, points: list[tuple[float, float]]) -> None:
    if not points:
        axes.text(0.5, 0.8, "not measured", ha="center", color="#666666")
    axes.plot([0, 1], [0, 1], color="#999999", linewidth=1, zorder=1)
    x, y = [t for t, _ in points], [s for _, s in points]
    axes.scatter(x, y, s=12, color="#0072B2", alpha=0.35, zorder=2, label="a caption")
    bins: dict[int, list[tuple[float, float]]] = {}
    for point in points:
        bins.setdefault(min(int(point[0] * 10), 9), []).append(point)
    means = [tuple(sum(v) / len(v) for v in zip(*found, strict=True)) for _, found in sorted(bins.items())]
    axes.plot(
        [m[0] for m in means], [m[1] for m in means], color="#D55E00", marker="o", zorder=3, label="mean of a tenth"
    )
    axes.set(title=f"{name} (n = {len(points)})", xlabel="truth", xlim=(-0.03, 1.03), ylim=(-0.03, 1.03))
    if name == REWARDS[0]:
        axes.set_ylabel("judge")
