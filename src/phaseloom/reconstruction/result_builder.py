"""What a job has come to: the Result of a model as it stands, and what is followed through a run."""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import torch
from torch import Tensor

from phaseloom.calibration.hologram_start import measure_agreement
from phaseloom.calibration.one_material import RatioEvidence, SlowDetails
from phaseloom.calibration.raster import find_completed
from phaseloom.calibration.twin_of_run import judge_twin_of_run
from phaseloom.data.counts import find_bright_patterns, list_own_patterns, split_indices
from phaseloom.data.scan import Scan4D
from phaseloom.direct.holograms import HologramImage
from phaseloom.direct.recipe import DirectResult
from phaseloom.errors import BadInput
from phaseloom.files import make_folder
from phaseloom.fitting import verdict as verdicts
from phaseloom.fitting.distributed import team
from phaseloom.fitting.loop import Progress
from phaseloom.fitting.newton import GaussNewton
from phaseloom.fitting.outcome import Advice, Doubt, Judgement, Verdict
from phaseloom.fitting.schedule import Every
from phaseloom.physics.modes import orthogonalise, powers
from phaseloom.physics.patches import Box
from phaseloom.plot.report import trust_facts
from phaseloom.ptycho.curvature import sum_illumination
from phaseloom.ptycho.illumination import AberratedProbe, Probe
from phaseloom.ptycho.model import Ptychography, gather_model, is_in_tiles
from phaseloom.ptycho.probes.opr import RelaxedProbe
from phaseloom.ptycho.propagators import EnergyFlight
from phaseloom.reconstruction import evidence
from phaseloom.reconstruction.level import Level
from phaseloom.reconstruction.recipe import Reconstruct
from phaseloom.reconstruction.start import Start
from phaseloom.reconstruction.uncertainty import estimate_uncertainty
from phaseloom.result import Provenance, Result
from phaseloom.spec import Call
from phaseloom.trust import describe_trust
from phaseloom.units import LENGTH

__all__ = [
    "build_images",
    "build_result",
    "describe_scan",
    "describe_start",
    "gather_evidence",
    "is_due",
    "judge_run",
    "judge_whole_run",
    "list_fitted_numbers",
    "measure_joined_scans",
    "summarise_state",
    "summary_lines",
    "write_outputs",
]

log = logging.getLogger(__name__)


MIN_EPOCHS_TO_DOUBT = 8
"""Epochs from which a run is compared with its direct image: before, it may not look like anything yet."""

MIN_EPOCHS_FROM_IMAGE = 2
"""The same of a run that began with an image."""


class Underway(Protocol):
    """What a result is built from."""

    recipe: Reconstruct
    start: Start | None
    level: Level
    directory: Path | None

    @property
    def scan(self) -> Scan4D:
        """The data."""
        ...

    @property
    def model(self) -> Ptychography:
        """The model."""
        ...

    @property
    def progress(self) -> Progress:
        """How far the fit has come."""
        ...

    @property
    def first_image(self) -> DirectResult | None:
        """The direct image of the scan, where there is one."""
        ...

    @property
    def hologram_images(self) -> Sequence[HologramImage]:
        """The direct images that a near-field run is compared with; none of others."""
        ...

    @property
    def ratio_evidence(self) -> RatioEvidence | None:
        """Whether a near-field run tells phase from absorption; ``None`` of others."""
        ...

    @property
    def slow_details(self) -> SlowDetails | None:
        """How much of its slow details a near-field run sees; ``None`` of others."""
        ...

    @property
    def wants_evidence(self) -> bool:
        """Whether anybody reads the verdict."""
        ...

    @property
    def evidence(self) -> evidence.Evidence:
        """What speaks for and against the run besides its losses."""
        ...

    def measure_explained(self) -> tuple[float, float] | None:
        """The share of what differs between patterns held out that the model explains, and its error."""
        ...

    def with_model(self, model: Ptychography, /) -> "Underway":
        """The same run as another model has it, to look at."""
        ...

    def advice(self) -> list[Advice]:
        """What the run should make its user do."""
        ...

    def to_text(self) -> str:
        """The parameter file that repeats the run."""
        ...


