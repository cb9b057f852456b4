"""Draw the FiLM network of a model config."""

from __future__ import annotations

from filmvqa.cli.command import command, typed_settings
from filmvqa.studies.settings import DrawModelSettings
from filmvqa.system.locks import file_lock


@command("draw_model")
def main(config) -> None:
    settings = typed_settings(config, DrawModelSettings)

    from filmvqa.studies.network_diagram import draw_film

    with file_lock(settings.output):
        draw_film(settings.model, settings.feature_shape, settings.output)
    print(f"written to {settings.output}")


if __name__ == "__main__":
    main()
