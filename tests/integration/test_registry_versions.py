"""Model versions in a real MLflow registry (SQLite in a temporary folder), with tiny random captioners."""

from __future__ import annotations

import base64
import io
import json
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner

from balcap import workspace
from balcap.cli import app
from balcap.mlflow_store import connect, experiment_name, tracking_uri
from balcap.policy.folder import weights_sha256
from balcap.policy.generate import generate_captions
from balcap.policy.store import load_policy
from balcap.registry import ensure_registered, weights
from balcap.registry.candidate import read_candidate
from balcap.registry.pictures import PictureError, from_base64
from balcap.registry.version import ensure_version, find_version, move_alias
from balcap.registry.weights import WeightsError, resolve, write_pointer
from steps import register as stage
from tests.integration.registry_world import ROOT, embedded, write, write_policy, write_world

NAME = "balcap-embedded"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the stages before registration leave, made once."""
    root = tmp_path_factory.mktemp("finished")
    write_world(root)
    return root


@pytest.fixture
def place(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A checkout with finished stages and an empty registry."""
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    shutil.copy(ROOT / "recipes/embedded.yaml", tmp_path / "params.yaml")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlruns/mlflow.db")
    monkeypatch.setenv("BALCAP_WORK", str(tmp_path / ".work"))
    workspace.main_checkout.cache_clear()
    yield tmp_path
    workspace.main_checkout.cache_clear()


def register(alias: str | None = None) -> str:
    """Register what lies in the checkout, as the stage does; returns the version."""
    candidate, uri = read_candidate(Path(), embedded()), tracking_uri(None)
    version = ensure_version(connect(uri), uri, candidate, experiment_name("embedded"))
    if alias:
        move_alias(connect(uri), candidate.name, alias, version)
    return version


def picture(shade: int, size: tuple[int, int] = (48, 32), kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, (shade, 200 - shade, 30)).save(buffer, kind)
    return buffer.getvalue()


def client() -> Any:
    return connect(tracking_uri(None))


def test_equal_weights_are_one_version_and_new_weights_another(place: Path) -> None:
    assert register("challenger") == "1"
    assert register() == "1"
    digest = weights_sha256("models/policy")
    first = client().get_model_version(NAME, "1")
    assert first.tags["weights_sha256"] == digest and first.tags["dvc.md5"].endswith(".dir")
    assert first.description.startswith(f"# {NAME}")
    write(place / "reports/train/summary.json", {"reward_last": 0.123})
    assert register() == "1"
    assert "0.123" in client().get_model_version(NAME, "1").description, "the card tells of the new evaluation"
    shutil.rmtree(place / "models/policy")
    write_policy(place / "models/policy", seed=2)
    assert register() == "2"
    assert client().get_model_version_by_alias(NAME, "challenger").version == 1, "registering moves no alias"
    found = find_version(client(), NAME, digest)
    assert found is not None and found.version == 1
    assert find_version(client(), NAME, "0" * 64) is None


def test_champion_is_never_moved_here(place: Path) -> None:
    version = register()
    with pytest.raises(ValueError, match="promotion"):
        move_alias(client(), NAME, "champion", version)


def test_the_registered_model_captions_base64_as_the_policy_does(place: Path) -> None:
    import mlflow

    register("challenger")
    model = mlflow.pyfunc.load_model(f"models:/{NAME}@challenger")
    pictures = [picture(shade) for shade in (10, 90, 170)]
    requests: list[dict[str, Any]] = [{"image": base64.b64encode(data).decode()} for data in pictures]
    images = [Image.open(io.BytesIO(data)).convert("RGB") for data in pictures]
    policy = load_policy("models/policy")
    expected = generate_captions(policy, images, temperature=0.0, max_new_tokens=8, seed=0, batch_size=3)
    assert model.predict(requests) == [caption.text for caption in expected]
    short = model.predict([requests[0], {**requests[1], "max_new_tokens": 2}])
    assert short[0] == expected[0].text and len(short[1].split()) <= 2
    assert str(model.metadata.signature.outputs) == "[string (required)]"
    with pytest.raises(Exception, match="base64"):
        model.predict([{"image": "%%%"}])
    with pytest.raises(Exception, match="image"):
        model.predict([{"picture": requests[0]["image"]}])


def test_an_emptied_registry_is_filled_again_without_moving_an_alias(place: Path) -> None:
    ensure_registered(Path(), embedded())
    assert not (place / "mlruns").exists(), "nothing was registered, so there is nothing to make sure of"
    write(Path("reports/register/registration.json"), read_candidate(Path(), embedded()).registration("challenger"))
    ensure_registered(Path(), embedded())
    ensure_registered(Path(), embedded())
    versions = client().search_model_versions(f"name = '{NAME}'")
    assert [v.version for v in versions] == [1]
    assert client().get_registered_model(NAME).aliases == {}
    shutil.rmtree("models/policy")
    ensure_registered(Path(), embedded())  # known: the weights are not needed
    client().delete_registered_model(NAME)
    with pytest.raises(FileNotFoundError, match="dvc checkout"):
        ensure_registered(Path(), embedded())


def test_two_registrations_at_once_make_one_version(place: Path) -> None:
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(lambda _: register(), range(2))) == ["1", "1"]
    assert len(client().search_model_versions(f"name = '{NAME}'")) == 1


