"""Groups of settings as pydantic models; what pydantic finds wrong becomes a sentence with place, value, fix.

A group that is left out or null has its defaults; one whose type allows ``None`` is off then.
"""

from collections.abc import Mapping
from typing import Annotated, Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from phaseloom.errors import BadInput, nearest
from phaseloom.findings import describe_error

__all__ = ["Count", "LooseSettings", "NotNegative", "Pair", "Positive", "Settings", "as_tree", "check"]
__all__ += ["find_group"]

Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Pair = Annotated[list[float], Field(min_length=2, max_length=2)]


class Settings(BaseModel):
    """Settings with names; unknown names are refused."""

    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _drop_null_groups(cls, given: Any) -> Any:
        if not isinstance(given, Mapping):
            return given
        groups = {name for name, field in cls.model_fields.items() if _is_group(field.annotation)}
        return {name: value for name, value in given.items() if value is not None or name not in groups}

    def list_notes(self, place: str, /) -> list[str]:
        """What the user should know about the settings of this group."""
        return [f"{place}.{key} means nothing to PtyRAD and is passed over" for key in self.model_extra or ()]


class LooseSettings(Settings):
    """The same where PtyRAD ignores unknown names."""

    model_config = ConfigDict(extra="allow")


Group = TypeVar("Group", bound=Settings)


def check(model: type[Group], given: Any, place: str, /) -> Group:
    """Settings as a model.

    Raises:
        BadInput: the first mistake.

    Example:
        >>> class Scan(Settings):
        ...     rows: Count
        >>> check(Scan, {"rows": "8"}, "scan").rows
        8
        >>> check(Scan, {"row": 8}, "scan")
        Traceback (most recent call last):
        phaseloom.errors.BadInput: scan: there is no 'row'; did you mean 'rows'?
    """
    try:
        return model.model_validate({} if given is None else given)
    except ValidationError as problem:
        raise _explain(problem, model, given, place) from None


def as_tree(model: Settings, place: str, notes: list[str], /) -> dict[str, Any]:
    """A group as plain dicts without the names that PtyRAD ignores; its notes are appended to ``notes``."""
    notes += model.list_notes(place)
    tree = {}
    for name in type(model).model_fields:
        value = getattr(model, name)
        inner = f"{place}.{name}"
        tree[name] = as_tree(value, inner, notes) if isinstance(value, Settings) else value
    return tree


def _explain(problem: ValidationError, model: type[Settings], given: Any, place: str) -> BadInput:
    """The first mistake: the place is the setting's own, also where one number of a list is wrong."""
    errors = problem.errors()
    error = next((one for one in errors if one["type"] == "extra_forbidden"), errors[0])
    cause = error.get("ctx", {}).get("error")
    if isinstance(cause, BadInput):
        return cause
    group: Any = model
    for name in error["loc"]:
        if group is None:
            break
        if name not in group.model_fields:
            return BadInput(place, f"there is no '{name}';", nearest(str(name), group.model_fields))
        place = f"{place}.{name}"
        given = given.get(name) if isinstance(given, Mapping) else None
        group = find_group(group.model_fields[name].annotation)
    return BadInput(place, given, describe_error(error))


def find_group(annotation: Any, /) -> type[Settings] | None:
    """The group of settings that a field holds, or may hold; ``None`` for a plain value."""
    return next((one for one in (annotation, *get_args(annotation)) if _is_group(one)), None)


def _is_group(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, Settings)
