"""A model on disk: ONNX files, a card that describes them, a golden input and its outputs.

::

    models/NAME/
      model.onnx            float32, for CPUs
      model.float16.onnx    the same weights in float16, for TensorRT
      model.int8.onnx       quantized to 8-bit integers, for CPUs; optional
      golden.npz            an image and its outputs, to verify engines on the machine they run on
      card.yaml             the model card, with checksums

A file is used only if its SHA-256 agrees with the card. No path in a card leaves its folder.
"""

import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import yaml

from panoptic_ros.errors import LabelSetError, ModelError, one_line
from panoptic_ros.labels import LabelSet
from panoptic_ros.model.card import (
    FILE_NAMES,
    FileEntry,
    Metric,
    ModelCard,
    TensorSpec,
    TrainingData,
)
from panoptic_ros.model.resize import Resize
from panoptic_ros.resources import resource
from panoptic_ros.untrusted import file_sha256, has_external_data, read_npz, read_yaml

CARD = 'card.yaml'
GOLDEN = 'golden.npz'


@dataclass(frozen=True)
class Model:
    """A model folder with a valid card; see :meth:`load`."""

    folder: Path
    card: ModelCard
    label_set: LabelSet

    @classmethod
    def load(cls, name_or_path: str | Path) -> 'Model':
        """Read a model by name (``street-lite``, from ``models/``) or by its folder's path.

        Raises ModelError if there is no such model, or its card is missing, malformed, or does
        not fit its label set. The other files are verified when they are first read.
        """
        folder = _find(name_or_path)
        card = _parse_card(_read_card(folder), folder / CARD)
        return cls(folder, card, _load_label_set(card, folder))

    def onnx_path(self, precision: str = 'float32') -> Path:
        """Verify the checksum of the ONNX file and return its path.

        Raises ModelError if the model has no such precision, or the file is missing or changed.
        """
        if precision not in self.card.files:
            raise ModelError(
                f'model {self.card.name!r} has no {precision} file; it has '
                f'{", ".join(self.card.files)}'
                + (' (panoptic quantize makes one)' if precision == 'int8' else '')
            )
        path = self._verified(self.card.files[precision])
        _refuse_external_data(path)
        return path

    def golden(self) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Return the golden image, uint8 [H, W, 3] RGB, and its reference outputs.

        The outputs are as :meth:`Engine.infer` returns them, without the batch axis, computed in
        float32. Raises ModelError if the file is missing, changed or incomplete.
        """
        path = self._verified(self.card.golden)
        try:
            arrays = read_npz(path)
        except (OSError, ValueError) as error:
            raise ModelError(
                f'golden file {path} is not a usable .npz ({one_line(error)}); export the '
                'model again'
            ) from error
        self._check_golden(arrays, path)
        return arrays.pop('image'), arrays

    def check_io(
        self,
        precision: str,
        inputs: Mapping[str, TensorSpec],
        outputs: Mapping[str, TensorSpec],
        batch: int = 1,
    ) -> None:
        """Raise ModelError unless a network's inputs and outputs are those of the head kind.

        ``batch`` is the number of images it computes at once.
        """
        for what, found, expected in (
            ('input', inputs, self.card.inputs()),
            ('output', outputs, self.card.outputs(precision)),
        ):
            wrong = _mismatch(found, {k: spec.with_batch(batch) for k, spec in expected.items()})
            if wrong:
                raise ModelError(
                    f'the {precision} file of model {self.card.name!r} does not fit head kind '
                    f'{self.card.head!r} at size_wh {list(self.card.size_wh)}: {what} {wrong}; '
                    'export the model again'
                )

    def _verified(self, entry: FileEntry) -> Path:
        path = _inside(self.folder, entry.path, self.card.name)
        if not path.is_file():
            raise ModelError(
                f'model {self.card.name!r} lacks the file {path}; fetch or export the model again'
            )
        found = file_sha256(path)
        if found != entry.sha256:
            raise ModelError(
                f'{path} has SHA-256 {found[:12]}..., the card says {entry.sha256[:12]}... '
                f'({path.stat().st_size} bytes, the card says {entry.bytes}); the file is '
                'damaged or changed: fetch or export the model again'
            )
        return path

    def _check_golden(self, arrays: Mapping[str, np.ndarray], path: Path) -> None:
        # Golden outputs are those of the heads, even if the float32 file ends in the fusion.
        card = replace(self.card, fused=())
        expected = card.inputs() | card.outputs('float32')
        found = {
            name: TensorSpec(array.dtype.name, (1, *array.shape)) for name, array in arrays.items()
        }
        wrong = _mismatch(found, expected)
        if wrong:
            raise ModelError(
                f'golden file {path} does not fit head kind {self.card.head!r}: array {wrong}; '
                'export the model again'
            )


def list_models() -> tuple[str, ...]:
    """Return the names of the installed models."""
    return tuple(sorted(path.parent.name for path in resource('models').glob(f'*/{CARD}')))


def write_model(
    folder: str | Path,
    *,
    onnx_by_precision: Mapping[str, str | Path],
    label_set: str,
    size_wh: tuple[int, int],
    golden_image: np.ndarray,
    golden_outputs: Mapping[str, np.ndarray],
    fusion: Mapping[str, float | str] | None = None,
    provenance: Mapping[str, str] | None = None,
    licence: str = 'Apache-2.0',
    data: Sequence[TrainingData] = (),
    metrics: Sequence[Metric] = (),
    head: str = 'centres',
    scale: float | None = None,
    resize: Resize | None = None,
    fused: Sequence[str] = (),
) -> Model:
    """Write a model folder: copies of the ONNX files, the golden file, and the card last.

    Parameters
    ----------
    folder
        Created if it does not exist; its name becomes the name of the model.
    onnx_by_precision
        Paths of one or more files, by the keys of :data:`FILE_NAMES`; weights inside the files.
    golden_image, golden_outputs
        uint8 [H, W, 3] RGB at ``size_wh``, and the float32 network's outputs for it without the
        batch axis.
    label_set, size_wh, fusion, provenance, licence, data, metrics, head, scale, resize, fused
        As in :class:`ModelCard`.

    An existing card keeps its leading comment and unknown fields. Its metrics are replaced: they
    were measured with other weights.

    Raises ModelError if the result is not a valid model.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    files = {}
    for precision, source in onnx_by_precision.items():
        if precision not in FILE_NAMES:
            raise ModelError(
                f'cannot write a {precision!r} file; expected one of {", ".join(FILE_NAMES)}'
            )
        files[precision] = _copy_onnx(Path(source), folder / FILE_NAMES[precision])
    golden = {'image': golden_image, **golden_outputs}
    np.savez_compressed(folder / GOLDEN, **golden)  # type: ignore[arg-type]
    card = ModelCard(
        name=folder.resolve().name,
        head=head,
        label_set=label_set,
        classes=_label_set_at(label_set, folder).names,
        size_wh=(int(size_wh[0]), int(size_wh[1])),
        files=files,
        golden=_entry(folder / GOLDEN),
        scale=scale,
        fusion=dict(fusion or {}),
        fused=tuple(fused),
        resize=resize or Resize(),
        provenance=dict(provenance or {}),
        licence=licence,
        data=tuple(data),
        metrics=tuple(metrics),
    )
    _write_card(folder, card)
    model = Model.load(folder)
    model.golden()
    return model


