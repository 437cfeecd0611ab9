"""Surface textures of the synthetic street, in one atlas that is made once per process."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

TILE_WH = (512, 1024)
"""Texels of one tile; it repeats in both directions."""

LEVELS = 6
"""Number of resolutions of each tile, each half of the one before."""

FLOORS, BAYS = 8, 4
"""A house front has one window axis every 128 texels and one floor every 128 texels."""

HOUSE_STYLES = 8

# Tile numbers; the house fronts follow from HOUSE on.
PLAIN, ASPHALT, COBBLES, PAVING, GRASS, LEAVES, BRICK, BARS, TILES, HOUSE = range(10)

TEXELS_PER_M = np.array(
    [60, 64, 64, 64, 64, 64, 80, 100, 40] + [128 / 3] * HOUSE_STYLES, np.float32
)
"""Texels per metre of each tile, unless the surface sets its own density."""


@dataclass(frozen=True, eq=False)
class Atlas:
    """All tiles at all levels in one array.

    ``texels`` uint16 [n]: the low byte is 100 times the gain of the surface's colour, the high
    byte how much (of 255) its second colour replaces the first. ``start`` int32 [tiles, LEVELS]:
    where a tile's level begins; it is stored row by row, its width TILE_WH[0] >> level.
    """

    texels: np.ndarray
    start: np.ndarray


@lru_cache(maxsize=1)
def atlas() -> Atlas:
    """Return the atlas, computed on the first call."""
    rng = np.random.default_rng(20240501)
    makers = [_plain, _asphalt, _cobbles, _paving, _grass, _leaves, _brick, _bars, _roof_tiles]
    tiles = [make(rng) for make in makers] + [_house(rng, i) for i in range(HOUSE_STYLES)]
    parts, start, at = [], np.zeros((len(tiles), LEVELS), np.int32), 0
    for number, (gain, mix) in enumerate(tiles):
        for level in range(LEVELS):
            size = (TILE_WH[0] >> level, TILE_WH[1] >> level)
            pair = [
                np.clip(np.rint(cv2.resize(c, size, interpolation=cv2.INTER_AREA) * k), 0, 255)
                for c, k in ((gain, 100), (mix, 255))
            ]
            parts.append((pair[0].astype(np.uint16) | (pair[1].astype(np.uint16) << 8)).ravel())
            start[number, level] = at
            at += len(parts[-1])
    return Atlas(np.concatenate(parts), start)


def noise(
    rng: np.random.Generator, size_wh: tuple[int, int], sigmas: Sequence[float | tuple]
) -> np.ndarray:
    """Repeating noise, float32 [h, w], mean 0 and standard deviation 1: a sum of blurred layers.

    A sigma is a number of pixels, or a pair across and down.
    """
    width, height = size_wh
    total = np.zeros((height, width), np.float32)
    for sigma in sigmas:
        sx, sy = sigma if isinstance(sigma, tuple) else (sigma, sigma)
        # Coarse noise is made small and enlarged.
        shrink = max(1, int(min(sx, sy) / 2))
        w, h = max(4, width // shrink), max(4, height // shrink)
        layer: np.ndarray = rng.standard_normal((h, w), np.float32)
        if max(sx, sy) > 0:
            ex, ey = min(w, int(3 * sx / shrink) + 2), min(h, int(3 * sy / shrink) + 2)
            layer = cv2.copyMakeBorder(layer, ey, ey, ex, ex, cv2.BORDER_WRAP)
            layer = cv2.GaussianBlur(
                layer, (0, 0), max(sx / shrink, 0.1), sigmaY=max(sy / shrink, 0.1)
            )[ey : ey + h, ex : ex + w]
        if shrink > 1:
            layer = cv2.resize(
                cv2.copyMakeBorder(layer, 1, 1, 1, 1, cv2.BORDER_WRAP),
                None,
                fx=shrink,
                fy=shrink,
                interpolation=cv2.INTER_LINEAR,
            )[shrink:-shrink, shrink:-shrink]
            layer = cv2.resize(layer, (width, height))
        total += layer / max(float(layer.std()), 1e-6)
    return total / total.std()


_Tile = tuple[np.ndarray, np.ndarray]  # gain and mix, float32 [1024, 512]


def _no_mix() -> np.ndarray:
    return np.zeros(TILE_WH[::-1], np.float32)


def _plain(rng: np.random.Generator) -> _Tile:
    return 1 + 0.025 * noise(rng, TILE_WH, [1, 20]), _no_mix()


def _asphalt(rng: np.random.Generator) -> _Tile:
    gain = 1 + 0.035 * noise(rng, TILE_WH, [0.6]) + 0.03 * noise(rng, TILE_WH, [6, 40])
    gain += 0.03 * noise(rng, TILE_WH, [(14, 200)])  # tyre tracks run along the road
    for _ in range(5):
        walk = np.cumsum(rng.normal(0, 6, (24, 2)), 0) + rng.uniform((0, 0), TILE_WH)
        walk[:, 1] += np.arange(24) * rng.uniform(-16, 16)
        cv2.polylines(gain, [walk.astype(np.int32)], False, 0.84, 1)
    return gain.astype(np.float32), _no_mix()


def _stones(rng: np.random.Generator, w: int, h: int, shift: int, spread: float) -> np.ndarray:
    """Rows of rectangles w by h with dark joints, each row moved by ``shift``."""
    x, y = np.meshgrid(np.arange(TILE_WH[0]), np.arange(TILE_WH[1]))
    row = y // h
    moved = (x + row * shift) % TILE_WH[0]
    tone = rng.normal(1, spread, (TILE_WH[1] // h + 1, TILE_WH[0] // w + 1)).astype(np.float32)
    gain = tone[row, moved // w]
    gain[(moved % w == 0) | (y % h == 0)] *= 0.82
    return gain


def _cobbles(rng: np.random.Generator) -> _Tile:
    return _stones(rng, 8, 8, 4, 0.09) + 0.03 * noise(rng, TILE_WH, [1, 30]), _no_mix()


def _paving(rng: np.random.Generator) -> _Tile:
    return _stones(rng, 32, 32, 16, 0.035) + 0.04 * noise(rng, TILE_WH, [0.7, 25]), _no_mix()


def _grass(rng: np.random.Generator) -> _Tile:
    return 1 + 0.13 * noise(rng, TILE_WH, [0.7, 2.5, 22]), _no_mix()


def _leaves(rng: np.random.Generator) -> _Tile:
    return np.clip(1 + 0.4 * noise(rng, TILE_WH, [1.6, 4, 12]), 0.2, 2.3), _no_mix()


def _brick(rng: np.random.Generator) -> _Tile:
    return _stones(rng, 16, 8, 8, 0.07) + 0.03 * noise(rng, TILE_WH, [1, 40]), _no_mix()


def _roof_tiles(rng: np.random.Generator) -> _Tile:
    return _stones(rng, 16, 16, 8, 0.06) + 0.04 * noise(rng, TILE_WH, [2, 40]), _no_mix()


def _bars(rng: np.random.Generator) -> _Tile:
    """A fence; the second colour is what shows between the bars."""
    mix = np.full(TILE_WH[::-1], 0.8, np.float32)
    x, y = np.meshgrid(np.arange(TILE_WH[0]), np.arange(TILE_WH[1]))
    mix[x % 16 < 4] = 0
    mix[(y % 128 > 100) & (y % 128 < 110)] = 0
    mix[x % 256 < 10] = 0
    return 1 + 0.08 * noise(rng, TILE_WH, [1.5, 12]), mix


def _house(rng: np.random.Generator, style: int) -> _Tile:
    """A front of 8 floors and 4 bays; the second colour is glass. Row 0 is at the ground."""
    gain = (
        1 + 0.02 * noise(rng, TILE_WH, [1, 30]) + 0.03 * noise(rng, TILE_WH, [(8, 60)])
    ).astype(np.float32)
    mix = _no_mix()
    if style in (2, 6):
        gain *= _stones(rng, 8, 4, 4, 0.05)
    wide = (0.42, 0.36, 0.5, 0.92, 0.4, 0.6, 0.34, 0.8)[style]
    tall = (0.58, 0.62, 0.5, 0.5, 0.66, 0.56, 0.6, 0.62)[style]

    def pane(x0: float, x1: float, y0: float, y1: float, frame: float, bars: int) -> None:
        """One window in texels, with frame, mullions, curtain and a dark upper reveal."""
        a, b, c, d = (round(v) for v in (x0, x1, y0, y1))
        gain[c - 5 : d + 5, a - 5 : b + 5] = frame
        gain[c - 8 : c - 5, a - 8 : b + 8] = frame * 1.1
        mix[c:d, a:b] = 1
        tone = rng.uniform(0.6, 1.15)
        gain[c:d, a:b] = tone * np.linspace(0.85, 1.15, d - c, dtype=np.float32)[:, None]
        if rng.random() < 0.35:  # a curtain
            mix[c:d, a:b] = 0.45
            if rng.random() < 0.5:
                mix[c : (c + d) // 2, a:b] = 1
        elif rng.random() < 0.4:  # the sky's reflection
            gain[(c + d) // 2 : d, a:b] *= 1.9
        gain[d - 4 : d, a:b] *= 0.6
        for i in range(1, bars):
            x = a + (b - a) * i // bars
            gain[c:d, x - 2 : x + 2], mix[c:d, x - 2 : x + 2] = frame, 0

    frame = float(rng.uniform(0.75, 1.25))
    for bay in range(BAYS):
        for floor in range(1, FLOORS):
            x, y = bay * 128 + 64, floor * 128 + 62
            w, h = 64 * wide, 64 * tall
            pane(x - w, x + w, y - h, y + h, frame, 2 if wide < 0.7 else 3)
            if style in (1, 4) and (bay + floor) % 3 == 0:  # a balcony
                gain[y - 62 : y - 24, x - 50 : x + 50] = 0.62
                gain[y - 26 : y - 22, x - 52 : x + 52] = 0.9
            if style == 0:  # shutters
                for sx in (x - w - 24, x + w + 6):
                    gain[y - 36 : y + 38, round(sx) : round(sx) + 18] = 0.55
        x = bay * 128
        if style in (0, 3, 5, 7):  # shops
            pane(x + 12, x + 116 if bay != 1 else x + 70, 10, 84, 0.5, 2)
            gain[90:118, x + 6 : x + 122] = rng.uniform(0.45, 1.5)
            if bay == 1:
                pane(x + 84, x + 116, 2 + 6, 84, 0.4, 1)
        else:
            pane(x + 40, x + 88, 44, 100, frame, 2)
            if bay == 2:
                gain[0:92, x + 34 : x + 94] = 0.4
    for floor in range(1, FLOORS):
        if style in (0, 1, 4, 6) or floor == 1:
            gain[floor * 128 - 4 : floor * 128 + 3] = 1.14
            gain[floor * 128 - 7 : floor * 128 - 4] = 0.8
    return gain, mix
