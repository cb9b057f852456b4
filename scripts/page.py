"""Show a page on which a trained network is asked about pictures, and shows what it does."""

from __future__ import annotations

from filmvqa.cli.command import command, typed_settings
from filmvqa.system.errors import UserError, one_line


@command("page")
def main(config) -> None:
    from filmvqa.cli.settings import PageConfig

    settings = typed_settings(config, PageConfig)

    try:
        from filmvqa.page.app import open_house, serve
    except ImportError as error:
        raise UserError(
            f"the page needs more packages ({one_line(error)}); run pip install 'filmvqa[page]'"
        ) from None
    house = open_house(
        [settings.checkpoint, *([settings.beside] if settings.beside else [])],
        h5=settings.h5,
        device=settings.device,
        weights=settings.weights,
    )
    serve(house, host=settings.host, port=settings.port, show=settings.show)


if __name__ == "__main__":
    main()