def add_onnx(
    model: Model,
    precision: str,
    source: str | Path,
    provenance: Mapping[str, str] | None = None,
    *,
    is_fused: bool = False,
) -> Model:
    """Copy an ONNX file to a model folder and add it to the card.

    A file of the same precision and equal keys of the provenance are replaced. Set ``is_fused`` if
    the file ends in the fusion. Raises ModelError if the weights are in another file.
    """
    card = replace(
        model.card,
        files={
            **model.card.files,
            precision: _copy_onnx(Path(source), model.folder / FILE_NAMES[precision]),
        },
        provenance={**model.card.provenance, **(provenance or {})},
        fused=(*(set(model.card.fused) - {precision}), *[precision] * is_fused),
    )
    _write_card(model.folder, card)
    return Model.load(model.folder)


def write_metrics(folder: str | Path, metrics: Iterable[Metric]) -> None:
    """Replace the metrics of a card, for example after an evaluation; keep all other fields."""
    folder = Path(folder)
    card = _parse_card(_read_card(folder), folder / CARD)
    _write_card(folder, replace(card, metrics=tuple(metrics)))


def write_thresholds(model: Model, fusion: Mapping[str, float | str], how: str) -> ModelCard:
    """Replace the thresholds of a model's card and return it.

    ``how`` is the command that chose them, for the provenance.
    """
    card = replace(
        model.card, fusion=dict(fusion), provenance={**model.card.provenance, 'thresholds': how}
    )
    _write_card(model.folder, card)
    return card


