"""``ptyrad.constraints`` of PtyRAD's tutorial."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from phaseloom.compat.ptyrad.models import CoreOf, get_scan
from phaseloom.compat.ptyrad.schema import check_section
from phaseloom.compat.ptyrad.translation.fit import translate_constraints
from phaseloom.compat.ptyrad.translation.project import Project
from phaseloom.fitting.schedule import Every
from phaseloom.ptycho.projections.apply import bind_projection, describe_setting
from phaseloom.spec import call

__all__ = ["CombinedConstraint"]


class CombinedConstraint:
    """PtyRAD's constraints as one function of a model and the number of the iteration.

    The model is a `PtychoAD`, or a module of one's own with its names.
    """

    def __init__(self, constraint_params: Mapping[str, Any], device: Any = "cuda", verbose: bool = True):
        self.constraint_params = check_section("constraint_params", constraint_params, [])
        self.device = device
        self.verbose = verbose
        tree = {"constraint_params": self.constraint_params, "init_params": {"probe_illum_type": "electron"}}
        nodes = translate_constraints(Project(tree, Path()))
        self.calls = [call("phaseloom.ptycho.projections", node, "constraint_params") for node in nodes]
        self._bound: tuple[Any, CoreOf, list[Every]] | None = None

    def __call__(self, model: Any, niter: int) -> None:
        """Change the model as its constraints ask for after an iteration."""
        core_of, events = self._bind(model)
        due = [event for event in events if event.is_due(niter)]
        if due:
            core_of.read()
            for event in due:
                event.action()
            core_of.write()

    def _bind(self, model: Any) -> tuple[CoreOf, list[Every]]:
        """The core of a model, and the projections bound to it."""
        if self._bound is None or self._bound[0] is not model:
            core_of = CoreOf(model)
            where = describe_setting(core_of.core, get_scan(core_of.core))
            where = replace(where, power=float(model.probe_int_sum))
            actions = [bind_projection(one.partial(), core_of.core, where, one.name) for one in self.calls]
            pairs = zip(actions, self.calls, strict=True)
            events = [Every(action, **dict(one.when)) for action, one in pairs]
            self._bound = (model, core_of, events)
        return self._bound[1], self._bound[2]
