"""``balcap plan``: counts against published ones, sharding by hand, traced passes against real ones, refusals."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import twins
import yaml
from transformers import AutoModelForImageTextToText, AutoTokenizer, LlavaConfig
from typer.testing import CliRunner

from balcap.params import Params, ParamsError, check_params, load_params, read_params
from balcap.plan import H100, fit, known_units, plan
from balcap.plan.captioner import CaptionerUnknown, captioner, llava_7b, qwen_3b, qwen_7b
from balcap.plan.fit import GB, changed, faults
from balcap.plan.memory import Planner
from balcap.plan.shape import shape
from balcap.plan.trace import Alive, trace
from balcap.plan.work import ASSUMED, Seconds, Units, judge_calls, seconds, units, update_flops
from balcap.records import Reference
from balcap.records_io import write_references
from flows.cli import app
from flows.request import RunRequest, check

ROOT = Path(__file__).parents[2]
RECIPES = ROOT / "recipes"
LLAVA = load_params(RECIPES / "llava-1.5-7b.yaml")
LORA = {"rank": 8, "alpha": 16, "dropout": 0.0, "targets": ["q_proj", "v_proj"]}


def llava(**train: Any) -> Params:
    """The recipe on one process without DeepSpeed and vLLM, with changes."""
    raw = read_params(RECIPES / "llava-1.5-7b.yaml")
    raw["runtime"]["launch"] |= {"nodes": 1, "processes": 1, "deepspeed": "none", "offload": "none"}
    raw["runtime"]["rollouts"] = None
    raw["train"] |= {"sampler": "transformers", **train}
    return check_params(raw)


@pytest.mark.parametrize(
    ("config", "total", "tokens"),
    [(llava_7b(), 7_063_427_072, 576), (qwen_3b(), 3_754_622_976, 256), (qwen_7b(), 8_292_166_656, 256)],
)
def test_published_captioners_have_their_published_size(config: Any, total: int, tokens: int) -> None:
    found = shape(config, llava(frozen=[]).train, side=448)
    assert found.total == found.trained == total and found.image_tokens == tokens


def test_what_is_frozen_or_adapted_is_counted() -> None:
    found = shape(llava_7b(), llava(frozen=["model.vision_tower"]).train, side=336)
    assert found.total - found.trained == found.tower == 303_507_456 and found.tower_trained == found.tower_passed == 0
    adapted = shape(llava_7b(), llava(frozen=["model.vision_tower"], lora=LORA).train, side=336)
    assert adapted.trained == 32 * 2 * 8 * (4096 + 4096) and adapted.total == found.total + adapted.trained


def test_states_are_sharded_as_each_stage_does() -> None:
    planner, params = Planner(short(), 336, 32, 80 * GB), changed(LLAVA, launch={"nodes": 1, "processes": 8})
    found = planner.shape(params)
    needs = {}
    for stage in ("none", "zero1", "zero2", "zero3"):
        needs[stage] = planner.need(params, params.runtime.launch.model_copy(update={"deepspeed": stage}))
    bucket, live = 2 * 500e6, 2 * 1e9
    assert needs["none"].states == 4 * found.total + 2 * 4 * found.trained + 8 * found.trained
    assert needs["zero1"].states == pytest.approx(2 * found.total + (2 + 12 / 8) * found.trained + bucket)
    assert needs["zero2"].states == pytest.approx(2 * found.total + (4 + 12) / 8 * found.trained + bucket)
    assert needs["zero3"].states == pytest.approx((2 * found.total + 16 * found.trained) / 8 + live + bucket)
    offloaded = planner.need(changed(params, launch={"deepspeed": "zero3", "offload": "parameters"}))
    assert offloaded.states == pytest.approx(live + bucket)
    assert offloaded.host == pytest.approx((2 * found.total + 16 * found.trained) / 8)


def test_a_reference_model_costs_its_weights_and_none_with_adapters() -> None:
    planner, kl = Planner(short(), 336, 32, 80 * GB), LLAVA.train.loss.model_copy(update={"kl": 0.001})
    assert planner.need(llava()).reference == 0.0
    assert planner.need(changed(llava(), {"loss": kl})).reference == 4 * planner.shape(llava()).total
    assert planner.need(changed(llava(lora=LORA), {"loss": kl})).reference == 0.0


def test_checkpointing_and_smaller_batches_keep_less() -> None:
    planner = Planner(short(), 336, 32, 80 * GB)
    plain = llava(gradient_checkpointing=False, micro_batch_size=8)
    kept = planner.need(plain).activations
    assert planner.need(changed(plain, {"micro_batch_size": 4})).activations < 0.7 * kept
    assert planner.need(changed(plain, {"gradient_checkpointing": True})).activations < 0.4 * kept


@pytest.mark.parametrize("family", twins.FAMILIES)
def test_traced_passes_are_those_of_a_real_step(family: str, tmp_path: Path) -> None:
    """The same model with content, on real tensors, through its own forward pass with picture and padding mask."""
    folder = twins.checkpoint(family, tmp_path / family)
    model: Any = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).train()
    tower = "model.vision_tower" if family == "llava" else "model.visual"
    train = llava(frozen=[tower], precision="float32", gradient_checkpointing=False).train
    found = shape(model.config, train, side=112)
    rows, tokens = 3, found.image_tokens + 400
    predicted = trace(model.config, train, found, rows, tokens, pure=False)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not name.startswith(tower))
        parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
    inputs = real_inputs(model, found, rows, tokens, AutoTokenizer.from_pretrained(folder))
    known = [*model.parameters(), *(p.grad for p in model.parameters() if p.grad is not None), *inputs.values()]
    with Alive(known) as alive:
        last = model.model(**inputs, use_cache=False).last_hidden_state
        held = alive.now
        last.sum().backward()
    assert predicted.held == pytest.approx(held, rel=0.1)
    assert predicted.held + predicted.working == pytest.approx(alive.peak, rel=0.1)


@pytest.mark.parametrize("lora", [None, LORA])
def test_with_checkpointing_a_frozen_tower_is_gone_through_too(lora: Any) -> None:
    """transformers wants gradients of the pictures' embedding: every layer's input is kept, and hours count it."""

    def held(layers: int, checkpointing: bool) -> float:
        config = short()
        config.vision_config.num_hidden_layers = layers
        train = llava(frozen=["model.vision_tower"], gradient_checkpointing=checkpointing, lora=lora).train
        return trace(config, train, shape(config, train, 336), rows=2, tokens=700, pure=True).held

    assert held(6, True) - held(2, True) == 4 * 2 * 577 * 1024 * 2
    assert held(6, False) == held(2, False)


def real_inputs(model: Any, found: Any, rows: int, tokens: int, words: Any) -> dict[str, torch.Tensor]:
    """A batch whose first row is padded, with one picture per row."""
    ids = torch.full((rows, tokens), words.convert_tokens_to_ids(words.tokenize("a"))[0])
    ids[:, 10 : 10 + found.image_tokens] = model.config.image_token_id
    mask = torch.ones_like(ids)
    mask[0, :3] = 0
    inputs = {"input_ids": ids, "attention_mask": mask}
    if model.config.model_type == "llava":
        side = model.config.vision_config.image_size
        return inputs | {"pixel_values": torch.zeros(rows, 3, side, side)}
    edge = round(found.patches**0.5)
    inputs["mm_token_type_ids"] = (ids == model.config.image_token_id).int()
    grid = torch.tensor([[1, edge, edge]] * rows)
    return inputs | {
        "pixel_values": torch.zeros(rows * found.patches, found.pixels // found.patches),
        "image_grid_thw": grid,
    }


def test_a_7b_without_zero_on_a_24_gb_card_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    saved(short(), tmp_path)
    Path("params.yaml").write_text(yaml.safe_dump(json.loads(llava(frozen=[]).model_dump_json(by_alias=True))))
    done = CliRunner().invoke(app, ["plan", "--gpus", "1", "--gpu-memory", "24"])
    assert done.exit_code == 1
    assert "full fine-tuning of 6.8 B parameters needs 109 GB on each GPU" in done.stderr
    assert "24 GB there" in done.stderr
    assert "with runtime.launch.offload: " in done.stderr and "train.lora (rank 16)" in done.stderr
    for way in done.stderr.split(": set ")[1].split(", or set "):
        assert not faults(Planner(short(), 336, 32, 24 * GB), followed(llava(frozen=[]), way)), way


def short() -> LlavaConfig:
    """LLaVA-1.5-7B with two layers of its tower: the text model counts whole, a pass takes a fraction of the time."""
    config = llava_7b()
    config.vision_config.num_hidden_layers = 2
    return config


def saved(config: LlavaConfig, root: Path) -> None:
    """Make it the captioner that the recipe names."""
    config.save_pretrained(root / LLAVA.warmstart.path)


def followed(params: Params, advice: str) -> Params:
    """The parameters with every setting that a piece of advice names."""
    found: dict[str, dict[str, Any]] = {"train": {}, "runtime.launch": {}, "runtime.rollouts": {}}
    for section, key, value in re.findall(r"(train|runtime\.\w+)\.(\w+): ([\w.]+)", advice):
        found[section][key] = yaml.safe_load(value)
    if "train.lora (rank 16)" in advice:
        found["train"]["lora"] = fit.LORA
    assert sum(map(len, found.values())) >= advice.count(",") + 1, "every setting is understood"
    return changed(params, *found.values())


def colocated(share: float, processes: int, **launch: Any) -> Params:
    """The recipe with vLLM's share of each GPU."""
    rollouts = {"gpu_memory": share}
    return changed(LLAVA, {}, {"nodes": 1, "processes": processes, "deepspeed": "zero2", **launch}, rollouts)


