"""``python -m panoptic_ros.benchmark.demo``: the node and a camera over DDS, checked."""
