"""The question, the networks' answers, and what gave them."""

from __future__ import annotations

import asyncio
import html
from typing import Any

from nicegui import ui
from torch import Tensor

from filmvqa.page.desk import Desk, reporting
from filmvqa.page.networks import MASK, Look
from filmvqa.page.panel import panel
from filmvqa.page.pictures import data_url, film_strips, laid_over, thumbnail
from filmvqa.page.subjects import Subject
from filmvqa.studies.inspection.settings import FilmSettings
from filmvqa.system.errors import UserError
from filmvqa.vqa import Answer, FilmParameters

_SHOWN = 5
_QUESTIONS = 10
_FILM_EXPLAINED = (
    "γ and β: a bar for each channel, from 1 for γ and from 0 for β; the dashed line is the other "
    "of these numbers. Ticks are the values for the question before, and ± is how far they moved "
    "since (the root of the mean square)."
)
_MAPS_EXPLAINED = (
    "Maps: norms over the channels before and after each FiLM layer and the places that the "
    "maximum pool takes, or the steps' attention; and the gradient of the answer's score. Choose "
    "one to lay it over the picture."
)


class QuestionPanels:
    """The panels at the right: question with answers, and why."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._networks = desk.house.networks
        self._looks: list[Look] = []
        # Of each network, γ and β of the question and of the one before.
        self._films: list[list[tuple[str, FilmParameters]]] = [[] for _ in self._networks]
        self._count = self._seed = 0
        self._overlay: tuple[int, str] | None = None
        self._build_question()
        self._build_why()
        desk.listen(self._on_subject)
        self._suggest()

    def _build_question(self) -> None:
        with panel("Question"):
            with ui.element("div").classes("line").style("flex-wrap: nowrap"):
                self._input = ui.input(
                    placeholder="Ask about the picture", on_change=self._complete, autocomplete=[]
                )
                self._input.props('outlined dense aria-label="question"').style("flex: 1")
                self._input.on("keydown.enter", reporting(self.ask))
                ui.button("Ask", on_click=reporting(self.ask)).props("unelevated no-caps")
            self._problem = ui.label().classes("alarm").props('role="alert"')
            self._answers = ui.element("div").classes("answers").props('aria-live="polite"')
            self._suggestions = ui.element("div").classes("column").style("gap: 6px")

    def _build_why(self) -> None:
        with panel("Why") as self._why:
            self._reasons = ui.element("div").classes("column")
        self._why.visible = False

    # Questions

    def _suggest(self) -> None:
        """Questions of the generator about the subject, with their answers."""
        subject = self._desk.subject

        def suits(question: str) -> bool:
            return all(network.knows(question) for network in self._networks)

        self._asked = subject.questions(
            self._seed, _QUESTIONS, suits, referring=self._networks[0].draws
        )
        self._suggestions.clear()
        if not self._asked:
            return
        with self._suggestions:
            with ui.element("div").classes("line"):
                draws = self._networks[0].draws
                title = "Expressions" if draws else "Questions"
                known = "how many objects they mean" if draws else "their true answers"
                ui.label(f"{title} about this scene, with {known}").classes("quiet")
                ui.button("Others", on_click=self._suggest_others).props("flat dense no-caps")
            with ui.element("div").classes("questions"):
                for asked in self._asked:
                    button = ui.button(on_click=reporting(self._chooser(asked.question)))
                    button.props("flat dense no-caps align=left")
                    with button:
                        ui.label(asked.question)
                        meant = "" if asked.objects is None else str(len(asked.objects))
                        ui.label(asked.answer or meant).classes("quiet")

    def _suggest_others(self) -> None:
        self._seed += 1
        self._suggest()

    def _chooser(self, question: str) -> Any:
        async def choose() -> None:
            await self.ask_this(question)

        return choose

    def _complete(self) -> None:
        """Offer the vocabulary's words for the word that is being typed, and whole questions."""
        text = self._input.value or ""
        head, _, word = text.rpartition(" ")
        offers = [a.question for a in self._asked if a.question.lower().startswith(text.lower())]
        if word:
            words = sorted(self._networks[0].vqa.vocabulary.words(), key=lambda w: (len(w), w))
            begun = [w for w in words if w.lower().startswith(word.lower()) and w != word]
            offers += [f"{head} {w}".lstrip() for w in begun]
        self._input.set_autocomplete(offers[:20] if text else [])

    # Answers

    async def ask_first(self) -> None:
        """Ask the first of the generator's questions, so that a new visitor sees an answer."""
        if self._asked:
            await self.ask_this(self._asked[0].question)

    def prepare(self, question: str) -> None:
        """Put a question into the field, to be asked about the next subject."""
        self._input.value = question

    async def ask_this(self, question: str) -> None:
        """Put a question into the field, and ask it."""
        self.prepare(question)
        await reporting(self.ask)()

    async def ask(self) -> None:
        """Ask what is in the field; the answer to the newest of several questions stays."""
        question = (self._input.value or "").strip()
        self._count += 1
        count, subject = self._count, self._desk.subject
        self._problem.text = ""
        if not question:
            self._forget()
            self._problem.text = "Type a question, or choose one below."
            return
        change = self._desk.change
        try:
            with self._desk.busy("computing the answer"):
                looks, warnings, truth = await asyncio.to_thread(
                    self._look, subject, question, change
                )
        except UserError as error:
            if count == self._count:
                self._forget()
                self._problem.text = str(error)
            return
        if count != self._count:
            return
        self._looks = looks
        if self._overlay is None:
            drawn = [i for i, look in enumerate(looks) if MASK in look.maps]
            self._overlay = (drawn[0], MASK) if drawn else None
        self._remember(question)
        self._desk.ask(question)
        self._show_answers(truth, warnings)
        self._show_reasons()

    def _look(
        self, subject: Subject, question: str, change: FilmSettings | None
    ) -> tuple[list[Look], list[str | None], str | None]:
        looks, warnings = [], []
        for network in self._networks:
            features = network.features(subject.picture)
            looks.append(network.look(features, question, change))
            warnings.append(network.vqa.warning_about(features))
        return looks, warnings, subject.true_answer(question)

    def _forget(self) -> None:
        """Take away what belongs to another question or subject."""
        self._looks = []
        self._answers.clear()
        self._reasons.clear()
        self._why.visible = False
        self._desk.lay_over(None)
        self._desk.ask("")

    def _remember(self, question: str) -> None:
        for films, look in zip(self._films, self._looks, strict=True):
            if look.film is not None:
                others = [entry for entry in films if entry[0] != question]
                films[:] = [(question, look.film), *others[:1]]

    def _show_answers(self, truth: str | None, warnings: list[str | None]) -> None:
        self._answers.clear()
        with self._answers:
            for network, look, warning in zip(self._networks, self._looks, warnings, strict=True):
                with ui.element("div").classes("answer"):
                    if len(self._networks) > 1:
                        ui.label(network.name).classes("quiet")
                    with ui.element("div").classes("line"):
                        ui.label(look.answer.text).classes("given").mark("answer")
                        if truth is not None:
                            is_right = look.answer.text == truth
                            text = "right" if is_right else f"wrong: it is {truth}"
                            ui.label(text).classes(f"verdict {'good' if is_right else 'bad'}")
                    if look.unchanged is not None:
                        plain = look.unchanged
                        share = plain.probabilities.get(plain.text)
                        text = plain.text if share is None else f"{plain.text} ({100 * share:.1f}%)"
                        ui.label(f"With other γ and β; as they are: {text}.").classes("quiet")
                    ui.html(_bars(look.answer), sanitize=False)
                    if warning is not None:
                        ui.label(f"The picture {warning}.").classes("alarm")

    # Why

    def _show_reasons(self) -> None:
        self._why.visible = True
        self._reasons.clear()
        with self._reasons:
            for i, (network, look) in enumerate(zip(self._networks, self._looks, strict=True)):
                if len(self._networks) > 1:
                    ui.label(network.name).classes("quiet")
                if look.film is not None:
                    self._show_film(*(film for _, film in self._films[i]))
                if look.words is not None:
                    ui.html(_words_table(*look.words), sanitize=False).classes("grid")
                self._show_maps(i, look)
            if any(look.film is not None for look in self._looks):
                ui.label(_FILM_EXPLAINED).classes("quiet")
            ui.label(_MAPS_EXPLAINED).classes("quiet")
        self._lay_over()

    def _show_film(self, film: FilmParameters, before: FilmParameters | None = None) -> None:
        with ui.element("div").classes("strips"):
            for number, drawing in enumerate(film_strips(film, before)):
                layer, name = number // 2, ("gamma", "beta")[number % 2]
                text = f"{'γ' if name == 'gamma' else 'β'}, block {layer + 1}"
                if before is not None:
                    change = getattr(film, name)[layer] - getattr(before, name)[layer]
                    text += f"\n± {float(change.square().mean().sqrt()):.2f}"
                ui.label(text).classes("quiet").style("white-space: pre-line")
                ui.html(drawing, sanitize=False)

    def _show_maps(self, i: int, look: Look) -> None:
        picture = thumbnail(self._desk.subject.picture)
        with ui.element("div").classes("maps"):
            for name, values in look.maps.items():
                button = ui.button(on_click=lambda name=name: self._choose_map(i, name))
                button.props("flat no-caps").classes("map")
                if self._overlay == (i, name):
                    button.classes("shown")
                with button:
                    url = data_url(laid_over(picture, values), quick=True)
                    ui.html(
                        f'<img src="{url}" alt=""><span>{html.escape(name)}</span>', sanitize=False
                    )

    def _choose_map(self, i: int, name: str) -> None:
        self._overlay = None if self._overlay == (i, name) else (i, name)
        self._show_reasons()

    def _lay_over(self) -> None:
        if self._overlay is None or self._overlay[1] not in self._looks[self._overlay[0]].maps:
            self._desk.lay_over(None)
            return
        i, name = self._overlay
        self._desk.lay_over((name, self._looks[i].maps[name]))

    async def _on_subject(self, settled: bool) -> None:
        if not settled:
            return
        self._suggest()
        if self._input.value:
            await reporting(self.ask)()
        else:
            await self.ask_first()


def _bars(answer: Answer) -> str:
    rows = []
    for text, share in list(answer.probabilities.items())[:_SHOWN]:
        percent = 100 * share
        rows.append(
            f'<div class="bar"><span>{html.escape(text)}</span><span class="track">'
            f'<div class="fill" style="width: {percent:.2f}%"></div></span>'
            f'<span class="share">{percent:.1f}%</span></div>'
        )
    return "".join(rows)


def _words_table(words: list[str], attention: Tensor) -> str:
    """HTML: a row for each step, a column for each word, darker for more attention."""
    heads = "".join(
        f'<th class="value" scope="col"><span>{html.escape(word)}</span></th>' for word in words
    )
    rows = []
    for step, weights in enumerate(attention.tolist(), 1):
        cells = "".join(
            f'<td title="{100 * weight:.0f}%"><span class="cell" style="--share: {weight:.2f}">'
            "</span></td>"
            for weight in weights
        )
        rows.append(f'<tr><th scope="row">step {step}</th>{cells}</tr>')
    return f"<table><thead><tr><th></th>{heads}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
