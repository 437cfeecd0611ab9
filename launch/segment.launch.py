"""Start the segmentation node, and rviz if wanted.

    ros2 launch panoptic_ros segment.launch.py image_topic:=/camera/image_raw \
        camera_info_topic:=/camera/camera_info rviz:=true

``ros2 launch panoptic_ros segment.launch.py --show-args`` lists all arguments.
"""

import os
from pathlib import Path

from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.conditions import IfCondition
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

SHARE = Path(__file__).absolute().parents[1]  # share/panoptic_ros, or the source tree

# Parameters of the node that have an argument of the same name; empty leaves them to params_file.
PARAMETERS = ('model', 'engine', 'image_transport', 'autostart', 'tracking', 'depth')

# Topics that config/segment.rviz shows.
SHOWN = ('overlay', 'semantic', 'instance', 'markers', 'objects', 'support_surfaces', 'free_space')

ARGUMENTS = (
    ('image_topic', 'image', 'Camera images, sensor_msgs/Image'),
    ('camera_info_topic', 'camera_info', 'Their calibration; markers need it'),
    ('depth_topic', 'depth', 'Depth aligned to the images, with depth:=true'),
    ('depth_camera_info_topic', 'depth/camera_info', 'Calibration of the depth images'),
    ('namespace', '', 'Namespace of the node; its topics are NAMESPACE/segment/...'),
    ('model', '', 'Embedded model or folder of a model; empty: as params_file says'),
    ('engine', '', 'auto, tensorrt, openvino or onnxruntime; empty: as params_file says'),
    (
        'image_transport',
        '',
        'raw, or compressed for JPEG or PNG on IMAGE_TOPIC/compressed; empty: as params_file says',
    ),
    (
        'autostart',
        '',
        'true configures and activates, false leaves that to a lifecycle manager; empty: as '
        'params_file says',
    ),
    (
        'tracking',
        '',
        'false gives objects ids that mean nothing beyond a frame; empty: as params_file says',
    ),
    (
        'depth',
        '',
        'true takes depth images and measures objects; empty: as params_file says',
    ),
    ('params_file', str(SHARE / 'config' / 'segment.yaml'), 'Parameters of the node'),
    (
        'fast_dds_profile',
        str(SHARE / 'config' / 'fastdds.xml'),
        'Fast DDS profile that lets large images arrive, for the node; none for none. The '
        "camera's process needs it as well",
    ),
    ('rviz', 'false', 'true starts rviz with overlay, maps and markers'),
    ('rviz_config', str(SHARE / 'config' / 'segment.rviz'), 'What rviz shows'),
    (
        'rviz_fixed_frame',
        '',
        "Frame rviz draws in: the images' frame_id; empty: as rviz_config says",
    ),
    ('log_level', 'info', 'debug, info, warn, error or fatal'),
)


def generate_launch_description() -> LaunchDescription:
    return LaunchDescription(
        [
            *(
                DeclareLaunchArgument(name, default_value=default, description=description)
                for name, default, description in ARGUMENTS
            ),
            OpaqueFunction(function=start),
        ]
    )


def start(context: LaunchContext) -> list[Node]:
    given = {name: LaunchConfiguration(name).perform(context) for name, _, _ in ARGUMENTS}
    # rviz first: where it is not installed, launch stops here and leaves no process behind.
    return [rviz_node(given), segment_node(given)]


def segment_node(given: dict[str, str]) -> Node:
    # As the types they are, whatever YAML would make of a model called 1.0 or yes.
    types = dict.fromkeys(PARAMETERS, str)
    types |= dict.fromkeys(('autostart', 'tracking', 'depth'), bool)
    return Node(
        package='panoptic_ros',
        executable='segment',
        name='segment',
        namespace=given['namespace'],
        parameters=[
            given['params_file'],
            {
                name: ParameterValue(LaunchConfiguration(name), value_type=types[name])
                for name in PARAMETERS
                if given[name]
            },
        ],
        remappings=[
            ('image', given['image_topic']),
            ('camera_info', given['camera_info_topic']),
            ('depth', given['depth_topic']),
            ('depth/camera_info', given['depth_camera_info_topic']),
        ],
        additional_env=large_image_environment(given['fast_dds_profile']),
        arguments=['--ros-args', '--log-level', given['log_level']],
        output='screen',
    )


def rviz_node(given: dict[str, str]) -> Node:
    namespace = given['namespace'].strip('/')
    frame = given['rviz_fixed_frame']
    return Node(
        package='rviz2',
        executable='rviz2',
        arguments=['-d', given['rviz_config'], *(['-f', frame] if frame else [])],
        # The file names the topics of a node without a namespace.
        remappings=[
            (f'/segment/{topic}', f'/{namespace}/segment/{topic}') for topic in SHOWN if namespace
        ],
        condition=IfCondition(given['rviz']),
    )


def large_image_environment(profile: str) -> dict[str, str]:
    if profile == 'none':
        return {}
    environment = {
        'FASTDDS_DEFAULT_PROFILES_FILE': profile,
        # Else the memory of every image goes back to the system, to be fetched and zeroed anew.
        'MALLOC_MMAP_THRESHOLD_': str(32 << 20),
        'MALLOC_TRIM_THRESHOLD_': str(256 << 20),
        'MALLOC_ARENA_MAX': '1',  # else every heap keeps some of each engine opened in it
    }
    if os.environ.get('ROS_DISTRO') in ('humble', 'iron', 'jazzy'):
        # The variable's older name, which Kilted and later warn about.
        environment['FASTRTPS_DEFAULT_PROFILES_FILE'] = profile
    return environment
