"""Commands to a run under way, and its answers: lines appended to ``control.jsonl`` and ``events.jsonl``.

Any process that may write to the folder of a run, on any machine, appends commands with `send_command`. The
run reads new lines at the end of each epoch and answers each command once, by a line of ``events.jsonl`` with
``"event": "steered"``. Nobody but the run changes anything else in its folder.
"""

import contextlib
import json
import logging
import os
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, TypeAdapter, ValidationError

from phaseloom.documents import parse_json_lines
from phaseloom.errors import BadInput, nearest
from phaseloom.files import append_text, open_plain
from phaseloom.findings import describe_error
from phaseloom.fitting.distributed import team

__all__ = [
    "COMMANDS",
    "Answer",
    "BadCommand",
    "Command",
    "CommandLoop",
    "CommandQueue",
    "CommandReader",
    "Outcome",
    "is_paused",
    "read_answers",
    "read_commands",
    "read_events",
    "require_run_folder",
    "send_command",
    "wait_for_answer",
]

log = logging.getLogger(__name__)

CommandName = Literal["pause", "resume", "stop", "save", "set", "on", "off", "back", "branch"]
COMMANDS: tuple[str, ...] = get_args(CommandName)

MAX_LINE_BYTES = 4096
"""Bytes of a command: POSIX systems append as many at once without mixing writers."""

MAX_BYTES_PER_READ = 1 << 20
"""Bytes that are read of a control file at once, whatever was written there."""

SECONDS_BETWEEN_LOOKS = 0.2
"""Time after which a run that is paused looks for commands again, and who waits for an answer."""

MAX_ID_LENGTH = 200
"""Characters of an identifier, or of a name."""

ShortText = Annotated[str, StringConstraints(min_length=1, max_length=MAX_ID_LENGTH)]


def _now() -> str:
    """The time, for lines of files."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


class Command(BaseModel):
    """A line of ``control.jsonl``.

    Attributes:
        id: chosen by the sender; a second line with the same one is ignored.
        time: when it was sent (ISO 8601, UTC).
        command: one of `COMMANDS`.
        settings: of ``set`` and ``branch``: values by their paths in the parameter file, ``rates.object``.
        epoch: of ``back``: the epoch to go back to.
        name: of ``on`` and ``off``: the part, ``probe``; of ``branch``: the new folder.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    id: ShortText
    time: str = ""
    command: CommandName
    settings: dict[str, Any] = Field(default_factory=dict)
    epoch: int | None = Field(None, ge=0, strict=True)
    name: ShortText | None = None

    def to_line(self) -> bytes:
        """The line of the file, with an end of line before it, should another writer have left none."""
        return f"\n{self.model_dump_json(exclude_defaults=True)}\n".encode()


@dataclass(frozen=True)
class BadCommand:
    """A line with an identifier that is not a command all the same: it is refused.

    Attributes:
        id: of the line.
        command: what it calls itself.
        reason: what is wrong, in one sentence.
    """

    id: str
    command: str
    reason: str


@dataclass(frozen=True)
class Answer:
    """What a run made of a command: a line of ``events.jsonl`` with ``"event": "steered"``.

    Attributes:
        id: of the command.
        epoch: epochs that were done when it was taken; it holds from the next one on.
        command: its verb.
        accepted: whether the run does it.
        reason: why not, or what follows, in one sentence.
        settings: values that hold from now on, by their paths.
        time: when it was answered (ISO 8601, UTC).
    """

    id: str
    epoch: int
    command: str
    accepted: bool
    reason: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    time: str = field(default_factory=_now)

    def to_event(self) -> dict[str, Any]:
        """The line of ``events.jsonl``."""
        return {"event": "steered", **asdict(self)}


