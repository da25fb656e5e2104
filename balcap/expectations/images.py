"""What must hold of the pictures: suites for the tables of ``facts.image_facts``.

Critical stops the pipeline; a warning is shown and counted. Thresholds are parameters of `validate_images`.
"""

from __future__ import annotations

import great_expectations.expectations as gxe

from balcap.expectations.gate import CRITICAL, WARNING, Suites, at_least, exactly, no_more_than
from balcap.params.validate import ValidateImages


def image_suites(params: ValidateImages) -> Suites:
    """Expectations by table."""
    return {
        "files": [
            gxe.ExpectColumnValuesToBeInSet(
                column="reason",
                value_set=[""],
                mostly=no_more_than(params.max_reject_share),
                severity=CRITICAL,
                description="files can be read as pictures within the limits (validate_images.max_reject_share)",
            )
        ],
        "pictures": [
            gxe.ExpectColumnValuesToMatchRegex(
                column="image_id", regex="^[0-9a-f]{64}$", severity=CRITICAL, description="pictures have an identity"
            ),
            gxe.ExpectColumnValuesToBeUnique(
                column="image_id", severity=CRITICAL, description="no picture stands there twice"
            ),
            gxe.ExpectColumnValuesToBeInSet(
                column="split", value_set=["train", "eval"], severity=CRITICAL, description="splits are known"
            ),
            gxe.ExpectColumnValuesToBeInSet(
                column="in_shards",
                value_set=[True],
                severity=CRITICAL,
                description="pictures stand in the shards once, with the split and size of the manifest",
            ),
            gxe.ExpectColumnValuesToBeBetween(
                column="bytes", min_value=1, severity=CRITICAL, description="stored pictures are not empty"
            ),
            gxe.ExpectColumnValuesToBeBetween(
                column="aspect",
                min_value=1.0,
                max_value=params.max_aspect,
                severity=CRITICAL,
                description="longest over shortest side is within validate_images.max_aspect",
            ),
            gxe.ExpectColumnValuesToMatchRegex(
                column="license", regex=r"\S", severity=CRITICAL, description="pictures have a licence"
            ),
            gxe.ExpectColumnValuesToBeBetween(
                column="same_phash",
                max_value=1,
                mostly=no_more_than(params.max_near_duplicate_share),
                severity=WARNING,
                description="pictures do not look alike (validate_images.max_near_duplicate_share)",
            ),
        ],
        "collection": [
            at_least(
                "train_images", params.min_train_images, "enough training pictures (validate_images.min_train_images)"
            ),
            at_least(
                "eval_images", params.min_eval_images, "enough held-out pictures (validate_images.min_eval_images)"
            ),
            exactly("in_both_splits", 0, "no picture is in both splits"),
            exactly("not_in_manifest", 0, "shards hold no picture that the manifest lacks"),
        ],
    }
