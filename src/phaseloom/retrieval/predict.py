"""From a parameter file to a predicted phase in a folder, and whether the patterns bear it out."""

import json
import logging
import math
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
from phaseloom.learning import weight_files as pretrained
from phaseloom.learning.weight_files import find
from phaseloom.plot import style as canvas
from phaseloom.ptycho import objects, probes, scans
from phaseloom.ptycho.model import Ptychography
from phaseloom.ptycho.probe_guesses import optics_of
from phaseloom.reconstruction.recipe import Reconstruct
from phaseloom.result import Provenance
from phaseloom.retrieval.prediction import Prediction, predict
from phaseloom.retrieval.preprocessing import FEWEST, trusted
from phaseloom.spec import to_yaml

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["LITTLE", "Misfit", "Outcome", "held", "misfit", "picture", "predicted", "write"]

log = logging.getLogger(__name__)

CHECKED = 1000
"""Patterns that the prediction is held against, at most."""

FEWER = 25
"""Patterns up to which those at the rim of a scan are taken too."""

HELD = 2**24
"""Pixels of all of them, at most."""

REACH = 1.5
"""Semiangles up to which patterns are compared."""

LITTLE = 0.9
"""Share explained, below which a prediction should be doubted; right ones have 0.97 and more."""

CERTAIN = 5.0
"""Standard errors by which patterns must differ from each other, for a prediction to be judged."""

FAINT = 0.1
"""Of the mean intensity, added to that of each pixel where it is weighted: dark pixels hold noise only."""

AT_ONCE = 64
"""Patterns that are modelled together."""

ROOM = 48
"""Pixels of the window of the probe, at least."""

WIDE = 3.5
"""Semiangles that the model reaches over, at least, from edge to edge."""


@dataclass(frozen=True)
class Misfit:
    """How much of what differs from pattern to pattern a prediction explains, as a thin object.

    Each pattern counts less the mean of all, measured and modelled, so that neither the rim of the disk nor
    an uneven detector is taken for the object's. Residuals are root mean squares over the root mean square
    of the mean pattern, pixels weighted by the inverse of its counts, less what counting noise adds. Only
    angles up to one and a half semiangles count: farther out, most of what scatters is finer than a
    predicted phase can be.

    Attributes:
        predicted: residual of the predicted phase.
        flat: residual of no object, for which all patterns are the same.
        patterns: that were compared.
        explained: ``1 - predicted^2 / flat^2``, below zero if the prediction is worse than none; ``None``
            where patterns do not differ by more than counting noise.
        error: standard error of that by counting noise.
    """

    predicted: float
    flat: float
    patterns: int
    explained: float | None = None
    error: float | None = None

    def __str__(self) -> str:
        """As a line of a report."""
        if self.explained is None:
            return f"misfit unknown: {self.patterns} patterns differ from each other by counting noise only"
        text = f"misfit {self.predicted:.2g} (flat object {self.flat:.2g})"
        unsure = "" if not self.error or self.error < 0.05 else f" +- {100 * self.error:.0f}"
        part = f"{100 * self.explained:.0f}{unsure} %" if self.explained > 0 else "nothing"
        return f"{text}: explains {part} of what differs from pattern to pattern"


@dataclass(frozen=True, eq=False)
class Outcome:
    """A prediction with what came of it.

    Attributes:
        prediction: see `phaseloom.retrieval.prediction.Prediction`.
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

    Hot pixels are left out, as in the prediction.

    Args:
        prediction: of the scan.
        scan: the data.
        most: patterns that are compared.

    Raises:
        BadInput: a beam that the detector cannot hold.
    """
    scan, _ = trusted(scan)
    few = scan.select(_inner(scan, most))
    few = replace(few, counts=np.asarray(few.counts[np.arange(len(few))], np.float32))
    few = _roomy(few, prediction.semiangle)
    model, measured = _modelled(prediction, few), torch.from_numpy(few.counts)
    parts = torch.arange(len(few)).split(AT_ONCE)
    expected = torch.cat([model.detector.display(model(part)) for part in parts])
    bare = model.detector.display(model.detector.background())
    return held(expected, measured, bare, few.mask & _within(few.geometry, REACH * prediction.semiangle))


