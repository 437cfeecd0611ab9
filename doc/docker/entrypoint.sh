#!/usr/bin/env bash
# Start the node; arguments are those of segment.launch.py.
set -eo pipefail
source /opt/ros/jazzy/setup.bash
source /workspace/install/setup.bash
exec ros2 launch panoptic_ros segment.launch.py "$@"