@dataclass(frozen=True, eq=False)
class _Images:
    """Object and probe of a model, scaled so that the transmission of vacuum is one.

    Attributes:
        states: of the object, ``(state, slice, y, x)``.
        occupancies: of the states.
        probe: ``(mode, y, x)``, orthogonal; behind a sample that moves along the beam at its middle height.
        modes: the same on the device, without the scale.
    """

    states: np.ndarray
    occupancies: np.ndarray
    probe: np.ndarray
    modes: Tensor

    @classmethod
    @torch.no_grad()
    def of(cls, model: Ptychography, coverage: np.ndarray) -> "_Images":
        """As the model stands."""
        scale = model.median_modulus(coverage)  # the probe takes it over
        modes = orthogonalise(model.probe.modes())
        levelled = modes if model.heights is None else model.heights.fly_to_mean_height(modes)
        return cls(
            states=model.object.transmission().cpu().numpy() / scale[:, None, None],
            occupancies=model.object.occupancy.cpu().numpy(),
            probe=levelled.cpu().numpy() * np.prod(scale),
            modes=modes,
        )

    def mean_object(self) -> np.ndarray:
        """Object ``(slice, y, x)``; of several states their mean."""
        if len(self.occupancies) == 1:
            return self.states[0]
        return np.einsum("s,szyx->zyx", self.occupancies, self.states)


def build_result(job: Underway, /) -> Result:
    """The reconstruction as it stands.

    Of an object in tiles the main process has it whole; the results of the others hold their tile of it.
    """
    residuals = job.level.likelihood.measure_residuals(team().all_reduce)
    if not is_in_tiles(job.model):
        return _build_whole(job, residuals)
    run = _gather_run(job)
    return _cut_result(None if run is None else _build_whole(run, residuals), job.model)


def _gather_run(job: Underway) -> Underway | None:
    """The run with its whole object, in the main process; ``None`` in others."""
    model = gather_model(job.model)
    return None if model is None else job.with_model(model)


def _cut_result(whole: Result | None, model: Ptychography) -> Result:
    """A result that the main process has whole; in the others it holds what these hold of the object."""
    tiling = model.object.canvas.tiling
    assert tiling is not None
    parts: list[Any] = [None] * team().world_size
    if whole is not None:
        parts[1:] = [_cut_to_box(whole, box) for box in tiling.held[1:]]
    found = [None]
    torch.distributed.scatter_object_list(found, parts, 0)
    return whole or cast("Result", found[0])


def _cut_to_box(result: Result, box: Box) -> Result:
    """The part of a result in a box of its object."""
    where = (..., slice(box[0], box[1]), slice(box[2], box[3]))
    states = result.object_modes
    first = [o + at * p for o, at, p in zip(result.origin, box[::2], result.pixel, strict=True)]
    return replace(
        result,
        object=result.object[where].copy(),
        coverage=None if result.coverage is None else result.coverage[where].copy(),
        object_modes=None if states is None else states[where].copy(),
        origin=(first[0], first[1]),
        uncertainty=None,
    )


def judge_whole_run(job: Underway, /) -> Verdict:
    """The verdict of `judge_run`, which all processes are told where the object is in tiles."""
    if not is_in_tiles(job.model):
        return judge_run(job).verdict
    run = _gather_run(job)
    found = team().broadcast(None if run is None else judge_run(run).verdict)
    assert found is not None
    return found


def _build_whole(job: Underway, residuals: Mapping[str, float]) -> Result:
    model = job.model
    room = model.scan.canvas
    coverage = model.coverage()
    images = _Images.of(model, coverage)
    with torch.no_grad():
        mixed = None
        if isinstance(model.probe, RelaxedProbe):
            mixed = model.probe.mixtures_of(images.modes).cpu().numpy()
            mixed = mixed * _measure_scale_at_energies(model, coverage)
        background = model.detector.display(model.detector.background()).cpu().numpy()
    several = len(images.occupancies) > 1
    gaps = model.propagator.distances().detach().cpu().double().tolist()
    seed = job.recipe.seed
    data = str(job.recipe.found.get("data", ""))
    said = judge_run(job)
    return Result(
        object=images.mean_object(),
        probe=images.probe,
        positions=model.scan.angstrom(),
        positions_start=job.scan.positions,
        pixel=room.pixel,
        origin=room.origin,
        coverage=coverage,
        geometry=job.scan.geometry,
        thickness=float(np.mean(gaps)) if gaps else 0.0,
        gaps=tuple(gaps),
        object_modes=images.states if several else None,
        occupancies=images.occupancies if several else None,
        tilts=model.propagator.tilts().detach().cpu().double().numpy(),
        descan=model.propagator.deflections(),
        heights=None if model.heights is None else model.heights.angstrom(),
        heights_start=None if model.heights is None else job.scan.heights,
        opr_weights=mixed,
        scan_numbers=job.scan.scan_numbers,
        scan_offsets=job.scan.scan_offsets,
        scan_energies=list_energies(job.scan, model),
        scans=_list_scans(job),
        grid=job.scan.grid,
        weights=model.detector.weights.detach().cpu().numpy(),
        background=background if background.any() else None,
        history=job.progress.history,
        stopped=job.progress.stopped,
        stop_reason=job.progress.stop.reason.value,
        verdict=str(said),
        verdict_code=said.verdict.value,
        metrics=_metrics(job, residuals),
        recipe=job.to_text(),
        provenance=Provenance.now(seed=seed, data=data, file=job.recipe.file.name),
        start={} if job.start is None else describe_start(job.start) | {"tried": job.start.tried},
        title=job.recipe.title or job.scan.metadata.get("title", "") or job.recipe.file.stem,
        examples=_examples(job),
        advice=[advice for advice in job.advice() if not said.includes(advice)],
        uncertainty=estimate_uncertainty(job, verdict=said.verdict),
        metadata=dict(job.scan.metadata),
    )


