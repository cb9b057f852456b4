"""Write the tables (Markdown, CSV) and the figure (PNG) of a sweep."""

from __future__ import annotations

from filmvqa.cli.command import command


@command("sweep_report")
def main(config) -> None:
    from filmvqa.reports.sweep_report import report_sweep

    print(report_sweep(config.dir, config.key, config.series))
    print(f"written to {config.dir}/report.md, report.csv and report.png")


if __name__ == "__main__":
    main()
