"""One program a file. A wheel packs them as ``filmvqa.scripts``: ``filmvqa <name>`` starts one."""
