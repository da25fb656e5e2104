"""The writer that is a language model, against a server on loopback: what is asked, paid for once, and what fails."""

from __future__ import annotations

import base64
import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from bad_server import Asked, BadServer
from runtime_world import runtime

from balcap.collect import Unwritten, Writing, reference_writer
from balcap.collect.llm import AS_RECORDED, FOLDER, MOST_UNITS, read_caption, read_units
from balcap.llm.base import Mismatch
from balcap.llm.forms import AnswerError
from balcap.llm.prompts import load_prompt
from balcap.params.collect import CollectReferences
from balcap.records import Reference, Sample

SAMPLES = [Sample(f"{n:064x}", b"\xff\xd8\xff" + bytes([n]) * 50, "train", "folder", "CC0-1.0") for n in range(12)]
ORIGINS = {sample.image_id: f"images/{n}.jpg" for n, sample in enumerate(SAMPLES)}
PROMPTS = {name: load_prompt(name, FOLDER) for name in ("caption", "split")}
BY_RULE = {"name": "rule"}
BY_MODEL = {"name": "llm", "prompt": PROMPTS["split"].sha256, "max_tokens": 300}
Result = list[Reference] | Unwritten


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[BadServer]:
    monkeypatch.setenv("BALCAP_WORK", str(tmp_path / "work"))
    with BadServer() as server:
        server.answer = say
        yield server


def say(asked: Asked) -> str:
    """A caption of the picture, or the statements of a caption."""
    if asked.kind == "split":
        sentences = json.loads(asked.body["messages"][-1]["content"])["caption"].split(". ")
        return json.dumps({"units": sentences})
    return f"There are {seen(asked)[3]} red cars, and they are parked. The sky is blue."


def seen(asked: Asked) -> bytes:
    """The bytes of the picture."""
    url = asked.body["messages"][-1]["content"][0]["image_url"]["url"]
    kind, data = url.split(";base64,")
    assert kind == "data:image/jpeg"
    return base64.b64decode(data, validate=True)


def about(n: int) -> Callable[[Asked], bool]:
    """Whether a call shows the picture ``n``."""
    return lambda asked: asked.kind != "split" and seen(asked)[3] == n


def writing(server: BadServer, path: str = "balcap/collect/llm.py", key: str | None = None, **changes: Any) -> Writing:
    serving = {"urls": [server.url], "api_key_env": key, "in_flight": 4, "timeout": 60.0, "retries": 1}
    serving |= changes.pop("serving", {})
    writer = {
        "name": "llm",
        "model": "vlm",
        "model_revision": "main",
        "instruction": {"name": "prompt", "prompt": PROMPTS["caption"].sha256},
        "max_tokens": 500,
        "temperature": 0.0,
        "seed": 0,
        "splitter": BY_RULE,
    } | changes
    section = {"path": path, "writer": writer, "shard_size": 5, "max_failure_share": 0.0}
    return reference_writer(CollectReferences.model_validate(section), runtime(serving={"vlm": serving}), ORIGINS)


def written(server: BadServer, samples: list[Sample] = SAMPLES, **changes: Any) -> list[Result]:
    return list(writing(server, **changes).write(samples))


def reasons(results: list[Result]) -> dict[int, str]:
    """Of the pictures that got nothing."""
    return {n: str(result) for n, result in enumerate(results) if isinstance(result, Unwritten)}


def captions(results: list[Result]) -> list[str]:
    return [result[0].caption for result in results if not isinstance(result, Unwritten)]


def test_each_picture_is_shown_as_stored_and_captioned_once(server: BadServer) -> None:
    made = writing(server)
    results = list(made.write(SAMPLES))
    assert captions(results) == [f"There are {n} red cars, and they are parked. The sky is blue." for n in range(12)]
    for sample, result in zip(SAMPLES, results, strict=True):
        assert not isinstance(result, Unwritten)
        [reference] = result
        n = sample.image[3]
        assert reference.image_id == sample.image_id and reference.writer == "llm vlm@main"
        assert reference.units == (f"There are {n} red cars.", "They are parked.", "The sky is blue.")
        assert reference.prompt_sha256 == PROMPTS["caption"].sha256
    assert sorted(map(seen, server.asked)) == [sample.image for sample in SAMPLES]
    for asked in server.asked:
        system, user = asked.body["messages"]
        assert system == {"role": "system", "content": PROMPTS["caption"].system}
        assert [part["type"] for part in user["content"]] == ["image_url", "text"]
        assert user["content"][1]["text"] == "Describe this picture in detail."
        assert asked.body["max_tokens"] == 500 and asked.body["temperature"] == 0.0
        assert "response_format" not in asked.body
    assert 1 < server.peak <= 4
    costs = made.account()
    assert costs["writer/caption/calls"] == 12 and costs["writer/caption/completion_tokens"] == 12 * 7
    assert costs["writer/cache/misses"] == 12


