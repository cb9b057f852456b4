"""Evaluate a checkpoint on a split."""

from __future__ import annotations

from filmvqa.cli.command import command


@command("evaluate")
def main(config) -> None:
    from filmvqa.evaluation.accuracy import format_report
    from filmvqa.reports.evaluate import evaluate_checkpoint

    files, report = evaluate_checkpoint(
        config.checkpoint,
        config.split,
        h5=config.h5,
        features=config.features,
        output=config.output,
        batch_size=config.batch_size,
        device=config.device,
        precision=config.precision,
        store=config.store,
        missing_images=config.missing_images,
    )
    if report is None:
        print(f"{config.split} has no answers; predictions are in {files.folder}")
        return
    if report["images_left_out"]:
        print(f"without the {report['images_left_out']:,} images that the model was trained on")
    print(format_report(report, families=config.by_family, lengths=config.by_program_length))
    print(f"written to {files.report} and {files.predictions.name}")


if __name__ == "__main__":
    main()
