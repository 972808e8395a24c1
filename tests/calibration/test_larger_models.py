"""Modes and slices are added only where they explain patterns held out better."""

from types import SimpleNamespace
from typing import Any

import pytest

from phaseloom.calibration import estimators
from phaseloom.calibration.state import CalibrationState


@pytest.fixture
def state():
    nothing = SimpleNamespace(values={})
    return CalibrationState(SimpleNamespace(probe=nothing, object=nothing), semiangle=0.02, defocus=100.0)


SCAN: Any = SimpleNamespace(geometry=SimpleNamespace(wavelength=0.04))

CASES = [
    ({1: 0.94, 3: 0.95, 6: 0.96}, 1),
    ({1: 0.97, 3: 0.965, 6: 0.966}, 1),
    ({1: 1.6, 3: 1.1, 6: 1.11}, 3),
    ({1: 1.6, 3: 0.97, 6: 0.98}, 3),
    ({1: 1.6, 3: 1.3, 6: 1.1}, 6),
]
"""Loss of patterns held out with each number of modes, and the number to be taken."""


@pytest.mark.parametrize(("losses", "modes"), CASES)
def test_modes_that_explain_no_more_are_not_added(state, monkeypatch, losses, modes):
    """Losses below shot noise have no excess: six modes were taken that explained less than one."""
    monkeypatch.setattr(estimators, "select_middle", lambda scan, count: scan)
    monkeypatch.setattr(
        estimators, "run_short", lambda *args, modes, **knobs: SimpleNamespace(held=losses[modes])
    )
    assert estimators.estimate_modes(SCAN, state).state.modes == modes


@pytest.mark.parametrize(
    ("one", "two", "slices"), [(0.94, 0.96, 1), (0.97, 0.968, 1), (1.5, 1.1, 2), (1.5, 1.45, 1)]
)
def test_slices_that_explain_no_more_are_not_added(state, monkeypatch, one, two, slices):
    """Two slices 5 nm apart were taken of flat particles, which they explained worse."""
    monkeypatch.setattr(estimators, "select_middle", lambda scan, count: scan)
    losses = {1: one, 2: two}

    def run(scan, state, count, gap, epochs):
        return SimpleNamespace(held=losses[count], state=SimpleNamespace(gap=gap, defocus=state.defocus))

    monkeypatch.setattr(estimators, "_run_with_slices", run)
    assert estimators.estimate_slices(SCAN, state).state.slices == slices
