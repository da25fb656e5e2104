"""``balcap judge …``: the judges, and what they answered.

balcap judge cache stats
balcap judge cache prune --to 500MB
balcap judge cache export answers.parquet
"""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from balcap.cli_calibrate import calibrate, check, prompts, try_
from balcap.cli_fail import fail

if TYPE_CHECKING:
    from balcap.llm.cache import AnswerCache

judge = typer.Typer(
    help="""Judges: who gives the rewards, and what they answered.

    [dim]$[/dim] balcap judge try tower.jpg --caption "A tall tower." --reference "A white tower with a red door."
    [dim]$[/dim] balcap judge calibrate --judge train    [dim]# how often it is wrong, against known truth[/dim]
    [dim]$[/dim] balcap judge check --judge train        [dim]# does the right reward move?[/dim]
    [dim]$[/dim] balcap judge cache stats                [dim]# answers that are paid for already[/dim]
    """,
    no_args_is_help=True,
    rich_markup_mode="rich",
)
cache = typer.Typer(
    help="""Stored answers of language models: what is stored is never asked again.

    The raw answer to every call is kept in one SQLite file, .work/judge/answers.sqlite of the main checkout
    (BALCAP_WORK moves .work), shared by all runs and processes. A key covers everything that an answer depends on:
    judge and revision, model, picture, prompt, caption. So nothing in it goes stale: another prompt or judge asks anew,
    another way of scoring asks nothing. All three commands are safe while a run works.

    [dim]$[/dim] balcap judge cache stats
    [dim]$[/dim] balcap judge cache prune --to 500MB         [dim]# least recently used first[/dim]
    [dim]$[/dim] balcap judge cache export answers.parquet   [dim]# key, kind, image_id, answer[/dim]
    """,
    no_args_is_help=True,
    rich_markup_mode="rich",
)
judge.add_typer(cache, name="cache")
judge.command()(calibrate)
judge.command()(check)
judge.command("try")(try_)
judge.command()(prompts)

File = Annotated[Path | None, typer.Option("--file", help="Another cache than .work/judge/answers.sqlite.")]
UNITS = {"": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9}
HEADER = b"SQLite format 3\0"


@cache.command()
def stats(file: File = None, as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False) -> None:
    """Show how many answers are stored, per kind of call, and what they take.

    [dim]$[/dim] balcap judge cache stats
    [dim]$[/dim] balcap judge cache stats --json | jq .kinds
    """
    with _opened(file) as answers:
        found = answers.stats()
    if as_json:
        print(json.dumps({name: found[name] for name in ("path", "bytes", "answers", "pictures", "kinds")}))
        return
    print(f"{found['path']}\n{size(found['bytes'])} on disk, {found['pictures']:,} pictures\n")
    print("\n".join(table(found)))


@cache.command()
def prune(
    to: Annotated[str, typer.Option("--to", metavar="SIZE", help="What the file may take: 500MB, 2GB, 0.")],
    file: File = None,
) -> None:
    """Delete stored answers, least recently used first, until the file is small enough.

    What is deleted is asked, and paid, again when it is needed again.

    [dim]$[/dim] balcap judge cache prune --to 500MB
    [dim]$[/dim] balcap judge cache prune --to 0             [dim]# everything[/dim]
    """
    limit = in_bytes(to)
    with _opened(file) as answers:
        removed, left = answers.prune(limit), answers.stats()
    print(f"{removed:,} answers removed; {left['answers']:,} are left, {size(left['bytes'])} on disk")


@cache.command()
def export(
    target: Annotated[Path, typer.Argument(metavar="FILE.parquet", help="Written complete, or not at all.")],
    file: File = None,
) -> None:
    """Write all stored answers to a parquet file: key, kind, image_id, answer, sorted by key.

    [dim]$[/dim] balcap judge cache export answers.parquet
    """
    with _opened(file) as answers:
        written = answers.export(target)
    print(f"{written:,} answers in {target}")


def table(found: dict[str, Any]) -> list[str]:
    """Lines of text: answers, their bytes and the mean per kind of call, with a sum."""
    total = {"answers": found["answers"], "bytes": sum(kind["bytes"] for kind in found["kinds"].values())}
    rows = [(name or "(none)", kind) for name, kind in found["kinds"].items()] + [("all", total)]
    width = max(len(name) for name, _ in [*rows, ("kind", total)])
    lines = [f"{'kind':<{width}} {'answers':>12} {'text':>10} {'mean':>10}"]
    for name, kind in rows:
        mean = size(kind["bytes"] / kind["answers"]) if kind["answers"] else "-"
        lines.append(f"{name:<{width}} {kind['answers']:>12,} {size(kind['bytes']):>10} {mean:>10}")
    return lines


def size(n: float) -> str:
    """Bytes as people read them."""
    for unit in ("GB", "MB", "kB"):
        if n >= UNITS[unit]:
            return f"{n / UNITS[unit]:.1f} {unit}"
    return f"{n:.0f} B"


def in_bytes(text: str) -> int:
    """``500MB`` as a number of bytes; ends with a message if it is none."""
    units = {unit.lower(): factor for unit, factor in UNITS.items()}
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(|kb|mb|gb)", text.strip().lower())
    if not found:
        fail(f"--to {text}: not a size; write 500MB, 2GB, 1000000 or 0", 2)
    return int(float(found[1]) * units[found[2]])


@contextmanager
def _opened(file: Path | None) -> Iterator[AnswerCache]:
    """The cache; ends with one message if there is none, or if it is something else: a file is never made or moved."""
    from balcap.llm.cache import AnswerCache
    from balcap.workspace import work_root

    path = file or work_root() / "judge" / "answers.sqlite"
    try:
        _check(path)
        answers = AnswerCache(path)
        if answers.memory:
            fail(f"{path}: cannot be opened for writing")  # the warning says why
        try:
            yield answers
        finally:
            answers.close()
    except (OSError, ValueError, sqlite3.Error) as error:
        fail(str(error))


def _check(path: Path) -> None:
    if not path.is_file():
        fail(
            f"{path}: no answers are stored there; runs whose judge is a language model store them (--file: elsewhere)"
        )
    with path.open("rb") as opened:
        if opened.read(len(HEADER)) not in (b"", HEADER):
            fail(f"{path}: no cache of answers")
