"""Evaluate a checkpoint on a split."""

from __future__ import annotations

from _command import command


@command("evaluate")
def main(config) -> None:
    from filmvqa.evaluation.accuracy import format_report
    from filmvqa.reports.evaluate import evaluate_checkpoint

    folder, report = evaluate_checkpoint(
        config.checkpoint,
        config.split,
        folder=config.h5,
        features_folder=config.features,
        output=config.output,
        batch_size=config.batch_size,
        device=config.device,
        precision=config.precision,
        store=config.store,
    )
    if report is None:
        print(f"{config.split} has no answers; predictions are in {folder}")
        return
    if report["images_left_out"]:
        print(f"without the {report['images_left_out']:,} images that it was trained on")
    print(format_report(report, families=config.by_family, lengths=config.by_program_length))
    print(f"written to {folder}/{config.split}.json and {config.split}_predictions.jsonl")


if __name__ == "__main__":
    main()
