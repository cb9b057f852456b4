"""The user's modules, which ``imports=[...]`` names, and which register models and other parts."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

from filmvqa.settings.typed import Name, checked
from filmvqa.system.errors import UserError, one_line


def import_modules(names: Any) -> None:
    """Import the modules of the key ``imports``, which are installed or in the current folder.

    Raises
    ------
    UserError
        If ``names`` is no list of names, or a module is missing or raises an error.
    """
    for name in checked(names, list[Name], "imports"):
        if (folder := str(Path.cwd())) not in sys.path:
            sys.path.append(folder)  # last, so that its files hide no other module
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            remedy = "; install it, or put it into the current folder"
            is_named = error.name is not None and f"{name}.".startswith(f"{error.name}.")
            raise UserError(
                f"imports=[{name}]: {one_line(error)}{remedy if is_named else ''}"
            ) from error
        except Exception as error:
            raise UserError(
                f"imports=[{name}]: {type(error).__name__}: {one_line(error)}; correct it there"
            ) from error
