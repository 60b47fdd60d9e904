"""What people are told about why nodes and clusters ended."""

from __future__ import annotations

import pytest

from ropewalk.node import exits
from ropewalk.server.clusters.reasons import Ending, ending_of_exit, ending_of_signal, worker_end_reason


@pytest.mark.parametrize("started", [True, False])
def test_what_a_cloud_says_is_part_of_the_sentence(started: bool) -> None:
    said = "It used more than its 4 GiB of memory. Ask for more worker_memory."
    reason, permanent = worker_end_reason(-9, said, started=started)
    assert reason.endswith(": it used more than its 4 GiB of memory. Ask for more worker_memory.")
    assert not permanent


def test_names_in_capitals_stay_as_they_are() -> None:
    assert worker_end_reason(None, "ECS stopped it.", started=True)[0].endswith(": ECS stopped it.")


def test_our_own_exit_statuses_say_more_than_a_cloud() -> None:
    reason, permanent = worker_end_reason(exits.EXIT_CONFIG, "It ended with exit status 78.", started=False)
    assert "worker_options" in reason
    assert permanent


@pytest.mark.parametrize(
    ("code", "words"),
    [(-9, "SIGKILL"), (-15, "SIGTERM"), (-200, "signal 200"), (3, "status 3"), (None, "nobody saw why")],
)
def test_every_way_to_end_has_words(code: int | None, words: str) -> None:
    assert words in worker_end_reason(code, None, started=True)[0]


def test_a_scheduler_that_failed_is_a_failure_and_one_that_was_told_is_not() -> None:
    assert ending_of_exit(1, None, started=True).failed
    assert ending_of_exit(1, None, started=False).code == "start_failed"
    assert not ending_of_exit(0, None, started=True).failed
    assert not ending_of_exit(exits.EXIT_IDLE, None, started=True).failed


def test_an_unknown_announcement_is_still_an_orderly_end() -> None:
    assert ending_of_signal("something new", None).code == "stopped_outside"
    assert ending_of_signal("something new", "Its pod was deleted.").reason.endswith("Ropewalk. Its pod was deleted.")


@pytest.mark.parametrize("ending", [Ending.user(), Ending.start_failed("x"), ending_of_exit(-9, None, started=True)])
def test_what_is_written_down_is_read_back(ending: Ending) -> None:
    assert Ending.stored(ending.code, ending.reason) == ending
