"""Images to feature HDF5."""

from __future__ import annotations

from pathlib import Path

from _command import command, plain

from filmvqa.errors import UserError


@command("extract_features")
def main(config) -> None:
    from filmvqa.data.backbones import build_backbone
    from filmvqa.data.features import Extraction
    from filmvqa.devices import choose_device
    from filmvqa.disk import check_disk_space, format_bytes

    data, images = config.data, Path(config.data.images)
    splits = config.splits or sorted(p.name for p in images.glob("*") if p.is_dir())
    if not splits:
        raise UserError(
            f"{images}: no folders of images; download them (scripts/download_clevr.py) or "
            "generate them (scripts/generate_clevr.py)"
        )
    backbone = build_backbone(data.backbone.name, data.backbone.stage, config.weights)
    todo = [
        Extraction(
            images / split,
            Path(data.features) / f"{split}_features_{data.backbone.name}.h5",
            split,
            backbone,
            tuple(plain(data.image_size)),
            batch_size=config.batch_size,
            threads=config.threads,
            device=choose_device(config.device),
            precision=config.precision,
        )
        for split in splits
    ]
    if needs := sum(each.needs for each in todo):
        print(f"{data.features}: {format_bytes(needs)} of features to write")
    check_disk_space(data.features, needs)
    for each in todo:
        each.run()
        state = "complete already" if each.was_there else "written"
        print(f"{each.path}: {' × '.join(map(str, each.shape))}, {state}")


if __name__ == "__main__":
    main()
