"""The page as visitors use it, without a browser, by NiceGUI's simulated users."""

from __future__ import annotations

import asyncio
import io
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from nicegui import ui
from nicegui.testing.user import User
from nicegui.testing.user_interaction import UserInteraction
from nicegui.testing.user_simulation import user_simulation
from PIL import Image

from filmvqa.evaluation.evaluate import evaluate_checkpoint
from filmvqa.evaluation.settings import EvaluateSettings
from filmvqa.page.app import build_page, open_shared_state, serve
from filmvqa.page.networks import Network
from filmvqa.page.session import SharedState
from filmvqa.page.settings import PageSettings
from filmvqa.page.subjects import PictureSet, Subject, draw_scene
from filmvqa.system.errors import UserError
from filmvqa.system.layout import DatasetLayout
from filmvqa.worlds.clevr.editing import EditedScene
from tests.training.tiny_runs import train


def visit(shared: SharedState, subject: Subject, story: Callable[[User], Awaitable[None]]) -> None:
    """Have a simulated visitor open the page and follow a story."""

    async def play() -> None:
        async with user_simulation(root=lambda: build_page(shared, subject)) as user:
            await user.open("/")
            await user.should_see(marker="answer", retries=100)
            await story(user)

    asyncio.run(play())


def elements(user: User, kind: type, **options: object) -> list:
    found = user.find(kind=kind, **options).elements
    return sorted(found, key=lambda element: element.id)


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(1200):
        if condition():
            return
        await asyncio.sleep(0.05)
    raise AssertionError("the condition is still false after 60 s")


def given(user: User) -> list[str]:
    """The answers on the page."""
    return [label.text for label in elements(user, ui.label) if "answer" in label._markers]


def labels(user: User) -> str:
    with user:
        return "\n".join(label.text for label in elements(user, ui.label))


def field(user: User) -> ui.input:
    return elements(user, ui.input)[0]


async def ask(user: User, question: str) -> None:
    field(user).set_value(question)
    user.find(kind=ui.button, content="Ask").click()
    await asyncio.sleep(0.1)


def test_a_visitor_sees_an_answer_asks_and_types(network: Network, first: Subject) -> None:
    async def story(user: User) -> None:
        questions = first.questions(0, 10, network.knows)
        assert field(user).value == questions[0].question
        count = str(len(first.scene.objects))
        await ask(user, "How many things are there?")
        await until(lambda: f"it is {count}" in labels(user) or "right" in labels(user))
        answer = network.look(network.features(first.picture), "How many things are there?").answer
        await until(lambda: given(user) == [answer.text])
        assert "γ, block 1\n±" in labels(user)  # compared with the question before
        await ask(user, "How many thinks are there?")
        await until(lambda: "'thinks'" in labels(user))
        assert given(user) == []
        await ask(user, "   ")
        await until(lambda: "Type a question" in labels(user))
        field(user).set_value("How many met")
        await until(lambda: "How many metal" in field(user).props["_autocomplete"])
        field(user).set_value(questions[1].question[:12].lower())
        await until(lambda: questions[1].question in field(user).props["_autocomplete"])

    visit(SharedState([network]), first, story)


