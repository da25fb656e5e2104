"""The starting captioner: streams, forward pass, resuming, the three methods."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from balcap.params.warmstart import Warmstart
from balcap.policy.folder import weights_sha256, write_note
from balcap.policy.store import load_policy, save_policy
from balcap.records import Reference, Sample
from balcap.scenes import VOCABULARY, draw_scene, noisy_caption, render, teacher_caption
from balcap.warmstart import WarmstartError, run, streams
from balcap.warmstart.captioning import IGNORED, Captioning, train_only
from balcap.warmstart.loop import learning_rate
from balcap.warmstart.scenes import build, cells

OPTIMIZER = {
    "betas": [0.9, 0.95],
    "weight_decay": 0.01,
    "warmup_steps": 50,
    "final_rate": 0.05,
    "max_grad_norm": 1.0,
}
TINY = {
    "path": "balcap/scenes",
    "seed": 0,
    "prompt": "describe",
    "max_new_tokens": 16,
    "method": {
        "name": "scenes",
        "min_objects": 1,
        "max_objects": 2,
        "vision": {"steps": 4, "batch_size": 4, "learning_rate": 1e-3},
        "align": {"steps": 4, "batch_size": 2, "learning_rate": 1e-3},
        "optimizer": OPTIMIZER,
        "sft": {"steps": 6, "batch_size": 4, "learning_rate": 1e-3},
    },
    "model": {
        "hidden_size": 32,
        "intermediate_size": 64,
        "layers": 2,
        "heads": 2,
        "image_size": 96,
        "patch_size": 32,
        "tokenizer": {"name": "scenes", "vocab_size": 256},
    },
}
ROOT = Path(__file__).parents[2]


def settings(**changes: Any) -> Warmstart:
    """The tiny recipe with dotted keys (``__`` for a dot) set."""
    raw = json.loads(json.dumps(TINY))
    for key, value in changes.items():
        node, parts = raw, key.split("__")
        for part in parts[:-1]:
            node = node[part]
        node[parts[-1]] = value
    return Warmstart.model_validate(raw)


def content(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def ignore(metrics: dict[str, float], step: int | None) -> None:
    """A log for those who want none."""


def test_streams_are_fresh_and_repeatable() -> None:
    numbers = {streams.stream_number(seed, phase) for seed in range(50) for phase in ("vision", "align", "sft")}
    assert len(numbers) == 150 and min(numbers) >= 2**63  # `prepare` draws with the recipe's small seeds
    one = streams.Stream(streams.stream_number(0, "sft"), 1, 3, 8)
    streams._pool.cache_clear()
    pictures, captions = streams.sft_batch(one, 11)
    streams.sft_batch(one, 3)
    again, same = streams.sft_batch(one, 11)
    assert captions == same and np.array_equal(pictures, again)
    other = streams.Stream(streams.stream_number(1, "sft"), 1, 3, 8)
    assert streams.sft_batch(other, 11)[1] != captions


def test_pools_are_sorted_by_length_and_lose_nothing() -> None:
    stream = streams.Stream(streams.stream_number(0, "sft"), 1, 3, 8)
    batches = [streams.sft_batch(stream, step)[1] for step in range(streams.POOL)]
    lengths = sorted(sorted(len(caption.split()) for caption in batch) for batch in batches)
    assert [n for batch in lengths for n in batch] == sorted(n for batch in lengths for n in batch)
    scenes = [scene for step in range(streams.POOL) for scene in stream.batch(step)]
    shown = {streams.sft_batch(stream, step)[0][i].tobytes() for step in range(streams.POOL) for i in range(8)}
    assert shown == {render(scene).tobytes() for scene in scenes}


def test_cell_facts_name_what_stands_there() -> None:
    scene = draw_scene(3, 5, 3, 3)
    facts = streams.cell_facts([scene])[0]
    things = {thing.cell: thing for thing in scene.things}
    for cell in range(9):
        shape, colour, size = facts[cell, :3]
        if cell in things:
            thing = things[cell]
            assert (streams.SHAPES[shape], streams.COLOURS[colour], streams.SIZES[size]) == (
                thing.shape,
                thing.colour,
                thing.size,
            )
        else:
            assert (shape, colour, size) == (5, 6, 2)
    assert streams.BACKGROUNDS[facts[4, 3]] == scene.background and facts[:, 5].tolist() == list(range(9))


def test_tokenizer_knows_every_word_that_can_be_written() -> None:
    tokenizer = build(settings()).processor.tokenizer
    assert len(tokenizer) == 5 + len(VOCABULARY) + 1
    scenes = [draw_scene(9, index, 1, 9) for index in range(300)]
    texts = [noisy_caption(scene, 1) for scene in scenes] + [teacher_caption(scene, 1) for scene in scenes]
    rows = tokenizer(texts)["input_ids"]
    assert all(tokenizer.unk_token_id not in row for row in rows)
    assert [tokenizer.decode(row) for row in rows] == [text.lower() for text in texts]


def test_loss_is_the_models_own() -> None:
    """Against the forward pass of transformers on the whole padded sequence, labels on the caption."""
    policy = build(settings())
    captioning = Captioning(policy)
    pictures = np.stack([render(draw_scene(1, i, 1, 3)) for i in range(2)])
    captions = ["A red circle.", "There is one shape.", "The background is grey.", "A cross."]
    with torch.no_grad():
        ours = captioning.loss(pictures, captions)
        rows = captioning.encode(captions)
        width = max(map(len, rows))
        ids = torch.tensor([captioning.prompt[0].tolist() + row + [0] * (width - len(row)) for row in rows])
        keep = torch.tensor([[1] * captioning.prompt.shape[1] + [1] * len(r) + [0] * (width - len(r)) for r in rows])
        labels = ids.masked_fill(keep == 0, IGNORED)
        labels[:, : captioning.prompt.shape[1]] = IGNORED
        images = [Image.fromarray(pictures[i // 2]) for i in range(4)]
        values = policy.processor.image_processor(images, return_tensors="pt")["pixel_values"]
        theirs = policy.model(input_ids=ids, attention_mask=keep, pixel_values=values, labels=labels).loss
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-5)


def test_pixel_values_are_the_processors() -> None:
    policy = build(settings())
    picture = render(draw_scene(1, 0, 3, 3))
    theirs = policy.processor.image_processor([Image.fromarray(picture)], return_tensors="pt")
    ours = Captioning(policy).pixel_values(picture[None])
    assert torch.allclose(ours, torch.as_tensor(theirs["pixel_values"]), atol=1e-5)


def test_words_of_another_tokenizer_are_refused() -> None:
    with pytest.raises(ValueError, match=r"method scenes needs model\.tokenizer\.name scenes"):
        settings(model__tokenizer={"name": "bpe", "vocab_size": 300})


def test_cells_average_finer_patches() -> None:
    patches = torch.arange(36.0).reshape(1, 36, 1)
    expected = [(r * 12 + c * 2) + np.mean([0, 1, 6, 7]) for r in range(3) for c in range(3)]
    assert cells(patches).flatten().tolist() == pytest.approx(expected)
    assert torch.equal(cells(torch.arange(9.0).reshape(1, 9, 1)).flatten(), torch.arange(9.0))


def test_only_the_named_parts_train() -> None:
    model = build(settings()).model
    train_only(model, ["model.vision_tower."])
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained and all(name.startswith("model.vision_tower.") for name in trained)


def test_learning_rate_warms_up_and_falls_to_five_per_cent() -> None:
    method = settings(method__sft__steps=400).method
    spec, optimizer = method.sft, method.optimizer  # type: ignore[union-attr]
    rates = [learning_rate(spec, optimizer, step) / spec.learning_rate for step in range(400)]
    assert rates[0] == pytest.approx(0.02) and rates[49] == rates[50] == 1.0
    assert rates[225] == pytest.approx(0.525) and rates[-1] == pytest.approx(0.05, abs=1e-3)


def test_equal_seeds_give_equal_bytes(tmp_path: Path) -> None:
    for name, seed in (("one", 0), ("two", 0), ("other", 1)):
        run(settings(seed=seed), (), {}, tmp_path / f"work-{name}", tmp_path / name, ignore)
    assert content(tmp_path / "one") == content(tmp_path / "two")
    assert weights_sha256(tmp_path / "one") != weights_sha256(tmp_path / "other")
    policy = load_policy(tmp_path / "one")
    assert (policy.prompt, policy.restore_capitals, policy.max_new_tokens) == ("describe", True, 16)


CHILD = """
import json, os, sys
from pathlib import Path
from balcap.params.warmstart import Warmstart
import deepspeed  # saving a model imports it: once here, not in every process
from balcap.warmstart import loop, run, scenes
raw, folder, kills = json.loads(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3])
loop.SAVE_EVERY, loop.LOG_EVERY = 2, 1
for last in kills:  # one process each, which kills itself at a step; libraries are imported once
    child = os.fork()
    if not child:
        def log(metrics, step):
            print(step, flush=True)
            if step == last:
                os.kill(os.getpid(), 9)
        run(Warmstart.model_validate(raw), (), {}, folder / "work", folder / "base", log)
        os._exit(0)
    print("end", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


def in_children(folder: Path, kills: list[int]) -> tuple[list[int], list[int]]:
    """Run the warm start in processes that kill themselves at a step, one by one: exit codes, and steps made."""
    folder.mkdir()
    out = subprocess.run(
        [sys.executable, "-c", CHILD, json.dumps(TINY), str(folder), json.dumps(kills)],
        cwd=ROOT, capture_output=True, text=True, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    lines = out.stdout.splitlines()
    return [int(line.split()[1]) for line in lines if line.startswith("end")], [int(n) for n in lines if n.isdigit()]


def test_killed_runs_go_on_and_end_with_the_same_bytes(tmp_path: Path) -> None:
    assert in_children(tmp_path / "one", [-1]) == ([0], list(range(1, 15)))
    # killed inside vision, align and sft; then to the end; then once more, when all is done
    codes, steps = in_children(tmp_path / "two", [3, 7, 13, -1, -1])
    assert codes == [-signal.SIGKILL] * 3 + [0, 0]
    assert set(steps) == set(range(1, 15)) and len(steps) == 14 + 3  # one step again after each kill
    assert content(tmp_path / "one/base") == content(tmp_path / "two/base")


def test_every_phase_learns(tmp_path: Path) -> None:
    losses: dict[str, list[float]] = {}

    def log(metrics: dict[str, float], step: int | None) -> None:
        for name, value in metrics.items():
            losses.setdefault(name, []).append(value)

    longer = {f"method__{phase}__{key}": value for phase in ("vision", "align", "sft")
              for key, value in (("steps", 40), ("learning_rate", 5e-3))}  # fmt: skip
    run(settings(**longer), (), {}, tmp_path / "work", tmp_path / "base", log)
    assert set(losses) == {"loss/vision", "loss/align", "loss/sft"}
    assert all(values[-1] < 0.9 * values[0] for values in losses.values()), losses


def photo(seed: int) -> Sample:
    pixels = np.random.default_rng(seed).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return Sample(f"{seed:064x}", buffer.getvalue(), "train", "test", "CC0-1.0")


def on_references(**changes: Any) -> Warmstart:
    sft = {"steps": 12, "batch_size": 4, "learning_rate": 3e-3}
    tokenizer = {"name": "bpe", "vocab_size": 300}
    base: dict[str, Any] = {
        "method": {"name": "references", "optimizer": OPTIMIZER, "sft": sft},
        "model__tokenizer": tokenizer,
    }
    return settings(**(base | {"model__image_size": 64, "model__patch_size": 16, "prompt": "Describe it."} | changes))


def test_references_train_a_captioner(tmp_path: Path) -> None:
    samples = [photo(i) for i in range(5)]
    texts = [f"A giraffe stands near tree {i}." for i in range(4)]
    references = {
        s.image_id: Reference(s.image_id, t, (t,), "file", "0" * 64) for s, t in zip(samples, texts, strict=False)
    }
    losses: list[float] = []
    for name in ("one", "two"):
        run(on_references(), samples, references, tmp_path / f"work-{name}", tmp_path / name,
            lambda metrics, step: losses.append(metrics["loss/sft"]))  # fmt: skip
    assert content(tmp_path / "one") == content(tmp_path / "two")
    policy = load_policy(tmp_path / "one")
    assert not policy.restore_capitals and policy.prompt == "Describe it."
    tokenizer = policy.processor.tokenizer
    assert len(tokenizer("giraffe")["input_ids"]) < len("giraffe")  # trained on the references


def test_references_that_cannot_be_learnt_are_explained(tmp_path: Path) -> None:
    with pytest.raises(WarmstartError, match="no training picture has a reference"):
        run(on_references(), [photo(0)], {}, tmp_path / "work", tmp_path / "base", ignore)
    sample = photo(0)
    references = {sample.image_id: Reference(sample.image_id, "A giraffe.", (), "file", "0" * 64)}
    words = on_references(model__tokenizer={"name": "scenes", "vocab_size": 300})
    with pytest.raises(WarmstartError, match=r"A giraffe.*tokenizer\.name to bpe"):
        run(words, [sample], references, tmp_path / "work", tmp_path / "base", ignore)
    assert not (tmp_path / "base").exists()


def pinned(path: Path, sha256: str) -> Warmstart:
    return settings(path=path.name, model=None, method={"name": "checkpoint", "sha256": sha256})


@pytest.fixture
def checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    save_policy(build(settings()), tmp_path / "llava")
    (tmp_path / "llava/balcap.json").unlink()  # as a checkpoint from elsewhere
    (tmp_path / "llava/modeling.py").write_text("raise SystemExit('executed')")
    return tmp_path / "llava"


def test_a_pinned_checkpoint_is_adopted(tmp_path: Path, checkpoint: Path) -> None:
    run(pinned(checkpoint, weights_sha256(checkpoint)), (), {}, tmp_path / "work", tmp_path / "base", ignore)
    policy = load_policy(tmp_path / "base")
    assert (policy.prompt, policy.restore_capitals) == ("describe", False)
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (tmp_path / "base", checkpoint))
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    assert not (tmp_path / "base/modeling.py").exists()


def test_an_adopted_captioner_never_speaks_in_float16(tmp_path: Path, checkpoint: Path) -> None:
    file = checkpoint / "config.json"
    config = json.loads(file.read_text())
    adopted = tmp_path / "base/config.json"
    run(pinned(checkpoint, weights_sha256(checkpoint)), (), {}, tmp_path / "work", tmp_path / "base", ignore)
    assert adopted.read_bytes() == file.read_bytes()
    for name, hub in (("torch_dtype", "float16"), ("dtype", "float16"), ("dtype", "float32")):
        parts = {"text_config": {**config["text_config"], name: hub}, name: hub}
        file.write_text(json.dumps({**config, **parts}))
        run(pinned(checkpoint, weights_sha256(checkpoint)), (), {}, tmp_path / "work", tmp_path / "base", ignore)
        found = json.loads(adopted.read_text())
        expected = "bfloat16" if hub == "float16" else hub
        assert found[name] == found["text_config"][name] == expected
        assert found == {**config, **parts, "text_config": found["text_config"], name: expected}


def test_a_captioner_of_ours_keeps_how_its_capitals_are_put_back(tmp_path: Path, checkpoint: Path) -> None:
    write_note(checkpoint, "another prompt", True, 7)
    run(pinned(checkpoint, weights_sha256(checkpoint)), (), {}, tmp_path / "work", tmp_path / "base", ignore)
    policy = load_policy(tmp_path / "base")
    assert (policy.prompt, policy.restore_capitals) == ("describe", True)


def test_another_checkpoint_than_the_pinned_one_is_refused(tmp_path: Path, checkpoint: Path) -> None:
    with pytest.raises(WarmstartError, match=f"{weights_sha256(checkpoint)}.*{'0' * 64}"):
        run(pinned(checkpoint, "0" * 64), (), {}, tmp_path / "work", tmp_path / "base", ignore)
    with pytest.raises(WarmstartError, match="no such directory"):
        run(pinned(tmp_path / "nothing", "0" * 64), (), {}, tmp_path / "work", tmp_path / "base", ignore)
    torch.save({}, checkpoint / "pytorch_model.bin")
    with pytest.raises(WarmstartError, match=r"pytorch_model\.bin"):
        run(pinned(checkpoint, weights_sha256(checkpoint)), (), {}, tmp_path / "work", tmp_path / "base", ignore)
    assert not (tmp_path / "base").exists()