def held(expected: Tensor, measured: Tensor, bare: Tensor, mask: np.ndarray, /) -> Misfit:
    """Hold modelled patterns against measured ones.

    Args:
        expected: ``(n, y, x)`` counts by the model; one factor for all is fitted.
        measured: counts; patterns of few are taken as free of noise.
        bare: ``(y, x)`` counts without beam.
        mask: ``(y, x)`` pixels that count.

    Example:
        >>> y, x = np.indices((8, 8))
        >>> true = torch.from_numpy(np.stack([1e4 + 1e3 * np.sin(x + n + y * n) for n in range(9)]))
        >>> dark, mask = torch.zeros(8, 8), np.ones((8, 8), bool)
        >>> held(0.1 * true, true, dark, mask).explained, held(true.flip(0), true, dark, mask).explained < 0.5
        (1.0, True)
    """
    good = torch.as_tensor(mask)
    seen, model = measured.double()[:, good], (expected - bare).double()[:, good]
    dark = bare.double()[good] if bare.shape == good.shape else bare.double()
    light = seen - dark
    model = model * (light.sum() / model.sum().clamp(min=1e-300))
    mean, count = seen.mean(0), len(seen)
    lit = light.mean(0).clamp(min=0)
    weight = 1 / (mean.clamp(min=0) + FAINT * mean.mean().clamp(min=1e-300))
    own, made = seen - mean, model - model.mean(0)
    noisy = float(seen.sum(1).mean()) >= FEWEST
    noise = float((weight * mean).sum()) * (count - 1) if noisy else 0.0
    spread = math.sqrt(count * float((weight**2 * (2 * mean**2 + mean)).sum())) if noisy else 0.0
    there, none = (float((weight * one**2).sum()) - noise for one in (own - made, own))
    whole = count * float((weight * lit**2).sum())
    sizes = [math.sqrt(max(value, 0.0) / max(whole, 1e-300)) for value in (there, none)]
    if none <= max(CERTAIN * spread, 1e-12 * whole):
        return Misfit(sizes[0], sizes[1], count)
    return Misfit(sizes[0], sizes[1], count, min(1 - there / none, 1.0), spread / none)


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
    fix = "check optics, orientation of the detector, unit of the positions, and that counts are electrons"
    if found.explained is None or found.error is None:
        return found, ["too few counts or too thin an object to judge: nothing tells whether it is right"]
    if found.explained + 3 * found.error <= 0:
        none = "the prediction explains the patterns no better than no object at all: do not believe it"
        return found, [f"{none}; {fix}"]
    if found.explained + 3 * found.error < LITTLE:
        part = f"{100 * max(found.explained, 0):.0f} %"
        return found, [f"the prediction explains only {part} of what differs from pattern to pattern: {fix}"]
    return found, []


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


def _inner(scan: Scan4D, most: int) -> np.ndarray:
    """The half of the patterns that is farthest from the rim of the scan: what is beyond is not predicted."""
    low, high = scan.positions.min(0), scan.positions.max(0)
    away = np.abs(2 * scan.positions - low - high) / np.maximum(high - low, 1e-9)
    count = min(most, max(FEWER, len(scan) // 2), max(100, HELD // math.prod(scan.geometry.shape)))
    return np.sort(np.argsort(away.max(1).round(6), kind="stable")[:count])


def _roomy(scan: Scan4D, semiangle: float) -> Scan4D:
    """The scan modelled up to angles that the object scatters to, in a window that the beam fits into."""
    if scan.modelled is not None:
        return scan
    shape = scan.geometry.shape
    reach = min(n * angle for n, angle in zip(shape, scan.geometry.angle, strict=True))
    wider, finer = math.ceil(WIDE * semiangle / reach), -(-ROOM // min(shape))
    rows, columns = (max(wider, finer) * n for n in shape)
    if wider > 1:
        return enlarge(scan, to=(rows, columns), match="crop")
    return enlarge(scan, to=(rows, columns), match="resample") if finer > 1 else scan


def _within(geometry: Geometry, angle: float) -> np.ndarray:
    """Which detector pixels see less than an angle."""
    y, x = ((np.arange(n) - n // 2) * a for n, a in zip(geometry.shape, geometry.angle, strict=True))
    return np.hypot(y[:, None], x) <= angle


def _sizes(thing: objects.PixelObject) -> tuple[tuple[int, int], tuple[float, float]]:
    return thing.canvas.window, thing.canvas.pixel


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
