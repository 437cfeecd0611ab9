"""``panoptic rviz``: start rviz2 with a view of the node's outputs in the right frame.

rviz2 shows nothing in a fixed frame that it has no transform to, and a camera without TF has none.
So this command waits for the first output, takes the frame of its header, and starts rviz2 with a
copy of the view that has this frame.
"""

import argparse
import os
import tempfile
from pathlib import Path

import yaml

from panoptic_ros.errors import PanopticRosError
from panoptic_ros.resources import resource

TOPIC = '/segment/overlay'
REMINDER_S = 5.0
OPTICAL, FORWARD = 'segment_optical.rviz', 'segment_forward.rviz'
"""Views for fixed frames with z forward (of cameras) and with x forward (REP 103)."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.add_argument(
        '--frame', default='', help='fixed frame, needs transforms (the frame of the images)'
    )
    parser.add_argument(
        '--topic', default=TOPIC, help='image whose header names the frame (%(default)s)'
    )
    parser.add_argument(
        '--config', type=Path, help='view, used with its own frame unless --frame is given'
    )
    parser.add_argument(
        'rviz2', nargs='*', default=['rviz2'], help='rviz2 and its arguments, after -- (rviz2)'
    )


def run(args: argparse.Namespace) -> int:
    """Replace this process by rviz2; returns 0 if stopped before."""
    if args.config is not None and not args.config.is_file():
        raise PanopticRosError(f'--config is {str(args.config)!r}; expected an rviz file')
    frame, is_optical = args.frame, 'optical' in args.frame  # as REP 103 names such frames
    if not frame and args.config is None:
        frame, is_optical = wait_for_frame(args.topic), True
        if frame is None:
            return 0
    config = args.config or resource('config', OPTICAL if is_optical else FORWARD)
    if frame:
        config = with_frame(config, frame)
    program, *arguments = args.rviz2
    try:
        os.execvp(program, [program, '-d', str(config), *arguments])
    except FileNotFoundError as error:
        raise PanopticRosError(
            f'there is no {program}; on Ubuntu: apt install ros-$ROS_DISTRO-rviz2'
        ) from error


def wait_for_frame(topic: str) -> str | None:
    """Return the frame_id of the first image on a topic; None if SIGINT or SIGTERM comes first."""
    import rclpy
    from rclpy.node import Node
    from rclpy.signals import SignalHandlerOptions
    from rclpy.task import Future
    from sensor_msgs.msg import Image

    from panoptic_ros.benchmark.cdr import header_key
    from panoptic_ros.ros.signals import StopSignal

    found: Future[str | None] = Future()

    def finish(frame: str | None) -> None:
        if not found.done():
            found.set_result(frame)

    with StopSignal() as stop:
        rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
        node = Node('rviz_frame')
        stop.came.add_done_callback(lambda _: finish(None))

        def remind() -> None:
            node.get_logger().info(
                f'rviz starts with the first image on {topic}; --frame, or rviz_fixed_frame of '
                'the launch file, starts it at once'
            )

        remind()
        node.create_timer(REMINDER_S, remind)
        node.create_subscription(
            Image, topic, lambda data: finish(header_key(data).frame_id), 1, raw=True
        )
        rclpy.spin_until_future_complete(node, found)
        node.destroy_node()
        rclpy.try_shutdown()
    return found.result()


def with_frame(config: Path, frame: str) -> Path:
    """Write a copy of a view with another fixed frame; returns its path."""
    view = yaml.safe_load(config.read_text(encoding='utf-8'))
    view['Visualization Manager']['Global Options']['Fixed Frame'] = frame
    copy = Path(tempfile.mkdtemp(prefix='panoptic_ros_')) / config.name
    copy.write_text(yaml.safe_dump(view, sort_keys=False, allow_unicode=True), encoding='utf-8')
    return copy