def test_a_scene_is_edited(network: Network, first: Subject) -> None:
    async def story(user: User) -> None:
        image = elements(user, ui.interactive_image)[0]
        pictures = {image.props["src"]}
        count = len(first.edited.objects)
        await ask(user, "How many purple things are there?")
        purple = sum(o.color == "purple" for o in first.edited.objects)
        number = next(i for i, o in enumerate(first.edited.objects) if o.color != "purple")
        colors = [s for s in elements(user, ui.select) if "purple" in s.options]
        assert len(colors) == count
        colors[number].set_value("purple")
        # The page asks the question again about the changed scene.
        await until(
            lambda: f"it is {purple + 1}" in labels(user) or given(user) == [str(purple + 1)]
        )
        assert "your scene" in labels(user)
        await until(lambda: image.props["src"] not in pictures)
        pictures.add(image.props["src"])
        user.find(kind=ui.button, content="Add an object").click()
        await until(
            lambda: sum("purple" in s.options for s in elements(user, ui.select)) == count + 1
        )
        assert image.props["src"] not in pictures
        x, y = first.edited.pixels(480, 320)[0]
        await until(lambda: image.props["src"].startswith("data:image/png"))
        pointer = user.find(kind=ui.interactive_image)
        at = {"image_x": x, "image_y": y}
        pointer.trigger("mouse", {"mouse_event_type": "pointerdown", **at})
        at["image_x"] += 45
        pointer.trigger("mouse", {"mouse_event_type": "pointermove", **at})
        # Meanwhile the scene is drawn coarsely.
        await until(lambda: image.props["src"].startswith("data:image/jpeg"))
        pointer.trigger("mouse", {"mouse_event_type": "pointerup", **at})
        await until(lambda: image.props["src"].startswith("data:image/png"))
        handle = f'cx="{x + 45:.1f}" cy="{y:.1f}"'
        await until(lambda: handle in image.content)
        pointer.trigger("keydown", {"key": "1"})
        pointer.trigger("keydown", {"key": "ArrowRight"})
        await until(lambda: f'cx="{x + 53:.1f}"' in image.content)
        pointer.trigger("keydown", {"key": "Delete"})
        await until(lambda: image.content.count("<circle") == count)

    visit(SharedState([network]), first, story)


def test_the_newest_scene_stays(network: Network, first: Subject) -> None:
    """Also after several requests at once, with changes and drags between them."""

    async def story(user: User) -> None:
        image = elements(user, ui.interactive_image)[0]
        seed = next(n for n in elements(user, ui.number) if n.props["label"] == "seed")
        count = next(s for s in elements(user, ui.select) if s.props["label"] == "objects")
        pointer, x_y = user.find(kind=ui.interactive_image), first.edited.pixels(480, 320)[5]
        at = {"image_x": x_y[0], "image_y": x_y[1]}
        pointer.trigger("mouse", {"mouse_event_type": "pointerdown", **at})
        count.set_value(1)
        for number in (30, 31, 32):
            seed.set_value(number)
            user.find(kind=ui.button, content="New scene").click()
            at["image_x"] += 9
            pointer.trigger("mouse", {"mouse_event_type": "pointermove", **at})
            pointer.trigger("keydown", {"key": "ArrowLeft"})
            await asyncio.sleep(0.01)  # long enough to start the drawing, not to finish it
        await until(lambda: "scene of seed 32" in labels(user))
        pointer.trigger("mouse", {"mouse_event_type": "pointermove", **at})
        await asyncio.sleep(1)
        assert "scene of seed 32" in labels(user)
        (place,) = EditedScene.sampled(32, 1).pixels(480, 320)
        assert f'cx="{place[0]:.1f}"' in image.content
        user.find(kind=ui.button, content="New scene").click()  # draws the next seed's scene
        await until(lambda: "scene of seed 33" in labels(user))

    visit(SharedState([network]), first, story)


def test_the_explanation_of_another_question_is_removed(network: Network, first: Subject) -> None:
    async def story(user: User) -> None:
        await ask(user, "How many things are there?")
        await until(lambda: "±" in labels(user))
        await ask(user, "How many things are there?")  # still compared with the previous question
        await asyncio.sleep(0.5)
        await until(lambda: "±" in labels(user) and bool(given(user)))
        await ask(user, "How many thinks are there?")
        await until(lambda: "'thinks'" in labels(user))
        assert "γ, block 1" not in labels(user)
        user.find(kind=ui.button, content="Try all changes").click()
        await until(lambda: any("ask a question" in m for m in user.notify.messages))

    visit(SharedState([network]), first, story)


