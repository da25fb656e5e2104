"""LLaVA-1.5 and Qwen2.5-VL, each by its twin: read as fetched, asked, frozen in part, written for others to read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import twins
from PIL import Image
from safetensors import safe_open
from transformers import AutoModelForImageTextToText, AutoProcessor, GenerationConfig
from trl.data_utils import apply_chat_template, prepare_multimodal_messages

from balcap.policy.folder import read_note, weights_sha256
from balcap.policy.generate import chat_prompt, encode_prompts, forbidden_tokens, generate_captions, to_caption
from balcap.policy.store import Policy, load_policy, save_policy
from balcap.training.run import freeze

QWEN_TOWER = ["model.visual.patch_embed", "model.visual.blocks"]
TOWER = {"llava": ["model.vision_tower"], "qwen": QWEN_TOWER, "qwen-tied": QWEN_TOWER}
"""As the recipes freeze it: the projector between tower and text is trained."""


@pytest.fixture(scope="module", params=twins.FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def folder(family: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return twins.base(family, tmp_path_factory.mktemp("twins") / family)


@pytest.fixture
def policy(folder: Path) -> Iterator[Policy]:
    yield load_policy(folder)


def pictures(*sizes: tuple[int, int]) -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)) for width, height in sizes]


SIZES = ((84, 56), (56, 112), (90, 100))


def ask(policy: Policy, images: list[Image.Image], **kwargs: Any) -> list[str]:
    settings = {"temperature": 1.0, "max_new_tokens": 10, "seed": 0, "batch_size": 2} | kwargs
    return [caption.text for caption in generate_captions(policy, images, **settings)]


def test_the_checkpoint_as_fetched_becomes_a_captioner(family: str, folder: Path) -> None:
    hub = folder.with_name(folder.name + ".hub")
    assert weights_sha256(folder) == weights_sha256(hub)
    names = {p.name for p in hub.iterdir()}
    assert {p.name for p in folder.iterdir()} == names | {"balcap.json"}
    assert read_note(folder) == {"prompt": twins.PROMPT, "restore_capitals": False, "max_new_tokens": 12}
    with safe_open(folder / "model.safetensors", "pt") as f:
        keys = set(f.keys())
    parts = {key.split(".")[0] for key in keys}
    if family == "llava":  # the names of llava-hf/llava-1.5-7b-hf
        assert parts == {"language_model", "multi_modal_projector", "vision_tower"}
        assert {"language_model.lm_head.weight", "language_model.model.norm.weight"} < keys
        assert all(key.startswith("vision_tower.vision_model.") for key in keys if key.startswith("vision_tower"))
    else:  # those of Qwen/Qwen2.5-VL-7B-Instruct, and of the 3B, which has no head of its own
        assert parts == {"model", "visual"} | ({"lm_head"} if family == "qwen" else set())
        assert {"model.norm.weight", "visual.merger.mlp.0.weight"} < keys


def test_a_picture_is_read_at_its_stored_size(family: str, policy: Policy) -> None:
    """One token per 28 x 28 pixels of Qwen's; LLaVA always reads one square."""
    batch = encode_prompts(policy, pictures(*SIZES))
    image = policy.model.config.image_token_id
    tokens = (batch["input_ids"] == image).sum(dim=1).tolist()
    assert tokens == ([16, 16, 16] if family == "llava" else [3 * 2, 2 * 4, 3 * 4])
    text = policy.processor.tokenizer.decode(batch["input_ids"][0]).replace("<image>", "<|image_pad|>")
    assert text.count("<|image_pad|>") == tokens[0] and text.index("<|image_pad|>") < text.index(twins.PROMPT)
    assert text.endswith("ASSISTANT:" if family == "llava" else "<|im_start|>assistant\n")
    assert policy.model(**batch).logits.shape[:2] == batch["input_ids"].shape


def test_captions_depend_on_picture_and_seed_alone(policy: Policy) -> None:
    images = pictures(*SIZES)
    whole = ask(policy, images, batch_size=3)
    assert ask(policy, images, batch_size=1) == whole and len(set(whole)) == 3
    assert ask(policy, images, batch_size=3, seed=1) != whole


