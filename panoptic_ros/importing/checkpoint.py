"""A checkpoint as transformers writes it: configuration, preprocessing and safetensors weights."""

import json
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn

from panoptic_ros.errors import ModelError, one_line

CONFIG = 'config.json'
PROCESSORS = (
    'preprocessor_config.json',
    'video_preprocessor_config.json',
    'processor_config.json',
)
_PICKLES = ('*.bin', '*.pt', '*.pth', '*.ckpt', '*.pkl')
_HUB_ID = r'[\w.-]+/[\w.-]+'
_HUB_FILES = ['*.json', '*.safetensors', '*.txt', '*.model']


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint folder whose files were found and read.

    Parameters
    ----------
    folder
        Where it lies.
    source
        The folder's name or the hub id, for the model card.
    config
        ``config.json``.
    processor
        The image processor's configuration.
    """

    folder: Path
    source: str
    config: Mapping[str, Any]
    processor: Mapping[str, Any]

    @property
    def id2label(self) -> dict[int, str]:
        """The class names by class index, ``LABEL_n`` where the configuration has none."""
        names = self.config.get('id2label') or {
            index: f'LABEL_{index}' for index in range(self.config.get('num_labels', 2))
        }
        return {int(index): str(name) for index, name in names.items()}


def open_checkpoint(source: str) -> Checkpoint:
    """Open a checkpoint folder, or download one by its hub id (``owner/name``).

    Raises ModelError, in one sentence with the way out, if it is not a checkpoint with safetensors
    weights.
    """
    folder = Path(source)
    if folder.is_dir():
        name = folder.resolve().name
    elif re.fullmatch(_HUB_ID, source) and not folder.exists():
        folder, name = _download(source), source
    else:
        raise ModelError(
            f'{source!r} is neither a folder nor a hub id; expected the folder of a checkpoint '
            'with config.json, or an id such as owner/name'
        )
    config = _read_json(folder / CONFIG, 'save the checkpoint with save_pretrained')
    processor_path = next((folder / p for p in PROCESSORS if (folder / p).is_file()), None)
    if processor_path is None:
        raise ModelError(
            f'{folder} has no {PROCESSORS[0]}, so the size and normalisation of the input are '
            "not known; save the image processor's configuration beside config.json"
        )
    processor = _read_json(processor_path, 'save the image processor with save_pretrained')
    # A processor that also has a tokenizer keeps the image processor's part under its name.
    processor = processor.get('image_processor', processor)
    _require_safetensors(folder)
    return Checkpoint(folder, name, config, processor)


def load_network(checkpoint: Checkpoint, class_name: str) -> nn.Module:
    """Load the weights into transformers' class of that name, float32, in evaluation mode.

    Raises ModelError if transformers is too old, a package is missing or does not fit, or the
    weights are not those of the configuration.
    """
    model_class = _transformers_class(class_name)
    try:
        network, loading = model_class.from_pretrained(
            checkpoint.folder,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
            dtype=torch.float32,
        )
    except ImportError as error:
        raise ModelError(
            f'checkpoint {checkpoint.source} needs a package that is missing: {one_line(error)}; '
            'install it beside a torchvision that fits your torch'
        ) from error
    except (SafetensorError, OSError, RuntimeError, ValueError, KeyError, TypeError) as error:
        raise ModelError(
            f'transformers cannot load checkpoint {checkpoint.source}: {one_line(error)}; check '
            'that config.json and the weights belong together'
        ) from error
    missing = sorted(loading['missing_keys'])
    mismatched = [str(key[0]) for key in loading['mismatched_keys']]
    if missing or mismatched:
        wrong = [*missing, *mismatched]
        raise ModelError(
            f'checkpoint {checkpoint.source} lacks {len(missing)} weights of {class_name} and has '
            f'{len(mismatched)} of another shape, {wrong[0]!r} first; take the checkpoint of this '
            'task, or download it again'
        )
    return network.eval()


def _transformers_class(name: str) -> type[nn.Module]:
    try:
        import transformers

        return getattr(transformers, name)
    except AttributeError as error:
        raise ModelError(
            f'transformers {transformers.__version__} has no {name}; pip install '
            "'panoptic_ros[import]' installs a version that has"
        ) from error
    except (RuntimeError, ModuleNotFoundError) as error:
        if sys.version_info < (3, 11) and getattr(error, 'name', '') == 'transformers':
            raise ModelError(
                'checkpoints are read by transformers, which needs Python 3.11 or newer; import '
                'the model there: its folder can be used here too'
            ) from error
        if 'torchvision' not in one_line(error):
            raise
        raise ModelError(
            f'the installed torchvision does not fit torch {torch.__version__} '
            f'({one_line(error)}); pip uninstall torchvision, or install the torchvision of the '
            'index that torch came from'
        ) from error


def _download(hub_id: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(hub_id, allow_patterns=_HUB_FILES))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        raise ModelError(
            f'checkpoint {hub_id!r} cannot be downloaded ({one_line(error)}); check the id and '
            'the network, or give a folder'
        ) from error


def _read_json(path: Path, way_out: str) -> dict[str, Any]:
    try:
        data = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise ModelError(
            f'{path.parent} has no {path.name}, so it is not a checkpoint; {way_out}'
        ) from error
    except (OSError, ValueError) as error:
        raise ModelError(f'{path} is not readable JSON ({one_line(error)}); {way_out}') from error
    if not isinstance(data, dict):
        raise ModelError(f'{path} is not a map of fields; {way_out}')
    return data


def _require_safetensors(folder: Path) -> None:
    if any(folder.glob('*.safetensors')):
        return
    pickles = sorted(path.name for pattern in _PICKLES for path in folder.glob(pattern))
    if pickles:
        raise ModelError(
            f'{folder} has its weights as {pickles[0]}, a pickle, which can run any code when it '
            'is opened; take a revision with model.safetensors, or save it again with '
            'save_pretrained where you trust it'
        )
    raise ModelError(
        f'{folder} has no weights; expected model.safetensors beside {CONFIG}: download the '
        'checkpoint again'
    )
