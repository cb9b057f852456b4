"""The laboratory's commands as processes: import, transfer, sweeps."""

from __future__ import annotations

import json
import random
import re
import shutil
from pathlib import Path

import h5py
import pytest
import torch

from filmvqa.questions.vocabulary import Vocabulary
from tests.checkpoints.reference_film import checkpoint, run
from tests.end_to_end.workplace import DATA, GENERATOR, SHORT, SMALL, TRAIN, fail, succeed

pytestmark = pytest.mark.slow

COGENT = ["data=cogent_mini", "data.root=data/cogent", "data.image_size=[48,48]"]


def test_an_original_checkpoint_is_imported_and_evaluated(workplace: Path) -> None:
    """Its vocabulary encodes the questions, and the evaluation equals the original's."""
    torch.manual_seed(0)
    words = json.loads((workplace / "data/tiny/h5/vocab.json").read_text())
    content = checkpoint(feature_dim=(97, 6, 6), bidirectional=True)
    answers = ["<NULL>", "<START>", "<END>", "<UNK>", *words["answer_token_to_idx"]]
    content["vocab"] = {**words, "answer_token_to_idx": {a: i for i, a in enumerate(answers)}}
    count = len(words["question_token_to_idx"])
    content["program_generator_state"]["encoder_embed.weight"] = torch.randn(count, 6)
    state = content["execution_engine_state"]
    last = max((k for k in state if k.startswith("classifier")), key=lambda k: int(k.split(".")[1]))
    number = last.split(".")[1]
    state[f"classifier.{number}.weight"] = torch.randn(len(answers), 10)
    state[f"classifier.{number}.bias"] = torch.randn(len(answers))
    torch.save(content, workplace / "original.pt")
    succeed("import_film.py", *DATA, "source=original.pt", "output=imported/film.pt", cwd=workplace)
    line = fail("import_film.py", *DATA, "source=original.pt", "output=data/tiny/h5/film.pt",
                cwd=workplace)  # fmt: skip
    assert "vocab.json: is another vocabulary" in line
    line = fail("import_film.py", *DATA, "source=original.pt", "output=imported/film.pt",
                cwd=workplace)  # fmt: skip
    assert "exists already" in line
    succeed("preprocess_questions.py", *DATA, "data.h5=h5", "vocab=imported/vocab.json",
            cwd=workplace)  # fmt: skip
    succeed("evaluate.py", "checkpoint=imported/film.pt", "h5=h5", "features=data/tiny/h5",
            cwd=workplace)  # fmt: skip
    rows = [
        json.loads(line)
        for line in (workplace / "imported/evaluation/val_predictions.jsonl")
        .read_text()
        .splitlines()
    ]
    vocabulary = Vocabulary.load(workplace / "imported/vocab.json")
    with h5py.File(workplace / "h5/val_questions.h5") as file:
        questions = torch.from_numpy(file["questions"][:]).long()
        images = torch.from_numpy(file["image_idxs"][:]).long()
    questions = torch.nn.functional.pad(questions, (0, 46 - questions.shape[1]))
    with h5py.File(workplace / "data/tiny/h5/val_features_clevr_places.h5") as file:
        features = torch.from_numpy(file["features"][:]).float()
    with torch.inference_mode():
        _, logits = run(content, features[images], questions)
    expected = [vocabulary.answers()[i] for i in logits.argmax(1).tolist()]
    assert [r["answer"] for r in rows] == expected


def test_what_is_no_original_checkpoint(workplace: Path) -> None:
    line = fail("import_film.py", "source=outputs/demo/film/best.pt", "output=x.pt", cwd=workplace)
    assert "best.pt: not a FiLM checkpoint of the original code" in line
    assert not (workplace / "x.pt").exists()
    line = fail("train.py", *TRAIN, "run=bad", "data.fraction=1.5", cwd=workplace)
    assert "data.fraction=1.5: must be a finite number above 0 and at most 1" in line
    line = fail("train.py", *TRAIN, "run=bad", "train.trainable=[eyes]", cwd=workplace)
    assert "train.trainable: the model has no part 'eyes'; it has encoder, stem" in line


