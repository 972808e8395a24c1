"""The panes of the page in a notebook: of a job under way, and of a result."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from phaseloom.web.server import require_panel

if TYPE_CHECKING:
    from phaseloom.reconstruction.protocol import Job
    from phaseloom.result import Result

__all__ = ["RunView", "view_job", "view_result"]


class RunView:
    """Panes that a notebook shows.

    Attributes:
        panes: of Panel.
    """

    def __init__(self, pane: Any, job: Job | None = None):
        self._pane = pane
        self._job = job
        self.panes = pane.view

    def update(self) -> None:
        """Show the job as it stands; of a result nothing changes."""
        if self._job is not None:
            show_job(self._pane, self._job)

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> Any:
        return self.panes._repr_mimebundle_(include, exclude)


def view_result(result: Result, /) -> RunView:
    """Panes of a result.

    Raises:
        MissingExtra: Panel is not installed.
    """
    from phaseloom.web.state.run_images import images_of

    pane = _make_pane()
    source = {"object": result.object, "probe": result.probe, "pixel": result.pixel}
    images = images_of(
        source,
        positions=result.positions,
        positions_start=result.positions_start,
        origin=result.origin,
        epoch=None,
        sigma=result.sigma,
        facts={"verdict": result.verdict},
    )
    pane.show_memory(images, result.history, yaml.safe_load(result.recipe) or {})
    return RunView(pane)


def view_job(job: Job, /) -> RunView:
    """Panes of a job; ``view.update()`` in its loop shows it as it goes.

    Raises:
        MissingExtra: Panel is not installed.
    """
    pane = _make_pane()
    show_job(pane, job)
    return RunView(pane, job)


def show_job(pane: Any, job: Job, /) -> None:
    """Show a job in a pane as it stands."""
    from phaseloom.web.state.run_images import images_of

    images = images_of(
        job.images(),
        positions=job.model.scan.angstrom(),
        positions_start=job.scan.positions,
        origin=job.model.scan.canvas.origin,
        epoch=job.progress.epoch,
    )
    pane.show_memory(images, job.progress.history, job.recipe.to_full_tree())


def _make_pane() -> Any:
    require_panel().extension("tabulator")
    from phaseloom.web.panes.desk import Desk
    from phaseloom.web.panes.watch import WatchPane
    from phaseloom.web.state.job_queue import JobQueue

    return WatchPane(Desk(Path.cwd(), JobQueue(Path.cwd())), in_memory=True)