def test_a_violated_rule_is_shown(network: Network, first: Subject) -> None:
    async def story(user: User) -> None:
        near = first.edited.pixels(480, 320)[1]
        x, y = first.edited.pixels(480, 320)[0]
        drag = [("pointerdown", x, y), ("pointermove", *near), ("pointerup", *near)]
        for kind, at_x, at_y in drag:
            arguments = {"mouse_event_type": kind, "image_x": at_x, "image_y": at_y}
            user.find(kind=ui.interactive_image).trigger("mouse", arguments)
        await until(lambda: "are too close to each other" in labels(user))

    visit(SharedState([network]), first, story)


def test_all_changes_are_tried(network: Network) -> None:
    first = draw_scene(EditedScene.sampled(5, 3), "three objects")

    async def story(user: User) -> None:
        user.find(kind=ui.button, content="Try all changes").click()
        await until(lambda: "changes give another answer" in labels(user))
        tables = [h.content for h in elements(user, ui.html) if "<table>" in h.content]
        assert len(tables) == 1
        assert tables[0].count("<tr>") == len(first.edited.objects) + 2
        await ask(user, "Is there a cube?")  # removes the previous question's table
        await until(lambda: not any("<table>" in h.content for h in elements(user, ui.html)))

    visit(SharedState([network]), first, story)


def test_maps_and_other_gamma_and_beta(network: Network, first: Subject) -> None:
    async def story(user: User) -> None:
        image = elements(user, ui.interactive_image)[0]
        plain = image.props["src"]
        buttons = [b for b in elements(user, ui.button) if "map" in b.classes]
        assert len(buttons) == 12
        UserInteraction(user, {buttons[-1]}, None).click()
        await until(lambda: "Laid over it: gradient of the answer." in labels(user))
        assert image.props["src"] != plain
        scale = next(n for n in elements(user, ui.number) if n.props["label"] == "times")
        scale.set_value(0.0)
        other = next(i for i in elements(user, ui.input) if i.props.get("label"))
        other.set_value("How many thinks are there?")
        user.find(kind=ui.button, content="Ask with these").click()
        await until(lambda: any("'thinks'" in m for m in user.notify.messages))
        assert given(user)  # nothing was changed
        other.set_value("")
        user.find(kind=ui.button, content="Ask with these").click()
        await until(lambda: "With other γ and β; with the original ones: " in labels(user))
        user.find(kind=ui.button, content="Original γ and β").click()
        await until(lambda: "With other γ and β" not in labels(user) and bool(given(user)))
        assert scale.value == 1

    visit(SharedState([network]), first, story)


def test_uploads(network: Network, first: Subject) -> None:
    async def story(user: User) -> None:
        out = io.BytesIO()
        Image.new("RGB", (48, 32), (200, 30, 30)).save(out, format="PNG")
        upload = elements(user, ui.upload)[0]
        messages = user.notify.messages
        for name, content in (("broken.png", b"no picture"), ("red.png", out.getvalue())):
            with user:
                await upload.handle_uploads([ui.upload.SmallFileUpload(name, "image/png", content)])
            await until(lambda: any("broken.png: cannot be read" in m for m in messages))
        await until(lambda: "red.png" in labels(user))
        await until(lambda: "looks unlike what the network was trained on" in labels(user))
        assert not [s for s in elements(user, ui.select) if "purple" in s.options]

    visit(SharedState([network]), first, story)


async def open_errors(user: User) -> ui.table:
    """The table of errors, once it has rows."""
    user.find(kind=ui.tab, content="Errors").click()
    await until(lambda: bool(elements(user, ui.table)) and bool(elements(user, ui.table)[0].rows))
    return elements(user, ui.table)[0]


async def open_row(user: User, table: ui.table, row: dict) -> dict:
    """Open the picture and question of a row of the table, and return the row."""
    user.find(kind=ui.table).trigger("look", row)
    await until(lambda: field(user).value == row["question"])
    await until(lambda: f"val {row['image']}" in labels(user))
    return row


