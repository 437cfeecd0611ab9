"""Start the segmentation node, and rviz if wanted.

    ros2 launch panoptic_ros segment.launch.py image_topic:=/camera/image_raw \
        camera_info_topic:=/camera/camera_info rviz:=true
    ros2 launch panoptic_ros segment.launch.py cameras:=front,left image_topic:=image_raw

``ros2 launch panoptic_ros segment.launch.py --show-args`` lists all arguments.
"""

import os
import shlex
import sys
from difflib import get_close_matches
from pathlib import Path

from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.conditions import IfCondition
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

from panoptic_ros.ros.parameters import PARAMETERS, declaration, listed

SHARE = Path(__file__).absolute().parents[1]  # share/panoptic_ros, or the source tree

# Topics that the views in config/ show.
SHOWN = (
    'overlay',
    'semantic_color',
    'instance_color',
    'semantic',
    'instance',
    'markers',
    'objects',
    'support_surfaces',
    'free_space',
    'points',
)

# Name, default value, description.
ARGUMENTS = (
    ('image_topic', 'image', 'Camera images, sensor_msgs/Image; with cameras, below each NAME/'),
    ('camera_info_topic', 'camera_info', 'Calibration of the images; objects in space need it'),
    ('depth_topic', 'depth', 'Depth aligned to the images, with depth:=true'),
    ('depth_camera_info_topic', 'depth/camera_info', 'Calibration of the depth images'),
    ('virtual_depth_topic', 'virtual_depth', 'Depth of virtual objects, with virtual_depth:=true'),
    ('namespace', '', 'Namespace of the node; its topics are NAMESPACE/segment/...'),
    ('params_file', str(SHARE / 'config' / 'segment.yaml'), 'Parameters of the node'),
    ('use_sim_time', '', 'true takes the time from /clock'),
    (
        'fast_dds_profile',
        str(SHARE / 'config' / 'fastdds.xml'),
        'Fast DDS profile for large images, for the process of the node; none for none. The '
        "camera's process needs it as well",
    ),
    ('rviz', 'false', 'true starts rviz with overlay, maps and markers'),
    (
        'rviz_config',
        '',
        'Configuration of rviz; empty for config/segment_optical.rviz, or segment_forward.rviz in '
        'a rviz_fixed_frame such as base_link or odom',
    ),
    (
        'rviz_fixed_frame',
        '',
        'Fixed frame of rviz; empty for the one in rviz_config, or else the frame of the images, '
        'for which rviz waits',
    ),
    ('log_level', 'info', 'debug, info, warn, error or fatal'),
)

# Inputs of the node, and the arguments that name them.
INPUTS = {
    'image': 'image_topic',
    'camera_info': 'camera_info_topic',
    'depth': 'depth_topic',
    'depth/camera_info': 'depth_camera_info_topic',
    'virtual_depth': 'virtual_depth_topic',
}

# Every parameter of the node is an argument too, and takes precedence over params_file.
TYPES = {'use_sim_time': bool} | {name: type(p.default) for name, p in PARAMETERS.items()}


def generate_launch_description() -> LaunchDescription:
    described = {
        name: f'{declaration(declared).description}; empty for the value in params_file'
        for name, declared in PARAMETERS.items()
    }
    return LaunchDescription(
        [
            *(
                DeclareLaunchArgument(name, default_value=default, description=description)
                for name, default, description in ARGUMENTS
            ),
            *(
                DeclareLaunchArgument(name, default_value='', description=description)
                for name, description in described.items()
            ),
            OpaqueFunction(function=start),
        ]
    )


def start(context: LaunchContext) -> list[Node]:
    names = [*(name for name, _, _ in ARGUMENTS), *PARAMETERS]
    if any(Path(argument).name == Path(__file__).name for argument in sys.argv):
        # Not where another launch file includes this one: its arguments are not known here.
        refuse_unknown(context.argv, names)
    given = {name: LaunchConfiguration(name).perform(context) for name in names}
    if not Path(given['params_file']).is_file():
        raise RuntimeError(f'params_file is {given["params_file"]!r}; expected an existing file')
    # rviz first: where it is not installed, launch stops here and leaves no process behind.
    return [rviz_node(given), segment_node(given)]


def refuse_unknown(arguments: list[str], names: list[str]) -> None:
    """Raise RuntimeError for an argument NAME:=VALUE that is none of the names."""
    for argument in arguments:
        name = argument.partition(':=')[0]
        if name not in names:
            similar = get_close_matches(name, names, n=1)
            hint = f', did you mean {similar[0]}?' if similar else ''
            raise RuntimeError(f'unknown argument {name!r}{hint} --show-args lists all')


def segment_node(given: dict[str, str]) -> Node:
    return Node(
        package='panoptic_ros',
        executable='segment',
        name='segment',
        namespace=given['namespace'],
        parameters=[
            given['params_file'],
            {
                # With its type, whatever YAML would make of a model called 1.0 or yes.
                name: ParameterValue(LaunchConfiguration(name), value_type=value_type)
                for name, value_type in TYPES.items()
                if given[name]
            },
        ],
        remappings=remappings(given),
        additional_env=large_image_environment(given['fast_dds_profile']),
        arguments=['--ros-args', '--log-level', given['log_level']],
        output='screen',
    )


def remappings(given: dict[str, str]) -> list[tuple[str, str]]:
    cameras = listed(given['cameras'])
    if not cameras:
        return [(name, given[argument]) for name, argument in INPUTS.items()]
    for argument in INPUTS.values():
        if given[argument].startswith(('/', '~')):
            raise RuntimeError(
                f'{argument} is {given[argument]!r}; expected a name without a leading slash, '
                'which is looked up below each of the cameras'
            )
    return [
        (f'{camera}/{name}', f'{camera}/{given[argument]}')
        for camera in cameras
        for name, argument in INPUTS.items()
    ]


def rviz_node(given: dict[str, str]) -> Node:
    # With several cameras, rviz shows the first one.
    parts = (given['namespace'].strip('/'), 'segment', *listed(given['cameras'])[:1])
    base = '/'.join(['', *filter(None, parts)])
    options = {
        '--topic': f'{base}/overlay',
        '--frame': given['rviz_fixed_frame'],
        '--config': given['rviz_config'],
    }
    chosen = [part for name, value in options.items() if value for part in (name, value)]
    return Node(
        package='rviz2',
        executable='rviz2',
        # Starts rviz2 with the view in the frame of the images.
        prefix=shlex.join([sys.executable, '-m', 'panoptic_ros', 'rviz', *chosen, '--']),
        # The views name the topics of a node without a namespace.
        remappings=[
            (f'/segment/{topic}', f'{base}/{topic}') for topic in SHOWN if base != '/segment'
        ],
        condition=IfCondition(given['rviz']),
    )


def large_image_environment(profile: str) -> dict[str, str]:
    if profile == 'none':
        return {}
    environment = {
        'FASTDDS_DEFAULT_PROFILES_FILE': profile,
        # Keep the memory of images; otherwise the system takes it back and zeroes it every time.
        'MALLOC_MMAP_THRESHOLD_': str(32 << 20),
        'MALLOC_TRIM_THRESHOLD_': str(256 << 20),
        'MALLOC_ARENA_MAX': '1',  # one heap: several would keep memory of closed engines
    }
    if os.environ.get('ROS_DISTRO') in ('humble', 'iron', 'jazzy'):
        # Older name of the variable; Kilted and later warn about it.
        environment['FASTRTPS_DEFAULT_PROFILES_FILE'] = profile
    return environment