def test_what_is_answered_is_not_asked_again_and_another_question_is(server: BadServer) -> None:
    first = written(server)
    for _ in range(2):
        made = writing(server)
        assert captions(list(made.write(SAMPLES))) == captions(first)
        assert "writer/caption/calls" not in made.account() and made.account()["writer/cache/hits"] == 12
    assert len(server.asked) == 12
    others: list[dict[str, Any]] = [{"model_revision": "2"}, {"temperature": 0.7}, {"seed": 1}, {"max_tokens": 400}]
    for change in others:
        written(server, SAMPLES[:1], **change)
    assert len(server.asked) == 12 + len(others)
    assert [asked.body["temperature"] for asked in server.asked[12:]] == [0.0, 0.7, 0.0, 0.0]
    assert [asked.body["seed"] for asked in server.asked[12:]] == [0, 0, 1, 0]


def test_the_instruction_of_a_record_is_sent_as_it_stands(
    server: BadServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = 'What do you think is going on in this "snapshot"? {{ 7 * 7 }}'
    told = [
        {
            "image": origin,
            "conversations": [{"from": "human", "value": f"<image>\n{words}"}, {"from": "gpt", "value": ""}],
        }
        for origin in list(ORIGINS.values())[1:]
    ]
    Path("records.json").write_text(json.dumps(told))
    made = writing(server, "records.json", instruction={"name": "record"})
    results = list(made.write(SAMPLES))
    assert reasons(results) == {0: "records.json: no line names this picture"} and made.file is not None
    for asked in server.asked:
        [user] = asked.body["messages"]
        assert user["role"] == "user" and user["content"][1]["text"] == words
    made_by = {result[0].prompt_sha256 for result in results if not isinstance(result, Unwritten)}
    assert made_by == {AS_RECORDED}


def test_the_model_splits_its_captions(server: BadServer) -> None:
    results = written(server, splitter=BY_MODEL)
    units = [result[0].units for result in results if not isinstance(result, Unwritten)]
    assert units == [(f"There are {n} red cars, and they are parked", "The sky is blue.") for n in range(12)]
    asked = [one for one in server.asked if one.kind == "split"]
    assert len(asked) == 12 and len(server.asked) == 24
    for one in asked:
        system, user = one.body["messages"]
        assert system["content"] == PROMPTS["split"].system and user["content"].startswith('{"caption": ')
        assert one.body["max_tokens"] == 300 and one.body["temperature"] == 0.0


FAULTS = {
    "429": "caption: http 429",
    "500": "caption: http 500",
    "hang up": "caption: connection",
    "400": "caption: refused 400",
    "401": "caption: key refused",
    "html": "caption: not a completion",
    "empty choices": "caption: empty",
    "blank": "caption: empty",
    "refusal": "caption: refusal",
    "filtered": "caption: refusal",
    "cut off": "caption: cut off",
    "large": "caption: too large",
}
"""Fault of the server -> why the picture has no reference."""


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_leaves_one_picture_without_a_reference(server: BadServer, fault: str) -> None:
    """And when the endpoint is well again, only that one is asked for."""
    broken = about(3)
    server.rule = lambda asked: fault if broken(asked) else None
    results = written(server, SAMPLES[:5])
    assert reasons(results) == {3: FAULTS[fault]} and len(captions(results)) == 4
    asked, server.rule = len(server.asked), lambda asked: None
    again = written(server, SAMPLES[:5])
    assert not reasons(again) and len(server.asked) == asked + 1


OUT_OF_FORM = {
    "I'm sorry, but I can't help with that.": "caption: refusal",
    "Unfortunately, I cannot view images.": "caption: refusal",
    "...": "caption: no words",
    "A red car\x00.": "caption: no text",
}


@pytest.mark.parametrize("text", OUT_OF_FORM)
def test_a_caption_out_of_form_is_asked_for_once_more_and_never_kept(server: BadServer, text: str) -> None:
    broken = about(3)
    server.answer = lambda asked: text if broken(asked) else say(asked)
    results = written(server, SAMPLES[:5])
    assert reasons(results) == {3: OUT_OF_FORM[text]}
    tries = [(asked.body["seed"], asked.body["temperature"]) for asked in server.asked if broken(asked)]
    assert tries == [(0, 0.0), (1, 0.5)]
    server.answer = say
    assert not reasons(written(server, SAMPLES[:5])) and len(server.asked) == 5 + 1 + 1


def test_a_split_that_fails_leaves_the_picture_without_and_its_caption_is_kept(server: BadServer) -> None:
    right = say

    def no_list(asked: Asked) -> str:
        return '{"units": []}' if asked.kind == "split" and " 3 red" in asked.text else right(asked)

    server.answer = no_list
    assert reasons(written(server, SAMPLES[:5], splitter=BY_MODEL)) == {3: "split: no units"}
    before = Counter(asked.kind for asked in server.asked)
    assert before == {"None": 5, "split": 6}
    server.answer = say
    assert not reasons(written(server, SAMPLES[:5], splitter=BY_MODEL))
    assert Counter(asked.kind for asked in server.asked) == before + Counter({"split": 1})


def test_what_passes_on_a_second_attempt_is_no_failure(server: BadServer) -> None:
    server.then("429", "500", "reset")
    made = writing(server, serving={"retries": 3})
    assert not reasons(list(made.write(SAMPLES)))
    costs = made.account()
    assert (costs["writer/caption/calls"], costs["writer/caption/attempts"]) == (12, 15)


def test_one_that_stalls_holds_nobody_else_up(server: BadServer) -> None:
    broken = about(0)
    server.rule = lambda asked: "stall" if broken(asked) else None
    results = written(server, serving={"timeout": 5.0, "retries": 0})
    assert reasons(results) == {0: "caption: timeout"} and len(captions(results)) == 11


def test_caption_and_split_share_one_deadline(server: BadServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("balcap.collect.llm.LONGEST", 1.0)
    server.rule = lambda asked: "stall" if asked.kind == "split" else None
    assert reasons(written(server, SAMPLES[:1], splitter=BY_MODEL)) == {0: "deadline"}


def test_an_endpoint_that_is_not_there_is_a_reason(server: BadServer) -> None:
    server.die()
    assert set(reasons(written(server)).values()) == {"caption: no endpoint"}


def test_it_stops_asking_when_nobody_takes_more(server: BadServer) -> None:
    results = writing(server, serving={"in_flight": 1}).write(SAMPLES)
    assert not isinstance(next(results), Unwritten)
    results.close()
    assert len(server.asked) <= 3  # the window of pictures ahead
    assert not reasons(written(server)), "who was stopped holds nobody back"


@pytest.mark.parametrize(
    ("change", "file"),
    [
        ({"instruction": {"name": "prompt", "prompt": "0" * 64}}, "caption"),
        ({"splitter": BY_MODEL | {"prompt": "0" * 64}}, "split"),
    ],
)
def test_another_prompt_than_the_pinned_one_is_refused_with_its_hash(
    server: BadServer, change: dict[str, Any], file: str
) -> None:
    key = {"caption": "instruction", "split": "splitter"}[file]
    has = f"balcap/collect/prompts/{file}.md has {PROMPTS[file].sha256}"
    with pytest.raises(Mismatch, match=rf"collect_references\.writer\.{key}\.prompt = 0+….*{has}"):
        writing(server, **change)
    assert not server.asked


def test_the_key_comes_from_the_environment(server: BadServer, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Mismatch, match="WRITER_KEY"):
        writing(server, key="WRITER_KEY")
    monkeypatch.setenv("WRITER_KEY", "secret")
    assert not reasons(written(server, SAMPLES[:1], key="WRITER_KEY"))
    assert server.asked[0].authorization == "Bearer secret"


def test_a_list_of_units_is_read_strictly() -> None:
    assert read_units('Here: {"units": [" A cat. ", "It sleeps.", "A cat."]}') == ("A cat.", "It sleeps.")
    too_many = json.dumps({"units": [f"Unit {n}." for n in range(MOST_UNITS)]})
    for text, reason in [
        ("A cat.", "no JSON"),
        ('{"statements": []}', "no units"),
        ('{"units": "A cat."}', "no units"),
        ('{"units": [{"t": "A cat."}]}', "no text"),
        ('{"units": [" "]}', "no text"),
        (too_many, "too many units"),
    ]:
        with pytest.raises(AnswerError, match=reason):
            read_units(text)


def test_a_caption_that_mentions_sight_or_regret_is_no_refusal() -> None:
    for text in ("A sign reads “I am not able to swim”.", "A card says sorry.", " Two dogs.\n\nThey run. "):
        assert read_caption(text) == text.strip()