def test_errors_are_filtered_and_opened(tiny_shared: SharedState, first: Subject) -> None:
    async def story(user: User) -> None:
        predictions = tiny_shared.predictions("val")
        table = await open_errors(user)
        wrong = len(predictions.choose({}, only_wrong=True))
        assert len(table.rows) == wrong
        assert f"{wrong:,} of {len(predictions.rows):,} answers are wrong" in labels(user)
        kinds = next(s for s in elements(user, ui.select) if "count" in s.options)
        kinds.set_value("count")
        await until(lambda: {row["type"] for row in table.rows} == {"count"})
        # The features are recomputed, so rounding may change answers of this hardly trained network.
        # Its most frequent answer is the safest.
        safest, _ = Counter(row["given"] for row in table.rows).most_common(1)[0]
        row = await open_row(user, table, next(r for r in table.rows if r["given"] == safest))
        # Two networks answer side by side; the first is the evaluated one.
        await until(lambda: len(given(user)) == 2 and given(user)[0] == row["given"])
        await until(lambda: f"wrong: it is {row['expected']}" in labels(user))

    visit(tiny_shared, first, story)


def test_masks_are_sorted_and_opened(referring_set: Path, tmp_path: Path, first: Subject) -> None:
    """The worst masks come first; masks are not simply right or wrong."""
    train(tmp_path / "run", referring_set, "film_segmentation", max_steps=16)
    evaluate_checkpoint(EvaluateSettings(checkpoint=tmp_path / "run/best.pt", split="val"))
    pictures = PictureSet(DatasetLayout.under(referring_set.parent, h5=referring_set))
    network = Network.load(str(tmp_path / "run/best.pt"), "cpu", None)
    shared = SharedState([network], pictures, tmp_path / "run")
    predictions = shared.predictions("val")
    bad = len(predictions.choose({}, only_wrong=True))
    assert 0 < bad < len(predictions.rows)

    async def story(user: User) -> None:
        table = await open_errors(user)
        assert f"{bad:,} of {len(predictions.rows):,} masks have an IoU below 0.5" in labels(user)
        ious = [row["IoU"] for row in table.rows]
        assert ious == sorted(ious)
        assert float(ious[-1]) < 0.5
        assert "given" not in table.rows[0]
        meant = next(s for s in elements(user, ui.select) if "several" in s.options)
        meant.set_value("several")
        await until(lambda: {row["meant"] for row in table.rows} == {"several"})
        await open_row(user, table, table.rows[-1])

    visit(shared, first, story)


def test_two_visitors_do_not_see_each_others_scenes(network: Network, first: Subject) -> None:
    async def story(user: User) -> None:
        other = User(user.http_client)
        await other.open("/")
        await other.should_see(marker="answer", retries=100)
        user.find(kind=ui.button, content="New scene").click()
        await until(lambda: "scene of seed 2" in labels(user))
        await ask(user, "Is there a cube?")
        await until(lambda: field(user).value == "Is there a cube?")
        assert "scene of seed 1" in labels(other)
        assert "scene of seed 2" not in labels(other)
        assert field(other).value != "Is there a cube?"
        pictures = {elements(u, ui.interactive_image)[0].props["src"] for u in (user, other)}
        assert len(pictures) == 2

    visit(SharedState([network]), first, story)


def test_errors_at_the_start_name_their_keys(tmp_path) -> None:
    with pytest.raises(UserError, match="h5=<folder of question files>"):
        open_shared_state(
            PageSettings(checkpoint="clevr_world", h5=tmp_path / "none", device="cpu")
        )
    settings = PageSettings(checkpoint="clevr_world", host="203.0.113.1", device="cpu", show=False)
    shared = open_shared_state(settings)
    with pytest.raises(UserError, match="choose another with port=<number> or host=<address>"):
        serve(shared, settings)