def _find(name_or_path: str | Path) -> Path:
    text = str(name_or_path)
    if isinstance(name_or_path, str) and re.fullmatch(r'\w[\w.-]*', text):
        named = resource('models', text)
        if (named / CARD).is_file() or not Path(text).is_dir():
            if not (named / CARD).is_file():
                raise ModelError(
                    f'no model is called {text!r}; expected one of '
                    f'{", ".join(list_models()) or "(none is installed)"} or the path of a model '
                    'folder'
                )
            return named
    folder = Path(text)
    if not (folder / CARD).is_file():
        raise ModelError(
            f'{folder} is not a model folder, it has no {CARD}; expected such a folder or one of '
            f'{", ".join(list_models()) or "(none is installed)"}'
        )
    return folder


def _inside(folder: Path, relative: str, model_name: str) -> Path:
    """Return folder/relative, symbolic links followed; raise ModelError if that is outside."""
    pure = PurePosixPath(relative)
    stays = not (pure.is_absolute() or '..' in pure.parts or '\0' in relative)
    path = (folder / relative).resolve() if stays else folder
    if not (stays and path.is_relative_to(folder.resolve())):
        raise ModelError(
            f'the card of model {model_name!r} names the file {relative!r}, which is outside the '
            'model folder; expected a relative path inside it'
        )
    return path


def _copy_onnx(source: Path, target: Path) -> FileEntry:
    _refuse_external_data(source)
    if not (target.exists() and target.samefile(source)):
        shutil.copyfile(source, target)
    return _entry(target)


def _entry(path: Path) -> FileEntry:
    return FileEntry(path.name, file_sha256(path), path.stat().st_size)


def _mismatch(found: Mapping[str, TensorSpec], expected: Mapping[str, TensorSpec]) -> str:
    """Describe the first difference, or return an empty string."""
    if set(found) != set(expected):
        return f'names are {sorted(found)}, expected {sorted(expected)}'
    sizes: dict[str, int | str] = {}
    for name, want in expected.items():
        have = found[name]
        fits = have.dtype == want.dtype and len(have.shape) == len(want.shape)
        for size, wanted in zip(have.shape, want.shape, strict=False):
            if isinstance(wanted, str):
                fits = fits and isinstance(size, int) and sizes.setdefault(wanted, size) == size
            else:
                fits = fits and size == wanted
        if not fits:
            known = ', '.join(f'{key} = {value}' for key, value in sizes.items())
            return f'{name!r} is {have}, expected {want}' + (f' with {known}' if known else '')
    return ''


def _load_label_set(card: ModelCard, folder: Path) -> LabelSet:
    try:
        label_set = _label_set_at(card.label_set, folder)
    except LabelSetError as error:
        raise ModelError(f'model {card.name!r} has no usable label set: {error}') from error
    if label_set.names != card.classes:
        first = next(
            (
                f'class {index} is {given!r}, the label set says {known!r}'
                for index, (given, known) in enumerate(
                    zip(card.classes, label_set.names, strict=False)
                )
                if given != known
            ),
            f'it has {len(card.classes)} classes, the label set {len(label_set)}',
        )
        raise ModelError(
            f'model {card.name!r} does not fit label set {card.label_set!r}: {first}; use the '
            'label set it was trained with'
        )
    return label_set


def _label_set_at(name: str, folder: Path) -> LabelSet:
    if name.endswith('.yaml'):
        return LabelSet.load(_inside(folder, name, folder.name))
    return LabelSet.load(name)


