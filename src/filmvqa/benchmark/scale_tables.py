"""The tables of docs/scale.md: what was measured on one machine, and what follows for others."""

from __future__ import annotations

from collections.abc import Iterator

from filmvqa.benchmark.scale import (
    Link,
    NetworkMeasurement,
    Step,
    buckets,
    fitted_link,
    simulate_step,
    typical,
)
from filmvqa.benchmark.scale_run import DataMeasurement, ScaleMeasurement
from filmvqa.system.errors import UserError
from filmvqa.system.tables import markdown_table

#: Processes of the rows that are simulated, two on a machine.
PROCESSES = (1, 2, 8, 64)
#: Networks between machines: bytes per second of a link, and seconds that a message takes
#: (assumed).
NETWORKS = {"10 Gb/s": (1.25e9, 50e-6), "100 Gb/s": (12.5e9, 10e-6)}
#: What was measured on one H200 (docs/performance.md): questions of a batch and a second, of the
#: paper's network, and bytes a second that it copies.
GPU_BATCH, GPU_RATE, GPU_COPY = 1024, 17_496, 1.839e12
#: GPUs, and seconds of a message, bytes per second of a link, and seconds of an exchange (assumed):
#: NVLink's data sheet says 450 GB/s in each direction.
GPU_LINKS = {
    (8, "NVLink, one machine"): (10e-6, 450e9, 20e-6),
    (64, "100 Gb/s, 8 machines"): (20e-6, 12.5e9, 30e-6),
    (64, "10 Gb/s, 8 machines"): (60e-6, 1.25e9, 70e-6),
}
#: CLEVR v1.0's training split, and all of its images and questions (Johnson et al., 2017).
TRAIN_QUESTIONS, IMAGES, QUESTIONS = 699_989, 100_000, 999_968
#: Bytes of an image's features in float16, of the paper's network.
FEATURE_BYTES = 1024 * 14 * 14 * 2
#: Images a second whose features are extracted: of 2 cores, and of one H200 (docs/performance.md).
EXTRACTED = {"2 cores": 25.7, "H200": 229.0}
#: Bytes of memory that stores may take (60% of what is free) of two machines.
MEMORY = {"256 GB": 0.6 * 256e9, "1 TB": 0.6 * 1e12}
#: Bytes a second: reading here (docs/performance.md), and of an NVMe disk and a network (assumed).
READING = {"10 Gb/s": 1.25e9, "the disk here": 1.3e9, "NVMe": 3e9}
#: Passes over the training questions at most, and days of a run on a TITAN Xp (Perez et al., 2018,
#: section 4.1).
EPOCHS, TITAN_DAYS = 80, 4
#: Runs of a reproduction of the paper by the sweeps that name them; that of weight decay has five
#: seeds. A test counts them in configs/sweep.
RUNS = {"baselines": 7, "ablations": 25, "weight_decay": 25}
#: Sets that are asked for: questions, and cores.
WANTED, CORES = 10_000_000, 64


def scale_tables(measured: ScaleMeasurement) -> str:
    """All tables as Markdown, each below its title.

    Raises
    ------
    UserError
        If the paper's network was not measured.
    """
    if "film" not in measured.networks:
        raise UserError("the paper's network is not measured; add measure=true networks=[film]")
    links = _links(measured)
    tables = {
        "Bytes of a step": _bytes_table(measured, links),
        "Measured and simulated": agreement_table(measured, links),
        "Processes": _processes_table(measured, links),
        "GPUs": _gpu_table(measured.networks["film"]),
        "Sizes": _sizes_table(measured.data),
        "Reading": _reading_table(measured.networks["film"]),
        "A reproduction": _reproduction_table(measured.networks["film"]),
        "Ten million questions": _data_table(measured.data),
    }
    return "\n".join(f"### {title}\n\n{table}" for title, table in tables.items())


