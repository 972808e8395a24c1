"""What a loop over a module with PtyRAD's names leaves in its folder."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from phaseloom.compat.ptyrad.models import CoreOf
from phaseloom.fitting.distributed import team
from phaseloom.fitting.loop import Progress
from phaseloom.ptycho.likelihood import Likelihood
from phaseloom.ptycho.projections.apply import describe_setting
from phaseloom.reconstruction import advice, result_builder
from phaseloom.reconstruction.level import Level
from phaseloom.reconstruction.protocol import Job
from phaseloom.reconstruction.recipe import Reconstruct
from phaseloom.reconstruction.run_folder import save_result
from phaseloom.runs.folder import append_event, save_events
from phaseloom.runs.lock import OutputLock, release_on_failure
from phaseloom.runs.scan_recipe import keep_part_of_process

__all__ = ["RunFolder"]


class RunFolder:
    """The folder of a loop: its events, the files of ``save_result``, and ``result.h5`` at the end.

    The parameter file in the result is that of the sections; it does not know what was changed in Python.
    All processes have one, and the first writes.

    Args:
        recipe: of the sections.
        model: a `PtychoAD`, or a module with its names.
        init: the `phaseloom.compat.ptyrad.initialization.Initializer`, or ``None``.
        progress: of the fit.
        folder: where to write.
    """

    def __init__(self, recipe: Reconstruct, model: nn.Module, init: Any, progress: Progress, folder: Path):
        self.core_of = CoreOf(model)
        core = self.core_of.core
        scan = keep_part_of_process(self.core_of.scan)
        if init is not None and init.scan is not None:
            scan = replace(scan, metadata=init.scan.metadata)
        self._lock = OutputLock(folder) if team().is_main else None
        with release_on_failure(self._lock):
            self.job = Job(recipe, scan, None, self._lock)
            likelihood = Likelihood(core, scan, recipe.noise_of(scan).partial(), recipe.named_penalties())
            self.job.level = Level(scan, core, likelihood, progress, recipe, describe_setting(core, scan))
            self.job.levels = [self.job.level]
            self.job.initial = advice.InitialProbe.of(core)
            self.job.wants_evidence = False
            if self.job.directory is not None:
                save_events([], self.job.directory)

    def record(self, number: int) -> None:
        """Write the event of an iteration, and the files that are due after it."""
        job = self.job
        self._bring_up_to_date()
        event = job.progress.history[-1]
        event["state"] = result_builder.summarise_state(job.model)
        if job.directory is not None:
            append_event(event, job.directory)
        if any(result_builder.is_due(call, number) for call in job.recipe.outputs):
            result_builder.write_outputs(job, job.result(), number)

    def finish(self) -> None:
        """Write the result and the files of the last iteration, and let go of the folder."""
        job = self.job
        self._bring_up_to_date()
        job.progress.record_stop(verdict=result_builder.judge_run(job).verdict.value)
        result = job.result()
        if job.directory is not None:
            save_events(job.progress.history, job.directory)
            save_result(result, job.directory)
            result_builder.write_outputs(job, result)
        self.close()

    def close(self) -> None:
        """Let go of the folder."""
        if self._lock is not None:
            self._lock.release()

    @torch.no_grad()
    def _bring_up_to_date(self) -> None:
        self.core_of.read()
