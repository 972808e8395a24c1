"""The verb that opens the page."""

from pathlib import Path
from typing import Annotated, Any

import typer

from phaseloom.cli.command import app

__all__: list[str] = []


@app.command()
def web(
    folder: Annotated[Path, typer.Argument(help="folder with data and runs")] = Path(),
    *,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any that is free")] = 0,
    address: Annotated[
        str, typer.Option(help="of the interface; others than this machine's own need PHASELOOM_WEB_TOKEN")
    ] = "127.0.0.1",
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="open it in the browser")] = True,
) -> None:
    """Open the page on a folder: look at data, start runs, watch, steer and compare them, in a browser.

    The page answers this machine alone, and only with the token of the printed address. From elsewhere use
    an SSH tunnel: ssh -L 5006:localhost:5006 MACHINE, with --port 5006 --no-browser there.
    """
    import webbrowser

    from phaseloom import plugins

    open_folder: Any = plugins.target("phaseloom.cli", "open_folder")
    page = open_folder(folder, port=port, address=address)
    typer.echo(f"page: {page.address}\nend it with Ctrl-C; runs go on without it")
    if browser:
        webbrowser.open(page.address)
    page.run()