def send_command(
    folder: Path | str,
    command: str,
    settings: Mapping[str, Any] | None = None,
    /,
    *,
    epoch: int | None = None,
    name: str | None = None,
) -> str:
    """Append a command to the control file of a run; the identifier by which its answer is found.

    It returns at once. A run that is not under way takes the command when it is resumed.

    Args:
        folder: of the run, also one on another machine.
        command: one of `COMMANDS`.
        settings: see `Command`, as the other arguments.
        epoch: see `Command`.
        name: see `Command`.

    Raises:
        BadInput: no run there, no such command, or one that is too long for a line.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> _ = (folder / "run.yaml").write_text("epochs: 20")
        >>> found = send_command(folder, "set", {"rates.object": 0.1})
        >>> [(one.id == found, one.settings) for one in read_commands(folder)]
        [(True, {'rates.object': 0.1})]
        >>> read_answers(folder)  # nothing runs here
        {}
    """
    folder = require_run_folder(folder)
    if command not in COMMANDS:
        raise BadInput("steer", command, f"is not a command: {nearest(command, COMMANDS)}")
    tree = {"command": command, "settings": dict(settings or {}), "epoch": epoch, "name": name}
    try:
        line = Command.model_validate({"id": secrets.token_hex(8), "time": _now(), **tree})
        text = line.to_line()
    except ValueError as problem:  # pydantic's, of what is no JSON too
        raise BadInput(f"steer {command}", None, f"cannot be sent: {_first_reason(problem)}") from None
    if len(text) > MAX_LINE_BYTES:
        raise BadInput(
            f"steer {command}", f"{len(text)} bytes", f"are too many: send {MAX_LINE_BYTES} at most"
        )
    append_text(folder / "control.jsonl", text.decode())
    return line.id


def read_commands(folder: Path | str, /) -> list[Command]:
    """All commands that a run was sent, in their order; lines that are none are left out."""
    reader = CommandReader(Path(folder))
    found = list[Command]()
    while reader.has_new():
        found += [one for one in reader.read_new() if isinstance(one, Command)]
    return found


def read_answers(folder: Path | str, /) -> dict[str, Answer]:
    """What a run has answered so far, by the identifiers of the commands."""
    found = {}
    for event in read_events(folder):
        if event.get("event") == "steered":
            fields = {name: event[name] for name in Answer.__dataclass_fields__ if name in event}
            with contextlib.suppress(ValidationError):  # a damaged line is none
                answer = TypeAdapter(Answer).validate_python(fields)
                found[answer.id] = answer
    return found


def read_events(folder: Path | str, /) -> Iterator[dict[str, Any]]:
    """The lines of ``events.jsonl``, epochs and answers; a last one that is half written is left out."""
    try:
        data = (Path(folder) / "events.jsonl").read_bytes()
    except FileNotFoundError:
        return
    yield from parse_json_lines(data[: data.rfind(b"\n") + 1])


def is_paused(events: Iterable[Mapping[str, Any]], /) -> bool:
    """Whether a run waits, by its events: no epoch has come after the last pause, and no command ended it.

    Args:
        events: lines of ``events.jsonl``.

    Example:
        >>> pause = {"event": "steered", "command": "pause", "accepted": True, "epoch": 2}
        >>> [is_paused([{"number": 2}, pause, *more]) for more in ([], [{"number": 3}])]
        [True, False]
    """
    number, last = 0, None
    for event in events:
        number = event.get("number", number)
        if event.get("accepted") and event.get("command") in ("pause", "resume", "stop"):
            last = event
    return last is not None and last["command"] == "pause" and number <= last.get("epoch", number)


def wait_for_answer(folder: Path | str, identifier: str, /, *, seconds: float = 60.0) -> Answer | None:
    """The answer to a command, or ``None`` where it has not come after so many seconds."""
    until = time.monotonic() + seconds
    while (answer := read_answers(folder).get(identifier)) is None and time.monotonic() < until:
        time.sleep(min(SECONDS_BETWEEN_LOOKS, seconds))
    return answer


