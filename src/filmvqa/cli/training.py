"""From the configuration of a training run to its settings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from filmvqa.cli.command import to_plain, typed_settings

if TYPE_CHECKING:
    from filmvqa.cli.settings import TrainConfig
    from filmvqa.training.prepare import RunSettings


def run_settings(config: Any, settings_type: type[TrainConfig] | None = None) -> RunSettings:
    """The settings of the run that a config describes, of the type ``TrainConfig`` or of one with
    further keys.

    Raises
    ------
    UserError
        As ``typed_settings``.
    """
    from filmvqa.cli.settings import TrainConfig

    settings = typed_settings(config, settings_type or TrainConfig)

    from filmvqa.questions.dataset import chosen_families
    from filmvqa.training.prepare import RunSettings

    plain_config = to_plain(config)
    # The families themselves, not a file's name: a run goes on with the same ones alone.
    families = chosen_families(plain_config["data"]["families"])
    plain_config["data"]["families"] = families
    left_out = {"run", "resume", "debug", *([] if settings.imports else ["imports"])}
    return RunSettings(
        data=settings.data.layout,
        model=settings.model,
        optim=settings.optim,
        trainer=settings.trainer,
        config={k: v for k, v in plain_config.items() if k not in left_out},
        train_split=settings.data.train_split,
        val_split=settings.data.val_split,
        fraction=settings.data.fraction,
        families=families,
        curriculum=settings.data.curriculum,
        missing_images=settings.data.missing_images,
        init_from=settings.train.init_from,
        new_words_std=settings.train.new_words_std,
        trainable=settings.train.trainable,
        frozen_batch_norm=settings.train.frozen_batch_norm,
        seed=settings.seed,
        device=settings.device,
        store=settings.store,
        logger=settings.logger,
    )
