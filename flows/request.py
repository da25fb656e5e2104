"""What a run is asked to do, and the parameters that follow from it. Checked before anything starts, in well under 2 s.

request = RunRequest(recipe="embedded", overrides=["train.reward_weights.recall=2"])
params = check(checkout, request)
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Annotated

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from balcap import workspace
from balcap.params import Params, check_params, read_params
from balcap.recipes import recipe_path
from flows import _dvc, _paused
from flows._worktree import NameTaken


def _ref_name(name: str) -> str:
    # What git allows as the last part of refs/exps/…, and a folder may be called.
    if ".." in name or name.endswith((".lock", ".")):
        raise ValueError("must not contain '..' nor end with '.' or '.lock'")
    return name


class RunRequest(BaseModel):
    """Parameters of the flow; the same words as ``balcap run``."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    recipe: str | None = Field(None, description="Recipe under recipes/ to start from; otherwise params.yaml as it is.")
    overrides: tuple[str, ...] = Field((), description="Changes of parameters, key=value, as for `dvc exp run -S`.")
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w.-]{0,99}$"), AfterValidator(_ref_name)] | None = Field(
        None, description="Name of flow run, DVC experiment and MLflow parent run; otherwise one is made up."
    )
    apply: bool = Field(False, description="Write the results back into the checkout that the run was started in.")
    targets: tuple[str, ...] = Field((), description="Stages to run, with what they need; otherwise all.")
    force: bool = Field(False, description="Run the stages even if nothing changed, and replace an experiment.")
    resume: bool = Field(False, description="Go on with the paused run of this name, as it was asked then.")

    @model_validator(mode="after")
    def _resume_takes_a_name(self) -> RunRequest:
        if self.resume and (self.name is None or self.model_fields_set - {"name", "resume"}):
            raise ValueError("resume takes the name of a paused run and nothing else: it goes on as it was asked then")
        return self


def write_params(checkout: Path, request: RunRequest, target: Path) -> Params:
    """Write ``params.yaml`` as the request wants it: the recipe (or the file as it is), then the overrides, checked.

    Raises ``ParamsError`` and ``OverrideError``, naming key, value and what is allowed.
    """
    source = recipe_path(checkout, request.recipe) if request.recipe else checkout / _dvc.PARAMS
    read_params(source)  # a missing or unreadable file gets its own message
    if source != target:
        shutil.copyfile(source, target)
    _dvc.apply_overrides(target, request.overrides)
    return check_params(read_params(target), source.relative_to(checkout).as_posix())


def check(checkout: Path, request: RunRequest) -> Params:
    """Refuse what cannot work before anything runs; returns the parameters that the run would have."""
    if request.resume:
        kept = _paused.recall(checkout, str(request.name)).params
        return check_params(yaml.safe_load(kept), f"params.yaml of the paused run {request.name}")
    if request.name and not request.force:
        _refuse_taken(checkout, request.name)
    if unknown := [target for target in request.targets if target not in (there := workspace.stages(checkout))]:
        raise _dvc.DvcFault(f"no stage {', '.join(unknown)}; there are: {', '.join(there)}")
    with tempfile.TemporaryDirectory() as folder:
        return write_params(checkout, request, Path(folder) / _dvc.PARAMS)


def _refuse_taken(checkout: Path, name: str) -> None:
    if _dvc.experiments(checkout, name):
        raise NameTaken(f"an experiment called {name} exists; choose another name, or remove it: dvc exp remove {name}")
    if name in _paused.names(checkout):
        raise NameTaken(
            f"a run called {name} is paused: `balcap resume {name}` goes on with it; choose another name, or take its "
            "place with --force"
        )
