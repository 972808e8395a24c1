"""Write the pages of the reference from the code: public names, commands, parameter files.

Also builds the navigation: a page that lists links to other pages (index, tutorials, how-to, ...) is their table
of contents, so that the same list is read on a code host and leads through the site.
"""

import ast
import importlib
import inspect
import re
import textwrap
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "phaseloom"
PARTS = ("index", "tutorials", "howto", "explanations", "reference", "decisions/README")
"""Pages whose lists of links are the navigation."""


def setup(app: Any) -> dict[str, Any]:
    """Register what happens before the build and to each source."""
    app.connect("builder-inited", lambda app: write_pages(Path(app.srcdir)), priority=100)
    app.connect("source-read", _prepare_source)
    app.connect("autodoc-process-signature", _write_plain_signature)
    app.connect("autodoc-process-docstring", _mend_docstring)
    return {"parallel_read_safe": True}


def write_pages(docs: Path, /) -> list[Path]:
    """Write the pages of ``api``: public names, command line, parameter files and their choices."""
    folder = docs / "api"
    folder.mkdir(exist_ok=True)
    pages = {f"{page}.rst": text for page, text in api_pages().items()}
    pages["command-line.md"] = command_line_page()
    pages |= {f"{page}.md": text for page, text in parameter_files_pages().items()}
    for old in set(folder.iterdir()) - {folder / name for name in pages}:
        old.unlink()
    for name, text in pages.items():
        path = folder / name
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
    return [folder / name for name in pages]


# The public names: those of the stubs, and of `__all__` of the modules that stubs list.


def public_modules() -> list[str]:
    """Packages with a stub, the modules that stubs list, and modules that those list, in order."""
    found: dict[str, None] = {}
    stubs = sorted(PACKAGE.rglob("__init__.pyi"), key=lambda path: len(path.parts))
    waiting = [".".join(stub.parent.relative_to(ROOT / "src").parts) for stub in stubs]
    while waiting:
        name = waiting.pop(0)
        module = importlib.import_module(name)
        found[name] = None
        for one in getattr(module, "__all__", []):
            value = getattr(module, one)
            if (
                inspect.ismodule(value)
                and value.__name__.startswith("phaseloom.")
                and value.__name__ not in found
            ):
                waiting.append(value.__name__)
                found[value.__name__] = None
    return sorted(found, key=lambda name: (name.count("."), name))


def public_names() -> dict[str, str]:
    """Every public class, function and constant once: path under which it is documented, and its module.

    The shortest path wins: ``phaseloom.Scan4D`` before ``phaseloom.data.scan.Scan4D``.
    """
    found: dict[str, str] = {}
    seen: set[tuple[str, str]] = set()
    for module_name in public_modules():
        module = importlib.import_module(module_name)
        for name in getattr(module, "__all__", []):
            value = getattr(module, name)
            if inspect.ismodule(value):
                continue
            home = getattr(value, "__module__", None) or module_name
            own = inspect.isclass(value) or inspect.isroutine(value) or hasattr(value, "__wrapped__")
            key = (home, value.__qualname__) if own else (module_name, name)
            if key not in seen and (not own or home.startswith("phaseloom")):
                seen.add(key)
                found[f"{module_name}.{name}"] = module_name
    return found


def api_pages() -> dict[str, str]:
    """Text of one page for each package and for each module of one; modules deeper down are sections of these."""
    names = public_names()
    groups: dict[str, list[str]] = {}
    for module in public_modules():
        depth = 4 if module.startswith("phaseloom.compat.") else 3
        groups.setdefault(".".join(module.split(".")[:depth]), []).append(module)
    pages = {}
    for first, modules in groups.items():
        title = f"``{first}``" if "." in first else "``phaseloom``: the front door"
        parts = [_heading(title, "=")]
        for module in modules:
            if module != first:
                parts.append(_heading(f"``{module}``", "-"))
            parts.append(_summary(importlib.import_module(module)))
            here = [name for name, home in names.items() if home == module]
            parts += [_directive(name) for name in here]
            parts.append(_aliases(importlib.import_module(module), set(here)))
        below = [page for page in groups if page.rpartition(".")[0] == first]
        parts.append(_toctree(below) if "." in first else "")
        pages[first] = "\n".join(part for part in parts if part)
    about = (
        "Every class, function and constant of a package's front door, each in one place: its shortest path."
    )
    packages = [page for page in groups if page.count(".") < 2]
    pages["index"] = f"{_heading('Public names', '=')}\n{about}\n\n{_toctree(packages)}"
    return pages


def _toctree(pages: list[str]) -> str:
    listed = "\n".join(f"   {page}" for page in pages)
    return f".. toctree::\n   :maxdepth: 1\n\n{listed}\n" if pages else ""


def _heading(text: str, line: str) -> str:
    return f"{text}\n{line * len(text)}\n"


def _summary(module: ModuleType) -> str:
    text = inspect.getdoc(module) or ""
    return f"{_in_rst(text)}\n" if text else ""


