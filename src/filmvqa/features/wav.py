"""WAV files of one channel: write 16 bits, read all types that scipy supports."""

from __future__ import annotations

import io
import warnings
import wave
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from filmvqa.system.errors import UserError, one_line
from filmvqa.system.files import read_bytes, write_file

#: The longest recording: a minute at 48 kHz.
MAX_SAMPLES = 60 * 48_000
#: The largest floating-point sample: full scale is 1, and a larger one has another scale.
_LOUDEST = 16.0
#: Sizes from here on mean "unknown": 0xFFFFFFFF, or the value of sox just below 2**31.
_UNKNOWN = 2**31 - 2**16


def write_wav(path: Path, samples: NDArray[np.int16], sample_rate: int) -> None:
    """Write samples (T,)."""
    content = io.BytesIO()
    with wave.open(content, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(sample_rate)
        file.writeframes(samples.astype("<i2").tobytes())
    write_file(path, content.getbuffer())


def read_wav(path: Path) -> tuple[NDArray[Any], int]:
    """Read samples (T,), integers or floating point as stored, and the sample rate.

    Raises
    ------
    UserError
        If scipy cannot read the file, it has several channels, or it is truncated or too long.
    """
    from scipy.io import wavfile  # slow to import, and not needed for pictures

    content = read_bytes(path, "check the path")
    try:
        with warnings.catch_warnings(action="ignore"):
            warnings.filterwarnings("error", "Reached EOF")
            sample_rate, samples = wavfile.read(io.BytesIO(_with_true_sizes(content)))
    except Exception as error:  # scipy raises errors of many types for a broken header
        reason = one_line(error) or "it ends too soon"
        raise UserError(
            f"{path}: cannot be read as WAV ({reason}); convert it to 16-bit WAV (PCM), or replace "
            "it by an intact file"
        ) from None
    if samples.ndim != 1:
        raise UserError(f"{path}: has {samples.shape[1]} channels; convert it to one")
    if not 0 < len(samples) <= MAX_SAMPLES:
        raise UserError(
            f"{path}: has {len(samples):,} samples, not 1 to {MAX_SAMPLES:,}; shorten or replace it"
        )
    if samples.dtype.kind == "f" and not abs(samples).max() <= _LOUDEST:
        raise UserError(
            f"{path}: its samples reach {abs(samples).max():g}, where full scale is 1; scale them"
        )
    return samples, sample_rate


def in_full_scale(samples: NDArray[Any]) -> NDArray[np.float32]:
    """Convert samples (T,) of any type to floating point, with full scale at 1."""
    if samples.dtype.kind == "f":
        return samples.astype(np.float32)
    if samples.dtype.kind == "u":  # WAV stores 8-bit samples unsigned
        samples = (samples.astype(np.int16) - 128) * 256
    return samples.astype(np.float32) / np.float32(2.0 ** (8 * samples.dtype.itemsize - 1))


def _with_true_sizes(content: bytes) -> bytes:
    """Correct the sizes in a header, and cut the file after its samples.

    A file written to a pipe has 0 or a huge number as its size; its samples extend to the end.

    Raises
    ------
    ValueError
        If the file is shorter than its header says.
    """
    if content[:4] != b"RIFF":  # RF64 stores sizes elsewhere, and RIFX is not written to pipes
        return content
    at, block = 12, 1
    while (name := content[at : at + 4]) not in (b"data", b""):
        size = int.from_bytes(content[at + 4 : at + 8], "little")
        if name == b"fmt ":
            block = max(1, int.from_bytes(content[at + 20 : at + 22], "little"))
        at += 8 + size + size % 2
    size, there = int.from_bytes(content[at + 4 : at + 8], "little"), len(content) - at - 8
    if size == 0 or size >= _UNKNOWN:
        size = there - there % block
    if size > there:
        raise ValueError(f"truncated: {there:,} of {size:,} bytes")
    end = at + 8 + size
    return b"".join(
        [b"RIFF", (end - 8).to_bytes(4, "little"), content[8 : at + 4], size.to_bytes(4, "little"),
         content[at + 8 : end]]
    )  # fmt: skip
