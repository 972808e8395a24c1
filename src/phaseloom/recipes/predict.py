"""From a parameter file to a predicted phase in a folder, and whether the patterns bear it out."""

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from phaseloom import plot
from phaseloom.data.prepare import enlarge
from phaseloom.data.scan import Geometry, Scan4D
from phaseloom.errors import BadInput
from phaseloom.files import whole
from phaseloom.nets import pretrained
from phaseloom.nets.predict import Prediction, find, predict
from phaseloom.plot import canvas
from phaseloom.ptycho import objects, probes, scans
from phaseloom.ptycho.model import Ptychography
from phaseloom.recipes._optics import optics_of
from phaseloom.recipes.reconstruct import Reconstruct
from phaseloom.result import Provenance
from phaseloom.spec import to_yaml

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Misfit", "Outcome", "misfit", "picture", "predicted", "write"]

log = logging.getLogger(__name__)

CHECKED = 200
"""Patterns that the prediction is held against."""

REACH = 1.5
"""Semiangles up to which patterns are compared."""

ROOM = 48
"""Pixels of the window of the probe, at least."""


@dataclass(frozen=True)
class Misfit:
    """Amplitude residual ``sum |sqrt I - sqrt E| / sum sqrt I`` of patterns, each model scaled to fit best.

    Only angles up to one and a half semiangles count: farther out, most of what scatters is finer than a
    predicted phase can be.

    Attributes:
        predicted: of the predicted phase as a thin object.
        flat: of no object at all.
        patterns: that were compared.
    """

    predicted: float
    flat: float
    patterns: int

    def __str__(self) -> str:
        """As a line of a report."""
        return f"misfit {self.predicted:.2g} (flat object {self.flat:.2g})"


@dataclass(frozen=True, eq=False)
class Outcome:
    """A prediction with what came of it.

    Attributes:
        prediction: see `phaseloom.nets.predict.Prediction`.
        misfit: against the data, or ``None`` where they cannot be modelled.
        card: of the network.
        recipe: that the data were read by.
        provenance: see `phaseloom.result.Provenance`.
        warnings: why the prediction should be doubted, in sentences.
    """

    prediction: Prediction
    misfit: Misfit | None
    card: Mapping[str, Any]
    recipe: Reconstruct
    provenance: Provenance
    warnings: list[str] = field(default_factory=list)


def predicted(recipe: Reconstruct, /, *, model: str | Path, dose: float | None = None) -> Outcome:
    """Predict the phase of the data of a recipe, whose file, preparation and probe are what is used of it.

    Args:
        recipe: as for a reconstruction.
        model: a network's file, or the name of one that comes with the package.
        dose: electrons of the beam in a pattern; default: from the patterns.

    Raises:
        BadInput: no such model, or data that it was not trained for.
    """
    path = find(model)
    net, card = pretrained.load(path), pretrained.card(path)
    card = {**card, "name": card.get("name") or path.stem}
    scan = recipe.scan()
    prediction = predict(net, card, scan, optics_of(recipe.probe), dose=dose)
    found, doubts = _compared(prediction, scan)
    made = Provenance.now(seed=recipe.seed, data=scan.digest(), file=recipe.file.name)
    return Outcome(prediction, found, card, recipe, made, doubts)


@torch.no_grad()
def misfit(prediction: Prediction, scan: Scan4D, /, *, most: int = CHECKED) -> Misfit:
    """Hold a prediction against the patterns around the middle of its scan, beside no object at all.

    Args:
        prediction: of the scan.
        scan: the data.
        most: patterns that are compared.

    Raises:
        BadInput: a beam that the detector cannot hold.
    """
    middle = (scan.positions.min(0) + scan.positions.max(0)) / 2
    order = np.argsort(np.linalg.norm(scan.positions - middle, axis=1), kind="stable")
    few = scan.select(np.sort(order[:most]))
    few = _roomy(replace(few, counts=np.asarray(few.counts[np.arange(len(few))], np.float32)))
    index, model = torch.arange(len(few)), _modelled(prediction, few)
    measured = torch.from_numpy(few.counts)
    bare = model.detector.display(model.detector.background())
    mask = torch.from_numpy(few.mask & _within(few.geometry, REACH * prediction.semiangle))
    there = _residual(model.detector.display(model(index)), measured, bare, mask)
    model.object.phase.zero_()
    return Misfit(there, _residual(model.detector.display(model(index)), measured, bare, mask), len(few))


def write(outcome: Outcome, folder: Path, /) -> list[Path]:
    """Leave ``prediction.h5``, ``prediction.png``, and with tifffile ``prediction.tif`` in a folder."""
    import importlib.util

    paths = [folder / "prediction.h5", folder / "prediction.png"]
    _write_h5(outcome, paths[0])
    plot.save(picture(outcome.prediction), paths[1])
    if importlib.util.find_spec("tifffile") is not None:
        paths.append(folder / "prediction.tif")
        _write_tiff(outcome.prediction, paths[2])
    return paths


