"""Plans on disk: found again, never half written, rebuilt once, refused with a way out."""

import errno
import json
import multiprocessing
import os
from dataclasses import replace
from pathlib import Path

import pytest

from panoptic_ros.engines import tensorrt
from panoptic_ros.engines.tensorrt import BuildOptions, EngineCache, open_cached
from panoptic_ros.engines.tensorrt.cache import Entry, Identity
from panoptic_ros.engines.tensorrt.runtime import PlanError
from panoptic_ros.errors import EngineError
from panoptic_ros.model import Model

IDENTITY = Identity(
    model='m',
    onnx_sha256='a' * 64,
    options=BuildOptions(),
    library='tensorrt',
    tensorrt='10.3.0',
    gpu='Orin',
    compute_capability='8.7',
    cuda='12.6',
)


@pytest.fixture
def model(tiny_model):
    return Model.load(tiny_model)


def only(folder, pattern):
    (path,) = folder.glob(pattern)
    return path


@pytest.mark.parametrize(
    'change',
    [
        {'onnx_sha256': 'b' * 64},
        {'options': BuildOptions((('builder_optimization_level', '5'),))},
        {'tensorrt': '10.3.1'},
        {'gpu': 'Thor'},
        {'compute_capability': '8.6'},
        {'cuda': '12.8'},
    ],
)
def test_every_part_of_the_identity_is_in_the_key(change):
    assert replace(IDENTITY, **change).stem != IDENTITY.stem


def test_what_is_stored_is_found(tmp_path):
    cache = EngineCache(tmp_path / 'new')
    assert cache.entries() == []
    first = cache.store(IDENTITY, b'plan', 12.5)
    fast = replace(IDENTITY, options=BuildOptions((('builder_optimization_level', '5'),)))
    second = cache.store(fast, b'other', 1)
    assert cache.entries() == [second, first]
    assert cache.get(IDENTITY) == first
    assert cache.newest(IDENTITY) == second
    assert cache.newest(replace(IDENTITY, gpu='Thor')) is None
    assert cache.load(first) == b'plan'
    assert sorted(path.suffix for path in cache.folder.iterdir()) == [
        '.engine',
        '.engine',
        '.json',
        '.json',
    ]


def test_the_json_says_what_it_is(tmp_path):
    cache = EngineCache(tmp_path)
    cache.store(IDENTITY, b'plan', 12.5)
    content = json.loads(only(tmp_path, '*.json').read_text())
    assert content['identity']['tensorrt'] == '10.3.0'
    assert content['plan_bytes'] == 4


@pytest.mark.parametrize(
    'content', [b'', b'{}', b'[]', b'null', b'{"identity": 3}', b'\xff', b'{"identity": {}}']
)
def test_a_json_that_is_not_ours_is_no_entry(tmp_path, content):
    cache = EngineCache(tmp_path)
    cache.store(IDENTITY, b'plan', 1)
    only(tmp_path, '*.json').write_bytes(content)
    assert cache.entries() == []
    assert cache.get(IDENTITY) is None


def test_folder_from_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv('PANOPTIC_ENGINE_CACHE', str(tmp_path / 'a'))
    assert EngineCache().folder == tmp_path / 'a'
    assert EngineCache(tmp_path / 'b').folder == tmp_path / 'b'
    monkeypatch.delenv('PANOPTIC_ENGINE_CACHE')
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    assert EngineCache().folder == tmp_path / 'panoptic_ros' / 'tensorrt'


@pytest.mark.parametrize('damage', ['truncated', 'changed', 'missing'])
def test_a_damaged_plan_is_rebuilt_once(
    install, version, model, world, cache_folder, caplog, damage
):
    install(version)
    tensorrt.open(model).close()
    path = only(cache_folder, '*.engine')
    good = path.read_bytes()
    if damage == 'missing':
        path.unlink()
    else:
        path.write_bytes(good[:100] if damage == 'truncated' else b'x' + good[1:])
    engine = tensorrt.open(model, reason='auto')
    assert world.builds == 2
    why = 'cannot be read' if damage == 'missing' else 'is damaged'
    assert why in engine.description.reason
    assert why in caplog.text
    engine.close()
    assert path.read_bytes() == good


