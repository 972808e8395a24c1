"""Every pair of options makes a model that learns, or is refused in a sentence."""

from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch

from phaseloom.compat import cdtools as CDTools
from phaseloom.errors import BadInput

torch.set_num_threads(1)

N = 12
OPTIONS: dict[str, dict[str, Any]] = {
    "modes": {"n_modes": 2},
    "object modes": {"n_obj_modes": 2},
    "OPRP": {"dm_rank": 1, "n_modes": 2},
    "full OPRP": {"dm_rank": -1, "n_modes": 3},
    "slices": {"nz": 2, "dz": 2e-7},
    "fast offsets": {"translation_scale": 3},
    "saturation": {"saturation": 200.0},
    "flat field": {"use_qe_mask": True},
    "support": {"probe_support_radius": 4},
    "Fourier crop": {"probe_fourier_crop": 2},
    "plane waves": {"fourier_probe": True},
    "defocus": {"propagation_distance": 1e-6},
    "oversampling": {"oversampling": 2},
    "odd oversampling": {"oversampling": 3},
    "Poisson": {"loss": "poisson nll"},
    "intensity": {"loss": "intensity mse"},
    "Fourier shifts": {"allow_probe_fourier_shifts": True},
    "moving beam": {"simulate_probe_translation": True},
    "finite pixels": {"simulate_finite_pixels": True},
    "exponential": {"exponentiate_obj": True},
    "phase": {"phase_only": True},
    "random phases": {"randomize_ang": 1.0},
    "padding": {"obj_padding": 3},
    "crop of the view": {"obj_view_crop": 2},
    "near field": {"near_field": True, "propagation_distance": 1e-3},
    "transmission": {"scattering_mode": "t"},
    "reflection": {"scattering_mode": "r"},
}

REFUSED = {
    frozenset({"near field", "Fourier shifts"}),
    frozenset({"near field", "moving beam"}),
    frozenset({"near field", "reflection"}),
    frozenset({"slices", "reflection"}),
}
"""What cannot be meant together."""

SAME = ("propagation_distance", "n_modes", "dm_rank", "scattering_mode")
PAIRS = [
    pair
    for pair in combinations(OPTIONS, 2)
    if not any(name in OPTIONS[pair[0]] and name in OPTIONS[pair[1]] for name in SAME)
]
"""Without those that say the same thing twice."""


ACROSS = [[0, -75e-6], [-75e-6, 0], [0, 0]]
ASIDE = [[0, -75e-6 * np.cos(0.7)], [-75e-6, 0], [0, 75e-6 * np.sin(0.7)]]
"""Detectors in the beam, and 0.7 rad beside it."""


def taken(basis: Any) -> Any:
    random = np.random.default_rng(0)
    places = np.zeros((5, 3))
    places[:, :2] = random.uniform(0, 3e-7, (5, 2))
    y, x = np.indices((N, N)) - N // 2
    light = 300 * np.exp(-(y**2 + x**2) / 8)
    flat = random.uniform(0.8, 1.0, (N, N))
    return CDTools.datasets.Ptycho2DDataset(
        places,
        random.poisson(light * flat, (5, N, N)).astype(np.uint16),
        wavelength=1e-9,
        detector_geometry={"distance": 0.1, "basis": basis},
        qe_mask=flat.astype(np.float32),
    )


@pytest.fixture(scope="module")
def datasets() -> Any:
    return taken(ACROSS), taken(ASIDE)


def made(datasets: Any, options: dict[str, Any]) -> tuple[Any, Any]:
    dataset = datasets[options.get("scattering_mode") == "r"]
    if "nz" in options:
        return CDTools.models.MultislicePtycho.from_dataset(dataset, **options), dataset
    return CDTools.models.FancyPtycho.from_dataset(dataset, **options), dataset


@pytest.mark.parametrize("pair", PAIRS, ids=" + ".join)
def test_a_pair_runs_two_epochs_or_is_refused(datasets: Any, pair: tuple[str, str]) -> None:
    options = {**OPTIONS[pair[0]], **OPTIONS[pair[1]]}
    if frozenset(pair) in REFUSED:
        with pytest.raises(BadInput, match=r"leave it out|not built"):
            made(datasets, options)
        return
    model, dataset = made(datasets, options)
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    losses = list(model.Adam_optimize(2, dataset, batch_size=3, lr=0.01))
    assert len(losses) == 2
    assert np.isfinite(losses).all()
    moved = [n for n, value in model.named_parameters() if value.requires_grad and not value.equal(before[n])]
    assert any(name.startswith("core.object") for name in moved)
    assert any(name.startswith("core.probe") for name in moved)
    assert all(value.isfinite().all() for value in model.state_dict().values())


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("how", ["LBFGS", "SGD"])
def test_an_option_goes_with_each_optimiser(datasets: Any, name: str, how: str) -> None:
    model, dataset = made(datasets, OPTIONS[name])
    if how == "LBFGS" and name == "fast offsets":
        model.translation_offsets.requires_grad = False
    losses = list(getattr(model, f"{how}_optimize")(2, dataset))
    assert np.isfinite(losses).all()


@pytest.mark.parametrize("name", OPTIONS)
def test_an_option_survives_being_saved(datasets: Any, name: str, tmp_path: Any) -> None:
    model, dataset = made(datasets, OPTIONS[name])
    list(model.Adam_optimize(1, dataset))
    known = model(np.arange(5)).detach()
    model.save_to_h5(tmp_path / "result.h5", dataset)
    again = type(model).from_results_h5(tmp_path / "result.h5")
    torch.testing.assert_close(again(np.arange(5)).detach(), known, rtol=1e-4, atol=1e-4 * float(known.max()))
