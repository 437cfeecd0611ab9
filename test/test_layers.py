"""The layers of the package, read from the imports of every module.

A new module needs no change here. A new top-level part needs a place in ``LAYERS``.
"""

import ast
import functools
import graphlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
NAME = 'panoptic_ros'

# Lowest first. A part (a folder or a module of the top level) may import itself and the parts of
# the rows above its own.
LAYERS = (
    {'errors', 'untrusted', 'resources', 'image_files'},
    {'labels', 'runs'},
    {'panoptic'},
    {'packing', 'model', 'compressed', 'sources', 'visualize', 'consumers'},
    {'fusion', 'scene'},
    {'engines'},
    {'segmenter'},
    {'cluster'},
    {'datasets'},
    {'evaluation'},
    {'training', 'large'},
    {'importing'},
    {'ros'},
    {'benchmark'},
    {'cli'},
    {'__main__'},
)
LEVELS = {part: level for level, parts in enumerate(LAYERS) for part in parts}

ROS_PACKAGES = {'rclpy', 'rosbags', 'tf2_ros', 'launch', 'launch_ros', 'builtin_interfaces'}
# Modules outside ros/ and benchmark/ that may import ROS: commands that write or start it.
ROS_COMMANDS = {'cli.rviz'}
TORCH_PACKAGES = {'torch', 'torchvision', 'timm', 'transformers'}
TORCH_PARTS = {'training', 'importing'}
TORCH_COMMANDS = {'cli.training.train', 'cli.training.prune'}
RUNTIME_PARTS = {part for part in LEVELS if LEVELS[part] <= LEVELS['segmenter']} | {'ros'}

MAX_LINES = 600
MAX_MODULES = 15
# These lists only shrink: an entry that is no longer needed fails the test.
LONG_FILES: set[str] = set()
FULL_FOLDERS: set[str] = set()
UPWARD: set[tuple[str, str]] = set()
CIRCLES: set[tuple[str, str]] = set()


class Import(NamedTuple):
    """One import statement: who imports what, where."""

    importer: str  # dotted, without the package's name
    imported: str  # dotted, as written
    line: int

    def __str__(self) -> str:
        return f'{self.importer} imports {self.imported} (line {self.line})'


def modules() -> dict[str, Path]:
    """Return the files of all modules by dotted name without ``panoptic_ros.``."""
    found = {}
    for path in sorted((ROOT / NAME).rglob('*.py')):
        parts = path.relative_to(ROOT / NAME).with_suffix('').parts
        found['.'.join(parts[:-1] if parts[-1] == '__init__' else parts)] = path
    return found


MODULES = modules()


def imports_of(name: str, source: str) -> Iterator[Import]:
    """Yield every import of a module, also those inside functions and ``TYPE_CHECKING``."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (Import(name, alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f'{name}, line {node.lineno}: a relative import'
            for alias in node.names:
                module = f'{node.module}.{alias.name}'
                known = module.removeprefix(f'{NAME}.') in MODULES
                yield Import(name, module if known else str(node.module), node.lineno)


@functools.cache
def all_imports() -> list[Import]:
    return [i for name, path in MODULES.items() for i in imports_of(name, path.read_text())]


@functools.cache
def internal_imports() -> list[Import]:
    """Return the imports of the package's modules, without ``panoptic_ros.``."""
    return [
        i._replace(imported=i.imported.partition('.')[2])
        for i in all_imports()
        if i.imported.partition('.')[0] == NAME
    ]


def part(module: str) -> str:
    return module.partition('.')[0]


def external(packages: set[str]) -> Iterator[Import]:
    """Yield the imports of some packages and, for ROS, of every message package."""
    for i in all_imports():
        package = part(i.imported)
        if package in packages or ('rclpy' in packages and package.endswith('_msgs')):
            yield i


def reachable(start: set[str]) -> set[str]:
    """Return the modules that some modules import, directly or not, with themselves."""
    found, new = set(), set(start)
    while new:
        found |= new
        new = {i.imported for i in internal_imports() if i.importer in new} - found
    return found