def _refuse_external_data(path: Path) -> None:
    # A runtime would open any path that the ONNX file names.
    try:
        is_split = has_external_data(path.read_bytes())
    except ValueError as error:
        raise ModelError(f'{path} is not ONNX: {error}; export the model again') from error
    if is_split:
        raise ModelError(
            f'{path} keeps its weights in another file, which the card has no checksum of; save '
            'the ONNX file with its weights inside'
        )


# Reading and writing the card.


def _read_card(folder: Path) -> dict[str, Any]:
    path = folder / CARD
    try:
        data = read_yaml(path)
    except FileNotFoundError as error:
        raise ModelError(f'{folder} is not a model folder, it has no {CARD}') from error
    except yaml.YAMLError as error:
        raise ModelError(f'model card {path} is not valid YAML: {one_line(error)}') from error
    except OSError as error:
        raise ModelError(f'model card {path} cannot be read ({error.strerror})') from error
    if not isinstance(data, dict):
        raise ModelError(f'model card {path} is not a map of fields; export the model again')
    return data


def _parse_card(data: Mapping[str, Any], path: Path) -> ModelCard:
    try:
        return ModelCard(
            name=_text(data['name']),
            head=_text(data['head']),
            label_set=_text(data['label_set']),
            classes=tuple(_text(name) for name in data['classes']),
            size_wh=_size_wh(data['size_wh']),
            files={_text(key): _file(value) for key, value in data['files'].items()},
            golden=_file(data['golden']),
            scale=None if data.get('scale') is None else _number(data['scale']),
            fusion={_text(key): _setting(value) for key, value in data['fusion'].items()},
            fused=tuple(_text(name) for name in data.get('fused', ())),
            resize=Resize(**data.get('resize', {})),
            provenance={str(k): str(v) for k, v in data.get('provenance', {}).items()},
            licence=_text(data['licence']),
            data=tuple(
                TrainingData(_text(d['name']), _text(d['terms'])) for d in data.get('data', ())
            ),
            metrics=tuple(
                Metric(_text(m['name']), _number(m['value']), _text(m['data']), _text(m['how']))
                for m in data.get('metrics', ())
            ),
        )
    except KeyError as error:
        raise ModelError(
            f'model card {path} lacks the field {error}; export the model again'
        ) from error
    except (TypeError, ValueError, AttributeError, OverflowError) as error:
        raise ModelError(f'model card {path} has an unusable field: {one_line(error)}') from error


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise TypeError(f'{value!r} where a text was expected')
    return value


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f'{value!r} where a number was expected')
    return value


def _setting(value: Any) -> float | str:
    return value if isinstance(value, str) else _number(value)


def _size_wh(value: Any) -> tuple[int, int]:
    width, height = value
    if type(width) is not int or type(height) is not int:
        raise TypeError(f'size_wh {value!r} where two whole numbers were expected')
    return width, height


def _file(value: Any) -> FileEntry:
    sha256 = _text(value['sha256'])
    if not re.fullmatch('[0-9a-f]{64}', sha256):
        raise ValueError(f'sha256 {sha256!r} where 64 hexadecimal digits were expected')
    return FileEntry(_text(value['path']), sha256, int(_number(value['bytes'])))


def _write_card(folder: Path, card: ModelCard) -> None:
    fields: dict[str, Any] = asdict(card)
    fields['size_wh'] = list(card.size_wh)
    if card.scale is None:
        del fields['scale']
    fields['classes'] = list(card.classes)
    fields['fused'] = list(card.fused)
    fields['data'] = list(fields['data'])
    fields['metrics'] = list(fields['metrics'])
    comment = f'# Model card of {card.name}. Checksums are verified when a file is used.\n'
    path = folder / CARD
    if path.exists():
        old = _read_card(folder)
        fields |= {key: old[key] for key in old if key not in (*fields, 'scale')}
        lines = path.read_text(encoding='utf-8').splitlines(keepends=True)
        kept = ''.join(lines[: next(i for i, line in enumerate(lines) if line[:1] != '#')])
        comment = kept or comment
    text = comment + yaml.safe_dump(
        fields, sort_keys=False, allow_unicode=True, width=120, default_flow_style=None
    )
    # Written to a draft and renamed, so that a card is never partly written.
    draft = path.with_suffix('.yaml.part')
    draft.write_text(text, encoding='utf-8')
    draft.replace(path)
