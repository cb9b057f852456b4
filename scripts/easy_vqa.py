"""The pipeline on easy-VQA: convert, preprocess, extract, train, evaluate by kind of question, ask.

Pictures and questions are those of the package easy-vqa (V. Zhou, 2019; pip install
'filmvqa[easy-vqa]'). Arguments are the backbones whose features FiLM learns from, clevr_cnn without
any: python scripts/easy_vqa.py clevr_cnn pixels. Runs and prints all commands, and ends with a
table and ``outputs/easy_vqa/report.json``.
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
#: By split the package's folder of its pictures, and their numbers.
PICTURES = {
    "train": ("train", range(3800)),
    "val": ("train", range(3800, 4000)),
    "test": ("test", range(1000)),
}
#: What is given with a backbone's name, to see its features; and to learn from them. Others than
#: these are taken for networks of photographs, which pictures of 64×64 are too small for.
OF_BACKBONE = {"clevr_cnn": ("", ""), "pixels": ("", " model.stem.strides=[2,2,2]")}
OF_OTHERS = (" data.image_size=[192,192]", "")
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
    of = "the test pictures"
    run_pipeline(
        FOLDER, list_stages(backbones, runs), [*runs, "question_only"],
        command="make easy_vqa", of=of, usual=USUAL, split="test",
    )  # fmt: skip


def list_stages(backbones: Sequence[str], runs: Sequence[str]) -> dict[str, list[str]]:
    """Command lines by stage."""
    features, train = [], []
    for name, run in zip(backbones, runs, strict=True):
        seen, learned = OF_BACKBONE.get(name, OF_OTHERS)
        features.append(f"extract_features.py data=easy_vqa data.backbone.name={name}{seen}")
        train.append(
            f"train.py experiment=easy_vqa run={run} data.backbone.name={name}{seen}{learned}"
        )
    train.append(
        "train.py experiment=easy_vqa model=lstm run=question_only trainer.max_epochs=1 "
        f"data.backbone.name={backbones[0]}{OF_BACKBONE.get(backbones[0], OF_OTHERS)[0]} "
        "model.embedding_dim=64 model.hidden_dim=128 model.num_layers=1 "
        "model.classifier_dims=[256] model.classifier_norm=hidden"
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
    """Write the questions of the package's folder as a table, with their kinds and splits."""
    content = io.StringIO(newline="")
    writer = csv.writer(content)
    writer.writerow(["picture", "question", "answer", "type", "split"])
    for split, (folder, numbers) in PICTURES.items():
        questions = json.loads((package / folder / "questions.json").read_text(encoding="utf-8"))
        for question, answer, number in questions:
            if number in numbers:
                picture = package / folder / "images" / f"{number}.png"
                writer.writerow([picture, question, answer, kind_of(question), split])
    write_file(TABLE, content.getvalue())


def kind_of(question: str) -> str:
    """Which of the package's kinds of question it is, which it does not tell."""
    words = question.split()
    if words[0] != "what":
        return "exist, negated" if {"not", "no"} & set(words) else "exist"
    return "color" if "color" in words else "shape"


if __name__ == "__main__":
    main()