def test_every_part_has_a_layer():
    assert {part(module) for module in MODULES} - {''} - LEVELS.keys() == set()


def test_imports_point_to_lower_layers():
    upward = {
        (i.importer, i.imported): str(i)
        for i in internal_imports()
        if i.imported  # the package itself holds only its version
        and part(i.imported) != part(i.importer)
        and LEVELS[part(i.imported)] >= LEVELS[part(i.importer)]
    }
    assert [upward[pair] for pair in upward.keys() - UPWARD] == []
    assert UPWARD - upward.keys() == set(), 'remove what is gone from UPWARD'


def test_no_circular_imports():
    pairs = {(i.importer, i.imported) for i in internal_imports() if i.imported}
    pairs = {pair for pair in pairs if pair[0] != pair[1]}
    graph: dict[str, set[str]] = {module: set() for module in MODULES}
    for importer, imported in pairs - CIRCLES:
        graph[importer].add(imported)
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        pytest.fail(f'circular import: {" -> ".join(error.args[1])}')
    closing = {pair for pair in pairs & CIRCLES if pair[0] in reachable({pair[1]})}
    assert CIRCLES - closing == set(), 'remove what is no longer a circle from CIRCLES'


def test_ros_is_imported_only_by_the_node_the_benchmarks_and_their_commands():
    outside = {
        i.importer for i in external(ROS_PACKAGES) if part(i.importer) not in {'ros', 'benchmark'}
    }
    assert outside == ROS_COMMANDS


def test_tensorrt_is_imported_only_by_its_engine():
    bindings = {i.importer for i in external({'tensorrt', 'nvidia', 'cuda', 'pycuda'})}
    assert {m for m in bindings if not m.startswith('engines.tensorrt')} == set()
    users = {i.importer for i in internal_imports() if i.imported.startswith('engines.tensorrt')}
    assert {m for m in users if not m.startswith(('engines.tensorrt', 'cli.'))} == set()


def test_torch_is_imported_only_by_training_and_importing():
    outside = {i.importer for i in external(TORCH_PACKAGES) if part(i.importer) not in TORCH_PARTS}
    assert outside == TORCH_COMMANDS


def test_the_runtime_imports_no_torch():
    runtime = reachable({module for module in MODULES if part(module) in RUNTIME_PARTS})
    torch = {i.importer for i in external(TORCH_PACKAGES)}
    assert runtime & torch == set()
    assert runtime & {m for m in MODULES if part(m) in TORCH_PARTS} == set()


def python_files() -> list[Path]:
    folders = (NAME, 'test', 'launch')
    return sorted(path for folder in folders for path in (ROOT / folder).rglob('*.py'))


def test_files_are_short():
    long = {
        path.relative_to(ROOT).as_posix()
        for path in python_files()
        if len(path.read_text(encoding='utf-8').splitlines()) > MAX_LINES
    }
    assert long - LONG_FILES == set(), f'more than {MAX_LINES} lines'
    assert LONG_FILES - long == set(), 'remove what is short now from LONG_FILES'


def test_folders_are_small():
    files = [p for p in python_files() if p.name not in {'__init__.py', 'conftest.py'}]
    folders = [path.parent.relative_to(ROOT).as_posix() for path in files]
    full = {folder for folder in folders if folders.count(folder) > MAX_MODULES}
    assert full - FULL_FOLDERS == set(), f'more than {MAX_MODULES} modules'
    assert FULL_FOLDERS - full == set(), 'remove what is small now from FULL_FOLDERS'


@pytest.mark.parametrize(
    ('source', 'expected'),
    [
        ('import torch.nn as nn', 'torch.nn'),
        ('def f():\n    from panoptic_ros import labels', 'panoptic_ros.labels'),
        ('from panoptic_ros.labels import LabelSet', 'panoptic_ros.labels'),
        ('if TYPE_CHECKING:\n    import rclpy', 'rclpy'),
    ],
)
def test_every_form_of_import_is_seen(source, expected):
    assert [i.imported for i in imports_of('x', source)] == [expected]