@pytest.mark.parametrize(
    ("params", "gpu", "first"),
    [
        (llava(gradient_checkpointing=False, micro_batch_size=8), 160, "train.sampler: vllm_server"),
        (colocated(0.6, 8), 80, "runtime.rollouts.gpu_memory: 0.25"),
        (colocated(0.1, 2), 80, "runtime.rollouts.gpu_memory: 0.25"),
        (colocated(0.6, 2), 80, "runtime.launch.deepspeed: zero2 with runtime.launch.offload: optimizer"),
        (colocated(0.8, 4, deepspeed="zero3", offload="parameters"), 40, "runtime.rollouts.gpu_memory: 0.45"),
    ],
)
def test_what_is_advised_fits(params: Params, gpu: int, first: str) -> None:
    planner = Planner(short(), 336, 32, gpu * GB)
    advice = faults(planner, params)[-1].split(": set ", 1)[1]
    assert advice.startswith(first)
    ways = advice.split(", or set ")
    assert len(set(ways)) == len(ways)
    for way in ways:
        assert not faults(planner, followed(params, way)), way


def test_a_launch_that_is_refused_is_not_advised() -> None:
    params = colocated(0.8, 4, deepspeed="zero3", offload="parameters")
    with pytest.raises(ValueError, match="offload parameters needs deepspeed zero3"):
        changed(params, launch={"deepspeed": "zero2"})
    assert not any("zero2" in fault for fault in faults(Planner(short(), 336, 32, 20 * GB), params))


