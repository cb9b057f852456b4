"""filmvqa: visual question answering on CLEVR with feature-wise linear modulation.

``load`` opens a checkpoint, which then answers questions about pictures::

    vqa = filmvqa.load("outputs/demo/film/best.pt")
    vqa.ask("picture.png", "What color is the large cube?").text
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from filmvqa.vqa import load

__version__ = "1.0.0"
__all__ = ["__version__", "load"]


def __getattr__(name: str) -> Any:
    """Import ``load``, and torch with it, on first use."""
    if name == "load":
        from filmvqa.vqa import load

        return load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
