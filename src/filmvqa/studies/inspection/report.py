"""An inspection of a checkpoint: figures, the numbers behind them, and a page that shows both."""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from filmvqa.evaluation.evaluate import (
    AskedQuestions,
    open_questions,
    output_folder,
)
from filmvqa.evaluation.predictions import evaluating
from filmvqa.features.images import find_pictures
from filmvqa.models.protocols import (
    Attentive,
    can_record,
    record_activations,
    record_attention,
)
from filmvqa.questions.dataset import QuestionDataset
from filmvqa.studies.inspection import drawing, tables
from filmvqa.studies.inspection.answers import collect, mean_film, write_answers
from filmvqa.studies.inspection.settings import InspectSettings
from filmvqa.studies.inspection.tables import Table
from filmvqa.system.errors import UserError, warn
from filmvqa.system.files import check_output, write_file
from filmvqa.system.layout import RunLayout
from filmvqa.system.locks import folder_lock
from filmvqa.tasks.reports import num_objects
from filmvqa.worlds.engine.schema import Question, read_questions

#: Questions whose answers with changed γ and β are compared, and of which points are drawn.
_FEWER = 2000
#: Questions whose maps are looked at.
_WATCHED = 64
_WORST = 64
#: Questions whose attention is drawn.
_ATTENDED = 4


@dataclass(frozen=True)
class Section:
    """A part of the page: figures with their tables by file name, what they show, and what the
    paper found."""

    title: str
    text: str
    paper: str
    figures: list[str]
    tables: dict[str, Table] = field(default_factory=dict)


def inspect_checkpoint(settings: InspectSettings) -> Path:
    """Write the page ``index.html``, its figures as PNG, their numbers as CSV and ``answers.h5``;
    returns the page.

    Raises
    ------
    UserError
        As ``open_questions``, and for a split without answers.
    """
    split = settings.split
    output = Path(settings.output or "")
    if settings.output is None:
        output = RunLayout(output_folder(settings.checkpoint)).inspection(split)
    check_output(output / "index.html")
    with open_questions(settings, split) as asked, folder_lock(output, "inspection"):
        if asked.loader.questions.answers is None:
            raise UserError(
                f"{asked.loader.questions.path}: has no answers to compare with; choose another "
                "split"
            )
        inspection = _Inspection(asked, output, settings)
        sections = inspection.sections()
        page = _page(settings.checkpoint, split, len(inspection.rows), sections)
        for section in sections:
            for name, table in section.tables.items():
                write_file(output / f"{name}.csv", table.csv())
        write_file(output / "index.html", page)
    return output / "index.html"