def test_a_plan_of_another_version_is_rebuilt_once(install, model, world, cache_folder):
    """A plan under the right name that TensorRT does not take: its own check finds it."""
    install('10.3.0')
    tensorrt.open(model).close()
    theirs = only(cache_folder, '*.engine').read_bytes()
    install('10.13.3.9')
    (cache_folder / 'x').mkdir()
    cache = EngineCache()
    here = tensorrt.Installation.find()
    cache.store(Identity.of(model, BuildOptions(), here), theirs, 1)
    engine = tensorrt.open(model)
    assert 'built with 10.3.0, not 10.13.3.9' in engine.description.reason
    assert world.builds == 2
    engine.close()


def test_a_rebuilt_plan_that_does_not_load_either_is_an_error(install, model, world, monkeypatch):
    fake = install()
    tensorrt.open(model).close()
    monkeypatch.setattr(fake.Runtime, 'do_deserialize_cuda_engine', lambda self, plan: None)
    with pytest.raises(PlanError, match='cannot load the plan: it gave no reason'):
        tensorrt.open(model)
    assert world.builds == 2


def test_engines_for_other_machines_are_named(install, model):
    install('10.3.0')
    tensorrt.open(model).close()
    install('11.4.0.106')
    with pytest.raises(EngineError) as caught:
        open_cached(model)
    message = str(caught.value)
    assert 'for tensorrt 11.4.0.106, Stub GPU (compute capability 8.7), CUDA 12.6' in message
    assert 'only for tensorrt 10.3.0, Stub GPU (8.7), CUDA 12.6;' in message
    assert message.endswith('run: panoptic build-engine tiny')


