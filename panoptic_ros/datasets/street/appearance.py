"""The colours of a frame of the synthetic street: textures, light, sky and sensor."""

from functools import lru_cache

import cv2
import numpy as np

from panoptic_ros.datasets.street import textures
from panoptic_ros.datasets.street.geometry import Camera, Ground
from panoptic_ros.datasets.street.painting import Faces
from panoptic_ros.datasets.street.style import generator
from panoptic_ros.datasets.street.world import World


@lru_cache(maxsize=2)
def _sensor_noise(size_wh: tuple[int, int]) -> np.ndarray:
    """Return noise of mean 128 and deviation 16, uint8, 64 pixels larger than the image."""
    rng = np.random.default_rng(99)
    width, height = size_wh
    values = rng.standard_normal((height + 64, width + 64, 3), np.float32) * 16 + 128
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


class Appearance:
    """Sky, light and sensor: turns a map of faces into an image."""

    def __init__(self, camera: Camera, world: World) -> None:
        self._camera = camera
        self._world = world
        self._atlas = textures.atlas()
        style = world.style
        self._sky = self._make_sky(generator(world.seed, 6))
        level = np.arange(256) / 255.0
        curve = style.exposure * (style.contrast * (level - 0.3) + 0.3)
        # Highlights reach white at every exposure, as the sky does in real images,
        curve = np.clip(curve + (0.97 - style.exposure) * level**7, 0, 1)
        # and are not tinted.
        tint = 1 + (np.array(style.tint) - 1) * (1 - level[:, None] ** 3)
        tone = np.clip(curve[:, None] * tint, 0, 1)
        self._tone = np.rint(255 * tone).astype(np.uint8)[None]

    def _make_sky(self, rng: np.random.Generator) -> np.ndarray:
        """Return a panorama, float32 [3, rows down to the horizon, columns], periodic sideways."""
        style = self._world.style
        width, height = self._camera.size_wh
        rows = height + 2
        columns = width if style.curvature == 0 else 2 * width
        # Clouds are soft: a quarter of the resolution is enough.
        small = (columns // 4, rows // 4)
        clouds = textures.noise(rng, small, [(small[0] / 9, 2.0), (small[0] / 25, 1.0)])
        clouds = cv2.resize(clouds, (columns, rows), interpolation=cv2.INTER_LINEAR)
        clouds = np.clip(0.5 + 0.5 * clouds, 0, 1) * style.clouds
        height_above = np.linspace(1, 0, rows, dtype=np.float32)[:, None] ** 0.8
        top = np.array(style.sky_rgb, np.float32)[:, None, None]
        low = np.array([247, 251, 250], np.float32)[:, None, None]
        sky = low + (top - low) * height_above
        # White clouds in a blue sky, grey ones in a white sky.
        cloud = np.array(
            [226, 230, 232] if style.sky_rgb[0] > 215 else [252, 252, 252], np.float32
        )
        sky = (sky + (cloud[:, None, None] - sky) * clouds * 0.7).astype(np.float32)
        # The beginning is repeated at the end, so that a view never wraps around.
        return sky if style.curvature == 0 else np.concatenate([sky, sky[..., :width]], 2)

    def image(
        self,
        face: np.ndarray,
        faces: Faces,
        depth: np.ndarray,
        light: np.ndarray,
        ground: Ground,
        ego_s: float,
        index: int,
    ) -> np.ndarray:
        """Colour every pixel, uint8 [H, W, 3]; ``depth`` is 1 in the sky."""
        style = self._world.style
        width, height = self._camera.size_wh
        on_ground = faces.is_ground.take(face)
        texel = self._texels(face, faces, depth, on_ground, ground, ego_s)
        gain = (texel & 255).astype(np.float32)
        gain *= np.float32(0.01)
        np.multiply(gain, light, out=gain, where=on_ground)
        mixed = np.flatnonzero(texel > 255)
        share = (texel.ravel()[mixed] >> 8) * np.float32(1 / 255)
        mixed_face = face.ravel()[mixed]
        sky = self._sky_view(ego_s)
        is_sky = face[: sky.shape[1]] == 0
        planes = []
        for channel in range(3):
            rgb, rgb2 = faces.rgb[channel], faces.rgb2[channel]
            plane = rgb.take(face)
            plane.ravel()[mixed] += (rgb2 - rgb).take(mixed_face) * share
            plane *= gain
            np.copyto(plane[: sky.shape[1]], sky[channel], where=is_sky)
            planes.append(cv2.convertScaleAbs(plane))
        image = cv2.LUT(cv2.merge(planes), self._tone)
        image = cv2.GaussianBlur(image, (3, 3), style.blur)
        dy, dx = generator(self._world.seed, 7, index).integers(0, 64, 2)
        noise = _sensor_noise(self._camera.size_wh)[dy : dy + height, dx : dx + width]
        strength = style.noise / 16
        return cv2.addWeighted(image, 1.0, noise, strength, -128.0 * strength)

    def _sky_view(self, ego_s: float) -> np.ndarray:
        """Return the visible part of the panorama, float32 [3, rows, W]."""
        width, height = self._camera.size_wh
        heading = self._world.style.curvature * ego_s
        start = int(heading * self._camera.focal) % max(1, self._sky.shape[2] - width)
        horizon = self._camera.matrix[1, 2] - self._camera.focal * np.tan(self._camera.pitch_rad)
        rows = int(np.clip(horizon + 2, 0, min(height, self._sky.shape[1])))
        return self._sky[:, self._sky.shape[1] - rows :, start : start + width]

    def _texels(
        self,
        face: np.ndarray,
        faces: Faces,
        depth: np.ndarray,
        on_ground: np.ndarray,
        ground: Ground,
        ego_s: float,
    ) -> np.ndarray:
        """Return the texel of every pixel, uint16 [H, W]."""
        atlas = self._atlas
        x, y = depth * self._camera.ray_x, depth * self._camera.ray_y
        coordinates = []
        for axis in (faces.along, faces.across):
            value = axis[0].take(face) * x
            value += axis[1].take(face) * y
            value += axis[2].take(face) * depth
            value += axis[3].take(face)
            coordinates.append(value)
        low = on_ground[ground.top :]
        # Fixed to the road: texels of 1/64 m that repeat after 16 m.
        start = np.float32(ego_s % 16.0)
        np.copyto(coordinates[0][ground.top :], ground.across * np.float32(64), where=low)
        np.copyto(coordinates[1][ground.top :], (ground.s + start) * np.float32(64), where=low)
        column = coordinates[0].astype(np.int32) & (textures.TILE_WH[0] - 1)
        row = coordinates[1].astype(np.int32) & (textures.TILE_WH[1] - 1)
        # The level at which a texel is about a pixel, from the exponent of the float.
        pixels = faces.pixels_per_texel.take(face)
        pixels /= depth
        level = np.int32(127) - (pixels.view(np.int32) >> 23)
        np.clip(level, 0, textures.LEVELS - 1, out=level)
        start_of = (faces.tile * textures.LEVELS).astype(np.int32).take(face)
        start_of += level
        at = atlas.start.ravel().take(start_of)
        row >>= level
        row <<= np.int32(9) - level
        at += row
        column >>= level
        at += column
        return atlas.texels.take(at)
