"""The recipes for real captioners: complete, as the paper has it, and run for two steps with a twin for the weights.

A step is real but for its size: the checkpoint is adopted, pictures from a folder are stored as the recipe says, every
caption goes to a language-model judge behind an endpoint, with the recipe's prompts and limits. The endpoint marks by
rule, so that captions of random weights differ in their rewards.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import oracle_world
import pytest
import torch
import train_world as world
import twins
from PIL import Image

from balcap.images import decode, read_picture
from balcap.judge import make_judge
from balcap.judge.prompts import load_prompt
from balcap.llm.prompts import load_prompt as load
from balcap.params import Params, check_params, read_params
from balcap.policy.folder import weights_sha256
from balcap.policy.store import load_policy
from balcap.records import Reference, Sample
from balcap.rewards import needed
from balcap.serve.oracle import MODEL, Oracle
from balcap.training.run import train
from balcap.warmstart import WarmstartError
from balcap.warmstart.checkpoint import adopt

ROOT = Path(__file__).parents[2]
TWIN = {"llava-1.5-7b": "llava", "qwen2.5-vl-3b": "qwen-tied", "qwen2.5-vl-7b": "qwen"}
PHOTOS = sorted((ROOT / "data/examples/photos/images").glob("*.jpg"))[:6]


@pytest.fixture(scope="module", params=sorted(TWIN))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def raw(name: str) -> dict[str, Any]:
    return read_params(ROOT / "recipes" / f"{name}.yaml")


class Words(Oracle):
    """Answers a judge's calls from the caption's words alone."""

    def __init__(self) -> None:
        super().__init__([])
        self.bodies: list[dict[str, Any]] = []

    def say(self, body: dict[str, Any]) -> str:
        self.bodies.append(body)
        content = body["messages"][-1]["content"]
        said = json.loads(content if isinstance(content, str) else content[-1]["text"])
        words = said["caption"].split()
        answers: dict[str, dict[str, Any]] = {
            "precision": {"assertions": [{"t": word[:40], "v": len(word) % 2, "p": 1} for word in words]},
            "recall": {"covered": [int(key) for key, unit in said.get("units", {}).items() if unit in said["caption"]]},
            "linguistic": dict.fromkeys(("clarity", "fluency", "coherency"), 1 + len(said["caption"]) % 5),
        }
        return json.dumps(answers[body["response_format"]["json_schema"]["name"]])


@pytest.fixture
def words() -> Words:
    return Words()


@pytest.fixture
def url(words: Words) -> Iterator[str]:
    with oracle_world.served(words) as address:
        yield address


def test_it_is_the_paper_with_our_assumptions(name: str, raw: dict[str, Any]) -> None:
    """Numbers of docs/paper.md."""
    params = check_params(raw, name)
    t, launch = params.train, params.runtime.launch
    assert params.recipe == name and params.register_.name == f"balcap-{name}"
    assert (t.group_size, t.global_batch_size, t.steps) == (8, 8 * 128, 700)
    assert (t.optimizer.learning_rate, t.optimizer.warmup_steps) == (1e-6, 0.05 * 700)
    assert t.optimizer.schedule == "constant_with_warmup"
    assert (t.loss.type, t.loss.clip_low, t.loss.clip_high, t.loss.kl) == ("dapo", 0.2, 0.28, 0.0)
    assert (t.sampling.temperature, t.sampling.top_p, t.sampling.top_k, t.sampling.max_new_tokens) == (1, 1, 0, 1024)
    assert t.reward_weights == {"precision": 1, "recall": 1, "linguistic": 1} and t.pointable
    assert (t.length_mask.name, t.length_mask.tau_low, t.length_mask.tau_high) == ("lcrm", 0.5, 2)
    assert t.advantage.name == "gdpo" and (t.advantage.ddof, t.advantage.eps, t.advantage.std_floor) == (1, 1e-4, 0)
    assert t.lora is None and t.sampler == "vllm_colocate" and t.precision == "bfloat16"
    assert (launch.processes, launch.deepspeed) == (8, "zero2")
    assert params.warmstart.method.name == "checkpoint" and set(params.warmstart.method.sha256) == {"0"}
    assert params.collect_references.writer.name == "llm" and params.prepare.source.name == "folder"


def test_writer_judge_and_prompts_are_there(raw: dict[str, Any]) -> None:
    params = check_params(raw)
    assert set(params.asked_models) == {"train.judge", "evaluate.judge", "collect_references.writer"}
    writer = params.collect_references.writer
    assert writer.name == "llm" and writer.instruction.name == "record" and writer.splitter.name == "llm"
    assert writer.splitter.prompt == load("split", ROOT / "balcap/collect/prompts").sha256
    for name, section in (("train", params.train), ("evaluate", params.evaluate)):  # Mismatch unless hashes are right
        make_judge(section.judge, f"{name}.judge", params.runtime, section.judge_deadline)
        assert {kind: load_prompt(kind).sha256 for kind in ("precision", "recall", "linguistic", "answer")} == dict(
            section.judge.prompts
        )


def test_a_hash_that_was_not_filled_in_is_told(raw: dict[str, Any], tmp_path: Path) -> None:
    hub = twins.checkpoint("llava", tmp_path / "hub")
    params = check_params(raw).warmstart.model_copy(update={"path": str(hub)})
    assert params.method.name == "checkpoint"
    with pytest.raises(WarmstartError, match=rf"sha256 {weights_sha256(hub)}, the recipe pins 0+; .*set warmstart"):
        adopt(params, params.method, tmp_path / "base")
    assert not (tmp_path / "base").exists()


def test_the_first_comment_says_how_to_run_it(name: str) -> None:
    text = (ROOT / "recipes" / f"{name}.yaml").read_text()
    head = text.partition("\nrecipe:")[0]
    assert f"balcap run --recipe {name} -S warmstart.method.sha256=" in head
    assert f"balcap plan --recipe {name} --gpus 8 --gpu-memory 80" in head
    assert max(map(len, text.splitlines())) <= 120
    served = [line for line in head.splitlines() if "vllm serve" in line]
    assert len(served) == 2 and all("--host 127.0.0.1 --port 873" in line for line in served)


def small(raw: dict[str, Any], url: str) -> Params:
    """The recipe at the size of a test: one process without vLLM, 16 short captions a step, another judge's address."""
    judge = {"model": MODEL, "model_revision": "words"}
    train = raw["train"] | {
        "steps": 2,
        "global_batch_size": 16,
        "micro_batch_size": 8,
        "sampler": "transformers",
        "sample_images": 1,
        "sampling": raw["train"]["sampling"] | {"max_new_tokens": 24},
        "judge": raw["train"]["judge"] | judge,
        "optimizer": raw["train"]["optimizer"] | {"warmup_steps": 0},
        "alarms": {"window": 1, "when": {}},
    }
    serving = dict(next(iter(raw["runtime"]["serving"].values())), urls=[url])
    runtime = raw["runtime"] | {
        "threads": 1,
        "launch": raw["runtime"]["launch"] | {"processes": 1, "deepspeed": "none"},
        "rollouts": None,
        "serving": raw["runtime"]["serving"] | {MODEL: serving},
    }
    return check_params(raw | {"train": train, "runtime": runtime})


