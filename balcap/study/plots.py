"""Pictures of a study: one small panel per arm, against the arm that it is compared with. Equal data, equal bytes.

Colours are Okabe and Ito's; the arm is a solid line, what it is compared with a dashed one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from matplotlib import rc_context, rcdefaults, rcParams
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from balcap.evaluation.plots import BASE as OTHER
from balcap.evaluation.plots import GRID, INK, POLICY, STYLE
from balcap.study.arms import ARMS, title
from balcap.study.data import Study
from balcap.study.stats import METRICS, Metric, comparable

Array = NDArray[np.float64]
COLUMNS = 4
SMOOTH = 9
"""Steps over which a curve is averaged for the eye; numbers in tables are not."""
CURVES = ("b_capscore", "precision", "recall", "linguistic", "words")


def draw(study: Study, arms: Sequence[str], folder: Path) -> list[str]:
    """Write ``curves-METRIC.png`` and ``lengths.png`` into ``folder``; names of the files."""
    files = []
    with rc_context():
        rcdefaults()  # a person's own matplotlibrc changes nothing
        rcParams.update(STYLE | {"font.size": 9})  # type: ignore[arg-type]
        for name in CURVES:
            metric = METRICS[name]
            top = None if name == "words" else (0.0, 1.0)
            files.append(_save(_panels(study, arms, _curve(metric), "step", metric.label, top), folder, name))
        lengths = _panels(study, arms, _lengths(_longest(study, arms)), "words per caption", "share of captions", None)
        files.append(_save(lengths, folder, "lengths"))
    return files


def _save(figure: Figure, folder: Path, name: str) -> str:
    file = f"{name}.png" if name == "lengths" else f"curves-{name.replace('_', '-')}.png"
    FigureCanvasAgg(figure)
    figure.savefig(folder / file, dpi=110, metadata={"Software": None})
    return file


Panel = Callable[[Axes, Study, str], None]


def _panels(
    study: Study, arms: Sequence[str], panel: Panel, x: str, y: str, limits: tuple[float, float] | None
) -> Figure:
    rows = -(-len(arms) // COLUMNS)
    figure = Figure(figsize=(10.0, 0.6 + 1.9 * rows), layout="constrained")
    grid = figure.subplots(rows, COLUMNS, sharex=True, sharey=True, squeeze=False)
    for axes, arm in zip(grid.flat, arms, strict=False):
        panel(axes, study, arm)
        axes.set_title(title(arm), fontsize=9)
        axes.grid(color=GRID)
        if limits:
            axes.set_ylim(limits)
    for axes in list(grid.flat)[len(arms) :]:
        axes.set_visible(False)
    figure.supxlabel(x, fontsize=9)
    figure.supylabel(y, fontsize=9)
    handles, labels = max((axes.get_legend_handles_labels() for axes in grid.flat), key=lambda found: len(found[1]))
    figure.legend(handles, labels, loc="outside upper left", ncols=3, frameon=False)
    return figure


def _curve(metric: Metric) -> Panel:
    def panel(axes: Axes, study: Study, arm: str) -> None:
        against = ARMS[arm].against
        if against is not None and study.seeds(against, "curve") and comparable(arm, against, metric, "curve"):
            steps, mean, _ = _smoothed(study, against, metric)
            axes.plot(steps, mean, color=OTHER, linestyle="--", linewidth=1.6, label="what it is compared with")
        steps, mean, seeds = _smoothed(study, arm, metric)
        for one in seeds:
            axes.plot(steps, one, color=POLICY, linewidth=0.6, alpha=0.5)
        axes.plot(steps, mean, color=POLICY, linewidth=1.8, label="the arm: mean, and each seed")

    return panel


def _smoothed(study: Study, arm: str, metric: Metric) -> tuple[Array, Array, list[Array]]:
    """Steps, mean over seeds, and each seed, as running means."""
    values = []
    for seed in study.seeds(arm, "curve"):
        rows = study.curves[arm, seed]
        values.append(metric.of(np.stack([rows[name] for name in metric.columns], axis=1)))
    width = min(SMOOTH, 1 + min(map(len, values)) // 10)  # a short run keeps its curve
    seeds = [np.convolve(one, np.full(width, 1.0 / width), mode="valid") for one in values]
    length = min(map(len, seeds))
    seeds = [one[:length] for one in seeds]
    steps = np.arange(length, dtype=np.float64) + (width + 1) / 2
    return steps, np.asarray(np.mean(seeds, axis=0), dtype=np.float64), seeds


def _longest(study: Study, arms: Sequence[str]) -> float:
    return max(float(study.scores[key]["words"].max(initial=1.0)) for key in study.scores if key[0] in arms)


def _lengths(longest: float) -> Panel:
    width = max(1, round(longest / 40))  # whole words, or bins would hold unlike numbers of them
    edges = np.arange(-0.5, longest + width, width).tolist()

    def panel(axes: Axes, study: Study, arm: str) -> None:
        rows = [study.scores[arm, seed] for seed in study.seeds(arm)]
        words = np.concatenate([row["words"] for row in rows])
        with np.errstate(invalid="ignore", divide="ignore"):
            reference = words / np.concatenate([row["length_ratio"] for row in rows])
        for values, look in (
            (reference[np.isfinite(reference)], {"histtype": "stepfilled", "color": "#CCCCCC", "label": "references"}),
            (words, {"histtype": "step", "color": POLICY, "linewidth": 1.6, "label": "the arm, all seeds"}),
        ):
            if len(values):
                axes.hist(values, edges, weights=np.full(len(values), 1.0 / len(values)), **look)
        axes.axvline(float(words.mean()), color=INK, linewidth=0.8, linestyle=":")

    return panel