def _bytes_table(measured: ScaleMeasurement, links: dict[str, Link]) -> str:
    rows = []
    for name, network in measured.networks.items():
        link = links[name]
        step = simulate_step(network, link, 2, network.batch / 2)
        total = network.gradient_bytes
        early = sum(size for size, at in buckets(network.gradients) if at < 0.5)
        last_size, last_at = buckets(network.gradients)[-1]
        alone = sum(link.all_reduce(size, 2) for size, _ in buckets(network.gradients))
        rows.append([
            name, f"{total / 4e6:.2f} million", f"{total / 1e6:.1f} MB",
            f"{len(buckets(network.gradients))}", f"{100 * early / total:.0f}%",
            f"{last_size / 1e6:.1f} MB at {100 * last_at:.0f}%",
            f"{2 * len(network.norms)}, {network.exchanged_bytes / 1e3:.1f} kB",
            f"{1e3 * alone:.0f} ms", f"{1e3 * step.sums:.0f} ms",
        ])  # fmt: skip
    return markdown_table(
        ["", "weights", "gradients", "buckets", "ready in the first half of the backward pass",
         "last bucket", "exchanges of batch norms", "sums by themselves",
         "what they add to a step"], rows,
    )  # fmt: skip


def agreement(measured: ScaleMeasurement) -> list[tuple[str, int, float, float]]:
    """For each network and one and two processes of one thread: measured and simulated questions a
    second."""
    return [
        (name, count, real, measured.networks[name].batch / step.seconds)
        for name, count, real, step in _measured_steps(measured, _links(measured))
    ]


def _links(measured: ScaleMeasurement) -> dict[str, Link]:
    """By network, what connects two processes that train it."""
    return {
        name: fitted_link(measured.link, network) for name, network in measured.networks.items()
    }


def _measured_steps(
    measured: ScaleMeasurement, links: dict[str, Link]
) -> Iterator[tuple[str, int, float, Step]]:
    """The steps that were both measured, in questions a second, and simulated."""
    for name, network in measured.networks.items():
        for count, seconds in ((1, network.alone[network.batch]), (2, network.together)):
            step = simulate_step(network, links[name], count, network.batch / count)
            yield name, count, network.batch / typical(seconds), step


def agreement_table(measured: ScaleMeasurement, links: dict[str, Link]) -> str:
    """Measured and simulated rates side by side; one process with two threads was only measured."""
    rows = []
    for name, count, real, step in _measured_steps(measured, links):
        network = measured.networks[name]
        simulated = network.batch / step.seconds
        parts = [f"{1e3 * part:,.0f}" for part in (step.compute, step.exchanges, step.sums)]
        difference = f"{100 * (simulated / real - 1):+.0f}%"
        processes = f"{count} process{'es' * (count > 1)} of 1 thread"
        rows.append([name, processes, _number(real), _number(simulated), difference, *parts])
        if count == 1:
            two = network.batch / typical(network.threads)
            rows.append([name, "1 process of 2 threads", _number(two), "", "", "", "", ""])
    return markdown_table(
        ["", "", "measured, questions a second", "simulated", "difference", "compute, ms",
         "exchanges, ms", "sums, ms"], rows, labels=2,
    )  # fmt: skip


def _processes_table(measured: ScaleMeasurement, links: dict[str, Link]) -> str:
    rows = []
    for name, network in measured.networks.items():
        link = links[name]
        for is_fixed in (True, False):
            batch = network.batch
            row = [name, f"{batch} in all" if is_fixed else f"{batch} each"]
            for count in PROCESSES:
                local = batch / count if is_fixed else batch
                for speed, (bandwidth, latency) in NETWORKS.items():
                    if count <= 2 and speed != "10 Gb/s":
                        continue  # one machine: no network
                    used = link if count <= 2 else link.over_network(bandwidth, latency)
                    seconds = simulate_step(network, used, count, local).seconds
                    row.append(_number(count * local / seconds))
            rows.append(row)
    header = ["", "questions of a batch", "1", "2"]
    header += [f"{count}, {speed}" for count in PROCESSES[2:] for speed in NETWORKS]
    return markdown_table(header, rows, labels=2)


def _gpu_table(network: NetworkMeasurement) -> str:
    """Steps as long as one H200's; when gradients are there is taken from the processor's steps."""
    step = GPU_BATCH / GPU_RATE
    gpu = NetworkMeasurement(
        batch=2, gradients=network.gradients, forward=network.forward, backward=network.backward,
        norms=network.norms, alone={}, shared={1: [step], 2: [step]}, threads=[],
        beside=[[[step]]], exchanging=[], summing=[], together=[],
    )  # fmt: skip
    rows = [["1", "one machine", _number(GPU_RATE), "100%", "", ""]]
    for (count, name), (latency, bandwidth, exchange) in GPU_LINKS.items():
        link = Link(latency, bandwidth, exchange, 0.0, GPU_COPY, 0.0)
        simulated = simulate_step(gpu, link, count, 1)
        rate = count * GPU_BATCH / simulated.seconds
        share = f"{100 * rate / GPU_RATE / count:.0f}%"
        parts = [f"{1e3 * part:.0f} ms" for part in (simulated.exchanges, simulated.sums)]
        rows.append([str(count), name, _number(rate), share, *parts])
    header = ["GPUs", "", "questions a second", "of so many times one", "exchanges", "sums"]
    return markdown_table(header, rows, labels=2)


