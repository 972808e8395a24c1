"""What speaks for and against a run besides its losses: direct image, dark field, places that do not matter.

Losses near the noise mean nothing where patterns differ by little more than noise, and a flexible probe
explains much with a wrong geometry. The direct image of an electron raster knows nothing of the run: its fit
says how the detector lies, by which angle the scan is turned and where the focus is, and it shows the object.

A free probe explains much of what differs between patterns wherever they were taken: 0.1 to 0.6 of it on
crystals, layers and particles. What a model explains of patterns held out is compared with that.
"""

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from phaseloom.calibration.orientations import select_neighbours
from phaseloom.data.scan import Scan4D
from phaseloom.direct.recipe import DirectResult
from phaseloom.direct.reconstruct import suggest_step
from phaseloom.direct.twin import TwinEvidence
from phaseloom.errors import BadInput
from phaseloom.fitting import device
from phaseloom.fitting.distributed import team
from phaseloom.fitting.outcome import Doubt, Judgement, Verdict
from phaseloom.metrics.linear_map import find_turn_and_scale, fit_linear_map
from phaseloom.metrics.pattern_misfit import PatternMisfit
from phaseloom.ptycho.model import Ptychography
from phaseloom.ptycho.scans import estimate_motion
from phaseloom.reconstruction.level import Level, fit_level, limit_batch_size, split_patterns
from phaseloom.reconstruction.recipe import Reconstruct
from phaseloom.reconstruction.starts.first_image import compute_stated_defocus
from phaseloom.units import LENGTH

__all__ = [
    "Comparison",
    "Evidence",
    "JoinedScanFit",
    "NullTest",
    "StepTest",
    "compare_with_direct_image",
    "doubt_open_twin",
    "doubt_places",
    "doubt_positions",
    "doubt_scans",
    "doubt_step",
    "doubt_step_by_fits",
    "doubt_steps",
    "doubt_twin",
    "find_doubts",
    "is_confirmed",
    "judge_scans",
    "measure_scans",
    "move_along",
    "shuffle_places",
    "try_steps",
]

MAX_SCATTER_OF_RASTER = 0.5
"""Distance of positions from their raster, as a share of what they are spread by; 1: no raster at all."""

MIN_GAIN_OF_WITNESS = 200.0
"""Gain in deviance of the linear fit on its runner-up, from which it is believed: 40 at most by chance."""

MAX_ROTATION = math.radians(5.0)
"""Angle by which a run may differ from the linear fit."""

MAX_STEP = 0.06
"""Share by which a step may differ: three times what a stated step is taken to be known to."""

MIN_STEP_TO_DOUBT = 0.07
"""The same of a step that a linear fit suggests but did not take: a run may have come nearer to it."""

MAX_DEFOCUS = 2.0
"""Depths of focus (wavelength / semiangle^2) by which a defocus may differ."""

MIN_AGREEMENT = 0.4
"""Correlation of the phase of a run with its direct image."""


MIN_AGREEMENT_TO_CONFIRM = 0.75
"""The same from which the start of a run was right, however much the loss leaves."""


MIN_DARK_FIELD_AGAINST = 8.0
"""Correlation of the phase of a run with the dark field, in standard errors below zero, from which it is the
twin. -25 was found of one, 12 to 28 of right runs. From `TwinEvidence.is_safe` on the run is doubted."""

MAX_LEFT_OF_NULL = 0.6
"""What places leave unexplained over what exchanged ones leave, from which they hardly matter. Right runs of
two scans left 0.06 to 0.27; shuffled positions, and a defocus that no probe made up for, 0.67 to 0.96; a
transposed detector, 0.25 to 0.44."""


EPOCHS_OF_NULL = 6
"""Of each of the two fits."""

HOLDOUT_OF_NULL = 0.15
"""Share of the patterns that judge them."""

MAX_PATTERNS_OF_NULL = 256
MIN_PATTERNS_OF_NULL = 100
"""Patterns that are fitted, neighbours in the middle of the scan."""

MAX_WORK_OF_NULL = 0.08
"""Work of both fits over that of the run."""

STEPS = (0.8, 0.9, 1.0, 1.1, 1.25)
"""Factors on the positions of a run that are tried."""

STEPS_OF_AXIS = (0.87, 1.15)
"""Factors on the positions along one axis alone that are tried, where no factor on both is better."""

AXES = ("y", "x")

EPOCHS_OF_STEPS = 10
MAX_PATTERNS_OF_STEPS = 128
MIN_PATTERNS_OF_STEPS = 64
"""Of the fits with each of them."""

MAX_LEFT_OF_STEP = 0.9
"""What another step leaves unexplained over what that of the run leaves, below which it is better. On 14
scans of photons it was 1 for 13 right ones and 0.75 for one, 0.20 to 0.88 for 25 of 28 with a wrong step."""

