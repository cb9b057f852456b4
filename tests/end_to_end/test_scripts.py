"""The scripts as processes, as a user runs them, on a tiny generated set."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from filmvqa.checkpoints.checkpoint import load_checkpoint
from filmvqa.system.locks import folder_lock
from tests.conftest import REPOSITORY, run_script, script_environment
from tests.end_to_end.workplace import DATA, GENERATOR, SMALL, TRAIN, fail, succeed
from tests.training.tiny_runs import metrics, same

pytestmark = pytest.mark.slow


def stamps(folder: Path) -> dict[Path, int]:
    """The time of the last write of each file, except locks."""
    paths = (p for p in folder.rglob("*") if p.is_file() and not p.name.endswith(".lock"))
    return {p: p.stat().st_mtime_ns for p in paths}


def test_finished_stages_say_so_and_do_nothing(workplace: Path) -> None:
    before = stamps(workplace)
    assert "already complete" in succeed("generate_clevr.py", *DATA, *GENERATOR, cwd=workplace)
    assert succeed("preprocess_questions.py", *DATA, cwd=workplace).count("already complete") == 3
    assert succeed("extract_features.py", *DATA, cwd=workplace).count("already complete") == 3
    assert "already finished" in succeed("train.py", *TRAIN, "run=film", cwd=workplace)
    assert before == stamps(workplace)


def test_evaluation_prints_a_table_and_writes_the_files(workplace: Path) -> None:
    checkpoint = "checkpoint=outputs/demo/film/best.pt"
    out = succeed(
        "evaluate.py", checkpoint, "by_family=true", "by_program_length=true", cwd=workplace
    )
    for word in (
        "overall",
        "count",
        "compare attribute",
        "query_color",
        "family:",
        "program length:",
    ):
        assert word in out
    folder = workplace / "outputs/demo/film/evaluation"
    report = json.loads((folder / "val.json").read_text())
    predictions = [
        json.loads(line) for line in (folder / "val_predictions.jsonl").read_text().splitlines()
    ]
    assert len(predictions) == report["overall"]["questions"]
    right = sum(p["answer"] == p["truth"] for p in predictions)
    assert right == report["overall"]["correct"]
    out = succeed("evaluate.py", checkpoint, "split=test", cwd=workplace)
    assert "no answers" in out
    answers = (folder / "test_answers.txt").read_text().split("\n")
    source = json.loads((workplace / "data/tiny/questions/CLEVR_test_questions.json").read_text())
    assert len(answers) == len(source["questions"]) + 1
    assert not (folder / "test.json").exists()


def test_training_and_evaluation_find_the_same_accuracy(workplace: Path) -> None:
    succeed(
        "evaluate.py",
        "checkpoint=outputs/demo/film/best.pt",
        "precision=auto",
        "output=check",
        cwd=workplace,
    )
    report = json.loads((workplace / "check/val.json").read_text())
    records = [
        json.loads(x)
        for x in (workplace / "outputs/demo/film/metrics.jsonl").read_text().splitlines()
    ]
    best = max(r["val_accuracy"] for r in records if "val_accuracy" in r)
    assert report["overall"]["accuracy"] == pytest.approx(best, abs=0.01)


def test_the_demos_training_gives_the_same_bits_twice(workplace: Path) -> None:
    """With the demo's network and options, all threads, and two processes."""
    line = ["experiment=demo", *DATA, "trainer.max_steps=30", "trainer.eval_every=15"]
    for run in ("a", "b"):
        done = subprocess.run(
            [sys.executable, str(REPOSITORY / "scripts/train.py"), *line, f"run={run}"],
            cwd=workplace, capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-2000:]
    a, b = (workplace / "outputs/demo" / run for run in ("a", "b"))
    assert same(load_checkpoint(a / "last.pt"), load_checkpoint(b / "last.pt"))
    assert metrics(a) == metrics(b)


def test_programs_supervise_after_their_targets_are_written(copy: Path) -> None:
    line = [*TRAIN, "run=named", "trainer.program_loss=1"]
    error = fail("train.py", *line, cwd=copy)
    assert error.endswith("no such file; make it with scripts/preprocess_questions.py targets=true")
    out = succeed("preprocess_questions.py", *DATA, "targets=true", cwd=copy)
    assert out.count("questions, written") == 2
    assert "test_program_targets.h5: no targets, since its questions have no programs" in out
    succeed("train.py", *line, cwd=copy)
    succeed("evaluate.py", "checkpoint=outputs/demo/named", cwd=copy)
    other = fail("train.py", *line[:-2], "run=other", "model=film", line[-1], cwd=copy)
    assert "trainer.program_loss: this model reads no maps" in other


