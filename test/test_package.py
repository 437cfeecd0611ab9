"""What the packaging promises: pip, colcon and the ROS tools are told the same."""

import ast
import re
import sys
import xml.etree.ElementTree as ElementTree
from configparser import ConfigParser
from pathlib import Path

import pytest
from support.processes import is_unmarked_start

import panoptic_ros
from panoptic_ros.errors import one_line

ROOT = Path(__file__).parents[1]
TOP_LEVEL = {
    'package.xml',
    'setup.py',
    'setup.cfg',
    'pyproject.toml',
    'panoptic_ros',
    'launch',
    'config',
    'models',
    'test',
    'resource',
    'README.md',
    'CONTRIBUTING.md',
    'doc',
    'LICENSE',
    'Makefile',
    'CHANGELOG.rst',
    '.ci',
    '.gitignore',
}


@pytest.fixture(scope='module')
def manifest():
    return ElementTree.parse(ROOT / 'package.xml').getroot()


@pytest.fixture
def setup_arguments(monkeypatch):
    """Return what setup.py passes to setup()."""
    setuptools = pytest.importorskip('setuptools')
    taken = {}
    monkeypatch.setattr(setuptools, 'setup', lambda **arguments: taken.update(arguments))
    monkeypatch.chdir(ROOT)
    code = compile((ROOT / 'setup.py').read_text(), 'setup.py', 'exec')
    exec(code, {'__name__': 'setup'})
    return taken


def test_package_xml_and_setup_py_agree(manifest, setup_arguments):
    maintainer, author = manifest.find('maintainer'), manifest.find('author')
    said = {
        'name': manifest.findtext('name'),
        'version': manifest.findtext('version'),
        'description': manifest.findtext('description'),
        'license': manifest.findtext('license'),
        'url': manifest.findtext('url'),
        'author': author.text,
        'author_email': author.get('email'),
        'maintainer': maintainer.text,
        'maintainer_email': maintainer.get('email'),
    }
    assert said == {name: setup_arguments[name] for name in said}


def test_version_is_the_package_s(manifest):
    assert panoptic_ros.__version__ == manifest.findtext('version')


def test_ros_release_tools_find_the_version_in_setup_py():
    # catkin_prepare_release replaces exactly one literal of this form.
    found = re.findall(r"version='(\d+\.\d+\.\d+)',", (ROOT / 'setup.py').read_text())
    assert found == [panoptic_ros.__version__]


def test_the_changelog_ends_with_this_version():
    changelog = (ROOT / 'CHANGELOG.rst').read_text(encoding='utf-8')
    versions = re.findall(r'^(\d+\.\d+\.\d+) \(', changelog, re.MULTILINE)
    assert versions[0] == panoptic_ros.__version__


def test_it_is_an_ament_python_package(manifest):
    assert manifest.findtext('export/build_type') == 'ament_python'
    # Without a valid address, colcon takes the package for plain Python, and says nothing.
    assert re.fullmatch(r'[\w.-]+@[\w-]+(\.[\w-]+)+', manifest.find('maintainer').get('email'))
    options = ConfigParser()
    options.read(ROOT / 'setup.cfg')
    assert options['install']['install_scripts'] == '$base/lib/panoptic_ros'
    assert (ROOT / 'resource' / 'panoptic_ros').is_file()


def test_every_resource_is_installed(setup_arguments):
    installed = {file for _, files in setup_arguments['data_files'] for file in files}
    for folder in ('launch', 'config', 'models'):
        expected = {
            path.relative_to(ROOT).as_posix()
            for path in (ROOT / folder).rglob('*')
            if path.is_file() and '__pycache__' not in path.parts
        }
        assert expected <= installed, folder
    for target, files in setup_arguments['data_files']:
        for file in files:
            if not file.startswith('resource/'):
                assert Path(target) == Path('share/panoptic_ros') / Path(file).parent


def test_every_package_is_installed(setup_arguments):
    on_disk = {
        '.'.join(path.parent.relative_to(ROOT).parts)
        for path in (ROOT / 'panoptic_ros').rglob('__init__.py')
    }
    assert set(setup_arguments['packages']) == on_disk
    folders = {path.parent for path in (ROOT / 'panoptic_ros').rglob('*.py')}
    without = [str(f) for f in folders if not (f / '__init__.py').is_file()]
    assert not without, 'folders with modules but no __init__.py are not installed'
    assert (ROOT / 'panoptic_ros' / 'py.typed').is_file()