def test_two_steps_with_a_twin(
    name: str, raw: dict[str, Any], words: Words, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BALCAP_WORK", str(tmp_path / "cache"))
    params = small(raw, url)
    base = twins.talkative(twins.base(TWIN[name], tmp_path / "base", prompt=params.warmstart.prompt))
    samples, references = photos(params)
    t = params.train
    judge = make_judge(t.judge, "train.judge", params.runtime, t.judge_deadline, needed(t.reward_weights))
    result = train(t, base, samples, references, {}, tmp_path / "work", world.Tracked(), judge)
    curves = result.history.curves
    assert [row["step"] for row in curves] == [1, 2] and all(row["advantage/std"] > 0 for row in curves)
    assert all(row["judge/failure_rate"] == 0 for row in curves) and words.bodies
    assert {body["max_tokens"] for body in words.bodies} <= set(dict(t.judge.max_tokens).values())
    before, after = load_policy(base).model.state_dict(), result.policy.model.float().state_dict()
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    assert changed and not [key for key in changed if key.startswith(t.frozen)]
    assert any(key.startswith(("model.multi_modal_projector.", "model.visual.merger.")) for key in changed)


def photos(params: Params) -> tuple[list[Sample], dict[str, Reference]]:
    """Photographs as `prepare` stores them, each with three words for a reference; the last one is held out."""
    samples = []
    for i, path in enumerate(PHOTOS):
        picture = read_picture(path.read_bytes(), params.prepare.images, params.prepare.limits)
        split = "eval" if i == len(PHOTOS) - 1 else "train"
        samples.append(Sample(picture.image_id, picture.image, split, path.name, "CC0-1.0"))
        stored = decode(picture.image)
        assert isinstance(stored, Image.Image) and max(stored.size) <= params.prepare.images.size
    return samples, {s.image_id: Reference(s.image_id, "a red car", ("a", "e", "car"), "test", "") for s in samples}
