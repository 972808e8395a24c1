"""A linear network for the probe at hand: simulate for it, solve, and say how good that is."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from phaseloom.errors import BadInput
from phaseloom.fitting.distributed import team
from phaseloom.learning import weight_files as pretrained
from phaseloom.ptycho.probe_guesses import optics_of
from phaseloom.reconstruction.recipe import Reconstruct
from phaseloom.retrieval.linear_recipe import solved
from phaseloom.retrieval.model_card import card
from phaseloom.retrieval.networks.linear import LinearRecovery
from phaseloom.retrieval.prediction import measured
from phaseloom.retrieval.preprocessing import raster
from phaseloom.retrieval.recipe import Making, Train
from phaseloom.retrieval.sample_pool import Pool
from phaseloom.runs.folder import keep_recipe
from phaseloom.spec import Call
from phaseloom.units import ANGLE, ENERGY, LENGTH

__all__ = ["FEW", "fitted", "microscope_of"]

FEW = {"scans": 100, "unseen": 8}
"""Scans that are simulated for a probe at hand: enough in about a minute."""


def microscope_of(recipe: Reconstruct, usual: Call | None = None, /) -> dict[str, Any]:
    """The microscope of a training for the energy, the step and the probe of a scan.

    Args:
        recipe: of its reconstruction, whose probe says the defocus; the semiangle is measured if not said.
        usual: microscope that says the rest (how many probes, which detector).

    Raises:
        BadInput: a defocus that nobody says, or positions on no raster.
    """
    scan, optics = recipe.scan(), optics_of(recipe.probe)
    others = {name: value for name, value in optics.aberrations.items() if name != "defocus"}
    if "defocus" not in optics.aberrations:
        fix = "is not said, and what a network learns depends on it: --set probe.from_patterns.defocus='90 A'"
        raise BadInput("probe: defocus", None, fix)
    lattice = raster(scan)
    if abs(lattice.step[0] / lattice.step[1] - 1) > 0.02:
        steps = " and ".join(LENGTH.show(step) for step in lattice.step)
        raise BadInput("scan: step", steps, "differ along rows and columns: linear wants one step for both")
    knobs = {
        "energy": ENERGY.show(scan.geometry.energy),
        "semiangle": ANGLE.show(measured(scan, optics.semiangle)),
        "defocus": f"{optics.aberrations['defocus']:.6g} A",
        "step": f"{lattice.step[0]:.6g} A",
    }
    named = {
        name: f"{value:.6g} {'rad' if name.startswith('phi') else 'A'}" for name, value in others.items()
    }
    rest = dict(usual.values) if usual is not None and usual.name == "fixed" else {}
    return {"fixed": {**rest, **knobs, "aberrations": named or None}}


def fitted(
    recipe: Train, directory: Path | str, /, *, said: Callable[[str], None] = lambda text: None
) -> tuple[Path, dict[str, Any]]:
    """Solve a linear network and leave it in a folder.

    Args:
        recipe: with ``model: linear``.
        directory: for ``run.yaml`` and ``net.safetensors``.
        said: told of what is going on.

    Several processes simulate the scans together; each then solves for itself, and one of them writes.

    Returns:
        The file, and its card.

    Raises:
        BadInput: another model, or a folder that holds a run.
    """
    folder, net = Path(directory), recipe.network()
    if not isinstance(net, LinearRecovery):
        raise BadInput("train linear: model", recipe.model.name, "is not solved but trained: train patches")
    if (folder / "run.yaml").exists():
        raise BadInput(str(folder), None, "holds a run: name a new folder")
    pool = Pool(Making(recipe.specimen, recipe.microscope, recipe.seed))
    scenes, judges = (team().each(pool.__getitem__, few) for few in (range(recipe.scans), recipe.judges()))
    cost = solved(net, scenes, seed=recipe.seed)
    said(f"solved in {cost['cpu_seconds']:.1f} CPU seconds")
    told = card(recipe, net, judges, scenes) | {"fit": cost}
    if team().first:
        keep_recipe(recipe, folder)
        pretrained.save(net, folder / pretrained.FILE, told)
    return folder / pretrained.FILE, told
