"""Score a file of answers, from any model, by question type."""

from __future__ import annotations

from filmvqa.cli.command import command
from filmvqa.evaluation.settings import ScoreSettings


@command("score_answers", ScoreSettings)
def main(settings: ScoreSettings) -> None:
    from filmvqa.evaluation.score_answers import score_answers
    from filmvqa.tasks.words import WordTask

    report = score_answers(settings)
    lengths = settings.by_program_length
    print(WordTask().format_report(report, families=settings.by_family, lengths=lengths))
    if settings.output is not None:
        print(f"written to {settings.output}")


if __name__ == "__main__":
    main()
