"""The trainer and a colocated vLLM, without its engine: what TRL pushes into it, and what seeds its captions."""

from __future__ import annotations

import inspect
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import requests
import torch
import train_world as world
import twins
from accelerate import Accelerator
from safetensors.torch import load_file
from trl.generation import vllm_client
from trl.generation.vllm_generation import VLLMGeneration
from vllm_world import learn, start, trainer

from balcap.policy.lora import merged
from balcap.policy.store import load_policy, save_policy
from balcap.training.data import TrainingError
from balcap.training.engine import fit, greeting
from balcap.training.judging import Judging
from balcap.training.trainer import CaptionTrainer

PREFIXES = {
    "llava": {
        "model.language_model.": "language_model.model.",
        "model.vision_tower.": "vision_tower.",
        "model.multi_modal_projector.": "multi_modal_projector.",
        "lm_head.": "language_model.lm_head.",
    },
    "qwen": {
        "model.language_model.": "language_model.model.",
        "model.visual.": "visual.",
        "lm_head.": "language_model.lm_head.",
        "model.": "language_model.model.",
    },
}
"""``hf_to_vllm_mapper`` of vLLM's LlavaForConditionalGeneration and Qwen2_5_VLForConditionalGeneration (0.32)."""
LORA = {"rank": 4, "alpha": 6, "dropout": 0.0, "targets": ["q_proj", "down_proj"]}


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., CaptionTrainer]]:
    monkeypatch.setattr(VLLMGeneration, "_init_vllm", start)
    opened: list[Judging] = []

    def made(base: Path, **changes: Any) -> CaptionTrainer:
        found = trainer(base, tmp_path, **changes)
        opened.append(found.judging)
        return found

    yield made
    for judging in opened:
        judging.close()


def in_vllm(family: str, name: str) -> str:
    """What vLLM's mapper makes of a name, of whichever release of transformers."""
    for prefix, new in PREFIXES[family].items():
        if name.startswith(prefix):
            name = new + name.removeprefix(prefix)
    return name


def pushed(made: CaptionTrainer, family: str) -> dict[str, torch.Tensor]:
    """What TRL's own synchronisation puts into the engine."""
    made.vllm_generation.sync_weights()
    engine = made.vllm_generation.llm
    assert engine.forgot == ["prompts", "features"]
    found = {in_vllm(family, name): tensor for name, tensor in engine.loaded}
    assert len(found) == len(engine.loaded)
    return found


@pytest.mark.parametrize("adapted", [False, True])
@pytest.mark.parametrize("kind", twins.FAMILIES)
def test_what_is_pushed_is_what_an_export_holds(
    kind: str, adapted: bool, make: Callable[..., CaptionTrainer], tmp_path: Path
) -> None:
    """vLLM reads an export when it starts and pushed weights before each phase; both must have the names it knows."""
    family, base = kind.partition("-")[0], twins.base(kind, tmp_path / kind)
    made = make(base, lora=LORA if adapted else None)
    learn(made)
    found = pushed(made, family)
    policy = merged(load_policy(base), made.model) if adapted else made.policy
    save_policy(policy, tmp_path / "out")
    exported = {in_vllm(family, name): t for name, t in load_file(tmp_path / "out/model.safetensors").items()}
    assert set(found) == set(exported)
    assert all(torch.allclose(found[name], exported[name], atol=1e-6) for name in exported)
    before = load_file(base / "model.safetensors")
    assert any(not torch.equal(exported[in_vllm(family, name)], tensor) for name, tensor in before.items())
    tower = "vision_tower.vision_model." if family == "llava" else "visual."
    assert sum(name.startswith(tower) for name in found) > 10


def test_a_server_forgets_features_too() -> None:
    """Spoken to by the first rank alone, after the push; an answer that is no success ends the run."""
    done: list[Any] = []
    answer = SimpleNamespace(raise_for_status=lambda: done.append("looked"))
    session = SimpleNamespace(post=lambda url, timeout: done.append(url) or answer, request=None, mount=lambda *_: None)
    for main in (True, False):
        link = SimpleNamespace(
            mode="server", accelerator=SimpleNamespace(is_main_process=main), _fix_param_name_to_vllm=str,
            sync_weights=lambda: done.append("pushed"),
            vllm_client=SimpleNamespace(base_url="http://a", session=session),
        )  # fmt: skip
        fit(link, 0, 60.0)
        link.sync_weights()
    assert done == ["pushed", "http://a/reset_encoder_cache", "looked", "pushed"]


