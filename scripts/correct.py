"""Correct a split's segmentations hint by hint, with each network of a sweep."""

from __future__ import annotations

from filmvqa.cli.command import command
from filmvqa.uses.correction.settings import CorrectSettings


@command("correct", CorrectSettings)
def main(settings: CorrectSettings) -> None:
    from filmvqa.uses.correction.report import report_correction

    files, table = report_correction(settings)
    print(table)
    print(f"written to {files.report}, and beside it the table, two figures and all hints")


if __name__ == "__main__":
    main()
