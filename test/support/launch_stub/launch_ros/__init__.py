"""The parts of ``launch_ros`` that the launch files use; it is not on PyPI."""
