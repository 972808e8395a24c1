"""``ptyrad.initialization`` of PtyRAD's tutorial."""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from phaseloom.compat.ptyrad.models import get_init_variables
from phaseloom.compat.ptyrad.translation.project_file import translate_project
from phaseloom.compat.ptyrad.utils import vprint
from phaseloom.data.scan import Scan4D
from phaseloom.reconstruction.recipe import Reconstruct

__all__ = ["Initializer"]


class Initializer:
    """Data and first guesses of a PtyRAD section ``init_params``.

    Attributes:
        scan: the data, read and prepared; after `init_all`.
        init_variables: arrays by PtyRAD's names, lengths in angstrom; after `init_all`.
    """

    def __init__(self, init_params: Mapping[str, Any], seed: int | None = None, folder: Path | str = "."):
        self.init_params = copy.deepcopy(dict(init_params))
        self.folder = Path(folder)
        self.seed = self.init_params.get("random_seed") if seed is None else seed
        self.scan: Scan4D | None = None
        self.init_variables: dict[str, Any] = {}

    def init_all(self) -> "Initializer":
        """Read the data, prepare it, and make the first guesses."""
        init = self.init_params | {"random_seed": self.seed}
        tree, notes = translate_project({"init_params": init}, self.folder)
        for note in notes:
            vprint(note)
        recipe = Reconstruct.of(tree)
        self.scan = recipe.scan()
        self.init_variables = get_init_variables(recipe.build_model(self.scan), self.scan, init)
        return self