def test_without_a_way_it_says_what_was_tried() -> None:
    (fault,) = faults(Planner(short(), 336, 32, 4 * GB), llava(lora=LORA))
    assert "none of the settings tried makes it fit" in fault


def test_vllm_must_have_room_for_weights_and_one_caption() -> None:
    planner = Planner(short(), 336, 32, 80 * GB)
    (found,) = faults(planner, colocated(0.1, 8))
    assert "vLLM needs 14.6 GB" in found and "set runtime.rollouts.gpu_memory (now 0.1) to at least 0.19" in found


@pytest.mark.parametrize("gpu", [12, 24])
def test_a_share_that_no_gpu_can_give_is_not_advised(gpu: int) -> None:
    """Of 12 GB more than all would be needed; of 24 GB what training keeps leaves less."""
    planner = Planner(short(), 336, 32, gpu * GB)
    alone, four = (faults(planner, colocated(0.1, n, deepspeed="zero3"))[0] for n in (1, 4))
    for fault in (alone, four):
        assert "set runtime.rollouts.gpu_memory" not in fault and "train.sampler: vllm_server" in fault
        assert "larger GPUs" in fault
    assert "tensor_parallel" not in alone


def test_an_engine_is_spread_over_as_many_gpus_as_it_needs() -> None:
    planner, params = Planner(short(), 336, 32, 16 * GB), colocated(0.1, 8, deepspeed="zero3", offload="parameters")
    fault = faults(planner, params)[0]
    assert ": set runtime.rollouts.tensor_parallel: 2 with runtime.rollouts.gpu_memory: 0." in fault
    assert not any("vLLM needs" in one for one in faults(planner, followed(params, fault.split(", or ")[0])))
    planner.config.text_config.num_attention_heads = 28  # as Qwen2.5-VL-7B: eight GPUs cannot share them
    planner.gpu = 5 * GB
    assert "tensor_parallel" not in faults(planner, params)[0]
    planner.gpu = 8 * GB
    assert "tensor_parallel: 4 with" in faults(planner, changed(params, {}, {"processes": 4}))[0]


def test_a_server_must_take_the_longest_caption() -> None:
    planner = Planner(short(), 336, 32, 80 * GB)
    served = changed(LLAVA, {"sampler": "vllm_server"}, {}, {"gpu_memory": None, "max_model_length": 1600})
    (fault,) = faults(planner, served)
    assert "1632 tokens: set runtime.rollouts.max_model_length (now 1600) to at least that (with which the" in fault
    assert not faults(planner, changed(served, {}, {}, {"max_model_length": 1632}))


