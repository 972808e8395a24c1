"""Fit the linear network: to simulated scans of the default probe, or of the probe of a measured scan."""

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from phaseloom.calibration.raster import find_raster
from phaseloom.data.scan import Scan4D
from phaseloom.errors import BadInput
from phaseloom.fitting.distributed import team
from phaseloom.learning.evaluation import save_with_card
from phaseloom.learning.weight_files import NETWORK_FILE
from phaseloom.ptycho.probes.guesses import BeamOptics, read_beam_optics
from phaseloom.reconstruction.recipe import Reconstruct
from phaseloom.retrieval.evaluate import make_network_card
from phaseloom.retrieval.networks.linear import NOISELESS_DOSE_NUMBER, LinearRecovery
from phaseloom.retrieval.prediction import measure_semiangle
from phaseloom.retrieval.recipe import SampleSimulator, Train
from phaseloom.retrieval.training_samples import NOISELESS_DOSE, SamplePool, TrainingScan, draw_counts
from phaseloom.runs.folder import save_recipe
from phaseloom.spec import Call
from phaseloom.units import ANGLE, ENERGY, LENGTH

__all__ = ["NOISY_SCANS_PER_DOSE", "SCANS_FOR_ONE_PROBE", "describe_microscope", "fit_linear_network"]
__all__ += ["get_microscope", "solve_linear"]

# Scans that each dose with counting noise is fitted to; noise varies more than they do.
SCANS_FOR_ONE_PROBE = {"scans": 100, "unseen": 8}  # for a probe at hand: simulated in about a minute
NOISY_SCANS_PER_DOSE = 20


def solve_linear(net: LinearRecovery, scenes: Sequence[TrainingScan], /, *, seed: int = 0) -> dict[str, Any]:
    """Fit a linear network to scans in place, each of its doses; what that took.

    Args:
        net: see `phaseloom.retrieval.networks.linear.linear`.
        scenes: simulated scans.
        seed: of the counts.

    Returns:
        The CPU seconds of the fit, and the scans of each dose.
    """
    began = time.process_time()
    net.components.calibrate(torch.cat([_sample_patterns(scene) for scene in scenes[::3]]))
    used = {}
    for number, dose in enumerate(net.doses.tolist()):
        few = scenes if dose >= NOISELESS_DOSE_NUMBER else scenes[:NOISY_SCANS_PER_DOSE]
        net.solve(number, _draw_pairs(few, 1e4 * 10 ** (3 * dose), seed + number))
        used[f"{1e4 * 10 ** (3 * dose):.3g}"] = len(few)
    return {"cpu_seconds": time.process_time() - began, "scans": used}


def _draw_pairs(scenes: Sequence[TrainingScan], dose: float, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    for scene in scenes:
        dose = NOISELESS_DOSE if dose > 0.99 * NOISELESS_DOSE else dose
        yield draw_counts(scene.roots.float().square(), dose, generator)[None], scene.phase[None]


def _sample_patterns(scene: TrainingScan) -> Tensor:
    """One pattern in six of a scan, to take statistics from."""
    return scene.roots[::2, ::3].float().square().flatten(0, 1)


def get_microscope(recipe: Reconstruct, usual: Call | None = None, /) -> dict[str, Any]:
    """As `describe_microscope`, of the scan and the probe of a recipe."""
    return describe_microscope(recipe.scan(), read_beam_optics(recipe.probe), usual)


def describe_microscope(scan: Scan4D, optics: BeamOptics, usual: Call | None = None, /) -> dict[str, Any]:
    """The microscope of a training for the energy, the step and the probe of a scan.

    Args:
        scan: the data.
        optics: of the beam, with a defocus; the semiangle is measured if not given.
        usual: microscope with the rest (number of probes, detector).

    Raises:
        BadInput: an unknown defocus, or positions that are not a raster.
    """
    others = {name: value for name, value in optics.aberrations.items() if name != "defocus"}
    if "defocus" not in optics.aberrations:
        fix = (
            "is not said, and a network is trained for one defocus: --set probe.from_patterns.defocus='90 A'"
        )
        raise BadInput("probe: defocus", None, fix)
    lattice = find_raster(scan)
    if abs(lattice.step[0] / lattice.step[1] - 1) > 0.02:
        steps = " and ".join(LENGTH.show(step) for step in lattice.step)
        raise BadInput("scan: step", steps, "differ along rows and columns: linear wants one step for both")
    knobs = {
        "energy": ENERGY.show(scan.geometry.energy),
        "semiangle": ANGLE.show(measure_semiangle(scan, optics.semiangle)),
        "defocus": f"{optics.aberrations['defocus']:.6g} A",
        "step": f"{lattice.step[0]:.6g} A",
    }
    named = {
        name: f"{value:.6g} {'rad' if name.startswith('phi') else 'A'}" for name, value in others.items()
    }
    rest = dict(usual.values) if usual is not None and usual.name == "fixed" else {}
    return {"fixed": {**rest, **knobs, "aberrations": named or None}}


def fit_linear_network(
    recipe: Train, directory: Path | str, /, *, said: Callable[[str], None] = lambda text: None
) -> tuple[Path, dict[str, Any]]:
    """Solve a linear network and write it into a folder.

    Several processes simulate the scans together; each then solves for itself, and one of them writes.

    Args:
        recipe: with ``model: linear``.
        directory: for ``run.yaml`` and ``net.safetensors``.
        said: called with a line of progress.

    Returns:
        The file, and its card.

    Raises:
        BadInput: another model, or a folder that holds a run.
    """
    folder = Path(directory)
    net = recipe.network()
    if not isinstance(net, LinearRecovery):
        raise BadInput("train linear: model", recipe.model.name, "is not solved but trained: train patches")
    if (folder / "run.yaml").exists():
        raise BadInput(str(folder), None, "holds a run: name a new folder")
    pool = SamplePool(SampleSimulator(recipe.specimen, recipe.microscope, recipe.seed))
    scans = team().map_gather(pool.__getitem__, range(recipe.scans))
    judges = team().map_gather(pool.__getitem__, recipe.list_holdout_numbers())
    cost = solve_linear(net, scans, seed=recipe.seed)
    said(f"solved in {cost['cpu_seconds']:.1f} CPU seconds")
    card = make_network_card(recipe, net, judges, scans) | {"fit": cost}
    if team().is_main:
        save_recipe(recipe, folder)
        save_with_card(net, card, folder)
    return folder / NETWORK_FILE, card
