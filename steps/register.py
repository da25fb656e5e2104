"""Stage ``register``: a model version with its card, found under an alias (``balcap.registry``).

python -m steps.register
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from balcap.files import write_json
from balcap.llm.base import Mismatch
from balcap.mlflow_store import connect, experiment_name, tracking_uri
from balcap.registry.candidate import Candidate, read_candidate
from balcap.registry.ensure import REGISTRATION
from balcap.registry.prompts import name_words
from balcap.registry.version import ensure_version, move_alias
from balcap.tracking.facts import identity_tags
from steps._stage import Stage, StageError, main, stage

RUN_SECONDS = 15.0
"""How long the version's link to this run is waited for."""


def body() -> None:
    """Register ``models/policy`` and write down what was registered."""
    with stage("register") as s:
        candidate = read_candidate(Path(), s.params)
        version = publish(candidate, s)
        with tempfile.TemporaryDirectory() as folder:
            card = Path(folder) / "card.md"
            card.write_text(candidate.card, encoding="utf-8")
            s.run.artifact(card)
        with s.output(REGISTRATION) as tmp:
            write_json(tmp, candidate.registration(s.params.register_.alias))
        print(f"registered {candidate.name} version {version} as {s.params.register_.alias}")


def publish(candidate: Candidate, s: Stage) -> str:
    """Make sure that the version exists and move the alias to it; returns the version's number."""
    from mlflow.exceptions import MlflowException

    uri = tracking_uri(s.params.runtime.tracking_uri)
    try:
        client = connect(uri)
        version = ensure_version(
            client, uri, candidate, experiment_name(s.params.recipe), s.run.wait_run_id(RUN_SECONDS), identity_tags()
        )
        words = name_words(client, s.params, candidate.name, version)
        move_alias(client, candidate.name, s.params.register_.alias, version)
    except Mismatch as error:
        raise StageError(str(error)) from None
    except MlflowException as error:
        raise StageError(
            f"the model registry did not take {candidate.name}: {error}; check MLFLOW_TRACKING_URI or "
            "runtime.tracking_uri, then run again (nothing else is repeated)"
        ) from error
    s.run.tags({"model.name": candidate.name, "model.version": version, **words})
    return version


if __name__ == "__main__":
    main(body)
