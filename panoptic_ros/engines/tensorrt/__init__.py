"""TensorRT on an NVIDIA GPU: build a plan from the float16 ONNX file, cache, verify and run it.

The engine opens the plan built last for the model on this machine (``panoptic build-engine``, with
any options). If there is none, it builds one with the default options. Each time a plan is opened,
its outputs for the golden image are verified.

Modules: ``installation`` finds TensorRT, CUDA and the GPU; ``build`` compiles; ``cache`` stores
plans; ``runtime`` runs them with the functions of ``cuda``; ``verification`` compares outputs.
"""

import logging
import threading
from dataclasses import dataclass, replace
from pathlib import Path

from panoptic_ros.engines.tensorrt.build import BuildOptions, Progress, build_plan
from panoptic_ros.engines.tensorrt.cache import CACHE_VARIABLE, EngineCache, Entry, Identity
from panoptic_ros.engines.tensorrt.installation import (
    LIBRARIES,
    TENSORRT,
    TENSORRT_RTX,
    Installation,
    Library,
    load_tensorrt,
)
from panoptic_ros.engines.tensorrt.runtime import Layer, PlanError, TensorRtEngine
from panoptic_ros.engines.tensorrt.verification import Verification, verify
from panoptic_ros.errors import EngineError
from panoptic_ros.model import Model

__all__ = (
    'CACHE_VARIABLE',
    'LIBRARIES',
    'TENSORRT',
    'TENSORRT_RTX',
    'BuildOptions',
    'EngineCache',
    'Entry',
    'Installation',
    'Layer',
    'Opened',
    'Progress',
    'TensorRtEngine',
    'Verification',
    'build_engine',
    'build_portable',
    'open',
    'open_cached',
    'unavailable',
)

_log = logging.getLogger('panoptic_ros.tensorrt')


@dataclass(frozen=True)
class Opened:
    """An engine, its cache entry, and the verification of its outputs for the golden image."""

    engine: TensorRtEngine
    entry: Entry
    verification: Verification

    @property
    def fault(self) -> str:
        """What is wrong with the results; empty if nothing is."""
        return self.verification.fault

    def serve(self) -> TensorRtEngine:
        """Return the engine; close it and raise EngineError if its results are wrong."""
        if self.fault:
            self.engine.close()
            name = self.entry.identity.model
            raise EngineError(
                f'{self.engine.description} gives wrong results for the golden picture of model '
                f'{name!r}: {self.fault} ({self.verification}); build it anew with "panoptic '
                f'build-engine {name} --force" or choose another engine'
            )
        return self.engine


def unavailable(library: Library = TENSORRT) -> str:
    """Return why the library cannot run here, or an empty text."""
    try:
        Installation.find(library)
    except EngineError as error:
        return str(error)
    return ''


def open(  # noqa: A001
    model: Model,
    *,
    threads: int = 0,
    precision: str = 'auto',
    reason: str = '',
    cache_folder: str | Path | None = None,
    cancel: threading.Event | None = None,
    on_progress: Progress | None = None,
    library: Library = TENSORRT,
    batch: int = 1,
) -> TensorRtEngine:
    """Load the model's plan; build it first if the cache has none that loads.

    Parameters
    ----------
    model, threads, precision, reason
        See :mod:`panoptic_ros.engines`; there are no CPU threads to set, and the precision is
        always float16.
    cache_folder
        See :class:`EngineCache`.
    cancel, on_progress
        See :func:`build.build_plan`.
    library
        Which TensorRT.
    batch
        Number of images to compute at once; plans for another number are not taken.
    """
    if precision not in ('auto', 'float16'):
        raise EngineError(
            f'engine {library.name} cannot compute in {precision}; expected auto, which is '
            'float16, or take the engine openvino'
        )
    here = Installation.find(library)
    cache = EngineCache(cache_folder)
    wanted = Identity.of(model, BuildOptions(batch=batch), here)
    entry = cache.newest(wanted)
    why_built = ''
    if entry is not None:
        try:
            return _open_entry(here, cache, model, entry, reason).serve()
        except PlanError as error:
            why_built = str(error)
            wanted = entry.identity
            _log.warning('building the engine of %s anew: %s', model.card.name, why_built)
    with cache.lock(wanted):
        # Another process may have built it while this one waited for the lock.
        built = cache.get(wanted)
        if built is None or built == entry:
            built = _build(here, cache, model, wanted, cancel=cancel, on_progress=on_progress)
            why_built = why_built or 'there was none'
    if why_built:
        reason = f'{reason}; engine built now: {why_built}'
    return _verified(cache, _open_entry(here, cache, model, built, reason)).serve()


def open_cached(
    model: Model,
    *,
    cache_folder: str | Path | None = None,
    use_graph: bool = True,
    library: Library = TENSORRT,
) -> Opened:
    """Open the plan that :func:`open` would take, also if its results are wrong; never build.

    Raises EngineError if there is none; the message names plans for other machines.
    """
    here = Installation.find(library)
    cache = EngineCache(cache_folder)
    wanted = Identity.of(model, BuildOptions(), here)
    entry = cache.newest(wanted)
    if entry is None:
        raise EngineError(
            f'model {wanted.model!r} has no engine in {cache.folder} for {here}'
            f'{_others(cache, wanted)}; run: panoptic build-engine {wanted.model}'
        )
    return _open_entry(here, cache, model, entry, 'asked for', use_graph=use_graph)


