"""Write the tables (Markdown, CSV) and the figure (PNG) of a sweep."""

from __future__ import annotations

from filmvqa.cli.command import command, typed_settings
from filmvqa.studies.settings import SweepReportSettings


@command("sweep_report")
def main(config) -> None:
    settings = typed_settings(config, SweepReportSettings)

    from filmvqa.studies.sweep_report import report_sweep

    print(report_sweep(settings.dir, settings.key, settings.series, settings.reach))
    print(f"written to {settings.dir}/report.md, report.csv and report.png")


if __name__ == "__main__":
    main()
