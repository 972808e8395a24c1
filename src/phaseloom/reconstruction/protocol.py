"""The protocol of a reconstruction, from a file of patterns to a phase image: read this page first.

`Job.begin` is what is done before the first epoch, `Job.__iter__` what follows; `reconstruct` is both.
"""

import logging
import math
from collections import deque
from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from contextlib import nullcontext
from copy import copy
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from phaseloom import plugins
from phaseloom.calibration.calibrate import (
    DEFAULT_ESTIMATORS,
    Calibration,
    is_calibration_due,
    mask_bad_pixels,
    run_estimators,
)
from phaseloom.calibration.hologram_start import (
    has_hologram_start,
    has_one_height,
    is_hologram_scan,
    is_one_material_due,
    make_hologram_images,
    measure_power,
    search_near_field,
    set_distance,
    widen_window,
)
from phaseloom.calibration.near_field import is_distance_guessed, is_distance_shown
from phaseloom.calibration.one_material import (
    RatioEvidence,
    SlowDetails,
    compare_ratios,
    measure_slow_details,
)
from phaseloom.calibration.raster import complete_raster
from phaseloom.calibration.state import Estimator
from phaseloom.data.diagnostics import require_counts
from phaseloom.data.growing.growing_scan import GrowingScan
from phaseloom.data.scan import Scan4D
from phaseloom.direct.holograms import USUAL_RATIO, HologramImage
from phaseloom.direct.recipe import DirectResult
from phaseloom.errors import BadInput
from phaseloom.fitting import checkpoint, device
from phaseloom.fitting.distributed import team
from phaseloom.fitting.loop import Epoch, Progress
from phaseloom.fitting.newton import GaussNewton
from phaseloom.fitting.outcome import Advice, Stop
from phaseloom.metrics.pattern_misfit import PatternMisfit
from phaseloom.metrics.phase import remove_plane_wave, sum_phase
from phaseloom.plot.cards import draw_waves, write_card
from phaseloom.ptycho.model import Ptychography
from phaseloom.reconstruction import advice, result_builder, warm_start
from phaseloom.reconstruction.evidence import Evidence
from phaseloom.reconstruction.level import (
    EPOCHS_BETWEEN_MISFITS,
    MIN_PATTERNS_ON_PLACE,
    RATES_AFTER_COARSER,
    Level,
    build_levels,
    count_patterns_on_place,
    fit_level,
    is_explained,
    is_misfit_due,
    last_epochs,
    set_batch_size,
    split_patterns,
)
from phaseloom.reconstruction.live.growth import (
    RECORD_NAME,
    Growth,
    count_first_patterns,
    require_all_patterns,
)
from phaseloom.reconstruction.recipe import DEFAULT_NEWTON_RATES, Reconstruct
from phaseloom.reconstruction.run_folder import (
    check_arguments,
    hash_setup,
    list_fixed_settings,
    save_epoch,
    save_figures,
    save_result,
    save_snapshot,
)
from phaseloom.reconstruction.start import Start
from phaseloom.reconstruction.starts.difference_map_start import (
    describe_difference_map,
    is_difference_map_due,
    use_difference_map,
)
from phaseloom.reconstruction.starts.distance_profile import combine_ranges, profile_distance
from phaseloom.reconstruction.starts.earlier_result import require_orientation_of_object
from phaseloom.reconstruction.starts.first_image import make_first_image
from phaseloom.reconstruction.starts.material_start import begin_with_holograms
from phaseloom.reconstruction.starts.offsets import find_offsets
from phaseloom.reconstruction.steering.commands import Steering
from phaseloom.reconstruction.steering.settings import find_settings_at
from phaseloom.result import Result
from phaseloom.runs.folder import (
    EVENTS_NAME,
    SNAPSHOT_NAME,
    find_snapshot,
    forget_snapshots_after,
    lock_run,
    save_events,
    save_recipe,
)
from phaseloom.runs.lock import OutputLock, release_on_failure
from phaseloom.runs.progress_lines import name_step
from phaseloom.runs.scan_recipe import IN_MEMORY, digest_of_scan, find_lit_patterns

__all__ = ["Job", "calibrate", "calibrate_scan", "find_start", "reconstruct", "run_in_memory"]

log = logging.getLogger(__name__)


def reconstruct(
    recipe: Reconstruct, directory: Path | str | None = None, /, *, scan: Scan4D | None = None
) -> Result:
    """Reconstruct a phase image, from reading the file to the verdict.

    Args:
        recipe: what to do, ``Reconstruct.of({"file": ..., ...})`` or ``Reconstruct.from_path(file)``.
        directory: folder of the run; default: nothing is written.
        scan: the data, in place of the recipe's file.

    Raises:
        BadInput: see `Job.begin`.

    Example:
        >>> from phaseloom.simulation import simulate
        >>> truth = simulate.atoms((64, 64), 0.2, peak=0.2, seed=1)
        >>> beam = {"energy": 80e3, "semiangle": 0.03, "defocus": 60.0, "window": 32, "dose": 1e5}
        >>> scan, _ = simulate.electron_scan(truth, 0.2, simulate.raster((5, 5), 0.7) + 5.0, **beam)
        >>> probe = {"focused": {"semiangle": "30 mrad", "defocus": "6 nm"}}
        >>> recipe = Reconstruct.of({"probe": probe, "start": "none", "epochs": 2})
        >>> result = reconstruct(recipe, scan=scan)
        >>> len(result.history), result.phase.ndim
        (2, 2)
    """
    job = Job.begin(recipe, directory, scan=scan)
    deque(job, maxlen=0)
    return job.ended or job.result()