def _measure_scale_at_energies(model: Ptychography, coverage: np.ndarray) -> Any:
    """What a scale of the object takes from the probe of each pattern beyond itself ``(n, 1, 1)``, or one."""
    if not isinstance(model.propagator, EnergyFlight):
        return 1.0
    scale = float(np.prod(model.median_modulus(coverage)))
    powers = model.propagator.all_ratios()[model.propagator.numbers, 1].cpu().numpy()
    return (scale ** (powers - 1))[:, None, None]


@torch.no_grad()
def list_energies(scan: Scan4D, model: Ptychography, /) -> np.ndarray | None:
    """Energy of each scan (eV), with its ratios of phase and absorption ``(scan, 3)``; ``None``: one energy.

    Args:
        scan: of several energies, or of one.
        model: of the scan.
    """
    if scan.scan_wavelengths is None or not isinstance(model.propagator, EnergyFlight):
        return None
    known = model.propagator.wavelengths
    ratios = model.propagator.all_ratios().cpu().double().numpy()
    rows = [known.index(one) for one in scan.scan_wavelengths.tolist()]
    energies = [replace(scan.geometry, wavelength=known[row]).energy for row in rows]
    return np.column_stack([energies, ratios[rows]])


def judge_run(job: Underway, /) -> Judgement:
    """How far the run as it stands may be trusted; only a noise model has a floor."""
    floor = 1.0 if job.level.likelihood.has_noise_model else 0.0
    progress = job.progress
    newton = 1.0 if isinstance(progress.optimizer, GaussNewton) else math.inf
    end = {
        "stopped": progress.stop,
        "since": progress.incomparable_epochs,
        "mean_pattern_loss": job.level.likelihood.mean_pattern_loss,
    }
    judge = partial(verdicts.judge_fit, progress.history, **end, floor=floor, newton=newton)
    judgement = judge()
    if judgement.verdict is Verdict.BROKE_DOWN and _count_bright_patterns(job.scan):
        fix = (
            "first leave out the patterns that were named as far brighter than the others (prepare: without)"
        )
        return verdicts.Judgement(Verdict.BROKE_DOWN, f"broke down: {progress.stop}: {fix}")
    judgement = _judge_by_explained_share(job, judgement)
    if _is_early(job) or judgement.verdict not in verdicts.VERDICTS_TO_DOUBT:
        return _judge_start_of_scans(job, judgement)
    if doubts := evidence.doubt_positions(job.scan):
        return verdicts.add_doubts(judgement, doubts)
    doubts = (*job.evidence.find_doubts(), *_doubt_holograms(job)) or _doubt_unexplained(job, judgement)
    doubts += evidence.doubt_scans(job.evidence.scans, judgement, len(progress.history))
    if not doubts and judgement.verdict is Verdict.CONVERGED:
        doubts = _doubt_converged_holograms(job)
    if not doubts and job.evidence.is_confirmed:
        return judge(is_start_confirmed=True)
    if not doubts and judgement.verdict is Verdict.WRONG_START:
        doubts = _doubt_model_of_holograms(job)
    return verdicts.add_doubts(judgement, _keep_wrong_start(job, judgement, doubts))


def _doubt_converged_holograms(job: Underway) -> tuple[Doubt, ...]:
    """What speaks against a near-field run that has converged, the likeliest cause alone."""
    doubts: tuple[Doubt, ...] = ()
    if (ratios := job.ratio_evidence) is not None:
        doubts = _doubt_ratio(ratios, job.recipe.found["holograms"].get("ratio_margin"))
    if not doubts and (found := job.slow_details) is not None:
        doubts = _doubt_slow_details(found)
    return doubts


def _judge_start_of_scans(job: Underway, judgement: Judgement) -> Judgement:
    """Overfitting or long steps of joined scans that have nothing right to go on from."""
    if _is_early(job) or judgement.verdict not in (Verdict.OVERFITTING, Verdict.STEPS_TOO_LONG):
        return judgement
    doubts = evidence.doubt_scans(job.evidence.scans, judgement, len(job.progress.history))
    wrong = [one for one in doubts if one.verdict is Verdict.WRONG_START]
    if not wrong:
        return judgement
    text = f"wrong start: {'; '.join(one.sentence for one in wrong)} (by the losses alone, {judgement})"
    return Judgement(Verdict.WRONG_START, text)


