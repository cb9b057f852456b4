"""Extract features of images to HDF5."""

from __future__ import annotations

from filmvqa.cli.command import command
from filmvqa.cli.settings import ExtractSettings
from filmvqa.system.errors import UserError
from filmvqa.system.layout import hint_at_deeper


@command("extract_features", ExtractSettings, by_several=True)
def main(settings: ExtractSettings) -> None:
    data, layout = settings.data, settings.data.layout
    splits = settings.splits or layout.image_splits()
    if not splits:
        remedy = hint_at_deeper(layout.root, f"{layout.images.name}/*/") or (
            "download them (scripts/download_clevr.py) or generate them (scripts/generate_clevr.py)"
        )
        raise UserError(f"{layout.images}: no folders of images; {remedy}")

    from filmvqa.backbones.build import build_backbone
    from filmvqa.backbones.extraction import Extraction
    from filmvqa.backbones.object_masks import ObjectMasks
    from filmvqa.backbones.spectrograms import Spectrogram
    from filmvqa.system.devices import choose_device
    from filmvqa.system.disk import check_disk_space, format_bytes

    if data.spectrogram is not None:
        backbone = Spectrogram(data.spectrogram)
    else:
        backbone = build_backbone(
            data.backbone.name,
            data.backbone.stage,
            settings.weights,
            settings.std,
            image_size=data.image_size,
        )
    outputs = [(layout.image_folder, layout.feature_h5, backbone, data.image_size)]
    if data.mask_size is not None:
        outputs.append((layout.mask_folder, layout.mask_h5, ObjectMasks(), data.mask_size))
    extractions = [
        Extraction(
            source(split),
            target(split),
            split,
            network,
            size,
            settings,
            device=choose_device(settings.device),
            missing_images=data.missing_images,
        )
        for source, target, network, size in outputs
        for split in splits
    ]
    if total := sum(extraction.bytes_to_write for extraction in extractions):
        print(f"{layout.features}: {format_bytes(total)} of features to write")
    check_disk_space(layout.features, total)
    extractions[0].warn_of_large_maps()
    for extraction in extractions:
        extraction.run()
        state = "already complete" if extraction.was_there else "written"
        indices, count = list(extraction.image_names), len(extraction.image_names)
        if indices[-1] >= count:  # not 0 to N-1
            state += f", images {indices[0]} to {indices[-1]}"
            if missing := indices[-1] - indices[0] + 1 - count:
                state += f" without {missing:,} missing ones"
        print(f"{extraction.path}: {' × '.join(map(str, extraction.shape))}, {state}")


if __name__ == "__main__":
    main()