def refuse(monkeypatch, number):
    """Let every file that is opened for writing in a cache fail."""

    def mkstemp(**_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr('panoptic_ros.engines.tensorrt.cache.tempfile.mkstemp', mkstemp)


@pytest.mark.parametrize(
    ('number', 'message'),
    [
        (errno.ENOSPC, r'No space left on device\); free 1 MiB, or choose another folder'),
        (errno.EACCES, r'Permission denied\); choose another folder with --cache'),
    ],
)
def test_a_disk_that_takes_nothing(install, model, monkeypatch, number, message):
    install()
    refuse(monkeypatch, number)
    with pytest.raises(EngineError, match=message):
        tensorrt.open(model)


def test_a_half_written_file_is_taken_away(tmp_path, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, 'No space left on device')

    monkeypatch.setattr('panoptic_ros.engines.tensorrt.cache.os.fsync', full)
    with pytest.raises(EngineError, match='No space left'):
        EngineCache(tmp_path).store(IDENTITY, b'plan', 1)
    assert list(tmp_path.iterdir()) == []


def test_a_read_only_folder_is_found_before_the_build(install, model, world, tmp_path):
    install()
    blocked = tmp_path / 'file'
    blocked.write_text('')  # no folder can be made here, whoever asks
    with pytest.raises(EngineError, match=r'the engine cache .* is not writable'):
        tensorrt.open(model, cache_folder=blocked / 'cache')
    assert world.builds == 0


def test_a_read_only_folder_with_the_plan_in_it_is_enough(install, model, world, monkeypatch):
    install()
    tensorrt.open(model).close()
    refuse(monkeypatch, errno.EROFS)
    monkeypatch.setattr(EngineCache, 'lock', lambda *_: pytest.fail('no lock is needed to read'))
    tensorrt.open(model).close()
    assert world.builds == 1


def write_often(folder, letter):
    cache = EngineCache(folder)
    for _ in range(30):
        with cache.lock(IDENTITY):
            before = cache.get(IDENTITY)
            if before is not None:
                assert len(set(cache.load(before))) == 1
            cache.store(IDENTITY, letter * 100_000, 1)


@pytest.mark.process
def test_two_processes_do_not_spoil_each_others_plan(tmp_path):
    context = multiprocessing.get_context('fork')
    writers = [
        context.Process(target=write_often, args=(tmp_path, letter)) for letter in (b'a', b'b')
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0, 0]
    cache = EngineCache(tmp_path)
    (entry,) = cache.entries()
    assert len(set(cache.load(entry))) == 1
    assert isinstance(entry, Entry)
    assert not [path for path in Path(tmp_path).iterdir() if path.suffix not in SUFFIXES]


SUFFIXES = ('.engine', '.json', '.lock')


def test_who_waited_for_the_lock_takes_what_the_other_built(install, model, world, monkeypatch):
    install()
    cache = EngineCache()
    opened = tensorrt.build_engine(model, BuildOptions())
    opened.engine.close()
    # As if there had been nothing when this process looked, before it waited for the lock.
    monkeypatch.setattr(EngineCache, 'newest', lambda *_: None)
    engine = tensorrt.open(model, reason='auto')
    assert engine.description.reason == 'auto; CUDA graph'
    assert world.builds == 1
    engine.close()
    assert len(cache.entries()) == 1


@pytest.mark.parametrize('what', ['folder', 'plan'])
def test_a_plan_that_everybody_may_write_is_not_run(install, model, world, cache_folder, what):
    install()
    tensorrt.open(model).close()
    path = cache_folder if what == 'folder' else only(cache_folder, '*.engine')
    path.chmod(path.stat().st_mode | 0o002)
    with pytest.raises(EngineError, match=r'is world-writable .*chmod o-w'):
        tensorrt.open(model)
    assert world.builds == 1


def test_nothing_is_built_into_a_folder_that_everybody_may_write_to(
    install, model, world, cache_folder
):
    install()
    cache_folder.mkdir()
    cache_folder.chmod(0o777)
    with pytest.raises(EngineError, match='is world-writable'):
        tensorrt.open(model)
    assert world.builds == 0


def test_the_folder_is_made_for_its_owner_whatever_the_umask(tmp_path):
    before = os.umask(0)
    try:
        EngineCache(tmp_path / 'new').store(IDENTITY, b'plan', 1)
    finally:
        os.umask(before)
    assert (tmp_path / 'new').stat().st_mode & 0o022 == 0


def die_while_writing(folder):
    """Be killed when half of the plan is on the disk."""
    import panoptic_ros.engines.tensorrt.cache as module

    module.os.fsync = lambda _: os.kill(os.getpid(), 9)
    cache = EngineCache(folder)
    with cache.lock(IDENTITY):
        cache.store(IDENTITY, b'plan', 1)


@pytest.mark.process
def test_a_process_killed_while_writing_leaves_no_plan_and_its_draft_goes(tmp_path):
    writer = multiprocessing.get_context('fork').Process(
        target=die_while_writing, args=(tmp_path,)
    )
    writer.start()
    writer.join()
    assert writer.exitcode == -9
    cache = EngineCache(tmp_path)
    assert cache.entries() == []
    assert not cache.plan_path(IDENTITY).exists()
    assert list(tmp_path.glob('*.engine.*'))
    with cache.lock(IDENTITY):
        assert not list(tmp_path.glob('*.engine.*'))
        cache.store(IDENTITY, b'plan', 1)
    assert cache.load(cache.get(IDENTITY)) == b'plan'


def test_a_model_name_does_not_lead_out_of_the_folder(own_tiny_model, tmp_path):
    from panoptic_ros.errors import ModelError

    card = own_tiny_model / 'card.yaml'
    card.write_text(card.read_text().replace('name: tiny', 'name: ../../evil'))
    with pytest.raises(ModelError, match='no slash'):
        Model.load(own_tiny_model)
