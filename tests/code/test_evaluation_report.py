"""What evaluation writes: schema, bytes, and a report that needs nothing else and believes nobody."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from evaluation_world import PARAMS, captions, results

from balcap.evaluation.report import gain, headline, number, sections, signed, verdict, why_missing
from balcap.evaluation.run import Results
from balcap.evaluation.stats import Score
from balcap.evaluation.tables import SAMPLES
from balcap.evaluation.write import before_and_after, write_results
from balcap.files import atomic_path
from balcap.hashing import dir_md5
from balcap.records import Assertion, Caption

DETECTED = {"repetition", "hedging", "self_praise"}
SHARES = {"precision", "recall", "linguistic", "b_capscore", "qa_accuracy"}
METRICS = SHARES | DETECTED | {"arena", "words", "length_ratio"}


@pytest.fixture(scope="module")
def evaluated() -> Results:
    return results(12)


def write(found: Results, folder: Path) -> str:
    write_results(found, PARAMS, lambda name: atomic_path(folder / name))
    return (folder / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def folder(evaluated: Results, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("evaluate")
    write(evaluated, path)
    return path


@pytest.fixture(scope="module")
def html(folder: Path) -> str:
    return (folder / "report.html").read_text(encoding="utf-8")


def test_metrics_have_exactly_the_agreed_keys(folder: Path) -> None:
    metrics = json.loads((folder / "metrics.json").read_text())
    assert set(metrics) == {"base", "policy", "difference"}
    for part in metrics.values():
        assert set(part) == METRICS
        assert all(set(score) == {"value", "low", "high", "n"} for score in part.values())
    assert all(0 <= metrics["policy"][name]["value"] <= 1 for name in SHARES)


def test_what_does_not_apply_is_null_with_n_zero(tmp_path: Path) -> None:
    found = results(3, judge="lexical")
    write(found, tmp_path)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    unknown = {"value": None, "low": None, "high": None, "n": 0}
    assert metrics["policy"]["qa_accuracy"] == metrics["difference"]["qa_accuracy"] == unknown
    assert "qa_accuracy" not in json.loads((tmp_path / "summary.json").read_text())


def test_the_summary_is_flat_and_short(folder: Path) -> None:
    summary = json.loads((folder / "summary.json").read_text())
    assert len(summary) <= 12 and all(isinstance(value, float) for value in summary.values())
    assert {"b_capscore", "b_capscore_gain", "qa_accuracy_gain", "arena_gain"} <= set(summary)


def test_samples_hold_both_models_under_the_agreed_schema(folder: Path, evaluated: Results) -> None:
    table = pq.read_table(folder / "samples.parquet")
    assert table.schema.equals(SAMPLES)
    assert table.column_names == [
        "image_id", "model", "caption", "truncated", "reference", "precision", "recall", "linguistic", "qa_accuracy",
        "arena", "words", "length_ratio", "repetition", "hedging", "self_praise", "judgement",
    ]  # fmt: skip
    rows = table.to_pylist()
    assert [row["model"] for row in rows] == ["base", "policy"] * 12
    judgement = json.loads(rows[0]["judgement"])
    first = evaluated.cases[0].base.judgement
    assert judgement["clarity"] == first.clarity and len(judgement["assertions"]) == len(first.assertions or ())


def test_equal_results_give_equal_bytes(folder: Path, tmp_path: Path) -> None:
    write(results(12), tmp_path)
    assert dir_md5(tmp_path) == dir_md5(folder)


class Links(HTMLParser):
    """Everything that a browser would fetch or run."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.tags: list[str] = []
        self.alts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        given = dict(attrs)
        self.fetched += [given[name] or "" for name in ("src", "href", "srcset", "data", "action") if name in given]
        self.tags += [f"@{name}" for name in given if name.startswith("on")]
        if tag == "img":
            self.alts.append(given.get("alt") or "")


def test_the_report_needs_nothing_else(html: str) -> None:
    page = Links(html)
    assert all(link.startswith(("data:image/", "#")) for link in page.fetched)
    assert not {"script", "link", "iframe", "object", "base"} & set(page.tags)
    assert "http://" not in html and "https://" not in html and "@import" not in html and "url(" not in html


def test_every_image_has_a_text_and_pictures_have_their_caption(html: str, evaluated: Results) -> None:
    alts = Links(html).alts
    assert all(alts)
    references = {case.picture.reference.caption for case in evaluated.cases}
    assert sum(alt in references for alt in alts) == PARAMS.report_images


def test_captions_cannot_run_as_code(tmp_path: Path) -> None:
    attack = '<script>alert(1)</script> "><img src=x onerror=alert(2)> {{ 7*7 }}'
    groups = [[Caption(attack), captions(index)[1]] for index in range(3)]
    html = write(results(3, judge="lexical", groups=groups), tmp_path)
    page = Links(html)
    assert "script" not in page.tags and not [tag for tag in page.tags if tag.startswith("@on")]
    assert "&lt;script&gt;alert(1)" in html and "{{ 7*7 }}" in html


def test_verdicts_differ_in_more_than_colour() -> None:
    kinds = [verdict(Assertion("a", v, p)) for v, p in ((True, True), (True, False), (False, True), (False, False))]
    assert [kind for kind, _, _ in kinds] == ["good", "vague", "false", "false"]
    assert len({sign for _, sign, _ in kinds}) == 3 and len({words for _, _, words in kinds}) == 3


