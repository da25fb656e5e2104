"""The picture of docs/architecture.md, held against the code: imports point one way, stages list what they use."""

from __future__ import annotations

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
RANKS = [
    {
        "params",
        "records",
        "records_io",
        "hashing",
        "files",
        "processes",
        "progress",
        "workspace",
        "recipes",
        "mlflow_store",
        "cli_fail",
    },
    {"scenes", "llm", "refusal"},
    {"images", "sources", "collect", "expectations", "judge", "rewards", "advantages", "policy"},
    {"warmstart", "training", "evaluation", "registry", "serve"},
    {"tracking", "caption", "scoring", "study"},
    {"calibration", "plan"},
    {"cli_caption", "cli_calibrate", "cli_serve"},
    {"cli_judge"},
    {"cli"},
]
SIDEWAYS = {("sources", "images"), ("training", "evaluation")}
"""Imports inside a rank that are allowed: a source decodes what it finds; training counts faults of wording as the
report does, with ``evaluation/detectors.py``, the one file of that room that the stage lists."""
BASE = RANKS[0] | {"tracking"}
"""Types, parameters, file helpers and tracking change no result: no stage lists them."""
STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]


def imported(path: Path) -> set[str]:
    """Dotted modules that a file imports anywhere, also inside functions."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative import"
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def files_of(room: str) -> list[Path]:
    """The Python files of a room (a package or a module)."""
    module = ROOT / "balcap" / f"{room}.py"
    return [module] if module.exists() else sorted((ROOT / "balcap" / room).rglob("*.py"))


def files_of_stage(stage: str) -> list[Path]:
    """A stage's own file and the files in steps/ that it shares with others; ``_stage`` changes no result."""
    own = ROOT / f"steps/{stage}.py"
    shared = {name.split(".")[1] for name in imported(own) if name.startswith("steps.")} - {"_stage"}
    return [own, *(ROOT / f"steps/{name}.py" for name in sorted(shared))]


@cache
def uses(room: str) -> frozenset[str]:
    """The other rooms that a room imports directly."""
    names = {name for path in files_of(room) for name in imported(path) if name.startswith("balcap.")}
    return frozenset({name.split(".")[1] for name in names} & all_rooms()) - {room}


@cache
def all_rooms() -> frozenset[str]:
    paths = [p for p in (ROOT / "balcap").iterdir() if p.name not in ("__init__.py", "__pycache__")]
    return frozenset(p.stem for p in paths if p.suffix == ".py" or (p.is_dir() and list(p.rglob("*.py"))))


def reach(rooms: set[str]) -> set[str]:
    """Rooms used directly or through others."""
    seen: set[str] = set()
    while rooms:
        seen |= rooms
        rooms = {used for room in rooms for used in uses(room)} - seen
    return seen


def test_every_room_has_a_rank() -> None:
    assert all_rooms() <= set().union(*RANKS)


def test_imports_point_one_way() -> None:
    rank = {room: i for i, rooms in enumerate(RANKS) for room in rooms}
    wrong = {
        (room, used)
        for room in all_rooms()
        for used in uses(room)
        if rank[used] >= rank[room] and rank[room] > 0 and (room, used) not in SIDEWAYS
    }
    assert not wrong
    assert not {(room, used) for room in RANKS[0] & all_rooms() for used in uses(room) if rank[used] > 0}


@pytest.mark.parametrize("folder", ["balcap", "steps"])
def test_upper_floors_are_not_imported(folder: str) -> None:
    above = {"balcap": ("steps", "flows", "prefect", "dvc"), "steps": ("flows", "prefect", "dvc")}[folder]
    for path in (ROOT / folder).rglob("*.py"):
        assert not {name for name in imported(path) if name.split(".")[0] in above}, path


def test_only_one_file_imports_dvc() -> None:
    found = [
        path.relative_to(ROOT).as_posix()
        for folder in ("balcap", "steps", "flows")
        for path in (ROOT / folder).rglob("*.py")
        if any(name.split(".")[0] == "dvc" for name in imported(path))
    ]
    assert found == ["flows/_dvc.py"]


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_depends_on_the_rooms_it_uses_and_no_others(stage: str) -> None:
    listed = {Path(dep).parts[1].removesuffix(".py") for dep in STAGES[stage]["deps"] if dep.startswith("balcap/")}
    direct = {name.split(".")[1] for path in files_of_stage(stage) for name in imported(path) if name[:7] == "balcap."}
    used = reach(direct & all_rooms()) - BASE
    # what a source or writer reads of the embedded world is listed as its `path`
    through_path = {"scenes"} if any("path}" in dep for dep in STAGES[stage]["deps"]) else set()
    assert listed - {"hashing"} | through_path == used | through_path


def test_stage_files_and_graph_agree() -> None:
    assert {p.stem for p in (ROOT / "steps").glob("[a-z]*.py")} == set(STAGES)
    for name, spec in STAGES.items():
        assert spec["cmd"] == f"python -m steps.{name}"
        assert {dep for dep in spec["deps"] if dep.startswith("steps/")} == {
            path.relative_to(ROOT).as_posix() for path in files_of_stage(name)
        }
        assert spec["params"][0] == name


HEAVY = ("torch", "transformers", "mlflow", "great_expectations", "prefect", "dvc", "pandas", "matplotlib")


@pytest.mark.parametrize("module", ["balcap", "balcap.params", "balcap.cli", "balcap.tracking", "steps._stage"])
def test_light_modules_import_nothing_heavy(module: str) -> None:
    code = f"import sys, {module}; print(*[name for name in {HEAVY!r} if name in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True, timeout=60)
    assert out.stdout.split() == []


def test_modules_stay_short() -> None:
    long = {
        path.relative_to(ROOT).as_posix(): lines
        for folder in ("balcap", "steps", "flows", "benchmarks")
        for path in (ROOT / folder).rglob("*.py")
        if (lines := len(path.read_text().splitlines())) > 320
    }
    assert not long


def test_locks_are_plain_pins() -> None:
    for path in (ROOT / "constraints").glob("*.txt"):
        for line in path.read_text().splitlines():
            if line and not line.startswith("#"):
                name, separator, version = line.partition("==")
                assert separator and name and version and not set(line) & set("@+/ "), line
