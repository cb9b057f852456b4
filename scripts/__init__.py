"""One program per file. A wheel packs them as ``filmvqa.scripts``; ``filmvqa <name>`` runs one."""
