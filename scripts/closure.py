"""Test how a network answers new combinations of phrases, in the seven tests of CLOSURE."""

from __future__ import annotations

from filmvqa.cli.command import command
from filmvqa.studies.settings import ClosureSettings


@command("closure", ClosureSettings)
def main(settings: ClosureSettings) -> None:
    from filmvqa.studies.closure import format_tests, measure_closure

    folder, report = measure_closure(settings)
    print(format_tests(report))
    print(f"written to {folder}/closure.json and closure.png")


if __name__ == "__main__":
    main()