def test_evaluation_warns_of_other_data(copy: Path) -> None:
    checkpoint = "checkpoint=outputs/demo/film/best.pt"
    done = run_script("evaluate.py", checkpoint, cwd=copy)
    assert "warning" not in done.stderr
    path = copy / "data/tiny/questions/CLEVR_val_questions.json"
    content = json.loads(path.read_text())
    content["questions"].pop()
    path.write_text(json.dumps(content))
    succeed("preprocess_questions.py", *DATA, cwd=copy)
    done = run_script("evaluate.py", checkpoint, cwd=copy)
    assert done.returncode == 0
    assert "was not trained with these data: the questions of val differ" in done.stderr
    report = json.loads((copy / "outputs/demo/film/evaluation/val.json").read_text())
    assert report["not_as_trained_with"] == ["the questions of val"]


@pytest.mark.parametrize("sweep", [[], ["-m"]])
def test_paths_are_those_of_where_a_program_was_started(sweep: list[str], copy: Path) -> None:
    """Also with Hydra's key for another working folder."""
    (copy / "own.py").write_text("")
    arguments = [*sweep, *TRAIN, "run=own", "name=own", "hydra.job.chdir=true", "imports=[own]",
                 "train.init_from=outputs/demo/film"]  # fmt: skip
    succeed("train.py", *arguments, cwd=copy)
    (run,) = (path.parent for path in copy.glob("outputs/**/last.pt") if "own" in str(path))
    assert run.relative_to(copy).parts[:2] == ("outputs", "sweeps" if sweep else "own")
    run = run.relative_to(copy)
    succeed("evaluate.py", f"checkpoint={run}", "output=own", "hydra.job.chdir=true", cwd=copy)
    assert (copy / "own/val.json").exists()
    picture = "image=data/tiny/images/val/CLEVR_val_000000.png"
    question = ["question=How many cubes are there?", "hydra.job.chdir=true"]
    assert "%" in succeed("ask.py", f"checkpoint={run}", picture, *question, cwd=copy)


def test_a_sweep_runs_once_and_becomes_a_report(workplace: Path) -> None:
    arguments = ["-m", *TRAIN, "sweep=weight_decay", "optim.weight_decay=0,1e-4"]
    out = succeed("train.py", *arguments, cwd=workplace)
    compare = "python scripts/sweep_report.py dir=outputs/sweeps/weight_decay compares them"
    assert out.endswith(f"all jobs have ended; {compare}\n")
    assert "optim.weight_decay@0/best.pt: best validation accuracy" in out
    folder = workplace / "outputs/sweeps/weight_decay"
    runs = sorted(p.parent for p in folder.rglob("last.pt"))
    assert len(runs) == 2
    assert {p.parent for p in runs} == {folder}
    stamps = [(p / "last.pt").stat().st_mtime_ns for p in runs]
    (workplace / "data/tiny").rename(workplace / "data/moved")
    arguments.append("data.root=data/moved")
    again = succeed("train.py", *arguments, cwd=workplace)
    assert again.count("already finished") == 2
    assert "\njob 2 of 2: optim.weight_decay=1e-4\n" in again
    (workplace / "data/moved").rename(workplace / "data/tiny")
    assert stamps == [(p / "last.pt").stat().st_mtime_ns for p in runs]
    table = succeed("sweep_report.py", f"dir={folder}", cwd=workplace)
    assert "| optim.weight_decay | runs | training | validation | gap |" in table
    assert {"report.md", "report.csv", "report.png"} <= {p.name for p in folder.iterdir()}


