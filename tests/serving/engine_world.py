"""A real vLLM engine in one process: what it says before and after weights are pushed into it as TRL pushes them.

    .venv-vllm/bin/python tests/serving/engine_world.py FOLDER

FOLDER holds the captioner (``base``), ``asked.json`` (prompts with one placeholder each, forbidden tokens), pictures
0.png and so on, and ``pushed.safetensors``, whose keys are NUMBER|NAME. Token ids go to FOLDER/said.json.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

TOKENS = 16


def main(folder: Path) -> None:
    import torch
    import vllm.model_executor.layers.utils as layers
    from PIL import Image
    from safetensors.torch import load_file
    from vllm import LLM, SamplingParams

    def plain(layer: Any, remove_weight: bool) -> None:
        """As on a GPU; on CPU vLLM packs weights when it has read them, and can take no others."""
        layer.cpu_linear = torch.nn.functional.linear

    layers.dispatch_cpu_unquantized_gemm = plain
    asked = json.loads((folder / "asked.json").read_text())
    engine = LLM(str(folder / "base"), dtype="float32", max_model_len=1024, enforce_eager=True)
    options = SamplingParams(temperature=0.0, max_tokens=TOKENS, logit_bias=dict.fromkeys(asked["forbidden"], -100.0))
    prompts = [
        {"prompt_token_ids": ids, "multi_modal_data": {"image": Image.open(folder / f"{i}.png")}}
        for i, ids in enumerate(asked["prompts"])
    ]

    def say() -> list[list[int]]:
        said = engine.generate(prompts, sampling_params=options, use_tqdm=False)
        return [list(one.outputs[0].token_ids) for one in said]

    before = say()
    model = engine.llm_engine.model_executor.driver_worker.model_runner.model
    for key, weight in sorted(load_file(folder / "pushed.safetensors").items()):
        model.load_weights([(key.partition("|")[2], weight)])
    engine.reset_prefix_cache()
    stale = say()
    engine.reset_prefix_cache()
    engine.llm_engine.reset_encoder_cache()
    (folder / "said.json").write_text(json.dumps({"before": before, "stale": stale, "after": say()}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
