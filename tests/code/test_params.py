"""Parameters fail before anything runs, with file, key, value and what is allowed."""

from __future__ import annotations

import copy
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from balcap.params import ParamsError, check_params, load_params, read_params
from balcap.params.warmstart import SMALLEST_BPE
from balcap.policy.tokenizer import bpe_tokenizer

ROOT = Path(__file__).parents[2]
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))
EMBEDDED = read_params(ROOT / "recipes/embedded.yaml")


READER = {
    "model": "m",
    "model_revision": "1",
    "prompts": {"seen": "0" * 64, "blind": "0" * 64},
    "max_tokens": 20,
    "max_failure_rate": 0.0,
}

WRITER = {
    "name": "llm",
    "model": "m",
    "model_revision": "1",
    "instruction": {"name": "prompt", "prompt": "0" * 64},
    "max_tokens": 1024,
    "temperature": 0.0,
    "seed": 0,
    "splitter": {"name": "rule"},
}
RECORDS = WRITER | {"instruction": {"name": "record"}}

ROLLOUTS = {"gpu_memory": 0.3, "tensor_parallel": 1, "max_model_length": 2048, "url": None}
SERVER = ROLLOUTS | {"gpu_memory": None, "url": "http://127.0.0.1:8000"}

LONGEST = EMBEDDED["train"]["sampling"]["max_new_tokens"]
LCRM = EMBEDDED["train"]["length_mask"]
MASKED = {"masked": {"limit": 0.05, "action": "warn"}}


