from __future__ import annotations

import io
import re
import struct
import wave
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.io import wavfile

from filmvqa.backbones.build import backbone_from_spec
from filmvqa.backbones.extraction import Extraction
from filmvqa.backbones.spectrogram_settings import SpectrogramSettings
from filmvqa.backbones.spectrograms import Spectrogram, load_spectrogram
from filmvqa.features.wav import in_full_scale, read_wav, write_wav
from filmvqa.system.errors import UserError
from tests.conftest import examples

SETTINGS = SpectrogramSettings(22_050)
SAMPLES = (1000 * np.sin(np.arange(8816) / 9)).astype(np.int16)  # 16 frames of 551


def encoded(samples: np.ndarray, rate: int, channels: int = 1, width: int = 2) -> bytes:
    content = io.BytesIO()
    with wave.open(content, "wb") as file:
        file.setparams((channels, width, rate, 0, "NONE", ""))
        file.writeframes(samples.tobytes())
    return content.getvalue()


def test_written_recordings_are_read_by_us_and_by_scipy(tmp_path: Path) -> None:
    write_wav(tmp_path / "x.wav", SAMPLES, 22_050)
    samples, rate = read_wav(tmp_path / "x.wav")
    assert rate == 22_050 and (samples == SAMPLES).all()
    rate, samples = wavfile.read(tmp_path / "x.wav")
    assert rate == 22_050 and samples.dtype == np.int16 and (samples == SAMPLES).all()


def wav(
    data: bytes, kind: int = 1, bits: int = 16, *, extensible: bool = False, before: bytes = b"",
    after: bytes = b"", sizes: tuple[int, int] | None = None,
) -> bytes:  # fmt: skip
    """A file of one channel, with other chunks before and after the data.

    ``kind`` is 1 for integers and 3 for floating point; ``sizes`` replace the true sizes in the
    headers.
    """
    head = struct.pack(
        "<HHIIHH", 0xFFFE if extensible else kind, 1, 22_050, 22_050 * bits // 8, bits // 8, bits
    )
    if extensible:
        rest = bytes.fromhex("000000001000800000aa00389b71")
        head += struct.pack("<HHIH", 22, bits, 4, kind) + rest
    body = b"WAVEfmt " + struct.pack("<I", len(head)) + head + before
    body += b"data" + struct.pack("<I", sizes[1] if sizes else len(data)) + data + after
    return b"RIFF" + struct.pack("<I", sizes[0] if sizes else len(body)) + body


def rf64() -> bytes:
    data = SAMPLES.tobytes()
    head = struct.pack("<HHIIHH", 1, 1, 22_050, 44_100, 2, 16)
    body = b"WAVEds64" + struct.pack("<IQQQI", 28, 80 - 8 + len(data), len(data), len(SAMPLES), 0)
    body += b"fmt " + struct.pack("<I", 16) + head + b"data" + b"\xff" * 4 + data
    return b"RF64" + b"\xff" * 4 + body


LIST = b"LIST" + struct.pack("<I", 5) + b"INFO \0"
WHOLE: dict[str, Callable[[], bytes]] = {
    "extensible": lambda: wav(SAMPLES.tobytes(), extensible=True),
    "float": lambda: wav((SAMPLES / np.float32(32768)).astype("<f4").tobytes(), 3, 32),
    "double": lambda: wav((SAMPLES / 32768).tobytes(), 3, 64),
    "float, extensible": lambda: wav(
        (SAMPLES / np.float32(32768)).astype("<f4").tobytes(), 3, 32, extensible=True
    ),
    "24 bits": lambda: wav(
        b"".join((int(s) * 256).to_bytes(3, "little", signed=True) for s in SAMPLES), bits=24
    ),
    "32 bits": lambda: wav((SAMPLES.astype("<i4") * 65536).tobytes(), bits=32),
    "RF64": rf64,
    "other chunks": lambda: wav(SAMPLES.tobytes(), before=LIST, after=LIST + b"ID3 junk"),
    "pipe of ffmpeg": lambda: wav(SAMPLES.tobytes(), before=LIST, sizes=(0xFFFFFFFF, 0xFFFFFFFF)),
    "pipe of sox": lambda: wav(SAMPLES.tobytes(), sizes=(0x7FFFF024, 0x7FFFF000)),
    "pipe with zeros": lambda: wav(SAMPLES.tobytes(), sizes=(0, 0)),
    "pipe, within a sample": lambda: wav(SAMPLES.tobytes() + b"x", sizes=(0, 0)),
}  # fmt: skip


