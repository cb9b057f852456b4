"""Draw the FiLM network of a model config."""

from __future__ import annotations

from filmvqa.cli.command import command
from filmvqa.studies.settings import DrawModelSettings
from filmvqa.system.locks import file_lock


@command("draw_model", DrawModelSettings)
def main(settings: DrawModelSettings) -> None:
    from filmvqa.studies.network_diagram import draw_film

    with file_lock(settings.output):
        draw_film(settings.model, settings.feature_shape, settings.output)
    print(f"written to {settings.output}")


if __name__ == "__main__":
    main()
