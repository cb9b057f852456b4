"""The sections of an inspection about the network's inside: γ and β, activations, attention."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from filmvqa.evaluation.predictions import evaluating
from filmvqa.models.protocols import record_activations, record_attention
from filmvqa.questions.dataset import QuestionDataset
from filmvqa.studies.inspection import drawing, tables
from filmvqa.studies.inspection.answers import average_film
from filmvqa.studies.inspection.inspected import FEWER, Inspected, Section, choose_rows
from filmvqa.studies.inspection.tables import Table
from filmvqa.system.errors import UserError, warn

#: Questions whose activations or attention are recorded, and those of them that are drawn.
_RECORDED, _DRAWN, _DRAWN_BY_STEP = 64, 8, 4


def describe_film(inspected: Inspected, gamma: Tensor, beta: Tensor) -> Section:
    """Describe the distributions of γ and β (N, L, C)."""
    histograms = {"gamma": tables.bin_film(gamma), "beta": tables.bin_film(beta)}
    drawing.draw_histograms(histograms, inspected.output / "film.png")
    negative = [100 * float((values < 0).float().mean()) for values in (gamma, beta)]
    return Section(
        "γ and β",
        f"γ lies between {gamma.min():.1f} and {gamma.max():.1f}, β between {beta.min():.1f} "
        f"and {beta.max():.1f}; {negative[0]:.0f}% of γ and {negative[1]:.0f}% of β are "
        "negative.",
        "γ from -15 to 19 with a peak at 0, β from -9 to 16; 36% of γ and 76% of β are "
        "negative (section 4.2).",
        ["film.png"],
        {**histograms, "film_statistics": tables.summarize_film(gamma, beta)},
    )


def describe_points(inspected: Inspected, gamma: Tensor, beta: Tensor) -> Section:
    """Describe questions by their γ and β (N, L, C) in the first and the last layer; a layer in
    which all questions have the same is left out."""
    from sklearn.manifold import TSNE

    places = inspected.find_places(inspected.fewer)
    both = torch.cat([gamma[places], beta[places]], 2)  # (N, L, 2C)
    types, names = inspected.questions.types, inspected.questions.type_names
    labels = ["unknown"] * len(places)
    if types is not None:
        labels = [names[i] if i >= 0 else "other" for i in types[inspected.fewer].tolist()]
    perplexity = min(30.0, max(1.0, (len(places) - 1) / 3))
    points, table = {}, Table(["layer", "x", "y", "function"])
    for layer in dict.fromkeys((0, both.shape[1] - 1)):
        values = both[:, layer]  # (N, 2C)
        if (values == values[0]).all():
            continue
        tsne = TSNE(perplexity=perplexity, random_state=0, init="pca")
        points[f"layer {layer + 1}"] = xy = tsne.fit_transform(values.numpy())
        for point, label in zip(xy.tolist(), labels, strict=True):
            table.rows.append([layer + 1, *point, label])
    text = "t-SNE takes at least two questions with different γ and β."
    if points:
        text = f"t-SNE of γ and β of {len(places):,} questions, in colours of the last function."
        drawing.draw_points(points, labels, inspected.output / "points.png")
    return Section(
        "Questions by their γ and β",
        text,
        "In the first layer, questions cluster by low-level functions; in the last, by the "
        "high-level functions that end their programs (section 4.2, figure 5).",
        ["points.png"] if points else [],
        {"points": table},
    )


def describe_robustness(inspected: Inspected, num_layers: int) -> Section:
    """Describe accuracy with changed γ and β."""
    means, source = _average_training_film(inspected)
    table = tables.measure_robustness(
        inspected.model, inspected.loader, inspected.fewer, means, num_layers
    )
    drawing.draw_robustness(table, inspected.output / "robustness.png")
    shares = {tuple(labels): 100 * share for *labels, share in table.rows}
    plain = shares["none", "all", "none"]
    drops = [plain - shares[name, "all", "mean"] for name in ("gamma", "beta")]
    return Section(
        "Without γ, without β, and with noise",
        f"With the mean of γ over {source}, {drops[0]:.1f} points of {plain:.1f} are lost, and "
        f"with that of β {drops[1]:.1f}.",
        "65.4 points are lost with the training mean of γ, and 1.0 with that of β; noise in γ "
        "hurts far more than noise in β (section 4.3, figure 6).",
        ["robustness.png"],
        {"robustness": table},
    )


def _average_training_film(inspected: Inspected) -> tuple[list[Tensor], str]:
    """The means of γ and β over training questions, or over the inspected questions if the
    training questions are missing; and the name of these questions."""
    asked = inspected.asked
    path = asked.layout.question_h5(asked.content["data"]["train_split"])
    source = "training questions"
    try:
        training = QuestionDataset.load(path, asked.vocabulary).questions
    except UserError as error:
        warn(f"{error}; the means of γ and β are those of the questions that are asked")
        training, source = inspected.questions.questions[inspected.rows], "these questions"
    chosen = choose_rows(torch.arange(len(training)), 5 * FEWER, 0)
    return average_film(asked.model, training[chosen]), source


def describe_activations(inspected: Inspected) -> Section:
    """Describe the activations around FiLM, and the places that the max pool selects."""
    model, rows = inspected.model, choose_rows(inspected.rows, _RECORDED, 1)
    batch = inspected.loader.batch(rows)
    with evaluating(model), record_activations(model) as activations:
        model(batch.features, batch.questions, batch.image_of_question)
    before, after = ([m.cpu() for m in maps] for maps in (activations.before, activations.after))
    drawing.draw_activations(before, after, inspected.output / "activations.png")
    table = Table(["layer", "before: mean", "before: std", "after: mean", "after: std",
                   "after: positive"])  # fmt: skip
    for i, (b, a) in enumerate(zip(before, after, strict=True)):
        numbers = (b.mean(), b.std(), a.mean(), a.std(), (a > 0).float().mean())
        table.rows.append([i + 1, *map(float, numbers)])
    drawn = inspected.find_places(rows[:_DRAWN])
    drawing.draw_places(
        [inspected.pictures[i] for i in drawn],
        inspected.on_pictures(batch, activations.places())[:_DRAWN],
        [inspected.write_answer(i) for i in drawn], inspected.output / "places.png",
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


def describe_attention(inspected: Inspected) -> Section:
    """Describe MAC's attention at each step: in detail for a few questions, and its extent."""
    model, rows = inspected.model, choose_rows(inspected.rows, _RECORDED, 1)
    batch = inspected.loader.batch(rows)
    with evaluating(model), record_attention(model) as attention:
        model(batch.features, batch.questions, batch.image_of_question)
    words, places = attention.words(), attention.places()  # (B, S, T), (B, S, H, W)
    drawn = inspected.find_places(rows[:_DRAWN_BY_STEP])
    to_words = Table(["question_index", "step", "position", "word", "attention"])
    to_places = Table(["question_index", "step", "row", "column", "attention"])
    by_index = {index: token for token, index in inspected.vocabulary.question.items()}
    captions = []
    for i, word_shares, place_shares in zip(drawn, words, places, strict=False):
        row = inspected.rows[i]
        index = int(inspected.questions.original_index[row])
        tokens = [by_index[t] for t in inspected.questions.questions[row].tolist() if t]
        to_words.rows.extend(
            [index, step + 1, t, tokens[t], float(share)]
            for (step, t), share in np.ndenumerate(word_shares[:, : len(tokens)].numpy())
        )
        to_places.rows.extend(
            [index, step + 1, *place, float(share)]
            for (step, *place), share in np.ndenumerate(place_shares.numpy())
        )
        top = word_shares.topk(min(2, len(tokens))).indices.tolist()  # (S, 2)
        captions.append([f"{step}: {', '.join(tokens[t] for t in indices)}"
                         for step, indices in enumerate(top, 1)])  # fmt: skip
    drawing.draw_attention(
        [inspected.pictures[i] for i in drawn],
        inspected.on_pictures(batch, places)[: len(drawn)], captions,
        [inspected.write_answer(i) for i in drawn], inspected.output / "attention.png",
    )  # fmt: skip
    by_step = tables.summarize_attention(words, places)
    _, num_words, num_places = zip(*by_step.rows, strict=True)
    return Section(
        "Attention by step",
        "Attention to places at each step, with the two words that get the most. In the mean "
        f"of {len(rows)} questions a step attends to "
        f"{min(num_words):.1f} to {max(num_words):.1f} words and to "
        f"{min(num_places):.1f} to {max(num_places):.1f} of {places[0, 0].numel()} places (the "
        "exponential of the entropy).",
        "In the MAC paper's examples, steps attend to the words and the objects of a chain one "
        "after the other.",
        ["attention.png"],
        {
            "attention": by_step, "attention_to_words": to_words,
            "attention_to_places": to_places,
        },
    )  # fmt: skip
