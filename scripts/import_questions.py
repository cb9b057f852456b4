"""Convert your own questions and pictures, from CSV, JSON or JSON lines, to CLEVR's layout."""

from __future__ import annotations

from filmvqa.cli.command import command
from filmvqa.questions.settings import ImportQuestionsSettings


@command("import_questions", ImportQuestionsSettings)
def main(settings: ImportQuestionsSettings) -> None:
    from filmvqa.questions.import_questions import import_questions

    for split in import_questions(settings):
        print(f"{settings.data.layout.question_json(split.split)}: {split.describe()}")


if __name__ == "__main__":
    main()