class _Inspection:
    """What is computed once for all sections."""

    def __init__(self, asked: AskedQuestions, output: Path, settings: InspectSettings) -> None:
        self.asked, self.output, split = asked, output, settings.split
        self.questions: QuestionDataset = asked.loader.questions
        self.rows = _some(torch.arange(len(self.questions)), settings.max_questions, settings.seed)
        self.fewer = _some(self.rows, _FEWER, settings.seed)
        self.answers = collect(asked.model, asked.loader, self.rows, progress=True)
        truths = self.questions.answers
        assert truths is not None
        self.truths = truths[self.rows]
        self.correct = self.answers.answers == self.truths
        self.records = _records(asked, split, self.rows)
        pictures = find_pictures(asked.layout.image_folder(split))
        self.pictures = [pictures.get(int(i)) for i in self.questions.images[self.rows]]
        self.split = split

    def text(self, i: int) -> str:
        """The words of a question that is asked."""
        tokens = self.questions.questions[self.rows[i]].tolist()
        return self.asked.vocabulary.decode(tokens)

    def answered(self, i: int) -> str:
        """A question, its answer, and the truth if that is another."""
        names = self.asked.vocabulary.answers()
        answer, truth = names[int(self.answers.answers[i])], names[int(self.truths[i])]
        return f"{self.text(i)}: {answer}{'' if self.correct[i] else f' (wrong: {truth})'}"

    def sections(self) -> list[Section]:
        found = [self.accuracy(), self.confusion(), self.consistency()]
        if self.answers.gamma is not None and self.answers.beta is not None:
            found += self.film(self.answers.gamma, self.answers.beta)
        if can_record(self.asked.model):
            found.append(self.maps())
        if isinstance(self.asked.model, Attentive):
            found.append(self.attention())
        found += [self.words(), self.worst()]
        write_answers(
            self.output / "answers.h5", self.answers,
            self.questions.original_index[self.rows], self.asked.vocabulary.answers(),
        )  # fmt: skip
        return found

    def accuracy(self) -> Section:
        images = self.questions.images[self.rows]
        objects = num_objects(self.asked.layout.scene_json(self.split), images)
        groups: dict[str, Sequence[object] | None] = {
            "objects": None if objects is None else objects.tolist(),
            "program length": (
                None if self.questions.program_lengths is None
                else self.questions.program_lengths[self.rows].tolist()
            ),
            "relations": [
                None if q is None or q.program is None
                else sum(step.function == "relate" for step in q.program)
                for q in self.records
            ],
            "answer": [self.asked.vocabulary.answers()[i] for i in self.truths.tolist()],
        }  # fmt: skip
        found = {
            f"accuracy_by_{name.replace(' ', '_')}": tables.grouped(self.correct, values, name)
            for name, values in groups.items()
            if values is not None and any(value is not None for value in values)
        }
        drawing.draw_groups(list(found.values()), self.output / "accuracy.png")
        share = 100 * float(self.correct.double().mean())
        return Section(
            "Accuracy by what is asked",
            f"{share:.1f}% of {len(self.rows):,} questions are answered correctly.",
            "Many errors are due to partial occlusion; 96.1% of the counting errors are off by "
            "one.",
            ["accuracy.png"],
            found,
        )

    def confusion(self) -> Section:
        names = self.asked.vocabulary.answers()
        table = tables.confusion(self.answers.answers, self.truths, names)
        drawing.draw_confusion(table, self.output / "confusion.png")
        pairs = [
            (int(names[a]), int(names[t]))
            for a, t in zip(self.answers.answers.tolist(), self.truths.tolist(), strict=True)
            if a != t and names[a].isdigit() and names[t].isdigit()
        ]
        text = "There are no wrong counts."
        if pairs:
            share = sum(abs(a - t) == 1 for a, t in pairs) / len(pairs)
            text = f"{100 * share:.1f}% of {len(pairs)} wrong counts are off by one."
        return Section("Which answers are taken for which", text,
                       "96.1% of the wrong counts are off by one.",
                       ["confusion.png"], {"confusion": table})  # fmt: skip

    def consistency(self) -> Section:
        table = tables.consistency(
            self.asked.model, self.asked.loader, self.asked.vocabulary, self.records,
            self.answers.answers, self.rows,
        )  # fmt: skip
        text = "There are no comparisons of numbers whose programs are known."
        for row in table.rows:
            if row[0] == "all":
                text = (
                    f"Of {row[1]} comparisons of numbers, {100 * row[2]:.1f}% agree with the two "
                    f"counts that the network gives when it is asked for them; {100 * row[3]:.1f}% "
                    f"are right, and {100 * row[4]:.1f}% where what the counts imply is."
                )
        return Section(
            "Do answers agree with each other?", text,
            "FiLM sometimes counts both sets correctly and compares them wrongly.",
            [], {"consistency": table},
        )  # fmt: skip

    def film(self, gamma: Tensor, beta: Tensor) -> list[Section]:
        found = {"gamma": tables.histograms(gamma), "beta": tables.histograms(beta)}
        drawing.draw_histograms(found["gamma"], found["beta"], self.output / "film.png")
        negative = [100 * float((values < 0).float().mean()) for values in (gamma, beta)]
        values = Section(
            "γ and β",
            f"γ lies between {gamma.min():.1f} and {gamma.max():.1f}, β between {beta.min():.1f} "
            f"and {beta.max():.1f}; {negative[0]:.0f}% of γ and {negative[1]:.0f}% of β are "
            "negative.",
            "γ from -15 to 19 with a peak at 0, β from -9 to 16; 36% of γ and 76% of β are "
            "negative (section 4.2).",
            ["film.png"],
            {**found, "film_statistics": tables.film_statistics(gamma, beta)},
        )
        return [values, self.points(gamma, beta), self.robustness(gamma.shape[1])]

    def points(self, gamma: Tensor, beta: Tensor) -> Section:
        from sklearn.manifold import TSNE

        where = torch.searchsorted(self.rows, self.fewer)
        types = self.questions.types
        labels = ["unknown"] * len(where)
        if types is not None:
            names = self.questions.type_names
            labels = [names[i] if i >= 0 else "other" for i in types[self.fewer].tolist()]
        layers = dict.fromkeys((0, gamma.shape[1] - 1))
        points, table = {}, Table(["layer", "x", "y", "function"])
        for layer in layers:
            both = torch.cat([gamma[where, layer], beta[where, layer]], 1).numpy()
            perplexity = min(30.0, max(1.0, (len(both) - 1) / 3))
            placed = TSNE(perplexity=perplexity, random_state=0, init="pca").fit_transform(both)
            points[f"layer {layer + 1}"] = placed
            table.rows.extend(
                [layer + 1, float(x), float(y), label]
                for (x, y), label in zip(placed, labels, strict=True)
            )
        drawing.draw_points(points, labels, self.output / "points.png")
        return Section(
            "Questions by their γ and β",
            f"t-SNE of γ and β of {len(where):,} questions, in colours of the last function.",
            "In the first layer, questions cluster by low-level functions; in the last, by the "
            "high-level functions that end their programs (section 4.2, figure 5).",
            ["points.png"],
            {"points": table},
        )

    def robustness(self, num_layers: int) -> Section:
        means, of = self.training_means()
        table = tables.robustness(
            self.asked.model, self.asked.loader, self.fewer, means, num_layers
        )
        drawing.draw_robustness(table, self.output / "robustness.png")
        shares = {(row[0], row[1], row[2]): 100 * row[3] for row in table.rows}
        plain = shares["none", "all", "none"]
        drops = [plain - shares[name, "all", "mean"] for name in ("gamma", "beta")]
        return Section(
            "Without γ, without β, and with noise",
            f"With the mean of γ over {of}, {drops[0]:.1f} points of {plain:.1f} are lost, and "
            f"with that of β {drops[1]:.1f}.",
            "65.4 points are lost with the training mean of γ, and 1.0 with that of β; noise in γ "
            "hurts far more than noise in β (section 4.3, figure 6).",
            ["robustness.png"],
            {"robustness": table},
        )

    def training_means(self) -> tuple[tuple[Tensor, Tensor], str]:
        """The means of γ and β over training questions, or, where these are not here, over those
        that are asked."""
        path = self.asked.layout.question_h5(self.asked.content["data"]["train_split"])
        of = "training questions"
        try:
            training = QuestionDataset.load(path, self.asked.vocabulary).questions
        except UserError as error:
            warn(f"{error}; the means of γ and β are those of the questions that are asked")
            training, of = self.questions.questions[self.rows], "these questions"
        chosen = _some(torch.arange(len(training)), 5 * _FEWER, 0)
        return mean_film(self.asked.model, training[chosen]), of

    def maps(self) -> Section:
        """The activations around FiLM, and the places that the maximum pool takes."""
        model, shown = self.asked.model, 8
        rows = _some(self.rows, _WATCHED, 1)
        batch = self.asked.loader.batch(rows)
        with evaluating(model), record_activations(model) as maps:
            model(batch.features, batch.questions, batch.image_of_question)
        before, after = ([m.cpu() for m in kind] for kind in (maps.before, maps.after))
        drawing.draw_activations(before, after, self.output / "activations.png")
        table = Table(["layer", "before: mean", "before: std", "after: mean", "after: std",
                       "after: positive"])  # fmt: skip
        for i, (b, a) in enumerate(zip(before, after, strict=True)):
            numbers = (b.mean(), b.std(), a.mean(), a.std(), (a > 0).float().mean())
            table.rows.append([i + 1, *map(float, numbers)])
        where = torch.searchsorted(self.rows, rows[:shown]).tolist()
        drawing.draw_places(
            [self.pictures[i] for i in where], maps.places()[:shown],
            [self.answered(i) for i in where], self.output / "places.png",
        )  # fmt: skip
        return Section(
            "Maps",
            "Values before and after each FiLM layer, and from where the classifier's maximum pool "
            "takes its values: the share of channels that have their maximum at a position.",
            "The pool takes most of its features from places near the objects that the answer "
            "is about (section 4.2, figure 4).",
            ["activations.png", "places.png"],
            {"activations": table},
        )

    def attention(self) -> Section:
        """What MAC attends to at each step: of a few questions, and how widely in the mean."""
        rows = _some(self.rows, _WATCHED, 1)
        batch = self.asked.loader.batch(rows)
        with evaluating(self.asked.model), record_attention(self.asked.model) as attention:
            self.asked.model(batch.features, batch.questions, batch.image_of_question)
        words, places = attention.words(), attention.places()
        by_step = tables.attention_by_step(words, places)
        to_words = Table(["question_index", "step", "position", "word", "attention"])
        to_places = Table(["question_index", "step", "row", "column", "attention"])
        where = torch.searchsorted(self.rows, rows[:_ATTENDED]).tolist()
        by_index = {index: token for token, index in self.asked.vocabulary.question.items()}
        captions = []
        for i, of_words, of_places in zip(where, words, places, strict=False):
            index = int(self.questions.original_index[self.rows[i]])
            tokens = [by_index[t] for t in self.questions.questions[self.rows[i]].tolist() if t]
            to_words.rows.extend(
                [index, step, position, token, share]
                for step, shares in enumerate(of_words.tolist(), 1)
                for position, (token, share) in enumerate(zip(tokens, shares, strict=False))
            )
            to_places.rows.extend(
                [index, step, row, column, share]
                for step, rows_of_map in enumerate(of_places.tolist(), 1)
                for row, shares in enumerate(rows_of_map)
                for column, share in enumerate(shares)
            )
            captions.append([
                f"{step}: {', '.join(tokens[t] for t in shares.topk(min(2, len(tokens))).indices)}"
                for step, shares in enumerate(of_words, 1)
            ])  # fmt: skip
        drawing.draw_attention(
            [self.pictures[i] for i in where], places[: len(where)], captions,
            [self.answered(i) for i in where], self.output / "attention.png",
        )  # fmt: skip
        counts = [[row[column] for row in by_step.rows] for column in (1, 2)]
        return Section(
            "Attention by step",
            "Attention to places at each step, with the two words that get the most. In the mean "
            f"of {len(rows)} questions a step attends to "
            f"{min(counts[0]):.1f} to {max(counts[0]):.1f} words and to "
            f"{min(counts[1]):.1f} to {max(counts[1]):.1f} of {places[0, 0].numel()} places (the "
            "exponential of the entropy).",
            "In the MAC paper's examples, steps attend to the words and the objects of a chain one "
            "after the other.",
            ["attention.png"],
            {
                "attention": by_step,
                "attention_to_words": to_words,
                "attention_to_places": to_places,
            },
        )

    def words(self) -> Section:
        table = tables.shuffled_words(self.asked.model, self.asked.loader, self.fewer)
        drawing.draw_line(table, self.output / "words.png", "so many last words are shuffled")
        return Section(
            "Without the order of words",
            f"Accuracy from {100 * table.rows[0][1]:.1f}% to {100 * table.rows[-1][1]:.1f}% as the "
            "last words of the questions are shuffled.",
            "",
            ["words.png"],
            {"shuffled_words": table},
        )

    def worst(self) -> Section:
        """The errors that the network is surest of."""
        wrong = (~self.correct).nonzero().flatten()
        sure = self.answers.probabilities[wrong]
        order = wrong[sure.argsort(descending=True, stable=True)][:_WORST].tolist()
        names = self.asked.vocabulary.answers()
        table = Table(["question_index", "image", "question", "truth", "answer", "probability"])
        for i in order:
            table.rows.append([
                int(self.questions.original_index[self.rows[i]]),
                int(self.questions.images[self.rows[i]]), self.text(i),
                names[int(self.truths[i])], names[int(self.answers.answers[i])],
                float(self.answers.probabilities[i]),
            ])  # fmt: skip
        captions = [f"{row[2]} {row[4]} (truth: {row[3]})" for row in table.rows]
        drawing.draw_pictures(
            [self.pictures[i] for i in order], captions, self.output / "worst.png"
        )
        return Section("The worst errors", f"The {len(order)} wrong answers of which the network "
                       "is surest.", "", ["worst.png"], {"worst": table})  # fmt: skip


