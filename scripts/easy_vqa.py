"""The pipeline on easy-VQA: convert, preprocess, extract, train, evaluate by question type, ask.

Pictures and questions come from the package easy-vqa (V. Zhou, 2019; pip install
'filmvqa[easy-vqa]'). The arguments are the backbones from whose features FiLM learns, by default
clevr_cnn: python scripts/easy_vqa.py clevr_cnn pixels. Prints and runs all commands, then prints a
table and writes ``outputs/easy_vqa/report.json``.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from filmvqa.cli.pipeline import list_evaluations, run_pipeline
from filmvqa.system.files import write_file
from filmvqa.system.layout import RunLayout

PACKAGE = "easy-vqa"
FOLDER, TABLE = Path("outputs/easy_vqa"), Path("data/easy_vqa/easy_vqa.csv")
#: The package's folder and the numbers of each split's pictures.
PICTURES = {
    "train": ("train", range(3800)),
    "val": ("train", range(3800, 4000)),
    "test": ("test", range(1000)),
}
#: Overrides for a backbone, for both extraction and training, and for training alone. All other
#: backbones count as networks for photographs, for which pictures of 64×64 are too small.
OVERRIDES = {"clevr_cnn": ("", ""), "pixels": ("", " model.stem.strides=[2,2,2]")}
OVERRIDES_OF_OTHERS = (" data.image_size=[192,192]", "")
#: Seconds of each stage on one thread of an EPYC.
USUAL = {"convert": 6.0, "preprocess": 3.0, "features": 7.0, "train": 68.0, "evaluate": 17.0}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("backbones", nargs="*", default=["clevr_cnn"])
    backbones = parser.parse_args().backbones
    try:
        write_table(Path(str(distribution(PACKAGE).locate_file("easy_vqa/data"))))
    except PackageNotFoundError:
        sys.exit("error: easy-vqa: is not installed; run pip install 'filmvqa[easy-vqa]'")
    runs = [name.replace("/", "_") for name in backbones]
    run_pipeline(
        FOLDER, list_stages(backbones, runs), [*runs, "question_only"],
        command="make easy_vqa", of="the test pictures", usual=USUAL, split="test",
    )  # fmt: skip


def list_stages(backbones: Sequence[str], runs: Sequence[str]) -> dict[str, list[str]]:
    """Command lines by stage."""
    features, train = [], []
    for name, run in zip(backbones, runs, strict=True):
        data, training = OVERRIDES.get(name, OVERRIDES_OF_OTHERS)
        data = f"data.backbone.name={name}{data}"
        features.append(f"extract_features.py data=easy_vqa {data}")
        train.append(f"train.py experiment=easy_vqa run={run} {data}{training}")
    train.append(
        "train.py experiment=easy_vqa model=lstm run=question_only trainer.max_epochs=1 "
        f"{features[0].partition(' data=easy_vqa ')[2]} model.embedding_dim=64 "
        "model.hidden_dim=128 model.num_layers=1 model.classifier_dims=[256] "
        "model.classifier_norm=hidden"
    )
    best = RunLayout(FOLDER / runs[0]).best_checkpoint
    return {
        "convert": [f"import_questions.py data=easy_vqa source={TABLE} type=type split=split"],
        "preprocess": ["preprocess_questions.py data=easy_vqa"],
        "features": features,
        "train": train,
        "evaluate": [
            *list_evaluations(FOLDER, [*runs, "question_only"], "test"),
            f"ask.py checkpoint={best} image=data/easy_vqa/images/test/0.png "
            "question='what is the color of the triangle?'",
        ],
    }


def write_table(package: Path) -> None:
    """Write the questions in the package's folder as a table, with their types and splits."""
    content = io.StringIO(newline="")
    writer = csv.writer(content)
    writer.writerow(["picture", "question", "answer", "type", "split"])
    for split, (folder, numbers) in PICTURES.items():
        questions = json.loads((package / folder / "questions.json").read_text(encoding="utf-8"))
        for question, answer, number in questions:
            if number in numbers:
                picture = package / folder / "images" / f"{number}.png"
                writer.writerow([picture, question, answer, type_of(question), split])
    write_file(TABLE, content.getvalue())


def type_of(question: str) -> str:
    """A question's type, which the package does not record."""
    words = question.split()
    if words[0] != "what":
        return "exist, negated" if {"not", "no"} & set(words) else "exist"
    return "color" if "color" in words else "shape"


if __name__ == "__main__":
    main()
