"""What is no checkpoint is refused in one sentence that says the way out."""

import json

import pytest

torch = pytest.importorskip('torch', reason='extra import')
transformers = pytest.importorskip('transformers', reason='extra import')

from importing.checkpoints import write_tokenizer  # noqa: E402

from panoptic_ros.errors import ModelError, PanopticRosError  # noqa: E402
from panoptic_ros.importing.checkpoint import (  # noqa: E402
    Checkpoint,
    load_network,
    open_checkpoint,
)
from panoptic_ros.importing.families.family import (  # noqa: E402
    normalisation,
    processor_notes,
    processor_size_wh,
)
from panoptic_ros.importing.families.oneformer import task_tokens  # noqa: E402
from panoptic_ros.importing.importer import (  # noqa: E402
    choose_task,
    find_family,
    import_checkpoint,
)
from panoptic_ros.importing.request import Request  # noqa: E402


@pytest.fixture
def folder(tmp_path):
    """Return a SegFormer checkpoint of a few weights."""
    config = transformers.SegformerConfig(
        hidden_sizes=[8, 8, 8, 8],
        depths=[1, 1, 1, 1],
        num_attention_heads=[1, 1, 1, 1],
        decoder_hidden_size=8,
        id2label={0: 'road', 1: 'sky'},
        label2id={'road': 0, 'sky': 1},
    )
    transformers.SegformerForSemanticSegmentation(config).save_pretrained(tmp_path / 'ck')
    processor = {
        'size': {'height': 64, 'width': 96},
        'rescale_factor': 1 / 255,
        'image_mean': [0.5, 0.5, 0.5],
        'image_std': [0.25, 0.25, 0.25],
    }
    (tmp_path / 'ck' / 'preprocessor_config.json').write_text(json.dumps(processor))
    return tmp_path / 'ck'


def change(path, **fields):
    data = json.loads(path.read_text())
    path.write_text(json.dumps({**data, **fields}))


def refused(folder, message, **request):
    with pytest.raises(PanopticRosError, match=message) as caught:
        import_checkpoint(
            Request(str(folder), folder.parent / 'model', **request), lambda text: None
        )
    assert '\n' not in str(caught.value)
    assert not (folder.parent / 'model').exists()


def test_a_checkpoint_is_read(folder):
    checkpoint = open_checkpoint(str(folder))
    assert checkpoint.id2label == {0: 'road', 1: 'sky'}
    assert find_family(checkpoint).name == 'SegFormer'
    assert processor_size_wh(checkpoint) == (96, 64)
    assert normalisation(checkpoint).mean == (0.5, 0.5, 0.5)
    assert processor_notes(checkpoint) == ()


def test_what_is_neither_a_folder_nor_a_hub_id(tmp_path):
    with pytest.raises(ModelError, match="'nowhere' is neither a folder nor a hub id"):
        open_checkpoint('nowhere')


@pytest.mark.parametrize('name', ['config.json', 'preprocessor_config.json'])
def test_a_missing_configuration(folder, name):
    (folder / name).unlink()
    refused(folder, f'has no {name}')


def test_a_configuration_that_is_not_json(folder):
    (folder / 'config.json').write_text('model_type: segformer')
    refused(folder, r'config.json is not readable JSON .*; save the checkpoint with')


def test_pickles_are_refused_by_name(folder):
    (folder / 'model.safetensors').rename(folder / 'pytorch_model.bin')
    refused(folder, r'its weights as pytorch_model.bin, a pickle, which can run any code')


def test_no_weights_at_all(folder):
    (folder / 'model.safetensors').unlink()
    refused(folder, r'has no weights; expected model.safetensors')


def test_damaged_weights(folder):
    (folder / 'model.safetensors').write_bytes(b'damaged')
    refused(folder, r'transformers cannot load checkpoint ck: ')


def test_weights_that_are_missing_or_of_another_shape(folder):
    change(folder / 'config.json', hidden_sizes=[8, 8, 8, 16])
    refused(
        folder, r'transformers cannot load|lacks \d+ weights of SegformerFor.*of another shape'
    )


