"""What TRL's link to vLLM lacks for captioners: names, caches, the seed and, with a server, deadlines.

    with greeting(url, deadline):
        trainer = GRPOTrainer(...)                         # meets its server
    fit(trainer.vllm_generation, params.seed, deadline)    # before training starts

- **Names**: TRL pushes weights under their names in memory; vLLM looks for those of a file (``policy.store.nested``).
- **Caches**: TRL forgets prompts after a push, not the features of pictures, which old weights made (trl#7198).
- **Seed**: TRL seeds an engine in this process by its rank alone, and the engine seeds this process. It draws from the
  global generators: torch's, or numpy's with vLLM's newer runner. Ranks that share an engine must draw alike.
- **Deadlines**: TRL asks a server without any. ``deadline`` is how long the other ranks wait for the one that asks; a
  silent server gets a third of it, for TRL's threads may each ask twice before the first of them is heard.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from accelerate.utils import set_seed
from requests import RequestException, Session
from requests.adapters import HTTPAdapter
from urllib3.exceptions import ReadTimeoutError
from urllib3.util.retry import Retry

from balcap.policy.store import nested
from balcap.training.data import TrainingError

SECONDS = 60.0
"""For a server to forget its features; it is idle then."""
CONNECT_SECONDS = 10.0
AT_ONCE = 64
"""Requests that TRL sends at the same time."""


class Retries(Retry):
    """A broken connection is tried again. Silence is not: a server that hangs would get the same work twice."""

    def increment(self, *args: Any, **more: Any) -> Any:
        if isinstance(more.get("error"), ReadTimeoutError):
            raise more["error"]
        return super().increment(*args, **more)


RETRIES = Retries(total=5, backoff_factor=2, status_forcelist=(500, 502, 503), allowed_methods=None)


def fit(link: Any, seed: int, deadline: float) -> None:
    """Mend ``link`` (TRL's ``VLLMGeneration``) in place, and seed this process if the engine lives in it."""
    rename, push = link._fix_param_name_to_vllm, link.sync_weights

    def sync() -> None:
        push()
        forget_features(link)

    link._fix_param_name_to_vllm = lambda *args, **kwargs: nested(rename(*args, **kwargs))
    link.sync_weights = sync
    if link.mode == "colocate":
        set_seed(seed + link.accelerator.process_index // link.tensor_parallel_size)
    elif link.accelerator.is_main_process:
        hurry(link.vllm_client, deadline)


def forget_features(link: Any) -> None:
    """Let the engine look at every picture anew; a server is spoken to by the first rank."""
    if link.mode == "colocate":
        link.llm.llm_engine.reset_encoder_cache()
    elif link.accelerator.is_main_process:
        client = link.vllm_client
        client.session.post(f"{client.base_url}/reset_encoder_cache", timeout=SECONDS).raise_for_status()


def hurry(client: Any, deadline: float) -> None:
    """From now on every request of TRL's ``client`` ends: with its answer or with a :class:`TrainingError`."""
    session = client.session
    request = _timed(session.request, deadline)

    def explained(*args: Any, **more: Any) -> Any:
        with _named(client.base_url):
            return request(*args, **more)

    session.request = explained
    for scheme in ("http://", "https://"):
        session.mount(scheme, HTTPAdapter(max_retries=RETRIES, pool_maxsize=AT_ONCE))


@contextmanager
def greeting(url: str | None, deadline: float) -> Iterator[None]:
    """Within the block no request of this process waits for ever: TRL's client asks while it is being made."""
    kept = Session.request
    Session.request = _timed(kept, deadline)  # type: ignore[method-assign]
    try:
        with _named(url):
            yield
    finally:
        Session.request = kept  # type: ignore[method-assign]


def _timed(request: Callable[..., Any], deadline: float) -> Callable[..., Any]:
    def timed(*args: Any, **more: Any) -> Any:
        return request(*args, **{"timeout": (CONNECT_SECONDS, deadline / 3), **more})

    return timed


@contextmanager
def _named(url: str | None) -> Iterator[None]:
    """Say whose fault an error of the connection is."""
    try:
        yield
    except RequestException as error:
        raise TrainingError(
            f"runtime.rollouts.url: no answer from {url}: {error}; finished steps are kept up to the last checkpoint: "
            "look at that server's log, and run again when it answers"
        ) from error
