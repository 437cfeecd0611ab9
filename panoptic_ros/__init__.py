"""Real-time panoptic segmentation for ROS 2.

The package is layered; each layer imports only the ones before it:
``labels, panoptic`` -> ``fusion, geometry, visualize`` -> ``engines`` -> ``segmenter`` -> ``ros``.
``datasets`` and ``evaluation`` import only the first layer, ``nn`` (training) needs torch.
"""

__version__ = '0.1.0'
