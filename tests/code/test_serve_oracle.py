"""The oracle behind an endpoint: the words on the wire, and verdicts that are those of the judge in process."""

from __future__ import annotations

import asyncio
import base64
import json
import socket
from pathlib import Path
from typing import Any

import pytest
from evaluation_world import picture
from typer.testing import CliRunner

from balcap.cli_serve import app
from balcap.judge.answers import parse, schema
from balcap.judge.oracle import Oracle as Judge
from balcap.judge.prompts import load_prompt
from balcap.llm.forms import AnswerError
from balcap.records import Caption, Judgement, Picture
from balcap.records_io import IMAGES, write_table
from balcap.scenes import noisy_caption
from balcap.scenes.world import Scene
from balcap.serve.oracle import Oracle, Unseen

PICTURES = [picture(i) for i in range(40)]
TRUTH = Oracle([p.sample for p in PICTURES])
LETTERS = "ABCDEFGHIJ"


def body(kind: str, known: Picture, **values: Any) -> dict[str, Any]:
    text = load_prompt(kind).render(**values)
    url = f"data:image/png;base64,{base64.b64encode(known.sample.image).decode()}"
    seen = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": text}]
    form = {"type": "json_schema", "json_schema": {"name": kind, "schema": schema(kind), "strict": True}}
    return {"messages": [{"role": "user", "content": seen if kind == "precision" else text}], "response_format": form}


def remote(known: Picture, text: str) -> Judgement:
    units = {str(n): unit for n, unit in enumerate(known.reference.units, 1)}
    said = TRUTH.say(body("recall", known, units=units, caption=text))
    answers = []
    for q in known.questions:
        options = dict(zip(LETTERS, [*q.options, "cannot be answered from the caption"], strict=False))
        letter = TRUTH.say(body("answer", known, question=q.question, options=options, caption=text))
        chosen = parse("answer", letter, options="".join(options))
        answers.append((chosen if chosen < len(q.options) else -1,))
    return Judgement(
        parse("precision", TRUTH.say(body("precision", known, caption=text))),
        parse("recall", said, units=len(units)),
        *parse("linguistic", TRUTH.say(body("linguistic", known, caption=text))),
        answers=tuple(answers),
    )


@pytest.mark.parametrize("i", range(len(PICTURES)))
def test_verdicts_are_those_of_the_judge_in_process(i: int) -> None:
    known = PICTURES[i]
    texts = [noisy_caption(Scene.from_json(known.sample.meta["scene"]), seed) for seed in range(3)]
    local = asyncio.run(
        Judge().judge_group(known.sample, known.reference, [Caption(t) for t in texts], known.questions, 0)
    )
    assert [remote(known, text) for text in texts] == local


def test_a_share_of_the_questions_is_answered_out_of_form_and_always_the_same() -> None:
    broken = Oracle([p.sample for p in PICTURES], fail=0.2)

    def bad(text: str) -> bool:
        try:
            parse("linguistic", broken.say(body("linguistic", PICTURES[0], caption=text)))
        except AnswerError:
            return True
        return False

    first = [bad(f"caption {n}") for n in range(1000)]
    assert first == [bad(f"caption {n}") for n in range(1000)]
    assert 160 < sum(first) < 240  # three standard deviations of 1,000 draws at 0.2


def test_what_is_no_judges_call_is_refused() -> None:
    with pytest.raises(KeyError):
        TRUTH.say({"messages": [{"role": "user", "content": "hello"}]})
    stranger = body("precision", PICTURES[0], caption="A circle.")
    stranger["messages"][0]["content"][0]["image_url"]["url"] = "data:image/png;base64,AAAA"
    with pytest.raises(Unseen, match="not among those"):
        TRUTH.say(stranger)
    json.dumps(stranger)


def stored(folder: Path) -> Path:
    """A picture as `prepare` stores it."""
    known = PICTURES[0].sample
    row = {name: getattr(known, name, None) for name in IMAGES.names} | {"meta": json.dumps(known.meta)}
    write_table(folder / "eval-00000.parquet", [row], IMAGES)
    return folder


def test_what_hinders_the_command_is_named_with_its_remedy(tmp_path: Path) -> None:
    empty = CliRunner().invoke(app, ["oracle", "--data", str(tmp_path)])
    assert empty.exit_code == 1 and "balcap run --apply prepare" in empty.output
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        hindered = CliRunner().invoke(app, ["oracle", "--data", str(stored(tmp_path)), "--port", port])
    assert hindered.exit_code == 1 and f"port {port}" in hindered.output and "name another --port" in hindered.output