ENERGY_NUMBERS = ("energy (eV)", "phase ratio", "absorption ratio")
"""What is kept of each of several scans of different energies."""


def _list_scans(job: Underway) -> list[dict[str, Any]]:
    """Numbers and verdict of each of several scans, as a result keeps them."""
    scans = () if _is_early(job) else job.evidence.scans
    if not scans:
        return []
    judged = evidence.judge_scans(scans, judge_run(job), len(job.progress.history))
    energies = list_energies(job.scan, job.model)
    rows = {} if energies is None else dict(enumerate(energies.tolist()))
    return [
        one.to_tree()
        | {"verdict": str(said), "verdict_code": said.verdict.value}
        | dict(zip(ENERGY_NUMBERS, rows.get(one.number, ()), strict=False))
        for one, said in zip(scans, judged, strict=True)
    ]


def measure_joined_scans(job: Underway, index: np.ndarray, /) -> list[evidence.JoinedScanFit]:
    """How each of several scans is explained as the run stands (`evidence.measure_scans`).

    Args:
        job: of which the recipe names the files.
        index: of the patterns that are looked at.
    """
    joined = [Path(call.values["path"]) for call in job.recipe.prepare if call.name == "join"]
    return evidence.measure_scans(job.level, [one.name for one in (job.recipe.file, *joined)], index)


def _measure_whole_scans(job: Underway) -> tuple[evidence.JoinedScanFit, ...]:
    """All patterns of each scan, beside those of the last epoch that held some out."""
    found = measure_joined_scans(job, np.arange(len(job.scan)))
    done = job.progress.history[: job.progress.result_epoch]
    held = next((event["scans"] for event in reversed(done) if event.get("scans")), [])
    known = {one["number"]: one for one in held}
    whole = []
    for one in found:
        own = known.get(one.number, {})
        share = own.get("explained")
        error = own.get("error of explained", 0.0)
        explained = None if share is None else (share, error)
        whole.append(replace(one, holdout=own.get("loss"), explained=explained))
    return tuple(whole)


def _count_bright_patterns(scan: Scan4D) -> int:
    """How many patterns of this process are far brighter than the others."""
    parts = split_indices(scan.counts, list_own_patterns(scan.counts))
    totals = [scan.counts[index][:, scan.mask].sum(1, dtype=np.float64) for index in parts]
    return len(find_bright_patterns(np.concatenate(totals)))


def _is_early(job: Underway) -> bool:
    """Whether the object may not look like anything yet."""
    found = job.recipe.found
    is_image = found.get("start", {}).get("taken", "flat") != "flat" or found.get("direct", {}).get("taken")
    return len(job.progress.history) < (MIN_EPOCHS_FROM_IMAGE if is_image else MIN_EPOCHS_TO_DOUBT)


MIN_EPOCHS_TO_EXPLAIN = 15
MIN_LOSS_OF_UNEXPLAINED = 2.0
MIN_EXPLAINED_WHILE_FALLING = 0.15
"""Share of what differs between patterns held out, below which a falling loss does not promise anything."""

MIN_EXPLAINED_OF_PHOTONS = 0.95
MAX_HOLDOUT_OF_EXPLAINED = 1.3
MAX_EXPLAINED_OF_DOUBTED_PHOTONS = 0.5
"""Of far fields of photons: share from which a gap between losses is no doubt, up to which hold-out loss, and
share below which, by two standard errors, a run is doubted. Of 24 right runs 11 were doubtful for that gap, 4
of which explained more than 0.95 at lower losses; the same with the detector turned over explained 0.71 at
most (two of these were *converged* with 0.10 and 0.22). Others with steps a quarter too long explained up to
0.95, at losses of 1.29 and more."""


MAX_MEAN_LOSS_OF_NOISE = 1.2
"""Loss of the mean pattern alone up to which patterns that do not differ beyond noise are of few photons. It
was 1.01 to 1.09 of 150 to 1000 photons a pattern, whose images had correlations of 0.09 to 0.65 with the
truth, and 1.26 of 3000 (0.8). Of a scan whose one pattern held out has none to differ from it is higher."""

FEW_PHOTONS = (
    "too few photons: take more counts (longer exposures, a denser scan, several scans by prepare: join), "
    "or hold the noise down (noise: poisson, penalties: tv)"
)


