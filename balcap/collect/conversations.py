"""Records in the form of ShareGPT4V: a picture, an instruction, a caption.

    {"id": "1", "image": "coco/train2017/000000000009.jpg", "conversations": [
        {"from": "human", "value": "Describe the picture.\\n<image>"}, {"from": "gpt", "value": "A plate of ..."}]}

    flat(record)["instruction"], flat(record)["caption"]         # "Describe the picture.", "A plate of ..."

A conversation of other turns than one question and one answer is no caption of a picture, and refused.
"""

from __future__ import annotations

from typing import Any

PLACE = "<image>"
"""Stands where the picture was shown; it is no part of the words."""
SPEAKERS = ("human", "gpt")


def flat(row: dict[str, Any]) -> dict[str, Any]:
    """The row, with ``instruction`` and ``caption`` of its ``conversations`` if it has any; raises ``ValueError``."""
    turns = row.get("conversations")
    if turns is None:
        return row
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        raise ValueError("conversations is not a list of turns")
    speakers = tuple(turn.get("from") for turn in turns)
    if speakers != SPEAKERS:
        raise ValueError(f"conversations is not one turn of human and one of gpt, but {len(turns)}: {speakers[:4]!a}")
    question, caption = (turn.get("value") for turn in turns)
    if isinstance(question, str):
        question = question.replace(PLACE, " ")
    return {**row, "instruction": question, "caption": caption}