def test_trl_tokenizes_as_we_do(policy: Policy) -> None:
    processor: Any = policy.processor
    images = pictures(*SIZES)
    ours = encode_prompts(policy, images)
    messages = [prepare_multimodal_messages(chat_prompt(policy), images=[image]) for image in images]
    asked = {"add_generation_prompt": True, "tokenize": True, "return_dict": True, "padding": True}
    assert processor.apply_chat_template(messages, **asked)["input_ids"] == ours["input_ids"].tolist()
    texts = [apply_chat_template({"prompt": message}, processor)["prompt"] for message in messages]
    again = processor(images=[[image] for image in images], text=texts, padding=True, return_tensors="pt")
    bos = processor.tokenizer.bos_token_id
    assert [[t for t in row if t != bos] for row in again["input_ids"].tolist()] == [
        [t for t in row if t != bos] for row in ours["input_ids"].tolist()
    ]
    assert torch.equal(again["pixel_values"], ours["pixel_values"])


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_no_placeholder_is_ever_sampled(policy: Policy, temperature: float) -> None:
    forbidden = forbidden_tokens(policy)
    tokenizer = policy.processor.tokenizer
    places = {tokenizer.convert_tokens_to_ids(t) for t in ("<image>", "<|image_pad|>", "<|video_pad|>")}
    assert set(forbidden) == places - {tokenizer.unk_token_id}
    head = policy.model.get_output_embeddings()
    bias = torch.zeros(head.weight.shape[0])
    bias[forbidden] = 1e4
    head.register_forward_hook(lambda _module, _inputs, out: out + bias)
    drawn: list[int] = []
    decode = tokenizer.decode
    tokenizer.decode = lambda ids, **kw: drawn.extend(ids) or decode(ids, **kw)  # type: ignore[func-returns-value]
    ask(policy, pictures(*SIZES), temperature=temperature)
    assert drawn and not set(drawn) & set(forbidden)


def test_what_the_repository_recommends_does_not_bend_the_samples(family: str, folder: Path) -> None:
    """Qwen's generation_config.json asks for a repetition penalty; whoever says nothing would get it."""
    told = json.loads((folder / "generation_config.json").read_text())
    assert ("repetition_penalty" in told) == (family != "llava")
    policy = load_policy(folder)
    plain = policy.model.generation_config
    assert plain.repetition_penalty is None and plain.temperature is None and plain.do_sample
    ends = plain.eos_token_id
    assert set(ends if isinstance(ends, list) else [ends]) >= {policy.processor.tokenizer.eos_token_id}
    images = pictures((56, 56))
    first = ask(policy, images, temperature=0.0, max_new_tokens=30)
    policy.model.generation_config = GenerationConfig(eos_token_id=ends, pad_token_id=0, suppress_tokens=None)
    assert ask(policy, images, temperature=0.0, max_new_tokens=30) == first


def test_a_caption_ends_at_any_end_token(family: str, policy: Policy) -> None:
    tokenizer = policy.processor.tokenizer
    ids = tokenizer("A red car.", add_special_tokens=False)["input_ids"]
    for end in ("</s>",) if family == "llava" else ("<|im_end|>", "<|endoftext|>"):
        caption = to_caption(policy, [*ids, tokenizer.convert_tokens_to_ids(end), *ids])
        assert (caption.text, caption.truncated) == ("A red car.", False)
    assert to_caption(policy, ids).truncated


def test_round_trip_keeps_captions_and_bytes(policy: Policy, tmp_path: Path) -> None:
    images = pictures(*SIZES)
    said = ask(policy, images)
    save_policy(policy, tmp_path / "one")
    loaded = load_policy(tmp_path / "one")
    ours, theirs = policy.model.state_dict(), loaded.model.state_dict()
    assert set(ours) == set(theirs) and all(torch.equal(ours[key], theirs[key]) for key in ours)
    assert ask(loaded, images) == said
    save_policy(loaded, tmp_path / "two")
    one, two = ({p.name: p.read_bytes() for p in (tmp_path / name).iterdir()} for name in ("one", "two"))
    assert one == two
    assert not any(str(tmp_path).encode() in content for content in one.values())


def test_an_export_is_what_its_repository_holds(family: str, folder: Path, tmp_path: Path) -> None:
    """Same names of weights, and the settings of the processor where every stock reader finds them."""
    save_policy(load_policy(folder), tmp_path / "out")
    with safe_open(folder / "model.safetensors", "pt") as a, safe_open(tmp_path / "out/model.safetensors", "pt") as b:
        assert set(a.keys()) == set(b.keys())
        assert all(torch.equal(a.get_tensor(key), b.get_tensor(key)) for key in a.keys())  # noqa: SIM118
    _, info = AutoModelForImageTextToText.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    if family == "llava":
        stock = AutoProcessor.from_pretrained(tmp_path / "out")
        assert stock.num_additional_image_tokens == 1 and stock.image_processor.crop_size["height"] == 56
    else:  # stock needs torchvision, tests/serving has it
        settings = json.loads((tmp_path / "out/preprocessor_config.json").read_text())
        assert settings["processor_class"] == "Qwen2_5_VLProcessor"
        assert settings["image_processor_type"] == "Qwen2VLImageProcessor"
        assert settings["size"] == {"shortest_edge": 4 * 28 * 28, "longest_edge": 64 * 28 * 28}
        assert not (tmp_path / "out/processor_config.json").exists()


def test_the_tower_is_frozen_and_the_projector_is_not(family: str, policy: Policy) -> None:
    freeze(policy.model, TOWER[family])
    trained = {name for name, p in policy.model.named_parameters() if p.requires_grad}
    projector = "model.multi_modal_projector." if family == "llava" else "model.visual.merger."
    assert any(name.startswith(projector) for name in trained)
    rest = {".".join(name.split(".")[:2]) for name in trained if not name.startswith(projector)}
    assert rest == {"model.language_model"} | (set() if family == "qwen-tied" else {"lm_head.weight"})
