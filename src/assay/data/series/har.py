"""Simulated wrist sensors: periodic activities and short episodes of tremble, by subject.

A window holds T = 128 steps at 50 a second of three accelerometer axes (in g) and three gyroscope axes (in rad/s).

    x_c(t) = gravity_c + gain * sum_h a_ch(activity) sin(2 pi h f t + p_ch + p0) + drift_c t + noise_c(t)

turned by the subject's sensor mounting (up to 20 degrees) with 1/f noise. Cadence f, gain and mounting belong to the
subject, the phase p0 is uniform in each window. *Periodic*: six activities differ in cadence, harmonics and gravity.
*Episodic*: walking or standing with turns and bumps in every window; the positive class adds one burst of tremble of
3 to 8 Hz and 0.4 to 1.2 s, anywhere in the window. No class marks a direction of time: bursts have a symmetric
envelope and their place is uniform.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from assay.data.series.windows import Windows

RATE = 50.0
STEPS = 128
CHANNELS = ("acc_x", "acc_y", "acc_z", "gyro_x", "gyro_y", "gyro_z")
ACTIVITIES = ("walking", "stairs up", "stairs down", "running", "sitting", "lying")
CADENCE = (1.8, 1.5, 2.0, 2.7, 0.3, 0.25)  # Hz: steps; at rest, breathing
STRENGTH = (0.30, 0.28, 0.36, 0.8, 0.02, 0.02)  # g
GRAVITY = ((0.2, 0.9, 0.3), (0.3, 0.88, 0.35), (0.15, 0.92, 0.3), (0.2, 0.9, 0.3), (0.1, 0.5, 0.85), (0.9, 0.2, 0.4))


def periodic(rng: np.random.Generator, subjects: int = 20, each: int = 32, noise: float = 0.12) -> Windows:
    """Windows of six repeating activities, `each` a subject.

    Args:
        noise: standard deviation of the 1/f noise, in g and rad/s.

    Raises:
        ValueError: sizes below 1 or a negative noise.
    """
    _check(subjects, each, noise)
    shapes = rng.normal(size=(len(ACTIVITIES), 6, 4)) / np.arange(1, 5)  # harmonics 1 to 4, per activity and channel
    phases = rng.uniform(0, 2 * np.pi, size=(len(ACTIVITIES), 6, 4))
    x, y, who = [], [], []
    for subject in range(subjects):
        person = _person(rng)
        for activity in rng.permutation(np.arange(each) % len(ACTIVITIES)):
            shape = shapes[activity] + 0.35 * person["habit"]
            x.append(_mounted(_gait(rng, person, activity, shape, phases[activity]), person, rng, noise))
            y.append(activity)
            who.append(f"s{subject:02d}")
    return _windows(x, y, who, ACTIVITIES)


def episodic(
    rng: np.random.Generator, subjects: int = 20, each: int = 32, noise: float = 0.12, tremble: float = 0.3
) -> Windows:
    """Windows with and without one burst of tremble, half of each, `each` a subject.

    Args:
        noise: as in `periodic`. tremble: amplitude of the burst, in g.

    Raises:
        ValueError: sizes below 1 or a negative noise.
    """
    _check(subjects, each, noise)
    walk = rng.normal(size=(2, 6, 4)) / np.arange(1, 5)
    phases = rng.uniform(0, 2 * np.pi, size=(2, 6, 4))
    x, y, who = [], [], []
    for subject in range(subjects):
        person = _person(rng)
        for positive in rng.permutation(np.arange(each) % 2):
            kind = int(rng.random() < 0.3)  # standing in 3 of 10 windows
            signal = _gait(rng, person, 4 if kind else 0, walk[kind] + 0.35 * person["habit"], phases[kind])
            _distract(signal, rng)
            if positive:
                signal += tremble * person["gain"] * _burst(rng)
            x.append(_mounted(signal, person, rng, noise))
            y.append(int(positive))
            who.append(f"s{subject:02d}")
    return _windows(x, y, who, ("no episode", "episode"))


def pink(shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.float64]:
    """Noise with power 1/f along the last axis, unit variance."""
    spectrum = np.fft.rfft(rng.normal(size=shape), axis=-1)
    spectrum /= np.sqrt(np.maximum(np.arange(spectrum.shape[-1]), 1))
    out = np.fft.irfft(spectrum, n=shape[-1], axis=-1)
    return (out - out.mean(axis=-1, keepdims=True)) / out.std(axis=-1, keepdims=True)


def _person(rng: np.random.Generator) -> dict[str, NDArray | float]:
    axis = rng.normal(size=3)
    return {
        "pace": float(rng.normal(1, 0.12)), "gain": float(np.exp(rng.normal(0, 0.25))),
        "mount": _rotation(axis / np.linalg.norm(axis), np.deg2rad(rng.uniform(-20, 20))),
        "habit": rng.normal(size=(6, 4)) / np.arange(1, 5),
    }  # fmt: skip


def _gait(rng: np.random.Generator, person: dict, activity: int, shape: NDArray, phase: NDArray) -> NDArray:
    time = np.arange(STEPS) / RATE
    rate = CADENCE[activity] * person["pace"] * rng.normal(1, 0.05)
    start = rng.uniform(0, 2 * np.pi)
    harmonics = np.arange(1, 5)
    angle = harmonics[:, None] * (2 * np.pi * rate * time + start)
    wave = np.einsum("ch,cht->ct", shape, np.sin(angle[None] + phase[:, :, None]))
    wave *= STRENGTH[activity] * person["gain"]
    wave[:3] += np.asarray(GRAVITY[activity])[:, None]
    return wave + rng.normal(0, 0.03, size=(6, 1)) * (time - time.mean())


def _mounted(signal: NDArray, person: dict, rng: np.random.Generator, noise: float) -> NDArray[np.float32]:
    turned = np.einsum("ij,gjt->git", person["mount"], signal.reshape(2, 3, STEPS)).reshape(6, STEPS)
    return (turned + noise * pink(turned.shape, rng)).astype(np.float32)


def _burst(rng: np.random.Generator) -> NDArray:
    time = np.arange(STEPS) / RATE
    length = rng.uniform(0.4, 1.2)
    middle = rng.uniform(length / 2, STEPS / RATE - length / 2)
    envelope = np.where(np.abs(time - middle) < length / 2, np.cos(np.pi * (time - middle) / length) ** 2, 0)
    wave = np.sin(2 * np.pi * rng.uniform(3, 8) * time + rng.uniform(0, 2 * np.pi, size=(6, 1)))
    return envelope * wave * rng.normal(1, 0.3, size=(6, 1))


def _distract(signal: NDArray, rng: np.random.Generator) -> None:
    """A turn (slow swing of the gyroscope) or a bump (one short knock), or neither."""
    time = np.arange(STEPS) / RATE
    middle, kind = rng.uniform(0.3, STEPS / RATE - 0.3), rng.random()
    if kind < 0.3:
        signal[3:] += rng.normal(0, 0.6, size=(3, 1)) * np.exp(-(((time - middle) / 0.4) ** 2))
    elif kind < 0.6:
        signal[:3] += rng.normal(0, 0.5, size=(3, 1)) * np.exp(-(((time - middle) / 0.05) ** 2))


def _rotation(axis: NDArray, angle: float) -> NDArray:
    a, b, c = axis
    cross = np.array([[0, -c, b], [c, 0, -a], [-b, a, 0]])
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def _windows(x: list, y: list, who: list, classes: tuple[str, ...]) -> Windows:
    return Windows(np.stack(x), np.array(y, dtype=np.int64), np.array(who), classes, CHANNELS, RATE)


def _check(subjects: int, each: int, noise: float) -> None:
    if subjects < 1 or each < 1 or noise < 0:
        raise ValueError(f"subjects and each must be positive and noise not negative, got {subjects}, {each}, {noise}")
