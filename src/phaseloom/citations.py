"""What a run should cite: this package, and the methods that it used.

The reference of a method stands in the docstring of the function, or of the file, that implements it; who
wrote it, where and when stands in ``CITATION.cff``, under the same DOI. A method that a recipe names is cited
by that alone; those that a run uses without naming them are listed by `list_features`.
"""

import importlib
import inspect
import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from phaseloom.data.known_files import KnownFile, identify
from phaseloom.direct.recipe import Direct
from phaseloom.documents import load_yaml, parse_yaml
from phaseloom.errors import BadInput
from phaseloom.reconstruction.recipe import Reconstruct
from phaseloom.result import Result
from phaseloom.search.recipe import Search
from phaseloom.search.trials import find_kind
from phaseloom.simulation.recipe import Simulate
from phaseloom.spec import Call, Recipe, function_of
from phaseloom.virtual.recipe import Virtual

__all__ = ["Citation", "cite", "find_dois", "list_features", "load_references"]

IDENTIFIER = re.compile(r"(?<![\w/])(10\.\d{4,5}/(?:[^\s,;()]|\([^\s)]*\))+)|arXiv[: ]?\s*(\d{4}\.\d{4,5})")
ARGUMENTS = re.compile(r"^Args:\n(?:[ \t]+\S.*\n?|\n(?=[ \t]))*", re.MULTILINE)
"""What a docstring says of knobs, whose sources are of options that a run need not use."""


class Citation(NamedTuple):
    """A work to cite.

    Attributes:
        what: for what: the choices of a recipe, or what the run did.
        entry: of ``CITATION.cff``: ``authors``, ``title``, ``journal``, ``year``, ``doi``, ...
    """

    what: tuple[str, ...]
    entry: dict[str, Any]

    def to_bibtex(self) -> str:
        """As BibTeX, with a comment on what it is cited for."""
        entry = self.entry
        journal = {"article": "journal", "conference-paper": "booktitle"}.get(entry["type"], "")
        kind = {"software": "software", "conference-paper": "inproceedings"}.get(entry["type"], "article")
        doi = entry.get("doi", "")
        fields = {
            "author": " and ".join(_list_authors(entry, "others")),
            "title": f"{{{entry['title']}}}",
            journal: entry.get("journal") or entry.get("collection-title") or _name_preprint(doi),
            "volume": entry.get("volume"),
            "pages": entry.get("start"),
            "year": entry.get("year"),
            "version": entry.get("version"),
            "doi": doi,
        }
        lines = [f"  {name} = {{{value}}}," for name, value in fields.items() if name and value]
        return "\n".join([f"% {', '.join(self.what)}", f"@{kind}{{{self.key},", *lines, "}"])

    def to_text(self) -> str:
        """As a line of a list of references."""
        entry = self.entry
        doi = entry.get("doi", "")
        where = entry.get("journal") or entry.get("collection-title") or _name_preprint(doi)
        place = " ".join(str(one) for one in (where, entry.get("volume")) if one)
        parts = [", ".join(_list_authors(entry, "et al.")), entry["title"], place, entry.get("start")]
        text = ", ".join(str(one) for one in parts if one)
        text += f" ({entry['year']})" if entry.get("year") else f", version {entry['version']}"
        return f"{text}{f', doi {doi}' if doi else ''} [{', '.join(self.what)}]"

    @property
    def key(self) -> str:
        """Of the entry in BibTeX: name and year, and the end of the DOI, which tells two of a year apart."""
        if "doi" not in self.entry:
            return str(self.entry["title"]).lower()
        name, end = self.entry["authors"][0]["family-names"], re.split(r"[./]", self.entry["doi"])[-1]
        return re.sub(r"[^a-z0-9-]", "", f"{name}{self.entry['year']}-{end}".lower())