def _judge_by_explained_share(job: Underway, judgement: Judgement) -> Judgement:
    """A judgement by losses of a far field of photons, with the share explained of patterns held out."""
    geometry = job.scan.geometry
    if geometry.beam != "photon" or geometry.near or job.scan.scan_numbers is not None or _is_early(job):
        return judgement
    losses = f"(by the losses alone, {judgement})"
    if text := _describe_unexplained_photons(job, judgement.verdict):
        return Judgement(Verdict.DOUBTFUL, f"doubtful: {text} {losses}")
    share, _ = _get_last_explained(job.progress.history)
    held = job.progress.holdout_loss
    if judgement.verdict is not Verdict.DOUBTFUL or held is None:
        return judgement
    if not share >= MIN_EXPLAINED_OF_PHOTONS or held > MAX_HOLDOUT_OF_EXPLAINED:
        return judgement
    text = f"converged: {share:.0%} of what differs between patterns held out is explained {losses}"
    return Judgement(Verdict.CONVERGED, text)


def _describe_unexplained_photons(job: Underway, verdict: Verdict) -> str:
    """Why patterns held out do not confirm a run that losses call right, and what helps; empty: they do."""
    if _differ_by_noise_only(job) and verdict in VERDICTS_OF_NOISE:
        return (
            "patterns held out differ by no more than counting noise, and show nothing of the object: "
            f"{FEW_PHOTONS}"
        )
    share, error = _get_last_explained(job.progress.history)
    if not math.isfinite(share) or verdict not in (Verdict.CONVERGED, Verdict.LEVELLED):
        return ""
    if share + 2 * error <= MAX_EXPLAINED_OF_DOUBTED_PHOTONS:
        return (
            f"{max(share, 0):.0%} of what differs between patterns held out is explained: too few counts, or "
            "a wrong start (defocus, orientation of the detector, positions)"
        )
    if share < 2 * error:
        return (
            f"patterns held out show nothing of the object for sure ({max(share, 0):.0%} ± "
            f"{100 * error:.0f} % of what differs between them is explained): {FEW_PHOTONS}"
        )
    return ""


VERDICTS_OF_NOISE = (Verdict.CONVERGED, Verdict.LEVELLED, Verdict.STILL_FALLING, Verdict.OVERFITTING)
"""Verdicts that promise a picture, now or after other epochs, which counts that are too few do not hold."""


def _differ_by_noise_only(job: Underway) -> bool:
    """Whether patterns held out were looked at, and differ from each other by no more than counting noise."""
    shares = [event["explained"] for event in job.progress.history if "explained" in event]
    if not shares or any(shares):
        return False
    return 0 < job.level.likelihood.mean_pattern_loss < MAX_MEAN_LOSS_OF_NOISE


def _get_last_explained(history: Sequence[Mapping[str, Any]]) -> tuple[float, float]:
    """Share explained of patterns held out, and its error, when it was last measured; NaN: it was not."""
    known = (event["explained"] for event in reversed(history) if event.get("explained"))
    return next(known, (math.nan, math.nan))


def _doubt_unexplained(job: Underway, judgement: Judgement) -> tuple[Doubt, ...]:
    """A loss that still falls, far from the noise, with next to nothing explained of patterns held out."""
    done = job.progress.history
    share, _ = _get_last_explained(done)
    if judgement.verdict is not Verdict.STILL_FALLING or len(done) < MIN_EPOCHS_TO_EXPLAIN:
        return ()
    if not share < MIN_EXPLAINED_WHILE_FALLING or done[-1]["loss"] < MIN_LOSS_OF_UNEXPLAINED:
        return ()
    text = (
        f"after {len(done)} epochs {max(share, 0):.0%} of what differs between patterns held out is "
        "explained: check that the positions are those of the patterns (order, axes, signs, unit), then "
        "defocus, orientation of the detector, energy and pixel size"
    )
    return (Doubt(Verdict.WRONG_START, text),)


MIN_EXPLAINED_OF_HOLOGRAMS = 0.8
"""Share of what differs between holograms, beyond noise, from which on a start is not called wrong for what
is left: two right images had 0.82 and 0.94."""


MAX_EXPLAINED_OF_WRONG_START = 0.5
"""The same, up to which a start that losses call wrong is so whatever else is doubted: a near field whose
positions were exchanged had 0.03 and was *doubtful*."""


def _measure_explained_of_holograms(job: Underway) -> float | None:
    """Share of what differs between holograms, beyond noise, that a run explains; ``None`` of others."""
    mean = job.level.likelihood.mean_pattern_loss
    if not job.hologram_images or mean <= 1 or not job.progress.history:
        return None
    last = job.progress.history[-1]
    left = max(last["loss"], last.get("holdout") or 0.0)
    return 1 - (left - 1) / (mean - 1)


