"""One program per file; a wheel packs them as ``filmvqa.scripts``, and ``filmvqa <name>`` runs one."""
