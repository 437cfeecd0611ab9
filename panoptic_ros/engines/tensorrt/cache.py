"""Engine cache on disk. Files are written atomically.

::

    ~/.cache/panoptic_ros/tensorrt/
      MODEL-KEY.engine       the plan
      MODEL-KEY.json         its identity, checksum and verification
      MODEL-KEY.lock         locked during a build
      timing-KEY.cache       kernel timings of builds on this GPU; optional, shortens builds
      MODEL-KEY-GPU.kernels  kernels that TensorRT-RTX compiled at the first load; optional
"""

import contextlib
import errno
import fcntl
import glob
import hashlib
import json
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from time import time
from typing import Any

from panoptic_ros.engines.tensorrt.build import PRECISION, BuildOptions
from panoptic_ros.engines.tensorrt.installation import Installation, Library
from panoptic_ros.engines.tensorrt.runtime import PlanError
from panoptic_ros.engines.tensorrt.verification import Verification
from panoptic_ros.errors import EngineError
from panoptic_ros.model import Model

CACHE_VARIABLE = 'PANOPTIC_ENGINE_CACHE'
"""Environment variable with the cache folder, for robots with a read-only home folder."""


@dataclass(frozen=True)
class Identity:
    """Everything a plan depends on; the cache key is its hash.

    Parameters
    ----------
    model, onnx_sha256
        Name of the model and checksum of its ONNX file.
    options
        Changes to the builder's defaults.
    library, tensorrt
        Name and version of the library.
    gpu, compute_capability, cuda
        GPU, its compute capability and the CUDA runtime version; ``any`` for a portable plan.
    """

    model: str
    onnx_sha256: str
    options: BuildOptions
    library: str
    tensorrt: str
    gpu: str
    compute_capability: str
    cuda: str

    @classmethod
    def of(cls, model: Model, options: BuildOptions, here: Installation) -> 'Identity':
        """Return the identity of a model's plan on this machine.

        Raises ModelError if the model has no float16 file.
        """
        if here.library.is_portable:
            return cls.portable(model, options, here.library, here.trt.__version__)
        model.onnx_path(PRECISION)
        return cls(
            model=model.card.name,
            onnx_sha256=model.card.files[PRECISION].sha256,
            options=options,
            library=here.library.name,
            tensorrt=here.trt.__version__,
            gpu=here.device.name,
            compute_capability=here.device.compute_capability,
            cuda=here.device.runtime_version,
        )

    @classmethod
    def portable(
        cls, model: Model, options: BuildOptions, library: Library, version: str
    ) -> 'Identity':
        """Return the identity of a plan that runs on every GPU the library supports.

        Raises ModelError if the model has no float16 file.
        """
        model.onnx_path(PRECISION)
        return cls(
            model=model.card.name,
            onnx_sha256=model.card.files[PRECISION].sha256,
            options=options,
            library=library.name,
            tensorrt=version,
            gpu='any',
            compute_capability='any',
            cuda='any',
        )

    @property
    def stem(self) -> str:
        """File name without suffix: model and key."""
        return f'{self.model}-{_digest(asdict(self))}'

    @property
    def timing_stem(self) -> str:
        """File name of the timing cache without suffix."""
        fields = asdict(self)
        for name in ('model', 'onnx_sha256', 'options'):
            del fields[name]
        return f'timing-{_digest(fields)}'

    def fits(self, other: 'Identity') -> bool:
        """Return whether the identities are equal apart from the options other than the batch."""
        same_batch = self.options.batch == other.options.batch
        return same_batch and self == replace(other, options=self.options)


@dataclass(frozen=True)
class Entry:
    """One plan in the cache.

    Parameters
    ----------
    identity
        What the plan depends on.
    plan_sha256, plan_bytes
        Checksum and size of the plan.
    built_unix_s, build_seconds
        Time of the build (Unix, seconds) and its duration.
    verification
        Comparison of its outputs with the golden outputs; None if the plan has not been run.
    """

    identity: Identity
    plan_sha256: str
    plan_bytes: int
    built_unix_s: float
    build_seconds: float
    verification: Verification | None = field(default=None)