def _keep_wrong_start(job: Underway, judgement: Judgement, doubts: Sequence[Doubt]) -> tuple[Doubt, ...]:
    """Doubts of a near field, as reasons for a wrong start where losses say so and little is explained."""
    if not doubts or judgement.verdict is not Verdict.WRONG_START:
        return tuple(doubts)
    explained = _measure_explained_of_holograms(job)
    if explained is None or explained > MAX_EXPLAINED_OF_WRONG_START:
        return tuple(doubts)
    return tuple(replace(one, verdict=Verdict.WRONG_START) for one in doubts)


def _doubt_model_of_holograms(job: Underway) -> tuple[Doubt, ...]:
    """A loss that stays high though nearly all that differs between holograms is explained.

    A near field begins near its end, by its direct image, so that a small fall says nothing of its start.
    """
    explained = _measure_explained_of_holograms(job)
    if explained is None or explained < MIN_EXPLAINED_OF_HOLOGRAMS:
        return ()
    text = (
        f"{explained:.0%} of what differs between holograms is explained, but the loss stays high: the model "
        "lacks something, such as the blur of source or detector (phaseloom improve looks for it), or the "
        "distance is a little off"
    )
    return (Doubt(Verdict.DOUBTFUL, text),)


MIN_HOLOGRAM_AGREEMENT = 0.85
"""Correlation with its direct image below which a near-field run is doubted; right ones have 0.9 and more."""


MAX_DISTANCE_CHANGE = {"rings": 0.16, "fits": 0.35}
"""Share by which rings, and fits, may correct a distance without a doubt: with rings one that was 7 % off
became 20 % off; fits halved a right one of holograms whose background had been subtracted twice."""

MIN_GAIN_OF_RATIO = 0.002
"""Loss in units of shot noise by which another ratio has to be worse. It was 0.0025 to 0.14 of scans whose
distance and image were right, and up to 0.0015 where the ratio was wrong."""

MAX_AGREEMENT_OF_RATIOS = 0.99
"""Correlation of the images with both ratios, above which it does not matter."""


MIN_RATIO_MARGIN = 0.001
"""Share by which starts with other ratios end higher, from which on these are told apart: a random object of
110 counts, whose image correlated with the truth by 0.88, was *converged* with 0.00003."""


def _doubt_ratio(found: RatioEvidence, margin: float | None) -> tuple[Doubt, ...]:
    """Whether phase and absorption of a near-field object are told apart, in the end and at the start."""
    is_told = found.gain > MIN_GAIN_OF_RATIO and (margin is None or margin > MIN_RATIO_MARGIN)
    if is_told or found.agreement > MAX_AGREEMENT_OF_RATIOS:
        return ()
    text = (
        "the holograms hardly tell phase from absorption: with another beta / delta they fit as well, and "
        "slow details differ: state an object without absorption (object: pixels: kind: phase), or take more "
        "counts or holograms at several distances"
    )
    return (Doubt(Verdict.DOUBTFUL, text),)


MIN_CORRELATION_OF_SLOW_DETAILS = 0.9
"""Of an object and what shot noise leaves of it. Two phase objects whose images were wrong had 0.78 and 0.67,
and were *converged*; right ones had 0.97."""


def _doubt_slow_details(found: SlowDetails) -> tuple[Doubt, ...]:
    """Whether slow details of a near-field object are a guess of its prior."""
    if found.correlation > MIN_CORRELATION_OF_SLOW_DETAILS:
        return ()
    wider = (
        "slow details"
        if found.period is None
        else f"details wider than {LENGTH.show(found.period, digits=2)}"
    )
    text = (
        f"{wider} are hardly in the holograms: an image of these counts correlates by "
        f"{found.correlation:.2f} with a usual object; take more counts, or holograms farther away"
    )
    return (Doubt(Verdict.DOUBTFUL, text),)


def _doubt_holograms(job: Underway) -> tuple[Doubt, ...]:
    """What a near-field run leaves open."""
    said = job.recipe.found.get("holograms")
    if not job.wants_evidence or not job.hologram_images:
        return ()
    agreement = measure_agreement(job.model, job.hologram_images)
    differs = Doubt(
        Verdict.DOUBTFUL, f"the phase is not that of the direct image (correlation {agreement:.2f})"
    )
    if said is None:
        return () if agreement > MIN_HOLOGRAM_AGREEMENT else (differs,)
    doubts = []
    by = "fits" if said.get("is_distance_fitted") else "rings"
    if not said["is_shown"]:
        text = "the holograms do not show their distance: check it, or take holograms farther away"
        doubts.append(Doubt(Verdict.DOUBTFUL, text))
    elif abs(change := said.get("distance_change", 0.0)) > MAX_DISTANCE_CHANGE[by]:
        text = f"the {by} of the holograms want an effective distance {change:+.0%} off that stated: check it"
        doubts.append(Doubt(Verdict.DOUBTFUL, text))
    if not said.get("is_pixel_shown", True):
        text = "the holograms do not show their magnification: check distance, focus and positions"
        doubts.append(Doubt(Verdict.DOUBTFUL, text))
    # the direct image of several heights is that of their mean
    if not agreement > MIN_HOLOGRAM_AGREEMENT and not said.get("has_heights"):
        doubts.append(differs)
    return tuple(doubts)


