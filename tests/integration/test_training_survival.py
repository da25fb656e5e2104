"""Training that is killed, terminated, poisoned or left without a disk: it ends in order and goes on as if nothing was.

What is killed is killed from inside, at a micro-step chosen by number: no test depends on how fast the machine is.
"""

from __future__ import annotations

import errno
import json
import os
import pickle
import random
import re
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import survival_world
import torch
import train_world as world
from runtime_world import ALONE, runtime

from balcap.hashing import dir_md5
from balcap.policy.store import load_policy, save_policy
from balcap.records import Judgement
from balcap.training import checkpoint
from balcap.training.checkpoint import Checkpointed
from balcap.training.launch import start
from balcap.training.manifest import checkpoints, newest
from balcap.training.run import Trained, train
from balcap.training.stopping import NOTED, NotFinite, Stopped
from balcap.training.trainer import CaptionTrainer

TESTS = Path(__file__).parents[1]
STEPS = {"steps": 4, "save_every": 2}
MICRO = 4
"""Micro-steps of a phase; two make an update."""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return world.base(tmp_path_factory.mktemp("base") / "base")


def run(base: Path, work: Path, by: world.CountingJudge | None = None, **changes: Any) -> Trained:
    samples, references = world.data()
    settings = world.settings(**{**STEPS, **changes})
    return train(settings, base, samples, references, {}, work, world.Tracked(), by or world.CountingJudge())


@pytest.fixture(scope="module")
def undisturbed(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return run(base, tmp_path_factory.mktemp("undisturbed"))


def assert_same(result: Trained, other: Trained) -> None:
    assert result.history == other.history
    weights, expected = (r.policy.model.state_dict() for r in (result, other))
    assert all(value.equal(weights[name]) for name, value in expected.items())


def names(work: Path) -> list[str]:
    return [folder.name for folder in checkpoints(work)]


def at_micro_step(patch: pytest.MonkeyPatch, number: int, do: Callable[[CaptionTrainer], None]) -> None:
    """Do something inside the micro-step of that number, counted from 0 over the whole run, with its loss computed."""
    original = CaptionTrainer._compute_loss

    def loss(self: CaptionTrainer, *args: Any, **kwargs: Any) -> Any:
        found = original(self, *args, **kwargs)
        per_update = MICRO // self.updates_per_phase
        if self.state.global_step * per_update + self._step % per_update == number:
            changed = do(self)
            return found if changed is None else found * changed
        return found

    patch.setattr(CaptionTrainer, "_compute_loss", loss)


# Each line of input is a micro-step at which a child of its own is killed, or "write" for a death while it saves the
# next checkpoint, or "live" for a run to the end.
PROGRAM = """
import os, signal, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
import train_world as world
from balcap.policy.store import save_policy
from balcap.training import checkpoint
from balcap.training.run import train
from balcap.training.trainer import CaptionTrainer

work = Path(sys.argv[1])

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

def child(when):
    compute, begun = CaptionTrainer._compute_loss, []
    def loss(self, *args, **kwargs):
        if when.isdigit() and self.state.global_step * 2 + self._step % 2 == int(when):
            die()
        return compute(self, *args, **kwargs)
    CaptionTrainer._compute_loss = loss
    if when == "write":
        checkpoint.manifest.write = die
    samples, references = world.data()
    settings = world.settings(steps=8)
    judge = world.CountingJudge()
    result = train(settings, work / "base", samples, references, {}, work / "work", world.Tracked(), judge)
    save_policy(result.policy, work / "policy")
    os._exit(0)

for when in sys.argv[2:]:
    pid = os.fork()
    if pid == 0:
        child(when)
    status = os.waitpid(pid, 0)[1]
    print("ended", when, os.waitstatus_to_exitcode(status), flush=True)
"""


def test_killed_at_three_random_steps_and_while_writing_it_ends_as_if_undisturbed(tmp_path: Path) -> None:
    world.base(tmp_path / "base")
    kills = sorted(random.Random(5).sample(range(8 * MICRO), 3))
    plan = [str(kills[0]), str(kills[1]), "write", str(kills[2]), "live"]
    outputs = {}
    for name, when in (("killed", plan), ("quiet", ["live"])):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "base").symlink_to(tmp_path / "base")
        env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)]), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, str(folder), *when], env=env, capture_output=True, text=True, timeout=600
        )
        outputs[name] = [line for line in done.stdout.splitlines() if line.startswith("ended")]
        assert outputs[name] == [f"ended {w} {0 if w == 'live' else -9}" for w in when], done.stdout + done.stderr
    assert dir_md5(tmp_path / "killed/policy") == dir_md5(tmp_path / "quiet/policy")
    last = [json.loads((tmp_path / name / "work/checkpoint-16/history.json").read_text()) for name in outputs]
    assert last[0] == last[1] and [row["step"] for row in last[0]["curves"]] == list(range(1, 9))
    assert not (tmp_path / "killed/work/.partial").exists()