def test_weights_of_another_head(folder):
    from safetensors.torch import load_file, save_file

    path = folder / 'model.safetensors'
    weights = load_file(path)
    kept = {name: value for name, value in weights.items() if 'classifier' not in name}
    save_file(kept, path, metadata={'format': 'pt'})
    refused(
        folder, r"lacks 2 weights of SegformerForSemanticSegmentation.*'decode_head.classifier"
    )


def test_another_architecture(folder):
    change(folder / 'config.json', model_type='vit')
    refused(folder, r"architecture 'vit'; expected one of mask2former, maskformer")


def test_the_right_family_without_its_mask_head(folder):
    change(folder / 'config.json', architectures=['SegformerForImageClassification'])
    refused(folder, r'holds a SegformerForImageClassification, which gives no masks')


@pytest.mark.parametrize(
    ('size_wh', 'example'), [((100, 64), '128x64'), ((96, 33), '96x64'), ((0, 64), '32x64')]
)
def test_a_size_the_network_cannot_take(folder, size_wh, example):
    refused(
        folder, f'cannot take {size_wh[0]}x{size_wh[1]}; .* multiples of 32 .*{example}',
        size_wh=size_wh,
    )  # fmt: skip


def test_another_task(folder):
    refused(folder, "SegFormer has no task 'panoptic'; expected semantic", task='panoptic')
    assert choose_task(find_family(open_checkpoint(str(folder))), None) == 'semantic'


def test_labels_that_do_not_match(folder):
    refused(
        folder,
        "label set 'coco' lacks 1 of the 2 classes of the checkpoint: 1 'sky'",
        labels='coco',
    )
    change(folder / 'config.json', id2label={'0': 'road', '1': 'road'})
    refused(folder, r"calls the classes \[0, 1\] all 'road'")


def test_a_picture_that_is_none(folder):
    refused(
        folder, 'config.json is not a picture that can be read', pictures=(folder / 'config.json',)
    )


@pytest.mark.parametrize(
    ('fields', 'message'),
    [
        ({'size': {}}, r'has size \{\}; expected height and width'),
        ({'image_mean': [0.5]}, r'has image_mean \[0.5\]; expected three numbers'),
    ],
)
def test_an_image_processor_without_what_it_takes(folder, fields, message):
    change(folder / 'preprocessor_config.json', **fields)
    refused(folder, message)


@pytest.mark.parametrize(
    ('size', 'size_wh'),
    [
        (384, (384, 384)),
        ({'height': 480, 'width': 640}, (640, 480)),
        ({'shortest_edge': 800, 'longest_edge': 1333}, (1088, 800)),
        ({'shortest_edge': 640, 'longest_edge': 640}, (640, 640)),
    ],
)
def test_sizes_of_image_processors(folder, size, size_wh):
    change(folder / 'preprocessor_config.json', size=size)
    assert processor_size_wh(open_checkpoint(str(folder))) == size_wh


def test_another_filter_is_told(folder):
    change(folder / 'preprocessor_config.json', resample=3)
    assert processor_notes(open_checkpoint(str(folder))) == (
        'the image processor resamples with filter 3, the node bilinearly (2)',
    )


def test_an_architecture_that_transformers_lacks(folder):
    with pytest.raises(ModelError, match='has no NewestForSegmentation'):
        load_network(open_checkpoint(str(folder)), 'NewestForSegmentation')


def test_a_tokenizer_that_does_not_know_the_task(tmp_path):
    write_tokenizer(tmp_path)
    checkpoint = Checkpoint(tmp_path, 'oneformer', {'task_seq_len': 8}, {})
    assert task_tokens(checkpoint, 'panoptic').tolist() == [[0, 2, 3, 4, 5, 1, 0, 0]]
    (tmp_path / 'vocab.json').write_text('{"<|startoftext|>": 0, "<|endoftext|>": 1}')
    (tmp_path / 'merges.txt').write_text('#version: 0.2\n')
    with pytest.raises(ModelError, match='does not know the words "the task is panoptic"'):
        task_tokens(checkpoint, 'panoptic')