@pytest.mark.parametrize(
    ("line", "folder", "name"),
    [
        (["generate_clevr.py", *DATA, *GENERATOR], "data/tiny", ""),
        (["preprocess_questions.py", *DATA], "data/tiny/h5", "questions"),
        (["extract_features.py", *DATA, "data.features=other"], "other",
         "test_features_clevr_places.h5"),
        (["train.py", *TRAIN, "run=other"], "outputs/demo/other", ""),
        (["evaluate.py", "checkpoint=outputs/demo/film/best.pt", "output=other"], "other", "val"),
        (["sweep_report.py", "dir=outputs/demo", "key=seed"], "outputs/demo", "report"),
        (["import_film.py", "source=outputs/demo/film/best.pt", "output=other.pt"], "", "other.pt"),
        (["pretrain_backbone.py", "output=made"], "", "made"),
        (["benchmark.py", "output=made"], "", "made"),
        (["draw_sheet.py", *DATA, "output=made"], "", "made"),
        (["draw_model.py", "output=made"], "", "made"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)  # fmt: skip
def test_a_second_process_is_refused_and_changes_nothing(
    workplace: Path, line: list, folder: str, name: str
) -> None:
    with folder_lock(workplace / folder, name):
        before = stamps(workplace)
        assert "is using it; wait for it" in fail(*line, cwd=workplace)
        assert stamps(workplace) == before


@pytest.mark.parametrize("script", ["extract_features.py", "train.py"])
def test_a_full_disk_keeps_existing_files(copy: Path, script: str) -> None:
    """Files may not grow beyond 20 KiB, which has the effect of a full disk."""
    line = [*DATA] if script.startswith("extract") else [*TRAIN, "run=full"]
    if script.startswith("extract"):
        (copy / "data/tiny/h5/train_features_clevr_places.h5").unlink()
    before = stamps(copy)
    done = subprocess.run(
        ["bash", "-c", 'ulimit -f 20; exec "$@"', "_", sys.executable,
         str(REPOSITORY / "scripts" / script), *line],
        cwd=copy, capture_output=True, text=True, timeout=300, check=False,
        env=script_environment(),
    )  # fmt: skip
    assert done.returncode == 1, done.stderr[-2000:]
    assert "Traceback" not in done.stderr
    assert "larger than a file may be here" in done.stderr
    assert before.items() <= stamps(copy).items()
    succeed(script, *line, cwd=copy)


def test_pixels_need_no_weights(workplace: Path) -> None:
    pixels = [*DATA, "data.backbone.name=pixels"]
    succeed("extract_features.py", *pixels, cwd=workplace)
    succeed(
        "train.py", *TRAIN, *pixels, "model=film_pixels", "model.stem.strides=[2,2]", "run=pixels",
        *SMALL, cwd=workplace,
    )  # fmt: skip


def test_pictures(workplace: Path) -> None:
    succeed("draw_sheet.py", *DATA, "output=sheet.png", cwd=workplace)
    succeed("draw_model.py", "model=film_small", "output=model.png", cwd=workplace)
    for name in ("sheet.png", "model.png"):
        with Image.open(workplace / name) as image:
            assert min(image.size) > 400
            assert len(image.convert("RGB").getcolors(2**20)) > 20


def test_a_users_templates(tmp_path: Path) -> None:
    shipped = REPOSITORY / "src/filmvqa/worlds/clevr/templates/zero_hop.json"
    (tmp_path / "mine").mkdir()
    shutil.copy(shipped, tmp_path / "mine")
    succeed(
        "generate_clevr.py", *DATA, *GENERATOR, "data.generator.families=null", "templates=mine",
        "data.generator.images={train:0,val:2,test:0}", cwd=tmp_path,
    )  # fmt: skip
    questions = json.loads((tmp_path / "data/tiny/questions/CLEVR_val_questions.json").read_text())
    families = {q["question_family_index"] for q in questions["questions"]}
    assert families <= set(range(6))
    assert len(families) > 2


def test_wandb_runs_offline(workplace: Path) -> None:
    succeed("train.py", *TRAIN, "logger=wandb", "run=wandb", cwd=workplace)
    assert list((workplace / "outputs/demo/wandb/wandb").glob("offline-run-*"))


def test_missing_folders(tmp_path: Path) -> None:
    assert "scripts/generate_clevr.py" in fail("preprocess_questions.py", *DATA, cwd=tmp_path)
    assert "scripts/generate_clevr.py" in fail("extract_features.py", *DATA, cwd=tmp_path)
    assert "preprocess_questions.py" in fail("train.py", *TRAIN, cwd=tmp_path)
    assert "no such checkpoint" in fail("evaluate.py", "checkpoint=none.pt", cwd=tmp_path)
    assert "no such folder" in fail("sweep_report.py", "dir=nothing", cwd=tmp_path)
    assert list(tmp_path.rglob("*.h5")) == []


def test_a_truncated_image(copy: Path) -> None:
    path = copy / "data/tiny/images/val/CLEVR_val_000003.png"
    path.write_bytes(path.read_bytes()[:-20])
    (copy / "data/tiny/h5/val_features_clevr_places.h5").unlink()
    line = fail("extract_features.py", *DATA, cwd=copy)
    assert "CLEVR_val_000003.png: truncated PNG; delete it and run generate_clevr.py again" in line
    path.unlink()
    succeed("generate_clevr.py", *DATA, *GENERATOR, cwd=copy)
    succeed("extract_features.py", *DATA, cwd=copy)


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "a\\b.png", ".hidden.png"])
def test_an_image_name_that_leads_out_of_its_folder(copy: Path, name: str) -> None:
    path = copy / "data/tiny/questions/CLEVR_val_questions.json"
    content = json.loads(path.read_text())
    content["questions"][3]["image_filename"] = name
    path.write_text(json.dumps(content))
    line = fail("preprocess_questions.py", *DATA, cwd=copy)
    assert "CLEVR_val_questions.json" in line
    assert "is not a plain file name" in line
    assert "question 3" in line
    assert "is not a plain file name" in fail("draw_sheet.py", *DATA, "output=x.png", cwd=copy)


