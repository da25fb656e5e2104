"""``balcap judge calibrate | check | try | prompts``: the judges as instruments. Mounted by ``cli_judge``."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from balcap.cli_fail import fail

if TYPE_CHECKING:
    from balcap.calibration.labelled import Case
    from balcap.records import Judge

WhichJudge = Annotated[
    str,
    typer.Option(
        "--judge",
        help="oracle, lexical; train or evaluate: the one that params.yaml names there; or the URL of an endpoint.",
    ),
]
Only = Annotated[str, typer.Option(help="Rewards, with commas: recall,linguistic. What the others need is not asked.")]
TextOnly = Annotated[bool, typer.Option("--text-only", help="Of a URL: the model sees references, no pictures.")]
Photos = Annotated[
    Path | None, typer.Option(help="Folder with labelled photographs instead of drawn scenes (captions.jsonl, …).")
]
Pictures = Annotated[int, typer.Option(min=1, help="How many pictures.")]
Seed = Annotated[int, typer.Option(help="Of the drawn scenes and of the judge.")]
Deadline = Annotated[float, typer.Option(help="Seconds in which one picture's captions must be judged.")]


def calibrate(
    judge: WhichJudge = "evaluate",
    only: Only = "precision,recall,linguistic",
    text_only: TextOnly = False,
    photos: Photos = None,
    pictures: Pictures = 60,
    flip: Annotated[float, typer.Option(min=0.0, max=1.0, help="Flip this share of the verdicts on purpose.")] = 0.0,
    seed: Seed = 0,
    deadline: Deadline = 300.0,
    out: Annotated[Path, typer.Option(help="Where calibration.json and reliability.png go.")] = Path(
        ".work/calibration"
    ),
) -> None:
    """Measure a judge against known truth: error of each verdict, bias and noise of each reward.

    Drawn scenes have exact labels; photographs were labelled by people. The noise is what
    train.advantage.std_floor should be: groups that differ by less teach the judge's errors.
    Captions are put to a language model twice, past what it has answered before, to see how stable it is.

    [dim]$[/dim] balcap judge calibrate --judge oracle --flip 0.1      [dim]# finds the 10 % that are there[/dim]
    [dim]$[/dim] balcap judge calibrate --judge train --photos data/examples/photos
    [dim]$[/dim] balcap judge calibrate --judge http://127.0.0.1:8732/v1 --only recall,linguistic --pictures 100
    """
    from rich.console import Console

    from balcap.calibration.asking import afresh
    from balcap.calibration.measure import measure
    from balcap.calibration.report import praise, reward_table, std_floor, verdict, verdict_table, write_calibration
    from balcap.judge.noisy import Noisy

    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        fail(f"--out {out}: {error.strerror}")
    cases = _cases(photos, pictures, seed)
    with _chosen(judge, only, text_only, deadline) as (chosen, folder):
        first, again = (
            Noisy(one, flip, seed=seed) if flip else one for one in (chosen, afresh(chosen, folder / "again"))
        )
        measured = measure(first, cases, deadline, seed, again)
    write_calibration(out, measured)
    console = Console(width=120)
    console.print(verdict_table(measured), "", reward_table(measured), "")
    for sentence in verdict(measured) or [praise(measured)]:
        console.print(sentence, style="yellow")
    floors = ", ".join(f"{name}: {noise}" for name, noise in std_floor(measured).items())
    print(f"train.advantage.std_floor: {{{floors}}}\n{out / 'calibration.json'}\n{out / 'reliability.png'}")


def check(
    judge: WhichJudge = "evaluate",
    only: Only = "precision,recall,linguistic",
    text_only: TextOnly = False,
    photos: Photos = None,
    pictures: Pictures = 24,
    seed: Seed = 0,
    deadline: Deadline = 300.0,
) -> None:
    """Probe a judge: change reference captions in known ways and see which reward moves. Exit code 1 if a wrong one.

    Swapped colours, numbers and sides, deleted sentences, mood commentary, doubled sentences, shuffled words, and an
    instruction to the judge inside a wrong caption.

    [dim]$[/dim] balcap judge check --judge oracle
    [dim]$[/dim] balcap judge check --judge http://127.0.0.1:8732/v1 --only recall,linguistic
    """
    from rich.console import Console

    from balcap.calibration.probes import probe
    from balcap.calibration.report import probe_table, probe_verdict

    cases = _cases(photos, pictures, seed)
    with _chosen(judge, only, text_only, deadline) as (chosen, _):
        base, moved = probe(chosen, cases, deadline, seed)
    console = Console(width=140)
    console.print(probe_table(base, moved))
    if bad := probe_verdict(base, moved):
        console.print(bad, style="yellow")
        raise typer.Exit(1)
    console.print(f"No fault found on {len(cases)} pictures.")


def try_(
    picture: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="The picture.")],
    caption: Annotated[str, typer.Option(help="What a captioner says of it.")],
    reference: Annotated[str, typer.Option(help="What a good caption says; its statements are the units.")],
    judge: WhichJudge = "lexical",
    text_only: TextOnly = False,
) -> None:
    """Show one caption's verdicts, coloured: true and pointable, true only, false; units covered and missed; marks.

    [dim]$[/dim] balcap judge try tower.jpg --caption "A tall tower." --reference "A white tower. It has a red door."
    """
    from rich.console import Console

    from balcap.calibration.measure import REWARDS
    from balcap.calibration.show import shown
    from balcap.images import Rejected
    from balcap.scoring import DEADLINE_SECONDS, score

    try:
        with _chosen(judge, ",".join(REWARDS), text_only, DEADLINE_SECONDS) as (chosen, _):
            scored = score(picture, caption, reference, judge=chosen)
    except Rejected as error:
        fail(f"{picture}: {error}")
    Console(width=110).print(shown(caption, scored))


def prompts() -> None:
    """Print each prompt of judges and writers with version and sha256, as parameters pin them."""
    from balcap.collect.llm import FOLDER as WRITERS
    from balcap.judge.prompts import FOLDER as JUDGES
    from balcap.llm.prompts import load_prompt, names

    for folder in (JUDGES, WRITERS):
        for name in names(folder):
            prompt = load_prompt(name, folder)
            print(f"{name:<16} version {prompt.version}  {prompt.sha256}")


def _cases(photos: Path | None, count: int, seed: int) -> list[Case]:
    from balcap.calibration.labelled import SetError, photos_set, scenes_set

    try:
        return photos_set(photos, count) if photos else scenes_set(count, seed)
    except SetError as error:
        fail(str(error))


@contextmanager
def _chosen(name: str, rewards: str, text_only: bool, deadline: float) -> Iterator[tuple[Judge, Path]]:
    """The judge, asked for what these rewards need, and a folder for what is to be forgotten afterwards."""
    from balcap.calibration.asking import NoEndpoint, judge_at, only

    parts = _parts(rewards)
    with tempfile.TemporaryDirectory(prefix="balcap-judge-") as folder:
        try:
            if name.startswith(("http://", "https://")):
                judge: Judge = judge_at(name, parts, Path(folder), not text_only, deadline)
            else:
                judge = only(_judge(name, parts, deadline), parts)
        except NoEndpoint as error:
            fail(str(error))
        yield judge, Path(folder)


def _parts(rewards: str) -> frozenset[str]:
    """The parts of a judgement that the named rewards read."""
    from balcap.calibration.measure import REWARDS
    from balcap.rewards import REWARDS as RULES

    named = [name.strip() for name in rewards.split(",")]
    if unknown := set(named) - set(REWARDS):
        fail(f"--only {', '.join(sorted(unknown))}: some of {','.join(REWARDS)}")
    return frozenset().union(*(RULES[name].needs for name in named))


def _judge(name: str, parts: Collection[str], deadline: float) -> Judge:
    """A judge by rule, or the one that a section of params.yaml names."""
    from balcap.judge import JUDGES, make_judge
    from balcap.llm.base import Mismatch
    from balcap.params import ParamsError, load_params

    if name in JUDGES:
        return JUDGES[name]()
    if name not in ("train", "evaluate"):
        fail(f"--judge {name}: one of {', '.join(JUDGES)}, train, evaluate, or http://…/v1")
    try:
        params = load_params()
        return make_judge(getattr(params, name).judge, f"{name}.judge", params.runtime, deadline, parts)
    except (ParamsError, Mismatch) as error:
        fail(str(error))
