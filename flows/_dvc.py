"""DVC, as the flow sees it: the plan, the state of each stage and its reason, overrides, experiments, differences.

The only file of the project that imports dvc. What it assumes of DVC's internals is pinned by
``tests/flows/test_dvc_contract.py``.

    for stage in plan(root): print(stage.name, why(root, stage.name))
"""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from dvc.exceptions import DvcException
from dvc.utils.cli_parse import to_path_overrides
from pydantic import BaseModel, ConfigDict, NonNegativeFloat, NonNegativeInt, PositiveFloat, ValidationError

from balcap.processes import GRACE
from flows._git import refs
from flows._overrides import explain

RUNNING = "Running stage '{}':"
"""What ``dvc repro`` prints when it starts a stage's command."""
PUSH = "Use `dvc push` to send your updates to remote storage."
RESTORED = "Stage '{}' is cached - skipping run, checking out outputs"
"""What it prints when the run-cache holds the result."""
PARAMS = "params.yaml"
for _name in ("dvc", "dvc_data"):  # "no hash found, it won't be created" and the like is the normal case here
    logging.getLogger(_name).setLevel(logging.ERROR)


class DvcFault(RuntimeError):
    """DVC refused; the message holds its reasons from the outermost to the innermost."""


class OverrideError(ValueError):
    """An override that cannot be applied; the message names key, value and what is allowed."""


class Hints(BaseModel):
    """Execution hints of a stage: ``meta:`` in ``dvc.yaml``."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    gpus: NonNegativeInt = 0
    """Devices that the stage's command asks for."""
    retries: NonNegativeInt = 0
    retry_delay: NonNegativeFloat = 0.0
    """Seconds before a retry."""
    timeout: PositiveFloat | None = None
    """Seconds after which the stage is ended."""
    grace: PositiveFloat = GRACE
    """Seconds between SIGTERM and SIGKILL to a stage that is ended."""


@dataclass(frozen=True)
class Out:
    """An output: its path, whether DVC's cache holds it (or git would), whether it is a metric."""

    path: str
    cached: bool
    metric: bool


@dataclass(frozen=True)
class Planned:
    """A stage in the plan. ``inputs`` are the file dependencies that no stage makes."""

    name: str
    needs: tuple[str, ...]
    desc: str
    hints: Hints
    outs: tuple[Out, ...]
    inputs: tuple[str, ...]


@dataclass(frozen=True)
class Stored:
    """An output as ``dvc.lock`` records it; ``size`` in bytes, ``files`` is None for a single file."""

    path: str
    md5: str
    size: int
    files: int | None


@contextlib.contextmanager
def _open(root: Path) -> Iterator[Any]:
    """DVC's repository object, closed again; its exceptions become :class:`DvcFault`.

    Within the block its root is the working directory: DVC names stages and files relative to that.
    """
    from dvc.repo import Repo

    with _explained(), contextlib.chdir(root), Repo(str(root)) as repo:
        yield repo


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except DvcException as error:
        reasons, cause = [str(error)], error.__cause__
        while cause is not None:
            reasons.append(str(cause))
            cause = cause.__cause__
        raise DvcFault(": ".join(reasons)) from error


def plan(root: Path, targets: Sequence[str] = ()) -> list[Planned]:
    """Stages with a command in the order in which ``dvc repro`` would take them; with ``targets``, those and what they
    need. Raises :class:`DvcFault`.
    """
    from dvc.repo.reproduce import get_active_graph, plan_repro

    with _open(root) as repo:
        graph = repo.index.graph
        wanted = [stage for target in targets for stage in repo.stage.collect(target)] or None
        made = [out.fs_path for stage in graph for out in stage.outs]
        order = plan_repro(get_active_graph(graph), wanted)
        return [_planned(repo, graph, stage, made) for stage in order if stage.cmd]


