"""What must hold of captions, units and questions: suites for the tables of ``facts.reference_facts``.

Critical stops the pipeline; a warning is shown and counted. Thresholds are parameters of `validate_references`.
"""

from __future__ import annotations

import great_expectations.expectations as gxe

from balcap.expectations.custom import ExpectCaptionWithinLengthBudget, ExpectNoRefusal
from balcap.expectations.gate import CRITICAL, WARNING, Suites, at_least, exactly, no_more_than
from balcap.params.validate import ValidateReferences


def reference_suites(params: ValidateReferences) -> Suites:
    """Expectations by table."""
    return {
        "pictures": [
            gxe.ExpectColumnValuesToBeBetween(
                column="references",
                min_value=1,
                mostly=params.min_coverage,
                severity=CRITICAL,
                description="pictures have a reference (validate_references.min_coverage)",
            )
        ],
        "references": _captions(params),
        "questions": _questions(),
        "eval_pictures": [
            gxe.ExpectColumnValuesToBeBetween(
                column="questions",
                min_value=params.min_questions,
                severity=WARNING,
                description="held-out pictures have enough questions (validate_references.min_questions)",
            )
        ],
        "collection": [
            exactly("in_both_splits", 0, "no picture is in both splits"),
            at_least("eval_images", 1, "there are held-out pictures"),
            exactly("writers", 1, "one writer with one prompt made all references", severity=WARNING),
        ],
    }


def _captions(params: ValidateReferences) -> list[gxe.Expectation]:
    return [
        gxe.ExpectColumnValuesToBeUnique(
            column="image_id", severity=CRITICAL, description="no picture has two references"
        ),
        _all_true("known", "references belong to pictures of the manifest"),
        gxe.ExpectColumnValuesToNotBeNull(column="caption", severity=CRITICAL, description="captions are there"),
        ExpectCaptionWithinLengthBudget(min_value=params.min_words, max_value=params.max_words, severity=CRITICAL),
        ExpectNoRefusal(mostly=no_more_than(params.max_refusal_share), severity=CRITICAL),
        gxe.ExpectColumnValuesToBeBetween(
            column="repetition",
            max_value=params.max_repetition,
            severity=WARNING,
            description="captions do not repeat themselves (validate_references.max_repetition)",
        ),
        gxe.ExpectColumnValuesToBeBetween(
            column="units",
            min_value=params.min_units,
            severity=CRITICAL,
            description="captions have enough units (validate_references.min_units)",
        ),
        gxe.ExpectColumnValuesToMatchRegex(
            column="prompt_sha256",
            regex="^[0-9a-f]{64}$",
            severity=CRITICAL,
            description="it is known how a reference was made",
        ),
    ]


def _questions() -> list[gxe.Expectation]:
    return [
        _all_true("known", "questions belong to pictures of the manifest"),
        gxe.ExpectColumnValuesToMatchRegex(
            column="question", regex=r"\S", severity=CRITICAL, description="questions are not empty"
        ),
        _all_true("distinct_options", "questions have two or more different options"),
        _all_true("answer_in_range", "the answer is one of the options"),
        _share_or_unknown("accuracy_with_image"),
        _share_or_unknown("accuracy_without_image"),
    ]


def _share_or_unknown(column: str) -> gxe.Expectation:
    return gxe.ExpectColumnValuesToBeBetween(
        column=column, min_value=0.0, max_value=1.0, severity=CRITICAL, description="accuracies are shares, or unknown"
    )


def _all_true(column: str, description: str) -> gxe.Expectation:
    return gxe.ExpectColumnValuesToBeInSet(column=column, value_set=[True], severity=CRITICAL, description=description)