class Job:
    """A reconstruction that can be watched, stopped, resumed and asked for its result.

    Iterating runs it, one `Epoch` at a time, on coarser grids first where that loses no light. With a
    directory, every epoch leaves a snapshot behind, and the directory holds all that viewers need:
    ``run.yaml``, ``events.jsonl``, ``snapshot.h5``, at the end ``result.h5``.

    Between two epochs a run with a directory takes commands (`phaseloom.runs.control`).

    Attributes:
        recorded: the recipe that repeats the run, settled: nothing in it is left to be found.
        recipe: the same with the settings that hold now, by the commands that it records.
        start: what the automatic start found, or ``None``.
        levels: from the coarsest grid to that of the data; before the first epoch the latter alone.
        level: the one under way, whose ``scan``, ``model`` and ``progress`` are the job's.
        growth: the part of the run in which patterns come; ``None`` of an ordinary one, and afterwards.
        ended: the result that the last loop left in the directory when it came to its end, or ``None``.
        training, holdout: indices of the patterns to learn from, and of those held out.
        wants_evidence: whether a direct image and a null test may be made, for the verdict.
    """

    wants_evidence = True
    growth: Growth | None = None

    @classmethod
    def follow(
        cls,
        recipe: Reconstruct,
        growing: GrowingScan,
        directory: Path | str | None = None,
        /,
        *,
        first: int | None = None,
    ) -> "Job":
        """Begin on the patterns of a scan that are here, and take in the others as they come.

        Each epoch of the job then learns from all that has come; ``epoch.number`` goes on while the scan
        grows, and when it is over for half of the epochs of the recipe (docs/howto-beamtime.md). What the
        recipe leaves open (probe, defocus, orientation) is found from the first patterns: better give it, as
        the settled ``run.yaml`` of an earlier scan does. There are no coarser grids.

        Args:
            recipe: of the reconstruction; its file is not looked at.
            growing: the scan (`phaseloom.data.growing.open_growing`).
            directory: folder of the run; default: nothing is written. Patterns that come from no file are
                recorded in its ``scan.h5``.
            first: patterns that are waited for before anything is found; default: a tenth of those that are
                announced, and 64 at least.

        Raises:
            BadInput: see `begin`; a preparation that leaves out patterns.
        """
        team().require_single_process("Job.follow")
        growing.await_patterns(first or count_first_patterns(growing.announcement.count))
        require_all_patterns(recipe, growing)
        is_new = directory is not None and not (Path(directory) / "run.yaml").exists()
        if directory is not None and is_new and growing.feed.file is None:  # they outlive this process
            growing.record(Path(directory) / RECORD_NAME)
        planned = recipe.found.get("live", {}).get("planned", recipe.epochs)  # of a run that grew too
        kept = {"levels": 0, "epochs": planned, "steered": (), "changes": ()}
        recipe = recipe.model_copy(update=kept)
        job = cls.begin(recipe, directory, scan=growing.scan())
        with release_on_failure(job._lock if isinstance(job._lock, OutputLock) else None):
            job.growth = Growth(job, growing, batch=recipe.batch, build_finest=cls._build_finest)
        return job

    @classmethod
    def begin(
        cls,
        recipe: Reconstruct,
        directory: Path | str | None = None,
        /,
        *,
        scan: Scan4D | None = None,
        check: Callable[[Scan4D], None] | None = None,
    ) -> "Job":
        """Read the data, find what the recipe leaves open, build the model.

        A ``scan`` given is taken in place of the file, and prepared as the recipe says. The run then names
        ``in memory`` as its file, and knows the data by a hash of counts, positions and set-up: `resume`
        wants the same scan again.

        Args:
            recipe: of the reconstruction.
            directory: folder of the run; default: nothing is written.
            scan: the data, in place of the recipe's file.
            check: refuses data (by raising) before anything is computed or written.

        Raises:
            BadInput: a directory that holds a run, arguments in the wrong place, data that do not fit.
        """
        lock = check_arguments(recipe, directory, scan) if team().is_main else None
        with release_on_failure(lock):
            if scan is not None:
                recipe = recipe.model_copy(update={"file": IN_MEMORY, "read": None})
            recipe = find_offsets(recipe, scan, run=run_in_memory)  # of scans that share an object
            data = recipe.scan(scan)  # read the file, prepare the patterns
            require_counts(data, lowest=recipe.lowest_count(data))
            if check is not None:
                check(data)
            require_orientation_of_object(recipe, data)
            recipe, data = calibrate_scan(recipe, data)  # orientation, rotation, defocus, step, slices
            recipe, data = find_near_field(recipe, data)  # magnification and distance of holograms
            settled, data, start = find_start(recipe, data)  # first guess of the probe, defocus, orientation
            job = cls(settled, data, start, lock)  # model, likelihood, optimiser
            job.recorded = job._settle_object(recipe.rates)  # a given object, a direct image, or a flat one
            job.recipe = job.recorded
            job.save_recipe()
        return job

    @classmethod
    def begin_short(cls, recipe: Reconstruct, scan: Scan4D, /) -> "Job":
        """A run that writes nothing, on data that `begin` has read, checked and knows by their hash.

        Args:
            recipe: with ``start: none`` and ``mask: none``: nothing is looked for.
            scan: patterns of the data, as the run takes them; blank ones are left out.
        """
        lit = find_lit_patterns(scan, recipe.file.name)
        settled, data, start = _settle_start(recipe, scan if lit.all() else scan.select(lit))
        job = cls(settled, data, start, None)
        job.recorded = job._settle_object(recipe.rates)
        job.recipe = job.recorded
        return job

    def __init__(self, recipe: Reconstruct, scan: Scan4D, start: Start | None, lock: OutputLock | None):
        self.start = start
        self.directory = None if lock is None else lock.path
        self._lock = lock or nullcontext()
        self.ended = None
        self._evidence: tuple[int, Evidence] | None = None
        self._ratio_evidence: tuple[int, RatioEvidence] | None = None
        self.level = self._build_finest(recipe, scan)
        self.levels = [self.level]
        recipe = _settle_holdout(recipe, self.model)
        self.recorded = recipe.model_copy(update={"batch": set_batch_size(recipe, self.level)})
        self.recipe = self.recorded
        self.initial = advice.InitialProbe.of(self.model)
        self.training, self.holdout = split_patterns(len(scan), recipe.holdout, recipe.seed)
        if "holdout" in recipe.found:  # of a scan that came in parts
            self.holdout = np.array(recipe.found["holdout"], int)
            self.training = np.setdiff1d(np.arange(len(scan)), self.holdout)

    def __iter__(self) -> Iterator[Epoch]:
        """Run to the end, or until stopped, saving after every epoch, and at the end the result."""
        with self._lock:
            try:
                yield from self._run()
            except KeyboardInterrupt:
                if self.growth is None:
                    raise
                self.progress.stop = Stop.after_interruption(self.progress.epoch)
                self.growth.conclude(self)  # the run can be resumed on the patterns that came

    def run_epochs(self) -> None:
        """Run all epochs and no more: without verdict and result, of which a short run needs none."""
        with self._lock:
            deque(self._run_epochs(self._open()), maxlen=0)

    def _run(self) -> Iterator[Epoch]:
        self.ended = None
        steering = self._open()
        has_moved = yield from self._run_epochs(steering)
        if self.growth is not None:
            self.growth.conclude(self)
        self._record_end(steering)
        self._save_new_result(moved=has_moved)
        steering.answer_late()

    def _run_epochs(self, steering: Steering) -> Generator[Epoch, None, bool]:
        """All epochs, without verdict and result; whether there were any, or settings changed."""
        has_moved = steering.steer()
        while not self.progress.stop.is_requested:
            if self._awaits_patterns():
                steering.steer()
                continue
            has_changed = False
            for done in self._fit():
                has_moved = True
                self._save_epoch(done)
                yield done
                if has_changed := steering.steer() or self.growth is not None:
                    break
            if has_changed:
                continue
            if not self._enter_finer_level():
                break
            has_moved = True
        return has_moved

    def _awaits_patterns(self) -> bool:
        """Take in patterns that have come; whether there is nothing to learn from now."""
        return self.growth is not None and not self.growth.prepare_epoch(self)

    @classmethod
    def resume(cls, directory: Path | str, /, *, scan: Scan4D | None = None) -> "Job":
        """Continue the run of a directory, from its last snapshot.

        A run that began with a ``scan`` in memory needs that again.

        Raises:
            BadInput: no run there, one that has lost its snapshot, or whose data or settings have changed, or
                one that another process works on.
        """
        folder = Path(directory)
        lock = lock_run(folder)
        with release_on_failure(lock):
            return cls._open_folder(folder, scan, lock)

    @classmethod
    def load(cls, directory: Path | str, /, *, scan: Scan4D | None = None) -> "Job":
        """The run of a directory as its last snapshot has it, to look at: nothing is ever written.

        Another process may be at work on it.

        Raises:
            BadInput: as of `resume`, but for a run that another process works on.
        """
        job = cls._open_folder(Path(directory), scan, None)
        job.wants_evidence = False
        return job

    @classmethod
    def _open_folder(cls, folder: Path, scan: Scan4D | None, lock: OutputLock | None) -> "Job":
        """The run of a folder as its last snapshot has it."""
        recipe = Reconstruct.from_path(folder / "run.yaml")
        snapshot = find_snapshot(folder, list_fixed_settings(recipe))
        if scan is None and recipe.file == IN_MEMORY and (folder / RECORD_NAME).is_file():
            fix = f"was killed while its scan grew; what came is there: phaseloom reconstruct {RECORD_NAME}"
            raise BadInput(str(folder), None, f"{fix} in this folder")
        if scan is None and recipe.file == IN_MEMORY:
            fix = "holds a run on a scan in memory: give that again, Job.resume(directory, scan=scan)"
            raise BadInput(str(folder), None, fix)
        data = recipe.scan(scan)
        _check_same_data(recipe, data)
        job = cls(recipe, data, None, lock)
        if snapshot is not None:
            job._load(snapshot, folder / EVENTS_NAME)
        elif recipe.object.name == "predicted" and recipe.compare_starts:
            warm_start.count_start(job.finest, job.holdout)
        elif recipe.object.name == "predicted":
            warm_start.judge(job.finest, recipe, job.holdout, given=recipe.rates)
        elif recipe.found.get("direct") or recipe.found.get("holograms"):
            job._use_direct_image()
        elif "difference_map" in recipe.found:
            use_difference_map(job.finest, recipe, job.holdout)
        return job

    @property
    def first_image(self) -> DirectResult | None:
        """The direct image of an electron raster; ``None`` of other scans, and where none is wanted."""
        return self._direct_image if self.wants_evidence else None

    @property
    def evidence(self) -> Evidence:
        """What speaks for and against the run as it stands, besides its losses."""
        if self._evidence is None or self._evidence[0] != self.progress.epoch:
            self._evidence = self.progress.epoch, result_builder.gather_evidence(self)
        return self._evidence[1]

    @property
    def ratio_evidence(self) -> RatioEvidence | None:
        """Whether a near-field run tells phase from absorption; ``None`` of others and of phase objects."""
        said = self.recorded.found.get("holograms")
        if said is None or not self._is_material_judged or self.model.object.kind == "phase":
            return None
        if self._ratio_evidence is None or self._ratio_evidence[0] != self.progress.epoch:
            level = self.level
            parts = level.model, level.likelihood, level.scan.window
            with name_step("verdict: another beta / delta"):
                found = compare_ratios(*parts, said.get("ratio", USUAL_RATIO), patterns=self.training)
            self._ratio_evidence = self.progress.epoch, found
        return self._ratio_evidence[1]

    @property
    def slow_details(self) -> SlowDetails | None:
        """How much of its slow details a near-field run sees; ``None`` of others."""
        said = self.recorded.found.get("holograms")
        if said is None or not self._is_material_judged:
            return None
        ratio = 0.0 if self.model.object.kind == "phase" else said.get("ratio", USUAL_RATIO)
        return measure_slow_details(self.model, self.level.likelihood, self.level.scan.window, ratio)

    @property
    def _is_material_judged(self) -> bool:
        return self.wants_evidence and is_one_material_due(self.model)

    @cached_property
    def _direct_image(self) -> DirectResult | None:
        return make_first_image(self.recipe, self.finest.scan)

    @property
    def finest(self) -> Level:
        """The level on the grid of the data."""
        return self.levels[-1]

    @property
    def scan(self) -> Scan4D:
        """The data on the grid under way."""
        return self.level.scan

    @property
    def model(self) -> Ptychography:
        """The model on the grid under way."""
        return self.level.model

    @property
    def progress(self) -> Progress:
        """The progress of the fit on the grid under way."""
        return self.level.progress

    def with_model(self, model: Ptychography, /) -> "Job":
        """The same run as another model has it, to look at: one with the whole of an object in tiles."""
        other = copy(self)
        other.level = self.level.with_model(model)
        other._evidence = other._ratio_evidence = None
        return other

    def result(self) -> Result:
        """The reconstruction as it stands, with its verdict.

        Of an object in tiles the main process has it whole; in the others it holds their tile of it.
        """
        return result_builder.build_result(self)

    def save(self, result: Result, /) -> None:
        """Write a result of this run into its folder, with the figures of it."""
        if self.directory is None:
            return
        if result is not self.ended or not (self.directory / "result.h5").is_file():
            save_result(result, self.directory)
        save_figures(result, self.directory)

    def measure_held_out_misfit(self) -> PatternMisfit | None:
        """What the model explains of the differences between patterns held out, if any are."""
        if not len(self.holdout):
            return None
        own = self.holdout[team().owns(self.holdout, self.level.likelihood.owners)]
        return self.level.measure_misfit(torch.as_tensor(own), team().all_reduce)

    def measure_explained(self) -> tuple[float, float] | None:
        """The share of the differences between patterns held out that the model explains, and its error."""
        misfit = self.measure_held_out_misfit()
        if misfit is None or misfit.explained is None:
            return None
        return round(misfit.explained, 4), round(misfit.error or 0.0, 4)

    def advice(self) -> list[Advice]:
        """What the user should do about the run so far, in sentences."""
        floor = 1.0 if self.level.likelihood.has_noise_model else 0.0
        return advice.advise(self.model, self.initial, self.progress, floor=floor)

    def start_lines(self) -> list[str]:
        """What was found before the first epoch by calibration, prediction or start, in sentences."""
        found = self.recipe.found
        lines = [f"{name:12s} {value}" for name, value in found.get("calibrate", {}).items()]
        if not lines and "mask" in found:
            lines.append(found["mask"])
        lines += found.get("offsets", [])
        if "power" in found:
            lines.append(warm_start.describe_object_prior(found["power"]))
        lines += found.get("holograms", {}).get("lines", [])
        if self.start is not None:
            lines += self.start.lines(sign_is_known=_is_sign_known(self.recipe, self.scan))
        if found.get("difference_map") is not None:
            lines.append(describe_difference_map(found["difference_map"]))
        if found.get("direct") is not None:
            lines.append(warm_start.describe_direct_start(**found["direct"]))
        if found.get("start") is not None:
            lines.append(warm_start.describe_first_object(found["start"]))
        return lines

    def to_text(self) -> str:
        """The parameter file that repeats this run."""
        return self.recorded.to_text()

    def rate(self, part: str, value: float, /, *, stop: int | None = None) -> None:
        """Give a part another rate from the next epoch on, on this grid and finer ones; 0 freezes it.

        It has the meaning of the recipe's ``rates``: the rate before a shape lowers it. The change is
        written into the recipe (``changes``), so that a resumed run, a repeated one, and the runs of
        `phaseloom.reconstruction.half_data_frc` make it too.

        Args:
            part: a part that has a rate in this run.
            value: its rate, from zero up.
            stop: the last epoch in which it moves; default: that of the run.

        Raises:
            BadInput: no such part, one that is frozen in this run, or a rate that is not plausible.
        """
        tree = {"epoch": self.progress.epoch + 1, "part": part, "rate": value, "stop": stop}
        (change,) = Reconstruct.of({"changes": [tree]}).changes
        if not self.level.groups(part):
            fix = f"rests in this run, which has prepared nothing for it: begin with rates.{part} above zero"
            raise BadInput("job.rate", part, f"{fix}, and a start if it is to wait")
        self.recipe = self.recipe.model_copy(update={"changes": (*self.recipe.changes, change)})
        self.recorded = self.recorded.model_copy(update={"changes": (*self.recorded.changes, change)})
        self.save_recipe()

    def images(self) -> dict[str, Any]:
        """Object, probe and losses as they stand, as `phaseloom.plot.Live` draws them.

        They are those of `result`, without its metrics, which look at every pattern.
        """
        return {**result_builder.build_images(self.model), "history": self.progress.history}

    def __repr__(self) -> str:
        """Title, patterns, epochs, last loss and folder in a line; nothing is computed."""
        history = self.progress.history
        facts = [
            *([self.recipe.title] if self.recipe.title else []),
            f"{len(self.scan)} patterns",
            f"{self.progress.epoch} of {self.recipe.epochs} epochs",
            *([f"loss {history[-1]['loss']:.4g}"] if history else []),
            str(self.directory) if self.directory else "no folder",
        ]
        return f"Job({'; '.join(facts)})"

    def _repr_html_(self) -> str:
        images = self.images()
        facts = {
            "epoch": f"{self.progress.epoch} of {self.recipe.epochs}",
            "folder": self.directory or "none",
        }
        facts |= {"loss": f"{images['history'][-1]['loss']:.4g}"} if images["history"] else {}
        facts |= {} if self.growth is None else self.growth.list_facts()
        pictures = draw_waves(
            sum_phase(remove_plane_wave(images["object"])), images["object"], images["probe"]
        )
        return write_card(self.recipe.title or "Job", facts, pictures)

    def view(self) -> Any:
        """Panes that follow the run in a notebook; ``view.update()`` shows it as it stands.

        Raises:
            MissingExtra: Panel is not installed.
        """
        view: Any = plugins.target("phaseloom.reconstruction.protocol", "view")
        return view(self)

    def save_recipe(self) -> None:
        """Write the parameter file into the folder of the run."""
        self.__dict__.pop("_fixed_settings", None)
        if self.directory is not None:
            save_recipe(self.recorded, self.directory)

    def save_snapshot(self) -> None:
        """Write the state of the fit into the folder of the run."""
        if self.directory is not None:
            of = {"coarsening": self._coarsening, "settings": self._fixed_settings}
            save_snapshot(self.progress, self.directory, **of)
        else:
            checkpoint.give_tiles(self.progress)

    @cached_property
    def _fixed_settings(self) -> dict[str, Any]:
        """What no command changes: it is the same in each snapshot."""
        return list_fixed_settings(self.recorded)

    def is_over(self) -> bool:
        """Whether no epoch follows: all are done, the hold-out loss has ended the run, or a command has."""
        progress = self.progress
        is_settled = progress.stop.is_settled or progress.result_epoch is not None
        is_last = self.level is self.finest and (progress.epoch >= self.recipe.epochs or is_settled)
        return is_last or progress.stop.is_requested

    def go_back(self, folder: Path, /) -> None:
        """Build the levels again, and bring them to the state of the snapshot in the folder of the run."""
        if self.growth is not None:
            raise BadInput("steer back", None, "is not possible while the scan grows: wait for its end")
        scan = self.finest.scan
        del self.levels, self.level  # memory for the new ones
        self.levels = [self._build_finest(self.recorded, scan)]
        self._load(folder / SNAPSHOT_NAME, folder / EVENTS_NAME)
        self._evidence = self._ratio_evidence = None

    @property
    def hologram_images(self) -> tuple[HologramImage, ...]:
        """The direct images that a near-field run is compared with; none of others."""
        return self._hologram_images

    @cached_property
    def _hologram_images(self) -> tuple[HologramImage, ...]:
        said = self.recorded.found.get("holograms")
        if said is None and not is_hologram_scan(self.finest.scan):
            return ()
        return make_hologram_images(self.finest.scan, (said or {}).get("ratio", USUAL_RATIO))

    def _settle_object(self, given: Collection[str]) -> Reconstruct:
        """Begin with the object of the recipe, a direct image, or a flat object; the recipe with that."""
        wanted = self.recorded.object.name
        if wanted not in warm_start.WORDS:
            recipe = self._use_direct_image()
            is_due = recipe.compare_starts and is_difference_map_due(self.level, self.start)
            is_due = is_due or "difference_map" in recipe.found
            return use_difference_map(self.level, recipe, self.holdout) if is_due else recipe
        if self.recorded.tiles:
            return self.recorded
        recipe = warm_start.settle_start(self.finest, self.recorded, self.holdout, given=given)
        if recipe.object.name != wanted:  # the canvas of a stored object may be wider
            self.level = self._build_finest(recipe, self.scan)
            self.levels = [self.level]
        return recipe

    def take_first_image(self) -> None:
        """Begin with the direct image that the recipe says was found, as `begin` does."""
        self.recorded = self._use_direct_image()
        self.recipe = self.recorded

    def _use_direct_image(self) -> Reconstruct:
        if "holograms" in self.recorded.found:
            return self._use_holograms()
        image = lambda: self.first_image  # noqa: E731
        return warm_start.use_direct_image(self.finest, self.recorded, self.holdout, make_image=image)

    def _use_holograms(self) -> Reconstruct:
        """Begin with the direct image of holograms, with an object of one material fitted from there."""
        level, recipe = self.finest, self.recorded
        is_phase = level.model.object.kind == "phase"
        ratio = 0.0 if is_phase else recipe.found["holograms"].get("profile_ratio")
        start = begin_with_holograms(level, recipe, (self.training, self.holdout), ratio=ratio)
        if start is None:
            return recipe
        if start.ratio is not None:
            recipe = _hold_heights(_record_ratio(recipe, start.ratio))
        if recipe.object_prior == "none":
            return recipe
        level.power = measure_power(start.image)
        return recipe.model_copy(update={"found": recipe.found | {"power": level.power.to_table()}})

    @staticmethod
    def _build_finest(recipe: Reconstruct, scan: Scan4D) -> Level:
        """Model, likelihood and optimiser on the grid of the data, as a run begins with them."""
        torch.manual_seed(recipe.seed)
        model = recipe.build_model(scan).to(device.choose_device(recipe.device))
        level = Level.of(recipe, scan, model)
        team().broadcast_parameters(model)
        return level

    def _load(self, snapshot: Path, events: Path) -> None:
        """Bring levels that were just built to the state of a snapshot."""
        self.levels = build_levels(self.finest, self.recorded)
        self.level = self.levels[-1 - checkpoint.read_level(snapshot)]
        checkpoint.load(self.progress, snapshot, events=events)
        self.level.hold_windows()
        self._use_settings()
        self.level.choose_noise(self.progress)

    def _use_settings(self) -> None:
        """Give all levels the settings that hold after the present epoch."""
        at = self.levels.index(self.level)
        self.recipe = find_settings_at(self.recorded, self.progress.epoch)
        self.levels = [level.with_settings(self.recipe) for level in self.levels]
        self.level = self.levels[at]

    def _open(self) -> Steering:
        """The levels and the files of a run that begins or goes on, and its commands."""
        if not self.progress.history:
            self.levels = build_levels(self.finest, self.recorded)
            self.level = self.levels[0]
        self._use_settings()
        steering = Steering(self)
        if self.directory is not None:
            forget_snapshots_after(self.directory, self.progress.epoch)
            save_events(self.progress.history, self.directory, answers=steering.answers)
        return steering

    def _enter_finer_level(self) -> bool:
        """Go on with the next finer grid, if the epochs on this one have ended; whether there is one."""
        number = self.levels.index(self.level)
        has_ended = self.progress.epoch >= self._last_epochs[number] or self.progress.stop.is_settled
        if self.level is self.finest or not has_ended:
            return False
        self.levels[number + 1].follow(self.level)
        self.level = self.levels[number + 1]
        return True

    @property
    def _last_epochs(self) -> list[int]:
        """The last epoch on each level."""
        return last_epochs(self.recipe.epochs, len(self.levels))

    @property
    def _coarsening(self) -> float:
        """Pixel of the level under way over that of the finest one."""
        return self.model.scan.canvas.pixel[0] / self.finest.model.scan.canvas.pixel[0]

    def _fit(self) -> Iterator[Epoch]:
        if self.growth is not None:
            return self.growth.fit(self)
        number = self.levels.index(self.level)
        patterns = self.training, self.holdout
        changes: Callable[[], Sequence[Any]] = lambda: self.recipe.changes  # noqa: E731
        pace = {"rate_factor": RATES_AFTER_COARSER if number else 1.0, "changes": changes}
        return fit_level(self.level, self.recipe, patterns, self._last_epochs[number], **pace)

    def _save_epoch(self, epoch: Epoch) -> None:
        """Keep what an epoch has found, in the history and in the folder; write the outputs that are due."""
        event = self.progress.history[-1]
        if epoch.holdout is not None and is_misfit_due(self.recipe, epoch.number):
            event["explained"] = self.measure_explained()
            scans = result_builder.measure_joined_scans(self, self.holdout)
            event |= {"scans": [one.to_tree() for one in scans]} if scans else {}
            by_newton = isinstance(self.progress.optimizer, GaussNewton)  # others need more epochs
            by_newton = by_newton and self.growth is None  # as scans do that have just begun
            by_newton = by_newton and not self._has_clear_shifts
            if by_newton and epoch.number == EPOCHS_BETWEEN_MISFITS and not is_explained(event["explained"]):
                self._hold_positions()
        event["state"] = result_builder.summarise_state(self.model)
        if self.growth is not None:
            self.growth.record_epoch(self, event)
        if not team().broadcast(self.directory is not None):
            return
        if self.directory is not None:
            of = {"coarsening": self._coarsening, "settings": self._fixed_settings}
            save_epoch(self.progress, self.directory, **of, keep_every=self.recipe.snapshots)
        else:
            checkpoint.give_tiles(self.progress)
        if any(result_builder.is_due(call, epoch.number) for call in self.recipe.outputs):
            result = self.result()
            if self.directory is not None:
                result_builder.write_outputs(self, result, epoch.number)

    @property
    def _has_clear_shifts(self) -> bool:
        """Whether holograms were seen to shift with the positions: few counts held out do not deny it."""
        return bool(self.recorded.found.get("holograms", {}).get("is_oriented"))

    def _hold_positions(self) -> None:
        """Put positions back and freeze them, as far as their rates are the default: noise would move them.

        On a particle at 1e3 electrons of which nothing could be seen, the step of the scan fell by half.
        """
        rates = self.recipe.rates
        parts = self.model.scan.parts()
        usual = [name for name in parts if rates.get(name) == DEFAULT_NEWTON_RATES.get(name)]
        moving = [name for name in usual if self.level.groups(name)]
        if not moving:
            return
        if not any(self.recipe.rate_of(name) for name in parts if name not in usual):
            self.model.scan.reset()
        for name in moving:
            self.rate(name, 0.0)
        named = ", ".join(f"{name}: {self.recipe.rate_of(name):g}" for name in moving)
        text = "patterns held out show nothing of the object: positions stay as given; rates: {%s} moves them"
        log.warning(text, named)

    def _record_end(self, steering: Steering) -> None:
        """Record with the last epoch why the run ended, how far it may be trusted and what it fitted."""
        fitted = result_builder.list_fitted_numbers(self.model)
        if fitted and fitted != self.recorded.found.get("fitted"):
            self.recorded = self.recorded.model_copy(
                update={"found": self.recorded.found | {"fitted": fitted}}
            )
            self.save_recipe()
        self.progress.record_stop(verdict=result_builder.judge_whole_run(self).value)
        if self.directory is not None:
            save_events(self.progress.history, self.directory, answers=steering.answers)

    def _save_new_result(self, *, moved: bool) -> None:
        """Keep the result of a loop that ended; one of an earlier loop stays where this one did nothing.

        Several processes look at the patterns of a result together, and the first one keeps it.
        """
        folder = self.directory
        missing = folder is not None and (moved or not (folder / "result.h5").is_file())
        if self.progress.stop.is_interrupted or not team().broadcast(missing):
            return
        self.ended = self.result()
        if folder is not None:
            save_result(self.ended, folder)