class CommandReader:
    """Reads the commands that were appended since it last looked.

    Looking costs some ten microseconds: the file is opened, for only then a shared file system tells its
    true size, and read where it has grown.
    """

    def __init__(self, folder: Path):
        self.path = folder / "control.jsonl"
        self.offset = 0
        self._size = 0
        self._is_refused = False

    def has_new(self) -> bool:
        """Whether the file has grown since it was last read."""
        try:
            with open_plain(self.path, "rb") as file:
                size = os.fstat(file.fileno()).st_size
        except FileNotFoundError:
            return False
        except BadInput as problem:  # somebody's mischief or mistake: a run does not end for it
            if not self._is_refused:
                log.warning("%s", problem)
            self._is_refused = True
            return False
        return size > max(self.offset, self._size)

    def read_new(self) -> list[Command | BadCommand]:
        """Commands of whole lines that are new, of some at once; other lines are counted in the log."""
        if not self.has_new():
            return []
        with open_plain(self.path, "rb") as file:
            file.seek(self.offset)
            piece = file.read(MAX_BYTES_PER_READ)
        end = piece.rfind(b"\n") + 1
        if not end and len(piece) > MAX_LINE_BYTES:
            end = len(piece)  # no sender of commands leaves so much without an end of line
        self._size = self.offset + len(piece)  # an unfinished line is read again when it has grown
        self.offset += end
        return self._parse(piece[:end])

    def _parse(self, piece: bytes) -> list[Command | BadCommand]:
        found = list[Command | BadCommand]()
        wrong = list[str]()
        for line in filter(None, map(bytes.strip, piece.split(b"\n"))):
            try:
                found.append(_parse_line(line))
            except BadInput as problem:
                wrong.append(str(problem))
        if wrong:
            count = f"{len(wrong)} line{'s' * (len(wrong) > 1)}"
            log.warning("%s: ignored %s that hold no command (%s)", self.path, count, wrong[0])
        return found


class CommandQueue:
    """The commands of a run that it has not answered yet, and the answers that it has given.

    Of several processes the main one reads and writes, and all take the same commands.

    Args:
        folder: of the run; ``None`` in processes that do not write.

    Attributes:
        answers: all so far, those of earlier processes of the run too.
    """

    def __init__(self, folder: Path | None):
        self.folder = folder
        self.answers = [] if folder is None else [*read_answers(folder).values()]
        self._taken = {answer.id for answer in self.answers}
        self._reader = None if folder is None else CommandReader(folder)

    def take(self) -> list[Command | BadCommand]:
        """Commands that came since the last call, each once."""
        new = list[Command | BadCommand]()
        for one in [] if self._reader is None else self._reader.read_new():
            if one.id not in self._taken:
                self._taken.add(one.id)
                new.append(one)
        return team().broadcast(new)

    def answer(self, answer: Answer, /) -> None:
        """Write an answer into ``events.jsonl``."""
        self.answers.append(answer)
        if self.folder is not None:
            append_text(self.folder / "events.jsonl", json.dumps(answer.to_event()) + "\n")


@dataclass(frozen=True)
class Outcome:
    """What came of a command that was accepted.

    Attributes:
        reason: what follows, in one sentence; may be empty.
        settings: values that hold from now on.
    """

    reason: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)


