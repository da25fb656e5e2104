"""An OpenAI-compatible endpoint that answers a judge's calls from the truth of drawn pictures.

    balcap serve oracle                      reads data/images, listens on 127.0.0.1:8731
    balcap serve oracle --fail 0.05          answers out of form to 5 % of the questions, always the same ones

The whole path of a language model (prompts, schemas, client, cache, failures) runs against it, with verdicts that are
exact. It reads what stands on the wire and nothing else: the kind of call from the name of the schema, the caption from
the JSON object of the user's message, the scene from the picture's bytes.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable
from random import Random
from typing import Any

from aiohttp import web

from balcap.judge.answers import LONGEST_ASSERTION
from balcap.records import Sample
from balcap.scenes import Scene, answer, clean_sentences, covered, marks, parse, pointable, say, verified

MODEL = "oracle"
OUT_OF_FORM = ("I am sorry, I cannot judge this caption.", '{"assertions":[{"t":"The', '{"verdict":"good"}')


class Unseen(ValueError):
    """A picture of which nothing is known."""


class Oracle:
    """The truth of all given pictures, by their stored bytes."""

    def __init__(self, samples: Iterable[Sample], fail: float = 0.0) -> None:
        self.fail = fail
        self.scenes = {_digest(s.image): Scene.from_json(s.meta["scene"]) for s in samples if "scene" in s.meta}

    def say(self, body: dict[str, Any]) -> str:
        """The content of the answer.

        Raises ``KeyError`` or ``ValueError`` for a call that no judge makes, :class:`Unseen` for an unknown picture.
        """
        kind = body["response_format"]["json_schema"]["name"]
        picture, text = _read(body["messages"][-1]["content"])
        if (broken := self._broken(kind, text)) is not None:
            return broken
        said = json.loads(text)
        caption = said["caption"] if "caption" in said else self._seen(picture)
        if kind == "precision":
            return _json({"assertions": self._assertions(self._scene(picture), caption)})
        if kind == "recall":
            known = covered(tuple(said["units"].values()), caption)
            return _json({"covered": [int(n) for n, yes in zip(said["units"], known, strict=True) if yes]})
        if kind == "linguistic":
            return _json(dict(zip(("clarity", "fluency", "coherency"), marks(caption), strict=True)))
        return _json({"answer": _letter(said, caption)})

    def _assertions(self, scene: Scene, caption: str) -> list[dict[str, Any]]:
        return [
            {"t": say(atom)[:LONGEST_ASSERTION], "v": int(verified(atom, scene)), "p": int(pointable(atom))}
            for atom in parse(caption).atoms()
        ]

    def _scene(self, picture: bytes) -> Scene:
        found = self.scenes.get(_digest(picture))
        if found is None:
            raise Unseen("this picture is not among those that the oracle was started with")
        return found

    def _seen(self, picture: bytes) -> str:
        """All that can be said of the picture; nothing without one."""
        return " ".join(clean_sentences(self._scene(picture), Random(0), 60)) if picture else ""

    def _broken(self, kind: str, text: str) -> str | None:
        """One of the answers out of form for a share ``fail`` of the questions, chosen by their hash."""
        number = int.from_bytes(hashlib.sha256(f"{kind} {text}".encode()).digest()[:8], "big")
        return OUT_OF_FORM[number % len(OUT_OF_FORM)] if number < self.fail * 2**64 else None


def make_app(oracle: Oracle) -> web.Application:
    """The endpoint: chat completions, the list of models, health."""

    async def completions(request: web.Request) -> web.Response:
        body = await request.json()
        try:
            said = oracle.say(body)
        except Unseen as error:
            return web.json_response({"error": {"message": str(error)}}, status=400)
        except (KeyError, ValueError, TypeError) as error:
            return web.json_response({"error": {"message": f"not a judge's call: {error!r}"}}, status=400)
        return web.json_response(_completion(said, body))

    async def models(_: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": MODEL, "object": "model"}]})

    async def health(_: web.Request) -> web.Response:
        return web.Response()

    app = web.Application(client_max_size=64 * 2**20)
    app.add_routes(
        [web.post("/v1/chat/completions", completions), web.get("/v1/models", models), web.get("/health", health)]
    )
    return app


def _completion(said: str, body: dict[str, Any]) -> dict[str, Any]:
    """Usage counts words: an oracle has no tokens."""
    asked = sum(len(_read(message["content"])[1].split()) for message in body["messages"])
    words = len(said.split())
    return {
        "object": "chat.completion",
        "model": MODEL,
        "choices": [{"index": 0, "message": {"role": "assistant", "content": said}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": asked, "completion_tokens": words, "total_tokens": asked + words},
    }


def _read(content: str | list[dict[str, Any]]) -> tuple[bytes, str]:
    """Bytes of the picture (empty without one) and the text of a message."""
    if isinstance(content, str):
        return b"", content
    url = next(part["image_url"]["url"] for part in content if part["type"] == "image_url")
    text = next(part["text"] for part in content if part["type"] == "text")
    return base64.b64decode(url.partition(",")[2]), text


def _letter(said: dict[str, Any], caption: str) -> str:
    """The letter of the option that the caption supports; the last one says that there is none."""
    letters, options = list(said["options"]), tuple(said["options"].values())[:-1]
    return letters[answer(said["question"], options, caption, 0)]


def _digest(picture: bytes) -> bytes:
    return hashlib.sha256(picture).digest()


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
