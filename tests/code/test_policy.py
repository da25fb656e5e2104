"""The captioner: tokenizers, building, keeping on disk, asking."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoProcessor, LlavaForConditionalGeneration
from trl.data_utils import apply_chat_template, prepare_multimodal_messages

from balcap.params.warmstart import TinyModel
from balcap.policy.build import build_tiny
from balcap.policy.folder import PolicyError, weights_sha256
from balcap.policy.generate import (
    Draw,
    chat_prompt,
    encode_prompts,
    forbidden_tokens,
    generate_captions,
    restore_capitals,
    to_caption,
    uniforms,
)
from balcap.policy.store import Policy, load_policy, save_policy
from balcap.policy.tokenizer import IMAGE, bpe_tokenizer, word_tokenizer

WORDS = ["a", "the", "red", "blue", "circle", "square", "sits", "at", "is", "top-left", "centre", "."]


def spec(image_size: int = 64, patch_size: int = 32, tokenizer: str = "scenes") -> TinyModel:
    return TinyModel.model_validate(
        {
            "hidden_size": 32,
            "intermediate_size": 64,
            "layers": 2,
            "heads": 2,
            "image_size": image_size,
            "patch_size": patch_size,
            "tokenizer": {"name": tokenizer, "vocab_size": 300},
        }
    )


def make_policy(seed: int = 0, **kwargs: Any) -> Policy:
    model, processor = build_tiny(spec(**kwargs), word_tokenizer(WORDS, "describe"), seed)
    return Policy(model, processor, "describe", True, 12)


def pictures(n: int, size: tuple[int, int] = (64, 64)) -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)) for _ in range(n)]


def ask(policy: Policy, images: list[Image.Image], **kwargs: float) -> list[str]:
    settings = {"temperature": 1.0, "max_new_tokens": 12, "seed": 0, "batch_size": 4} | kwargs
    return [caption.text for caption in generate_captions(policy, images, **settings)]  # type: ignore[arg-type]


def test_word_tokenizer_round_trip() -> None:
    tokenizer = word_tokenizer(WORDS, "describe it, please")
    text = "A red circle sits at the top-left. The blue square is at the centre."
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.unk_token_id not in ids and len(ids) == 16
    assert restore_capitals(str(tokenizer.decode(ids))) == text
    assert tokenizer.unk_token_id not in tokenizer("describe it, please")["input_ids"]
    assert tokenizer("giraffe")["input_ids"] == [tokenizer.unk_token_id]


def test_bpe_round_trip_of_any_text() -> None:
    tokenizer = bpe_tokenizer(["A giraffe stands near a tree.", "A castle near the sea."], 300)
    assert len(tokenizer) <= 300
    for text in ("A giraffe near the castle.", "Zürich: 5 °C, \n“naïve” 图", " spaces  kept "):
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    with pytest.raises(ValueError, match="too small"):
        bpe_tokenizer(["a"], 100)


def test_bpe_is_the_same_in_another_process() -> None:
    code = (
        "from balcap.policy.tokenizer import bpe_tokenizer as b;"
        "print(b([f'word{i % 7} and {i}' for i in range(99)], 330).backend_tokenizer.to_str())"
    )
    outs = {
        subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, timeout=120).stdout
        for _ in range(2)
    }
    assert len(outs) == 1


@pytest.mark.parametrize(("size", "patch", "tokens"), [(96, 32, 9), (128, 16, 64)])
def test_one_token_per_patch(size: int, patch: int, tokens: int) -> None:
    policy = make_policy(image_size=size, patch_size=patch)
    batch = encode_prompts(policy, pictures(2, (200, 90)))
    image = policy.model.config.image_token_id
    assert (batch["input_ids"] == image).sum(dim=1).tolist() == [tokens, tokens]
    assert batch["pixel_values"].shape == (2, 3, size, size)
    assert policy.processor.tokenizer.decode(batch["input_ids"][0]) == "<bos>" + " <image>" * tokens + " describe"
    assert policy.model(**batch).logits.shape == (2, tokens + 2, len(policy.processor.tokenizer))


def test_equal_seeds_equal_weights() -> None:
    state = torch.get_rng_state()
    one, two, other = (make_policy(seed).model.state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(one[key], two[key]) for key in one)
    assert not torch.equal(one["lm_head.weight"], other["lm_head.weight"])
    assert torch.equal(state, torch.get_rng_state())


def test_trl_messages_reach_the_model() -> None:
    """The two ways in which TRL tokenizes a prompt give the ids that we generate from."""
    policy, images = make_policy(), pictures(2)
    processor: Any = policy.processor
    ours = encode_prompts(policy, images)["input_ids"].tolist()
    messages = [prepare_multimodal_messages(chat_prompt(policy), images=[image]) for image in images]
    batched = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=True, return_dict=True)
    assert batched["input_ids"] == ours
    texts = [apply_chat_template({"prompt": message}, processor)["prompt"] for message in messages]
    again = processor(images=[[image] for image in images], text=texts, padding=True, return_tensors="pt")
    assert again["input_ids"].tolist() == ours
    assert np.allclose(np.asarray(batched["pixel_values"]), again["pixel_values"].numpy())


def test_chat_template_takes_strings_and_parts() -> None:
    processor: Any = make_policy().processor
    parts = [{"type": "image"}, {"type": "text", "text": "describe"}]
    turns = [{"role": "user", "content": parts}, {"role": "assistant", "content": "a circle."}]
    assert processor.apply_chat_template(turns) == "<bos><image>describea circle.<eos>"
    assert processor.apply_chat_template([{"role": "user", "content": "describe"}]) == "<bos>describe"


def force(policy: Policy, token: int) -> None:
    """Make one token by far the likeliest, whatever the input."""
    head = policy.model.get_output_embeddings()
    bias = torch.zeros(head.weight.shape[0])
    bias[token] = 1e4
    head.register_forward_hook(lambda _module, _inputs, out: out + bias)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_picture_token_is_never_sampled(temperature: float) -> None:
    policy = make_policy()
    image = policy.model.config.image_token_id
    force(policy, image)
    drawn: list[int] = []
    decode = policy.processor.tokenizer.decode

    def spy(ids: list[int], **kwargs: Any) -> str:
        drawn.extend(ids)
        return decode(ids, **kwargs)

    policy.processor.tokenizer.decode = spy
    ask(policy, pictures(4), temperature=temperature)
    assert drawn and image not in drawn
    assert not set(drawn) & set(forbidden_tokens(policy))


def test_truncated_means_no_end_token() -> None:
    policy = make_policy()
    force(policy, policy.processor.tokenizer.eos_token_id)
    ended = generate_captions(policy, pictures(2), temperature=1.0, max_new_tokens=5, seed=0, batch_size=2)
    assert [(c.text, c.truncated) for c in ended] == [("", False)] * 2
    policy = make_policy()
    force(policy, policy.processor.tokenizer.convert_tokens_to_ids("red"))
    cut = generate_captions(policy, pictures(1), temperature=1.0, max_new_tokens=3, seed=0, batch_size=2)
    assert [(c.text, c.truncated) for c in cut] == [("Red red red", True)]


def test_to_caption_stops_at_the_end_token() -> None:
    policy = make_policy()
    tokenizer = policy.processor.tokenizer
    ids = tokenizer("a red circle.")["input_ids"]
    caption = to_caption(policy, [*ids, tokenizer.eos_token_id, tokenizer.pad_token_id])
    assert (caption.text, caption.truncated) == ("A red circle.", False)
    assert to_caption(policy, ids).truncated


def test_captions_do_not_depend_on_the_batching() -> None:
    policy, images = make_policy(), pictures(7)
    whole = ask(policy, images, batch_size=7)
    assert ask(policy, images, batch_size=2) == whole
    assert ask(policy, images, batch_size=7, seed=1) != whole
    assert len(set(whole)) > 1


def test_draw_follows_the_distribution() -> None:
    """Frequencies of the first token against the softmax of the same logits (chi-square, 99.99 %)."""
    policy, n = make_policy(), 4000
    batch = encode_prompts(policy, pictures(1))
    with torch.no_grad():
        logits = policy.model(**batch).logits[0, -1].clone()
    logits[forbidden_tokens(policy)] = -torch.inf
    expected = torch.softmax(logits / 0.7, dim=0).numpy() * n
    draw = Draw(uniforms(5, range(n), 1), 0.7, 3)
    counts = (draw(torch.zeros(n, 3), logits.expand(n, -1)) == 0).sum(dim=0).numpy()
    allowed = expected > 0
    assert counts[~allowed].sum() == 0 and counts.sum() == n
    assert ((counts - expected)[allowed] ** 2 / expected[allowed]).sum() < 45  # 14 degrees of freedom


def test_round_trip_keeps_weights_and_bytes(tmp_path: Path) -> None:
    policy, images = make_policy(), pictures(3)
    save_policy(policy, tmp_path / "one")
    loaded = load_policy(tmp_path / "one")
    assert (loaded.prompt, loaded.restore_capitals, loaded.max_new_tokens) == ("describe", True, 12)
    ours, theirs = policy.model.state_dict(), loaded.model.state_dict()
    assert set(ours) == set(theirs) and all(torch.equal(ours[key], theirs[key]) for key in ours)
    assert ask(loaded, images) == ask(policy, images)
    save_policy(loaded, tmp_path / "two")
    one, two = ({p.name: p.read_bytes() for p in (tmp_path / name).iterdir()} for name in ("one", "two"))
    assert one == two
    assert weights_sha256(tmp_path / "one") == weights_sha256(tmp_path / "two")
    assert not any(str(tmp_path).encode() in content or b"transformers_version" in content for content in one.values())


def test_vllm_and_transformers_both_find_every_weight(tmp_path: Path) -> None:
    save_policy(make_policy(), tmp_path / "p")
    with safe_open(tmp_path / "p/model.safetensors", "pt") as f:
        tower = [key for key in f.keys() if key.startswith("vision_tower.")]  # noqa: SIM118
        assert len(tower) > 10 and all(key.startswith("vision_tower.vision_model.") for key in tower)
    info: Any = LlavaForConditionalGeneration.from_pretrained(tmp_path / "p", output_loading_info=True)[1]  # type: ignore[index]
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    assert AutoProcessor.from_pretrained(tmp_path / "p").tokenizer.encode(IMAGE) == [4]


def test_the_weights_hash_is_that_of_sha256sum(tmp_path: Path) -> None:
    save_policy(make_policy(), tmp_path / "p")
    line = "sha256sum *.safetensors | sha256sum | cut -d' ' -f1"
    out = subprocess.run(line, shell=True, cwd=tmp_path / "p", capture_output=True, text=True, check=True)
    assert weights_sha256(tmp_path / "p") == out.stdout.strip()
    file = tmp_path / "p/model.safetensors"
    save_file({key: value + 1 for key, value in load_file(file).items()}, file)
    assert weights_sha256(tmp_path / "p") != out.stdout.strip()


class Boom:
    """Leaves a trace when somebody unpickles it."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (os.mkdir, (str(self.trace),))


