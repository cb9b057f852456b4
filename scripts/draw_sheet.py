"""A sheet of a set's images with questions."""

from __future__ import annotations

from pathlib import Path

from _command import command

from filmvqa.locks import file_lock


@command("draw_sheet")
def main(config) -> None:
    from filmvqa.reports.figures import draw_sheet

    root = Path(config.data.root)
    with file_lock(config.output):
        draw_sheet(
            root / f"questions/CLEVR_{config.split}_questions.json",
            Path(config.data.images) / config.split,
            config.output,
            rows=config.rows,
            columns=config.columns,
        )
    print(f"written to {config.output}")


if __name__ == "__main__":
    main()
