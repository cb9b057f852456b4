"""What a changed configuration means for a run that goes on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import Enum
from typing import Any

from filmvqa.models import MODELS
from filmvqa.models.options import with_defaults
from filmvqa.settings.nested import flatten
from filmvqa.training.settings import TrainerSettings


class Effect(Enum):
    """What a changed value of a key changes."""

    #: Nothing that is computed: the run goes on.
    NONE = "none"
    #: Results by rounding only: the run goes on, with a warning.
    ROUNDING = "rounding"
    #: Nothing if the hashes of vocabulary, questions and features are those recorded, else all:
    #: these are compared once the data are open.
    DATA = "data"
    #: Where the run ends: it goes on, unless what was computed depends on it.
    LENGTH = "length"
    #: What is computed or recorded: refused.
    RESULT = "result"


#: The effect of each key of the training config, or of all keys below it, and the reason.
EFFECTS: dict[str, tuple[Effect, str]] = {
    "name": (Effect.NONE, "a part of the folder's path"),
    "ablation": (Effect.NONE, "a label for reports"),
    "imports": (Effect.NONE, "where a user's own model stands, not what it computes"),
    "seed": (Effect.RESULT, "the initial weights, the questions' order, dropout, the fraction"),
    "device": (Effect.NONE, "provenance records it and warns where bits may differ"),
    "store": (Effect.NONE, "the same features, held elsewhere"),
    "train.init_from": (Effect.RESULT, "the initial weights"),
    "train.new_words_std": (Effect.RESULT, "the initial weights"),
    "train.trainable": (Effect.RESULT, "which weights change"),
    "train.frozen_batch_norm": (Effect.RESULT, "the statistics of frozen parts"),
    "logger": (Effect.NONE, "where the same records go"),
    "data.name": (Effect.DATA, "a label"),
    "data.root": (Effect.DATA, "a place"),
    "data.images": (Effect.DATA, "a place"),
    "data.h5": (Effect.DATA, "a place"),
    "data.features": (Effect.DATA, "a place"),
    "data.image_size": (Effect.DATA, "how features are made"),
    "data.mask_size": (Effect.DATA, "how masks are made"),
    "data.backbone": (Effect.DATA, "how features are made"),
    "data.missing_images": (Effect.DATA, "which questions and features there are"),
    "data.generator": (Effect.DATA, "how images are made"),
    "data.sound": (Effect.DATA, "how recordings are made"),
    "data.spectrogram": (Effect.DATA, "how features are made"),
    "data.download": (Effect.DATA, "where images and questions are from"),
    "data.train_split": (Effect.RESULT, "the questions that are trained on"),
    "data.val_split": (Effect.RESULT, "the questions that choose best.pt"),
    "data.fraction": (Effect.RESULT, "the questions that are trained on"),
    "data.curriculum": (Effect.RESULT, "the order of the questions"),
    "data.families": (Effect.RESULT, "the questions that are trained and validated on"),
    "model": (Effect.RESULT, "the network"),
    "optim": (Effect.RESULT, "the updates of the weights"),
    "trainer.batch_size": (Effect.RESULT, "the batches"),
    "trainer.max_epochs": (Effect.LENGTH, "the last step"),
    "trainer.max_steps": (Effect.LENGTH, "the last step"),
    "trainer.patience": (Effect.LENGTH, "the evaluation after which the run ends early"),
    "trainer.eval_every": (Effect.RESULT, "the steps from which best.pt is chosen, and patience"),
    "trainer.log_every": (Effect.NONE, "the steps of the records that follow"),
    "trainer.grad_clip": (Effect.RESULT, "the updates of the weights"),
    "trainer.grad_clip_by_part": (Effect.RESULT, "the updates of the weights"),
    "trainer.precision": (Effect.RESULT, "the precision of all products"),
    "trainer.questions_per_image": (Effect.RESULT, "the batches"),
    "trainer.channels_last": (Effect.ROUNDING, "the order of sums in convolutions"),
    "trainer.compile": (Effect.ROUNDING, "the order of sums in fused kernels"),
    "trainer.sync_batch_norm": (Effect.RESULT, "the statistics of batch norm in several processes"),
    "trainer.shuffle": (Effect.RESULT, "the batches"),
    "trainer.train_sample": (Effect.RESULT, "what train_accuracy and gap are of"),
    "trainer.val_sample": (Effect.RESULT, "the questions that choose best.pt"),
    "trainer.ema_decay": (Effect.RESULT, "the weights that are scored"),
    "trainer.bce_weight": (Effect.RESULT, "the loss"),
    "trainer.dice_weight": (Effect.RESULT, "the loss"),
    "trainer.film_penalty": (Effect.RESULT, "the loss"),
    "trainer.keep_best": (Effect.NONE, "how many of the best checkpoints stay"),
    "trainer.checkpoint_minutes": (Effect.NONE, "how often last.pt is written"),
    "trainer.checkpoint_steps": (Effect.NONE, "how often last.pt is written"),
}
#: Keys that earlier versions did not have, and a value by which their runs go on. Those of
#: ``trainer`` and ``model`` are the defaults of their options.
ADDED_KEYS: dict[str, Any] = {
    "model.stem.coordinates": None,  # as model.coordinates
    "model.classifier.coordinates": None,
    "train.new_words_std": 0.01,  # of words that are in the run's checkpoint by now
    "train.frozen_batch_norm": "eval",
    "data.missing_images": "refuse",
    "data.mask_size": None,
    "data.curriculum": None,
    "data.sound": None,
    "data.spectrogram": None,
    "data.generator.rgba": False,
    "logger.tensorboard": False,
    "logger.wandb": False,
}


@dataclass(frozen=True)
class ConfigChanges:
    """The keys whose values differ, by effect, each as ``<key> was <old>, now <new>``."""

    by_effect: dict[Effect, list[str]] = field(default_factory=dict)

    def of(self, *effects: Effect) -> list[str]:
        """The changes of some effects."""
        return [line for effect in effects for line in self.by_effect.get(effect, [])]


def effect_of(key: str) -> Effect:
    """The effect of a key, which is that of the nearest key above it in ``EFFECTS``; a key that is
    not there counts as one that changes the result."""
    while key:
        if key in EFFECTS:
            return EFFECTS[key][0]
        key = key.rpartition(".")[0]
    return Effect.RESULT


def config_changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> ConfigChanges:
    """The differences of two configurations; a key that one of them lacks has the value by which
    versions acted that did not have it."""
    old, new = flatten(old), flatten(new)
    defaults = flatten({"trainer": asdict(TrainerSettings())})
    defaults |= _option_defaults(new.get("model.name")) | ADDED_KEYS
    by_effect: dict[Effect, list[str]] = {}
    for key in sorted(old | new):
        before, now = (config.get(key, defaults.get(key)) for config in (old, new))
        if before != now:
            line = f"{key} was {before}, now {now}"
            by_effect.setdefault(effect_of(key), []).append(line)
    return ConfigChanges(by_effect)


def _option_defaults(model_name: Any) -> dict[str, Any]:
    """The defaults of a model's options by their keys, with lists for tuples, as configurations
    have them."""
    if model_name not in MODELS:
        return {}
    defaults = flatten({"model": with_defaults(MODELS[model_name], None)})
    return {k: list(v) if isinstance(v, tuple) else v for k, v in defaults.items()}
