from __future__ import annotations

import io
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
from filmvqa.features.wav import read_wav, write_wav
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


def test_a_recording_comes_back_and_is_read_elsewhere(tmp_path: Path) -> None:
    write_wav(tmp_path / "x.wav", SAMPLES, 22_050)
    samples, rate = read_wav(tmp_path / "x.wav")
    assert rate == 22_050 and (samples == SAMPLES).all()
    rate, samples = wavfile.read(tmp_path / "x.wav")
    assert rate == 22_050 and samples.dtype == np.int16 and (samples == SAMPLES).all()


BROKEN: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty": (lambda: b"", "broken WAV"),
    "text": (lambda: b"not a recording at all" * 9, "broken WAV"),
    "cut": (lambda: encoded(SAMPLES, 22_050)[:900], "truncated WAV"),
    "header alone": (lambda: encoded(SAMPLES, 22_050)[:30], "broken WAV"),
    "stereo": (lambda: encoded(SAMPLES, 22_050, channels=2), "2 channels of 16 bits"),
    "eight bits": (lambda: encoded(SAMPLES, 22_050, width=1), "1 channels of 8 bits"),
    "no samples": (lambda: encoded(SAMPLES[:0], 22_050), "has 0 samples"),
    "too long": (lambda: encoded(np.zeros(2_900_000, np.int16), 22_050), "2,900,000 samples"),
    "another rate": (lambda: encoded(SAMPLES, 16_000), "16000 samples a second, not 22050"),
    "another length": (lambda: encoded(SAMPLES[:5000], 22_050), "has 9 frames of 551"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_broken_recordings_are_refused_by_name(tmp_path: Path, name: str) -> None:
    make, message = BROKEN[name]
    path = tmp_path / "SOUND_val_000003.wav"
    path.write_bytes(make())
    with pytest.raises(UserError, match=message) as caught:
        load_spectrogram(path, (64, 16), SETTINGS)
    assert str(caught.value).startswith(f"{path}: ") and len(str(caught.value).splitlines()) == 1
    assert path.read_bytes() == make()


@given(st.data())
@examples(60)
def test_harmed_recordings_are_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    content = bytearray(encoded(SAMPLES[:1102], 22_050))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, 60))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("harmed") / "x.wav"
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    try:
        found = load_spectrogram(path, (64, 2), SETTINGS)
    except UserError as error:
        assert str(path) in str(error)
    else:
        assert found.shape == (1, 64, 2) and np.isfinite(found).all()


def test_recordings_of_a_split_have_one_length_and_rate(tmp_path: Path) -> None:
    folder = tmp_path / "val"
    folder.mkdir()
    (folder / "SOUND_val_000000.wav").write_bytes(encoded(SAMPLES, 22_050))
    (folder / "SOUND_val_000001.wav").write_bytes(encoded(SAMPLES, 16_000))
    with pytest.raises(UserError, match=r"000001.wav: has 8816 samples at 16000 Hz"):
        Extraction(folder, tmp_path / "x.h5", "val", Spectrogram(SETTINGS), (64, 16))


def test_other_settings_are_other_features(tmp_path: Path) -> None:
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


def test_the_front_end_is_that_of_the_file() -> None:
    settings = SpectrogramSettings(44_100, 4096, 1000, mel=False)
    spec = Spectrogram(settings).spec()
    again = backbone_from_spec(spec)
    assert isinstance(again, Spectrogram)
    assert again.settings == settings
    with pytest.raises(UserError, match="broken"):
        backbone_from_spec({**spec, "front_end": "{"})
