"""Reference pages and the parameter file, written from the tables in the code.

``PYTHONPATH=. python test/support/reference.py`` writes them; ``test/ros/test_reference.py``
compares them.
"""

import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import fields
from pathlib import Path

import yaml

from panoptic_ros.ros.diagnostics import STAGES
from panoptic_ros.ros.inputs import INPUTS
from panoptic_ros.ros.outputs import OTHER_OUTPUTS, OUTPUTS
from panoptic_ros.ros.parameters import PARAMETERS, SECTIONS, Structure, declaration

ROOT = Path(__file__).parents[2]
FIXED = frozenset(f.name for f in fields(Structure))

YAML_HEAD = """\
# Parameters of the segmentation node, all with their default values. Written from the code by
# test/support/reference.py.
#   ros2 launch panoptic_ros segment.launch.py params_file:=my.yaml
#   ros2 run panoptic_ros segment --ros-args --params-file my.yaml
# Floating-point numbers need a decimal point (2.0, not 2): ROS refuses an integer there.

/**:
  ros__parameters:
"""

PARAMETERS_HEAD = """\
# Parameters

Parameters of the node `segment`, written from the code by `test/support/reference.py`. Each one
can be given

* in a parameter file: `ros2 launch panoptic_ros segment.launch.py params_file:=my.yaml`, starting
  from `config/segment.yaml`, which lists all of them with their defaults;
* on the launch line: `ros2 launch panoptic_ros segment.launch.py model:=street-lite depth:=true`,
  which takes precedence over the file;
* with `ros2 run panoptic_ros segment --ros-args -p depth:=true`;
* at run time with `ros2 param set /segment NAME VALUE`, unless it is marked as fixed.

Parameters marked *fixed* can change only while the node is unconfigured (`ros2 lifecycle set
/segment cleanup`); a change of all others applies from the next image on. Floating-point numbers
need a decimal point in YAML (`2.0`, not `2`). `ros2 param describe /segment NAME` shows the range.
The file that `ros2 param dump` writes can be loaded again.

The quality of service of every topic can be overridden, for example
`qos_overrides./segment/overlay.publisher.reliability: best_effort`. The name is the resolved name
of the topic, with namespace and remapping; the policies are history, depth, reliability and
durability. An override that matches no topic is reported in the log.
"""

TOPICS_HEAD = """\
# Topics

Topics of the node `segment`, written from the code by `test/support/reference.py`. Names that
begin with `~/` are relative to the node: `~/semantic` is `/segment/semantic` without a namespace.

Every message that is built from an image has the header of that image, bit for bit (`~/free_space`
in a `target_frame` has the name of that frame). Messages are built only if their topic has a
subscriber; without any subscriber images are not segmented. Void is 255 in `~/semantic` and 0 in
`~/instance`.

With the parameter `cameras` each camera has these topics, `<camera>/image`,
`~/<camera>/semantic` and so on, apart from `/tf_static` and `/diagnostics`; see
[cameras](cameras.md).
"""


def sections() -> Iterator[tuple[str, list[str]]]:
    """Yield each heading and its parameters, in order."""
    names = list(PARAMETERS)
    starts = [*map(names.index, SECTIONS.values()), len(names)]
    for heading, start, stop in zip(SECTIONS, starts[:-1], starts[1:], strict=True):
        yield heading, names[start:stop]


def values_of(name: str) -> str:
    """Return the allowed values of a parameter, empty for any."""
    declared, default = declaration(PARAMETERS[name]), PARAMETERS[name].default
    if isinstance(default, bool):
        return ''
    if isinstance(default, str):
        return declared.constraint
    return f'{declared.low} to {declared.high} {declared.unit}'.rstrip()


def as_yaml(value: object) -> str:
    """Return a value as it is written in YAML."""
    return yaml.safe_dump(value).removesuffix('...\n').strip()


def parameter_file() -> str:
    """Return ``config/segment.yaml``."""
    text = YAML_HEAD
    for heading, names in sections():
        text += f'\n    # ---- {heading} ----\n'
        for name in names:
            declared = declaration(PARAMETERS[name])
            allowed = values_of(name)
            comment = declared.description + (f'. Values: {allowed}' if allowed else '')
            comment += '. Fixed at start.' if declared.read_only else '.'
            if name in FIXED and not declared.read_only:
                comment += ' Fixed while configured.'
            lines = textwrap.wrap(comment, 92, break_on_hyphens=False, break_long_words=False)
            text += '\n' + ''.join(f'    # {line}\n' for line in lines)
            text += f'    {name}: {as_yaml(PARAMETERS[name].default)}\n'
    return text


def table(columns: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Return a table in Markdown."""
    columns = list(columns)
    lines = [columns, ['---'] * len(columns), *rows]
    text = ['| ' + ' | '.join(cell.replace('|', r'\|') for cell in line) + ' |' for line in lines]
    return '\n'.join(text) + '\n'


def parameters_page() -> str:
    """Return ``doc/parameters.md``."""
    text = PARAMETERS_HEAD
    for heading, names in sections():
        rows = [parameter_row(name) for name in names]
        columns = ('parameter', 'default', 'values', 'meaning')
        text += f'\n## {heading}\n\n{table(columns, rows)}'
    return text


def parameter_row(name: str) -> list[str]:
    """Return the row of a parameter."""
    declared, default = declaration(PARAMETERS[name]), PARAMETERS[name].default
    values = values_of(name) or ('true, false' if isinstance(default, bool) else 'text')
    fixed = ' *Fixed.*' if name in FIXED else ''
    if declared.read_only:
        fixed = ' *Fixed at start.*'
    return [f'`{name}`', f'`{as_yaml(default)}`', values, f'{declared.description}.{fixed}']


def topics_page() -> str:
    """Return ``doc/topics.md``."""
    columns = ('topic', 'type', 'contents', 'if')
    inputs = [
        [
            f'`{given.topic}`',
            given.type_name,
            given.description,
            f'`{given.parameter}`' if given.parameter else 'always',
        ]
        for given in INPUTS
    ]
    outputs = [
        [
            f'`{output.topic}`',
            output.type_name,
            output.description,
            f'`{output.parameter}: true`' if output.parameter else 'always',
        ]
        for output in OUTPUTS
    ]
    others = [
        [f'`{topic}`', type_name, contents, 'always']
        for topic, (type_name, contents) in OTHER_OUTPUTS.items()
    ]
    stages = [[f'`{stage} (ms)`', meaning] for stage, meaning in STAGES.items()]
    return (
        f'{TOPICS_HEAD}\n## Subscribed\n\nBest effort, depth 1. Remap the names on the left, or '
        f'use the arguments of the launch file.\n\n{table(columns, inputs)}'
        '\n## Published\n\nReliable, depth 1, in this order for every image. Topics of '
        '`vision_msgs` and `nav_msgs`\nexist where these packages are installed.\n\n'
        f'{table(columns, outputs + others)}'
        '\n## Stages\n\nKeys of `~/timing`, and of the percentiles in `/diagnostics` (p50, p95 '
        f'and p99 of the latest 512\nimages).\n\n{table(("key", "time"), stages)}'
        + (ROOT / 'test' / 'support' / 'topics_notes.md').read_text(encoding='utf-8')
    )


FILES = {
    'config/segment.yaml': parameter_file,
    'doc/parameters.md': parameters_page,
    'doc/topics.md': topics_page,
}

if __name__ == '__main__':
    for path, text in FILES.items():
        (ROOT / path).write_text(text(), encoding='utf-8')