def picture(prediction: Prediction, /) -> "Figure":
    """The phase with scale bar and colour bar."""
    figure = canvas.page(6.4, 5.2)
    axes, phase = figure.subplots(), prediction.phase
    low, high = canvas.limits(phase)
    look = {"title": f"Phase, predicted by {prediction.model}", "cmap": "viridis", "vmin": low, "vmax": high}
    drawn = canvas.image(axes, phase, pixel=prediction.pixel, **look)
    canvas.colour_bar(axes, drawn, "phase (rad)")
    return figure


def _compared(prediction: Prediction, scan: Scan4D) -> tuple[Misfit | None, list[str]]:
    """The misfit, and what it makes doubtful."""
    try:
        found = misfit(prediction, scan)
    except BadInput as problem:
        return None, [f"the prediction cannot be held against the data: {problem}"]
    if found.predicted < found.flat:
        return found, []
    fix = "do not believe it; check optics, orientation of the detector and the unit of the positions"
    return found, [f"the prediction explains the patterns no better than no object at all: {fix}"]


def _modelled(prediction: Prediction, scan: Scan4D) -> Ptychography:
    """The experiment with the predicted phase as its object, gone on with beyond its edges."""
    light = probes.focused(
        scan,
        semiangle=prediction.semiangle,
        aberrations=dict(prediction.aberrations),
        modes=1,
        soft=True,
    )
    thing = objects.pixels(scans.canvas(scan), kind="phase")
    pixel = prediction.pixel
    wide = [int(np.ceil(n * p / own)) + 1 for n, p, own in zip(*_sizes(thing), pixel, strict=True)]
    phase = np.pad(prediction.phase, [(n, n) for n in wide], mode="edge")
    middle = zip(prediction.origin, pixel, phase.shape, wide, strict=True)
    at = [first + own * (count // 2 - extra) for first, own, count, extra in middle]
    thing.lay(torch.polar(torch.ones(phase.shape), torch.from_numpy(phase)), at=at, pixel=pixel)
    return Ptychography.of(scan, object=thing, probe=light)


def _roomy(scan: Scan4D) -> Scan4D:
    """The scan modelled in a window that the beam of a coarse detector fits into."""
    times = -(-ROOM // min(scan.geometry.shape))
    if times == 1 or scan.modelled is not None:
        return scan
    rows, columns = (times * n for n in scan.geometry.shape)
    return enlarge(scan, to=(rows, columns), match="resample")


def _within(geometry: Geometry, angle: float) -> np.ndarray:
    """Which detector pixels see less than an angle."""
    y, x = ((np.arange(n) - n // 2) * a for n, a in zip(geometry.shape, geometry.angle, strict=True))
    return np.hypot(y[:, None], x) <= angle


def _sizes(thing: objects.PixelObject) -> tuple[tuple[int, int], tuple[float, float]]:
    return thing.canvas.window, thing.canvas.pixel


def _residual(expected: Tensor, measured: Tensor, bare: Tensor, mask: Tensor) -> float:
    """The amplitude residual, with the one factor of the beam that makes it small."""
    seen = (measured.double() * mask).clamp(min=0).sqrt()
    model = ((expected - bare).double() * mask).clamp(min=0)
    share = float((seen * model.sqrt()).sum() / model.sum().clamp(min=1e-300)) ** 2
    again = ((share * model + bare * mask).clamp(min=0)).sqrt()
    return float((seen - again).abs().sum() / seen.sum().clamp(min=1e-300))


def _write_h5(outcome: Outcome, path: Path) -> None:
    import h5py

    made = outcome.prediction
    with whole(path) as short, h5py.File(short, "w") as file:
        phase = file.create_dataset("phase", data=made.phase, compression="gzip")
        phase.attrs["units"] = "radian"
        for name in ("pixel", "origin"):
            file.create_dataset(name, data=getattr(made, name)).attrs["units"] = "angstrom"
        file["told"] = made.told
        file.attrs["phaseloom_prediction"], file.attrs["model"] = 1, made.model
        file.attrs["semiangle"] = made.semiangle
        for name, value in {
            "aberrations": dict(made.aberrations),
            "card": dict(outcome.card),
            "notes": list(made.notes),
            "warnings": outcome.warnings,
            "misfit": None if outcome.misfit is None else asdict(outcome.misfit),
            "provenance": asdict(outcome.provenance),
        }.items():
            file[name] = json.dumps(value)
        file["recipe"] = to_yaml(outcome.recipe.given())


def _write_tiff(prediction: Prediction, path: Path) -> None:
    """32-bit float with its pixel size, as ImageJ reads it."""
    import tifffile

    resolution = (10 / prediction.pixel[1], 10 / prediction.pixel[0])
    with whole(path) as short:
        tifffile.imwrite(short, prediction.phase, imagej=True, resolution=resolution, metadata={"unit": "nm"})
