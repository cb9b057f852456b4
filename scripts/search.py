"""Search hyperparameters: each trial is a training run, pruned by its validation accuracy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from filmvqa.cli.command import command, typed_settings
from filmvqa.cli.process import keep_freed_memory
from filmvqa.studies.search.settings import SearchRunSettings
from filmvqa.training.settings import RunSettings


@command("search", SearchRunSettings)
def main(settings: SearchRunSettings) -> None:
    keep_freed_memory()
    from filmvqa.studies.search.study import Study, run_search

    plain = settings.plain()
    del plain["search"]

    def settings_of(values: dict[str, Any]) -> RunSettings:
        config = OmegaConf.create(plain)
        for key, value in values.items():
            OmegaConf.update(config, key, value, force_add=True)
        settings = typed_settings(config, RunSettings)
        settings.check_models()
        return settings

    folder = Path(HydraConfig.get().runtime.output_dir)
    run_search(Study(folder, settings.search, settings_of({}).config), settings_of)


if __name__ == "__main__":
    main()