def _sizes_table(data: DataMeasurement) -> str:
    rows = []
    for times in (1, 10, 100):
        images, questions = times * IMAGES, times * QUESTIONS
        features, encoded = images * FEATURE_BYTES, questions * data.question_h5
        fits = [name for name, room in MEMORY.items() if features < room]
        rows.append([
            f"{times}×", _size(images * data.image), _size(questions * data.question_json),
            _size(encoded), _size(features), fits[0] if fits else "none of them",
            _size(8 * encoded), f"{_number(features / NETWORKS['10 Gb/s'][0])} s",
        ])  # fmt: skip
    return markdown_table(
        ["CLEVR", "pictures", "question JSON", "question HDF5", "features",
         "machine whose memory holds these", "questions in eight processes",
         "copying features at 10 Gb/s"], rows,
    )  # fmt: skip


def _reading_table(film: NetworkMeasurement) -> str:
    """What streaming needs where no two questions of a batch share an image, and where eight do."""
    rates = {
        "2 cores": film.batch / typical(film.threads), "one H200": GPU_RATE,
        "eight H200, as eight times one": 8 * GPU_RATE,
    }  # fmt: skip
    rows = []
    for name, rate in rates.items():
        row = [name, _number(rate)]
        for shared in (1, 8):
            needed = rate * FEATURE_BYTES / shared
            short = [limit for limit, most in READING.items() if needed > most]
            row += [f"{_size(needed)}/s", ", ".join(short) or "nothing"]
        rows.append(row)
    return markdown_table(
        ["", "questions a second", "read", "too slow for it", "8 questions an image: read",
         "too slow for it"], rows,
    )  # fmt: skip


def _reproduction_table(film: NetworkMeasurement) -> str:
    questions = EPOCHS * TRAIN_QUESTIONS
    per_run = {
        "one process of 2 threads here": questions / (film.batch / typical(film.threads)),
        "one H200, batches of 1,024": questions / GPU_RATE,
        "one H200, batches of 64 at most": questions / (64 * GPU_RATE / GPU_BATCH),
        "one TITAN Xp, as the paper says": TITAN_DAYS * 86400,
    }
    rows = []
    for name, seconds in per_run.items():
        hours = seconds / 3600
        costs = [f"{_number(count * hours)}" for count in (1, *RUNS.values(), sum(RUNS.values()))]
        rows.append([name, *costs])
    header = ["hours of", "one run", *(f"`{k}`: {v} runs" for k, v in RUNS.items()), "all"]
    return markdown_table(header, rows)


def _data_table(data: DataMeasurement) -> str:
    """Each stage of a set of ten million questions, ten of each image as in CLEVR."""
    images = WANTED // 10
    stages = [
        ("pictures and scenes", images / data.images_per_core / CORES, "all cores",
         images * data.image),
        ("questions", WANTED / data.questions_per_core / CORES, "all cores",
         WANTED * data.question_json),
        ("question HDF5", WANTED / data.preprocessed, "one process", WANTED * data.question_h5),
        ("ResNet-101's features", images / (EXTRACTED["2 cores"] / 2 * CORES), "all cores",
         images * FEATURE_BYTES),
        ("features on one H200, instead", images / EXTRACTED["H200"], "one process",
         images * FEATURE_BYTES),
    ]  # fmt: skip
    rows = [[name, f"{s / 60:,.0f}", who, _size(size)] for name, s, who, size in stages]
    return markdown_table(["stage", "minutes", "", "written"], rows)


def _number(value: float) -> str:
    """With three digits or as a whole number."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _size(size: float) -> str:
    """Bytes in powers of 1,000."""
    power = next((p for p in (1, 2, 3) if size < 1000 ** (p + 1)), 4)
    value, unit = size / 1000**power, ("kB", "MB", "GB", "TB")[power - 1]
    return f"{value:,.0f} {unit}" if value >= 10 else f"{value:.1f} {unit}"
