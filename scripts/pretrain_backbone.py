"""Train the shipped backbone clevr_cnn on generated images."""

from __future__ import annotations

from filmvqa.cli.command import command, to_plain


@command("pretrain_backbone")
def main(config) -> None:
    import torch

    from filmvqa.locks import file_lock
    from filmvqa.tables import text_table
    from filmvqa.training.pretrain import pretrain

    options = to_plain(config)
    options.pop("debug")
    options["sizes"] = tuple(options["sizes"])
    torch.set_num_threads(config.workers)
    with file_lock(config.output):
        scores = pretrain(options.pop("output"), **options)
    print(text_table([[name, f"{value:.4f}"] for name, value in scores.items()]))


if __name__ == "__main__":
    main()