MIN_SLANT_OF_STEPS = 4 / 3
"""What steps on the other side of the stated one leave over what those on the side of the better one leave.
It was 1.01 for the right scan with which another step seemed better, and 1.35 at least for wrong ones."""


@dataclass(frozen=True)
class Comparison:
    """A run beside its direct image.

    Attributes:
        transposed: whether the linear fit lays the detector the other way; ``None``: the optics were given.
        rotation: by which the linear fit would turn the scan further, radian.
        step: factor on the positions of the run.
        stated: defocus of the run, angstrom; ``None``: it states none.
        defocus: of the linear fit less that of the run, angstrom.
        agreement: correlation of both phases.
        gain: in deviance of the linear fit on its runner-up; zero where that explains nearly as much.
        depth_of_focus: angstrom.
        contradicts_step: whether the linear fit found that the step of the run is wrong altogether.
    """

    transposed: bool | None
    rotation: float
    step: float
    stated: float | None
    defocus: float | None
    agreement: float
    gain: float
    depth_of_focus: float
    contradicts_step: bool = False


@dataclass(frozen=True)
class NullTest:
    """What two short fits explain of the differences between patterns held out.

    Attributes:
        explained: share with the places as the run has them.
        shuffled: share with the places exchanged among the patterns.
        patterns: number of patterns in each fit.
    """

    explained: float
    shuffled: float
    patterns: int

    @property
    def left(self) -> float:
        """What the right places leave unexplained over what wrong ones leave; 1: places do not matter."""
        return (1 - self.explained) / max(1 - self.shuffled, 1e-9)


MAX_SPREAD_OF_PATH = 0.1
"""Spread of the steps along scan lines over their median up to which a stage may have moved evenly."""

MAX_LEFT_OF_MOTION = 0.8
"""What a beam that moves along its path leaves unexplained over what one at rest does, below which it is
better. It was 0.44 and 0.48 where the beam moved by its whole step, 1.9 where by half of it (whose picture
was right), and 3.3 where it did not."""

EPOCHS_OF_MOTION = 6
"""Of the two fits for that: each pattern of a moving beam is the sum of several."""


@dataclass(frozen=True)
class StepTest:
    """What short fits leave unexplained of the differences between patterns held out, with other steps.

    Attributes:
        left: by the factor on the positions of the run; 1 is among them.
        along: the same by the axis, 0 (y) or 1 (x), along which alone positions were multiplied, and the
            factor; empty: not tried.
        moving: what a beam that moves from each position to the next (``fly: 1``) leaves, over what one at
            rest does; ``None``: not tried.
    """

    left: Mapping[float, float]
    along: Mapping[tuple[int, float], float] = field(default_factory=dict)
    moving: float | None = None

    @property
    def better_axis(self) -> tuple[int, float] | None:
        """The axis and the factor along it alone that explain clearly more, if any do."""
        if not self.along:
            return None
        axis, factor = best = min(self.along, key=lambda one: self.along[one])
        others = [
            left for (way, step), left in self.along.items() if way == axis and (step < 1) != (factor < 1)
        ]
        is_better = self.along[best] < MAX_LEFT_OF_STEP * self.left[1.0]
        is_slanted = not others or min(others) > MIN_SLANT_OF_STEPS**2 * self.along[best]
        return best if is_better and is_slanted else None

    @property
    def is_motion_better(self) -> bool:
        """Whether a beam that moves explains clearly more than one at rest."""
        return self.moving is not None and self.moving < MAX_LEFT_OF_MOTION

    @property
    def better(self) -> float | None:
        """The factor that explains clearly more than the step of the run, if any does."""
        best = min(self.left, key=lambda factor: self.left[factor])
        sides = [
            math.prod(left for factor, left in self.left.items() if (factor < 1) is below and factor != 1)
            for below in (best < 1, best >= 1)
        ]
        slant = math.sqrt(sides[1] / max(sides[0], 1e-12))
        is_better = self.left[best] < MAX_LEFT_OF_STEP * self.left[1.0] and slant > MIN_SLANT_OF_STEPS
        return best if is_better else None


