"""What is measured of a machine for the arithmetic of scale, in one JSON file."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import torch
from tqdm import tqdm

from filmvqa.benchmark.inputs import SPLIT, Inputs
from filmvqa.benchmark.parts import Benchmark
from filmvqa.benchmark.scale import LinkMeasurement, NetworkMeasurement, typical
from filmvqa.benchmark.scale_measure import WORKLOADS, measure_link, measure_network
from filmvqa.system.cores import cores
from filmvqa.system.devices import hardware
from filmvqa.system.errors import UserError
from filmvqa.system.files import read_bytes, write_file
from filmvqa.system.layout import DatasetLayout
from filmvqa.training.settings import OptimSettings, TrainerSettings
from filmvqa.worlds.engine.ask_scenes import ask_scenes
from filmvqa.worlds.engine.schema import decode_json

#: Images that are copied in memory so that a batch has distinct ones.
_COPIES = 2
_REMEDY = "measure it with measure=true"


class DataMeasurement(msgspec.Struct):
    """Sizes in bytes of a generated set of CLEVR's sizes, and rates of making it.

    Attributes
    ----------
    question_json, question_h5
        Bytes of a question, with its program.
    image
        Bytes of a picture of 480×320 pixels.
    images_per_core, questions_per_core
        A second and core, with all cores at work: drawing with its scene, and asking alone.
    preprocessed
        Questions a second that one process converts to HDF5.
    """

    question_json: float
    question_h5: float
    image: float
    images_per_core: float
    questions_per_core: float
    preprocessed: float


class ScaleMeasurement(msgspec.Struct):
    """All that was measured on a machine."""

    hardware: dict[str, Any]
    link: LinkMeasurement
    data: DataMeasurement
    networks: dict[str, NetworkMeasurement]


def read_scale(path: str | Path) -> ScaleMeasurement:
    """Read a file that ``measure_scale`` wrote.

    Raises
    ------
    UserError
        If it is missing or damaged.
    """
    return decode_json(read_bytes(path, _REMEDY), ScaleMeasurement, path, _REMEDY)


def measure_scale(
    path: str | Path, *, networks: Sequence[str] | None, models: dict[str, dict[str, Any]],
    optim: OptimSettings, trainer: TrainerSettings, seconds: float, images: int,
    tune_process: Callable[[], None],
) -> None:  # fmt: skip
    """Measure this machine and write the results to ``path``.

    Parameters
    ----------
    networks
        Of ``models``, those to measure; None: all. A file that exists keeps its other networks, and
        of what is measured again the faster: other programs only slow it down.
    seconds
        For about how long each training is measured.
    images
        Number of images that are drawn.

    Raises
    ------
    UserError
        For an unknown network, or a damaged file.
    """
    names = sorted(models) if networks is None else networks
    if unknown := set(names) - WORKLOADS.keys():
        raise UserError(f"networks={sorted(unknown)}; choose from {', '.join(WORKLOADS)}")
    earlier = read_scale(path) if Path(path).exists() else None
    cpu = torch.device("cpu")
    with tempfile.TemporaryDirectory(prefix="filmvqa-scale-") as folder:
        inputs = Inputs(Path(folder), images, _COPIES)
        benchmark = Benchmark(inputs, cpu, models, optim, trainer, 3, 0, 20 * images)
        data = _measure_data(benchmark)
        # Made here, so that the processes that measure find them.
        assert inputs.questions is not None and inputs.vocabulary is not None
        for name in names:
            inputs.features(WORKLOADS[name].shape, "float16")
        measured = {
            name: measure_network(benchmark, name, seconds, tune_process)
            for name in tqdm(names, unit="network")
        }
        link = measure_link()
    content = ScaleMeasurement(
        hardware={
            **hardware(cpu), "cores": cores(), "torch": str(torch.__version__),
            "date": time.strftime("%Y-%m-%d"),
        },
        link=link, data=data, networks=measured,
    )  # fmt: skip
    if earlier is not None:
        content = faster(content, earlier)
    write_file(path, msgspec.json.format(msgspec.json.encode(content), indent=-1) + b"\n")


def faster(one: ScaleMeasurement, other: ScaleMeasurement) -> ScaleMeasurement:
    """Of each series of times, and of each rate, the faster of two measurements of a machine."""
    networks = {**other.networks, **one.networks}
    for name in one.networks.keys() & other.networks.keys():
        a, b = one.networks[name], other.networks[name]
        networks[name] = msgspec.structs.replace(
            a,
            alone={k: min(a.alone[k], b.alone[k], key=typical) for k in a.alone},
            shared={k: min(a.shared[k], b.shared[k], key=typical) for k in a.shared},
            threads=min(a.threads, b.threads, key=typical),
            beside=min((a, b), key=lambda network: network.step_beside).beside,
            **{
                name: min(getattr(a, name), getattr(b, name), key=typical)
                for name in ("exchanging", "summing", "together")
            },
        )
    rates = ("images_per_core", "questions_per_core", "preprocessed")
    best = {rate: max(getattr(one.data, rate), getattr(other.data, rate)) for rate in rates}
    sums = [
        min(pair, key=lambda s: s[1])
        for pair in zip(one.link.all_reduce, other.link.all_reduce, strict=True)
    ]
    link = LinkMeasurement(sums, max(one.link.copy, other.link.copy))
    data = msgspec.structs.replace(one.data, **best)
    return ScaleMeasurement(hardware=one.hardware, link=link, data=data, networks=networks)


def _measure_data(benchmark: Benchmark) -> DataMeasurement:
    """Sizes and rates of the benchmark's set, whose questions are asked once more alone."""
    inputs, images = benchmark.inputs, benchmark.inputs.images
    started = time.perf_counter()
    layout = inputs.world
    made = time.perf_counter() - started
    started = time.perf_counter()
    ask_scenes(layout.scene_json(SPLIT), inputs.folder / "asked.json", workers=cores())
    asked = time.perf_counter() - started
    questions = len(inputs.distinct_questions)
    preprocessed = benchmark.question_preprocessing(benchmark.questions)
    h5 = DatasetLayout.under(inputs.folder, h5=inputs.folder / "preprocessed").question_h5(SPLIT)
    pictures = [path.stat().st_size for path in layout.image_folder(SPLIT).iterdir()]
    return DataMeasurement(
        question_json=layout.question_json(SPLIT).stat().st_size / questions,
        question_h5=h5.stat().st_size / benchmark.questions,
        image=sum(pictures) / len(pictures),
        images_per_core=images / (made - asked) / cores(),
        questions_per_core=questions / asked / cores(),
        preprocessed=preprocessed.rate,
    )
