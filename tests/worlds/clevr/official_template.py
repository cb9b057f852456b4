"""A template file as CLEVR's official generator has them, with fields that filmvqa ignores."""

from __future__ import annotations

OFFICIAL_TEMPLATES = [
    {
        "text": ["[There is a] <Z> <C> <M> <S>; how many <Z2> <C2> <M2> <S2>s are <R> it?"],
        "query": "a field that filmvqa ignores",
        "nodes": [
            {"inputs": [], "type": "scene"},
            {"inputs": [0], "side_inputs": ["<Z>", "<C>", "<M>", "<S>"], "type": "filter_unique"},
            {
                "inputs": [1],
                "side_inputs": ["<R>", "<Z2>", "<C2>", "<M2>", "<S2>"],
                "type": "relate_filter_count",
            },
        ],
        "params": [
            {"type": type_name, "name": f"<{letter}{i}>"}
            for i in ("", "2")
            for type_name, letter in (
                ("Size", "Z"), ("Color", "C"), ("Material", "M"), ("Shape", "S"),
            )
        ] + [{"type": "Relation", "name": "<R>"}],
        "constraints": [{"params": ["<Z2>"], "type": "NULL"}],
    }
]  # fmt: skip
