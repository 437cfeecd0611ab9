"""TensorRT for RTX on GeForce and RTX GPUs; the code is that of :mod:`engines.tensorrt`."""

from typing import Any

from panoptic_ros.engines import tensorrt
from panoptic_ros.model import Model


def unavailable() -> str:
    """Return why TensorRT for RTX cannot run here, or an empty text."""
    return tensorrt.unavailable(tensorrt.TENSORRT_RTX)


def open(model: Model, **options: Any) -> tensorrt.TensorRtEngine:  # noqa: A001
    """Load the model's plan, see :func:`panoptic_ros.engines.tensorrt.open`."""
    return tensorrt.open(model, library=tensorrt.TENSORRT_RTX, **options)