def build_engine(
    model: Model,
    options: BuildOptions,
    *,
    cache_folder: str | Path | None = None,
    force: bool = False,
    cancel: threading.Event | None = None,
    on_progress: Progress | None = None,
    library: Library = TENSORRT,
) -> Opened:
    """Build a plan, or take the one in the cache, and verify it with the golden image.

    Parameters
    ----------
    model
        Its float16 file is built.
    options
        Changes to the builder's defaults.
    cache_folder
        See :class:`EngineCache`.
    force
        Build even if the cache has a plan with these options.
    cancel, on_progress
        See :func:`build.build_plan`.

    The engine may give wrong results: see :attr:`Opened.fault`.
    """
    here = Installation.find(library)
    cache = EngineCache(cache_folder)
    identity = Identity.of(model, options, here)
    with cache.lock(identity):
        entry = cache.get(identity)
        if entry is not None and not force:
            try:
                opened = _open_entry(here, cache, model, entry, 'asked for')
            except PlanError as error:
                _log.warning('building the engine of %s anew: %s', model.card.name, error)
            else:
                # So that it is the newest, and the one that runs.
                cache.update(replace(entry, built_unix_s=_newer_than_all(cache)))
                return opened
        entry = _build(
            here,
            cache,
            model,
            identity,
            cancel=cancel,
            on_progress=on_progress,
        )
    return _verified(cache, _open_entry(here, cache, model, entry, 'asked for'))


def build_portable(
    model: Model,
    options: BuildOptions,
    library: Library,
    *,
    cache_folder: str | Path | None = None,
    on_progress: Progress | None = None,
) -> Entry:
    """Build a plan on a machine without a GPU; it is verified when a GPU first opens it.

    Raises EngineError if the library needs the GPU it builds for.
    """
    if not library.is_portable:
        raise EngineError(
            f'engine {library.name} is built on the GPU it runs on; choose engine '
            f'{TENSORRT_RTX.name} to build without one'
        )
    trt = load_tensorrt(library)
    cache = EngineCache(cache_folder)
    identity = Identity.portable(model, options, library, trt.__version__)
    with cache.lock(identity):
        built = build_plan(trt, model, options, library=library, on_progress=on_progress)
        return cache.store(identity, built.plan, built.seconds)


def _build(
    here: Installation,
    cache: EngineCache,
    model: Model,
    identity: Identity,
    *,
    cancel: threading.Event | None = None,
    on_progress: Progress | None = None,
) -> Entry:
    _log.info('building an engine of %s for %s; this takes minutes', model.card.name, here)
    built = build_plan(
        here.trt,
        model,
        identity.options,
        library=here.library,
        compute_capability=here.device.compute_capability,
        timing_cache=cache.timing_cache(identity),
        on_progress=on_progress,
        cancel=cancel,
    )
    if built.timing_cache:
        cache.store_timing_cache(identity, built.timing_cache)
    return cache.store(identity, built.plan, built.seconds)


def _open_entry(
    here: Installation,
    cache: EngineCache,
    model: Model,
    entry: Entry,
    reason: str,
    *,
    use_graph: bool = True,
) -> Opened:
    plan = cache.load(entry)
    if entry.identity.options != BuildOptions(batch=entry.identity.options.batch):
        reason = f'{reason}; built with {entry.identity.options}'
    device, kernels = str(here), b''
    if here.library.has_runtime_cache:
        kernels = cache.runtime_cache(entry.identity, device)
    engine = TensorRtEngine(here, plan, model, reason, use_graph=use_graph, runtime_cache=kernels)
    if engine.runtime_cache != kernels:
        cache.store_runtime_cache(entry.identity, device, engine.runtime_cache)
    try:
        verification = verify(engine, model)
    except EngineError:
        engine.close()
        raise
    return Opened(engine, entry, verification)


def _verified(cache: EngineCache, opened: Opened) -> Opened:
    """Store the verification of a new plan in its entry."""
    entry = replace(opened.entry, verification=opened.verification)
    cache.update(entry)
    return replace(opened, entry=entry)


def _newer_than_all(cache: EngineCache) -> float:
    return max(entry.built_unix_s for entry in cache.entries()) + 1e-3


def _others(cache: EngineCache, wanted: Identity) -> str:
    kinds = {
        f'{e.identity.library} {e.identity.tensorrt}, {e.identity.gpu} '
        f'({e.identity.compute_capability}), CUDA {e.identity.cuda}'
        + ('' if e.identity.onnx_sha256 == wanted.onnx_sha256 else ', other weights')
        for e in cache.entries()
        if e.identity.model == wanted.model
    }
    return f', only for {"; ".join(sorted(kinds))}' if kinds else ''
