"""Serve a web page that asks a trained network about pictures, and shows how it answers."""

from __future__ import annotations

from filmvqa.cli.command import command
from filmvqa.page.settings import PageSettings
from filmvqa.system.errors import UserError, one_line


@command("page", PageSettings)
def main(settings: PageSettings) -> None:
    try:
        from filmvqa.page.app import open_shared_state, serve
    except ImportError as error:
        raise UserError(
            f"the page needs more packages ({one_line(error)}); run pip install 'filmvqa[page]'"
        ) from None
    serve(open_shared_state(settings), settings)


if __name__ == "__main__":
    main()
