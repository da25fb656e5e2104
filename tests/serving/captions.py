"""What a served captioner says of pictures, beside what the same folder says in transformers."""

from __future__ import annotations

import base64
import io
import json
import urllib.request
from pathlib import Path

from PIL import Image
from serve_world import ROOT, Served

from balcap.policy.generate import forbidden_tokens, generate_captions, to_caption
from balcap.policy.store import Policy, load_policy

PICTURES = sorted((ROOT / "data/examples/photos/images").glob("*.jpg"))[:3]
TOKENS = 16


def both(folder: Path, server: Served, size: tuple[int, int]) -> tuple[list[str], list[str]]:
    """The likeliest captions of vLLM and of transformers.

    ``size`` is one that the processor leaves alone: with torchvision, as in vLLM, it would resize a little differently.
    """
    policy = load_policy(folder)
    pictures = [Image.open(path).convert("RGB").resize(size) for path in PICTURES]
    said = generate_captions(policy, pictures, temperature=0.0, max_new_tokens=TOKENS, seed=0, batch_size=1)
    return [ask(policy, folder.name, server, picture) for picture in pictures], [caption.text for caption in said]


def ask(policy: Policy, name: str, server: Served, picture: Image.Image) -> str:
    """One caption over the wire, of the stored pixels."""
    file = io.BytesIO()
    picture.save(file, "PNG")
    url = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
    parts = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": policy.prompt}]
    body = {
        "model": name,
        "messages": [{"role": "user", "content": parts}],
        "temperature": 0.0,
        "max_tokens": TOKENS,
        "logit_bias": {str(token): -100 for token in forbidden_tokens(policy)},
        "add_special_tokens": True,  # LLaVA's chat template leaves its <s> to the tokenizer
        "return_token_ids": True,  # bytes that are no text become text in more than one way
    }
    request = urllib.request.Request(
        f"{server.url}/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=120) as answer:
        return to_caption(policy, json.load(answer)["choices"][0]["token_ids"]).text
