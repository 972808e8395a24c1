"""Lines of progress where no terminal shows a bar: now and then, and never for --quiet."""

import logging
import sys

import pytest

import phaseloom as pl
from benchmarks.near_field_acceptance import read_known
from benchmarks.near_field_scans import draw_case, simulate_case
from phaseloom.cli import runner
from phaseloom.cli.reconstruct import run
from phaseloom.runs import progress_lines

HOLOGRAMS = {"side": 48, "places": 4, "step": 5.0, "counts": 500.0, "fresnel": 0.09, "specimen": "star"}
HOLOGRAMS |= {"fills": False, "pixel": 1500.0, "magnification": 1.0, "distance_error": 0.0, "source": 0.0}


class Clock:
    """Seconds that pass by themselves, some with each look."""

    def __init__(self, step: float) -> None:
        self.now = 0.0
        self.step = step

    def monotonic(self) -> float:
        self.now += self.step
        return self.now


@pytest.mark.parametrize("step", [0.4, 3.0, 14.0, 40.0])
def test_lines_come_every_fifteen_seconds_or_as_reports_do(
    step: float, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(runner, "time", Clock(step))
    with runner.print_progress(quiet=False):
        for number in range(200):
            progress_lines.report_progress(f"epoch {number}")
    seconds = [float(line.split()[0]) for line in capsys.readouterr().out.splitlines()]
    assert seconds
    gaps = [later - sooner for sooner, later in zip([0.0, *seconds], seconds, strict=False)]
    assert max(gaps) <= 15 + step + 1  # printed as whole seconds
    assert min(gaps) >= 15 - 1


def test_quiet_prints_no_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(runner, "SECONDS_BETWEEN_LINES", 0.0)
    with runner.print_progress(quiet=True):
        progress_lines.report_progress("epoch 1")
    assert capsys.readouterr().out == ""


def test_the_logger_is_left_as_it_was() -> None:
    before = progress_lines.log.level, list(progress_lines.log.handlers)
    with pytest.raises(ZeroDivisionError), runner.print_progress(quiet=False):
        _ = 1 / 0
    assert (progress_lines.log.level, progress_lines.log.handlers) == before
    assert not progress_lines.log.isEnabledFor(logging.DEBUG)


@pytest.mark.slow
def test_the_start_of_a_near_field_and_its_epochs_print_what_they_do(
    tmp_path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    case = draw_case(71, **HOLOGRAMS)
    scan = read_known(case, simulate_case(case))
    monkeypatch.setattr(runner, "SECONDS_BETWEEN_LINES", 0.0)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False, raising=False)
    with runner.print_progress(quiet=False):
        job = pl.Job.begin(pl.Reconstruct.of({"epochs": 3}), tmp_path / "run", scan=scan)
    start = capsys.readouterr().out
    for step in (
        "orientation, magnification",
        "fit 1 of 5 or more, effective distance",
        "positions, direct image 1 of 2: epoch 1 of 16",
        "positions, direct image 2 of 2: epoch 1 of 16",
        "object of one material: evaluation 1 of about",
    ):
        assert f"near field: {step}" in start
    assert "beta / delta 0: evaluation 1 of about" in start
    run(job, quiet=False)
    out = capsys.readouterr().out
    assert "s: epoch 1 of 3, loss " in out
    assert "s: epoch 3 of 3, loss " in out


@pytest.mark.medium
def test_a_terminal_has_the_bar_and_no_lines(
    tmp_path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    case = draw_case(71, **HOLOGRAMS)
    scan = read_known(case, simulate_case(case))
    monkeypatch.setattr(runner, "SECONDS_BETWEEN_LINES", 0.0)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    recipe = pl.Reconstruct.of({"epochs": 2, "start": "none"})
    run(pl.Job.begin(recipe, tmp_path / "run", scan=scan), quiet=False)
    assert "epoch 1 of 2, loss" not in capsys.readouterr().out
