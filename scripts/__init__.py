"""One program per file, which a wheel packs as ``filmvqa.scripts``; ``filmvqa <name>`` starts it."""
