"""Whether a run that begins with the object of an earlier one lies as that one lay."""

from pathlib import Path

import yaml

from phaseloom.data.formats.files import open_hdf5
from phaseloom.data.known_files import KnownFile, identify
from phaseloom.data.own_files.members import Member, read_members
from phaseloom.data.scan import Scan4D
from phaseloom.errors import BadInput
from phaseloom.reconstruction.recipe import Reconstruct
from phaseloom.runs.scan_recipe import STEPS_THAT_ORIENT

__all__ = ["require_orientation_of_object"]


def require_orientation_of_object(recipe: Reconstruct, scan: Scan4D, /) -> None:
    """Refuse an object that was found on a turned detector, where nothing says or looks how this one lies.

    With the wrong orientation a run fits, by its probe and its positions, an image that is wrong.

    Args:
        recipe: of the run.
        scan: its data, prepared.

    Raises:
        BadInput: the object is that of a run, or a prediction, whose steps of ``prepare`` orient the
            detector, and neither the file of this run nor its steps nor a search does.
    """
    if recipe.object.name != "from_file" or scan.oriented or recipe.states_orientation:
        return
    path = Path(recipe.object.values["path"])
    made = (KnownFile.RESULT, KnownFile.PREDICTION)
    if recipe.start.name != "none" or not path.is_file() or identify(path) not in made:
        return
    with open_hdf5(path) as file:
        stored = read_members(file, (Member("recipe", "text", optional=True),), path.name)
    earlier = (yaml.safe_load(stored["recipe"] or "") or {}).get("prepare") or []
    named = {next(iter(one)) if isinstance(one, dict) else one: one for one in earlier}
    if STEPS_THAT_ORIENT & set(named):
        here = {step.name for step in recipe.prepare}
        steps = [one for name, one in named.items() if name not in here]
        written = yaml.safe_dump(steps, default_flow_style=True, sort_keys=False, width=1000).strip()
        fix = f"was found after {written}, and nothing says how the detector lies here: add these steps to "
        fix += "prepare, or those of this scan (rotate: {angle: 0 deg} if it is not turned)"
        raise BadInput("object: from_file", path.name, fix)