def cite(run: Path | str, /) -> list[Citation]:
    """What a run should cite: this package first, then the methods that it used.

    Args:
        run: a run folder, a ``result.h5``, the file of a direct image, or a parameter file of any verb. Of a
            result what was done is known; of a parameter file alone, what it names.

    Raises:
        BadInput: nothing of the kind is there.

    Example:
        >>> tree = {"file": "scan.cxi", "noise": "poisson", "object": {"pixels": {"slices": 4}}}
        >>> _ = Path("run.yaml").write_text(Reconstruct.of(tree).to_text())
        >>> for one in cite("run.yaml"):
        ...     print(one.what[0], one.entry.get("doi"))
        Phaseloom None
        ptychography 10.1063/1.1823034
        ptychography 10.1126/science.1158573
        multislice 10.1107/S0365110X57002194
        multislice 10.1364/JOSAA.29.001606
        refined positions 10.1364/OE.16.007264
        noise: poisson 10.1088/1367-2630/14/6/063004
    """
    recipe, result = _load(Path(run))
    used: dict[str, list[str]] = {}
    features = [(what, place) for what, place, is_used in list_features(recipe, result) if is_used]
    for what, place in (*features, *_list_calls(recipe)):
        for doi in find_dois(place):
            if what not in used.setdefault(doi, []):
                used[doi].append(what)
    references = load_references()
    found = [Citation(tuple(what), references[doi]) for doi, what in used.items() if doi in references]
    return [Citation(("Phaseloom",), _load_file()), *found]


def find_dois(place: Any, /) -> list[str]:
    """The DOIs in the docstring of a function, class or module, but for what is said of its arguments.

    Args:
        place: the object, or its path (``phaseloom.physics.modes.orthogonalise``).

    Example:
        >>> find_dois("phaseloom.physics.modes.orthogonalise")
        ['10.1038/nature11806']
    """
    text = ARGUMENTS.sub("", inspect.getdoc(_resolve(place) if isinstance(place, str) else place) or "")
    found = [doi or f"10.48550/arXiv.{preprint}" for doi, preprint in IDENTIFIER.findall(text)]
    return list(dict.fromkeys(one.rstrip(".") for one in found))


@lru_cache(maxsize=1)
def load_references() -> dict[str, dict[str, Any]]:
    """The references of ``CITATION.cff`` by DOI."""
    return {one["doi"]: one for one in _load_file()["references"]}


@lru_cache(maxsize=1)
def _load_file() -> dict[str, Any]:
    """``CITATION.cff``: in the package where it was installed, beside ``src`` in its sources."""
    here = Path(__file__).parent
    path = next(one for one in (here / "CITATION.cff", here.parents[1] / "CITATION.cff") if one.exists())
    return load_yaml(path)


def _resolve(path: str) -> Any:
    module, _, name = path.rpartition(".")
    try:
        return importlib.import_module(path)
    except ModuleNotFoundError:
        return getattr(importlib.import_module(module), name)


def _list_authors(entry: dict[str, Any], others: str) -> Iterator[str]:
    for one in entry["authors"]:
        if "family-names" in one:
            yield (
                f"{one['family-names']}, {one['given-names']}"
                if others == "others"
                else (f"{one['given-names']} {one['family-names']}")
            )
        elif one["name"] == "et al.":
            yield others
        else:
            yield f"{{{one['name']}}}" if others == "others" else one["name"]


def _name_preprint(doi: str) -> str:
    return f"arXiv {doi.partition('arXiv.')[2]}" if "arXiv." in doi else ""


# What a run used.

Outcome = Result | None
Feature = tuple[str, str, Any]
"""A method that is used without being named in a recipe: its name, the path of what implements it and has its
reference in the docstring, and whether it was used."""


def list_features(recipe: Recipe, result: Outcome = None, /) -> tuple[Feature, ...]:
    """Methods beside those that a recipe names."""
    if isinstance(recipe, Reconstruct):
        return _features_of_reconstruction(recipe, result)
    return _features_of_direct_image(recipe) if isinstance(recipe, Direct) else ()