def _planned(repo: Any, graph: Any, stage: Any, made: list[str]) -> Planned:
    def relative(path: str) -> str:
        return Path(path).relative_to(repo.root_dir).as_posix()

    def is_input(dep: Any) -> bool:
        ours = dep.protocol == "local" and dep.is_in_repo and dep not in stage.params
        return ours and not any(repo.fs.isin_or_eq(dep.fs_path, out) for out in made)

    try:
        hints = Hints.model_validate(stage.meta or {})
    except ValidationError as error:
        fault = error.errors()[0]
        raise DvcFault(f"dvc.yaml: {stage.addressing}.meta.{fault['loc'][0]}: {fault['msg']}") from None
    return Planned(
        name=stage.addressing,
        needs=tuple(sorted(need.addressing for need in graph.successors(stage) if need.cmd)),
        desc=stage.desc or "",
        hints=hints,
        outs=tuple(Out(relative(out.fs_path), out.use_cache, bool(out.metric)) for out in stage.outs),
        inputs=tuple(relative(dep.fs_path) for dep in stage.deps if is_input(dep)),
    )


def why(root: Path, stage: str) -> str | None:
    """Why a stage has something to do, as a sentence; ``None`` when it has not."""
    with _open(root) as repo:
        status = repo.status(targets=[stage]).get(stage)
        if not status:
            return None
        (found,) = repo.stage.collect(stage)
        if not any(out.hash_info for out in found.outs):
            return "it has never run"
        return "; ".join(_reasons(found, status)) or "it changed"


def _reasons(stage: Any, status: list[Any]) -> Iterator[str]:
    words = {"deleted": "is missing", "modified": "changed", "new": "is new", "not in cache": "is not in the cache"}
    whole = {"changed command": "its command changed", "always changed": "it always runs"}
    for entry in status:
        if isinstance(entry, str):
            yield whole.get(entry, entry)
        else:
            for path, state in next(iter(entry.values())).items():
                if isinstance(state, Mapping):
                    yield from _changed_params(stage)
                else:
                    yield f"{path} {words.get(state, state)}"


def _changed_params(stage: Any) -> Iterator[str]:
    for dep in stage.params:
        old, new = flatten(dep.hash_info.value or {}), flatten(dep.read_params(flatten=False))
        for key in sorted(old.keys() | new.keys()):
            if old.get(key) != new.get(key):
                yield f"{key} {_value(old, key)} → {_value(new, key)}"


def _value(values: Mapping[str, Any], key: str) -> str:
    return str(values[key]) if key in values else "(none)"


def flatten(tree: Any, prefix: str = "") -> dict[str, Any]:
    """``{"a": {"b": 1}}`` as ``{"a.b": 1}``; a list is one value."""
    if not isinstance(tree, Mapping):
        return {prefix: list(tree) if isinstance(tree, tuple) else tree}
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= flatten(value, f"{prefix}.{key}" if prefix else str(key))
    return flat


def apply_overrides(path: Path, overrides: Sequence[str]) -> None:
    """Change a parameter file as ``dvc exp run -S`` does, with DVC's own function. Raises :class:`OverrideError`."""
    from dvc.utils.hydra import apply_overrides as dvc_apply
    from dvc.utils.hydra import to_hydra_overrides

    if not overrides:
        return
    by_file = to_path_overrides(overrides)
    if set(by_file) != {PARAMS}:
        raise OverrideError(f"-S {next(f for f in by_file if f != PARAMS)}: only {PARAMS} can be overridden")
    try:
        with _explained():
            parsed = to_hydra_overrides(by_file[PARAMS])
            if sweep := next((one for one in parsed if one.is_sweep_override()), None):
                raise OverrideError(f"-S {sweep.input_line}: a sweep is several runs; start one for each value")
            dvc_apply(str(path), by_file[PARAMS])
    except OverrideError:
        raise
    except Exception as error:  # the parser of overrides has exceptions of its own
        raise OverrideError(explain(path, overrides, str(error))) from None


def verdict(lines: Sequence[str]) -> str:
    """What a failed ``dvc repro`` comes down to: exit status and the command's reason, or else its last own line."""
    status = exit_status(lines)
    own = next((line for line in reversed(lines) if line and not line.startswith("ERROR: failed to reproduce")), "")
    own = next((line for line in reversed(lines) if line.startswith("error: ")), own)
    return f"exit status {status}: {own}" if status is not None else (lines[-1] if lines else "no output")


