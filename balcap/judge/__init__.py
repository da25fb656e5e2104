"""Judges: one file each, a class that fulfils ``balcap.records.Judge``.

    judge = make_judge(params.train.judge)

A new judge is a file here, a line in ``JUDGES`` and a name in ``balcap.params.judge``.
"""

from __future__ import annotations

from collections.abc import Callable

from balcap.judge.lexical import Lexical
from balcap.judge.oracle import Oracle
from balcap.params.judge import JudgeParams
from balcap.records import Judge

__all__ = ["JUDGES", "JudgeMismatch", "make_judge"]

JUDGES: dict[str, Callable[[], Judge]] = {"oracle": Oracle, "lexical": Lexical}


class JudgeMismatch(ValueError):
    """The parameters pin another revision than the code has."""


def make_judge(params: JudgeParams) -> Judge:
    """The judge that the parameters name; raises :class:`JudgeMismatch` unless its revision is the pinned one."""
    judge = JUDGES[params.name]()
    if judge.revision != params.revision:
        raise JudgeMismatch(
            f"judge.revision = {params.revision!r}: judge {params.name} is at revision {judge.revision!r}; its scores "
            "are not comparable with those of another revision. Pin the one at hand to go on"
        )
    return judge
