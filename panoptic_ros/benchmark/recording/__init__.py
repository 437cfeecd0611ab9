"""Make rosbag2 recordings, of sources and of what the node makes of them."""