def _record_ratio(recipe: Reconstruct, ratio: float) -> Reconstruct:
    """The recipe with the ratio of the object of one material that a run begins with."""
    said = recipe.found["holograms"]
    lines = [*said["lines"], f"beta / delta: {ratio:.2g} (object of one material)"]
    changed = {**said, "lines": lines, "ratio": float(f"{ratio:.4g}")}
    return recipe.model_copy(update={"found": recipe.found | {"holograms": changed}})


def _hold_heights(recipe: Reconstruct) -> Reconstruct:
    """The recipe with positions along the beam kept in its epochs, as a fit of one material left them.

    A free object makes up for an error of their scale: a scale that was right to 2 % went 14 % off.
    """
    moving = [name for name in ("heights", "height_scale") if recipe.rate_of(name)]
    known = [one.part for one in recipe.changes if one.epoch == 1]
    trees = [{"epoch": 1, "part": name, "rate": 0.0} for name in moving if name not in known]
    held = Reconstruct.of({"changes": trees}).changes if trees else ()
    return recipe.model_copy(update={"changes": (*held, *recipe.changes)})


def calibrate(
    recipe: Reconstruct, scan: Scan4D, /, *, estimators: Sequence[Estimator] = DEFAULT_ESTIMATORS
) -> Calibration:
    """Estimate orientation, rotation, defocus, step and slices of a scan by short reconstructions.

    See `phaseloom.calibration.calibrate.run_estimators` for arguments and errors.
    """
    check_arguments(recipe, None, scan, place="calibrate")
    if scan is None:
        raise BadInput("calibrate: scan", None, "is missing: give the data, calibrate(recipe, scan)")
    return run_estimators(recipe, scan, run=run_in_memory, estimators=estimators)


