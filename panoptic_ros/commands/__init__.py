"""Commands of ``panoptic`` that need nothing but the runtime; see :mod:`panoptic_ros.cli`."""
