"""Settings of the programs that measure speed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from msgspec import Meta

from filmvqa.settings.inputs import FILE
from filmvqa.settings.typed import (
    Device,
    ModelOptions,
    Name,
    Natural,
    PathText,
    Positive,
    ProgramSettings,
)
from filmvqa.training.settings import OptimSettings, RunSettings, TrainerSettings


@dataclass(frozen=True, kw_only=True)
class BenchmarkSettings(ProgramSettings):
    """A measurement of the speed of each part of the pipeline.

    Attributes
    ----------
    models
        Model configs by name; each is measured as the part ``train_step.<name>``.
    optim, trainer
        Settings of training.
    output
        The JSON file of the results.
    parts
        Names of the parts to measure; None: all.
    times
        Multiples of a base size at which the cost is measured; none if empty.
    runs, reference_runs
        Number of runs of each part after warming up, and of each reference; 0 skips the references.
    questions
        Number of questions that are preprocessed.
    images, copies
        Number of images that are rendered; training uses ``copies`` times as many.
    matrix_sizes
        Sizes of the square matrices whose fastest product is the arithmetic ceiling; None: by
        device.
    device
        As ``choose_device`` takes it.
    """

    models: dict[str, ModelOptions]
    optim: OptimSettings
    trainer: TrainerSettings
    output: PathText
    parts: list[Name] | None = None
    times: list[Positive] = field(default_factory=lambda: [1, 2, 4, 8])
    runs: Positive = 3
    reference_runs: Natural = 2
    questions: Positive = 160_000
    images: Positive = 256
    copies: Positive = 4
    matrix_sizes: Annotated[list[Positive], Meta(min_length=1)] | None = None
    device: Device = "auto"

    def check_models(self) -> None:
        from filmvqa.models import check_model

        for name, model in self.models.items():
            check_model(model, f"models.{name}")


@dataclass(frozen=True, kw_only=True)
class LoggingCostSettings(RunSettings):
    """A run whose loggers are measured.

    Attributes
    ----------
    pairs
        Number of pairs of runs, without and with the loggers.
    """

    pairs: Positive = 8


@dataclass(frozen=True, kw_only=True)
class SimulateScaleSettings(ProgramSettings):
    """Training at sizes that were not measured, computed from a measurement.

    Attributes
    ----------
    measurement
        The JSON file of the measurements of one machine.
    output
        The Markdown file of the tables; None: print them.
    """

    measurement: Annotated[PathText, FILE] = "docs/scale.json"
    output: PathText | None = None
