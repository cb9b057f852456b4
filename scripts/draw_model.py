"""Draw the FiLM network of a model config."""

from __future__ import annotations

from filmvqa.cli.command import command, typed_settings
from filmvqa.system.errors import UserError
from filmvqa.system.locks import file_lock


@command("draw_model")
def main(config) -> None:
    from filmvqa.cli.settings import DrawModelConfig

    settings = typed_settings(config, DrawModelConfig)

    from filmvqa.models import check_model
    from filmvqa.studies.network_diagram import draw_film

    check_model(settings.model)
    if settings.model["name"] != "film":
        raise UserError(f"model.name={settings.model['name']}: must be film to be drawn")
    with file_lock(settings.output):
        draw_film(settings.model, settings.feature_shape, settings.output)
    print(f"written to {settings.output}")


if __name__ == "__main__":
    main()