def exit_status(lines: Sequence[str]) -> int | None:
    """Exit status of the command that made ``dvc repro`` fail, from what that said."""
    found = (re.search(r"^ERROR: .*, exited with (-?\d+)$", line) for line in lines)
    return next((int(one[1]) for one in found if one), None)


def cache_dir(root: Path) -> Path:
    """Folder of the DVC cache that a checkout uses, absolute; it need not exist yet."""
    with _open(root) as repo:
        return Path(repo.cache.local_cache_dir)


def configure(root: Path, **settings: Mapping[str, str]) -> None:
    """Set options in a checkout's local (untracked) configuration: ``configure(root, cache={"dir": ...})``."""
    with _open(root) as repo, repo.config.edit("local") as config:
        for section, options in settings.items():
            config.setdefault(section, {}).update(options)


def checkout(root: Path, stages: Iterable[Planned] | None = None) -> None:
    """Bring what DVC caches (of ``stages`` only the outputs) to what it recorded; what the cache lacks is left out."""
    outs = None if stages is None else [out.path for stage in stages for out in stage.outs if out.cached]
    with _open(root) as repo:
        repo.checkout(targets=outs, force=True, allow_missing=True)


def edited(root: Path, stages: Iterable[Planned]) -> list[str]:
    """Cached outputs that are there and not as ``dvc.lock`` records them: somebody changed them by hand."""
    paths = {str(root.resolve() / out.path): out.path for stage in stages for out in stage.outs if out.cached}
    with _open(root) as repo:
        states = {paths[out.fs_path]: out.workspace_status() for out in repo.index.outs if out.fs_path in paths}
    return sorted(path for path, state in states.items() if {"modified", "new"} & set(state.values()))


def stored(root: Path, stage: str) -> list[Stored]:
    """Outputs of a stage with hash and size, from ``dvc.lock``."""
    path = root / "dvc.lock"
    lock = yaml.safe_load(path.read_text(encoding="utf-8")) if path.exists() else {}
    outs = lock.get("stages", {}).get(stage, {}).get("outs", [])
    return [Stored(out["path"], out["md5"], out.get("size", 0), out.get("nfiles")) for out in outs]


def experiments(checkout: Path, name: str) -> list[str]:
    """Refs of the experiments that have this name, whatever commit they start from."""
    return refs(checkout, f"refs/exps/*/*/{name}")


def save_experiment(root: Path, name: str, *, targets: Sequence[str], force: bool, untracked: Iterable[str]) -> None:
    """``dvc exp save`` of a checkout, with untracked files that belong to the result. One at a time per repository:
    it moves refs that all worktrees share.
    """
    with _open(root) as repo:
        repo.experiments.save(
            name=name,
            targets=list(targets) or None,
            force=force,
            include_untracked=list(untracked),
            message=f"balcap run {name}",
        )


def fetch(checkout: Path, name: str, path: str, target: Path) -> Path:
    """Copy an output of the experiment ``name``, file or folder, to ``target``. Raises :class:`DvcFault`."""
    from dvc.api import DVCFileSystem

    try:
        with _explained():
            DVCFileSystem(str(checkout), rev=experiments(checkout, name)[-1]).get(path, str(target), recursive=True)
    except OSError as error:
        raise DvcFault(f"experiment {name}: {path} is not in the cache ({error}); `dvc pull` may bring it") from None
    return target


def differences(root: Path) -> dict[str, dict[str, tuple[Any, Any]]]:
    """Parameters and metrics that differ between HEAD and the files.

    ``{"params": {key: (old, new)}, "metrics": {"file: key": (old, new)}}``
    """
    with _open(root) as repo:
        found = {"params": repo.params.diff(), "metrics": repo.metrics.diff()}
    return {
        kind: {
            key if kind == "params" else f"{file}: {key}": (change.get("old"), change.get("new"))
            for file, changes in diff.get("diff", {}).items()
            for key, change in changes.items()
        }
        for kind, diff in found.items()
    }
