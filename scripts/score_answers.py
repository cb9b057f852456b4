"""Score a file of answers, from whatever model, by type of question."""

from __future__ import annotations

from filmvqa.cli.command import command


@command("score_answers")
def main(config) -> None:
    from filmvqa.evaluation.accuracy import format_report
    from filmvqa.reports.score_answers import score_answers

    report = score_answers(config.answers, config.questions, config.output)
    print(format_report(report, families=config.by_family, lengths=config.by_program_length))
    if config.output is not None:
        print(f"written to {config.output}")


if __name__ == "__main__":
    main()