def test_cogent_from_a_to_b(workplace: Path) -> None:
    generator = [g for g in GENERATOR if "images" not in g]
    sizes = "data.generator.images={trainA:100,valA:10,valB:20}"
    succeed("generate_clevr.py", *COGENT, *generator, sizes, "workers=2", cwd=workplace)
    shapes: dict[str, set[str]] = {}
    for split in ("trainA", "valA", "valB"):
        text = (workplace / f"data/cogent/scenes/CLEVR_{split}_scenes.json").read_text()
        objects = [o for scene in json.loads(text)["scenes"] for o in scene["objects"]]
        shapes[split] = {o["color"] for o in objects if o["shape"] == "cube"}
    assert shapes["valA"] <= shapes["trainA"] == {"gray", "blue", "brown", "yellow"}
    assert shapes["valB"] <= {"red", "green", "purple", "cyan"}
    succeed("preprocess_questions.py", *COGENT, cwd=workplace)
    succeed("extract_features.py", *COGENT, cwd=workplace)
    demo = ["experiment=demo", *SMALL, *SHORT, *COGENT]
    succeed("train.py", *demo, "name=cogent", "run=film", cwd=workplace)
    start = "outputs/cogent/film/best.pt"
    for split in ("valA", "valB"):
        succeed("evaluate.py", f"checkpoint={start}", f"split={split}", cwd=workplace)
    tuned = ["data.train_split=valB", "data.val_split=valB", "data.fraction=0.5"]
    out = succeed("train.py", *demo, *tuned, f"train.init_from={start}", "run=b", cwd=workplace)
    assert "10 images" in out
    out = succeed("evaluate.py", "checkpoint=outputs/demo/b/best.pt", "split=valB", cwd=workplace)
    assert "without the 10 images that the model was trained on" in out
    succeed("evaluate.py", "checkpoint=outputs/demo/b/best.pt", "split=valA", cwd=workplace)


def test_questions_as_people_ask_them(workplace: Path) -> None:
    """Like CLEVR-Humans: new words, some of them rare, about the same images."""
    rng, folder = random.Random(0), workplace / "data/humans"
    folder.mkdir()
    for split in ("train", "val"):
        path = workplace / f"data/tiny/questions/CLEVR_{split}_questions.json"
        content = json.loads(path.read_text())
        for i, question in enumerate(content["questions"]):
            text = question["question"].replace("How many", "What total of")
            question["question"] = f"Hey {rng.choice(['dude', 'friend'])}, {text}"
            if i % 10 == 0:
                question["question"] += f" rare{split}{i}"
            for key in ("program", "question_family_index"):
                del question[key]
        (folder / f"CLEVR-Humans-{split}.json").write_text(json.dumps(content))
    data = [*DATA, "data.root=data/humans", "data.h5=data/humans/h5",
            "data.images=data/tiny/images", "data.features=data/tiny/h5"]  # fmt: skip
    succeed("preprocess_questions.py", *data, "vocab=data/tiny/h5/vocab.json", "extend_vocab=true",
            "allow_unknown=true", "min_count=2", cwd=workplace)  # fmt: skip
    old, new = (Vocabulary.load(workplace / f"data/{n}/h5/vocab.json") for n in ("tiny", "humans"))
    added = new.question.keys() - old.question.keys()
    assert {"Hey", "dude", "friend", "total"} <= added
    assert not any(word.startswith("rare") for word in new.question)
    start = ["train.init_from=outputs/demo/film/best.pt"]
    out = succeed("train.py", *TRAIN, *data, *start, "run=humans",
                  "train.trainable=[encoder,film_generator]", cwd=workplace)  # fmt: skip
    assert f"{len(old.question)} words known, {len(added)} new" in out
    succeed("evaluate.py", "checkpoint=outputs/demo/humans/best.pt", cwd=workplace)
    report = json.loads((workplace / "outputs/demo/humans/evaluation/val.json").read_text())
    assert "by_type" not in report
    out = succeed("train.py", *TRAIN, *data, *start, "run=table",
                  "model.generator.task_offset=true",
                  "train.trainable=[film_generator.task_offset]", cwd=workplace)  # fmt: skip
    numbers = 3 * 8 + 4 * (8 + 1)  # γ, β, the read's key, and the keys of four sets
    assert f"{2 * numbers} of them trained" in out


