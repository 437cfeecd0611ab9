"""Fixtures that the tests of the node share."""

from collections.abc import Callable

import numpy as np
import pytest

SIZE_WH = (128, 64)


@pytest.fixture
def scene_bgr(tiny_scene: Callable[..., np.ndarray]) -> np.ndarray:
    return np.ascontiguousarray(tiny_scene(SIZE_WH)[..., ::-1])
