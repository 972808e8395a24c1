"""What a user may get wrong, said in one sentence."""

__all__ = ["BadInput", "BadPlugin", "MissingExtra", "nearest"]


class BadInput(ValueError):
    """A file or a parameter that cannot be used: the message names place, value and way out.

    Example:
        >>> raise BadInput("probe: focused.semiangle", 25, "is not an angle: write '25 mrad'")
        Traceback (most recent call last):
        phaseloom.errors.BadInput: probe: focused.semiangle: 25 is not an angle: write '25 mrad'
    """

    code = 2
    """Exit code of the command line."""

    def __init__(self, place: str, value: object, fix: str):
        self.place, self.value, self.fix = place, value, fix
        shown = "" if value is None else f"{_short(value)} "
        super().__init__(f"{place}: {shown}{fix}")


class BadPlugin(BadInput):
    """A function from outside of the package that fails: a mistake of its author, not of the user."""

    code = 1


class MissingExtra(BadInput):
    """A feature whose optional dependency is not installed."""

    def __init__(self, feature: str, module: str, extra: str):
        super().__init__(feature, None, f"needs {module}: pip install 'phaseloom[{extra}]'")


def nearest(word: str, choices: object) -> str:
    """A sentence's end that offers the closest of some names, or all of them.

    Example:
        >>> nearest("focussed", ["focused", "stored"])
        "did you mean 'focused'?"
    """
    import difflib

    names = [str(choice) for choice in choices]  # type: ignore[attr-defined]
    close = difflib.get_close_matches(str(word), names, n=1)
    return f"did you mean '{close[0]}'?" if close else f"choose one of {', '.join(names)}"


def _short(value: object) -> str:
    text = value if isinstance(value, str) else repr(value)
    text = " ".join(text.split())
    return text if len(text) <= 80 else text[:77] + "..."
