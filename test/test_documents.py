"""README, CONTRIBUTING and doc/ name only what exists: commands, paths, topics, links, figures."""

import argparse
import ast
import re
import shlex
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml

from panoptic_ros.cli import COMMANDS

ROOT = Path(__file__).parents[1]
PAGES = sorted({ROOT / 'README.md', ROOT / 'CONTRIBUTING.md', *(ROOT / 'doc').rglob('*.md')})
FENCE = re.compile(r'^```\w*\n(.*?)^```', re.MULTILINE | re.DOTALL)
LINK = re.compile(r'\[[^\]]*\]\(([^)\s]+)\)')
FOLDERS = ('panoptic_ros', 'config', 'launch', 'models', 'test', 'doc', '.ci')
MAX_LINES, MAX_WORDS = 160, 1600

each_page = pytest.mark.parametrize('page', PAGES, ids=lambda path: path.name)


def text_of(page: Path) -> str:
    return page.read_text(encoding='utf-8')


def commands(page: Path) -> Iterator[str]:
    """Yield the command lines of a page: those in fences, continued lines joined, and spans."""
    text = text_of(page)
    for block in FENCE.findall(text):
        yield from (line.strip() for line in block.replace('\\\n', ' ').splitlines())
    yield from (' '.join(span.split()) for span in spans(text))


def spans(text: str) -> list[str]:
    return re.findall(r'`([^`\n]+(?:\n[^`\n]+)?)`', FENCE.sub('', text))


def words(command: str) -> list[str]:
    """Return the words of a command without its comment and what follows a pipe or redirection."""
    try:
        found = shlex.split(command, comments=True)
    except ValueError:  # a quotation mark of prose
        return []
    ends = (i for i, word in enumerate(found) if word in {'>', '|', '&&', ';'})
    return found[: next(ends, len(found))]


def test_readme_is_short():
    readme = text_of(ROOT / 'README.md')
    assert len(readme.splitlines()) <= MAX_LINES
    assert len(readme.split()) <= MAX_WORDS


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r'^#+ (.*)$', FENCE.sub('', text_of(page)), re.MULTILINE)
    return {re.sub(r'[^\w\- ]', '', h.lower()).replace(' ', '-') for h in headings}


@each_page
def test_links_lead_somewhere(page: Path):
    for link in LINK.findall(FENCE.sub('', text_of(page))):
        if urlsplit(link).scheme:
            continue
        path, _, anchor = link.partition('#')
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_every_page_is_in_the_index():
    index = ROOT / 'doc' / 'index.md'
    listed = {(index.parent / link).resolve() for link in LINK.findall(text_of(index))}
    pages = {page for page in PAGES if page.is_relative_to(ROOT / 'doc')} - {index}
    assert pages - listed == set()


@cache
def parser_of(name: str) -> argparse.ArgumentParser | None:
    """Return a command's parser; None if a package that the command needs is not installed."""
    command = next(c for c in COMMANDS if c.name == name)
    parser = argparse.ArgumentParser()
    try:
        module = import_module(command.module)
        module.configure(parser)
    except ModuleNotFoundError as error:
        if str(error.name).startswith('panoptic_ros'):
            raise
        return None
    return parser


@each_page
def test_commands_and_options_exist(page: Path):
    names = {command.name for command in COMMANDS}
    for line in commands(page):
        found = words(line.removeprefix('.venv/bin/'))
        if found[:1] != ['panoptic'] or len(found) < 2 or not re.fullmatch('[a-z-]+', found[1]):
            continue
        assert found[1] in names, line
        parser = parser_of(found[1])
        for word in found[2:]:
            option = word.partition('=')[0]
            if parser is not None and re.fullmatch('--[a-z][a-z-]*', option):
                assert option in parser._option_string_actions, line


@each_page
def test_targets_of_make_exist(page: Path):
    targets = set(re.findall(r'^([a-z-]+):', text_of(ROOT / 'Makefile'), re.MULTILINE))
    for line in commands(page):
        found = words(line)
        if found[:1] == ['make']:
            named = {word for word in found[1:] if re.fullmatch('[a-z-]+', word)}
            assert named <= targets, line


