"""Prompts: Markdown files with front matter in a folder, pinned by the sha256 of the file.

    prompt = load_prompt("recall", folder)
    prompt.system, prompt.render(units={"1": "A cat."}, caption="A dog.")

A file has the sections ``## system`` (fixed, so that a server's prefix cache keeps it) and ``## user`` (a Jinja2
template whose placeholders the front matter names). It is rendered in a sandbox, and every value enters through the
filter ``json``: what a caption contains (quotes, tags, template syntax) stays inside a JSON string.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from jinja2 import StrictUndefined, Template, Undefined, meta
from jinja2.sandbox import ImmutableSandboxedEnvironment

from balcap.hashing import sha256_text
from balcap.llm.base import Mismatch

ROOT = Path(__file__).parents[2]
SECTIONS = re.compile(
    r"\A---\n(?P<front>.*?)\n---\n## system\n\n(?P<system>.*?)\n\n## user\n\n(?P<user>.*?)\n*\Z", re.S
)


class PromptError(Mismatch):
    """A prompt file that cannot be used, or is not the pinned one; the message names file and remedy."""


@dataclass(frozen=True)
class Prompt:
    """One prompt; ``text`` is its whole file, ``sha256`` the file's."""

    name: str
    version: int
    text: str
    sha256: str
    system: str
    template: Template

    def render(self, **values: Any) -> str:
        """The user's part; raises ``jinja2.UndefinedError`` when a placeholder has no value."""
        return self.template.render(values)


def load_prompt(name: str, folder: Path) -> Prompt:
    """Read ``NAME.md``; raises :class:`PromptError` for a missing or malformed file."""
    path = folder / f"{name}.md"
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise PromptError(f"{path.name}: {error.strerror}; there are: {', '.join(names(folder))}") from None
    found = SECTIONS.match(text)
    front = yaml.safe_load(found["front"]) if found else None
    if not found or not isinstance(front, dict) or set(front) != {"name", "version", "placeholders"}:
        raise PromptError(f"{path.name}: needs front matter (name, version, placeholders), ## system and ## user")
    _check(path, front, found["user"])
    template = _sandbox().from_string(found["user"])
    return Prompt(name, front["version"], text, sha256_text(text), found["system"], template)


def verbatim(placeholder: str) -> Prompt:
    """A prompt that is nothing but one value, sent as it stands: words that somebody else chose."""
    text = f"{{{{ {placeholder} }}}}"
    return Prompt(placeholder, 1, text, sha256_text(text), "", _sandbox().from_string(text))


def names(folder: Path) -> list[str]:
    """All prompts."""
    return sorted(path.stem for path in folder.glob("*.md"))


def pinned(name: str, sha256: str, key: str, folder: Path) -> Prompt:
    """The prompt ``name`` if it is the one that the parameter ``key`` pins; raises :class:`PromptError` otherwise."""
    prompt = load_prompt(name, folder)
    if prompt.sha256 != sha256:
        path = folder / f"{name}.md"
        shown = path.relative_to(ROOT) if path.is_relative_to(ROOT) else path
        raise PromptError(
            f"{key} = {sha256[:12]}…: the file {shown} has {prompt.sha256}; another prompt gets other answers. Set "
            "the key to this value to go on with the file as it is"
        )
    return prompt


def _check(path: Path, front: Mapping[str, Any], user: str) -> None:
    used = meta.find_undeclared_variables(_sandbox().parse(user))
    if front["name"] != path.stem or used != set(front["placeholders"]):
        raise PromptError(
            f"{path.name}: front matter says name {front['name']}, placeholders {sorted(front['placeholders'])}; the "
            f"file is called {path.stem}, its template uses {sorted(used)}"
        )
    if raw := re.findall(r"{{((?:(?!\| *json *}}).)*?)}}", user, re.S):
        raise PromptError(f"{path.name}: {{{{{raw[0]}}}}} must end in '| json', so that no value breaks out")


@cache
def _sandbox() -> ImmutableSandboxedEnvironment:
    sandbox = ImmutableSandboxedEnvironment(undefined=StrictUndefined, autoescape=False)
    sandbox.filters["json"] = _json
    return sandbox


def _json(value: Any) -> str:
    if isinstance(value, Undefined):
        str(value)  # raises, and names the placeholder
    return json.dumps(value, ensure_ascii=False)
