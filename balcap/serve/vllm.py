"""vLLM as a judge's endpoint on loopback: started, awaited, watched, and ended with everything that it started.

    balcap serve judge --model .work/models/SmolLM2-135M-Instruct

    setup = Setup(Path("models/judge"), name="judge", port=8732, length=8192)
    with served(setup, log=Path("judge.log"), deadline=900.0, say=print) as process:
        ...                                                                 # http://127.0.0.1:8732/v1 answers

Any program called `vllm` will do: that of `.venv-vllm` (`make vllm`, for machines without a GPU), or one on a machine
with a GPU. Where there is none, vLLM gets what it needs to run on CPU.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from balcap.processes import group
from balcap.workspace import main_checkout

HOST = "127.0.0.1"
TICK = 0.5
NEWS_SECONDS = 10.0
"""Between two lines of progress while vLLM starts."""
STOP_SECONDS = 30.0
LAST_LINES = 12
NO_VLLM = (
    "no program vllm in .venv-vllm/bin or on the PATH. Without a GPU: `make vllm`. With one: `pip install "
    "vllm==0.32.0` in an environment of its own, and name its program with --vllm"
)
ALWAYS = {
    "DO_NOT_TRACK": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
    "VLLM_MEDIA_URL_ALLOW_REDIRECTS": "0",
}
ON_CPU = {"VLLM_CPU_KVCACHE_SPACE": "1"}
"""GiB of host memory for the cache of keys and values; without it vLLM wants most of the machine's."""


class ServeError(RuntimeError):
    """vLLM cannot be started, or has ended; the message names cause and remedy."""


@dataclass(frozen=True)
class Setup:
    """What is served, and how."""

    model: Path
    """A folder as ``save_pretrained`` writes it."""
    name: str
    """Under which it is asked for; the key of ``runtime.serving``."""
    port: int
    length: int
    """Tokens of prompt and answer together."""
    vllm: Path | None = None
    """The program; None looks into .venv-vllm and then on the PATH."""
    options: tuple[str, ...] = ()
    """Further ones, passed on to ``vllm serve``."""

    @property
    def url(self) -> str:
        """As ``runtime.serving`` wants it."""
        return f"http://{HOST}:{self.port}/v1"


@contextmanager
def served(
    setup: Setup, *, log: Path, deadline: float, say: Callable[[str], object]
) -> Iterator[subprocess.Popen[bytes]]:
    """vLLM, healthy within ``deadline`` seconds; when the block ends, nothing of it is left. Output goes to ``log``.

    Raises :class:`ServeError` if the model, the program or the port cannot be had, or if vLLM ends or is late.
    """
    line = command(setup, has_gpu())
    log.parent.mkdir(parents=True, exist_ok=True)
    env = ({} if has_gpu() else ON_CPU) | dict(os.environ) | ALWAYS
    with group(line, cwd=Path.cwd(), env=env, grace=STOP_SECONDS, log=log) as process:
        await_health(process, setup, log, deadline, say)
        yield process


def command(setup: Setup, gpu: bool) -> list[str]:
    """The command line of vLLM; raises :class:`ServeError` for what can be seen to fail beforehand."""
    if not (setup.model / "config.json").is_file():
        raise ServeError(f"{setup.model}: no model there; --model wants a folder with config.json, weights, tokenizer")
    _check_port(setup.port)
    # A terse answer: no white space, which weak models else write until their limit. Sampling as the judge asks for it,
    # not as the model's folder recommends. Usage tells which tokens came from the prefix cache.
    return [
        *(str(program(setup.vllm)), "serve", str(setup.model), "--host", HOST, "--port", str(setup.port)),
        *("--served-model-name", setup.name, "--max-model-len", str(setup.length)),
        *("--limit-mm-per-prompt", json.dumps({"image": 1, "video": 0})),
        *("--structured-outputs-config", json.dumps({"backend": "xgrammar", "disable_any_whitespace": True})),
        *("--generation-config", "vllm", "--enable-prompt-tokens-details", "--uvicorn-log-level", "warning"),
        *(() if gpu else ("--enforce-eager",)),  # compiling at start costs a minute, and needs a compiler
        *setup.options,
    ]


def program(given: Path | None) -> Path:
    """The program `vllm`: the one given, that of .venv-vllm, or the first on the PATH."""
    places = [given] if given else [main_checkout() / ".venv-vllm/bin/vllm", Path(shutil.which("vllm") or "")]
    for place in places:
        if place.is_file() and os.access(place, os.X_OK):
            return place.absolute()
    raise ServeError(f"{given}: no program there; `make vllm` makes .venv-vllm/bin/vllm" if given else NO_VLLM)


def has_gpu() -> bool:
    """Whether NVIDIA's driver lists a device."""
    tool = shutil.which("nvidia-smi")
    return tool is not None and subprocess.run([tool, "-L"], capture_output=True, timeout=60).returncode == 0


def await_health(
    process: subprocess.Popen[bytes], setup: Setup, log: Path, deadline: float, say: Callable[[str], object]
) -> None:
    """Return when the server is healthy; say now and then how it gets on."""
    start = told = time.monotonic()
    while not _healthy(setup.port):
        now = time.monotonic()
        if process.poll() is not None:
            raise ServeError(f"vLLM ended with status {process.returncode} before it was healthy; {last_words(log)}")
        if now - start > deadline:
            raise ServeError(f"vLLM is not healthy after {deadline:g} s (--deadline); {last_words(log)}")
        if now - told >= NEWS_SECONDS:
            told = now
            doing = _tail(log, 1).rpartition("] ")[2][:80]
            say(f"▸ vLLM starts: {now - start:.0f} s of at most {deadline:g} s; {doing}")
        time.sleep(TICK)


def last_words(log: Path) -> str:
    """Where the log is, and its last lines."""
    return f"the end of {log}:\n{_tail(log, LAST_LINES)}"


def _tail(log: Path, lines: int) -> str:
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])


def _healthy(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://{HOST}:{port}/health", timeout=5.0) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _check_port(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise ServeError(f"port {port} of {HOST}: {error.strerror}; --port names another one") from None