def calibrate_scan(recipe: Reconstruct, scan: Scan4D, /) -> tuple[Reconstruct, Scan4D]:
    """The recipe and the scan as a calibration found them, where one is due (``preset``).

    Places of blank patterns, which are left out of runs, hold the mean of their neighbours meanwhile. Of
    other runs, those without hot and dead pixels.
    """
    whole = complete_raster(scan)
    if not is_calibration_due(recipe, whole):
        recipe, scan, masked = mask_bad_pixels(recipe, scan)
        for estimate in masked:
            log.info("mask: %s", estimate.line())
        found = {"mask": masked[0].line()} if masked else {}
        return recipe.model_copy(update={"found": recipe.found | found}), scan
    found = calibrate(recipe, whole)
    for line in found.lines():
        log.info("calibrate: %s", line)
    for step in found.recipe.prepare[len(recipe.prepare) :]:
        scan = step(scan)
    return found.recipe, scan


def find_near_field(recipe: Reconstruct, scan: Scan4D, /) -> tuple[Reconstruct, Scan4D]:
    """The recipe and the scan with the orientation, magnification and distance that its holograms show.

    Of a near field with the automatic start (``start: sweep``); ``start: none`` takes what the file says.
    """
    if not has_hologram_start(recipe, scan):
        return recipe, scan
    if not has_one_height(scan):
        return _take_distances_as_stated(recipe, scan)
    with name_step("near field: orientation, magnification and rings of the holograms"):
        changed, scan, found, lines = search_near_field(recipe, scan)
    limits = found.flight
    if is_distance_guessed(scan.geometry.flight / found.stated.flight, limits):
        changed, scan = set_distance(changed, scan, found.stated.flight)
        lines.append("so far off, and told so vaguely, it is not believed: the distance stated is kept")
        log.info("near field: %s", lines[-1])
        limits = None
    changed, scan, widened = widen_window(changed, scan)
    profile = profile_distance(changed, scan)
    is_clear = profile is not None and profile.is_clear
    if profile is not None and profile.is_clear:
        best = profile.find_minimum()
        if limits is not None:
            best = combine_ranges(best, (found.geometry.flight, *limits))
        changed, scan = set_distance(changed, scan, best[0])
        lines.append(profile.line(best))
        limits = best[1:]
    elif profile is not None:
        lines.append(profile.line())
    said = {"lines": [*lines, *widened], "is_shown": is_distance_shown(limits)}
    said["flight"] = scan.geometry.flight
    said["flight_range"] = None if limits is None else [*limits]
    said |= {"ratio": USUAL_RATIO, "is_distance_fitted": is_clear}
    said["profile_ratio"] = None if profile is None else profile.ratio
    said["ratio_margin"] = None if profile is None else profile.margin
    said["distance_change"] = round(scan.geometry.flight / found.stated.flight - 1, 4)
    said["is_oriented"] = found.is_oriented
    said["is_pixel_shown"] = found.scale is not None or math.isinf(scan.geometry.focus or math.inf)
    return changed.model_copy(update={"found": changed.found | {"holograms": said}}), scan


