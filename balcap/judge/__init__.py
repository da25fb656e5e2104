"""Judges: one file each, a class that fulfils ``balcap.records.Judge``.

    judge = make_judge(params.train.judge, "train.judge", params.runtime, params.train.judge_deadline, parts)

A new judge is a file here, a line in ``JUDGES`` and a model in ``balcap.params.judge``.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from balcap.judge.lexical import Lexical
from balcap.judge.noisy import Noisy
from balcap.judge.oracle import Oracle
from balcap.llm.base import Mismatch
from balcap.params.judge import LlmJudge, NoisyJudge, RuleJudge
from balcap.params.runtime import Runtime
from balcap.records import PARTS, Judge

JUDGES: dict[str, Callable[[], Judge]] = {"oracle": Oracle, "lexical": Lexical}
"""Judges by rule: they need no settings."""


def make_judge(
    params: RuleJudge | NoisyJudge | LlmJudge,
    key: str,
    runtime: Runtime,
    deadline: float,
    parts: Collection[str] = PARTS,
) -> Judge:
    """The judge that the parameters name; a language model is asked for ``parts`` of a judgement only, and a group's
    questions end a little before ``deadline`` (s).

    Raises :class:`Mismatch` unless revision and prompts are the pinned ones; it names them below ``key``.
    """
    if params.name == "llm":
        from balcap.judge.llm import make_llm_judge  # its client is needed by nobody else

        judge: Judge = make_llm_judge(params, key, runtime, parts, deadline)
    elif params.name == "noisy":
        judge = Noisy(Oracle(), params.flip, params.shift, params.seed)
    else:
        judge = JUDGES[params.name]()
    if judge.revision != params.revision:
        raise Mismatch(
            f"{key}.revision = {params.revision!r}: judge {params.name} is at revision {judge.revision!r}; its scores "
            "are not comparable with those of another revision. Pin the one at hand to go on"
        )
    return judge