def test_pickled_weights_are_refused_and_never_read(tmp_path: Path) -> None:
    save_policy(make_policy(), tmp_path / "p")
    torch.save(Boom(tmp_path / "trace"), tmp_path / "p/pytorch_model.bin")
    with pytest.raises(PolicyError, match=r"pytorch_model\.bin.*safetensors"):
        load_policy(tmp_path / "p")
    (tmp_path / "p/model.safetensors").unlink()
    with pytest.raises(PolicyError, match="safetensors"):
        load_policy(tmp_path / "p")
    assert not (tmp_path / "trace").exists()


def test_incomplete_folders_are_explained(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match=r"no config\.json"):
        load_policy(tmp_path)
    save_policy(make_policy(), tmp_path / "p")
    (tmp_path / "p/balcap.json").write_text('{"prompt": 1}')
    with pytest.raises(PolicyError, match=r"balcap\.json: needs exactly prompt"):
        load_policy(tmp_path / "p")
    (tmp_path / "p/balcap.json").unlink()
    with pytest.raises(PolicyError, match="missing"):
        load_policy(tmp_path / "p")
    (tmp_path / "p/model.safetensors").unlink()
    with pytest.raises(PolicyError, match=r"no \*\.safetensors"):
        load_policy(tmp_path / "p")


