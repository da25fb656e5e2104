"""Calls B and C against a real vLLM with a real model: verdicts in form, failures counted, the judge found bad.

SmolLM2-135M-Instruct writes fluent English and judges at random, which is what a calibration has to say.
"""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from serve_world import ROOT, Served

from balcap.calibration.asking import judge_at
from balcap.calibration.labelled import scenes_set
from balcap.judge.answers import schema
from balcap.llm.client import Call, CallFailed, Client
from balcap.params.runtime import Serving
from balcap.records import MARKS, Caption
from tests.flows.helpers import alive, wait_until

pytestmark = pytest.mark.vllm
MODEL = "SmolLM2-135M-Instruct"
CASES = scenes_set(3, seed=5)


def test_the_command_says_what_a_recipe_needs(smollm2: Served) -> None:
    assert f'    {MODEL}: {{urls: ["{smollm2.url}"], api_key_env: null' in smollm2.said


def test_units_and_marks_of_a_real_model_are_in_form_or_counted(smollm2: Served, tmp_path: Path) -> None:
    judge = judge_at(smollm2.url, ("covered", *MARKS), tmp_path)
    assert judge.params.model == MODEL

    async def judged() -> None:
        for case in CASES:
            captions = [Caption(text) for text, _ in case.truths]
            said = await judge.judge_group(case.picture.sample, case.picture.reference, captions)
            for one in said:
                assert one.assertions is None and one.answers is None  # not asked for
                assert one.covered is None or len(one.covered) == len(case.picture.reference.units)
                assert all(value in (None, 1, 2, 3, 4, 5) for value in (one.clarity, one.fluency, one.coherency))
            unknown[0] += sum(one.covered is None for one in said) + sum(one.clarity is None for one in said)
        await judge.close()

    unknown = [0]
    asyncio.run(judged())
    calls = sum(len({text for text, _ in case.truths}) for case in CASES)
    account = judge.account()
    assert account["judge/recall/calls"] >= calls and account["judge/linguistic/calls"] == calls
    assert unknown[0] == sum(judge.failures.values()) < calls
    assert account["judge/linguistic/completion_tokens"] <= 30 * calls  # terse: three marks, no white space


def test_what_the_server_cuts_off_or_refuses_is_a_reason(smollm2: Served) -> None:
    serving = Serving(urls=(smollm2.url,), api_key_env=None, in_flight=4, timeout=120.0, retries=2)

    async def reason(words: int, limit: int) -> str:
        client = Client(MODEL, serving)
        asked = [{"role": "user", "content": "very " * words + "long"}]
        try:
            with pytest.raises(CallFailed) as failed:
                await client.chat(Call("linguistic", asked, schema("linguistic"), limit, "x"))
            assert client.account()["linguistic"]["attempts"] == 1  # asking again would not help
        finally:
            await client.close()
        return failed.value.reason

    assert asyncio.run(reason(5, 4)) == "cut off"
    assert asyncio.run(reason(5000, 50)) == "refused 400"


def test_a_calibration_and_the_probes_say_that_it_is_bad(smollm2: Served, tmp_path: Path) -> None:
    def command(*options: str) -> subprocess.CompletedProcess[str]:
        common = ["--judge", smollm2.url, "--only", "recall,linguistic", "--pictures", "6"]
        line = [sys.executable, "-m", "flows.cli", "judge", *options, *common]
        return subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=400)

    measured = command("calibrate", "--out", str(tmp_path))
    assert measured.returncode == 0, measured.stderr
    assert "This judge is bad: " in measured.stdout and MODEL in measured.stdout
    found = json.loads((tmp_path / "calibration.json").read_text())
    assert found["scores"]["covered"]["error"]["n"] > 50 and found["scores"]["verified"]["error"]["n"] == 0
    probed = command("check")
    assert probed.returncode == 1 and "This judge is bad: " in probed.stdout, probed.stderr


def test_sigterm_ends_it_and_leaves_nothing(smollm2: Served) -> None:
    """The last one: afterwards there is no server."""
    started = psutil.Process(smollm2.process.pid).children(recursive=True)
    assert len(started) >= 3  # vLLM's front, its engine, the watchdog
    smollm2.process.send_signal(signal.SIGTERM)
    assert smollm2.process.wait(timeout=60) == 0
    wait_until(lambda: not any(alive(process.pid) for process in started))