@dataclass(frozen=True)
class JoinedScanFit:
    """How one of several scans that were joined is explained; losses in units of its own shot noise.

    Attributes:
        number: of the scan, from 0.
        file: its name.
        loss: of all of its patterns.
        mean_loss: of a model that knows their mean alone.
        holdout: loss of its patterns held out, before they were learned from; ``None``: there are none.
        explained: share of what differs between these that is explained, and its error; ``None``: not known.
        shares_object: whether the scans see one object.
    """

    number: int
    file: str
    loss: float
    mean_loss: float
    holdout: float | None = None
    explained: tuple[float, float] | None = None
    shares_object: bool = False

    @property
    def left(self) -> float:
        """What is left beyond noise, over what the mean pattern leaves; of patterns held out, if any."""
        worst = self.loss if self.holdout is None else max(self.loss, self.holdout)
        return (worst - 1) / max(self.mean_loss - 1, 1e-9)

    @property
    def is_unexplained(self) -> bool:
        """Whether what differs between patterns held out is known to be explained by no more than chance."""
        if self.explained is None:
            return False
        share, error = self.explained
        return share < MIN_ERRORS_OF_EXPLAINED_SCAN * error

    def to_tree(self) -> dict[str, Any]:
        """Numbers as a result keeps them."""
        tree = {"number": self.number, "file": self.file, "loss": self.loss, "mean pattern": self.mean_loss}
        tree |= {} if self.holdout is None else {"hold-out": self.holdout}
        if self.explained is not None:
            tree["explained"], tree["error of explained"] = self.explained
        return tree


SEVERITY = (
    Verdict.CONVERGED,
    Verdict.LEVELLED,
    Verdict.STILL_FALLING,
    Verdict.OVERFITTING,
    Verdict.STEPS_TOO_LONG,
    Verdict.DOUBTFUL,
    Verdict.WRONG_START,
)
"""Verdicts of runs that came to their end, the best one first."""

MIN_LOSS_OF_WRONG_SCAN = 2.0
"""Times its shot noise from which a scan is not explained, where the model is right for another scan, or
where it explains hardly more than a mean pattern (`MAX_LEFT_OF_SCAN`)."""

MIN_RATIO_OF_WRONG_SCAN = 1.5
"""Loss of a scan over the lowest one of the others, from which the model is wrong for that scan alone."""

MAX_LEFT_OF_SCAN = 0.5
"""`JoinedScanFit.left` from which a scan is doubted. On pairs of 49 patterns, good scans had 0 to 0.2, and
weak ones of 1000 photons up to 0.5; wrong positions of weak scans left 0.6 to 1.4, wrong
probes 0.7 and more."""

MIN_LEFT_OF_UNEXPLAINED_SCAN = 0.25
MIN_ERRORS_OF_EXPLAINED_SCAN = 2.0
"""`JoinedScanFit.left` from which on a scan is doubted of whose patterns held out nothing is explained: less
than these standard errors. Mirrored positions of 1000 photons left 0.35 and 0.46. Of eight good scans of as
many, one was explained by 0.03 +- 0.13 and left 0.13, the others nothing."""

MIN_HOLDOUT_OF_DOUBTED_SCAN = 1.5
MIN_HOLDOUT_RATIO_OF_SCAN = 1.3
"""Loss of patterns held out, and the same over the loss of all, from which a scan is doubted: more than of
a run, as each scan has few."""

MIN_LOSS_OF_LEVELLED_SCAN = 1.5
"""As of a run (`phaseloom.fitting.verdict`)."""

MIN_EPOCHS_TO_AGREE = 40
"""Epochs after which scans of one object that is right are explained."""


def judge_scans(scans: Sequence[JoinedScanFit], run: Judgement, epochs: int, /) -> list[Judgement]:
    """A verdict for each of several scans, by its own numbers.

    Args:
        scans: of one run.
        run: the judgement by the losses of all of them.
        epochs: of the run.

    Example:
        >>> pair = [JoinedScanFit(0, "a.h5", 0.98, 40.0), JoinedScanFit(1, "b.h5", 1.6, 1.9)]
        >>> good = Judgement(Verdict.CONVERGED, "converged: what is left is 0.99 times shot noise")
        >>> [one.verdict.value for one in judge_scans(pair, good, 100)]
        ['converged', 'doubtful']
    """
    own = [_judge_scan(one, scans, epochs) for one in scans]
    if run.verdict not in SEVERITY:
        return [run for _ in own]
    rank = SEVERITY.index(run.verdict)
    if any(SEVERITY.index(one.verdict) >= rank for one in own):
        return own
    return [Judgement(run.verdict, f"{run} (of all joined scans together)") for _ in own]


def doubt_scans(scans: Sequence[JoinedScanFit], run: Judgement, epochs: int, /) -> tuple[Doubt, ...]:
    """What makes the verdict of a run no better than that of its worst scan.

    Args:
        scans: of one run.
        run: the judgement by the losses of all of them.
        epochs: of the run.
    """
    if run.verdict not in SEVERITY:
        return ()
    found = [(one, _judge_scan(one, scans, epochs)) for one in scans]
    rank = SEVERITY.index(run.verdict)
    worse = [pair for pair in found if SEVERITY.index(pair[1].verdict) > rank]
    worse.sort(key=lambda pair: -SEVERITY.index(pair[1].verdict))
    return tuple(
        Doubt(said.verdict, f"scan {one.number} ({one.file}): {said.partition(': ')[2]}")
        for one, said in worse
    )