def _take_distances_as_stated(recipe: Reconstruct, scan: Scan4D) -> tuple[Reconstruct, Scan4D]:
    """The recipe and the scan for holograms at several heights, with a window that is wide enough."""
    changed, scan, widened = widen_window(recipe, scan)
    text = "holograms at several heights: distance, magnification and orientation are taken as stated"
    log.info("near field: %s", text)
    said = {"lines": [text, *widened], "is_shown": True, "has_heights": True, "ratio": USUAL_RATIO}
    return changed.model_copy(update={"found": changed.found | {"holograms": said}}), scan


def find_start(recipe: Reconstruct, scan: Scan4D, /) -> tuple[Reconstruct, Scan4D, Start | None]:
    """The recipe with its probe, defocus and orientation settled, and the scan laid accordingly."""
    settled, scan, start = _settle_start(recipe, scan)
    hashes = {"data": digest_of_scan(scan), "setup": hash_setup(scan)}
    return settled.model_copy(update={"found": settled.found | hashes}), scan, start


def _settle_start(recipe: Reconstruct, scan: Scan4D) -> tuple[Reconstruct, Scan4D, Start | None]:
    """`find_start` without the hashes by which a run that is resumed knows its data."""
    settled, start = recipe.settle(scan)
    for step in () if start is None else start.steps():
        scan = step(scan)
    kept = ("calibrate", "undecided", "suggested_step", "doubted_step", "mask", "offsets")
    kept += ("holograms", "difference_map")
    found = {name: recipe.found[name] for name in kept if name in recipe.found}
    found |= {} if start is None else result_builder.describe_start(start)
    if start is not None and not (_is_sign_known(recipe, scan) or start.tells_sign):
        found["sign"] = "a guess"
    file = IN_MEMORY if settled.file == IN_MEMORY else settled.file.resolve()
    return settled.model_copy(update={"file": file, "found": found}), scan, start


