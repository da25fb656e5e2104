"""Weights that TRL's own code pushes, in a real vLLM: afterwards it says what the trained captioner says."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
import twins
from captions import PICTURES
from engine_world import TOKENS
from PIL import Image
from safetensors.torch import save_file
from serve_world import ROOT
from trl.generation.vllm_generation import VLLMGeneration
from vllm_world import learn, start, trainer

from balcap.policy.generate import encode_prompts, forbidden_tokens, generate_captions, to_caption
from balcap.policy.store import Policy, load_policy
from balcap.training.trainer import collapse_runs

pytestmark = pytest.mark.vllm
IN_PROCESS = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1"}


def ask(policy: Policy, pictures: list[Image.Image], folder: Path) -> None:
    """Write down what the engine is asked."""
    placeholder, prompts = policy.model.config.image_token_id, []
    for i, picture in enumerate(pictures):
        picture.save(folder / f"{i}.png")
        prompts.append(collapse_runs(encode_prompts(policy, [picture])["input_ids"][0].tolist(), placeholder))
    asked = {"prompts": prompts, "forbidden": forbidden_tokens(policy)}
    (folder / "asked.json").write_text(json.dumps(asked))


def captions(policy: Policy, pictures: list[Image.Image]) -> list[str]:
    policy.model.eval()
    said = generate_captions(policy, pictures, temperature=0.0, max_new_tokens=TOKENS, seed=0, batch_size=1)
    return [caption.text for caption in said]


@pytest.mark.parametrize("family", ["llava", "qwen"])
def test_pushed_weights_speak(family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(VLLMGeneration, "_init_vllm", start)
    made = trainer(twins.base(family, tmp_path / "base"), tmp_path / "work")
    made.judging.close()
    learn(made)
    made.vllm_generation.sync_weights()
    loaded = made.vllm_generation.llm.loaded
    save_file({f"{i:04}|{name}": t.contiguous() for i, (name, t) in enumerate(loaded)}, tmp_path / "pushed.safetensors")
    pictures = [Image.open(path).convert("RGB").resize((56, 56)) for path in PICTURES]
    ask(made.policy, pictures, tmp_path)
    command = [ROOT / ".venv-vllm/bin/python", ROOT / "tests/serving/engine_world.py", tmp_path]
    subprocess.run(command, check=True, timeout=600, env=os.environ | IN_PROCESS)
    said = json.loads((tmp_path / "said.json").read_text())
    texts = {when: [to_caption(made.policy, ids).text for ids in rows] for when, rows in said.items()}
    assert texts["before"] == captions(load_policy(tmp_path / "base"), pictures)
    assert texts["after"] == captions(made.policy, pictures) != texts["before"]
    assert texts["stale"] != texts["after"]  # why features are forgotten, too