def _some(rows: Tensor, count: int | None, seed: int) -> Tensor:
    """All of the rows, or ``count`` of them, sorted."""
    if count is None or count >= len(rows):
        return rows
    generator = torch.Generator().manual_seed(seed)
    return rows[torch.randperm(len(rows), generator=generator)[:count]].sort().values


def _records(asked: AskedQuestions, split: str, rows: Tensor) -> list[Question | None]:
    """The questions of the rows as their JSON has them, with programs; None where it is not
    here."""
    path = asked.layout.question_json(split)
    index = asked.loader.questions.original_index[rows].tolist()
    if not path.exists():
        return [None] * len(index)
    records = read_questions(path).questions
    by_index = {q.question_index if q.question_index is not None else i: q
                for i, q in enumerate(records)}  # fmt: skip
    return [by_index.get(i) for i in index]


_STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2.5rem; }
img { max-width: 100%; background: white; border-radius: 4px; }
.paper { color: gray; } table { border-collapse: collapse; font-size: 0.9rem; }
td, th { padding: 0.15rem 0.8rem 0.15rem 0; text-align: right; }
td:first-child, th:first-child { text-align: left; }
"""


def _page(checkpoint: str, split: str, count: int, sections: Sequence[Section]) -> str:
    """The page, which needs no server and nothing from elsewhere."""
    parts = [
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{html.escape(checkpoint)}</title><style>{_STYLE}</style></head><body>",
        f"<h1>{html.escape(checkpoint)}: {count:,} questions of {html.escape(split)}</h1>",
    ]
    for section in sections:
        parts.append(f"<h2>{html.escape(section.title)}</h2><p>{html.escape(section.text)}</p>")
        if section.paper:
            parts.append(f'<p class="paper">The paper: {html.escape(section.paper)}</p>')
        parts += [
            f'<p><img src="{name}" alt="{html.escape(section.title)}"></p>'
            for name in section.figures
        ]
        parts += [
            f'<p><a href="{name}.csv">{name}.csv</a></p>'
            + (_html_table(table) if len(table.rows) <= 12 and not section.figures else "")
            for name, table in section.tables.items()
        ]
    parts.append(
        '<p><a href="answers.h5">answers.h5</a>: scores of each question, and, of a network with '
        "FiLM layers, γ and β</p>"
    )
    return "\n".join([*parts, "</body></html>\n"])


def _html_table(table: Table) -> str:
    shown: Callable[[object], str] = lambda v: f"{v:.3f}" if isinstance(v, float) else str(v)  # noqa: E731
    head = "".join(f"<th>{html.escape(name)}</th>" for name in table.header)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(shown(v))}</td>" for v in row) + "</tr>"
        for row in table.rows
    )
    return f"<table><tr>{head}</tr>{body}</table>"
