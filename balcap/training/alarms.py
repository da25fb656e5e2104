"""Alarms over a run's curves: what looks unhealthy in the steps so far. Pure; nothing here acts.

    start = mean of the first `window` steps       now = mean of the last `window` steps        (of the known values)

    dead     now > limit                           share of groups in which a reward does not differ
    spread   now <= limit * start                  spread of a reward inside groups
    unknown  now > limit                           share of captions whose reward is unknown
    masked   now < limit <= start, or 1 - now < limit <= 1 - start         share of captions behind the length mask
    length   now > limit * start, or now < start / limit                   words
    entropy  now < limit * start                   of the next token
    trade    now > start for a reward that is trained, now < start - limit for the quality of any other, trained or not

An unknown value neither sounds an alarm nor silences one. An alarm that sounded sounds again only after it was silent
for a whole window, so that none stutters at its limit.

    watch = Watch(params.train.alarms, ("precision", "recall"))
    for n in range(1, len(rows) + 1):
        for sound in watch.see(rows[:n]): print(sound)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from balcap.params.train import AlarmName, Alarms
from balcap.training.metrics import ENTROPY, QUALITY

Rows = Sequence[Mapping[str, float | None]]
Key = tuple[AlarmName, str]
"""An alarm and its subject: a reward, or "" where it is about none."""


@dataclass(frozen=True)
class Finding:
    """What one alarm measures now, whether that is beyond its limit, and the same in words."""

    bad: bool
    value: float
    words: str


@dataclass(frozen=True)
class Sound:
    """An alarm that sounds: which, about what (see :data:`Key`), in which step."""

    alarm: AlarmName
    subject: str
    step: int
    value: float
    words: str
    action: Literal["warn", "pause", "stop"]

    def __str__(self) -> str:
        return f"alarm {self.alarm} at step {self.step}: {self.words}"


class Watch:
    """Follows a run step by step; ``sounding`` holds what sounds now."""

    def __init__(self, alarms: Alarms, rewards: Sequence[str]) -> None:
        self.alarms, self.rewards = alarms, rewards
        self.sounding: dict[Key, Sound] = {}
        self._quiet: dict[Key, int] = {}
        """Steps for which an alarm that sounds was not beyond its limit."""

    def see(self, rows: Rows) -> list[Sound]:
        """The alarms that begin to sound with the last of ``rows``, which hold all steps so far."""
        fresh = []
        for key, finding in measure(rows, self.alarms, self.rewards):
            if finding is None:
                continue
            if not finding.bad:
                self._silence(key)
                continue
            self._quiet[key] = 0
            if key not in self.sounding:
                self.sounding[key] = self._sound(key, int(rows[-1]["step"] or 0), finding)
                fresh.append(self.sounding[key])
        return fresh

    def _silence(self, key: Key) -> None:
        self._quiet[key] = self._quiet.get(key, 0) + 1
        if self._quiet[key] >= self.alarms.window:
            self.sounding.pop(key, None)

    def _sound(self, key: Key, step: int, finding: Finding) -> Sound:
        words = f"{finding.words}; means of {self.alarms.window} steps"
        return Sound(*key, step, finding.value, words, self.alarms.when[key[0]].action)


def replay(rows: Rows, alarms: Alarms, rewards: Sequence[str]) -> tuple[Watch, list[Sound]]:
    """A watch that has followed all ``rows``, and everything that sounded on the way."""
    watch = Watch(alarms, rewards)
    return watch, [sound for n in range(1, len(rows) + 1) for sound in watch.see(rows[:n])]


def measure(rows: Rows, alarms: Alarms, rewards: Sequence[str]) -> Iterator[tuple[Key, Finding | None]]:
    """Each alarm that is on, by name and subject, after the last of ``rows``; ``None`` where it is unknown."""
    if len(rows) < alarms.window:
        return
    start, now = rows[: alarms.window], rows[-alarms.window :]
    for name, alarm in alarms.when.items():
        if name == "trade":
            for quality in QUALITY:
                fallen = quality.removeprefix("quality/")
                yield (name, fallen), _trade(start, now, alarm.limit, fallen, rewards)
            continue
        for subject in rewards if "{}" in COLUMNS[name] else ("",):
            change = _change(start, now, COLUMNS[name].format(subject))
            yield (name, subject), RULES[name](*change, alarm.limit, subject) if change else None


def mean(rows: Rows, column: str) -> float | None:
    """Mean of the known values of a column; ``None`` when there is none."""
    known = [value for row in rows if (value := row.get(column)) is not None and value == value]
    return sum(known) / len(known) if known else None


def _dead(_: float, now: float, limit: float, reward: str) -> Finding:
    return Finding(now > limit, now, f"{now:.1%} of the groups show no difference in {reward} (limit {limit:.1%})")


def _unknown(_: float, now: float, limit: float, reward: str) -> Finding:
    return Finding(now > limit, now, f"{reward} is unknown for {now:.1%} of the captions (limit {limit:.1%})")


def _spread(start: float, now: float, limit: float, reward: str) -> Finding:
    words = f"the spread of {reward} inside groups is {now:.3g}, {start:.3g} at the start (limit {limit:.1%} of that)"
    return Finding(start > 0.0 and now <= limit * start, now, words)


def _entropy(start: float, now: float, limit: float, _: str) -> Finding:
    words = f"the entropy of the next token is {now:.3g}, {start:.3g} at the start (limit {limit:.1%} of that)"
    return Finding(now < limit * start, now, words)


def _masked(start: float, now: float, limit: float, _: str) -> Finding:
    words = f"the length mask hits {now:.1%} of the captions, {start:.1%} at the start (limit {limit:.1%} from 0 or 1)"
    return Finding(now < limit <= start or 1.0 - now < limit <= 1.0 - start, now, words)


def _length(start: float, now: float, limit: float, _: str) -> Finding:
    words = f"captions have {now:.1f} words, {start:.1f} at the start (limit a factor of {limit:g})"
    return Finding(now > limit * start or now * limit < start, now, words)


def _trade(start: Rows, now: Rows, limit: float, fallen: str, rewards: Sequence[str]) -> Finding | None:
    """The quality ``fallen`` against the reward that rose most."""
    trained = {name: f"reward/{name}/mean" for name in rewards if name != fallen}
    changes = {name: change for name, column in trained.items() if (change := _change(start, now, column))}
    fall = _change(start, now, f"quality/{fallen}")
    if not changes or not fall:
        return None
    risen = max(changes, key=lambda name: changes[name][1] - changes[name][0])
    (before, after), (low, high) = fall, changes[risen]
    words = f"{fallen} went from {before:.3f} to {after:.3f}, and reward {risen} from {low:.3f} to {high:.3f}"
    bad = high > low and before - after > limit
    return Finding(bad, before - after, f"{words} (limit {limit:g} below the start)")


def _change(start: Rows, now: Rows, column: str) -> tuple[float, float] | None:
    before, after = mean(start, column), mean(now, column)
    return None if before is None or after is None else (before, after)


Rule = Callable[[float, float, float, str], Finding]
RULES: dict[AlarmName, Rule] = {
    "dead": _dead,
    "spread": _spread,
    "unknown": _unknown,
    "masked": _masked,
    "length": _length,
    "entropy": _entropy,
}
COLUMNS: dict[AlarmName, str] = {
    "dead": "reward/{}/dead",
    "spread": "reward/{}/group_std",
    "unknown": "reward/{}/unknown",
    "masked": "length/masked",
    "length": "length/words",
    "entropy": ENTROPY,
}
"""The column that an alarm watches; ``{}`` is each reward in turn."""
