"""The ablation study: arms that differ in what they say, claims decided by intervals, honest intervals, the report."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import study_world as world
from matplotlib.figure import Figure

from balcap.params import load_params, read_params
from balcap.study import plots, stats
from balcap.study.arms import ARMS, chosen, title, warmstart_seed
from balcap.study.claims import Comparison, decide, decide_all, load_claims
from balcap.study.data import CURVES, MEASURED, Study, StudyFault, counts, curve_row, read_study, score_row, write_data
from balcap.study.report import write_report
from balcap.study.stats import METRICS, Estimate, comparable, effect, interval, level

RECIPES = Path(__file__).parents[2] / "recipes"
GRPO = {"name": "grpo", "scale": "group", "ddof": 1, "eps": 1e-4, "rank_unmasked": False}
HARD = {
    "prepare.source.min_objects": 2, "prepare.source.max_objects": 4,
    "warmstart.method.min_objects": 2, "warmstart.method.max_objects": 4,
}  # fmt: skip
NOISY = {"name": "noisy", "revision": "1", "max_failure_rate": 0.05, "flip": 0.05, "shift": 0.2, "seed": 0}
GONE = object()
DIFFERS: dict[str, dict[str, Any]] = {
    "full": {},
    "grpo": {"train.advantage": GRPO},
    "grpo-raw": {"train.advantage": GRPO, "train.reward_weights.linguistic": 4.0},
    "no-pointability": {"train.pointable": False},
    "no-linguistic": {"train.reward_weights.linguistic": GONE},
    "no-mask": {"train.length_mask.name": "none"},
    "linear": {"train.length_mask.name": "linear"},
    "precision-only": {"train.reward_weights.recall": GONE, "train.reward_weights.linguistic": GONE},
    "recall-only": {"train.reward_weights.precision": GONE, "train.reward_weights.linguistic": GONE},
    "precision-2": {"train.reward_weights.precision": 2.0},
    "recall-2": {"train.reward_weights.recall": 2.0},
    "linguistic-2": {"train.reward_weights.linguistic": 2.0},
    "rank-unmasked": {"train.advantage.rank_unmasked": True},
    "soft": {"train.length_mask.name": "soft", "train.length_mask.softness": 0.5},
    "noisy": {"train.judge": NOISY},
    "noisy-floor": {"train.judge": NOISY, "train.advantage.std_floor": None},
    "rvpo": {"train.advantage.name": "rvpo", "train.advantage.sharpness": 1.0},
    "entropy": {"train.loss.entropy": 0.01},
    "kl": {"train.loss.kl": 0.001},
    "hard-full": HARD,
    "hard-grpo": {**HARD, "train.advantage": GRPO},
}
"""Every key in which an arm's recipe differs from that of the full method, its name apart."""


