"""``std_msgs/Header``."""

from std_msgs.msg import Header


def stamp_ns(header: Header) -> int:
    """Return the stamp in nanoseconds; stamps before 1970 are negative."""
    return header.stamp.sec * 1_000_000_000 + header.stamp.nanosec
