"""Readers of model files that do not trust the author of the files.

A card, a network and a golden file may come from anywhere. A checksum detects damage, not intent.
"""

import hashlib
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import IO, Any

import numpy as np
import yaml

MAX_YAML_BYTES = 1 << 20
MAX_NPZ_BYTES = 256 << 20
"""Unpacked size; the golden file of a network of 2048x1024 has a tenth of it."""


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's content as hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open('rb') as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


class _PlainLoader(yaml.SafeLoader):
    """The safe loader without aliases, which can expand a page of text to gigabytes."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()
            raise yaml.composer.ComposerError(
                None, None, f'found the alias {event.anchor!r}; write it out', event.start_mark
            )
        return super().compose_node(parent, index)


def read_yaml(path: Path) -> Any:
    """Read plain values from a YAML file of at most :data:`MAX_YAML_BYTES`.

    Raises OSError, or yaml.YAMLError if the content is not usable.
    """
    with path.open('rb') as file:
        return plain_yaml(file.read(MAX_YAML_BYTES + 1))


def plain_yaml(data: bytes) -> Any:
    """Read plain values from at most :data:`MAX_YAML_BYTES` of YAML; raises yaml.YAMLError."""
    if len(data) > MAX_YAML_BYTES:
        raise yaml.YAMLError(f'more than {MAX_YAML_BYTES} bytes')
    try:
        return yaml.load(data, _PlainLoader)
    except (ValueError, RecursionError) as error:  # an impossible date, a thousand brackets
        raise yaml.YAMLError(str(error)) from error


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """Read the arrays of an ``.npz`` file of at most :data:`MAX_NPZ_BYTES` unpacked.

    Raises OSError, or ValueError if the content is not usable.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            if sum(member.file_size for member in members) > MAX_NPZ_BYTES:
                raise ValueError(f'more than {MAX_NPZ_BYTES} bytes unpacked')
            for member in members:
                with archive.open(member) as file:
                    _check_npy(file, member)
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (
        zipfile.BadZipFile,
        zlib.error,
        RuntimeError,  # encrypted, or an unknown compression
        EOFError,
        SyntaxError,  # this and the next: the header is not a Python literal
        tokenize.TokenError,
    ) as error:
        raise ValueError(str(error) or type(error).__name__) from error


def _check_npy(file: IO[bytes], member: zipfile.ZipInfo) -> None:
    """Raise ValueError if an array has Python objects or another size than its header states."""
    if not member.filename.endswith('.npy'):
        raise ValueError(f'{member.filename!r} is not an array')
    version = np.lib.format.read_magic(file)
    read = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }.get(version)
    if read is None:
        raise ValueError(f'{member.filename!r} is of version {version}')
    shape, _, dtype = read(file)
    if dtype.hasobject:
        raise ValueError(f'{member.filename!r} has Python objects, and allow_pickle is off')
    if prod(shape) * dtype.itemsize != member.file_size - file.tell():
        raise ValueError(f'{member.filename!r} says it is {dtype} {shape}, and is not')


# Field numbers of onnx.proto3: for each message the fields that can contain tensors.
_TENSOR, _GRAPH, _NODE, _ATTRIBUTE, _SPARSE = 'tensor', 'graph', 'node', 'attribute', 'sparse'
_FIELDS: dict[str, dict[int, str]] = {
    'model': {7: _GRAPH, 20: 'training', 25: 'function'},
    'training': {1: _GRAPH, 2: _GRAPH},
    'function': {7: _NODE, 11: _ATTRIBUTE},
    _GRAPH: {1: _NODE, 5: _TENSOR, 15: _SPARSE},
    _NODE: {5: _ATTRIBUTE},
    _ATTRIBUTE: {
        5: _TENSOR, 6: _GRAPH, 10: _TENSOR, 11: _GRAPH, 22: _SPARSE, 23: _SPARSE,
    },
    _SPARSE: {1: _TENSOR, 2: _TENSOR},
}  # fmt: skip
_EXTERNAL_DATA, _DATA_LOCATION = 13, 14
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def has_external_data(onnx: bytes) -> bool:
    """Return whether an ONNX model stores any tensor in another file.

    Raises ValueError if this is not an ONNX model.
    """
    waiting = [('model', memoryview(onnx))]
    has_graph = False
    while waiting:
        kind, content = waiting.pop()
        for number, value in _proto_fields(content):
            if kind == _TENSOR:
                if number == _EXTERNAL_DATA or (number == _DATA_LOCATION and value):
                    return True
            elif number in _FIELDS[kind] and isinstance(value, memoryview):
                waiting.append((_FIELDS[kind][number], value))
                has_graph |= _FIELDS[kind][number] == _GRAPH
    if not has_graph:
        raise ValueError('there is no network in it')
    return False


def _proto_fields(content: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Yield the number of each field of a protobuf message, and its integer or bytes."""
    at = 0
    value: int | memoryview
    while at < len(content):
        key, at = _varint(content, at)
        number, wire_type = key >> 3, key & 7
        if wire_type == _VARINT:
            value, at = _varint(content, at)
        elif wire_type in (_FIXED64, _FIXED32):
            value, at = 0, at + (8 if wire_type == _FIXED64 else 4)
        elif wire_type == _BYTES:
            length, at = _varint(content, at)
            value, at = content[at : at + length], at + length
        else:
            raise ValueError(f'byte {at} is not protobuf')
        if at > len(content):
            raise ValueError('it is cut short')
        yield number, value


def _varint(content: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while shift < 70:
        if at >= len(content):
            raise ValueError('it is cut short')
        byte = content[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
    raise ValueError(f'byte {at} is not protobuf')