def test_question_json_cut_short(copy: Path) -> None:
    path = copy / "data/tiny/questions/CLEVR_val_questions.json"
    path.write_bytes(path.read_bytes()[:5000])
    shutil.rmtree(copy / "data/tiny/h5")
    assert f"{path.relative_to(copy)}: Input data was truncated" in fail(
        "preprocess_questions.py", *DATA, cwd=copy
    )
    assert not (copy / "data/tiny/h5/val_questions.h5").exists()


def test_a_question_about_an_image_that_is_not_there(copy: Path) -> None:
    (copy / "data/tiny/images/train/CLEVR_train_000149.png").unlink()
    shutil.rmtree(copy / "data/tiny/h5")
    line = fail("preprocess_questions.py", *DATA, cwd=copy)
    assert "CLEVR_train_000149.png, which is not in data/tiny/images/train" in line


def test_a_question_file_for_other_features(copy: Path) -> None:
    h5 = copy / "data/tiny/h5"
    shutil.copy(h5 / "test_features_clevr_places.h5", h5 / "val_features_clevr_places.h5")
    line = fail("train.py", *TRAIN, "run=other", cwd=copy)
    assert "val_questions.h5: asks about 12 images" in line


def test_a_vocabulary_that_does_not_fit_the_checkpoint(copy: Path) -> None:
    path = copy / "data/tiny/questions/CLEVR_train_questions.json"
    path.write_text(path.read_text().replace("cube", "cone").replace("block", "cone"))
    (copy / "data/tiny/questions/CLEVR_val_questions.json").unlink()
    succeed("preprocess_questions.py", *DATA, "allow_unknown=true", cwd=copy)
    line = fail("evaluate.py", "checkpoint=outputs/demo/film/best.pt", "split=train", cwd=copy)
    assert "another vocabulary" in line


def test_an_unknown_answer_in_val(copy: Path) -> None:
    path = copy / "data/tiny/questions/CLEVR_val_questions.json"
    path.write_text(path.read_text().replace('"answer":"yes"', '"answer":"maybe"', 1))
    line = fail("preprocess_questions.py", *DATA, cwd=copy)
    assert "'maybe' is not in the vocabulary" in line


@pytest.mark.parametrize(
    ("script", "arguments", "part"),
    [
        ("train.py", ["experiment=demo", "optim.weight_dcay=1"], "weight_dcay"),
        ("train.py", ["experiment=dmo"], "dmo"),
        ("train.py", ["experiment=demo", "model.blocks=3"], "blocks"),
        ("generate_clevr.py", ["data=mini", "data.generator.imges=3"], "imges"),
        ("generate_clevr.py", ["data=clevr"], "download_clevr.py data=clevr"),
        (
            "generate_clevr.py",
            ["data=mini", "data.generator.images.train=none"],
            "data.generator.images.train='none': must be a whole number",
        ),
        ("download_clevr.py", ["data=mini"], "generate_clevr.py data=mini"),
        (
            "train.py",
            ["experiment=demo", "trainer.max_steps=many"],
            "trainer.max_steps='many': must be",
        ),
        ("evaluate.py", ["split=val"], "checkpoint"),
        ("evaluate.py", ["checkpoint"], "checkpoint"),
    ],
)
def test_unknown_config_keys_and_values(
    tmp_path: Path, script: str, arguments: list, part: str
) -> None:
    assert part in fail(script, *arguments, cwd=tmp_path)
    assert not list(tmp_path.rglob("*.*"))


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    done = run_script("evaluate.py", "checkpoint=none.pt", "debug=true", cwd=tmp_path)
    assert done.returncode != 0
    assert "Traceback" in done.stderr
    assert "no such checkpoint" in done.stderr
