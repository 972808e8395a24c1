"""Long steps report what they do, whoever listens."""

import logging

import pytest

from phaseloom.runs.progress_lines import log, name_step, report_progress


def test_a_report_names_the_steps_under_way_the_outermost_first(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, log.name):
        with name_step("start 1 of 2"), name_step("positions"):
            report_progress("epoch 3 of 16")
        report_progress("epoch 1 of 40")
    assert caplog.messages == [
        "start 1 of 2",
        "start 1 of 2: positions",
        "start 1 of 2: positions: epoch 3 of 16",
        "epoch 1 of 40",
    ]


def test_a_step_that_fails_is_over(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ZeroDivisionError), name_step("start 1 of 2"):
        _ = 1 / 0
    with caplog.at_level(logging.DEBUG, log.name):
        report_progress("epoch 1 of 40")
    assert caplog.messages == ["epoch 1 of 40"]


def test_nobody_hears_of_steps_unless_asked(caplog: pytest.LogCaptureFixture) -> None:
    with name_step("start 1 of 2"):
        report_progress("epoch 1 of 40")
    assert caplog.messages == []


def test_a_log_of_what_is_found_is_not_flooded(caplog: pytest.LogCaptureFixture) -> None:
    """Scripts show what the package logs at the level INFO; reports come many times a second."""
    with caplog.at_level(logging.INFO), name_step("start 1 of 2"):
        report_progress("epoch 1 of 40")
    assert caplog.messages == []
