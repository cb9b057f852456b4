"""Inspect what a trained network does with questions: figures, numbers, and a page of both."""

from __future__ import annotations

from filmvqa.cli.command import command
from filmvqa.studies.inspection.settings import InspectSettings


@command("inspect_film", InspectSettings)
def main(settings: InspectSettings) -> None:
    from filmvqa.studies.inspection.report import inspect_checkpoint

    print(f"written to {inspect_checkpoint(settings)}; open it in a browser")


if __name__ == "__main__":
    main()
