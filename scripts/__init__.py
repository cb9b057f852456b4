"""One program a file; a wheel packs them as ``filmvqa.scripts`` and starts them as ``filmvqa-<name>``."""
