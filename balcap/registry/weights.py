"""Small weights travel with the model version; large ones stay in DVC and are fetched, by hash, on load.

A pointer folder is the policy folder without its weights, plus ``pointer.json``: path and DVC hash of the folder, hash
of the weights. On load they are taken from the checkout if its content agrees, else from DVC's cache or remote.
"""

from __future__ import annotations

import configparser
import json
import shutil
import subprocess
import sys
from pathlib import Path

from balcap import workspace
from balcap.files import atomic_path, write_json
from balcap.policy.folder import weights_sha256

LARGEST = 200_000_000
"""Bytes of weights that are logged with the model."""
POINTER = "pointer.json"
FETCH_SECONDS = 6 * 3600.0


class WeightsError(RuntimeError):
    """Weights that a model version points to cannot be found; the message says what to do."""


def weights_bytes(folder: Path) -> int:
    """Size of all weights in a policy folder."""
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def write_pointer(policy: Path, path: str, md5: str, target: Path) -> None:
    """Write a pointer folder: ``path`` is the policy's place in the checkout, ``md5`` DVC's hash of it."""
    shutil.copytree(policy, target, ignore=shutil.ignore_patterns("*.safetensors"))
    write_json(target / POINTER, {"path": path, "md5": md5, "weights_sha256": weights_sha256(policy)})


def resolve(folder: Path) -> Path:
    """The folder that holds the weights: itself, or what its pointer leads to. Raises :class:`WeightsError`."""
    pointer = folder / POINTER
    if not pointer.exists():
        return folder
    facts: dict[str, str] = json.loads(pointer.read_text(encoding="utf-8"))
    fetched = workspace.work_root() / "weights" / facts["md5"]
    for candidate in (workspace.main_checkout() / facts["path"], fetched):
        if any(candidate.glob("*.safetensors")) and weights_sha256(candidate) == facts["weights_sha256"]:
            return candidate
    _fetch(facts["md5"], fetched)
    if weights_sha256(fetched) != facts["weights_sha256"]:
        raise WeightsError(f"{fetched}: not the weights of this model version; delete the folder and load again")
    return fetched


def _fetch(md5: str, target: Path) -> None:
    """Let DVC bring a folder by its hash into ``target``, from the checkout's cache or remote."""
    checkout = workspace.main_checkout()
    with atomic_path(target) as scratch:
        (scratch / ".dvc").mkdir(parents=True)
        (scratch / ".dvc" / "config").write_text(_config(checkout), encoding="utf-8")
        (scratch / "policy.dvc").write_text(json.dumps({"outs": [{"md5": md5, "hash": "md5", "path": "policy"}]}))
        command = [sys.executable, "-m", "dvc", "pull", "--quiet", "policy.dvc"]
        done = subprocess.run(command, cwd=scratch, capture_output=True, text=True, timeout=FETCH_SECONDS)
        if done.returncode != 0 or not (scratch / "policy").is_dir():
            raise WeightsError(
                f"the weights (DVC hash {md5}) are neither in models/, nor in DVC's cache or remote of {checkout}: "
                f"{done.stderr.strip() or 'DVC gives no reason'}"
            )
        for path in (scratch / "policy").iterdir():
            path.rename(scratch / path.name)
        (scratch / "policy").rmdir()
        (scratch / "policy.dvc").unlink()
        shutil.rmtree(scratch / ".dvc")


def _config(checkout: Path) -> str:
    """DVC's configuration of the checkout, with absolute paths, for a scratch repository without git."""
    config = configparser.ConfigParser(interpolation=None)
    config.read([checkout / ".dvc" / name for name in ("config", "config.local")], encoding="utf-8")
    for section in config.sections():
        url = config[section].get("url")
        if section.startswith(("remote", "'remote")) and url and "://" not in url:
            config[section]["url"] = str((checkout / ".dvc" / url).resolve())
    for section, key, value in (
        ("core", "no_scm", "true"),
        ("core", "analytics", "false"),
        ("cache", "dir", config.get("cache", "dir", fallback=str(checkout / ".dvc" / "cache"))),
    ):
        if not config.has_section(section):
            config.add_section(section)
        config[section][key] = str((checkout / ".dvc" / value).resolve()) if key == "dir" else value
    lines = [f"[{name}]\n" + "".join(f"    {k} = {v}\n" for k, v in config[name].items()) for name in config.sections()]
    return "".join(lines)
