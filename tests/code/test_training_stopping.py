"""SIGTERM while something is waited for: real signals, sent by the process to itself."""

from __future__ import annotations

import os
import signal

import pytest

from balcap.training.stopping import Interrupt, Sigterm


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def test_a_wait_that_nothing_cuts_returns_what_it_waited_for() -> None:
    with Sigterm() as sigterm:
        assert sigterm.cut(lambda: 3) == 3 and not sigterm.asked


def test_sigterm_cuts_a_wait_and_every_later_one() -> None:
    with Sigterm() as sigterm:
        assert sigterm.cut(terminate) is None and sigterm.asked
        assert sigterm.cut(lambda: 3) is None


def test_a_second_sigterm_does_not_escape_while_the_first_one_ends_the_wait() -> None:
    ended = []

    def wait() -> None:
        try:
            terminate()
        finally:
            terminate()
            ended.append(True)

    with Sigterm() as sigterm:
        assert sigterm.cut(wait) is None and ended == [True]


def test_what_is_said_promises_no_checkpoint_to_the_survivors_of_a_crash(capfd: pytest.CaptureFixture[str]) -> None:
    with Sigterm():
        terminate()
        terminate()
    assert capfd.readouterr().err == "SIGTERM: ending, with a checkpoint if all ranks are there to write it\n"


def test_outside_of_a_wait_it_is_noted_alone() -> None:
    with Sigterm() as sigterm:
        try:
            terminate()
        except Interrupt as error:
            raise AssertionError from error
        assert sigterm.asked