def _judge_scan(one: JoinedScanFit, scans: Sequence[JoinedScanFit], epochs: int) -> Judgement:
    best = min((other.loss for other in scans if other is not one), default=math.inf)
    held = "" if one.holdout is None else f" ({one.holdout:.3g} in patterns held out)"
    left = f"what is left is {one.loss:.3g} times shot noise{held}"
    offset = ", the offset of join (offset: find looks for it)" if one.shares_object else ""
    check = f"check its positions, orientation{offset} and defocus (phaseloom reconstruct it alone)"
    is_high = one.loss >= MIN_LOSS_OF_WRONG_SCAN
    if is_high and one.left > MAX_LEFT_OF_SCAN:
        text = f"{left}, and its mean pattern alone leaves {one.mean_loss:.3g}"
        probe = "; where each scan has its probe, state defocus_values (probe: of_each_scan)"
        return Judgement(
            Verdict.WRONG_START, f"wrong start: {text}: {check}{probe if one.shares_object else ''}"
        )
    if is_high and one.loss > MIN_RATIO_OF_WRONG_SCAN * best:
        return Judgement(Verdict.WRONG_START, f"wrong start: {left}, and {best:.3g} in another scan: {check}")
    if one.left > MAX_LEFT_OF_SCAN:
        text = f"{left}, and its mean pattern alone leaves {one.mean_loss:.3g}: too few counts, or {check}"
        return Judgement(Verdict.DOUBTFUL, f"doubtful: {text}")
    if one.left > MIN_LEFT_OF_UNEXPLAINED_SCAN and one.is_unexplained:
        text = f"{left}, and its patterns held out show nothing of the object: too few counts, or {check}"
        return Judgement(Verdict.DOUBTFUL, f"doubtful: {text}")
    if is_high and one.shares_object and epochs >= MIN_EPOCHS_TO_AGREE:
        return Judgement(Verdict.DOUBTFUL, f"doubtful: {left}: the scans do not agree on one object: {check}")
    held_out = one.holdout or 0.0
    if held_out > max(MIN_HOLDOUT_OF_DOUBTED_SCAN, MIN_HOLDOUT_RATIO_OF_SCAN * one.loss):
        return Judgement(Verdict.DOUBTFUL, f"doubtful: {left}: {check}")
    if one.loss > MIN_LOSS_OF_LEVELLED_SCAN:
        return Judgement(Verdict.LEVELLED, f"levelled: {left}: the model lacks something, or {check}")
    return Judgement(Verdict.CONVERGED, f"converged: {left}")


@torch.no_grad()
def measure_scans(level: Level, files: Sequence[str], index: np.ndarray, /) -> list[JoinedScanFit]:
    """How each of several scans is explained; none of one scan, or where a process lacks some patterns.

    Args:
        level: under way.
        files: names of the scans, in the order of their numbers.
        index: of the patterns that are looked at; a scan of which there is none is left out.
    """
    numbers = level.scan.scan_numbers
    if numbers is None or team().world_size > 1 or not level.likelihood.has_noise_model:
        return []
    found = []
    for number in np.unique(numbers):
        own = torch.from_numpy(index[numbers[index] == number])
        if not len(own):
            continue
        loss, mean_loss = level.likelihood.measure_losses(
            own, torch.from_numpy(np.flatnonzero(numbers == number))
        )
        misfit = level.measure_misfit(own)
        known = (
            None if misfit.explained is None else (round(misfit.explained, 4), round(misfit.error or 0, 4))
        )
        file = [*files][number] if number < len(files) else ""
        fit = JoinedScanFit(int(number), file, round(loss, 4), round(mean_loss, 4), explained=known)
        found.append(replace(fit, shares_object=_share_object(level.scan)))
    return found


def _share_object(scan: Scan4D) -> bool:
    """Whether scans lie over one another, not side by side."""
    assert scan.scan_numbers is not None
    first, *others = (scan.positions[scan.scan_numbers == one] for one in np.unique(scan.scan_numbers))
    reach = np.multiply(scan.geometry.pixel, scan.geometry.shape)
    gaps = (np.maximum(first.min(0) - one.max(0), one.min(0) - first.max(0)) for one in others)
    return all((gap < reach).all() for gap in gaps)