def _features_of_reconstruction(recipe: Reconstruct, result: Outcome) -> tuple[Feature, ...]:
    def knob(part: Call, name: str) -> int:
        return int(part.values.get(name) or 1)

    modes = knob(recipe.probe, "modes") if result is None else len(result.probe)
    slices = knob(recipe.object, "slices") if result is None else len(result.object)
    is_calibrated = bool(recipe.found.get("calibrate"))
    moves = any(recipe.rate_of(part) > 0 for part in ("positions", "affine", "lines"))
    return (
        ("ptychography", "phaseloom.ptycho.model.Ptychography", True),
        (
            "mixed states",
            "phaseloom.physics.modes.orthogonalise",
            modes > 1 or knob(recipe.object, "modes") > 1,
        ),
        ("multislice", "phaseloom.physics.propagate.multislice", slices > 1),
        ("near field", "phaseloom.ptycho.propagators.FreeFlight", result and result.geometry.near),
        ("axial scan", "phaseloom.ptycho.scans.Heights", result and result.heights is not None),
        ("refined positions", "phaseloom.ptycho.scans.Positions", moves),
        ("refined tilts", "phaseloom.physics.propagate.tilt_ramp", recipe.rate_of("tilts") > 0),
        ("probe relaxation", "phaseloom.ptycho.probes.opr.RelaxedProbe", recipe.probe.name == "relaxed"),
        ("calibration", "phaseloom.direct.fit", is_calibrated),
        ("calibrated orientation", "phaseloom.direct.checks.handedness", is_calibrated),
        ("ring correlation of halves", "phaseloom.metrics.resolution", result and result.halves is not None),
        ("error bar", "phaseloom.reconstruction.uncertainty", result and result.uncertainty is not None),
    )


def _features_of_direct_image(recipe: Direct) -> tuple[Feature, ...]:
    methods = {
        "parallax": "weight_by_parallax",
        "wdd": "weight_by_deconvolution",
        "dpc": "integrate_deflections",
    }
    named = (
        (f"method: {name}", f"phaseloom.direct.methods.{function}", recipe.method == name)
        for name, function in methods.items()
    )
    return (
        ("linear model", "phaseloom.direct.transfer", recipe.method != "dpc"),
        ("fitted optics", "phaseloom.direct.fit", recipe.fit),
        ("orientation", "phaseloom.direct.checks.handedness", recipe.fit),
        *named,
    )


def _list_calls(recipe: Recipe) -> Iterator[tuple[str, Any]]:
    """Choices of a recipe, each with the function, and the file, that implements it."""
    for section in type(recipe).model_fields:
        value = getattr(recipe, section)
        for one in value if isinstance(value, tuple) else (value,):
            if isinstance(one, Call):
                function = function_of(one.room, one.name)
                yield f"{section}: {one.name}", function
                if getattr(function, "__module__", "").startswith("phaseloom."):
                    yield f"{section}: {one.name}", one.room


def _load(run: Path) -> tuple[Recipe, Outcome]:
    """The recipe of a run, and its result where there is one."""
    if run.is_dir():
        names = ("result.h5", "run.yaml", "search.yaml")
        inside = next((run / name for name in names if (run / name).exists()), None)
        if inside is None:
            raise BadInput(str(run), None, "has no result.h5 and no run.yaml: name the folder of a run")
        return _load(inside)
    if not run.exists():
        raise BadInput(str(run), None, "is not there: name a run folder, a result.h5 or a parameter file")
    if run.suffix in (".yaml", ".yml"):
        return _read_recipe(load_yaml(run), str(run)), None
    kind = identify(run)
    if kind is KnownFile.RESULT:
        result = Result.load(run)
        return Reconstruct.of(parse_yaml(result.recipe, f"{run}: recipe")), result
    if kind is KnownFile.DIRECT:
        import h5py

        with h5py.File(run) as file:
            return Direct.of({"file": str(run), "method": str(file["phase"].attrs["method"])}), None
    raise BadInput(str(run), None, "is not a result: name a run folder, a result.h5 or a parameter file")


def _read_recipe(tree: dict[str, Any], place: str) -> Recipe:
    names: Iterable[str] = set(tree) - {"version"}
    for kind in (Search, Simulate, Virtual, Direct):
        required = {name for name, info in kind.model_fields.items() if info.is_required()}
        own = set(kind.model_fields) - set(Reconstruct.model_fields)
        if required <= set(names) <= set(kind.model_fields) and own & set(names):
            return kind.of(tree)
    return find_kind(tree, place).recipe.of(tree)  # pyright: ignore[reportAttributeAccessIssue]
