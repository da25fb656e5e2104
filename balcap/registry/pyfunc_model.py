"""The captioner as an MLflow model, logged as this file ("models from code"): no pickle.

    model = mlflow.pyfunc.load_model("models:/balcap-embedded@challenger")
    model.predict([{"image": base64_of_a_png_or_jpeg}])     # -> ["A red circle sits at the top-left."]

Captions are greedy. Torch is imported when the model is loaded, not when it is logged.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlflow
from mlflow.pyfunc import PythonModel, PythonModelContext
from pydantic import BaseModel, Field

BATCH = 16


class Request(BaseModel):
    """One picture to caption."""

    image: str = Field(description="base64 of an encoded picture (PNG, JPEG, WebP)")
    max_new_tokens: int | None = Field(default=None, ge=1, le=4096, description="the captioner's own limit if absent")


class Captioner(PythonModel):
    """Loads ``artifacts["policy"]`` and captions pictures with it."""

    def load_context(self, context: PythonModelContext) -> None:
        """Load the captioner, fetching weights that are only pointed to; raises ``WeightsError``, ``PolicyError``."""
        from balcap.policy.store import load_policy
        from balcap.registry.weights import resolve

        folder = Path(context.artifacts["policy"])
        settings: dict[str, Any] = json.loads(Path(context.artifacts["settings"]).read_text(encoding="utf-8"))
        self.longest_side = int(settings["longest_side"])
        self.policy = load_policy(resolve(folder))

    def predict(self, model_input: list[Request]) -> list[str]:  # type: ignore[override]  # MLflow drops the context
        """One caption per request, in order; raises ``ValueError`` for what is no picture or too large."""
        from balcap.policy.generate import generate_captions
        from balcap.registry.pictures import from_base64

        captions = [""] * len(model_input)
        limits = {request.max_new_tokens for request in model_input}
        for limit in limits:  # almost always one
            rows = [i for i, request in enumerate(model_input) if request.max_new_tokens == limit]
            for start in range(0, len(rows), BATCH):
                part = rows[start : start + BATCH]
                images = [from_base64(model_input[i].image, self.longest_side) for i in part]
                tokens = limit or self.policy.max_new_tokens
                done = generate_captions(
                    self.policy, images, temperature=0.0, max_new_tokens=tokens, seed=0, batch_size=BATCH
                )
                for i, caption in zip(part, done, strict=True):
                    captions[i] = caption.text
        return captions


mlflow.models.set_model(Captioner())
