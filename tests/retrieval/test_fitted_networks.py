"""A network that is fitted to the probe of a scan: once for scans alike, and never for another probe."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from phaseloom.data.formats import native
from phaseloom.data.scan import Scan4D
from phaseloom.errors import BadInput
from phaseloom.learning.weight_files import load_card
from phaseloom.ptycho.probes.guesses import BeamOptics
from phaseloom.reconstruction.recipe import Reconstruct
from phaseloom.retrieval import fitted_networks
from phaseloom.retrieval.fitted_networks import FITTED, choose_network, fit_network, identify_network
from phaseloom.retrieval.predict_scans import predict_scan
from phaseloom.simulation import specimens
from phaseloom.simulation.experiment import Experiment
from phaseloom.simulation.scan import simulate_scan

OPTICS = BeamOptics(semiangle=0.018, aberrations={"defocus": 80.0})


@pytest.fixture(scope="module")
def scan() -> Scan4D:
    aberrations = {"defocus": 80.0}
    own = Experiment(scan=(12, 13), step=2.2, energy=100e3, semiangle=0.018, aberrations=aberrations)
    specimen = specimens.prototypes(own.box, np.random.default_rng(9), thickness=(4.0, 8.0))
    return simulate_scan(specimen, own).scan()


@pytest.fixture
def quick(monkeypatch, tmp_path) -> Path:
    """Few scans, and a cache of the test's own."""
    monkeypatch.setattr(fitted_networks, "SCANS_FOR_ONE_PROBE", {"scans": 3, "unseen": 1})
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "phaseloom" / "networks"


@pytest.mark.medium
def test_scans_alike_share_a_network_and_others_get_their_own(scan, quick):
    said: list[str] = []
    path = fit_network(scan, OPTICS, said=said.append)
    assert path.is_relative_to(quick)
    assert [line[:7] for line in said] == ["fitting"]
    experiment = load_card(path)["experiment"]
    assert experiment["energy"] == pytest.approx(100e3)
    assert experiment["step"] == pytest.approx(2.2)
    assert experiment["semiangle"] == pytest.approx(0.018)
    assert experiment["aberrations"]["defocus"] == pytest.approx(80.0)
    alike = BeamOptics(semiangle=0.018, aberrations={"defocus": 80.5})
    assert fit_network(scan, alike, said=said.append) == path
    assert len(said) == 1
    for other in ({"defocus": 95.0}, {"defocus": -80.0}, {"defocus": 80.0, "C12": 20.0, "phi12": 0.0}):
        one = fit_network(scan, BeamOptics(semiangle=0.018, aberrations=other), said=said.append)
        assert one != path
    assert len(said) == 4
    assert not list(quick.glob("fit-*"))


@pytest.mark.medium
def test_a_fit_that_fails_leaves_nothing(scan, quick, monkeypatch):
    def fail(*_: object) -> None:
        raise BadInput("box", "huge", "cannot be simulated")

    monkeypatch.setattr(fitted_networks, "fit_linear_network", fail)
    with pytest.raises(BadInput, match="cannot be simulated"):
        fit_network(scan, OPTICS)
    assert not list(quick.iterdir())


@pytest.mark.medium
def test_a_scan_is_predicted_without_a_network_at_hand(scan, quick, tmp_path):
    native.write(replace(scan, grid=(12, 13)), tmp_path / "scan.h5")
    probe = {"focused": {"semiangle": "18 mrad", "defocus": "80 A"}}
    recipe = Reconstruct.of({"file": str(tmp_path / "scan.h5"), "probe": probe})
    with pytest.raises(BadInput, match="--model fitted"):
        predict_scan(recipe, model="tiny")
    made = predict_scan(recipe, model=FITTED)
    assert made.prediction.model == FITTED
    assert made.prediction.phase.std() > 0


def test_other_names_are_those_of_files_and_of_the_package(scan):
    assert choose_network("tiny", scan, OPTICS).stem == "tiny"
    assert identify_network(FITTED) != identify_network("tiny")
    with pytest.raises(BadInput, match="did you mean"):
        choose_network("tinny", scan, OPTICS)
    with pytest.raises(BadInput, match="defocus: is not said"):
        choose_network(FITTED, scan, BeamOptics(semiangle=0.018))