@each_page
def test_modules_and_scripts_exist(page: Path):
    for line in commands(page):
        found = words(line)
        if found[:1] in (['python'], ['python3']) and found[1:2] == ['-m']:
            assert not found[2].startswith('panoptic_ros') or module_exists(found[2]), line
        elif found[:1] in (['python'], ['python3']) and found[1:2]:
            assert (ROOT / found[1]).is_file(), line
    for name in re.findall(r'`(panoptic_ros(?:\.\w+)+)`', text_of(page)):
        assert module_exists(name), name


def module_exists(name: str) -> bool:
    """Return whether a module, or a name in it, exists, without importing it."""
    path = ROOT.joinpath(*name.split('.'))
    if path.with_suffix('.py').is_file() or (path / '__init__.py').is_file():
        return True
    module, _, attribute = name.rpartition('.')
    parent = ROOT.joinpath(*module.split('.'))
    files = [parent.with_suffix('.py'), parent / '__init__.py']
    defined = '\n'.join(text_of(file) for file in files if file.is_file())
    return re.search(rf'\b{attribute}\b', defined) is not None


@each_page
def test_paths_exist(page: Path):
    for word in {word for span in spans(text_of(page)) for word in span.split()}:
        path = word.rstrip('/.,:')
        if (
            path.split('/')[0] not in FOLDERS
            or '/' not in path
            or re.search('[A-Z]{3}|[<{]', path)
        ):
            continue
        if re.fullmatch('models/[^/]+', path):  # models of the reader
            continue
        matches = list(ROOT.glob(path)) if '*' in path else [ROOT / path]
        assert matches, word
        assert all(match.exists() for match in matches), word


@cache
def strings_of_the_node() -> set[str]:
    """Return all literal texts in the node's sources."""
    trees = (ast.parse(text_of(path)) for path in (ROOT / 'panoptic_ros/ros').rglob('*.py'))
    nodes = (node for tree in trees for node in ast.walk(tree))
    return {n.value for n in nodes if isinstance(n, ast.Constant) and isinstance(n.value, str)}


@each_page
def test_topics_and_services_exist(page: Path):
    for topic in re.findall(r'`~/([\w/]+)`', text_of(page)):
        assert {topic, f'~/{topic}'} & strings_of_the_node(), topic


@each_page
def test_launch_arguments_exist(page: Path):
    for line in commands(page):
        found = words(line)
        if found[:2] != ['ros2', 'launch'] or len(found) < 4:
            continue
        launch_file = ROOT / 'launch' / found[3]
        assert launch_file.is_file(), line
        known = text_of(launch_file) + text_of(ROOT / 'panoptic_ros/ros/parameters.py')
        for word in found[4:]:
            name, assigned, _ = word.partition(':=')
            assert not assigned or re.search(rf'\b{name}\b', known), line


@each_page
def test_executables_exist(page: Path):
    installed = re.findall(r"'(\w+) = panoptic_ros", text_of(ROOT / 'setup.py'))
    for name in re.findall(r'ros2 run panoptic_ros (\w+)', text_of(page)):
        assert name in installed


def test_figures_of_the_readme_are_those_of_the_cards():
    rows = re.findall(r'^\| ([\w-]+) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|$',
                      text_of(ROOT / 'README.md'), re.MULTILINE)  # fmt: skip
    assert {row[0] for row in rows} == {'street-lite', 'street-lite2'}
    for name, *figures in rows:
        card = yaml.safe_load(text_of(ROOT / 'models' / name / 'card.yaml'))
        measured = {m['name']: m['value'] for m in card['metrics']}
        names = ('PQ', 'PQ_things', 'PQ_stuff', 'mIoU')
        expected = [measured[f'{metric} (onnxruntime float32)'] for metric in names]
        assert [float(figure) for figure in figures] == expected, name


def test_plain_english():
    """Words that the documents avoid because they hide the subject of a sentence."""
    tells = re.compile(r'\b(whoever|in vain|for ever|of its own|that is to be had)\b', re.I)
    found = {
        f'{page.relative_to(ROOT)}: {match.group()}'
        for page in PAGES
        for match in tells.finditer(text_of(page))
    }
    assert found == set()


def test_a_missing_name_is_seen(tmp_path: Path):
    page = tmp_path / 'page.md'
    page.write_text('`panoptic nothing`, `make nothing`, `config/nothing.yaml`, `~/nothing`\n')
    for check in (
        test_commands_and_options_exist,
        test_targets_of_make_exist,
        test_paths_exist,
        test_topics_and_services_exist,
    ):
        with pytest.raises(AssertionError, match='nothing'):
            check(page)
