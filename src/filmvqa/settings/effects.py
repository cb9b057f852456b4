"""What a changed value of a key means for a resumed run, as an annotation of the key's field."""

from __future__ import annotations

from enum import Enum


class Effect(Enum):
    """What a changed value of a key changes.

    ``Annotated[<type>, Effect.<name>]`` applies to a field and to all keys below it. For a group
    without an effect, the fields of the group decide; another field without one has ``RESULT``.
    """

    #: Changes nothing that is computed: the run is resumed.
    NONE = "none"
    #: Changes results only by rounding: the run is resumed with a warning.
    ROUNDING = "rounding"
    #: Names the data: the run is resumed if the opened data have the recorded hashes, else refused.
    DATA = "data"
    #: Changes the end of the run: it is resumed unless the steps so far depend on the length.
    LENGTH = "length"
    #: Changes what is computed or recorded: the run is refused.
    RESULT = "result"
    #: Selects the run, or controls the program only: the key is not recorded.
    UNRECORDED = "unrecorded"
