"""The prompt, with editing, history and completion of lines."""

from __future__ import annotations

from collections.abc import Callable

from filmvqa.cli.conversation import Conversation
from filmvqa.cli.messages import USER_ERRORS, explain
from filmvqa.system.errors import Interrupted
from filmvqa.system.files import names_in

_COMMANDS = ("/image ", "/film", "/words", "/help", "/quit")


def complete_text(conversation: Conversation, line: str, text: str) -> list[str]:
    """The completions of ``text`` at the end of ``line``: paths after ``/image``, commands after
    ``/``, else words of the vocabulary."""
    if line.lstrip().startswith("/image "):
        folder = text[: text.rfind("/") + 1]
        return [path for name in names_in(folder) if (path := folder + name).startswith(text)]
    if line.lstrip().startswith("/"):
        return [command for command in _COMMANDS if command.startswith(text)]
    words = sorted(conversation.vqa.vocabulary.words())
    return [word for word in words if word.lower().startswith(text.lower())]


def run_prompt(conversation: Conversation, read: Callable[[str], str] = input) -> None:
    """Read and answer lines until ``/quit`` or the end of the input. An error is one line and does
    not end the conversation. Ctrl-C discards the line."""
    _complete_with(conversation)
    print("Ask about the picture, or /help.")
    while not conversation.ended:
        try:
            reply = conversation.reply(read(f"{conversation.image or 'no picture'}> "))
        except EOFError:
            print()
            return
        except Interrupted:  # by a signal other than Ctrl-C's
            raise
        except KeyboardInterrupt:
            print()
        except USER_ERRORS as error:
            print(explain(error))
        else:
            if reply:
                print(reply)


def _complete_with(conversation: Conversation) -> None:
    try:
        import readline
    except ImportError:  # as on Windows, where lines are only read
        return

    def complete(text: str, state: int) -> str | None:
        line = readline.get_line_buffer()[: readline.get_endidx()]
        completions = complete_text(conversation, line, text)
        return completions[state] if state < len(completions) else None

    readline.set_completer(complete)
    readline.set_completer_delims(" \t\n?,;")
    readline.parse_and_bind("tab: complete")
