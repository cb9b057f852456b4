"""Generate questions about a file's scenes."""

from __future__ import annotations

from filmvqa.cli.command import command
from filmvqa.system.locks import file_lock
from filmvqa.worlds.engine.ask_scenes import AskScenesSettings, ask_scenes


@command("generate_questions", AskScenesSettings)
def main(settings: AskScenesSettings) -> None:
    from filmvqa.cli.generating import relate_of

    with file_lock(settings.output):
        count = ask_scenes(settings, relate_of(settings.world))
    print(f"{settings.output}: {count:,} questions")


if __name__ == "__main__":
    main()
