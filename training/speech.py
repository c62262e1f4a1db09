"""Write the spectrograms of the speaker data set from Debian's Asterisk prompts.

    apt-get download asterisk-core-sounds-{en,es,fr,it,ru}-wav asterisk-prompt-it-menardi-wav
    for deb in *.deb; do dpkg -x "$deb" sounds; done
    python training/speech.py --sounds sounds && python training/record_hashes.py

Five voices, two of them Italian, one of them in two languages. From each recording at most one clip of 1.6 s is taken,
pauses shortened before; white noise on the 8 kHz line, 10 dB below the speech, keeps the task from saturating. Features
are those of the reference implementation (Resemblyzer 0.1.4, audio.py, which calls librosa): a power mel spectrogram.
"""

import argparse
import hashlib
import wave
from pathlib import Path

import numpy as np
from scipy.signal import resample_poly

from quantkit.files import ASSETS

# folder below usr/share/asterisk/sounds: voice
VOICES = {
    "en_US_f_Allison": "allison",
    "es_MX_f_Allison": "allison",
    "fr_CA_f_June": "june",
    "it_IT_m_Carlo": "carlo",
    "it_IT_f_Menardi": "paola",
    "ru_RU_f_IvrvoiceRU": "ivrvoice",
}
LINE_RATE, RATE, WINDOW, HOP, MELS, FRAMES = 8_000, 16_000, 400, 160, 40, 160
EVALUATION, CALIBRATION = 80, 20  # clips of each voice
SNR_DB = 10.0


def read_wav(path: Path) -> np.ndarray:
    """Return a mono 16-bit recording at 8 kHz, in -1..1."""
    with wave.open(str(path)) as file:
        if file.getparams()[:3] != (1, 2, LINE_RATE):
            raise ValueError(f"{path} must be mono with 16 bits at {LINE_RATE} Hz: got {file.getparams()}")
        return np.frombuffer(file.readframes(file.getnframes()), "<i2") / 32768.0


def without_pauses(samples: np.ndarray) -> np.ndarray:
    """Return the 30 ms windows that are within 35 dB of the loudest, with two neighbours on either side."""
    size = LINE_RATE * 30 // 1000
    windows = samples[: len(samples) // size * size].reshape(-1, size)
    if not len(windows):
        return samples[:0]
    level = 10 * np.log10((windows**2).mean(1) + 1e-12)
    voiced = np.convolve(level > level.max() - 35, np.ones(5), "same") > 0
    return windows[voiced].ravel()


def mel_filters() -> np.ndarray:
    """Return triangular filters of equal area [MELS, WINDOW / 2 + 1] (Slaney 1998, Auditory Toolbox)."""
    step = np.log(6.4) / 27  # linear below 1 kHz (3 mels for 200 Hz), logarithmic above
    top = 15 + np.log(RATE / 2 / 1000) / step
    mels = np.linspace(0, top, MELS + 2)
    hertz = np.where(mels < 15, mels * 200 / 3, 1000 * np.exp(step * (mels - 15)))
    bins = np.linspace(0, RATE / 2, WINDOW // 2 + 1)
    rising = (bins - hertz[:-2, None]) / np.diff(hertz)[:-1, None]
    falling = (hertz[2:, None] - bins) / np.diff(hertz)[1:, None]
    return np.maximum(0, np.minimum(rising, falling)) * (2 / (hertz[2:] - hertz[:-2]))[:, None]


def mel_spectrogram(samples: np.ndarray) -> np.ndarray:
    """Return the power mel spectrogram [frames, MELS]; frames are centred, the ends padded with zeros."""
    padded = np.pad(samples, WINDOW // 2)
    frames = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::HOP]
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(WINDOW) / WINDOW)
    return np.abs(np.fft.rfft(frames * hann)) ** 2 @ mel_filters().T


def clip(samples: np.ndarray, generator: np.random.Generator) -> np.ndarray | None:
    """Return the features of 1.6 s out of the middle, with noise, at -30 dBFS; None if there is less speech."""
    speech = without_pauses(samples)
    length = FRAMES * HOP * LINE_RATE // RATE
    if len(speech) < length:
        return None
    speech = speech[(len(speech) - length) // 2 :][:length]
    noise = generator.standard_normal(length)
    noise *= np.sqrt((speech**2).mean() / (noise**2).mean()) * 10 ** (-SNR_DB / 20)
    mixed = speech + noise
    mixed *= 10 ** (-30 / 20) / np.sqrt((mixed**2).mean())
    return encode(mel_spectrogram(resample_poly(mixed, RATE, LINE_RATE))[:FRAMES])


def encode(power: np.ndarray) -> np.ndarray:
    """Return one byte for each value, 0.275 dB apart: code c > 0 is 10^(7 c / 255 - 6.5), code 0 is 0."""
    return np.clip(np.round((np.log10(np.maximum(power, 1e-12)) + 6.5) * 255 / 7), 0, 255).astype(np.uint8)


def recordings(sounds: Path) -> dict[str, list[Path]]:
    """Return the files of each voice, ordered by the hash of their path; no two have the same content."""
    seen, found = set(), {voice: [] for voice in VOICES.values()}
    root = sounds / "usr/share/asterisk/sounds"
    for folder, voice in VOICES.items():
        for path in sorted((root / folder).rglob("*.wav")):
            content = hashlib.sha256(path.read_bytes()).hexdigest()
            if content not in seen and "silence" not in path.parts:
                seen.add(content)
                found[voice].append(path)
    key = {p: hashlib.sha256(p.relative_to(root).as_posix().encode()).digest() for ps in found.values() for p in ps}
    return {voice: sorted(paths, key=key.__getitem__) for voice, paths in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sounds", type=Path, default=Path("sounds"), help="where the packages were unpacked")
    args = parser.parse_args()
    generator = np.random.default_rng(5)
    parts = {"test": [], "calibration": []}
    voices = sorted(set(VOICES.values()))
    for label, voice in enumerate(voices):
        clips = []
        for path in recordings(args.sounds)[voice]:
            features = clip(read_wav(path), generator)
            if features is not None:
                clips.append((features, label, path.relative_to(args.sounds / "usr/share/asterisk/sounds").as_posix()))
        print(f"{voice}: {len(clips)} clips to choose from")
        parts["test"] += clips[:EVALUATION]
        parts["calibration"] += clips[EVALUATION : EVALUATION + CALIBRATION]
    out = {}
    for part, clips in parts.items():
        order = np.random.default_rng(6).permutation(len(clips))
        out[part] = np.stack([clips[i][0] for i in order])
        out[f"{part}_labels"] = np.array([clips[i][1] for i in order], np.uint8)
        out[f"{part}_names"] = np.array([clips[i][2] for i in order])
    path = ASSETS / "speech" / "voices.npz"
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, voices=np.array(voices), **out)
    print({name: values.shape for name, values in out.items()}, path.stat().st_size)


if __name__ == "__main__":
    main()
