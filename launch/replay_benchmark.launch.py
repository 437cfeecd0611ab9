"""Start the segmentation node, measure it on a recording, and end.

    ros2 launch panoptic_ros replay_benchmark.launch.py bag:=drive out:=/tmp/replay

``ros2 launch panoptic_ros replay_benchmark.launch.py --show-args`` lists all arguments.
Further options of ``ros2 run panoptic_ros replay_benchmark`` go into ``arguments``.
"""

import shlex
from pathlib import Path

from launch import LaunchContext, LaunchDescription
from launch.actions import (
    DeclareLaunchArgument,
    IncludeLaunchDescription,
    OpaqueFunction,
    Shutdown,
)
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

SHARE = Path(__file__).absolute().parents[1]  # share/panoptic_ros, or the source tree

# Passed on to segment.launch.py, which describes them.
OF_SEGMENT = ('namespace', 'model', 'engine', 'image_transport', 'params_file')

ARGUMENTS = (
    ('bag', None, 'Folder of a recording, or an .mcap or .db3 file'),
    ('out', str(Path('out', 'replay')), 'Folder for table, plots and replay.json'),
    ('rate', '', 'recorded, max or Hz; empty: find the peak, then 10, 30 and 60 Hz'),
    ('arguments', '', "Further options, for example '--loop --start-offset 5'"),
    ('namespace', '', 'Namespace of the node'),
    ('model', '', 'Model name or folder; empty: the value in params_file'),
    ('engine', '', 'auto, tensorrt, openvino or onnxruntime; empty: the value in params_file'),
    ('image_transport', '', 'raw, or compressed for recordings of CompressedImage'),
    ('params_file', str(SHARE / 'config' / 'segment.yaml'), 'Parameters of the node'),
)


def generate_launch_description() -> LaunchDescription:
    return LaunchDescription(
        [
            *(
                DeclareLaunchArgument(name, default_value=default, description=description)
                for name, default, description in ARGUMENTS
            ),
            IncludeLaunchDescription(
                PythonLaunchDescriptionSource(str(SHARE / 'launch' / 'segment.launch.py')),
                launch_arguments=[(name, LaunchConfiguration(name)) for name in OF_SEGMENT],
            ),
            OpaqueFunction(function=replay),
        ]
    )


def replay(context: LaunchContext) -> list[Node]:
    given = {name: LaunchConfiguration(name).perform(context) for name, _, _ in ARGUMENTS}
    namespace = given['namespace'].strip('/')
    name = f'/{namespace}/segment' if namespace else '/segment'
    return [
        Node(
            package='panoptic_ros',
            executable='replay_benchmark',
            arguments=[
                *(given['bag'], '--node', name, '--out', given['out']),
                *(('--rate', given['rate']) if given['rate'] else ()),
                *shlex.split(given['arguments']),
            ],
            output='screen',
            on_exit=Shutdown(reason='the replay has ended'),
        )
    ]