def change_to(found: Results, low: float | None, high: float | None) -> Results:
    n = 0 if low is None else 9
    value = None if low is None or high is None else (low + high) / 2
    scores = {part: dict(rows) for part, rows in found.scores.items()}
    scores["difference"]["b_capscore"] = Score(value, low, high, n)
    return replace(found, scores=scores)


@pytest.mark.parametrize(
    ("low", "high", "kind", "words"),
    [(0.1, 0.3, "better", "is better than"), (-0.3, -0.1, "worse", "is worse than"),
     (-0.1, 0.2, "same", "No clear difference"), (None, None, "unknown", "Nothing can be said")],
)  # fmt: skip
def test_the_verdict_follows_the_interval(
    evaluated: Results, low: float | None, high: float | None, kind: str, words: str
) -> None:
    got, sentence = headline(change_to(evaluated, low, high).scores)
    assert got == kind and words in sentence


def test_the_report_tells_that_faults_of_wording_rose(tmp_path: Path) -> None:
    plain, vain = "A red circle sits at the centre.", "This is a complete and accurate description."
    html = write(results(3, groups=[[Caption(plain), Caption(vain)]] * 3), tmp_path)
    assert "Self-praise rose: +14.29 [+14.29, +14.29] per 100 words." in html
    assert "Hedging rose" not in html and "Repetition rose" not in html
    row = next(row for row in html.split("<tr")[1:] if "Self-praise" in row)
    assert "14.29" in row and "chip same" in row, "more of it is no gain"


def test_the_report_tells_what_fell_and_that_the_length_changed(tmp_path: Path) -> None:
    groups = [[captions(index)[1], Caption(" ".join([captions(index)[1].text] * 3))] for index in range(6)]
    html = write(results(6, groups=groups), tmp_path)
    assert re.search(r"The captions became longer: [\d.]+ → [\d.]+ words \(\+[\d.]+ \[.*?\]\), [\d.]+ times", html)
    assert "Linguistic fell: −" in html and "Repetition rose: +" in html and "Recall fell" not in html
    groups = [[captions(index)[1]] * 2 for index in range(6)]
    assert "The captions became" not in write(results(6, groups=groups), tmp_path)


def test_the_report_says_what_was_not_measured(tmp_path: Path) -> None:
    params = PARAMS.model_copy(update={"judge": PARAMS.judge.model_copy(update={"name": "lexical"})})
    write_results(results(3, judge="lexical"), params, lambda name: atomic_path(tmp_path / name))
    html = (tmp_path / "report.html").read_text()
    assert "not measured by judge lexical" in html
    assert "without fluency and coherency" in html
    assert "Only 3 pictures" in html


@pytest.mark.parametrize("name", ["precision", "recall", "linguistic", "qa_accuracy"])
def test_what_the_judge_cannot_fill_is_told_from_what_stayed_unknown(evaluated: Results, name: str) -> None:
    assert why_missing(replace(evaluated, fills=frozenset()), PARAMS, name) == "not measured by judge oracle"
    assert "judge" not in why_missing(evaluated, PARAMS, name)


def test_sections_show_gains_losses_and_an_unselected_rest_once(evaluated: Results) -> None:
    cases = [replace(case, base=case.policy, policy=case.base) if i % 3 == 0 else case
             for i, case in enumerate(evaluated.cases)]  # fmt: skip
    (_, _, best), (_, _, worst), (_, _, rest) = sections(cases, 9)
    assert [item.gain for item in best] == sorted((gain(case) for case in cases), reverse=True)[:3]
    assert [item.gain for item in worst] == sorted(gain(case) for case in cases)[:3]
    shown = [item.case.picture.sample.image_id for item in [*best, *worst, *rest]]
    assert len(shown) == len(set(shown)) == 9


def test_no_pictures_asked_for_none_shown(evaluated: Results) -> None:
    assert sections(evaluated.cases, 0) == []


@pytest.mark.parametrize(
    ("value", "plain", "with_sign"),
    [(0.5, "0.500", "+0.500"), (-0.5, "−0.500", "−0.500"), (0.0, "0.000", "0.000"), (None, "–", "–"),
     (float("nan"), "–", "–")],
)  # fmt: skip
def test_numbers_as_text(value: float | None, plain: str, with_sign: str) -> None:
    assert (number(value), signed(value)) == (plain, with_sign)


def test_the_tracking_table_holds_pictures_and_both_captions(evaluated: Results) -> None:
    frame = before_and_after(evaluated, 5)
    assert len(frame) == 5 and frame["picture"][0].startswith(b"\x89PNG")
    assert {"reference", "before", "after", "precision_before", "recall_after"} <= set(frame.columns)


def test_poor_and_cut_captions_are_called_so(tmp_path: Path) -> None:
    groups = [[captions(index)[0], Caption("A thing.", truncated=True)] for index in range(4)]
    html = write(results(4, groups=groups), tmp_path)
    assert "The captions are poor all the same: b-CapScore 0.000" in html
    assert "4 of the policy&#39;s 4 captions were cut off" in html
    assert "is worse than" in html
