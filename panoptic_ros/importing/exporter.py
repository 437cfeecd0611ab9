"""Write a network in float32 and float16, and prove that the files agree."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from panoptic_ros.errors import ModelError
from panoptic_ros.importing.agreement import Judged, compare, infer_all
from panoptic_ros.importing.export import (
    export_onnx,
    keep_in_float32,
    large_float32,
    publish_onnx,
    to_float16,
)
from panoptic_ros.importing.half import (
    find_overflows,
    is_kept,
    mixing_module,
    modules_to_keep,
    narrow_sums,
)
from panoptic_ros.importing.network import OUTPUTS, Deployed

LARGEST_EXPORT_DIFFERENCE = 1e-3
"""Mean difference of a probability between torch and the exported file above which the export is
wrong; correct ones stay below 1e-5."""


class Exporter:
    """Writes the files of one network and compares them on the same pictures.

    Parameters
    ----------
    name
        Of the family, for messages.
    network
        In float32.
    judged
        What its outputs are.
    images
        Of the size of the input, uint8 [H, W, 3].
    say
        Takes a line for each step.
    environment
        Environment variables that tracing needs.
    outputs
        Names of the outputs.
    """

    def __init__(
        self,
        name: str,
        network: Deployed,
        judged: Judged,
        images: Sequence[np.ndarray],
        say: Callable[[str], None],
        environment: Mapping[str, str] | None = None,
        outputs: Sequence[str] = OUTPUTS,
    ) -> None:
        self._name, self._network, self._judged = name, network, judged
        self._images, self._say = images, say
        self._environment, self._names = environment, tuple(outputs)

    def outputs(self, image: np.ndarray) -> dict[str, np.ndarray]:
        """Return what torch gives for a picture."""
        with torch.inference_mode():
            outputs = self._network(torch.from_numpy(image.copy())[None])
        return {name: tensor[0].numpy() for name, tensor in zip(self._names, outputs, strict=True)}

    def export(self, folder: Path) -> tuple[dict[str, Path], dict[str, str]]:
        """Write both precisions; return the files, and what there is to know about them."""
        traced = folder / 'traced.float32.onnx'
        self._say('exporting float32 ...')
        self._export(self._network, traced)
        expected = [self.outputs(image) for image in self._images]
        found = infer_all(traced, self._images)
        exported = compare(found, expected, self._judged)
        self._say(f'float32 file against torch: {exported}')
        # Not "> limit": NaN is a difference too.
        if not max(exported.classes, exported.masks) <= LARGEST_EXPORT_DIFFERENCE:
            raise ModelError(
                f'the exported {self._name} network does not do what torch does '
                f'({exported}); this is a fault of the exporter: report it with the versions of '
                'torch and transformers'
            )
        files = {'float32': folder / 'float32.onnx'}
        publish_onnx(traced, files['float32'])
        notes = {'float32': f'against torch on {len(self._images)} pictures: {exported}'}

        half, note = self._export_half(folder, traced, found)
        notes['float16'] = note
        if half is not None:
            files['float16'] = half
        return files, notes

    def _export_half(
        self, folder: Path, traced: Path, expected: Sequence[dict[str, np.ndarray]]
    ) -> tuple[Path | None, str]:
        overflows = find_overflows(traced, self._images)
        kept = modules_to_keep(traced, overflows, self._network)
        for overflow in overflows[:8]:
            self._say(f'too large for float16: {overflow}')
        half = None if '' in kept else self._to_float16(kept)
        if half is None or '' in kept:
            return self._left_out('the whole network would stay in float32')
        self._say('exporting float16' + self._staying(kept) + ' ...')
        path = folder / 'traced.float16.onnx'
        try:
            self._export(half, path)
            narrow_sums(path, kept)
            found = infer_all(path, self._images)
        except ModelError as error:
            return self._left_out(str(error))
        agreement = compare(found, expected, self._judged)
        self._say(f'float16 file against float32: {agreement}')
        if agreement.has_collapsed:
            return self._left_out(f'it collapsed: {agreement}')
        wide = {
            module: size
            for module, size in large_float32(path).items()
            if not is_kept(module, kept)
        }
        if wide:
            listed = ', '.join(f'{module} {size / 1e6:.1f} MB' for module, size in wide.items())
            self._say(f'large float32 tensors in the float16 file: {listed}')
        target = folder / 'float16.onnx'
        publish_onnx(path, target)
        return target, f'against float32: {agreement}{self._staying(kept)}'

    def _left_out(self, reason: str) -> tuple[None, str]:
        note = f'left out: {reason}'
        self._say(f'float16 file {note}')
        return None, note

    def _to_float16(self, kept: set[str]) -> Deployed:
        """Return the network in float16; add modules that must not be to those that are kept."""
        half = to_float16(self._network, kept)
        while (name := mixing_module(half, self._judged.size_wh)) is not None:
            if is_kept(name, kept):
                break  # it fails for another reason, which the export will name
            self._say(f'mixes float16 and float32: {name or "the network"}')
            keep_in_float32(half.get_submodule(name))
            kept.add(name)
        return half

    def _staying(self, kept: set[str]) -> str:
        return f', {", ".join(sorted(kept))} stays in float32' if kept else ''

    def _export(self, network: Deployed, path: Path) -> None:
        size_wh = self._judged.size_wh
        export_onnx(network, size_wh, path, self._environment, self._names)
