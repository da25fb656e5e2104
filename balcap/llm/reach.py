"""Reaching the models that parameters name: a client of each, the cache that all runs share, and who is silent.

asking = Asking(model, revision, open_client(model, params.runtime), open_cache(), failed)
for warning in silent_models(params): ...
"""

from __future__ import annotations

import asyncio

from balcap import workspace
from balcap.llm.base import Mismatch
from balcap.llm.cache import AnswerCache
from balcap.llm.client import Client
from balcap.params import Params
from balcap.params.runtime import Runtime


def open_cache() -> AnswerCache:
    """The cache that all runs share; raises ``Mismatch`` for a file of something else."""
    try:
        return AnswerCache(workspace.work_root() / "judge" / "answers.sqlite")
    except ValueError as error:  # ForeignFile
        raise Mismatch(str(error)) from None


def open_client(model: str, runtime: Runtime) -> Client:
    """A client for ``runtime.serving``; raises ``Mismatch`` for an address that is none or a missing key."""
    try:
        return Client(model, runtime.serving[model])
    except ValueError as error:
        raise Mismatch(str(error)) from None


def silent_models(params: Params) -> list[str]:
    """For each model that ``params`` would ask and of which no endpoint answers now, what to do about it."""
    asked = params.asked_models
    found = {model: _silence(model, params.runtime) for model in set(asked.values())}
    said = [(key.partition(".")[0], found[model]) for key, model in asked.items()]
    return [f"{stage}: {why}, before that stage is reached" for stage, why in said if why]


def _silence(model: str, runtime: Runtime) -> str:
    async def ask(client: Client) -> str:
        try:
            return await unreachable(client)
        finally:
            await client.close()

    try:
        return asyncio.run(ask(open_client(model, runtime)))
    except Mismatch as error:  # its key is not in the environment
        return f"{error}; set it"


async def unreachable(client: Client) -> str:
    """Which addresses do not answer, if none does; else nothing."""
    health = await client.healthy()
    if any(health.values()):
        return ""
    return f"no endpoint of {client.model} answers ({', '.join(health)}); start it, or mend runtime.serving"
