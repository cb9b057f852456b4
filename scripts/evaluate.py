"""Evaluate a checkpoint on a split, by question type."""

from __future__ import annotations

from filmvqa.cli.command import command
from filmvqa.studies.inspection.settings import ChangedEvaluateSettings


@command("evaluate", ChangedEvaluateSettings, by_several=True)
def main(settings: ChangedEvaluateSettings) -> None:
    from filmvqa.evaluation.evaluate import evaluate_checkpoint
    from filmvqa.tasks.protocol import find_task
    from filmvqa.uses.zero_shot.arithmetic import build_change

    files, report = evaluate_checkpoint(settings, build_change(settings.film))
    if report is None:
        print(f"{settings.split} has no answers; predictions are in {files.folder}")
        return
    if report["images_left_out"]:
        print(f"without the {report['images_left_out']:,} images that the model was trained on")
    table = find_task(report.get("targets", "answers")).format_report(
        report,
        families=settings.by_family,
        lengths=settings.by_program_length,
        objects=settings.by_objects,
    )
    print(table)
    print(f"written to {files.report} and {files.predictions.name}")


if __name__ == "__main__":
    main()
