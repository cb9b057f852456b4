from __future__ import annotations

import csv
import io

from filmvqa.system.tables import csv_table


def test_csv() -> None:
    text = csv_table(["name", "share"], [["a, b", 1 / 3], [None, 2], ["c", "x"]], ".3g")
    assert text == 'name,share\n"a, b",0.333\n,2\nc,x\n'
    whole = csv_table(["x"], [[0.1 + 0.2]])
    assert float(list(csv.reader(io.StringIO(whole)))[1][0]) == 0.1 + 0.2
