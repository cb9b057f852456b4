"""Draw a sheet of a set's images, or of spectrograms with their sounds, with questions."""

from __future__ import annotations

from filmvqa.cli.command import command
from filmvqa.studies.settings import DrawSheetSettings
from filmvqa.system.locks import file_lock


@command("draw_sheet", DrawSheetSettings)
def main(settings: DrawSheetSettings) -> None:
    data, layout = settings.data, settings.data.layout
    questions = layout.question_json_by_split().get(
        settings.split, layout.question_json(settings.split)
    )

    from filmvqa.studies.sheets import draw_sheet
    from filmvqa.studies.sound_sheet import draw_scenes

    grid = {"rows": settings.rows, "columns": settings.columns}
    with file_lock(settings.output):
        if data.spectrogram is None:
            draw_sheet(
                questions, layout.image_folder(settings.split), settings.output,
                masks_folder=layout.mask_folder(settings.split), **grid,
            )  # fmt: skip
        else:
            draw_scenes(
                questions, layout.scene_json(settings.split), layout.image_folder(settings.split),
                settings.output, data.spectrogram, data.image_size, **grid,
            )  # fmt: skip
    print(f"written to {settings.output}")


if __name__ == "__main__":
    main()
