"""Train the shipped backbone clevr_cnn on generated images."""

from __future__ import annotations

from filmvqa.backbones.settings import PretrainSettings
from filmvqa.cli.command import command


@command("pretrain_backbone", PretrainSettings)
def main(settings: PretrainSettings) -> None:
    import torch

    from filmvqa.backbones.pretrain import pretrain
    from filmvqa.system.locks import file_lock
    from filmvqa.system.tables import text_table
    from filmvqa.worlds.clevr.cell_labels import pretraining_examples

    torch.set_num_threads(settings.workers)
    with file_lock(settings.output):
        scores = pretrain(settings, pretraining_examples())
    print(text_table([[name, f"{value:.4f}"] for name, value in scores.items()]))


if __name__ == "__main__":
    main()