def test_the_data_efficiency_sweep_draws_both_curves(workplace: Path) -> None:
    small = [*DATA, *SHORT, "data.fraction=0.2,1.0", "seed=0"]
    succeed("train.py", "-m", "sweep=data_efficiency", *small, cwd=workplace)
    folder = workplace / "outputs/sweeps/data_efficiency"
    assert len(list(folder.rglob("last.pt"))) == 4
    table = succeed("sweep_report.py", f"dir={folder}", cwd=workplace)
    for model in ("film", "mac"):
        for fraction in ("0.2", "1"):
            assert f"| {model} | {fraction} | 1 |" in table
    assert (folder / "report.png").exists()


def test_the_ablation_sweep_sets_the_paper_beside_ours(workplace: Path) -> None:
    arguments = [*TRAIN, "sweep=ablations", "experiment/ablation=none,no_residual,blocks_3"]
    arguments = [a for a in arguments if "num_blocks" not in a]
    succeed("train.py", "-m", *arguments, cwd=workplace)
    table = succeed("sweep_report.py", "dir=outputs/sweeps/ablations", cwd=workplace)
    assert "| ablation | runs | training | validation | gap | paper, on CLEVR |" in table
    assert "| 94.0 |" in table


def test_a_claim_from_its_settings_to_its_verdict(workplace: Path) -> None:
    """The first command trains, evaluates and reports; the next one skips finished runs."""
    overrides = " ".join([*TRAIN, "optim.weight_decay=0,1e-2", "seed=0,1"])
    claim = {
        "title": "Decay", "claim": "It matters.", "source": "nobody",
        "sweeps": {"decay": [overrides]}, "runs": 4, "minutes": 0.1,
        "keys": [{"key": "optim.weight_decay", "name": "weight decay"}],
        "contrasts": [{"text": "1e-2 - 0", "first": {"optim.weight_decay": 1e-2},
                       "second": {"optim.weight_decay": 0}}],
    }  # fmt: skip
    (workplace / "decay.yaml").write_text(json.dumps(claim))
    command = ["laboratory.py", "claims=[decay.yaml]", "split=val", "jobs=1"]
    out = succeed(*command, cwd=workplace)
    assert "Decay: 4 of 4 runs to do, 1 at a time, " in out
    assert "- *It matters* (nobody): **" in out
    assert "the page has 4 runs, " in out
    folder = workplace / "outputs/laboratory"
    page, verdicts = ((folder / name).read_text() for name in ("decay.md", "verdicts.md"))
    assert "| 0.01 | 2 |" in page
    assert verdicts in out
    drawn = {"decay.png", "decay_courses.png", "forest.png"}
    assert {path.name for path in folder.glob("*.png")} == drawn
    best = sorted(workplace.glob("outputs/sweeps/decay/*/best.pt"))
    times = [path.stat().st_mtime_ns for path in best]
    # Runs in the raw results are not repeated, even if their folders are gone; others are.
    kept = workplace / "docs/laboratory/data/decay.csv"
    rows = kept.read_text().splitlines(keepends=True)
    kept.write_text("".join(rows[:-1]))
    for path in (best[0], best[-1]):
        shutil.rmtree(path.parent)
    out = succeed(*command, cwd=workplace)
    assert "Decay: 1 of 4 runs to do" in out
    assert "job 1 of 1: " in out
    assert [path.exists() for path in best] == [False, True, True, True]
    assert [path.stat().st_mtime_ns for path in best[1:3]] == times[1:3]
    assert [row.split(",")[0] for row in kept.read_text().splitlines()] == [
        row.split(",")[0] for row in rows
    ]
    page = (folder / "decay.md").read_text()
    out = succeed(*command[:1], "claims=[decay.yaml]", "split=val", "redraw=true", cwd=workplace)
    assert "runs to do" not in out
    redrawn = (folder / "decay.md").read_text()
    assert [re.sub(r"\d read from", "", text) for text in (page, redrawn)] == [
        re.sub(r"\d read from", "", page)
    ] * 2
    best = best[1:]
    last = best[0].with_name("last.pt")
    content = torch.load(last, weights_only=True)
    content["progress"]["finished"] = False  # as if it had been interrupted
    torch.save(content, last)
    out = succeed(*command, "train=false", cwd=workplace)
    assert f"{last.parent.relative_to(workplace)}: is not at its end" in out
    assert "the page has 4 runs, " in out  # its row is kept
    out = succeed("sweep_report.py", "dir=outputs/sweeps/decay", cwd=workplace)
    assert out.count("is not at its end") == 1
    line = fail("laboratory.py", "claims=[nothing]", cwd=workplace)
    assert "claim/nothing.yaml: " in line