def gather_evidence(job: Underway, /) -> evidence.Evidence:
    """Look at direct image and dark field of an electron raster, and at exchanged places of a run that ended.

    The first epochs are not looked at, as the object may not look like anything yet.
    """
    progress = job.progress
    if _is_early(job) or not job.wants_evidence:
        return evidence.Evidence()
    direct, twin, null, steps = None, None, None, None
    step = job.recipe.found.get("suggested_step")
    if (image := job.first_image) is not None:
        numbers = find_completed(job.scan)
        direct = evidence.compare_with_direct_image(job.recipe, job.model, image, numbers=numbers)
        found = image.found
        if found.fit is not None and found.fit.suggested_step is not None:
            step = found.fit.suggested_step * direct.step / float(found.optics.step)
        semiangle = float(found.optics.semiangle)
        stated, places = image.scan.positions, None
        if numbers is not None:
            places = evidence.move_along(stated[numbers], job.model.scan.angstrom(), stated)
        twin = judge_twin_of_run(
            image.scan, job.model, semiangle=semiangle, survey=found.survey, positions=places
        )
    stop = progress.stop
    if progress.epoch >= job.recipe.epochs or stop.is_settled or stop.is_requested:
        null = evidence.shuffle_places(job.recipe, job.scan, job.model, progress.epoch)
        steps = evidence.try_steps(job.recipe, job.scan, job.model)
    is_twin_open = "twin" in job.recipe.found.get("undecided", ())
    doubted = job.recipe.found.get("doubted_step")
    scans = _measure_whole_scans(job)
    return evidence.Evidence(direct, twin, null, is_twin_open, step, doubted, scans, steps)


def list_fitted_numbers(model: Ptychography, /) -> dict[str, list[float]]:
    """Numbers of a run that its parameter file gives a start for only, as they are now.

    Args:
        model: of the run.
    """
    if not model.detector.parts()["blur"]:
        return {}
    return {"blur (pixels)": [float(f"{one:.4g}") for one in model.detector.blur()]}


@torch.no_grad()
def summarise_state(model: Ptychography, /) -> dict[str, Any]:
    """What is followed besides losses: thickness, tilt, defocus, heights, optics, powers of the modes."""
    found: dict[str, Any] = {"mode powers": powers(model.probe.modes()).cpu().tolist()}
    if len(model.propagator.gaps):
        found["thickness (A)"] = float(model.propagator.distances().mean())
        found["tilt (mrad)"] = model.propagator.tilt.mean(0).cpu().tolist()
    if isinstance(model.probe, Probe) and model.probe.focus.requires_grad:
        found["defocus added (A)"] = float(model.probe.focus) * model.probe.unit
    if isinstance(model.probe, AberratedProbe):
        found["aberrations"] = model.probe.aberrations()
        if model.probe.blur is not None:
            found["source size (A)"], found["focal spread (A)"] = model.probe.coherence()
    found |= list_fitted_numbers(model)
    if isinstance(model.propagator, EnergyFlight):
        found["energy ratios"] = model.propagator.ratios.flatten().cpu().tolist()
    if model.heights is not None and any(p.requires_grad for p in model.heights.parameters()):
        moved = model.heights.current_heights() - model.heights.start
        found["heights moved (A)"] = float(moved.square().mean().sqrt())
    return found


def summary_lines(result: Result, /) -> list[str]:
    """The verdict on a result, and the numbers that speak for it, a line each."""
    facts = dict(trust_facts(result))
    shown = ("loss", "hold-out") if "chi^2" in facts else ()
    shown += tuple(name for name in result.metrics if name.startswith("scan "))  # of energies: in words
    facts |= {name: f"{value:.4g}" for name, value in result.metrics.items() if name not in shown}
    verdict = result.verdict or "none: the result is of an earlier version"
    error = [] if result.uncertainty is None else [f"error bar: {result.uncertainty}"]
    trust = describe_trust(result)
    plain = [f"in plain words: {trust}"] if trust else []
    facts |= {f"scan {one['number']} ({one['file']})": describe_scan(one) for one in result.scans}
    numbers = [f"  {name:32s} {value}" for name, value in facts.items()]
    return [f"verdict: {verdict}", *plain, *numbers, *error]