def flatten(tree: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(tree, dict):
        return {prefix: tree}
    return {k: v for name, one in tree.items() for k, v in flatten(one, f"{prefix}.{name}" if prefix else name).items()}


@pytest.mark.parametrize("name", ARMS)
def test_an_arm_differs_from_the_full_method_in_what_it_says_and_nothing_else(name: str) -> None:
    params = load_params(RECIPES / f"{ARMS[name].recipe}.yaml")
    assert (ARMS[name].judge == "noisy") == (params.train.judge.name == "noisy")
    full, arm = (flatten(read_params(RECIPES / f"ablation-{which}.yaml")) for which in ("full", name))
    assert arm.pop("recipe") == ARMS[name].recipe and full.pop("recipe") == "ablation-full"
    found = {key: arm.get(key, GONE) for key in full.keys() | arm.keys() if arm.get(key, GONE) != full.get(key, GONE)}
    for key, wanted in DIFFERS[name].items():
        if isinstance(wanted, dict):
            changed = {inner: value for inner, value in found.items() if inner.startswith(key + ".")}
            now = {inner.removeprefix(key + "."): v for inner, v in arm.items() if inner.startswith(key + ".")}
            assert changed and now == wanted
            found = {inner: value for inner, value in found.items() if inner not in changed}
        elif wanted is None:  # a measured number, not this test's to repeat
            inner = [one for one in found if one == key or one.startswith(key + ".")]
            assert inner
            found = {one: value for one, value in found.items() if one not in inner}
        else:
            assert found.pop(key) == wanted
    assert not found


def test_every_ablation_recipe_is_an_arm() -> None:
    assert {path.stem for path in RECIPES.glob("ablation-*.yaml")} == {arm.recipe for arm in ARMS.values()}
    assert [arm.name for arm in chosen("paper")] == list(ARMS)[:9] and len(chosen("all")) == len(ARMS) == len(DIFFERS)


def test_the_scenes_served_no_design_decision_and_training_meets_each_once() -> None:
    full = load_params(RECIPES / "ablation-full.yaml")
    others = [read_params(path) for path in RECIPES.glob("*.yaml") if not path.stem.startswith("ablation-")]
    assert full.prepare.source.seed not in {other["prepare"]["source"].get("seed") for other in others}  # type: ignore[union-attr]
    per_step = full.train.global_batch_size // full.train.group_size
    pictures = full.prepare.source.count * (1 - full.prepare.split.eval_share)  # type: ignore[union-attr]
    assert full.train.steps * per_step < 0.98 * pictures  # the share of the split is a chance of each picture
    assert full.runtime.threads == 1  # two run side by side on two cores


def test_seeds_alternate_between_two_warm_starts() -> None:
    assert [warmstart_seed(seed) for seed in range(4)] == [0, 1, 0, 1]


def test_claims_name_what_there_is() -> None:
    claims = load_claims()
    assert len({claim.id for claim in claims}) == len(claims)
    for claim in claims:
        test = claim.test
        assert test.arm in ARMS and (test.against in ARMS or test.against == ARMS[test.arm].base), claim.id
        assert test.at == "end" or set(METRICS[test.metric].columns) <= set(CURVES), claim.id
        group = {ARMS[name].group for name in (test.arm, test.against) if name in ARMS}
        assert claim.source == "ours" or group == {"paper"}, f"{claim.id}: --arms paper would not test it"
        assert comparable(test.arm, test.against, METRICS[test.metric], test.at), f"{claim.id}: of two judges"
        known = test.at == "end" and (test.metric != "b_capscore" or test.against == "base")
        assert claim.source == "ours" or known, f"{claim.id}: not published per arm"
    assert {claim.test.arm for claim in claims} | {"hard-full"} == set(ARMS)


def test_a_second_reading_is_of_the_same_figure() -> None:
    claims = {claim.id: claim for claim in load_claims()}
    again = [claim for claim in claims.values() if claim.again]
    assert {claim.id for claim in again} == {"gdpo-raw-arena", "gdpo-raw-qa", "gdpo-raw-f1"}
    for claim in again:
        first = claims[str(claim.again)]
        assert claim.test.model_copy(update={"arm": first.test.arm}) == first.test and first.again is None
        assert claim.source == first.source == "paper"


@pytest.mark.parametrize(
    ("low", "high", "direction", "threshold", "verdict"),
    [
        (0.02, 0.1, "up", 0.02, "reproduced"),
        (0.01, 0.1, "up", 0.02, "inconclusive"),
        (-0.1, 0.019, "up", 0.02, "not reproduced"),
        (-0.05, 0.05, "up", 0.02, "inconclusive"),  # nothing seen, and not enough to exclude it
        (-0.01, 0.01, "up", 0.02, "not reproduced"),  # nothing seen, and enough to exclude it
        (-0.1, -0.02, "down", 0.02, "reproduced"),
        (-0.1, -0.02, "up", 0.02, "not reproduced"),
        (0.03, 0.1, "down", 0.02, "not reproduced"),
        (-0.015, 0.03, "up", -0.02, "reproduced"),  # nothing of note is lost
        (-0.05, 0.03, "up", -0.02, "inconclusive"),
        (math.nan, math.nan, "up", 0.02, "inconclusive"),
    ],
)
def test_a_verdict_follows_from_the_interval(
    low: float, high: float, direction: Any, threshold: float, verdict: str
) -> None:
    test = Comparison(arm="a", against="b", metric="arena", at="end", direction=direction, threshold=threshold)
    assert decide(test, Estimate((low + high) / 2, low, high, ())) == verdict


@pytest.mark.parametrize("at", ["end", "curve"])
def test_differences_are_found_and_none_is_made_up(at: stats.At) -> None:
    found = world.study({"full": 0.0, "grpo": 0.0, "no-mask": -0.2}, pictures=200)
    null, large = (effect(found, arm, "full", METRICS["precision"], at) for arm in ("grpo", "no-mask"))
    assert null.low < 0 < null.high and large.high < -0.1 and large.low < -0.2 < large.high
    test = Comparison(arm="a", against="b", metric="precision", at=at, direction="down", threshold=0.02)
    assert decide(test, null) != "reproduced" and decide(test, large) == "reproduced"
    assert len(null.per_seed) == 3


def test_an_arm_against_itself_differs_by_exactly_nothing() -> None:
    found = world.study({"full": 0.0})
    same = effect(found, "full", "full", METRICS["b_capscore"], "end")
    assert (same.value, same.low, same.high) == (0.0, 0.0, 0.0)


def shared_start(found: Study) -> Study:
    """Seeds 0 and 2 begin at one checkpoint, so that its captions are the same in both."""
    return replace(found, scores={**found.scores, ("base", 2): found.scores["base", 0]})


def test_the_level_of_the_warm_starts_counts_each_of_them_once() -> None:
    found = shared_start(world.study({"base": -0.3, "full": 0.0}))
    one, two = (float(found.scores["base", s]["precision"].mean()) for s in (0, 1))
    base = level(found, "base", METRICS["precision"])
    assert base.per_seed == pytest.approx((one, two)) and base.value == pytest.approx((one + two) / 2)
    assert len(level(found, "full", METRICS["precision"]).per_seed) == 3


def test_intervals_against_a_shared_warm_start_cover_what_they_claim(monkeypatch: pytest.MonkeyPatch) -> None:
    """Given the two warm starts: theirs is chance in captions, that of training between seeds, too."""
    monkeypatch.setattr(stats, "DRAWS", 200)
    hits = []
    for seed in range(120):
        found = world.study({"base": -0.3}, between=0.0, shared=0.0, seed=seed, pictures=40, steps=5)
        other = world.study({"full": 0.0}, between=0.02, shared=0.1, seed=1000 + seed, pictures=40, steps=5)
        both = shared_start(replace(found, scores={**found.scores, **other.scores}))
        estimate = effect(both, "full", "base", METRICS["precision"], "end")
        hits.append(estimate.low <= 0.3 <= estimate.high)
    assert np.mean(hits) >= 0.9


def test_one_seed_has_no_interval_and_decides_nothing() -> None:
    found = world.study({"full": 0.0, "grpo": -0.5}, seeds=1)
    decided = decide_all(found, load_claims())
    assert {one.claim.test.arm for one in decided} == {"grpo"} and {one.verdict for one in decided} == {"inconclusive"}


def test_seeds_that_only_one_arm_has_are_left_out() -> None:
    found = world.study({"full": 0.0, "grpo": -0.1}, seeds=3)
    less = Study({k: v for k, v in found.scores.items() if k != ("grpo", 1)}, found.curves, [], {})
    assert len(effect(less, "grpo", "full", METRICS["precision"], "end").per_seed) == 2


def test_intervals_cover_what_they_claim(monkeypatch: pytest.MonkeyPatch) -> None:
    """With seeds, with pictures, and with both as the source of chance: nominal 95 %, a little more by design."""
    monkeypatch.setattr(stats, "DRAWS", 200)
    for between, shared, noise in ((0.02, 0.0, 0.01), (0.0, 0.2, 0.01), (0.02, 0.1, 0.2)):
        hits = []
        for seed in range(120):
            found = world.study(
                {"full": 0.0, "grpo": -0.1},
                between=between,
                shared=shared,
                noise=noise,
                seed=seed,
                pictures=40,
                steps=5,
            )
            estimate = effect(found, "grpo", "full", METRICS["precision"], "end")
            hits.append(estimate.low <= -0.1 <= estimate.high)
        assert np.mean(hits) >= 0.9, (between, shared, noise)


def test_the_interval_of_three_seeds_is_students() -> None:
    found = interval([0.1, 0.2, 0.3])
    assert found.value == pytest.approx(0.2) and found.half == pytest.approx(4.302653 * 0.1 / math.sqrt(3), rel=1e-6)


def test_unknown_scores_are_left_out() -> None:
    found = world.study({"full": 0.0}, pictures=10)
    for s in range(3):
        found.scores["full", s]["arena"][:5] = math.nan
    assert level(found, "full", METRICS["arena"]).value == pytest.approx(0.5)


def test_counts_of_a_caption() -> None:
    said = (
        "A red circle sits at the top-left. At the centre there is a blue square. A red circle sits at the top-left. "
        "The red circle is left of the blue square. The scene feels calm."
    )
    assert counts(said) == {"commentary": 1, "repeats": 2, "relations": 1, "objects": 3, "place_first": 1}
    assert set(counts("").values()) == {0.0}


def test_balance_of_forms() -> None:
    metric = METRICS["form_balance"]
    assert metric.of(np.array([1.0, 2.0])) == 1.0 and metric.of(np.array([0.0, 2.0])) == 0.0
    assert metric.of(np.array([1.5, 2.0])) == pytest.approx(0.5)


def test_results_are_kept_and_the_report_is_a_function_of_them(tmp_path: Path) -> None:
    sample = {
        "image_id": "b" * 64, "caption": "A red circle sits at the top-left.", "precision": 1.0, "recall": 0.5,
        "linguistic": 1.0, "qa_accuracy": None, "arena": 0.1, "words": 7.0, "length_ratio": 0.5, "repetition": 0.0,
    }  # fmt: skip
    other = sample | {"image_id": "a" * 64, "precision": 0.0}
    step = dict.fromkeys(CURVES.values(), "0.5") | {"step": "1"}
    assert math.isnan(curve_row("full", 0, step | {"quality/recall": ""})["recall"])
    scores = [score_row(arm, s, row) for arm in ("base", "full", "grpo") for s in range(2) for row in (sample, other)]
    curves = [curve_row(arm, s, step | {"step": str(t)}) for arm in ("full", "grpo") for s in range(2) for t in (1, 2)]
    examples = [
        {"arm": arm, "seed": 0, "image_id": "a" * 64, "caption": "A | circle", "precision": 1.0, "recall": 0.25,
         "linguistic": math.nan}
        for arm in ("reference", "full")
    ]  # fmt: skip
    texts = []
    for folder in (tmp_path / "one", tmp_path / "two"):
        write_data(folder / "data", scores, curves, examples, {"commands": ["balcap study ablations"]})
        found = read_study(folder / "data")
        assert found.scores["full", 0]["precision"].tolist() == [0.0, 1.0]  # in the order of image ids
        assert found.curves["full", 0]["recall"].tolist() == [0.5, 0.5] and found.seeds("grpo") == [0, 1]
        write_report(found, folder)
        texts.append({path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()})
    assert texts[0] == texts[1] and {"README.md", "lengths.png", "curves-b-capscore.png"} <= set(texts[0])
    text = texts[0]["README.md"].decode()
    assert "| GRPO, rewards in [0, 1] | full method | +.000 [+.000, +.000]; +.000, +.000 |" in text
    assert "Vanilla GRPO on rewards in [0, 1] has a lower arena score than c-GDPO | **not reproduced** |" in text
    assert "pointability" not in text.split("Not tested")[0].split("## Captions")[0].lower().replace("pointable", "")
    assert "A \\| circle | 1.00 | .25 | – |" in text and title("full") in text
    assert (tmp_path / "one/data/scores.parquet").read_bytes() == (tmp_path / "two/data/scores.parquet").read_bytes()


def test_runs_on_other_pictures_are_not_compared(tmp_path: Path) -> None:
    sample = dict.fromkeys(MEASURED, 0.5) | {"image_id": "a", "caption": ""}
    other = sample | {"image_id": "b"}
    rows = [score_row("base", 0, sample), score_row("full", 0, sample), score_row("hard-full", 0, other)]
    write_data(tmp_path, rows, [], [], {})  # the harder world has pictures of its own
    assert read_study(tmp_path).pictures("hard-full") == 1
    before = (tmp_path / "scores.parquet").read_bytes()
    for wrong in ([score_row("grpo", 1, other)], [score_row("grpo", 1, sample)] * 2):
        with pytest.raises(StudyFault, match="grpo, seed 1, has other held-out pictures than base, seed 0"):
            write_data(tmp_path, [*rows, *wrong], [], [], {})
    assert (tmp_path / "scores.parquet").read_bytes() == before


def test_questions_of_our_own_are_answered_and_second_readings_counted_apart(tmp_path: Path) -> None:
    found = world.study({"base": -0.3, "full": 0.0, "grpo": 0.0, "grpo-raw": 0.0})
    write_report(found, tmp_path)
    paper, ours = (tmp_path / "README.md").read_text().split("## Further questions")
    assert (
        "Second readings: 0 reproduced, 2 not reproduced, 1 inconclusive. " in paper and "two readings of one" in paper
    )
    assert "yes" in ours.split("##")[0] and "reproduced" not in ours.split("##")[0]


def difference_cells(text: str) -> dict[str, list[str]]:
    """Cells of the table of differences, by arm."""
    table = text.split("## Differences")[1].split("##")[0]
    rows = [line.strip("| ").split(" | ") for line in table.splitlines() if line.startswith("| ")]
    return {name: cells for name, *cells in rows}


def test_curves_of_two_judges_are_not_compared(tmp_path: Path) -> None:
    found = world.study({"full": 0.0, "noisy": -0.3, "noisy-floor": 0.0})
    write_report(found, tmp_path)
    text = (tmp_path / "README.md").read_text()
    cells = difference_cells(text)
    assert cells["noisy judge"][:3:2] == ["full method", "–"] and cells["noisy judge"][1].startswith("−.")
    assert cells["noisy judge, std floor"][0] == "noisy judge" and cells["noisy judge, std floor"][2].startswith("+.")
    assert "these two arms had different ones" in text and "of *noisy judge* and *noisy judge, std floor*" in text


def test_a_report_without_a_noisy_judge_does_not_speak_of_one(tmp_path: Path) -> None:
    write_report(world.study({"full": 0.0, "grpo": -0.1}), tmp_path)
    text = (tmp_path / "README.md").read_text().split("## Lengths")[0]
    assert "noisy" not in text and "different ones" not in text
    assert "–" not in difference_cells(text)["GRPO, rewards in [0, 1]"]


@pytest.mark.parametrize(
    ("arm", "metric", "lines"),
    [("noisy", "recall", ["-"]), ("noisy", "words", ["--", "-"]), ("noisy-floor", "recall", ["--", "-"])],
)
def test_a_panel_shows_no_curve_of_another_judge(arm: str, metric: str, lines: list[str]) -> None:
    axes = Figure().subplots()
    found = world.study({"full": 0.0, "noisy": 0.0, "noisy-floor": 0.0}, seeds=2)
    plots._curve(METRICS[metric])(axes, found, arm)
    assert list(dict.fromkeys(line.get_linestyle() for line in axes.lines)) == lines


def test_the_report_says_what_it_counts(tmp_path: Path) -> None:
    found = world.study({"base": -0.3, "full": 0.0, "grpo": 0.0})
    write_report(found, tmp_path)
    text = " ".join((tmp_path / "README.md").read_text().split())
    claims = [c for c in load_claims() if {c.test.arm, c.test.against} <= {"base", "full", "grpo"}]
    assert f"of the {len(claims)} that decide claims, about one in twenty misses the true value, and the tables" in text


def test_a_study_without_curves_of_an_arm_still_compares_the_end() -> None:
    found = replace(world.study({"base": -0.3, "full": 0.0}), curves={})
    assert effect(found, "full", "base", METRICS["precision"], "end").low > 0.1
