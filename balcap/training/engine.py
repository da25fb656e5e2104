"""What TRL's link to vLLM lacks for captioners: names, caches and the seed.

    fit(trainer.vllm_generation, params.seed)        # before training starts

- **Names**: TRL pushes weights under their names in memory; vLLM looks for those of a file (``policy.store.nested``).
- **Caches**: TRL forgets prompts after a push, not the features of pictures, which old weights made (trl#7198).
- **Seed**: TRL seeds an engine in this process by its rank alone, and the engine seeds this process. It draws from the
  global generators: torch's, or numpy's with vLLM's newer runner. Ranks that share an engine must draw alike.
"""

from __future__ import annotations

from typing import Any

from accelerate.utils import set_seed

from balcap.policy.store import nested

SECONDS = 60.0
"""For a server to forget its features; it is idle then."""


def fit(link: Any, seed: int) -> None:
    """Mend ``link`` (TRL's ``VLLMGeneration``) in place, and seed this process if the engine lives in it."""
    rename, push = link._fix_param_name_to_vllm, link.sync_weights

    def sync() -> None:
        push()
        forget_features(link)

    link._fix_param_name_to_vllm = lambda *args, **kwargs: nested(rename(*args, **kwargs))
    link.sync_weights = sync
    if link.mode == "colocate":
        set_seed(seed + link.accelerator.process_index // link.tensor_parallel_size)


def forget_features(link: Any) -> None:
    """Let the engine look at every picture anew; a server is spoken to by the first rank."""
    if link.mode == "colocate":
        link.llm.llm_engine.reset_encoder_cache()
    elif link.accelerator.is_main_process:
        client = link.vllm_client
        client.session.post(f"{client.base_url}/reset_encoder_cache", timeout=SECONDS).raise_for_status()
