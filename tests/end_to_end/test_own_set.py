"""A user's set, from its table to an answer, with the commands of docs/guides/own_data.md."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from tests.end_to_end.workplace import SHORT, SMALL, fail, succeed

pytestmark = pytest.mark.slow


def test_a_users_pictures_and_table(tmp_path: Path) -> None:
    rows = ["file;text;label;kind"]
    for number in range(12):
        colour = ("red", "green", "blue")[number % 3]
        Image.new("RGB", (40 + number, 40), colour).save(tmp_path / f"my picture{number}.png")
        rows += [f"my picture{number};Which colour?;{colour};colour",
                 f"my picture{number};Is it red?;{'no' if number % 3 else 'yes'};red"]  # fmt: skip
    (tmp_path / "data/own").mkdir(parents=True)
    (tmp_path / "data/own/mine.csv").write_text("\n".join(rows))
    line = fail("preprocess_questions.py", "data=own", cwd=tmp_path)
    assert "mine.csv: is no question JSON" in line
    own = ["pictures=.", "picture=file", "question=text", "answer=label", "type=kind"]
    size = "data.image_size=[48,48]"
    source = "source=data/own/mine.csv"
    assert "has no column 'txt'" in fail(
        "import_questions.py", source, *own, "question=txt", size, cwd=tmp_path
    )
    out = succeed("import_questions.py", source, *own, "held_out=0.25", size, cwd=tmp_path)
    assert (
        "train_questions.json: 18 questions, 9 pictures, 9 of them resized, as PNG, written" in out
    )
    succeed("preprocess_questions.py", "data=own", cwd=tmp_path)
    succeed("extract_features.py", "data=own", size, cwd=tmp_path)
    succeed(
        "train.py", "experiment=demo", "data=own", "name=own", "run=first", size, *SMALL, *SHORT,
        "trainer.train_sample=9", cwd=tmp_path,
    )  # fmt: skip
    out = succeed("evaluate.py", "checkpoint=outputs/own/first", cwd=tmp_path)
    table = out[out.index("question type:") :].splitlines()[1:]
    assert [row.split()[0] for row in table if row.startswith("  ")] == ["colour", "red"]
    out = succeed(
        "ask.py", "checkpoint=outputs/own/first", "image=my picture3.png",
        "question=Which colour?", cwd=tmp_path,
    )  # fmt: skip
    assert "%" in out
