"""Draw a sheet of images of a set with questions."""

from __future__ import annotations

from filmvqa.cli.command import command, data_layout
from filmvqa.locks import file_lock


@command("draw_sheet")
def main(config) -> None:
    from filmvqa.reports.figures import draw_sheet

    layout = data_layout(config)
    with file_lock(config.output):
        draw_sheet(
            layout.question_json_by_split().get(config.split, layout.question_json(config.split)),
            layout.image_folder(config.split),
            config.output,
            rows=config.rows,
            columns=config.columns,
        )
    print(f"written to {config.output}")


if __name__ == "__main__":
    main()