def describe_scan(scan: Mapping[str, Any], /) -> str:
    """Numbers and verdict of one of several scans (`Result.scans`), in words.

    Example:
        >>> describe_scan({"loss": 1.02, "hold-out": 1.1, "explained": 0.97, "verdict_code": "converged"})
        'converged, chi^2 1.02, held out 1.1, 97 % explained'
    """
    held = f", held out {scan['hold-out']:.4g}" if "hold-out" in scan else ""
    share = f", {100 * scan['explained']:.0f} % explained" if "explained" in scan else ""
    energy = f", {scan['energy (eV)']:.5g} eV" if "energy (eV)" in scan else ""
    return f"{scan['verdict_code'].replace('_', ' ')}, chi^2 {scan['loss']:.4g}{held}{share}{energy}"


def write_outputs(job: Underway, result: Result, /, epoch: int | None = None) -> list[Path]:
    """The files that the recipe asks for besides result and report; in the middle of a run, those due.

    A file that cannot be written is reported in the log: a run must not end for a picture.
    """
    if job.directory is None:
        return []
    folder = job.directory if epoch is None else job.directory / "epochs" / f"{epoch:04d}"
    wanted = [call for call in job.recipe.outputs if epoch is None or is_due(call, epoch)]
    made = []
    for call in wanted:
        try:
            make_folder(folder)
            files = call(result, folder)
        except (BadInput, OSError) as problem:
            log.warning("outputs: %s was not written: %s", call.name, problem)
            continue
        made += list(files) if isinstance(files, tuple | list) else [files]
    return made


def is_due(call: Call, epoch: int) -> bool:
    """Whether an output has times of its own, and this is one."""
    return bool(call.when) and Every(lambda: None, **dict(call.when)).is_due(epoch)


def describe_start(start: Start) -> dict[str, Any]:
    """What the automatic start found, as files keep it."""
    return {
        "defocus": LENGTH.show(start.defocus),
        "orientation": start.orientation,
        "margin": round(start.margin, 4) if math.isfinite(start.margin) else "no rival",
    }


def _metrics(job: Underway, left: Mapping[str, float]) -> dict[str, float]:
    moved = job.model.scan.angstrom() - job.scan.positions
    moved = moved - moved.mean(0)
    history = job.progress.history[: job.progress.result_epoch]
    numbers = {
        "loss": history[-1]["loss"] if history else math.nan,
        "amplitude error": left["amplitude"],
        "Poisson deviance": left["poisson"],
        "move rms (A)": float(np.sqrt((moved**2).sum(1).mean())),
    }
    if (held := job.progress.holdout_loss) is not None:
        numbers["hold-out"] = held
    known = [event["explained"] for event in history if event.get("explained")]
    if not known and any(event.get("explained") for event in job.progress.history):
        known = [found] if (found := job.measure_explained()) else []  # measured after the result's epoch
    if known:
        numbers["explained"], numbers["error of explained"] = known[-1]
    if job.evidence.direct is not None:
        numbers["direct image"] = round(job.evidence.direct.agreement, 4)
    if job.evidence.null is not None:
        numbers["places matter"] = round(1 - job.evidence.null.left, 4)
    energies = list_energies(job.scan, job.model)
    for number, row in enumerate(() if energies is None else energies.tolist()):
        numbers |= {f"scan {number} {name}": one for name, one in zip(ENERGY_NUMBERS, row, strict=True)}
    if "sign" in job.recipe.found:
        numbers["sign is a guess"] = 1.0
    return numbers


@torch.no_grad()
def _examples(job: Underway) -> dict[str, np.ndarray]:
    index = torch.as_tensor(np.linspace(0, len(job.scan) - 1, 3).astype(int))
    show = job.model.detector.display
    modelled = job.model(index.to(job.model.scan.start.device)).cpu()
    measured = job.level.likelihood.measured[index]
    return {
        "index": index.numpy(),
        "measured": show(measured).numpy(),
        "modelled": show(modelled).numpy(),
        "good": show(job.model.detector.mask.cpu()).numpy().astype(np.uint8),
    }


@torch.no_grad()
def build_images(model: Ptychography, /) -> dict[str, Any]:
    """Object ``(slice, y, x)``, probe ``(mode, y, x)``, coverage ``(y, x)`` and pixel (y, x) in angstrom.

    As in a result: the transmission of vacuum is one, an object of several states is their mean.

    Raises:
        BadInput: an object in tiles, of which no process has all.
    """
    if is_in_tiles(model):
        raise BadInput("tiles", "images", "cannot be drawn by several processes: look at the run's folder")
    incident = [(modes[None], members) for modes, members in model.incident_modes()]
    coverage = sum_illumination(model, incident)[0].cpu().numpy()
    images = _Images.of(model, coverage)
    return {
        "object": images.mean_object(),
        "probe": images.probe,
        "coverage": coverage,
        "pixel": model.scan.canvas.pixel,
    }