def test_advice_says_what_is_drawn_or_weighed_otherwise() -> None:
    def advice(**changes: Any) -> str:
        loss = LLAVA.train.loss.model_copy(update=changes)
        params = changed(llava(micro_batch_size=8), {"loss": loss, "gradient_checkpointing": True})
        return " ".join(step.words for step in fit._steps(Planner(short(), 336, 32, 80 * GB), params))

    assert "it draws by itself" in advice() and "train.micro_batch_size: 1 runtime" in advice()
    assert "micro_batch_size: 1 (changes the result a little through loss.type bnpo: a mean" in advice(type="bnpo")
    assert "through loss.type bnpo and loss.entropy: a mean" in advice(type="bnpo", entropy=0.01)


def test_calls_and_tokens_of_a_judge() -> None:
    of_references = units(Path("nowhere"))
    found = {one.kind: one for one in judge_calls(LLAVA, 256, of_references)}
    assert {kind: one.per_step for kind, one in found.items()} == dict.fromkeys(
        ("precision", "recall", "linguistic"), LLAVA.train.global_batch_size
    )
    assert found["precision"].of_picture > 0 == found["recall"].of_picture
    assert found["recall"].reads - found["linguistic"].reads == pytest.approx(of_references.tokens, abs=60)
    assert all(0 < one.writes <= one.writes_at_most for one in found.values())
    utility = changed(LLAVA, {"reward_weights": {"utility": 1.0}})
    (answer,) = judge_calls(utility, 256, of_references)
    assert answer.per_step == LLAVA.train.global_batch_size * LLAVA.collect_questions.per_image
    assert judge_calls(load_params(RECIPES / "embedded.yaml"), 256, of_references) == []


CAT = Reference("one", "A cat.", ("A cat.",), "people", "")


def test_units_are_those_of_the_planned_recipe_alone(tmp_path: Path) -> None:
    table = tmp_path / "data/references.parquet"
    table.parent.mkdir()
    write_references(table, [CAT])
    assert known_units(LLAVA, tmp_path) == ASSUMED  # nobody knows whose they are
    shutil.copy(RECIPES / "embedded.yaml", tmp_path / "params.yaml")
    assert known_units(LLAVA, tmp_path) == ASSUMED
    shutil.copy(RECIPES / "llava-1.5-7b.yaml", tmp_path / "params.yaml")
    assert known_units(LLAVA, tmp_path) == Units(1.0, len("A cat.") / 4, "references.parquet")
    for section in ("prepare", "collect_references"):
        other = getattr(LLAVA, section).model_copy(update={"path": "data/other"})
        assert known_units(LLAVA.model_copy(update={section: other}), tmp_path) == ASSUMED
    write_references(table, [])
    assert known_units(LLAVA, tmp_path) == ASSUMED


def test_a_step_waits_for_what_the_log_probabilities_do_not_hide() -> None:
    found = Seconds(sampling=10.0, logprobs=4.0, update=20.0, judging=30.0)
    assert [found.step(n) for n in (1, 2, 7, 8)] == [60.0, 45.0, 30.0 + 30 / 7, 34.0]
    assert found.hiding == 8
    assert Seconds(10.0, 0.0, 20.0, 30.0).hiding is None and Seconds(10.0, 4.0, 20.0, 0.0).step(1) == 34.0


def test_a_backward_pass_stops_above_what_is_frozen() -> None:
    """In units of a tower's forward pass: 1 forward, 1 for gradients of activations, 1 of weights, 1 to recompute."""

    def of_tower(frozen: list[str], again: bool = False) -> tuple[float, Any]:
        params = llava(frozen=frozen, gradient_checkpointing=again)
        found = shape(qwen_3b(), params.train, side=448)
        blind = replace(found, patches=0)
        flops = [update_flops(params, one, 0, 1) for one in (found, blind)]
        return (flops[0] - flops[1]) / (2.0 * found.tower * found.patches), found

    assert of_tower([])[0] == pytest.approx(3) and of_tower(["model.visual"])[0] == 1
    blocks = ["model.visual.patch_embed", "model.visual.blocks"]
    merger, found = of_tower(blocks)
    share = found.tower_trained / found.tower
    assert 0 < found.tower_trained == found.tower_passed and share < 0.06 and merger == pytest.approx(1 + 2 * share)
    first, found = of_tower(["model.visual.blocks", "model.visual.merger"])  # trained below: all are passed
    assert found.tower_trained < 0.01 * found.tower == 0.01 * found.tower_passed
    assert first == pytest.approx(2, rel=0.01)
    assert of_tower([], again=True)[0] == pytest.approx(4) and of_tower(["model.visual"], again=True)[0] == 3
    assert of_tower(blocks, again=True)[0] == pytest.approx(3 + share)


