"""Plots of an evaluation as PNG: scores with intervals, change per picture, length. Equal numbers give equal bytes.

Colours are Okabe and Ito's, told apart also by people who see fewer colours; bars differ in hatching as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib import rc_context, rcdefaults, rcParams
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from balcap.evaluation.stats import Score

BASE, POLICY, INK, GRID = "#E69F00", "#0072B2", "#222222", "#DDDDDD"
LABELS = {
    "precision": "precision",
    "recall": "recall",
    "linguistic": "linguistic",
    "b_capscore": "b-CapScore",
    "qa_accuracy": "question\nanswering",
    "arena": "arena",
}
STYLE = {
    "font.family": "DejaVu Sans", "font.size": 10, "axes.edgecolor": INK, "axes.spines.top": False,
    "axes.spines.right": False, "axes.axisbelow": True, "figure.facecolor": "white", "hatch.linewidth": 0.6,
}  # fmt: skip
Columns = Mapping[str, NDArray[np.float64]]
Scores = dict[str, dict[str, Score]]


def draw_plots(
    folder: Path, scores: Scores, base: Columns, policy: Columns, reference_words: NDArray[np.float64]
) -> None:
    """Write scores.png, change.png and length.png into ``folder``; ``base`` and ``policy`` hold columns [pictures]."""
    folder.mkdir(parents=True, exist_ok=True)
    with rc_context():
        rcdefaults()  # a person's own matplotlibrc changes nothing
        rcParams.update(STYLE)  # type: ignore[arg-type]
        _save(_scores(scores), folder / "scores.png")
        _save(_change(base, policy), folder / "change.png")
        _save(_length(base["words"], policy["words"], reference_words), folder / "length.png")


def _save(figure: Figure, path: Path) -> None:
    FigureCanvasAgg(figure)
    figure.savefig(path, dpi=130, metadata={"Software": None})


def _scores(scores: Scores) -> Figure:
    """Bars of base and policy with intervals; the arena has its own scale from -1 to 1."""
    figure = Figure(figsize=(8.0, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(5, 1.25))
    names = [name for name in LABELS if name != "arena"]
    _bars(left, scores, names)
    left.set(ylim=(0, 1), ylabel="score")
    _bars(right, scores, ["arena"])
    right.set(ylim=(-1, 1), yticks=(-1, -0.5, 0, 0.5, 1))
    right.axhline(0, color=INK, linewidth=0.8)
    handles, labels = left.get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside upper left", ncols=2, frameon=False)
    return figure


def _bars(axes: Axes, scores: Scores, names: list[str]) -> None:
    for shift, model, colour, hatch in ((-0.2, "base", BASE, "///"), (0.2, "policy", POLICY, "")):
        label: str | None = model
        for place, name in enumerate(names):
            score = scores[model][name]
            if score.value is None or score.low is None or score.high is None:
                continue
            axes.bar(place + shift, score.value, 0.38, color=colour, hatch=hatch, edgecolor="white", label=label)
            axes.vlines(place + shift, score.low, score.high, color=INK, linewidth=1.6)
            label = None
    for place, name in enumerate(names):
        if scores["base"][name].n == scores["policy"][name].n == 0:
            axes.text(place, 0.05, "not measured", rotation=90, ha="center", va="bottom", color="#666666")
    axes.set_xticks(range(len(names)), [LABELS[name] for name in names])
    axes.set_xlim(-0.6, len(names) - 0.4)
    axes.grid(axis="y", color=GRID)


def _change(base: Columns, policy: Columns) -> Figure:
    """How many pictures gained and lost: histograms of policy - base."""
    names = ("precision", "recall", "linguistic", "qa_accuracy")
    figure = Figure(figsize=(8.0, 2.7), layout="constrained")
    edges = np.linspace(-1.05, 1.05, 22)
    for axes, name in zip(figure.subplots(1, len(names), sharey=True), names, strict=True):
        change = policy[name] - base[name]
        change = change[np.isfinite(change)]
        if change.size:
            counts, _ = np.histogram(change, edges)
            colours = [
                POLICY if mid > 0.01 else BASE if mid < -0.01 else "#999999" for mid in (edges[1:] + edges[:-1]) / 2
            ]
            axes.bar((edges[1:] + edges[:-1]) / 2, counts, 0.09, color=colours)
            text = f"{(change > 0).sum()} up, {(change < 0).sum()} down"
        else:
            text = "not measured"
        axes.set_title(f"{LABELS[name].replace(chr(10), ' ')}\n{text}", fontsize=9)
        axes.set(xlim=(-1.1, 1.1), xlabel="policy − base")
        axes.axvline(0, color=INK, linewidth=0.8)
        axes.grid(axis="y", color=GRID)
    figure.axes[0].set_ylabel("pictures")
    return figure


def _length(base: NDArray[np.float64], policy: NDArray[np.float64], reference: NDArray[np.float64]) -> Figure:
    """Words per caption of both models and of the references, on the same bins."""
    figure = Figure(figsize=(8.0, 2.7), layout="constrained")
    axes = figure.subplots()
    top = max(1.0, *(float(words.max(initial=0.0)) for words in (base, policy, reference)))
    edges = np.linspace(0, top, 31).tolist()
    axes.hist(reference, edges, histtype="stepfilled", color="#CCCCCC", label="reference")
    axes.hist(base, edges, histtype="step", color=BASE, linewidth=2, linestyle="--", label="base")
    axes.hist(policy, edges, histtype="step", color=POLICY, linewidth=2, label="policy")
    axes.set(xlabel="words per caption", ylabel="pictures", xlim=(0, top))
    axes.legend(frameon=False)
    axes.grid(axis="y", color=GRID)
    return figure
