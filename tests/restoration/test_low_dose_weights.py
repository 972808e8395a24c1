"""The network for phases of few electrons that comes with the package: its card, and a phase that it has not
seen."""

import numpy as np
import pytest

from benchmarks.restoring import load_file, score
from benchmarks.restoring_scans import make_files
from phaseloom.errors import BadInput
from phaseloom.restoration.apply import load_restorer, restore_files
from phaseloom.restoration.half_data_filter import filter_by_halves
from phaseloom.restoration.half_data_network import restore_by_halves


@pytest.mark.medium
def test_ptychography_of_another_simulator_is_nearer_to_the_truth_than_by_filters(tmp_path):
    """Strontium titanate with vacancies, from abTEM's potentials; none of the scans that judge."""
    pytest.importorskip("abtem")
    net, kind, _ = load_restorer("low_dose")
    make_files(tmp_path, "tune", 0)
    for dose in (250, 1000):
        one = load_file(tmp_path / f"tune-0-{dose}.npz")
        images = [one[name] for name in ("full", "first", "second")]
        restored = restore_by_halves(net, kind, *images).low[0]
        errors = [
            score(filter_by_halves(*images, spread=spread), one["truth"])["nmse"] for spread in (6.0, 1.5)
        ]
        assert score(restored, one["truth"])["nmse"] < min(errors)


def test_its_card_says_what_it_is_judged_by_and_where_it_fails():
    net, kind, card = load_restorer("low_dose")
    assert kind.name == "phase"
    assert net.plan.channels_in == 3
    assert set(card["scores"]) == {"250", "1000", "4000"}
    for scores in card["scores"].values():
        assert scores["network"]["nmse"][0] < scores["wiener"]["nmse"][0] < scores["input"]["nmse"][0]
    assert len(card["fails"]) >= 3
    assert card["commands"][0].startswith("python -m benchmarks.restoring_scans")


def test_images_without_halves_are_refused(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((40, 40), np.float32))
    with pytest.raises(BadInput, match="give run folders, not images"):
        list(restore_files([tmp_path / "x.npy"], "low_dose", tmp_path / "out"))