def changed(**values: Any) -> dict[str, Any]:
    """The embedded recipe with dotted keys (``__`` for a dot) set."""
    raw = copy.deepcopy(EMBEDDED)
    for key, value in values.items():
        *path, last = key.split("__")
        node = raw
        for part in path:
            node = node[part]
        node[last] = value
    return raw


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_is_complete_and_names_itself(path: Path) -> None:
    assert load_params(path).recipe == path.stem
    assert path.read_text().startswith("#"), "a recipe opens with how to run it"


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"train__group_size": 7}, ["train", "group_size (7)", "global_batch_size (128)"]),
        ({"train__length_mask__tau_low": 2.0}, ["train.length_mask", "tau_low (2.0)", "tau_high (2.0)"]),
        ({"train__length_mask__softness": 0.5}, ["train.length_mask", "softness must be a number with name soft"]),
        ({"train__length_mask__name": "soft"}, ["train.length_mask", "softness must be a number with name soft"]),
        ({"train__pointable": "yes"}, ["train.pointable", "'yes'", "boolean"]),
        ({"train__reward_weights": {"precision": 0.0}}, ["train.reward_weights", "above zero"]),
        ({"train__reward_weights__recall": -1.0}, ["train.reward_weights.recall", "-1.0"]),
        ({"train__reward_weights__beauty": 1.0}, ["train.reward_weights.beauty", "precision"]),
        ({"train__rewrd_weights": {}}, ["train.rewrd_weights", "unknown key", "reward_weights"]),
        ({"prepare__source__conut": 3}, ["prepare.source.conut", "unknown key", "count"]),
        ({"prepare__source__count": "many"}, ["prepare.source.count", "'many'", "integer"]),
        ({"prepare__path": "../elsewhere"}, ["prepare.path", "'../elsewhere'", "ln -s"]),
        ({"train__advantage__name": "ppo"}, ["train.advantage", "'ppo'", "'gdpo'", "'grpo'"]),
        ({"evaluate__allow_training_judge": False}, ["evaluate.judge", "oracle", "allow_training_judge"]),
        (
            {"prepare__source": {"name": "folder", "license": "CC0-1.0", "attribution": None}},
            [
                "collect_references.writer.name = scenes",
                "train.judge.name = oracle",
                "source.name is folder",
                "lexical",
            ],
        ),
        ({"register__alias": "champion"}, ["register.alias", "promotion"]),
        ({"train__advantage__std_floor": {"beauty": 0.1}}, ["train.advantage", "beauty", "precision"]),
        (
            {"train__advantage__std_floor": {"precision": 0.1, "utility": 0.1}},
            ["train: ", "std_floor must name", "(precision, recall, linguistic)", "it names precision, utility"],
        ),
        (
            {"train__advantage__std_floor": {"recall": 0.1, "linguistic": 0.1}},
            ["advantage.std_floor must name", "it names recall, linguistic"],
        ),
        (
            {"train__advantage__rank_unmasked": True, "train__length_mask__name": "none"},
            ["train: ", "advantage.rank_unmasked", "length_mask.name (none) that closes: lcrm or linear"],
        ),
        (
            {
                "train__advantage__rank_unmasked": True,
                "train__length_mask__name": "soft",
                "train__length_mask__softness": 0.5,
            },
            ["advantage.rank_unmasked", "length_mask.name (soft) that closes"],
        ),
        (
            {"train__advantage__rank_unmasked": True, "train__reward_weights": {"recall": 1.0}},
            ["advantage.rank_unmasked true needs reward_weights.linguistic"],
        ),
        ({"collect_questions__reader": READER}, ["collect_questions.reader.model = m", "runtime.serving"]),
        (
            {"collect_references__writer": WRITER, "collect_references__path": "balcap/collect/llm.py"},
            ["collect_references.writer.model = m", "runtime.serving"],
        ),
        ({"collect_references__writer": WRITER | {"splitter": "rule"}}, ["collect_references.writer.splitter"]),
        (
            {"collect_references__writer": WRITER | {"splitter": {"name": "rule", "prompt": "0" * 64}}},
            ["collect_references.writer.splitter.prompt", "unknown key", "allowed here: name"],
        ),
        ({"collect_references__writer": RECORDS, "collect_references__path": "a.py"}, ["(a.py)", "name record"]),
        ({"collect_references__writer": WRITER, "collect_references__path": "a.json"}, ["(a.json)", "with prompt"]),
        ({"collect_questions__writer": WRITER}, ["collect_questions.writer", "'llm'", "'scenes', 'file'"]),
        ({"train__micro_batch_size": 48}, ["micro_batch_size (48)"]),
        ({"warmstart__model": None}, ["warmstart", "checkpoint"]),
        (
            {"warmstart__model__tokenizer": {"name": "bpe", "vocab_size": 260}},
            ["warmstart.model.tokenizer", "vocab_size (260)", "at least 261"],
        ),
        ({"trian": {}}, ["trian", "unknown key", "train"]),
        ({"runtime__launch__processes": 3}, ["global_batch_size (128)", "3 ranks", "no group spans two ranks"]),
        ({"runtime__launch__nodes": 4}, ["train.updates_per_step (64)", "4 ranks", "train.micro_batch_size (64)"]),
        ({"runtime__launch__offload": "optimizer"}, ["runtime.launch", "offload optimizer needs deepspeed"]),
        ({"runtime__launch__offload": "parameters"}, ["runtime.launch", "parameters needs deepspeed zero3"]),
        ({"train__judge_deadline": 1741.0}, ["train.judge_deadline (1741 s)", "60 s below", "_timeout (1800 s)"]),
        ({"train__sampler": "vllm_colocate"}, ["train.sampler vllm_colocate needs runtime.rollouts"]),
        ({"runtime__rollouts": ROLLOUTS}, ["runtime.rollouts must be null with train.sampler transformers"]),
        ({"train__sampler": "vllm_server", "runtime__rollouts": ROLLOUTS}, ["runtime.rollouts.url must be"]),
        ({"train__sampler": "vllm_colocate", "runtime__rollouts": SERVER}, ["url must be null and gpu_memory a share"]),
        (
            {"train__sampler": "vllm_colocate", "runtime__rollouts": {**ROLLOUTS, "gpu_memory": None}},
            ["runtime.rollouts.url must be null and gpu_memory a share"],
        ),
        (
            {"train__sampler": "vllm_server", "runtime__rollouts": {**SERVER, "gpu_memory": 0.3}},
            ["runtime.rollouts.gpu_memory (0.3) must be null"],
        ),
        (
            {"train__sampler": "vllm_server", "runtime__rollouts": {**SERVER, "tensor_parallel": 2}},
            ["tensor_parallel (2) 1 with train.sampler vllm_server"],
        ),
        (
            {"train__sampler": "vllm_colocate", "runtime__rollouts": {**ROLLOUTS, "tensor_parallel": 2}},
            ["tensor_parallel (2) must divide runtime.launch.processes (1)"],
        ),
        (
            {"train__sampler": "vllm_colocate", "runtime__rollouts": ROLLOUTS, "train__sampling__top_p": 0.9},
            ["train.sampling.top_p (0.9) must be 1", "train.sampler vllm_colocate"],
        ),
        (
            {"train__sampler": "vllm_colocate", "runtime__rollouts": ROLLOUTS, "train__sampling__top_k": 50},
            ["top_k (50) 0 with train.sampler vllm_colocate"],
        ),
        (
            {"train__sampler": "vllm_colocate", "runtime__rollouts": {**ROLLOUTS, "max_model_length": LONGEST}},
            [f"max_model_length ({LONGEST}) must be above train.sampling.max_new_tokens ({LONGEST})"],
        ),
        ({"train__alarms__when": {"dead": {"limit": 0.9, "action": "shout"}}}, ["train.alarms.when.dead", "'pause'"]),
        ({"train__steps": 10}, ["train", "alarms.window (10) must be below steps (10)"]),
        ({"train__alarms__when": MASKED, "train__length_mask__name": "none"}, ["alarms.when.masked", "name (none)"]),
        (
            {"train__alarms__when": MASKED, "train__length_mask": {**LCRM, "name": "soft", "softness": 0.5}},
            ["alarms.when.masked", "name (soft)"],
        ),
    ],
)
def test_a_fault_names_key_value_and_what_is_allowed(values: dict[str, Any], expected: list[str]) -> None:
    with pytest.raises(ParamsError) as error:
        check_params(changed(**values), "my.yaml")
    for part in ("my.yaml", *expected):
        assert part in str(error.value)


