from __future__ import annotations

import torch

from filmvqa.system.devices import autocast


def test_auto_precision_follows_the_hardware(monkeypatch) -> None:
    x = torch.ones(4, 4)
    for fast, expected in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr("filmvqa.system.devices.has_fast_bfloat16", lambda _, f=fast: f)
        with autocast(torch.device("cpu"), "auto"):
            assert (x @ x).dtype == expected
        with autocast(torch.device("cpu"), "float32"):
            assert (x @ x).dtype == torch.float32