@dataclass(frozen=True)
class Evidence:
    """What is known of a run besides its losses; each ``None`` where it is not.

    Attributes:
        direct: the run beside its direct image.
        twin: what its phase says of its sign.
        null: whether places matter.
        is_twin_open: whether neither a stated defocus nor a clear dark field decided between the twins.
        suggested_step: factor on the step of the run with which a weak object explains more.
        doubted_step: the same with which short fits of a calibration explain more.
        scans: how each of several scans is explained, where some were joined.
        steps: what short fits with other steps leave, of a far field of photons.
    """

    direct: Comparison | None = None
    twin: TwinEvidence | None = None
    null: NullTest | None = None
    is_twin_open: bool = False
    suggested_step: float | None = None
    doubted_step: float | None = None
    scans: tuple[JoinedScanFit, ...] = ()
    steps: StepTest | None = None

    def find_doubts(self) -> tuple[Doubt, ...]:
        """What speaks against the run, the likeliest cause first."""
        doubts = () if self.direct is None else find_doubts(self.direct)
        doubts += () if self.twin is None else doubt_twin(self.twin)
        doubts += doubt_open_twin(self.twin) if self.is_twin_open else ()
        doubts += () if self.suggested_step is None or doubts else doubt_step(self.suggested_step)
        doubts += () if self.doubted_step is None or doubts else doubt_step_by_fits(self.doubted_step)
        doubts += () if self.steps is None or doubts else doubt_steps(self.steps)
        if doubts or self.is_confirmed or self.null is None:
            return doubts
        return doubt_places(self.null)

    @property
    def is_confirmed(self) -> bool:
        """Whether the start cannot have been wrong."""
        has_step = self.suggested_step is None and self.doubted_step is None
        return self.direct is not None and has_step and is_confirmed(self.direct)


def compare_with_direct_image(
    recipe: Reconstruct, model: Ptychography, image: DirectResult, /, *, numbers: np.ndarray | None = None
) -> Comparison:
    """Measure in what a run and its direct image differ, of two twins the one that needs less rotation.

    Args:
        recipe: settled, of the run.
        model: as it ended.
        image: of the same scan.
        numbers: of the model's patterns in the scan of the image, where that was completed.
    """
    optics, fit = image.found.optics, image.found.fit
    stated_places = image.scan.positions if numbers is None else image.scan.positions[numbers]
    turn, scale = find_turn_and_scale(fit_linear_map(stated_places, model.scan.angstrom()))
    depth = optics.wavelength / float(optics.semiangle) ** 2
    stated = compute_stated_defocus(recipe)
    if abs(math.remainder(float(optics.rotation) - turn, 2 * math.pi)) > math.pi / 2:
        optics = optics.get_twin()  # it explains the patterns as well
    return Comparison(
        transposed=None if fit is None else bool(optics.orientation & 4),
        rotation=0.0 if fit is None else math.remainder(float(optics.rotation) - turn, 2 * math.pi),
        step=1.0 if fit is None else float(optics.step) / scale,
        stated=stated,
        defocus=None if fit is None or stated is None else optics.defocus - stated,
        agreement=_correlate(model, image, stated_places),
        gain=_measure_gain(image),
        depth_of_focus=depth,
        contradicts_step=fit is not None and fit.is_step_free,
    )


def _measure_gain(image: DirectResult) -> float:
    """How clearly an image knows its optics: infinite for optics given, 0 where they are not determined."""
    fit = image.found.fit
    if image.found.is_folded:
        return 0.0
    return math.inf if fit is None else fit.gain * fit.is_clear


MIN_SPAN_OF_POSITIONS = 1.0
"""Object pixels between the outermost positions, below which a unit is wrong."""


def doubt_positions(scan: Scan4D, /) -> tuple[Doubt, ...]:
    """Whether positions are all the same or nearly, or a raster's do not lie as its rows and columns do.

    Args:
        scan: as the run models it.
    """
    if len(scan) > 1 and scan.heights is None and not np.ptp(scan.positions, axis=0).any():
        text = "all positions are the same: check the positions of the file, or give others (read: positions)"
        return (Doubt(Verdict.WRONG_START, text),)
    span = float(np.max(np.ptp(scan.positions, axis=0) / scan.window.pixel))
    if len(scan) > 1 and scan.heights is None and span < MIN_SPAN_OF_POSITIONS:
        text = (
            f"all positions lie within {span:.2g} of an object pixel: check the units of positions, distance "
            "and energy first, one may be 1000 times off"
        )
        return (Doubt(Verdict.WRONG_START, text),)
    index = scan.find_raster_places()
    if index is None or min(index.max(0)) < 1:
        return ()
    design = np.column_stack([index, np.ones(len(index))])
    rest = scan.positions - design @ np.linalg.lstsq(design, scan.positions, rcond=None)[0]
    if rest.std() < MAX_SCATTER_OF_RASTER * (scan.positions - scan.positions.mean(0)).std():
        return ()
    rows, columns = index.max(0) + 1
    text = f"positions do not follow the raster of {rows} x {columns}: are they in the order of the patterns?"
    return (Doubt(Verdict.WRONG_START, text),)


