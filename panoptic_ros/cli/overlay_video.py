"""Write a video at a constant rate from images with arbitrary stamps."""

from pathlib import Path

import cv2
import numpy as np

from panoptic_ros.image_files import opencv_path

_PROBED = 12  # images from whose stamps the rate is chosen
_DEFAULT_RATE_HZ = 25.0
_MAX_RATE_HZ = 120.0
_MAX_STILL_S = 60.0  # a longer gap is cut to this, because each gap is filled with copies


class OverlayVideo:
    """An MP4 file whose timing follows the stamps of its images.

    OpenCV writes constant rates only. The rate follows from the short intervals between the first
    images. An image is repeated until the next one is due, and left out if that is due at once.

    Raises OSError where the file cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._waiting: list[tuple[np.ndarray, int]] = []
        self._writer: cv2.VideoWriter | None = None
        self._rate_hz = _DEFAULT_RATE_HZ
        self._last: tuple[np.ndarray, int] | None = None
        self._written = 0
        self._cut_ns = 0

    def add(self, image_bgr: np.ndarray, stamp_ns: int) -> None:
        """Add an image, uint8 [H, W, 3], with the time since the first one in nanoseconds."""
        if self._writer is not None:
            self._write(image_bgr, stamp_ns)
            return
        self._waiting.append((image_bgr, stamp_ns))
        if len(self._waiting) == _PROBED:
            self._open()

    def close(self) -> None:
        """Write the last image and finish the file, if there was an image."""
        if self._waiting:
            self._open()
        if self._last is not None:
            self._repeat(self._written + 1)
            self._writer.release()

    def _open(self) -> None:
        images, self._waiting = self._waiting, []
        intervals_s = np.diff([stamp_ns for _, stamp_ns in images]) / 1e9
        intervals_s = intervals_s[intervals_s > 0]
        if len(intervals_s):
            # Rounded, because MPEG-4 states a rate as a fraction of 16 bits.
            interval_s = float(np.quantile(intervals_s, 0.25, method='lower'))
            self._rate_hz = min(round(1 / interval_s, 3), _MAX_RATE_HZ)
        size_wh = images[0][0].shape[1::-1]
        fourcc = cv2.VideoWriter.fourcc(*'mp4v')
        with opencv_path(self._path) as name:
            self._writer = cv2.VideoWriter(name, fourcc, self._rate_hz, size_wh)
        if not self._writer.isOpened():
            raise OSError(f'OpenCV cannot write the video {self._path}')
        for image_bgr, stamp_ns in images:
            self._write(image_bgr, stamp_ns)

    def _write(self, image_bgr: np.ndarray, stamp_ns: int) -> None:
        """Repeat the last image until the time of this one."""
        if self._last is not None:
            gap_ns = stamp_ns - self._last[1]
            self._cut_ns += max(0, gap_ns - round(_MAX_STILL_S * 1e9))
            self._repeat(round((stamp_ns - self._cut_ns) * self._rate_hz / 1e9))
        self._last = (image_bgr, stamp_ns)

    def _repeat(self, end: int) -> None:
        for _ in range(end - self._written):
            self._writer.write(self._last[0])
        self._written = max(self._written, end)
