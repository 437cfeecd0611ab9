"""Real-time panoptic segmentation for ROS 2.

The package is layered (see ``doc/architecture.md``); ``test/test_layers.py`` checks the layers.
"""

__version__ = '0.2.0'
