"""What a user may get wrong, and what a disk may refuse, said in one sentence."""

import errno
import os

__all__ = ["BadInput", "BadPlugin", "MissingExtra", "WriteFailed", "nearest"]


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

    def __reduce__(self) -> tuple[object, ...]:
        """For another process: a value of any kind goes as the text that the message shows."""
        value = self.value if self.value is None or isinstance(self.value, str) else repr(self.value)
        return _rebuild, (type(self), self.place, value, self.fix), {"code": self.code}


def _rebuild(kind: type[BadInput], place: str, value: object, fix: str) -> BadInput:
    problem = kind.__new__(kind)
    BadInput.__init__(problem, place, value, fix)
    return problem


class BadPlugin(BadInput):
    """A function from outside of the package that fails: a mistake of its author, not of the user."""

    code = 1


class MissingExtra(BadInput):
    """A feature whose optional dependency is not installed."""

    def __init__(self, feature: str, module: str, extra: str):
        super().__init__(feature, None, f"needs {module}: pip install 'phaseloom[{extra}]'")


class WriteFailed(BadInput, OSError):
    """A file that cannot be written: the message names it, the reason and what to do.

    Attributes:
        errno: the number of the error.

    Example:
        >>> print(WriteFailed("a.h5", OSError(27, "File too large")))
        a.h5: cannot be written (File too large): name a folder on a file system that takes files of this size
    """

    def __init__(self, path: object, problem: OSError, number: int | None = None):
        number = number or problem.errno or errno.EIO
        reason = os.strerror(number)
        fix = _WRITE_FIXES.get(number, "name a file or folder that can be written to")
        super().__init__(str(path), None, f"cannot be written ({reason}): {fix}")
        self.code = 1 if number in _WRITE_FIXES else 2  # the disk's fault, or that of a name
        self.errno = number
        self.strerror = reason
        self.filename = str(path)

    def __str__(self) -> str:
        return self.args[0]

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.filename, OSError(self.errno, self.strerror))


_AGAIN = "then run it again, or continue a run with --resume"
_WRITE_FIXES = {
    errno.ENOSPC: f"free some space there, {_AGAIN}",
    errno.EDQUOT: f"free some space of your quota there, {_AGAIN}",
    errno.EIO: f"the disk or its connection fails; see to it, {_AGAIN}",
    errno.EFBIG: "name a folder on a file system that takes files of this size",
}
"""What helps, by the number of an error."""


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
