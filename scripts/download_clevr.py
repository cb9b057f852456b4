"""Download and unpack an official archive."""

from __future__ import annotations

from filmvqa.cli.command import command
from filmvqa.data.download import download_archive
from filmvqa.errors import UserError


@command("download_clevr")
def main(config) -> None:
    source = config.data.download
    if source is None:
        raise UserError(
            f"data={config.data.name} is generated, not downloaded; "
            f"run scripts/generate_clevr.py data={config.data.name}"
        )
    download_archive(source.url, config.data.root, md5=source.md5)


if __name__ == "__main__":
    main()
