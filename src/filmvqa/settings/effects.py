"""What a changed value of a key means for a run that goes on: in the annotation of its field."""

from __future__ import annotations

from enum import Enum


class Effect(Enum):
    """What a changed value of a key changes.

    A field names it as ``Annotated[<type>, Effect.<name>]``, for all keys below it too; a field
    that names none, of a group, leaves it to the group's fields, and else changes the result.
    """

    #: Nothing that is computed: the run goes on.
    NONE = "none"
    #: Results by rounding only: the run goes on, with a warning.
    ROUNDING = "rounding"
    #: Nothing if the hashes of vocabulary, questions and features are those recorded, else all:
    #: these are compared once the data are open.
    DATA = "data"
    #: Where the run ends: it goes on, unless what was computed depends on it.
    LENGTH = "length"
    #: What is computed or recorded: refused.
    RESULT = "result"
    #: The key says which run it is, or how the program goes about it: it is not recorded.
    UNRECORDED = "unrecorded"