def terminate(_: Any = None) -> None:
    os.kill(os.getpid(), signal.SIGTERM)


WHEN = {
    "before the first update of a phase": (8, "checkpoint-4"),
    "with the first update of a phase": (9, "checkpoint-6"),  # only updates are left: the phase is finished
    "last phase": (15, "checkpoint-8"),
}


@pytest.mark.parametrize("when", WHEN)
def test_sigterm_leaves_a_checkpoint_and_the_run_goes_on(
    base: Path, undisturbed: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    number, kept = WHEN[when]
    before = signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patch, pytest.raises(Stopped, match=rf"^stopped by SIGTERM; {kept} is kept, run ag"):
        at_micro_step(patch, number, terminate)
        run(base, tmp_path)
    assert names(tmp_path)[-1] == kept and newest(tmp_path) == tmp_path / kept
    assert signal.getsignal(signal.SIGTERM) == before
    assert_same(run(base, tmp_path), undisturbed)


WAITS = {
    "captions of step 3": (2 + 2 * 4 + 2, "checkpoint-4"),
    "the look behind step 2": (2 + 2 * 4, "checkpoint-4"),
    "the last look": (2 + 2 * 4 + 2 + 2 * 4, "checkpoint-8"),
}
"""How many groups are judged before: those of the looks at the start and behind steps 2 and 4, and of the steps."""


@pytest.mark.parametrize("wait", WAITS)
def test_sigterm_ends_the_wait_for_a_judge_at_once(
    base: Path, undisturbed: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str], wait: str
) -> None:
    (before, kept), asked, woken = WAITS[wait], 0, threading.Event()

    def silent(judged: list[Judgement]) -> list[Judgement]:
        nonlocal asked
        asked += 1
        if asked == before + 1:
            terminate()
            woken.wait(120)
        return judged

    with pytest.raises(Stopped, match=f"{kept} is kept"):
        run(base, tmp_path, world.CountingJudge(silent), judge_deadline=100.0)
    woken.set()
    assert names(tmp_path)[-1] == kept
    assert capsys.readouterr().err.count(NOTED) == 1
    assert_same(run(base, tmp_path), undisturbed)