def _is_sign_known(recipe: Reconstruct, scan: Scan4D) -> bool:
    """Whether the file, a lens, or a near field, which has no twin, decides the sign of the phase."""
    return scan.oriented or recipe.probe.name == "focused" or scan.geometry.near


def run_in_memory(recipe: Reconstruct, scan: Scan4D, /) -> Job:
    """All epochs of a run that writes nothing: what a calibration tries its candidates by."""
    of_part = {"tiles": False, "file": IN_MEMORY, "read": None}  # of a part of the scan
    job = Job.begin_short(recipe.with_usual_noise().model_copy(update=of_part), scan)
    job.wants_evidence = False  # also for a result that somebody asks for
    job.run_epochs()
    return job


def _settle_holdout(recipe: Reconstruct, model: Ptychography) -> Reconstruct:
    """Hold no pattern out, unless the recipe asks for it, where too few others see what one saw."""
    if not recipe.holdout or "holdout" in recipe.model_fields_set:
        return recipe
    count = count_patterns_on_place(model)
    if count >= MIN_PATTERNS_ON_PLACE:
        return recipe
    log.warning(
        "beams overlap so little that no pattern is held out to judge the run: %.2g patterns see a place, by "
        "the probe that the run begins with (if it is too focused, state the defocus; holdout: 0.05 holds "
        "patterns out all the same)",
        count,
    )
    return recipe.model_copy(update={"holdout": 0.0})


def _check_same_data(recipe: Reconstruct, scan: Scan4D) -> None:
    """Refuse to resume a run on other data than it began with."""
    hashes = {
        "data": ("", {digest_of_scan(scan)}),
        "setup": ("in its geometry, probe or weights ", {hash_setup(scan), hash_setup(scan, digits=None)}),
    }
    for name, (where, now) in hashes.items():
        if recipe.found.get(name) not in (None, *now):
            raise BadInput(
                "file", str(recipe.file), f"has changed {where}since the run began: start a new run"
            )