def test_large_weights_are_pointed_to_and_found_again(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import mlflow

    monkeypatch.setattr(weights, "LARGEST", 1000)
    register("challenger")
    logged = mlflow.artifacts.download_artifacts(f"models:/{NAME}@challenger")
    assert not list(Path(logged).rglob("*.safetensors"))
    model = mlflow.pyfunc.load_model(f"models:/{NAME}@challenger")
    assert len(model.predict([{"image": base64.b64encode(picture(3)).decode()}])) == 1


def test_pointed_weights_come_from_the_dvc_cache_when_the_checkout_has_others(place: Path) -> None:
    candidate = read_candidate(Path(), embedded())
    write_pointer(candidate.folder, "models/policy", candidate.md5, place / "pointer")
    assert resolve(place / "pointer") == place / "models/policy"
    fill_cache(place, candidate.md5)
    shutil.rmtree(place / "models/policy")
    write_policy(place / "models/policy", seed=5)
    found = resolve(place / "pointer")
    assert found == place / ".work/weights" / candidate.md5
    assert weights_sha256(found) == candidate.weights_sha256
    shutil.rmtree(place / ".work")
    shutil.rmtree(place / ".dvc/cache")
    with pytest.raises(WeightsError, match=candidate.md5):
        resolve(place / "pointer")


def fill_cache(place: Path, md5: str) -> None:
    """Put models/policy into the DVC cache, in DVC's layout."""
    import hashlib

    rows = []
    for path in sorted((place / "models/policy").iterdir()):
        digest = hashlib.md5(path.read_bytes()).hexdigest()
        rows.append({"md5": digest, "relpath": path.name})
        target = place / ".dvc/cache/files/md5" / digest[:2] / digest[2:]
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    target = place / ".dvc/cache/files/md5" / md5[:2] / md5[2:]
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(sorted(rows, key=lambda row: row["relpath"])))
    assert hashlib.md5(target.read_bytes()).hexdigest() + ".dir" == md5


def test_the_stage_registers_moves_its_alias_and_writes_no_number(place: Path) -> None:
    shutil.copy(ROOT / "dvc.yaml", place)
    for dep in ("balcap", "steps"):
        (place / dep).symlink_to(ROOT / dep)
    stage.body()
    first = (place / "reports/register/registration.json").read_bytes()
    written = json.loads(first)
    assert written["weights_sha256"] == weights_sha256("models/policy") and written["alias"] == "challenger"
    assert set(written) == {"name", "alias", "weights_sha256", "base_weights_sha256", "card_sha256"}
    version = client().get_model_version_by_alias(NAME, "challenger")
    assert client().get_run(version.run_id).info.run_name == "register"
    assert client().get_run(version.run_id).data.tags["model.version"] == "1"
    stage.body()
    assert (place / "reports/register/registration.json").read_bytes() == first
    assert len(client().search_model_versions(f"name = '{NAME}'")) == 1


def test_the_command_prefers_the_champion_and_explains_its_errors(place: Path) -> None:
    Path("a.jpg").write_bytes(picture(5, kind="JPEG"))
    Path("b.jpg").write_text("not a picture")
    run = CliRunner().invoke
    nothing = run(app, ["caption", "a.jpg"])
    assert nothing.exit_code == 1 and "make demo" in nothing.output
    register()
    assert "no version of balcap-embedded is called champion or challenger; name one: --model 1 " in (
        run(app, ["caption", "a.jpg"]).output
    )
    register("challenger")
    shutil.rmtree(place / "models/policy")
    write_policy(place / "models/policy", seed=2)
    register()
    assert json.loads(run(app, ["caption", "--json", "a.jpg"]).stdout)["version"] == "1"
    client().set_registered_model_alias(NAME, "champion", "2")
    row = json.loads(run(app, ["caption", "--json", "a.jpg"]).stdout)
    assert row["version"] == "2" and row["image"] == "a.jpg" and row["caption"]
    assert json.loads(run(app, ["caption", "--json", "--model", "challenger", "a.jpg"]).stdout)["version"] == "1"
    lines = run(app, ["caption", "a.jpg", "a.jpg", "--model", "1"]).stdout.splitlines()
    assert len(lines) == 2 and lines[0].startswith("a.jpg: ")
    for arguments, text in (["b.jpg"], "b.jpg: not one of"), (["c.jpg"], "c.jpg: No such file"):
        failed = run(app, ["caption", "a.jpg", *arguments])
        assert failed.exit_code == 1 and text in failed.output
    assert "'9'" in run(app, ["caption", "--model", "9", "a.jpg"]).output


def test_a_picture_is_shrunk_to_what_the_captioner_learnt_from() -> None:
    assert from_base64(base64.b64encode(picture(1, (400, 200))).decode(), 96).size == (96, 48)
    assert from_base64(base64.b64encode(picture(1, (40, 20))).decode(), 96).size == (40, 20)
    with pytest.raises(PictureError, match="not one of"):
        from_base64(base64.b64encode(b"<svg/>").decode(), 96)
    with pytest.raises(PictureError, match="base64"):
        from_base64("data:image/png;base64,AAAA", 96)
