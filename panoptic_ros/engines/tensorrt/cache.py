"""Plans on disk: which one fits this model on this machine, written whole or not at all.

::

    ~/.cache/panoptic_ros/tensorrt/
      MODEL-KEY.engine    the plan
      MODEL-KEY.json      what it was built from and with, its checksum, how it was verified
      MODEL-KEY.lock      held while it is built
      timing-KEY.cache    what builds on this GPU learned; saves time, never needed
      MODEL-KEY-GPU.kernels  what TensorRT-RTX compiled at the first load; saves time, never needed
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
"""Environment variable with the cache folder, for robots whose home is read-only."""


@dataclass(frozen=True)
class Identity:
    """All that a plan depends on.

    Parameters
    ----------
    model, onnx_sha256
        Name of the model, and the checksum of the ONNX file.
    options
        How it is built.
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
        """Return the identity of the plan that this model needs here.

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
        """Return the identity of a plan for every GPU of a library.

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
        """Return the file name without suffix: model and key."""
        return f'{self.model}-{_digest(asdict(self))}'

    @property
    def timing_stem(self) -> str:
        """Return the file name of the timing cache without suffix."""
        fields = asdict(self)
        for name in ('model', 'onnx_sha256', 'options'):
            del fields[name]
        return f'timing-{_digest(fields)}'

    def fits(self, other: 'Identity') -> bool:
        """Whether two differ in nothing but the options."""
        return self == replace(other, options=self.options)


@dataclass(frozen=True)
class Entry:
    """One plan in the cache.

    Parameters
    ----------
    identity
        What it was built from and with.
    plan_sha256, plan_bytes
        Checksum and size of the plan.
    built_unix_s, build_seconds
        When it was built, and how long that took.
    verification
        How its outputs were found to be; None if it could not be run.
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
        Made when the first plan is stored. None for the environment variable
        :data:`CACHE_VARIABLE`, or else ``~/.cache/panoptic_ros/tensorrt``.
    """

    def __init__(self, folder: str | Path | None = None) -> None:
        named = folder or os.environ.get(CACHE_VARIABLE)
        default = Path(os.environ.get('XDG_CACHE_HOME') or '~/.cache', 'panoptic_ros', 'tensorrt')
        self.folder = Path(named or default).expanduser()

    def plan_path(self, identity: Identity) -> Path:
        """Return where the plan lies, or would."""
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
        """Return the entry built last for this model and machine, whatever the options."""
        return next((entry for entry in self.entries() if entry.identity.fits(identity)), None)

    def load(self, entry: Entry) -> bytes:
        """Return the plan; raises PlanError if it is missing, cut short or changed.

        Raises EngineError if anybody could have put it there.
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
        """Write a plan, then its JSON; raises EngineError if the folder takes no more."""
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
        """Write an entry's JSON anew; raises EngineError if that fails."""
        text = json.dumps(asdict(entry), indent=2) + '\n'
        self._write(self._sidecar_path(entry.identity), text.encode())

    def timing_cache(self, identity: Identity) -> bytes:
        """Return what builds on this GPU learned, empty for nothing."""
        try:
            return (self.folder / f'{identity.timing_stem}.cache').read_bytes()
        except OSError:
            return b''

    def store_timing_cache(self, identity: Identity, content: bytes) -> None:
        """Keep what a build learned; raises EngineError if the folder takes no more."""
        self._write(self.folder / f'{identity.timing_stem}.cache', content)

    def runtime_cache(self, identity: Identity, device: str) -> bytes:
        """Return the kernels that an earlier load compiled on this GPU, empty for none."""
        try:
            return self._runtime_path(identity, device).read_bytes()
        except OSError:
            return b''

    def store_runtime_cache(self, identity: Identity, device: str, content: bytes) -> None:
        """Keep the kernels compiled for a plan; raises EngineError if the folder takes no more."""
        self._write(self._runtime_path(identity, device), content)

    def _runtime_path(self, identity: Identity, device: str) -> Path:
        return self.folder / f'{identity.stem}-{_digest({"device": device})}.kernels'

    @contextmanager
    def lock(self, identity: Identity) -> Iterator[None]:
        """Wait until no other process builds this plan, and keep others from it.

        Raises EngineError at once if nothing can be written to the folder, or everybody can
        write to it, rather than after minutes of building.
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
            # What was being written when a process was killed; only who has the lock writes.
            for draft in self.folder.glob(f'{glob.escape(identity.stem)}.engine.*'):
                draft.unlink()
            yield

    def _refuse_writable_by_all(self, *paths: Path) -> None:
        # TensorRT runs what is in a plan: who can write one can do whatever this process can.
        for path in paths:
            if path.exists() and path.stat().st_mode & stat.S_IWOTH:
                raise EngineError(
                    f'everybody may write to {path}, and a plan is code: chmod o-w it and delete '
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
            options = BuildOptions(**options, builder_options=pairs)
            verification = fields.pop('verification')
            return Entry(
                **fields,
                identity=Identity(**identity, options=options),
                verification=Verification(**verification) if verification else None,
            )
        except (OSError, ValueError, TypeError, KeyError, AttributeError, EngineError):
            # Of another version, or not ours: the plan is built anew, which mends it.
            return None

    def _write(self, path: Path, content: bytes) -> None:
        """Write beside it and rename, so that a reader finds the old or the new, never a part."""
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
            f'nothing can be written to the engine cache {self.folder} '
            f'({error.strerror or error}); {advice}'
        )


def _digest(fields: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:16]
