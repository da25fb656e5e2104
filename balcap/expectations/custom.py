"""Expectations of our own, by subclassing Great Expectations' own, with a description that people read."""

from __future__ import annotations

import great_expectations.expectations as gxe

from balcap.refusal import REFUSAL


class ExpectCaptionWithinLengthBudget(gxe.ExpectColumnValuesToBeBetween):
    """The number of words of every caption (column `words`) lies in an interval, both ends inclusive."""

    column: str = "words"
    description: str = "captions are neither too short nor too long for the length mask to make sense"


class ExpectNoRefusal(gxe.ExpectColumnValuesToNotMatchRegex):
    """No caption is a writer's refusal or its talk about itself instead of a description."""

    column: str = "caption"
    description: str = "captions describe the picture instead of refusing to"
    regex: str = REFUSAL
