"""The sections of an inspection about answers and errors, which every network has."""

from __future__ import annotations

from collections.abc import Sequence

from filmvqa.studies.inspection import drawing, tables
from filmvqa.studies.inspection.consistency import measure_consistency
from filmvqa.studies.inspection.inspected import Inspected, Section
from filmvqa.studies.inspection.tables import Table
from filmvqa.tasks.reports import num_objects

#: Number of errors that are shown.
_WORST = 64


def describe_accuracy(inspected: Inspected) -> Section:
    """Describe accuracy by group of questions."""
    questions, rows = inspected.questions, inspected.rows
    scenes = inspected.asked.layout.scene_json(inspected.split)
    objects = num_objects(scenes, questions.images[rows])
    lengths = questions.program_lengths
    groups: dict[str, Sequence[object]] = {
        "objects": [] if objects is None else objects.tolist(),
        "program length": [] if lengths is None else lengths[rows].tolist(),
        "relations": [
            None if record is None or record.program is None
            else sum(step.function == "relate" for step in record.program)
            for record in inspected.records
        ],
        "answer": [inspected.names[i] for i in inspected.truths.tolist()],
    }  # fmt: skip
    by_group = {
        f"accuracy_by_{name.replace(' ', '_')}": tables.group_accuracy(
            inspected.correct, values, name
        )
        for name, values in groups.items()
        if any(value is not None for value in values)
    }
    drawing.draw_groups(list(by_group.values()), inspected.output / "accuracy.png")
    share = 100 * float(inspected.correct.double().mean())
    return Section(
        "Accuracy by what is asked",
        f"{share:.1f}% of {len(rows):,} questions are answered correctly.",
        "Many errors are due to partial occlusion; 96.1% of the counting errors are off by one.",
        ["accuracy.png"],
        by_group,
    )


def describe_confusion(inspected: Inspected) -> Section:
    """Describe which answers are confused with which."""
    answers, truths = inspected.answers.answers, inspected.truths
    table = tables.count_confusions(answers, truths, inspected.names)
    drawing.draw_confusion(table, inspected.output / "confusion.png")
    wrong, names = ~inspected.correct, inspected.names
    pairs = [[names[i] for i in indices[wrong].tolist()] for indices in (answers, truths)]
    errors = [abs(int(a) - int(t)) for a, t in zip(*pairs, strict=True)
              if a.isdigit() and t.isdigit()]  # fmt: skip
    text = "There are no wrong counts."
    if errors:
        share = 100 * errors.count(1) / len(errors)
        text = f"{share:.1f}% of {len(errors)} wrong counts are off by one."
    return Section(
        "Which answers are taken for which",
        text,
        "96.1% of the wrong counts are off by one.",
        ["confusion.png"],
        {"confusion": table},
    )


def describe_consistency(inspected: Inspected) -> Section:
    """Describe whether comparisons agree with counts."""
    table = measure_consistency(inspected)
    text = "There are no comparisons of numbers whose programs are known."
    for name, count, *shares in table.rows:
        if name == "all":
            agree, right, counted = (f"{100 * share:.1f}%" for share in shares)
            text = (
                f"Of {count} comparisons of numbers, {agree} agree with the two counts that the "
                f"network gives when it is asked for them; {right} are right, and {counted} where "
                "what the counts imply is."
            )
    return Section(
        "Do answers agree with each other?",
        text,
        "FiLM sometimes counts both sets correctly and compares them wrongly.",
        [],
        {"consistency": table},
    )


def describe_shuffled_words(inspected: Inspected) -> Section:
    """Describe accuracy when words are shuffled."""
    table = tables.measure_shuffled_words(inspected.model, inspected.loader, inspected.fewer)
    drawing.draw_line(table, inspected.output / "words.png", "number of shuffled last words")
    return Section(
        "Without the order of words",
        f"Accuracy from {100 * table.rows[0][1]:.1f}% to {100 * table.rows[-1][1]:.1f}% as the "
        "last words of the questions are shuffled.",
        "",
        ["words.png"],
        {"shuffled_words": table},
    )


def describe_worst(inspected: Inspected) -> Section:
    """Describe the errors with the highest probability."""
    wrong = (~inspected.correct).nonzero().flatten()
    sure = inspected.answers.probabilities[wrong]
    order = wrong[sure.argsort(descending=True, stable=True)][:_WORST].tolist()
    table = Table(["question_index", "image", "question", "truth", "answer", "probability"])
    for i in order:
        row = inspected.rows[i]
        index, image = inspected.questions.original_index[row], inspected.questions.images[row]
        truth, answer = inspected.truths[i], inspected.answers.answers[i]
        table.rows.append([
            int(index), int(image), inspected.write_question(i), inspected.names[int(truth)],
            inspected.names[int(answer)], float(inspected.answers.probabilities[i]),
        ])  # fmt: skip
    captions = [f"{row[2]} {row[4]} (truth: {row[3]})" for row in table.rows]
    pictures = [inspected.pictures[i] for i in order]
    drawing.draw_pictures(pictures, captions, inspected.output / "worst.png")
    return Section(
        "The worst errors",
        f"The {len(order)} wrong answers of which the network is surest.",
        "",
        ["worst.png"],
        {"worst": table},
    )
