"""Modules of the user's own, which ``imports=[...]`` names: what they register can be chosen."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

from filmvqa.settings.typed import Name, checked
from filmvqa.system.errors import UserError, one_line


def import_modules(names: Any) -> None:
    """Import modules that are installed or stand in the current folder: the key ``imports``.

    Raises
    ------
    UserError
        If it is no list of names, and for a module that is not there, or raises an error itself.
    """
    for name in checked(names, list[Name], "imports"):
        if (folder := str(Path.cwd())) not in sys.path:
            sys.path.append(folder)  # last: a file there hides no other module
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            remedy = "; it must be installed, or stand in the current folder"
            is_named = error.name is not None and f"{name}.".startswith(f"{error.name}.")
            raise UserError(
                f"imports=[{name}]: {one_line(error)}{remedy if is_named else ''}"
            ) from error
        except Exception as error:
            raise UserError(
                f"imports=[{name}]: {type(error).__name__}: {one_line(error)}; correct it there"
            ) from error
