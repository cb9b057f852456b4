"""The question and the networks' answers."""

from __future__ import annotations

import asyncio
from functools import partial

from nicegui import ui

from filmvqa.page.explanation_panel import ExplanationPanel
from filmvqa.page.frame import Panel, box, note, piece, report_errors
from filmvqa.page.networks import Look
from filmvqa.page.session import Session
from filmvqa.page.subjects import Subject
from filmvqa.studies.inspection.settings import FilmSettings
from filmvqa.system.errors import UserError

#: The number of likeliest answers to show, and of questions to suggest.
_ANSWERS, _QUESTIONS = 5, 10


class QuestionPanel:
    """The panels of the question with its answers, and of their explanation."""

    def __init__(self, session: Session) -> None:
        self._session, self._networks = session, session.shared.networks
        self._draws = self._networks[0].vqa.draws
        self._request = self._seed = 0
        ask = report_errors(self.ask)
        with Panel("Question"):
            with box("line").style("flex-wrap: nowrap"):
                self._input = ui.input(
                    placeholder="Ask about the picture", on_change=self._complete, autocomplete=[]
                )
                self._input.props('aria-label="question"').style("flex: 1")
                self._input.on("keydown.enter", ask)
                ui.button("Ask", on_click=ask).props("unelevated")
            self._problem = ui.label().classes("alarm").props('role="alert"')
            self._answers = box("answers").props('aria-live="polite"')
            self._suggestions = box("column").style("gap: 6px")
        self._explanation = ExplanationPanel(session)
        session.subject_changed.subscribe(self._on_subject)
        self._suggest()

    # Questions

    def _suggest(self) -> None:
        """Suggest the generator's questions about the subject, with their answers."""

        def suits(question: str) -> bool:
            return all(network.knows(question) for network in self._networks)

        self._suggested = self._session.subject.questions(
            self._seed, _QUESTIONS, suits, referring=self._draws
        )
        self._suggestions.clear()
        if not self._suggested:
            return
        with self._suggestions:
            with box("line"):
                title = "Expressions" if self._draws else "Questions"
                truths = "how many objects they mean" if self._draws else "their true answers"
                note(f"{title} about this scene, with {truths}")
                ui.button("Others", on_click=self._suggest_others).props("flat dense")
            with box("questions"):
                for question in self._suggested:
                    text = question.question
                    button = ui.button(on_click=partial(self.ask_this, text))
                    with button.props("flat dense align=left"):
                        ui.label(text)
                        meant = "" if question.objects is None else str(len(question.objects))
                        note(question.answer or meant)

    def _suggest_others(self) -> None:
        self._seed += 1
        self._suggest()

    def _complete(self) -> None:
        """Offer completions of the question, and of its last word."""
        text = self._input.value or ""
        head, _, word = text.rpartition(" ")
        questions = [suggested.question for suggested in self._suggested]
        offers = [q for q in questions if q.lower().startswith(text.lower())]
        if word:
            words = sorted(self._networks[0].vqa.vocabulary.words(), key=lambda w: (len(w), w))
            longer = [w for w in words if w.lower().startswith(word.lower()) and w != word]
            offers += [f"{head} {w}".lstrip() for w in longer]
        self._input.set_autocomplete(offers[:20] if text else [])

    # Answers

    async def ask_first(self) -> None:
        """Ask the first of the generator's questions, so that a new visitor sees an answer."""
        if self._suggested:
            await self.ask_this(self._suggested[0].question)

    def prepare(self, question: str) -> None:
        """Put a question into the field, to ask it about the next subject."""
        self._input.value = question

    async def ask_this(self, question: str) -> None:
        """Put a question into the field, and ask it."""
        self.prepare(question)
        await report_errors(self.ask)()

    async def ask(self) -> None:
        """Ask the question in the field. Only the answer to the newest question is shown."""
        question = (self._input.value or "").strip()
        self._request += 1
        request, session = self._request, self._session
        self._problem.text = ""
        if not question:
            self._clear("Type a question, or choose one below.")
            return
        try:
            with session.busy("computing the answer"):
                looks, warnings, truth = await asyncio.to_thread(
                    self._look, session.subject, question, session.change
                )
        except UserError as error:
            if request == self._request:
                self._clear(str(error))
            return
        if request == self._request:
            session.set_question(question)
            self._answers.clear()
            with self._answers:
                for name, look, warning in zip(self._names(), looks, warnings, strict=True):
                    _show_answer(name, look, warning, truth)
            self._explanation.show(question, looks)

    def _look(
        self, subject: Subject, question: str, change: FilmSettings | None
    ) -> tuple[list[Look], list[str | None], str | None]:
        looks, warnings = [], []
        for network in self._networks:
            features = network.features(subject.picture)
            looks.append(network.look(features, question, change))
            warnings.append(network.vqa.warning_about(features))
        return looks, warnings, subject.true_answer(question)

    def _names(self) -> list[str]:
        """The networks' names; empty if there is only one."""
        return [n.name if len(self._networks) > 1 else "" for n in self._networks]

    def _clear(self, problem: str) -> None:
        """Remove what belongs to another question or subject, and show a problem."""
        self._problem.text = problem
        self._answers.clear()
        self._explanation.clear()
        self._session.set_question("")

    async def _on_subject(self, settled: bool) -> None:
        if not settled:
            return
        self._suggest()
        if self._input.value:
            await report_errors(self.ask)()
        else:
            await self.ask_first()


def _show_answer(name: str, look: Look, warning: str | None, truth: str | None) -> None:
    answer, unchanged = look.answer, look.unchanged
    with box("answer"):
        if name:
            note(name)
        with box("line"):
            ui.label(answer.text).classes("given").mark("answer")
            if truth is not None:
                is_right = answer.text == truth
                text = "right" if is_right else f"wrong: it is {truth}"
                ui.label(text).classes(f"verdict {'good' if is_right else 'bad'}")
        if unchanged is not None:
            share = unchanged.probabilities.get(unchanged.text)
            text = unchanged.text + ("" if share is None else f" ({100 * share:.1f}%)")
            note(f"With other γ and β; with the original ones: {text}.")
        shares = list(answer.probabilities.items())[:_ANSWERS]
        ui.html(piece("bars", shares=shares), sanitize=False)
        if warning is not None:
            ui.label(f"The picture {warning}.").classes("alarm")