def test_ros_packages_that_are_imported_are_declared(manifest):
    declared = {element.text for element in manifest.findall('exec_depend')}
    imported = set()
    for path in [*(ROOT / 'panoptic_ros').rglob('*.py'), *(ROOT / 'launch').glob('*.py')]:
        imported |= set(re.findall(r'^\s*(?:from|import) (\w+)', path.read_text(), re.MULTILINE))
    ros = {name for name in imported if name.endswith('_msgs') or name.startswith('launch')}
    ros |= imported & {'rclpy', 'ament_index_python', 'builtin_interfaces'}
    ros |= imported & {'cv_bridge', 'sensor_msgs_py'}
    assert ros <= declared


def test_entry_points_exist(setup_arguments):
    scripts = setup_arguments['entry_points']['console_scripts']
    named = dict(script.split(' = ') for script in scripts)
    assert named.keys() == {'segment', 'camera', 'replay_benchmark', 'panoptic'}
    for value in named.values():
        module, _, function = value.partition(':')
        path = ROOT.joinpath(*module.split('.'))
        path = path / '__init__.py' if path.is_dir() else path.with_suffix('.py')
        assert re.search(rf'^def {function}\(', path.read_text(), re.MULTILINE), value


def test_constraints_pin_what_is_installed_directly():
    lines = (ROOT / '.ci' / 'constraints.txt').read_text().splitlines()
    pins = [line for line in lines if not line.startswith('#')]
    names = {line.partition('==')[0].lower().replace('_', '-') for line in pins}
    wanted = {'numpy', 'opencv-python-headless', 'scipy', 'onnxruntime', 'openvino', 'torch'}
    wanted |= {'ros-kilted-rclpy', 'ros-kilted-rmw-fastrtps-cpp', 'pytest', 'ruff'}
    assert wanted <= names
    # A second pin of the same name is for Python 3.10.
    unmarked = [line.partition('==')[0] for line in pins if 'python_version < ' not in line]
    assert len(unmarked) == len(set(unmarked)), 'something is pinned twice'


def test_top_level_is_what_it_should_be():
    git = ROOT / '.git'
    if not git.exists():
        pytest.skip('not a git checkout')
    import subprocess

    listed = subprocess.run(
        ['git', 'ls-files'], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert {line.split('/')[0] for line in listed.splitlines()} <= TOP_LEVEL


def test_no_named_tuple_has_a_second_base():
    # Python 3.10 refuses such a class, and no static check in use finds it.
    found = [
        f'{path.relative_to(ROOT)}: {node.name}'
        for folder in ('panoptic_ros', 'test', 'launch')
        for path in (ROOT / folder).rglob('*.py')
        for node in ast.walk(ast.parse(path.read_text(encoding='utf-8')))
        if isinstance(node, ast.ClassDef) and len(node.bases) > 1
        if 'NamedTuple' in {ast.unparse(base).rpartition('.')[2] for base in node.bases}
    ]
    assert found == []


@pytest.mark.parametrize(
    ('event', 'program', 'markers', 'expected'),
    [
        ('subprocess.Popen', sys.executable, set(), True),
        ('subprocess.Popen', sys.executable, {'process'}, False),
        ('subprocess.Popen', '/usr/bin/gcc', set(), False),
        ('os.fork', '', set(), True),
        ('open', '', set(), False),
    ],
)
def test_a_test_that_starts_a_program_needs_the_marker(event, program, markers, expected):
    assert is_unmarked_start(event, (program,), markers) is expected


@pytest.mark.process
def test_runtime_does_not_import_torch_or_ros():
    import subprocess

    code = (
        'import sys, panoptic_ros.segmenter, panoptic_ros.cli, panoptic_ros.engines; '
        "print(sorted({'torch', 'rclpy', 'tensorrt'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == '[]'


def test_texts_of_errors_are_one_line_of_bounded_length() -> None:
    assert one_line(ValueError('a\n  b')) == 'a b'
    assert one_line(EOFError()) == 'EOFError'
    assert one_line(ValueError('x' * 400)) == 'x' * 300 + '...'