def find_doubts(found: Comparison, /) -> tuple[Doubt, ...]:
    """What a comparison says against a run, the likeliest cause first.

    Args:
        found: of `compare_with_direct_image`.
    """
    if found.gain < MIN_GAIN_OF_WITNESS:
        return ()  # it knows nothing
    step = _doubt_step(found)
    orientation = _doubt_orientation(found)  # both images lie along the scan: agreement says nothing of it
    if abs(found.agreement) > MIN_AGREEMENT_TO_CONFIRM and not orientation:
        # a free probe made up for a defocus that is stated wrongly
        text = f"the image is right but for its scale: the direct image wants {step}"
        return (Doubt(Verdict.WRONG_START, text),) if step and found.contradicts_step else ()
    causes = [orientation, _doubt_defocus(found), step]
    doubts = [Doubt(Verdict.WRONG_START, f"the direct image wants {cause}") for cause in causes if cause]
    if abs(found.agreement) < MIN_AGREEMENT:
        text = f"the phase is not that of the direct image (correlation {found.agreement:.2f})"
        doubts.append(Doubt(Verdict.DOUBTFUL, text))
    return tuple(doubts)


def doubt_twin(found: TwinEvidence, /) -> tuple[Doubt, ...]:
    """Whether the phase of a run of electrons is low where matter scatters.

    Args:
        found: of its phase and the dark field.
    """
    dark = found.dark_field or 0.0
    if dark >= 0 or not found.is_safe:
        return ()
    text = (
        "the phase is low where the dark field is bright, as in the twin of the object: state the opposite "
        "defocus with the detector turned by 180 degrees (prepare: flip along both axes)"
    )
    is_sure = found.is_clear and dark <= -MIN_DARK_FIELD_AGAINST
    return (Doubt(Verdict.WRONG_START if is_sure else Verdict.DOUBTFUL, text),)


def doubt_open_twin(found: TwinEvidence | None, /) -> tuple[Doubt, ...]:
    """Whether a run whose twin nothing had decided shows by its phase that it took the right one.

    Args:
        found: of its phase and the dark field; ``None``: neither was looked at.
    """
    if found is not None and found.is_safe:  # if it speaks against the run: see `doubt_twin`
        return ()
    text = (
        "nothing tells this image from its twin, with the opposite phase, turned by 180 degrees, at the "
        "opposite defocus: reconstruct the data file again with probe.focused.semiangle and "
        "probe.focused.defocus stated, the defocus with its sign"
    )
    return (Doubt(Verdict.DOUBTFUL, text),)


def doubt_step(factor: float, /) -> tuple[Doubt, ...]:
    """Whether the step may be wrong by more than a few per cent.

    Args:
        factor: of the step that explains the patterns best, over that of the run.
    """
    if abs(math.log(factor)) < MIN_STEP_TO_DOUBT:
        return ()
    return (Doubt(Verdict.DOUBTFUL, suggest_step(factor)),)


def doubt_step_by_fits(factor: float, /) -> tuple[Doubt, ...]:
    """That short fits explain more with another step, though not by enough for a calibration to take it.

    Args:
        factor: of that step over the one of the run.
    """
    text = (
        f"short fits explain more with a step {100 * (factor - 1):+.1f} % as long: check the magnification, "
        "and whether the sample drifted (which stretches the scan), or reconstruct again with a step "
        f"{factor:.4g} times the one stated (read: step)"
    )
    return (Doubt(Verdict.DOUBTFUL, text),)


def doubt_steps(found: StepTest, /) -> tuple[Doubt, ...]:
    """That short fits explain clearly more with a moving beam, or with a longer or shorter step.

    Args:
        found: of `try_steps`.
    """
    if found.is_motion_better:
        text = (
            "short fits with a beam that moves along the scan line during each exposure leave "
            f"{1 - (found.moving or 0.0):.0%} less of the patterns unexplained, so that the picture is "
            "blurred: state a fly scan (fly: 1, or the share of the time in which the shutter is open), or "
            "look for a stage or beam that moves"
        )
        return (Doubt(Verdict.DOUBTFUL, text),)
    if found.better is not None:
        return (_doubt_factor(1 - found.left[found.better] / found.left[1.0], found.better, None),)
    if found.better_axis is not None:
        axis, factor = found.better_axis
        return (_doubt_factor(1 - found.along[found.better_axis] / found.left[1.0], factor, axis),)
    return ()


def _doubt_factor(share: float, factor: float, axis: int | None) -> Doubt:
    where = "" if axis is None else f" along {AXES[axis]} alone"
    stage = "" if axis is None else ", and the scale of that axis of the stage"
    factors = f"{factor:.4g}" if axis is None else str([*_scale_along(axis, factor)])
    text = (
        f"short fits with steps {100 * (factor - 1):+.0f} % as long{where} leave {share:.0%} less of "
        f"the patterns unexplained: check the units of the positions, distance, energy and detector pixel"
        f"{stage}, or reconstruct again with prepare: scale: {{factor: {factors}}}"
    )
    return Doubt(Verdict.DOUBTFUL, text)