def _aliases(module: ModuleType, here: set[str]) -> str:
    """A line on names that are documented under a shorter path."""
    others = [
        name
        for name in getattr(module, "__all__", [])
        if f"{module.__name__}.{name}" not in here and not inspect.ismodule(getattr(module, name))
    ]
    return f"Documented elsewhere: {', '.join(f'``{name}``' for name in others)}.\n" if others else ""


OF_PYDANTIC = "model_config"
"""A member of every class of settings, with a sentence of pydantic about its own documentation."""


def _directive(path: str) -> str:
    module, _, name = path.rpartition(".")
    value = getattr(importlib.import_module(module), name)
    if inspect.isclass(value):
        members = "" if _is_error(value) else f"\n   :members:\n   :exclude-members: {OF_PYDANTIC}"
        return f".. autoclass:: {path}{members}\n"
    if inspect.isroutine(value) or hasattr(value, "__wrapped__"):
        return f".. autofunction:: {path}\n"
    return f".. py:data:: {path}\n   :value: {_short(value)}\n\n{textwrap.indent(_doc_of_constant(module, name), '   ')}\n"


def _is_error(value: type) -> bool:
    return issubclass(value, BaseException)


def _short(value: Any) -> str:
    text = re.sub(r"<function (\w+) at 0x\w+>", r"\1", " ".join(repr(value).split()))
    text = re.sub(" at 0x[0-9a-f]+", "", text)  # an address differs in every build
    return text if len(text) < 100 else f"{text[:96]} ..."


def _doc_of_constant(module: str, name: str) -> str:
    """The string below an assignment."""
    tree = ast.parse(inspect.getsource(importlib.import_module(module)))
    for before, after in zip(tree.body, tree.body[1:], strict=False):
        targets = getattr(before, "targets", None) or [getattr(before, "target", None)]
        if any(getattr(one, "id", None) == name for one in targets) and isinstance(after, ast.Expr):
            if isinstance(after.value, ast.Constant) and isinstance(after.value.value, str):
                return _in_rst(after.value.value)
    return ""


def _in_rst(text: str) -> str:
    return "\n".join(_escape_stars(line) for line in text.splitlines())


def _escape_stars(line: str) -> str:
    """A line whose stars are products, not emphasis; bullets and literals stay."""
    bullet, text = re.match(r"(\s*(?:\* )?)(.*)", line, re.DOTALL).groups()  # type: ignore[union-attr]
    return bullet + re.sub(r"(``.*?``|`.*?`)|\*", lambda found: found[1] or r"\*", text)


# What Sphinx is given: plain signatures, navigation.


def _write_plain_signature(app: Any, what: str, name: str, value: Any, *rest: Any) -> tuple[str, str] | None:
    """The signature as the source has it: units and shapes of annotations are expanded otherwise."""
    if inspect.isclass(value):
        try:
            parameters = inspect.signature(value).parameters.values()
        except (TypeError, ValueError):
            return None
        return f"({', '.join(_plain_parameters(parameters))})", ""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(inspect.unwrap(value))))
    except (OSError, TypeError, SyntaxError, IndentationError):
        return None
    node = tree.body[0]
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return None
    if what == "method" and node.args.posonlyargs + node.args.args:
        first = (node.args.posonlyargs or node.args.args)[0]
        if first.arg in ("self", "cls"):
            (node.args.posonlyargs or node.args.args).pop(0)
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    return f"({ast.unparse(node.args).removeprefix('/, ')})", returns


def _plain_parameters(parameters: Any) -> list[str]:
    out, keyword = [], False
    for one in parameters:
        if one.kind is one.KEYWORD_ONLY and not keyword:
            keyword = True
            out.append("*")
        stars = {one.VAR_POSITIONAL: "*", one.VAR_KEYWORD: "**"}.get(one.kind, "")
        out.append(f"{stars}{one.name}" + ("" if one.default is one.empty else "=..."))
    return out


def _mend_docstring(app: Any, what: str, name: str, value: Any, options: Any, lines: list[str]) -> None:
    """Stars in sentences (``2 * x``, ``*args``) are no emphasis."""
    for number, line in enumerate(lines):
        if not line.lstrip().startswith((">>>", "...", ":param \\*")):
            lines[number] = _escape_stars(line)


LINK = re.compile(r"^- \[[^]]+\]\(([\w/-]+)\.(?:md|rst)\)|^<!-- toc: ([\w/-]+) (.+?): (.+) -->", re.MULTILINE)
"""An item of a list, or one that only the site has: a page that the build writes, its name, what is there."""


def _prepare_source(app: Any, page: str, source: list[str]) -> None:
    """Add the pages that a list of links names to the navigation; folders of the repository are no pages."""
    if page in PARTS:
        listed = [first or second for first, second, *_ in LINK.findall(source[0])]
        source[0] = re.sub(
            r"^<!-- toc: (\S+) (.+?): (.+) -->", r"- {doc}`\2 </\1>`: \3", source[0], flags=re.MULTILINE
        )
        source[0] += "\n\n```{toctree}\n:hidden:\n\n" + "\n".join(listed) + "\n```\n"
    source[0] = re.sub(r"\[([^]]+)\]\(\.\./[\w./-]*(?:/|/[\w-]+|examples)\)", r"\1", source[0])
    source[0] = re.sub(
        r"\[([^]]+)\]\((\.\./[\w./-]+\.(?:md|py|json|sh))\)", r"{download}`\1 <\2>`", source[0]
    )