def test_a_broken_file_of_weights_is_explained(tmp_path: Path) -> None:
    save_policy(make_policy(), tmp_path / "p")
    weights = tmp_path / "p/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(PolicyError, match="cannot read this captioner"):
        load_policy(tmp_path / "p")


def test_an_architecture_that_is_not_known_is_explained(tmp_path: Path) -> None:
    save_policy(make_policy(), tmp_path / "p")
    (tmp_path / "p/config.json").write_text('{"model_type": "nothing-we-know"}')
    with pytest.raises(PolicyError, match="nothing-we-know"):
        load_policy(tmp_path / "p")


def test_a_missing_weight_is_no_random_one(tmp_path: Path) -> None:
    save_policy(make_policy(), tmp_path / "p")
    weights = tmp_path / "p/model.safetensors"
    tensors = load_file(weights)
    del tensors[next(name for name in tensors if "multi_modal_projector" in name)]
    save_file(tensors, weights, metadata={"format": "pt"})
    with pytest.raises(PolicyError, match=r"1 weights .*multi_modal_projector"):
        load_policy(tmp_path / "p")


def test_a_broken_tokenizer_is_explained(tmp_path: Path) -> None:
    save_policy(make_policy(), tmp_path / "p")
    (tmp_path / "p/tokenizer.json").write_text('{"model": {"type": "Nothing"}}')
    with pytest.raises(PolicyError, match="cannot read this captioner"):
        load_policy(tmp_path / "p")
