"""Results of the FiLM paper (Perez et al., AAAI 2018) on CLEVR v1.0, in percent."""

from __future__ import annotations

from filmvqa.worlds.engine.programs import QUESTION_TYPES

#: Test accuracy by model, in the order of ``COLUMNS`` (Table 1; for MAC, Hudson and Manning 2018,
#: Table 1).
TEST_ACCURACY: dict[str, tuple[float, ...]] = {
    "human": (92.6, 86.7, 96.6, 86.5, 95.0, 96.0),
    "qtype": (41.8, 34.6, 50.2, 51.0, 36.0, 51.3),
    "lstm": (46.8, 41.7, 61.1, 69.8, 36.8, 51.8),
    "cnn_lstm": (52.3, 43.7, 65.2, 67.1, 49.3, 53.0),
    "cnn_lstm_sa": (76.6, 64.4, 82.7, 77.4, 82.6, 75.4),
    "film": (97.7, 94.3, 99.1, 96.8, 99.1, 99.1),
    "film_pixels": (97.6, 94.3, 99.3, 93.4, 99.3, 99.3),
    "mac": (98.9, 97.1, 99.5, 99.1, 99.5, 99.5),
}

#: Columns of ``TEST_ACCURACY``: overall, count, exist, compare integer, query attribute, compare
#: attribute.
COLUMNS = ("overall", *QUESTION_TYPES)

#: Validation accuracy of the ablations (Tables 2 and 3) by the names in configs/_ablations.yaml.
#: ``none`` is the full model: the mean of five runs (± 0.4; the best run had 97.84).
ABLATIONS: dict[str, float] = {
    "none": 97.4,
    "beta_zero": 96.9, "gamma_one": 95.9, "gamma_sigmoid": 95.9, "gamma_tanh": 96.3,
    "gamma_exp": 96.3,
    "after_residual": 96.6, "after_relu2": 97.7, "after_conv2": 97.1, "before_conv1": 95.0,
    "no_film_4": 96.8, "no_film_3_4": 96.5, "no_film_2_4": 97.3, "no_film_1_4": 21.4,
    "conv1x1_no_coordinates": 95.3, "no_residual": 94.0, "no_batch_norm": 93.7, "pixels": 97.6,
    "blocks_1": 93.5, "blocks_2": 97.1, "blocks_3": 96.7, "blocks_5": 97.4, "blocks_6": 97.7,
    "blocks_7": 97.4, "blocks_8": 97.6, "blocks_12": 96.9,
}  # fmt: skip

#: Accuracy of MAC by the fraction of CLEVR's training set (Hudson and Manning 2018, on data
#: efficiency).
MAC_BY_FRACTION: dict[float, float] = {0.01: 46.0, 0.1: 86.0, 0.25: 95.4, 0.5: 97.9, 1.0: 98.9}