# The command line.


def command_line_page() -> str:
    """Every verb with its arguments, options and defaults, from the application itself."""
    import typer

    from phaseloom.cli import app

    lines = [
        "# Command line",
        "",
        "Written from the program itself. `phaseloom VERB --help` prints the same.",
        "",
    ]
    for path, command in _commands(typer.main.get_command(app), "phaseloom"):
        lines += [
            f"## `{path}`" if path.count(" ") < 2 else f"### `{path}`",
            "",
            _as_paragraphs(command.help),
            "",
        ]
        rows = [
            _option_row(one)
            for one in command.params
            if one.name != "help" and not getattr(one, "hidden", False)
        ]
        if rows:
            lines += ["| | default | |", "|---|---|---|", *rows, ""]
    return "\n".join(lines)


def _commands(command: Any, path: str) -> list[tuple[str, Any]]:
    """A command and those below it, with their words."""
    below = getattr(command, "commands", {})
    found = [(path, command)]
    for name in sorted(below):
        if not below[name].hidden:
            found += _commands(below[name], f"{path} {name}")
    return found


def _option_row(one: Any) -> str:
    if one.param_type_name == "argument":
        names = f"`{(one.metavar or one.name).upper()}`" + ("" if one.required else " (optional)")
    else:
        names = ", ".join(f"`{name}`" for name in (*one.opts, *one.secondary_opts))
    default = one.default
    shown = (
        ""
        if default is None or default == () or callable(default) or "Sentinel" in repr(default)
        else default
    )
    shown = f"`{getattr(shown, 'value', shown)}`" if str(shown) else ""
    return f"| {names} | {_cell(shown)} | {_cell(getattr(one, 'help', '') or '')} |"


def _cell(text: str) -> str:
    return " ".join(_without_markup(str(text)).split()).replace("|", r"\|")


def _without_markup(text: str) -> str:
    return text.replace("``", "`")


def _as_paragraphs(text: str | None) -> str:
    """Help, with indented blocks as code."""
    parts = re.split(r"\n\s*\n", inspect.cleandoc((text or "").replace("\b\n", "").replace("\f", "")))
    return "\n\n".join(_without_markup(part) for part in parts)


# The parameter files.


def parameter_files_pages() -> dict[str, str]:
    """Sections of every kind of parameter file; on pages of their own the choices of a section, with settings."""
    from phaseloom.cli import describe

    lines = ["# Parameter files", "", "Written from the code, as `phaseloom describe` prints it.", ""]
    rooms: dict[str, str] = {}
    for kind in describe.RECIPE_HOMES:
        recipe = describe.recipe_of(kind)
        lines += [f"## {kind}", "", f"`phaseloom describe --of {kind}`", ""]
        lines += ["| section | default | |", "|---|---|---|"]
        for key, info in recipe.model_fields.items():
            room = (
                (info.json_schema_extra or {}).get("room")
                if isinstance(info.json_schema_extra, dict)
                else None
            )
            label = f"`{key}`"
            if room:
                rooms.setdefault(str(room), key)
                label = f"[`{key}`]({_anchor(str(room))}.md)"
            default = describe._default(describe._start(info))
            default = " ".join(default.split()) if len(default) < 60 else "..."
            if key != "found":
                lines.append(
                    f"| {label} | `{_cell(default)}` | {_cell(describe.describe_attribute(recipe, key))} |"
                )
        lines.append("")
    pages = {_anchor(room): "\n".join(_choices(room, key)) for room, key in rooms.items()}
    listed = "\n".join(pages)
    lines += ["## Choices", "", "Sections that name a function, and the settings of each.", ""]
    lines += ["```{toctree}", ":maxdepth: 1", "", listed, "```"]
    return {"parameter-files": "\n".join(lines), **pages}


def _anchor(room: str) -> str:
    return "choices-" + room.removeprefix("phaseloom.").replace(".", "-").replace("_", "-")


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    """Lines of a table, without a last column that is empty."""
    if not any(row[-1] for row in rows):
        head, rows = head[:-1], [row[:-1] for row in rows]
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]


def _choices(room: str, key: str) -> list[str]:
    """The choices of a section, each with its settings."""
    from phaseloom.spec import dimension_of, function_of, knobs, names

    lines = [f"# Choices of `{key}` (`{room}`)", ""]
    for name in names(room):
        text = (inspect.getdoc(function_of(room, name)) or "").split("\n\n")[0]
        lines += [f"## `{name}`", "", _without_markup(" ".join(text.split())), ""]
        rows = []
        for knob, parameter in knobs(room, name).items():
            default = (
                "required"
                if parameter.default is parameter.empty
                else f"`{_cell(_short(parameter.default))}`"
            )
            dimension = dimension_of(parameter.annotation)
            rows.append([f"`{knob}`", default, f"{dimension.name} with a unit" if dimension else ""])
        if rows:
            lines += [*_table(["setting", "default", ""], rows), ""]
    return lines