def _scale_along(axis: int, factor: float) -> tuple[float, float]:
    """Factors (y, x) on positions that are scaled along one axis alone."""
    return (factor, 1.0) if axis == 0 else (1.0, factor)


def doubt_places(found: NullTest, /) -> tuple[Doubt, ...]:
    """Whether the places of a run explain its patterns hardly better than those of other patterns.

    Args:
        found: of short fits with both.
    """
    if found.left < MAX_LEFT_OF_NULL:
        return ()
    text = (
        f"short fits explain {max(found.explained, 0):.0%} of the differences between patterns, and "
        f"{max(found.shuffled, 0):.0%} with the positions exchanged among them: check their order, step, "
        "rotation and the defocus"
    )
    return (Doubt(Verdict.DOUBTFUL, text),)


def shuffle_places(recipe: Reconstruct, scan: Scan4D, model: Ptychography, epochs: int, /) -> NullTest | None:
    """Fit some patterns twice from a flat object and the probe of a run, once with their places exchanged.

    Args:
        recipe: settled, of the run.
        scan: as the run models it.
        model: as it ended; it stays as it is.
        epochs: that the run took, for what the test may cost.

    Returns:
        ``None``: a run too short for it, one in several processes or with an object of its own kind, or
        patterns that differ by counting noise only.
    """
    count = min(MAX_PATTERNS_OF_NULL, int(MAX_WORK_OF_NULL * len(scan) * epochs / (2 * EPOCHS_OF_NULL)))
    if count < MIN_PATTERNS_OF_NULL or team().world_size > 1 or recipe.object.name != "pixels":
        return None
    few = select_neighbours(replace(scan, positions=model.scan.angstrom()), count)
    order = np.random.default_rng(recipe.seed).permutation(len(few))
    mixed = replace(few, positions=few.positions[order], grid=None)
    right, wrong = (_fit_shortly(recipe, one, model, EPOCHS_OF_NULL) for one in (few, mixed))
    if right.explained is None or wrong.explained is None:
        return None
    return NullTest(right.explained, wrong.explained, len(few))


def try_steps(recipe: Reconstruct, scan: Scan4D, model: Ptychography, /) -> StepTest | None:
    """Fit some patterns from a flat object and the probe of a run: its positions, closer, and farther apart.

    Where neither is better, positions along each axis alone are tried; where these follow even scan lines,
    also a beam that moves.

    Args:
        recipe: settled, of the run.
        scan: as the run models it.
        model: as it ended; it stays as it is.

    Returns:
        ``None``: not a far field of photons on one slice, several scans or processes, an engine, few
        patterns, or such as differ by counting noise only.
    """
    is_far = scan.geometry.beam == "photon" and not scan.geometry.near and scan.heights is None
    is_plain = recipe.object.name == "pixels" and not model.object.gaps and scan.scan_numbers is None
    is_plain = is_plain and not recipe.uses_engine
    if not (is_far and is_plain) or team().world_size > 1 or len(scan) < MIN_PATTERNS_OF_STEPS:
        return None
    few = select_neighbours(replace(scan, positions=model.scan.angstrom()), MAX_PATTERNS_OF_STEPS)
    left = {factor: _measure_left(recipe, few, model, (factor, factor)) for factor in STEPS}
    if not all(map(math.isfinite, left.values())):
        return None
    found = StepTest(left)
    if found.better is None:
        along = {
            (axis, factor): _measure_left(recipe, few, model, _scale_along(axis, factor))
            for axis in range(len(AXES))
            for factor in STEPS_OF_AXIS
        }
        found = replace(found, along=along)
    if not recipe.fly and _is_path_even(scan.positions):
        found = replace(found, moving=_try_motion(recipe, few, model))
    return found


def _try_motion(recipe: Reconstruct, scan: Scan4D, model: Ptychography) -> float | None:
    """What a beam that moves leaves over what one at rest does; ``None``: there are no scan lines."""
    try:
        rest, moving = (
            _measure_left(one, scan, model, epochs=EPOCHS_OF_MOTION)
            for one in (recipe, recipe.model_copy(update={"fly": 1.0}))
        )
    except BadInput:  # of so few there are no lines
        return None
    return moving / rest if math.isfinite(moving / rest) else None


def _is_path_even(positions: np.ndarray) -> bool:
    """Whether a stage may have gone along lines without a stop: steps between neighbours are alike."""
    try:
        steps = np.hypot(*estimate_motion(positions, 1.0).T)
    except BadInput:
        return False
    return float(steps.std()) < MAX_SPREAD_OF_PATH * float(np.median(steps))


