"""Reads and writes what turns pictures and text into a captioner's input.

    processor = read_processor(folder)
    write_processor(processor, folder)

Qwen2.5-VL's own processor insists on reading videos, for which it needs torchvision. A captioner is asked about single
pictures, so ours leaves videos out, on every machine; what it writes is what the original repositories hold, and both
transformers and vLLM find their stock processor there.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoProcessor, ProcessorMixin, Qwen2_5_VLProcessor

from balcap.files import write_json

NESTED, FLAT = "processor_config.json", "preprocessor_config.json"


class ImagesOnly(Qwen2_5_VLProcessor):
    """Qwen2.5-VL's processor without its video part; transformers reads the list of parts from this signature."""

    def __init__(self, image_processor: Any = None, tokenizer: Any = None, chat_template: Any = None, **_: Any) -> None:
        self.image_token, self.video_token = "<|image_pad|>", "<|video_pad|>"
        self.image_token_id = tokenizer.convert_tokens_to_ids(self.image_token)
        self.video_token_id = tokenizer.convert_tokens_to_ids(self.video_token)
        ProcessorMixin.__init__(self, image_processor, tokenizer, chat_template=chat_template)


ImagesOnly.__name__ = Qwen2_5_VLProcessor.__name__  # the name that is written into the folder's files


def read_processor(folder: Path) -> Any:
    """The processor of a captioner folder, padding on the left as generation needs it."""
    settings: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    kind = AutoConfig.from_pretrained(folder, **settings).model_type
    reader: Any = ImagesOnly if kind == "qwen2_5_vl" else AutoProcessor
    processor = reader.from_pretrained(folder, **settings)
    processor.tokenizer.padding_side = "left"
    return processor


def write_processor(processor: Any, folder: Path) -> None:
    """Write its files; equal processors give equal bytes."""
    core = processor.tokenizer.backend_tokenizer
    core.no_padding()  # the state of the last call, not part of the tokenizer
    core.no_truncation()
    processor.save_pretrained(folder)
    if isinstance(processor, ImagesOnly):
        _flatten(folder)


def _flatten(folder: Path) -> None:
    """Settings in the file where the stock video processor looks for its own, too."""
    nested = json.loads((folder / NESTED).read_text(encoding="utf-8"))
    settings = nested["image_processor"] | {"processor_class": nested["processor_class"]}
    settings["image_processor_type"] = settings["image_processor_type"].removesuffix("Pil")
    write_json(folder / FLAT, settings)
    (folder / NESTED).unlink()
