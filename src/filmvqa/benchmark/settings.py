"""The settings of the benchmark."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any

from msgspec import Meta

from filmvqa.settings.typed import Device, Name, Natural, PathText, Positive, Settings
from filmvqa.training.settings import OptimSettings, TrainerSettings


@dataclass(frozen=True, kw_only=True)
class BenchmarkSettings(Settings):
    """What is measured, and how often.

    Attributes
    ----------
    models
        Model configs by name; each is measured as the part ``train_step.<name>``.
    optim, trainer
        Settings of training.
    output
        The JSON file that is written.
    parts
        Names of the parts to measure; None is all.
    times
        Multiples of a base size at which the cost is measured; none if empty.
    runs, reference_runs
        Number of runs of each part after warming up, and of each reference; 0 skips the references.
    questions
        Number of questions that are preprocessed.
    images, copies
        Number of images that are rendered; training uses ``copies`` times as many.
    matrix_sizes
        Sizes of the square matrices whose fastest product is the limit of arithmetic; None: by
        device.
    """

    models: dict[str, dict[str, Any]]
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
