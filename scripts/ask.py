"""Ask a trained network about a picture: once, at a prompt, or for lines on standard input."""

from __future__ import annotations

import sys

from filmvqa.cli.command import command
from filmvqa.cli.settings import AskSettings


@command("ask", AskSettings)
def main(settings: AskSettings) -> None:
    from filmvqa.cli.conversation import Conversation, answer_lines
    from filmvqa.cli.prompt import run_prompt
    from filmvqa.vqa import load

    vqa = load(
        settings.checkpoint,
        device=settings.device,
        precision=settings.precision,
        backbone_weights=settings.weights,
        # A single question takes less time than the acceleration.
        accelerate=settings.accelerate if settings.question is None else False,
    )
    conversation = Conversation(vqa, settings.top, allow_unknown=settings.allow_unknown)
    if settings.image is not None:
        conversation.choose_image(settings.image)
    if settings.question is not None:
        print(conversation.reply(settings.question))
    elif sys.stdin.isatty():
        run_prompt(conversation)
    else:
        answer_lines(conversation, sys.stdin, sys.stdout)


if __name__ == "__main__":
    main()
