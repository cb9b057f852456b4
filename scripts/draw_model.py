"""Draw the FiLM network of a model config."""

from __future__ import annotations

from filmvqa.cli.command import command, to_plain
from filmvqa.errors import UserError
from filmvqa.locks import file_lock


@command("draw_model")
def main(config) -> None:
    from filmvqa.reports.figures import draw_film

    if config.model.name != "film":
        raise UserError(f"model={config.model.name} cannot be drawn; choose a film model")
    with file_lock(config.output):
        draw_film(to_plain(config.model), tuple(to_plain(config.feature_shape)), config.output)
    print(f"written to {config.output}")


if __name__ == "__main__":
    main()