def test_sigterm_in_the_first_step_loses_nothing(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    at_micro_step(monkeypatch, 0, terminate)
    with pytest.raises(Stopped, match="nothing is lost, no step was finished"):
        run(base, tmp_path)
    assert not names(tmp_path)


def poison_gradient(trainer: CaptionTrainer) -> None:
    weight = trainer.policy.model.lm_head.weight
    hook = weight.register_hook(lambda grad: (hook.remove(), grad * float("inf"))[1])


POISON = {
    "loss": (lambda _: float("nan"), "no finite number: loss, gradient norm"),
    "gradient": (poison_gradient, "no finite number: gradient norm"),
}


@pytest.mark.parametrize("what", POISON)
def test_nan_ends_the_run_before_it_reaches_weights_or_a_checkpoint(
    base: Path, undisturbed: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    do, message = POISON[what]
    with monkeypatch.context() as patch, pytest.raises(NotFinite, match=rf"^step 4, update 1: {message}; checkpoint-4"):
        at_micro_step(patch, 12, do)  # type: ignore[arg-type]
        run(base, tmp_path)
    assert names(tmp_path) == ["checkpoint-4"]
    assert_same(run(base, tmp_path), undisturbed)


@contextmanager
def files_end_at(size: int) -> Iterator[None]:
    """No file can become larger: the system itself fails the write, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


LORA = {"rank": 2, "alpha": 4, "dropout": 0.0, "targets": ["q_proj"]}


@pytest.mark.parametrize(
    ("method", "lora"),
    [("_write_shared", None), ("_write", None), ("_finish", None), ("_write_model", LORA)],
)
def test_a_full_disk_leaves_the_older_checkpoint_and_nothing_else(
    base: Path,
    undisturbed: Trained,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    method: str,
    lora: dict[str, Any] | None,
) -> None:
    original = getattr(Checkpointed, method)

    def full(self: Checkpointed, *args: Any) -> None:
        with files_end_at(100 if self.state.global_step == 8 else -1):
            original(self, *args)

    with monkeypatch.context() as patch, pytest.raises(OSError, match="free some space and run again") as error:
        patch.setattr(Checkpointed, method, full)
        run(base, tmp_path, lora=lora)
    assert "checkpoint-4 is kept" in str(error.value) and error.value.filename == str(tmp_path / "checkpoint-8")
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-4"] and newest(tmp_path)
    if lora is None:
        assert_same(run(base, tmp_path), undisturbed)


def test_an_older_checkpoint_that_cannot_be_removed_ends_nothing(
    base: Path,
    undisturbed: Trained,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    remove = checkpoint.remove

    def held(path: Path) -> None:
        if path.name == "checkpoint-2" and path.exists():
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
        remove(path)

    monkeypatch.setattr(checkpoint, "remove", held)
    assert_same(run(base, tmp_path, save_every=1), undisturbed)
    assert names(tmp_path) == ["checkpoint-2", "checkpoint-6", "checkpoint-8"] and newest(tmp_path)
    warned = f"warning: {tmp_path / 'checkpoint-2'} could not be removed (Device or resource busy)"
    assert capsys.readouterr().err.count(warned) == 2, "each later checkpoint tries again"


def test_a_damaged_checkpoint_is_not_gone_on_from(
    base: Path, undisturbed: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(base, tmp_path)
    file = tmp_path / "checkpoint-8/optimizer.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(bytes(content))
    judge = world.CountingJudge()
    assert_same(run(base, tmp_path, judge), undisturbed)
    assert judge.groups, "steps 3 and 4 were made again"
    assert "checkpoint-8 is damaged and not used: optimizer.safetensors has another" in capsys.readouterr().err
    assert names(tmp_path) == ["checkpoint-4", "checkpoint-8"] and newest(tmp_path) == tmp_path / "checkpoint-8"


def test_a_checkpoint_holds_no_pickle_and_none_is_read(
    base: Path, undisturbed: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(base, tmp_path, steps=2)

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("something was unpickled")

    found = {
        str(p.relative_to(tmp_path / "checkpoint-4")) for p in (tmp_path / "checkpoint-4").rglob("*") if p.is_file()
    }
    own = {"optimizer.safetensors", "rank-0.safetensors", "trainer_state.json", "history.json", "manifest.json"}
    assert own <= found and all(name in own or name.startswith("policy/") for name in found)
    assert {Path(name).suffix for name in found} <= {".safetensors", ".json", ".jinja"}
    monkeypatch.setattr(torch, "load", refuse)
    monkeypatch.setattr(pickle, "Unpickler", refuse)
    assert_same(run(base, tmp_path), undisturbed)


def test_a_checkpoint_is_a_captioner_too(base: Path, tmp_path: Path) -> None:
    result = run(base, tmp_path)
    save_policy(result.policy, tmp_path / "policy")
    assert dir_md5(tmp_path / "policy") == dir_md5(tmp_path / "checkpoint-8/policy")
    assert load_policy(tmp_path / "checkpoint-8/policy").prompt == "describe"


SLOW = [pytest.param(stage, marks=pytest.mark.slow) for stage in ("zero3", "none")]


@pytest.mark.parametrize("stage", ["zero2", *SLOW])
def test_what_befalls_one_rank_ends_all_alike_and_the_run_goes_on(base: Path, tmp_path: Path, stage: str) -> None:
    (tmp_path / "base").symlink_to(base)
    there = {**ALONE, **survival_world.launch(stage)}
    start(runtime(launch=there), [str(survival_world.__file__), str(tmp_path), stage])
    ends = [json.loads((tmp_path / f"ends-{rank}.json").read_text()) for rank in range(2)]
    assert ends[0] == ends[1]
    assert ends[0]["sigterm"] == "Stopped: stopped by SIGTERM; checkpoint-4 is kept, run again to go on"
    assert re.match(r"NotFinite: step 4, update 1: no finite number: loss, .*checkpoint-4 is kept", ends[0]["nan"])
    assert "No space left on device; free some space and run again, checkpoint-4 is kept" in ends[0]["full disk"]
    assert ends[0]["quiet"] == ends[0]["again"] == "finished"
    assert dir_md5(tmp_path / "policy-quiet") == dir_md5(tmp_path / "policy-disturbed")
    assert names(tmp_path / "disturbed") == ["checkpoint-4", "checkpoint-8"] and newest(tmp_path / "disturbed")
    found = {path.suffix for path in (tmp_path / "disturbed/checkpoint-8").rglob("*") if path.is_file()}
    assert found <= {".safetensors", ".json", ".jinja"}, "no pickles, no scripts"