def test_alarms_that_can_sound_are_allowed() -> None:
    for name in ("lcrm", "linear"):
        check_params(changed(train__alarms__when=MASKED, train__length_mask__name=name))
    check_params(changed(train__steps=11))
    check_params(changed(train__steps=1, train__alarms__when={}))


def test_several_faults_are_told_at_once() -> None:
    with pytest.raises(ParamsError) as error:
        check_params(changed(train__seed=-1, evaluate__bootstrap=1))
    assert len(str(error.value).splitlines()) == 2


@given(st.sampled_from(sorted(EMBEDDED)))
def test_a_missing_section_is_named(section: str) -> None:
    raw = {key: value for key, value in EMBEDDED.items() if key != section}
    with pytest.raises(ParamsError, match=f"{section} is missing"):
        check_params(raw)


def test_unreadable_files_are_explained(tmp_path: Path) -> None:
    for content, expected in [(None, "no such file"), ("a: [", "not valid YAML"), ("- 1", "expected sections")]:
        path = tmp_path / "params.yaml"
        if content is not None:
            path.write_text(content)
        with pytest.raises(ParamsError, match=expected):
            load_params(path)


def test_the_models_that_a_run_asks_are_named() -> None:
    served = {"urls": ["http://127.0.0.1:1/v1"], "api_key_env": None, "in_flight": 1, "timeout": 1.0, "retries": 0}
    changes = {"collect_references__path": "balcap/collect/llm.py", "runtime__serving": {"m": served}}
    raw = changed(collect_references__writer=WRITER, collect_questions__reader=READER, **changes)
    assert check_params(raw).asked_models == {"collect_references.writer": "m", "collect_questions.reader": "m"}


def test_checking_is_fast() -> None:
    start = time.process_time()
    for _ in range(20):
        check_params(EMBEDDED)
    assert time.process_time() - start < 2.0


def test_values_cannot_change_after_loading() -> None:
    params = check_params(EMBEDDED)
    with pytest.raises(Exception, match="frozen"):
        params.train.steps = 1  # type: ignore[misc]


def test_the_smallest_bpe_vocabulary_is_the_tokenizers_own() -> None:
    assert len(bpe_tokenizer(["a"], SMALLEST_BPE)) == SMALLEST_BPE
    with pytest.raises(ValueError, match="too small"):
        bpe_tokenizer(["a"], SMALLEST_BPE - 1)


def test_params_yaml_is_a_recipe() -> None:
    raw = yaml.safe_load((ROOT / "params.yaml").read_text())
    assert raw == read_params(ROOT / "recipes" / f"{raw['recipe']}.yaml")


def test_what_a_mask_that_closes_and_a_server_allow() -> None:
    floors = {"precision": 0.1, "recall": 0.0, "linguistic": 0.2}
    for mask in ("lcrm", "linear"):
        raw = changed(train__advantage__rank_unmasked=True, train__length_mask__name=mask)
        raw["train"]["advantage"]["std_floor"] = floors
        assert check_params(raw).train.advantage.model_dump()["std_floor"] == floors
    served = changed(train__sampler="vllm_server", runtime__rollouts=SERVER)
    assert check_params(served).runtime.rollouts is not None
