"""`collect_references` by a language model as a program: kill -9, an endpoint that goes away, costs, pinned words."""

from __future__ import annotations

import base64
import os
import shutil
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from bad_server import Asked, BadServer
from collect_world import COUNT, Stages, make_checkout, picture, picture_id, shards, stages_in, started

from balcap.collect.llm import FOLDER
from balcap.llm.prompts import load_prompt
from balcap.records_io import read_references
from steps._stage import StageError

IN_FLIGHT = 3
RESULT = "data/references.parquet"


def shown(asked: Asked) -> int:
    """The number of the picture that a call shows, by its stored bytes."""
    url = asked.body["messages"][-1]["content"][0]["image_url"]["url"]
    data = base64.b64decode(url.split(";base64,")[1], validate=True)
    n = int(data.split()[1])
    assert data == picture(n)
    return n


def say(asked: Asked) -> str:
    return f"There are {shown(asked)} red cars. They are parked."


@pytest.fixture
def server() -> Iterator[BadServer]:
    with BadServer() as server:
        server.answer = say
        yield server


@pytest.fixture
def checkout(tmp_path: Path, server: BadServer) -> Path:
    """A checkout whose references are written by the model that ``server`` serves."""
    checkout = make_checkout(tmp_path)
    writer = {
        "name": "llm",
        "model": "vlm",
        "model_revision": "main",
        "instruction": {"name": "prompt", "prompt": load_prompt("caption", FOLDER).sha256},
        "max_tokens": 500,
        "temperature": 0.0,
        "seed": 0,
        "splitter": {"name": "rule"},
    }
    serving = {"urls": [server.url], "api_key_env": None, "in_flight": IN_FLIGHT, "timeout": 60.0, "retries": 0}
    change(checkout, "collect_references", path="balcap/collect/llm.py", writer=writer)
    change(checkout, "runtime", serving={"vlm": serving})
    return checkout


@pytest.fixture
def run(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> Stages:
    return stages_in(checkout, monkeypatch)


def change(checkout: Path, section: str, **values: Any) -> None:
    params = yaml.safe_load((checkout / "params.yaml").read_text())
    params[section] |= values
    (checkout / "params.yaml").write_text(yaml.safe_dump(params))


def test_every_picture_gets_its_reference_and_costs_are_logged_once(
    checkout: Path, run: Stages, server: BadServer, capsys: pytest.CaptureFixture[str]
) -> None:
    spent = run("collect_references").metrics
    assert (spent["references"], spent["failed"], spent["writer/caption/calls"]) == (COUNT, 0, COUNT)
    assert spent["writer/caption/prompt_tokens"] == 100 * COUNT
    assert f"▸ collect_references {COUNT}/{COUNT} pictures, 0:00 left" in capsys.readouterr().out
    references = read_references(checkout / RESULT)
    assert {image_id: found.units for image_id, found in references.items()} == {
        picture_id(n): (f"There are {n} red cars.", "They are parked.") for n in range(COUNT)
    }
    content, files = (checkout / RESULT).read_bytes(), shards(checkout, "collect_references")
    assert "writer/caption/calls" not in run("collect_references").metrics
    assert shards(checkout, "collect_references") == files
    shutil.rmtree(checkout / ".work/collect_references")
    assert run("collect_references").metrics["writer/cache/hits"] == COUNT
    assert (checkout / RESULT).read_bytes() == content and len(server.asked) == COUNT


def test_kill_9_and_the_same_command_asks_nothing_twice(checkout: Path, run: Stages, server: BadServer) -> None:
    """Calls that were under way may be lost; an answer that had come is not."""
    victims: list[int] = []

    def kill_at_13(asked: Asked) -> str:
        if len(server.asked) >= 13 and not victims:
            victims.append(process.pid)
            os.kill(process.pid, signal.SIGKILL)
        return say(asked)

    server.answer = kill_at_13
    with started(checkout, "collect_references") as process:
        process.communicate(timeout=240)
    assert process.returncode == -signal.SIGKILL and not (checkout / RESULT).exists()
    finished = shards(checkout, "collect_references")
    assert len(finished) >= 2  # two files for five pictures; the second five may not have been written yet
    before = len(server.asked)
    assert before <= 13 + IN_FLIGHT
    run("collect_references")
    assert finished.items() <= shards(checkout, "collect_references").items()
    times = Counter(map(shown, server.asked))
    assert set(times) == set(range(COUNT)) and max(times.values()) <= 2
    assert len(server.asked) - COUNT <= IN_FLIGHT
    content = (checkout / RESULT).read_bytes()
    shutil.rmtree(checkout / ".work")
    run("collect_references")
    assert (checkout / RESULT).read_bytes() == content


def test_an_endpoint_that_goes_away_stops_it_at_once_and_the_next_run_goes_on(
    checkout: Path, run: Stages, server: BadServer
) -> None:
    change(checkout, "collect_references", max_failure_share=0.1)
    answered = iter(range(10))
    server.rule = lambda asked: None if next(answered, None) is not None else "500"
    with pytest.raises(StageError) as failed:
        run("collect_references")
    for part in ("3 of 24 pictures (12.5%) got nothing", "max_failure_share allows 10.0%", "caption: http 500"):
        assert part in str(failed.value)
    asked = len(server.asked)
    assert asked <= 10 + 3 + 2 * IN_FLIGHT, "it does not go through all pictures"
    assert run.last.metrics["writer/caption/failures"] >= 3, "costs are logged also when it fails"
    table = Path(str(failed.value).split("All are in ")[1].split(". Mend")[0])
    assert pq.read_table(table).num_rows == 3 and run.last.kept["collect/failures.parquet"] == table.read_bytes()
    server.rule = lambda asked: None
    assert run("collect_references").metrics["failed"] == 0
    assert COUNT - 10 <= len(server.asked) - asked <= COUNT - 10 + IN_FLIGHT, "what was answered is kept"
    assert len(read_references(checkout / RESULT)) == COUNT


def test_a_picture_that_got_nothing_is_no_reference_and_gets_one_later(
    checkout: Path, run: Stages, server: BadServer
) -> None:
    change(checkout, "collect_references", max_failure_share=0.1)
    server.rule = lambda asked: "cut off" if shown(asked) == 7 else None
    assert run("collect_references").metrics["failed"] == 1
    assert picture_id(7) not in read_references(checkout / RESULT)
    assert run.last.kept["collect/failures.parquet"]
    server.rule = lambda asked: None
    assert run("collect_references").metrics["failed"] == 0
    assert len(server.asked) == COUNT + 1 and shown(server.asked[-1]) == 7
    assert list(read_references(checkout / RESULT)) == [picture_id(n) for n in range(COUNT)]


def test_words_that_are_not_pinned_and_a_key_that_is_not_there_are_told(checkout: Path, run: Stages) -> None:
    text = (checkout / "params.yaml").read_text()
    (checkout / "params.yaml").write_text(text.replace(load_prompt("caption", FOLDER).sha256, "f" * 64))
    with pytest.raises(StageError, match=r"writer\.instruction\.prompt = f.*prompts/caption\.md has "):
        run("collect_references")
    (checkout / "params.yaml").write_text(text.replace("api_key_env: null", "api_key_env: NO_SUCH_KEY"))
    with pytest.raises(StageError, match="environment variable NO_SUCH_KEY"):
        run("collect_references")