class CommandLoop:
    """Takes the commands of a run between two epochs, has them carried out, and answers them.

    Pausing is its own: while a run is paused, it waits here for other commands.

    Args:
        queue: of the run.
        verbs: what carries out the other commands; refuses by `phaseloom.errors.BadInput`.
        epoch: tells how many epochs are done.
        ended: tells whether the run has come to its end.
        followed: what came of commands that the run has followed already but may not have answered, by their
            identifiers: it was killed between.
    """

    def __init__(
        self,
        queue: CommandQueue,
        verbs: Mapping[str, Callable[[Command], Outcome]],
        /,
        *,
        epoch: Callable[[], int],
        ended: Callable[[], bool],
        followed: Mapping[str, Outcome] | None = None,
    ):
        self.queue = queue
        self.verbs = {"pause": self._pause, "resume": self._resume, **verbs}
        self.epoch = epoch
        self.ended = ended
        self.followed = followed or {}
        self.is_paused = False

    def take_all(self) -> None:
        """Carry out what has come; while the run is paused, wait for more."""
        while True:
            for command in self.queue.take():
                self.queue.answer(self._carry_out(command))
            if not self.is_paused or self.ended():
                return
            time.sleep(SECONDS_BETWEEN_LOOKS)

    def _carry_out(self, command: Command | BadCommand) -> Answer:
        """The answer to a command; its epoch is the one that was done when it came."""
        found = {"id": command.id, "epoch": self.epoch(), "command": command.command}
        if isinstance(command, BadCommand):
            return Answer(**found, accepted=False, reason=command.reason)
        try:
            if (outcome := self.followed.get(command.id)) is not None:
                return Answer(**found, accepted=True, reason=outcome.reason, settings=outcome.settings)
            verb = self.verbs.get(command.command)
            if verb is None:
                fix = f"is not a command for this kind of run: it takes {', '.join(self.verbs)}"
                raise BadInput("steer", command.command, fix)
            outcome = verb(command)
        except BadInput as problem:
            log.warning("refused: %s", problem)
            return Answer(**found, accepted=False, reason=str(problem))
        log.info("steer %s: accepted after epoch %d", command.command, found["epoch"])
        return Answer(**found, accepted=True, reason=outcome.reason, settings=outcome.settings)

    def _pause(self, command: Command) -> Outcome:
        if self.ended():
            raise BadInput("steer", command.command, "comes too late: the run has ended")
        self.is_paused = True
        return Outcome(f"waits after epoch {self.epoch()} until it is resumed or stopped")

    def _resume(self, command: Command) -> Outcome:
        if not self.is_paused:
            raise BadInput("steer", command.command, "has no effect: the run is not paused")
        self.is_paused = False
        return Outcome()


def require_run_folder(
    folder: Path | str, /, *, what: str = "a run", files: Sequence[str] = ("run.yaml",)
) -> Path:
    """The folder of a run, by its ``run.yaml``.

    Args:
        folder: that may be one.
        what: it should be the folder of.
        files: that tell it.

    Raises:
        BadInput: none there.
    """
    folder = Path(folder)
    if not all((folder / name).is_file() for name in files):
        names = " and ".join(files)
        fix = f"holds no {names}: name the folder of {what}"
        inside = [one.name for one in folder.iterdir()] if folder.is_dir() else []
        if inside and all(name.startswith(".") for name in inside):  # the lock of a command that was killed
            fix = f"holds no {names}, as nothing was done there yet: begin {what} anew, or name its folder"
        raise BadInput(str(folder), None, fix)
    return folder


def _parse_line(line: bytes) -> Command | BadCommand:
    """A line as a command, or as one that has to be refused.

    Raises:
        BadInput: nothing that could be answered: no JSON, or no identifier.
    """
    try:
        tree = json.loads(line) if len(line) <= MAX_LINE_BYTES else None
    except (ValueError, RecursionError):
        tree = None
    identifier = tree.get("id") if isinstance(tree, dict) else None
    if not isinstance(identifier, str) or not 0 < len(identifier) <= MAX_ID_LENGTH:
        raise BadInput("control.jsonl", line.decode(errors="replace"), "is not a command with an id")
    assert isinstance(tree, dict)
    try:
        return Command.model_validate(tree)
    except ValidationError as problem:
        return BadCommand(identifier, str(tree.get("command"))[:MAX_ID_LENGTH], _first_reason(problem))


def _first_reason(problem: ValueError) -> str:
    """The first thing that is wrong with a command, as a sentence."""
    if not isinstance(problem, ValidationError):
        return str(problem)
    first = problem.errors()[0]
    place = ".".join(map(str, first["loc"])) or "command"
    return str(BadInput(place, first["input"], describe_error(first)))
