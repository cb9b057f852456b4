"""Write a trained network as one small file, with a model card beside it."""

from __future__ import annotations

from filmvqa.checkpoints.settings import ExportSettings
from filmvqa.cli.command import command


@command("export", ExportSettings)
def main(settings: ExportSettings) -> None:
    from filmvqa.checkpoints.export import export_network
    from filmvqa.system.locks import file_lock

    with file_lock(settings.output):
        network, card = export_network(settings.checkpoint, settings.output)
    print(f"{network}: {network.stat().st_size:,} bytes; its model card is {card}")


if __name__ == "__main__":
    main()