class Stalling(BaseHTTPRequestHandler):
    """A vLLM server that greets, breaks the first connection of one path, and is silent on every other."""

    server: Any

    def do_GET(self) -> None:
        self.server.asked[self.path] += 1
        if self.path == "/get_world_size" and self.server.asked[self.path] == 1:
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        answer = b'{"data": [{"id": "captioner"}], "world_size": 1}'
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def do_POST(self) -> None:
        self.server.asked[self.path] += 1
        self.server.over.wait(120)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def stalling() -> Iterator[Any]:
    server: Any = ThreadingHTTPServer(("127.0.0.1", 0), Stalling)
    server.asked, server.over, server.daemon_threads = Counter(), threading.Event(), True
    server.url = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.over.set()
    server.shutdown()
    server.server_close()


def test_a_server_that_falls_silent_ends_the_run_and_is_asked_once(
    stalling: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vllm_client, "is_vllm_available", lambda: True)
    client = vllm_client.VLLMClient(base_url=stalling.url)
    link = SimpleNamespace(
        mode="server", accelerator=SimpleNamespace(is_main_process=True), vllm_client=client,
        _fix_param_name_to_vllm=str, sync_weights=lambda: None,
    )  # fmt: skip
    fit(link, 0, 6.0)
    assert client.get_world_size() == 1 and stalling.asked["/get_world_size"] == 2, "a broken connection is tried again"
    began = time.monotonic()
    with pytest.raises(
        TrainingError, match=rf"^runtime\.rollouts\.url: no answer from {stalling.url}: .*timed out.*run again"
    ):
        client.generate([[1, 2]], features=[None])
    assert time.monotonic() - began >= 2.0 and stalling.asked["/inference/v1/generate"] == 1


def test_a_server_that_never_greets_does_not_hold_the_trainer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm_client, "is_vllm_available", lambda: True)
    kept = requests.Session.request
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        told = rf"^runtime\.rollouts\.url: no answer from {url}: .*can't be reached.*run again"
        with pytest.raises(TrainingError, match=told), greeting(url, 3.0):
            vllm_client.VLLMClient(base_url=url)
    assert requests.Session.request is kept, "other requests of the process are as they were"


def test_trl_still_forgets_prompts_alone() -> None:
    """trl#7198: when this fails, its fix is in, and ours must go."""
    source = inspect.getsource(VLLMGeneration.sync_weights)
    assert "reset_prefix_cache" in source and "reset_encoder_cache" not in source


def test_trl_still_renames_in_the_one_method_that_is_wrapped() -> None:
    assert list(inspect.signature(VLLMGeneration._fix_param_name_to_vllm).parameters) == [
        "self",
        "name",
        "extra_prefixes",
    ]
    for method in (VLLMGeneration._iter_named_params, VLLMGeneration._iter_fsdp2_params):
        source = inspect.getsource(method)
        assert source.count("self._fix_param_name_to_vllm(name") == source.count("yield name,")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return world.base(tmp_path_factory.mktemp("base") / "base")


@pytest.mark.parametrize(("rank", "parallel", "number"), [(0, 1, 0), (3, 1, 3), (2, 2, 1), (3, 2, 1)])
def test_the_run_s_seed_counts_and_ranks_of_one_engine_draw_alike(
    tiny: Path,
    make: Callable[..., CaptionTrainer],
    monkeypatch: pytest.MonkeyPatch,
    rank: int,
    parallel: int,
    number: int,
) -> None:
    monkeypatch.setattr(Accelerator, "process_index", property(lambda self: rank))
    make(tiny, parallel=parallel, seed=40)
    assert torch.initial_seed() == 40 + number


def test_vllm_is_seeded_by_rank_alone() -> None:
    """Why the trainer seeds again: when this fails, TRL hands the run's seed on."""
    source = inspect.getsource(VLLMGeneration._init_vllm)
    assert "seed=accelerator.process_index // self.tensor_parallel_size," in source
