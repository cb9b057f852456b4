"""WAV files of one channel and 16 bits."""

from __future__ import annotations

import io
import wave
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from filmvqa.system.errors import UserError, one_line
from filmvqa.system.files import read_bytes, write_file

#: Longer recordings are refused: a minute at 48 kHz.
MAX_SAMPLES = 60 * 48_000
REMEDY = "delete it and run generate_sound.py again"


def write_wav(path: Path, samples: NDArray[np.int16], sample_rate: int) -> None:
    """Write samples (T,)."""
    content = io.BytesIO()
    with wave.open(content, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(sample_rate)
        file.writeframes(samples.astype("<i2").tobytes())
    write_file(path, content.getbuffer())


def read_wav(path: Path) -> tuple[NDArray[np.int16], int]:
    """Samples (T,) and the sample rate.

    Raises
    ------
    UserError
        If the file is no WAV file of one channel and 16 bits, is truncated, or too long.
    """
    content = read_bytes(path, REMEDY)
    try:
        with wave.open(io.BytesIO(content), "rb") as file:
            channels, width, sample_rate, count = file.getparams()[:4]
            if (channels, width) != (1, 2):
                raise UserError(
                    f"{path}: has {channels} channels of {8 * width} bits; convert it to one of 16"
                )
            if not 0 < count <= MAX_SAMPLES:
                raise UserError(
                    f"{path}: has {count:,} samples, of at most {MAX_SAMPLES:,}; cut it"
                )
            samples = file.readframes(count)
    except (wave.Error, EOFError, RuntimeError, ValueError) as error:
        reason = one_line(error) or "it ends too soon"
        raise UserError(f"{path}: broken WAV ({reason}); {REMEDY}") from None
    if len(samples) != 2 * count:
        raise UserError(f"{path}: truncated WAV; {REMEDY}")
    return np.frombuffer(samples, "<i2").astype(np.int16), sample_rate