class EngineCache:
    """A folder of plans.

    Parameters
    ----------
    folder
        Created when the first plan is stored. If None, the environment variable
        :data:`CACHE_VARIABLE` names it; the default is ``~/.cache/panoptic_ros/tensorrt``.
    """

    def __init__(self, folder: str | Path | None = None) -> None:
        named = folder or os.environ.get(CACHE_VARIABLE)
        default = Path(os.environ.get('XDG_CACHE_HOME') or '~/.cache', 'panoptic_ros', 'tensorrt')
        self.folder = Path(named or default).expanduser()

    def plan_path(self, identity: Identity) -> Path:
        """Return the path of the plan, whether or not it exists."""
        return self.folder / f'{identity.stem}.engine'

    def entries(self) -> list[Entry]:
        """Return the readable entries, the newest first."""
        found = [self._read(path) for path in self.folder.glob('*.json')]
        return sorted(
            (entry for entry in found if entry), key=lambda e: e.built_unix_s, reverse=True
        )

    def get(self, identity: Identity) -> Entry | None:
        """Return the entry with exactly this identity."""
        entry = self._read(self._sidecar_path(identity))
        return entry if entry and entry.identity == identity else None

    def newest(self, identity: Identity) -> Entry | None:
        """Return the entry built last for this model and machine, with any options."""
        return next((entry for entry in self.entries() if entry.identity.fits(identity)), None)

    def load(self, entry: Entry) -> bytes:
        """Return the plan.

        Raises PlanError if the file is missing, truncated or changed, EngineError if the file or
        its folder is world-writable.
        """
        path = self.plan_path(entry.identity)
        self._refuse_writable_by_all(self.folder, path)
        try:
            plan = path.read_bytes()
        except OSError as error:
            raise PlanError(f'{path} cannot be read ({error.strerror})') from error
        if hashlib.sha256(plan).hexdigest() != entry.plan_sha256:
            raise PlanError(
                f'{path} is damaged: {len(plan)} bytes with another checksum, expected '
                f'{entry.plan_bytes} bytes'
            )
        return plan

    def store(self, identity: Identity, plan: bytes, build_seconds: float) -> Entry:
        """Write a plan and then its JSON file. Raises EngineError if that fails."""
        entry = Entry(
            identity=identity,
            plan_sha256=hashlib.sha256(plan).hexdigest(),
            plan_bytes=len(plan),
            built_unix_s=time(),
            build_seconds=build_seconds,
        )
        self._write(self.plan_path(identity), plan)
        self.update(entry)
        return entry

    def update(self, entry: Entry) -> None:
        """Replace the JSON file of an entry. Raises EngineError if that fails."""
        text = json.dumps(asdict(entry), indent=2) + '\n'
        self._write(self._sidecar_path(entry.identity), text.encode())

    def timing_cache(self, identity: Identity) -> bytes:
        """Return the kernel timings of earlier builds on this GPU, empty if there are none."""
        try:
            return (self.folder / f'{identity.timing_stem}.cache').read_bytes()
        except OSError:
            return b''

    def store_timing_cache(self, identity: Identity, content: bytes) -> None:
        """Store the kernel timings of a build. Raises EngineError if that fails."""
        self._write(self.folder / f'{identity.timing_stem}.cache', content)

    def runtime_cache(self, identity: Identity, device: str) -> bytes:
        """Return the kernels compiled by an earlier load on this GPU, empty if there are none."""
        try:
            return self._runtime_path(identity, device).read_bytes()
        except OSError:
            return b''

    def store_runtime_cache(self, identity: Identity, device: str, content: bytes) -> None:
        """Store the kernels compiled for a plan. Raises EngineError if that fails."""
        self._write(self._runtime_path(identity, device), content)

    def _runtime_path(self, identity: Identity, device: str) -> Path:
        return self.folder / f'{identity.stem}-{_digest({"device": device})}.kernels'

    @contextmanager
    def lock(self, identity: Identity) -> Iterator[None]:
        """Hold the lock of a plan; wait while another process builds it.

        Raises EngineError if the folder is not writable, or is world-writable. Checked here, so
        that the error comes before the build and not minutes later.
        """
        path = self.folder / f'{identity.stem}.lock'
        try:
            self.folder.mkdir(mode=0o755, parents=True, exist_ok=True)
            self._refuse_writable_by_all(self.folder)
            file = path.open('w')
        except OSError as error:
            raise self._unwritable(error) from error
        with file:
            fcntl.flock(file, fcntl.LOCK_EX)
            # Remove drafts of killed processes. Only the holder of the lock writes drafts.
            for draft in self.folder.glob(f'{glob.escape(identity.stem)}.engine.*'):
                draft.unlink()
            yield

    def _refuse_writable_by_all(self, *paths: Path) -> None:
        # A plan contains code that TensorRT runs with the rights of this process.
        for path in paths:
            if path.exists() and path.stat().st_mode & stat.S_IWOTH:
                raise EngineError(
                    f'{path} is world-writable and a plan is code: chmod o-w it and delete '
                    'the plans in it, or choose another folder with --cache or the environment '
                    f'variable {CACHE_VARIABLE}'
                )

    def _sidecar_path(self, identity: Identity) -> Path:
        return self.folder / f'{identity.stem}.json'

    def _read(self, path: Path) -> Entry | None:
        try:
            fields: dict[str, Any] = json.loads(path.read_bytes())
            identity = fields.pop('identity')
            options = identity.pop('options')
            pairs = tuple((name, value) for name, value in options.pop('builder_options'))
            verification = fields.pop('verification')
            return Entry(
                **fields,
                identity=Identity(**identity, options=BuildOptions(pairs, **options)),
                verification=Verification(**verification) if verification else None,
            )
        except (OSError, ValueError, TypeError, KeyError, AttributeError, EngineError):
            # Written by another version or another program. The next build replaces it.
            return None

    def _write(self, path: Path, content: bytes) -> None:
        """Write a draft and rename it, so that readers see the old or the new file."""
        draft = None
        try:
            self.folder.mkdir(mode=0o755, parents=True, exist_ok=True)
            handle, draft = tempfile.mkstemp(prefix=f'{path.name}.', dir=self.folder)
            with os.fdopen(handle, 'wb') as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            Path(draft).replace(path)
        except OSError as error:
            if draft is not None:
                with contextlib.suppress(OSError):
                    Path(draft).unlink()
            raise self._unwritable(error, len(content)) from error

    def _unwritable(self, error: OSError, nbytes: int = 0) -> EngineError:
        advice = 'choose another folder with --cache or the environment variable ' + CACHE_VARIABLE
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            advice = f'free {max(nbytes >> 20, 1)} MiB, or ' + advice
        return EngineError(
            f'the engine cache {self.folder} is not writable ({error.strerror or error}); {advice}'
        )


def _digest(fields: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:16]
