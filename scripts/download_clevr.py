"""Download and unpack an official archive."""

from __future__ import annotations

from filmvqa.cli.command import command
from filmvqa.questions.settings import DataProgramSettings
from filmvqa.system.errors import UserError
from filmvqa.worlds.clevr.download import download_archive


@command("download_clevr", DataProgramSettings)
def main(settings: DataProgramSettings) -> None:
    data = settings.data
    if data.download is None:
        raise UserError(
            f"data={data.name} is generated, not downloaded; "
            f"run scripts/generate_clevr.py data={data.name}"
        )
    download_archive(data.download.url, data.root, md5=data.download.md5)


if __name__ == "__main__":
    main()
