"""Draw a sheet of images of a set with questions."""

from __future__ import annotations

from filmvqa.cli.command import command, typed_settings
from filmvqa.locks import file_lock


@command("draw_sheet")
def main(config) -> None:
    from filmvqa.cli.settings import DrawSheetConfig

    settings = typed_settings(config, DrawSheetConfig)

    from filmvqa.reports.figures import draw_sheet

    layout = settings.data.layout
    with file_lock(settings.output):
        draw_sheet(
            layout.question_json_by_split().get(
                settings.split, layout.question_json(settings.split)
            ),
            layout.image_folder(settings.split),
            settings.output,
            rows=settings.rows,
            columns=settings.columns,
        )
    print(f"written to {settings.output}")


if __name__ == "__main__":
    main()
