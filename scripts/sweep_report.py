"""Write a sweep's tables (Markdown, CSV) and figure (PNG)."""

from __future__ import annotations

from filmvqa.cli.command import command
from filmvqa.studies.settings import SweepReportSettings


@command("sweep_report", SweepReportSettings)
def main(settings: SweepReportSettings) -> None:
    from filmvqa.studies.sweep_report import report_sweep

    print(report_sweep(settings.dir, settings.key, settings.series, settings.reach))
    print(f"written to {settings.dir}/report.md, report.csv and report.png")


if __name__ == "__main__":
    main()