@pytest.mark.parametrize("name", WHOLE)
def test_other_formats_are_read_as_the_plain_one(tmp_path: Path, name: str) -> None:
    plain, other = tmp_path / "plain.wav", tmp_path / "other.wav"
    write_wav(plain, SAMPLES, 22_050)
    other.write_bytes(WHOLE[name]())
    spectrograms = [load_spectrogram(path, (64, 16), SETTINGS) for path in (plain, other)]
    assert np.abs(spectrograms[0] - spectrograms[1]).max() < 1e-5


def test_recordings_of_eight_bits(tmp_path: Path) -> None:
    (tmp_path / "x.wav").write_bytes(wav(bytes([0, 128, 255, 192]), bits=8))
    samples, _ = read_wav(tmp_path / "x.wav")
    assert in_full_scale(samples).tolist() == [-1, 0, 127 / 128, 0.5]


BROKEN: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty": (lambda: b"", "cannot be read as WAV"),
    "text": (lambda: b"not a recording at all" * 9, "cannot be read as WAV"),
    "cut": (lambda: encoded(SAMPLES, 22_050)[:900], "truncated: 856 of 17,632 bytes"),
    "header alone": (lambda: encoded(SAMPLES, 22_050)[:30], "cannot be read as WAV"),
    "cut RF64": (lambda: rf64()[:-40], "cannot be read as WAV"),
    "mu-law": (lambda: wav(bytes(8816), 7, 8), "cannot be read as WAV .*MULAW.*convert it"),
    "not finite": (lambda: wav(np.full(8816, np.nan, "<f4").tobytes(), 3, 32), "reach nan"),
    "other scale": (lambda: wav(SAMPLES.astype("<f4").tobytes(), 3, 32), "reach 999"),
    "stereo": (lambda: encoded(SAMPLES, 22_050, channels=2), "2 channels; convert it to one"),
    "no samples": (lambda: encoded(SAMPLES[:0], 22_050), "has 0 samples"),
    "too long": (lambda: encoded(np.zeros(2_900_000, np.int16), 22_050), "2,900,000 samples"),
    "another rate": (lambda: encoded(SAMPLES, 16_000), "16000 samples a second, not 22050"),
    "another length": (lambda: encoded(SAMPLES[:5000], 22_050), "has 9 frames of 551"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_broken_recordings_are_refused(tmp_path: Path, name: str) -> None:
    make, message = BROKEN[name]
    path = tmp_path / "SOUND_val_000003.wav"
    path.write_bytes(make())
    with pytest.raises(UserError, match=message) as caught:
        load_spectrogram(path, (64, 16), SETTINGS)
    assert str(caught.value).startswith(f"{path}: ") and len(str(caught.value).splitlines()) == 1
    assert path.read_bytes() == make()
    assert not re.search(r"delet|remov|again", str(caught.value).removeprefix(f"{path}"))


@given(st.data())
@examples(60)
def test_damaged_recordings_are_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    content = bytearray(encoded(SAMPLES[:1102], 22_050))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, 60))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("damaged") / "x.wav"
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    try:
        spectrogram = load_spectrogram(path, (64, 2), SETTINGS)
    except UserError as error:
        assert str(path) in str(error)
    else:
        assert spectrogram.shape == (1, 64, 2) and np.isfinite(spectrogram).all()


def test_recordings_of_a_split_have_one_length_and_rate(tmp_path: Path) -> None:
    folder = tmp_path / "val"
    folder.mkdir()
    (folder / "SOUND_val_000000.wav").write_bytes(encoded(SAMPLES, 22_050))
    (folder / "SOUND_val_000001.wav").write_bytes(encoded(SAMPLES, 16_000))
    with pytest.raises(UserError, match=r"000001.wav: has 8816 samples at 16000 Hz"):
        Extraction(folder, tmp_path / "x.h5", "val", Spectrogram(SETTINGS), (64, 16))


def test_features_of_other_settings_are_kept(tmp_path: Path) -> None:
    folder = tmp_path / "val"
    folder.mkdir()
    (folder / "SOUND_val_000000.wav").write_bytes(encoded(SAMPLES, 22_050))
    target = tmp_path / "x.h5"
    Extraction(folder, target, "val", Spectrogram(SETTINGS), (64, 16)).run()
    content = target.read_bytes()
    other = Spectrogram(SpectrogramSettings(22_050, mel=False))
    with pytest.raises(UserError, match="features of another front end"):
        Extraction(folder, target, "val", other, (64, 16))
    assert target.read_bytes() == content


def test_the_front_end_is_rebuilt_from_its_record() -> None:
    settings = SpectrogramSettings(44_100, 4096, 1000, mel=False)
    spec = Spectrogram(settings).spec()
    again = backbone_from_spec(spec)
    assert isinstance(again, Spectrogram)
    assert again.settings == settings
    with pytest.raises(UserError, match="broken"):
        backbone_from_spec({**spec, "front_end": "{"})