def test_weights_are_read_by_all_gpus_of_an_engine_together() -> None:
    found = shape(short(), LLAVA.train, 336)
    few = {"global_batch_size": 64}  # so that all captions are under way at once
    one, two = (
        seconds(changed(LLAVA, few, {"processes": 8}, {"tensor_parallel": n}), found, 32, 256, H100, 0.0)
        for n in (1, 2)
    )
    weights = 256 * 2 * (found.total - found.tower) / H100.bandwidth
    assert one.sampling - two.sampling == pytest.approx(weights / 2)


def test_hours_grow_with_the_run_and_shrink_with_gpus(tmp_path: Path) -> None:
    saved(short(), tmp_path)
    one, two = plan(LLAVA, tmp_path, gpus=8), plan(LLAVA, tmp_path, gpus=16)
    assert one.hours() == pytest.approx(2 * two.hours(), rel=0.2) and one.hours() > 1
    counts, hours = list(one.by_judges), list(one.by_judges.values())
    assert counts[:3] == [1, 2, 4] and hours == sorted(hours, reverse=True) and hours[0] > 2 * hours[-1]
    assert hours[-1] == one.hours() and one.hours(counts[-1] - 1) > one.hours()
    assert not one.faults
    with pytest.raises(ParamsError, match=r"--gpus 7: .*must be a multiple"):
        plan(LLAVA, tmp_path, gpus=7)


def test_the_shape_is_read_where_there_is_one(tmp_path: Path) -> None:
    folder = tmp_path / "data/llava-1.5-7b-mine"
    started = LLAVA.warmstart.model_copy(update={"path": "data/llava-1.5-7b-mine"})
    assert "published shape of llava-1.5-7b" in captioner(started, tmp_path).source
    twins.checkpoint("llava", folder)
    assert captioner(started, tmp_path).config.get_text_config().hidden_size == twins.HIDDEN
    (folder / "config.json").write_text("{")
    with pytest.raises(CaptionerUnknown, match=r"config\.json"):
        captioner(started, tmp_path)
    other = LLAVA.warmstart.model_copy(update={"path": "data/other"})
    with pytest.raises(CaptionerUnknown, match=r"warmstart.path = data/other.*config.json alone"):
        captioner(other, tmp_path)


def documented() -> list[list[str]]:
    """The overrides of each row of the table of ablations, as a shell reads them."""
    rows = [line for line in (ROOT / "docs/paper.md").read_text().splitlines() if "`-S " in line]
    return [shlex.split(row.split("`")[1])[1::2] for row in rows]


def test_the_overrides_of_the_documentation_are_those_of_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert len(documented()) == 10
    for changes in documented():
        check(ROOT, RunRequest.model_validate({"recipe": "qwen2.5-vl-3b", "overrides": changes}))
    grpo = next(row for row in documented() if "grpo" in row[1])
    asked = ["plan", "-r", "embedded", *(word for change in grpo for word in ("-S", change))]
    assert CliRunner().invoke(app, asked).exit_code == 0
    for wrong, said in (("train.rat=1", "unknown key"), ("train.steps=few", "train.steps"), ("+other.rate=1", "other")):
        refused = CliRunner().invoke(app, ["plan", "-r", "embedded", "-S", wrong])
        assert refused.exit_code == 1 and said in refused.stderr


def test_json_holds_every_number(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    saved(short(), tmp_path)
    shutil.copy(RECIPES / "llava-1.5-7b.yaml", "params.yaml")
    write_references("data/references.parquet", [CAT])
    done = CliRunner().invoke(app, ["plan", "--gpus", "8", "--json"])
    found = json.loads(done.stdout)
    assert found["parameters"]["total"] == shape(short(), LLAVA.train, 336).total and set(found["memory"]) == {
        "none",
        "zero1",
        "zero2",
        "zero3",
    }
    assert found["judge"]["run"]["calls"] == found["judge"]["per_step"]["calls"] * 700
    assert found["fits"] and done.exit_code == 0
    assert found["judge"]["units"]["source"] == "references.parquet"
    waits = found["hours"]["by_judge_gpus"]
    assert waits["1"] > waits["2"] > waits[str(found["judge"]["gpus_that_hide_it"])] == found["hours"]["training_alone"]
    table = CliRunner().invoke(app, ["plan", "--gpus", "8"]).stdout
    assert f"{waits['2']:.1f}" in table and f"{found['hours']['training_alone']:.1f} of training alone" in table