def _measure_left(
    recipe: Reconstruct,
    scan: Scan4D,
    model: Ptychography,
    factors: tuple[float, float] = (1.0, 1.0),
    *,
    epochs: int = EPOCHS_OF_STEPS,
) -> float:
    """What a short fit with positions (y, x) times factors leaves unexplained; NaN: not known."""
    moved = replace(scan, positions=np.multiply(factors, scan.positions), grid=None)
    explained = _fit_shortly(recipe, moved, model, epochs).explained
    return math.nan if explained is None else max(1 - explained, 1e-4)


def _fit_shortly(recipe: Reconstruct, scan: Scan4D, model: Ptychography, epochs: int) -> PatternMisfit:
    """What a short fit explains of patterns held out; positions stay, as moving makes up for wrong places."""
    still = dict.fromkeys(model.scan.parts(), 0.0)
    changes = {"epochs": epochs, "patience": None, "changes": (), "rates": {**recipe.rates, **still}}
    batch = limit_batch_size(recipe.batch, len(scan))  # that of the run leaves few updates of few patterns
    short = recipe.model_copy(update={**changes, "batch": batch})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        fitted = short.build_model(scan).to(device.choose_device(recipe.device))
        probe = model.probe.state_dict()
        own = fitted.probe.state_dict()
        if {name: one.shape for name, one in probe.items()} == {name: one.shape for name, one in own.items()}:
            fitted.probe.load_state_dict(probe)
        level = Level.of(short.with_usual_noise(), scan, fitted)
        patterns = split_patterns(len(scan), HOLDOUT_OF_NULL, recipe.seed)
        deque(fit_level(level, short, patterns, epochs), maxlen=0)
    return level.measure_misfit(torch.as_tensor(patterns[1]))


def is_confirmed(found: Comparison, /) -> bool:
    """Whether the direct image is like the image of the run, so that its start cannot be wrong.

    Args:
        found: of `compare_with_direct_image`.
    """
    sure = found.gain >= MIN_GAIN_OF_WITNESS and not found.contradicts_step
    return sure and found.agreement > MIN_AGREEMENT_TO_CONFIRM and not _doubt_orientation(found)


def _doubt_orientation(found: Comparison) -> str:
    if found.transposed:
        return "the detector transposed (prepare: transpose)"
    if abs(found.rotation) > MAX_ROTATION:
        return f"the scan turned by {math.degrees(found.rotation):.1f} degrees (prepare: rotate)"
    return ""


def _doubt_defocus(found: Comparison) -> str:
    if found.defocus is None or abs(found.defocus) < MAX_DEFOCUS * found.depth_of_focus:
        return ""
    if found.stated and 1.5 < -found.defocus / found.stated < 2.5:
        return "the opposite sign of the defocus"
    return f"{LENGTH.show(float(f'{found.defocus:.3g}'))} more defocus"


def _doubt_step(found: Comparison) -> str:
    if abs(math.log(max(found.step, 1e-3))) < MAX_STEP:
        return ""
    return f"a step {100 * (found.step - 1):+.0f} % as long (prepare: scale)"


def move_along(before: np.ndarray, after: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Places moved as positions were, by the affine map nearest to all of them."""
    middle = before.mean(0)
    linear = fit_linear_map(before, after)
    return (places - middle) @ linear + after.mean(0)


def _correlate(model: Ptychography, image: DirectResult, stated: np.ndarray) -> float:
    """Correlation of both phases at the pixels of the direct image, without slow changes, perhaps descan.

    Args:
        model: as it ended.
        image: of the same scan.
        stated: positions of the model's patterns as the image has them.
    """
    from scipy.ndimage import gaussian_filter, map_coordinates

    direct = image.found.image.phase.double().numpy()
    room = model.scan.canvas
    wave = model.object.transmission().detach().cpu().numpy()
    phase = np.angle(wave).sum(1).mean(0)
    spacing = np.sqrt(np.prod(np.ptp(image.scan.positions, axis=0)) / max(direct.size, 1))
    smooth = gaussian_filter(phase, [0.3 * spacing / pixel for pixel in room.pixel], mode="nearest")
    places = model.scan.angstrom()
    if image.found.positions is not stated:  # no raster, or one with gaps
        places = move_along(stated, places, image.found.positions)
    index = (places - np.asarray(room.origin)) / np.asarray(room.pixel)
    ours = map_coordinates(smooth, index.T, order=1, mode="nearest").reshape(direct.shape)
    slow = [n / 6 for n in direct.shape]
    edge = tuple(slice(min(2, n // 4), n - min(2, n // 4)) for n in direct.shape)
    one, two = (
        (image - gaussian_filter(image, slow, mode="nearest"))[edge].ravel() for image in (ours, direct)
    )
    one, two = one - one.mean(), two - two.mean()
    return float(one @ two / max(float(np.linalg.norm(one) * np.linalg.norm(two)), 1e-300))
