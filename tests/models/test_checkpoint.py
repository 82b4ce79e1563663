"""Whose weights a model has: the checkpoint's, or nobody gets a model."""

import json
import os
import shutil

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from clinscale import models
from clinscale.errors import DataError


@pytest.fixture(scope="module")
def source(tmp_path_factory, tokenizer):
    """A tiny Longformer of masked-language modelling."""
    model = models.build(models.ModelConfig(size="tiny", max_tokens=128), tokenizer, seed=0)
    return models.save_hf(model, tokenizer, tmp_path_factory.mktemp("source") / "hf")


@pytest.fixture(scope="module")
def weights(source):
    return load_file(source / "model.safetensors")


@pytest.fixture
def copy(source, tmp_path):
    """Makes a copy of `source` with other weights, another file of them, or changes of its config."""

    def make(weights=None, *, binary=None, shards=None, **config):
        folder = tmp_path / "copy"
        shutil.copytree(source, folder)
        if weights is not None:
            save(weights, folder / "model.safetensors")
        if binary is not None:
            (folder / "model.safetensors").unlink()
            torch.save(binary, folder / "pytorch_model.bin")
        if shards is not None:
            (folder / "model.safetensors").unlink()
            index = {}
            for number, part in enumerate(shards, start=1):
                name = f"model-{number:05}-of-{len(shards):05}.safetensors"
                save(part, folder / name)
                index |= dict.fromkeys(part, name)
            (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
        values = json.loads((folder / "config.json").read_text()) | config
        (folder / "config.json").write_text(json.dumps(values))
        return folder

    return make


def save(weights, path):
    save_file({name: value.clone() for name, value in weights.items()}, path, metadata={"format": "pt"})


def under(prefix, weights):
    return {prefix + name: value for name, value in weights.items()}


def replaced(old, new, weights):
    return {name.replace(old, new, 1): value for name, value in weights.items()}


def halves(weights):
    names = sorted(weights)
    return [{name: weights[name] for name in names[::2]}, {name: weights[name] for name in names[1::2]}]


CHECKPOINTS = {
    "of DDP": lambda w: {"weights": under("module.", w)},
    "of torch.compile in DDP": lambda w: {"weights": under("_orig_mod.module.", w)},
    "of another class": lambda w: {"weights": replaced("longformer.", "roberta.", w)},
    "of another class within a module": lambda w: {
        "weights": under("model.", replaced("longformer.", "roberta.", w))
    },
    "of Lightning": lambda w: {"binary": {"epoch": 3, "state_dict": under("model.", w)}},
    "of DeepSpeed": lambda w: {"binary": {"module": dict(w)}},
}


@pytest.mark.parametrize("kind", CHECKPOINTS)
def test_weights_under_another_prefix_are_loaded_and_that_is_said_in_one_line(kind, copy, weights, caplog):
    loaded = models.load_hf(str(copy(**CHECKPOINTS[kind](weights))), head="mlm", new_head=False).state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in weights.items())
    [line] = caplog.messages
    assert "encoder weights are under" in line


SAME = {
    "one file": lambda w: {},
    "a pickle": lambda w: {"binary": dict(w)},
    "two shards": lambda w: {"shards": halves(w)},
    "an encoder alone": lambda w: {
        "weights": replaced("longformer.", "", {name: w[name] for name in w if name.startswith("longformer.")})
    },
}


@pytest.mark.parametrize("kind", SAME)
def test_what_transformers_reads_is_read_without_a_word(kind, copy, weights, caplog):
    loaded = models.load_hf(str(copy(**SAME[kind](weights))), head="tokens", labels=("O", "B-x")).state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in weights.items() if name in loaded)
    assert not caplog.messages


def without_layer(weights):
    return {name: value for name, value in weights.items() if ".layer.1." not in name}


def with_layer_more(weights):
    return weights | {
        name.replace(".layer.1.", ".layer.2."): weights[name] for name in weights if ".layer.1." in name
    }


def with_short_table(weights):
    [name] = [name for name in weights if name.endswith("position_embeddings.weight")]
    return weights | {name: weights[name][:-2]}


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize(
    ("change", "told"),
    [
        (without_layer, r"has 22 missing: longformer\.encoder\.layer\.1\..* and 19 more"),
        (with_layer_more, r"has 22 more than the model has: longformer\.encoder\.layer\.2\."),
        (
            with_short_table,
            r"has 1 of another shape .*: longformer\.embeddings\.position_.* \(128 x 64, not 130 x 64\)",
        ),
    ],
)
def test_an_encoder_that_is_not_the_configs_is_refused_by_count_and_name(change, told, prefix, copy, weights):
    with pytest.raises(DataError, match=told):
        models.load_hf(str(copy(under(prefix, change(weights)))), head="sequence", labels=("a", "b"))


def test_two_encoders_in_one_file_are_refused(copy, weights):
    both = under("student.", weights) | under("teacher.", weights)
    with pytest.raises(DataError, match=r"2 encoders, under 'student\.longformer\.', 'teacher\.longformer\.'"):
        models.load_hf(str(copy(both)), head="mlm")


def test_a_head_of_another_size_is_new_and_one_that_answers_must_be_there(
    source, copy, tmp_path, tokenizer, caplog
):
    three = models.load_hf(str(source), head="tokens", labels=("O", "B-x", "I-x"))
    folder = str(models.save_hf(three, tokenizer, tmp_path / "three"))
    assert models.load_hf(folder, head="tokens", labels=("O", "B-x")).classifier.out_features == 2
    with pytest.raises(DataError, match=r"a trained head, and 2 of its weights .* classifier\.bias \(3, not 2\)"):
        models.load_hf(folder, head="tokens", labels=("O", "B-x"), new_head=False)
    with pytest.raises(DataError, match=r"a trained head, and 2 of its weights .* classifier\.bias"):
        models.load_hf(str(source), head="tokens", new_head=False)
    assert not caplog.messages
    models.load_hf(folder, head="mlm")
    assert "has no head of masked-language modelling" in caplog.text


@pytest.mark.parametrize(("stored", "told"), [(torch.float16, "fp16"), (torch.bfloat16, "bf16")])
def test_half_precision_checkpoints_are_trained_in_fp32(stored, told, copy, weights, tokenizer, tmp_path):
    half = {name: value.to(stored) for name, value in weights.items()}
    folder = copy(half, dtype=str(stored).removeprefix("torch."))
    model = models.load_hf(str(folder), head="mlm")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert torch.equal(model.state_dict()["lm_head.bias"], half["lm_head.bias"].float())
    assert models.stored_precision(folder) == told
    assert models.stored_precision(models.save_hf(model, tokenizer, tmp_path / "saved")) == "fp32"


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def write_header(path, header):
    path.write_bytes(len(header).to_bytes(8, "little") + header.encode())


DAMAGES = [
    ("model.safetensors", cut, r"is cut off at \d+ of \d+ bytes"),
    ("model.safetensors", lambda path: path.write_bytes(b""), "is damaged or no safetensors file"),
    ("model.safetensors", lambda path: path.write_bytes(b"\xff" * 64), "is damaged or no safetensors file"),
    ("model.safetensors", lambda path: path.unlink(), "holds no weights.*; copy them there"),
    ("model.safetensors", lambda path: path.rename(path.with_name("tf_model.h5")), "tf_model.h5 is of TensorFlow"),
    (
        "model.safetensors",
        lambda path: path.rename(path.with_name("model.fp16.safetensors")),
        "model.fp16.safetensors is a variant: rename it",
    ),
    (
        "model.safetensors",
        lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5948\n"),
        r"model\.safetensors is a Git LFS pointer .*git lfs pull",
    ),
    ("pytorch_model.bin", cut, "is cut off or no file of weights"),
    ("pytorch_model.bin", lambda path: path.write_bytes(b"\x80\x02"), "cannot be loaded by transformers"),
    ("model-00002-of-00002.safetensors", lambda path: path.unlink(), "2 shards, and 1 of them are not there"),
    ("model-00002-of-00002.safetensors", cut, r"model-00002-of-00002\.safetensors is cut off"),
    ("model.safetensors.index.json", lambda path: path.write_text("{}"), "is no index of shards"),
    ("model.safetensors.index.json", lambda path: path.write_text("[" * 5000), "is no index of shards"),
    ("config.json", lambda path: path.write_text('{"model_type": ' + "[" * 5000), "nested too deeply"),
    ("config.json", lambda path: path.write_text('{"model_type": ""}'), "names no model_type"),
    (
        "model.safetensors",
        lambda path: write_header(path, '{"x": {"data_offsets": [0, 1e999]}}'),
        "is damaged or no",
    ),
    ("generation_config.json", os.mkfifo, "must be a regular file, got a pipe"),
    (
        "model.safetensors.index.json",
        lambda path: path.write_text('{"weight_map": {"x": "../elsewhere"}}'),
        "is no index of shards",
    ),
]


@pytest.mark.parametrize(("file", "damage", "told"), DAMAGES)
def test_damaged_weights_are_told_in_a_sentence(file, damage, told, copy, weights):
    is_sharded = "-of-" in file or "index" in file
    folder = copy(
        **({"shards": halves(weights)} if is_sharded else {"binary": dict(weights)} if "bin" in file else {})
    )
    damage(folder / file)
    with pytest.raises(DataError, match=told):
        models.load_hf(str(folder), head="mlm")


def with_one(value):
    def change(weights):
        table = next(name for name in weights if name.endswith("layer.1.output.dense.weight"))
        return weights | {table: weights[table].clone().index_fill_(0, torch.tensor([1]), value)}

    return change


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (with_one(float("nan")), r"must hold finite weights, got 1 .*: longformer\.encoder\.layer\.1\."),
        (with_one(float("inf")), "must hold finite weights"),
        (
            lambda weights: {name: value.to(torch.int8) for name, value in weights.items()},
            r"in another format: .* \(I8\).*quantised",
        ),
    ],
)
def test_weights_that_are_no_numbers_or_stand_for_others_are_refused(change, told, copy, weights):
    with pytest.raises(DataError, match=told):
        models.load_hf(str(copy(change(weights))), head="mlm")


def test_shards_of_several_saves_are_refused(copy, weights):
    one, two = halves(weights)
    twice = min(one)
    folder = copy(shards=[one, two | {twice: torch.ones_like(one[twice])}])
    with pytest.raises(DataError, match=rf"00002.safetensors both hold {twice}, and only one of them"):
        models.load_hf(str(folder), head="mlm")


def test_weights_whose_sum_alone_is_infinite_are_taken(copy, weights):
    models.load_hf(str(copy(with_one(3e38)(weights))), head="mlm")


@pytest.mark.parametrize(
    "name", ["encoder.layer.1.output.dense", "embeddings.word_embeddings", "encoder.layer.0.output.LayerNorm"]
)
def test_a_weight_of_zeros_is_refused(copy, weights, name):
    name = f"longformer.{name}.weight"
    with pytest.raises(DataError, match=f"1 weights of zeros alone: {name}"):
        models.load_hf(str(copy({**weights, name: torch.zeros_like(weights[name])})), head="mlm")


def test_a_new_head_has_no_bias_even_where_memory_was_not_empty(source, tmp_path):
    """transformers leaves the bias of some heads as it was allocated, which is any number or none."""
    folder = tmp_path / "encoder"
    shutil.copytree(source, folder)
    models.load_hf(str(source), head="mlm").base_model.save_pretrained(folder)
    torch.use_deterministic_algorithms(True)  # fills what is allocated with NaN
    try:
        model = models.load_hf(str(folder), head="mlm")
    finally:
        torch.use_deterministic_algorithms(False)
    assert not model.lm_head.bias.any()


def test_a_fingerprint_is_of_what_a_model_computes_with(source, weights, tmp_path):
    folder = shutil.copytree(source, tmp_path / "copy")
    (folder / "README.md").write_text("words")
    assert models.model_fingerprint(folder) == models.model_fingerprint(source) != ""
    save({name: value * 2 for name, value in weights.items()}, folder / "model.safetensors")
    assert models.model_fingerprint(folder) != models.model_fingerprint(source)
    assert models.model_fingerprint("org/name") == models.model_fingerprint("") == ""


def test_an_adapter_is_not_left_out_unseen(copy):
    folder = copy()
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(DataError, match="holds an adapter"):
        models.load_hf(str(folder), head="mlm")


def test_a_model_that_counts_from_another_padding_than_the_tokenizers_is_refused(copy, tokenizer):
    config = models.ModelConfig(pretrained=str(copy(pad_token_id=tokenizer.pad_token_id + 4)))
    with pytest.raises(DataError, match="must count positions from the padding of its tokenizer"):
        models.build(config, tokenizer, seed=0)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"quantization_config": {"quant_method": "fp8"}}, "its weights are quantised"),
        ({"pad_token_id": None}, "must say the pad_token_id of its tokenizer.* got null"),
        ({"model_type": "no-such"}, "cannot be loaded by transformers .*ValueError"),
        ({"num_attention_heads": 7}, "cannot be loaded by transformers"),
        ({"hidden_size": "64"}, "cannot be loaded by transformers"),
        ({"model_type": "bert"}, "must have the weights of a bert, .* got those of a longformer"),
    ],
)
def test_a_config_that_is_not_the_weights_is_told_in_a_sentence(changes, told, copy):
    with pytest.raises(DataError, match=told) as caught:
        models.load_hf(str(copy(**changes)), head="mlm")
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("architecture", ["Bert", "Roberta", "Electra", "BigBird", "Longformer", "DebertaV2"])
@pytest.mark.parametrize("stored", ["Model", "ForMaskedLM"])
@pytest.mark.parametrize("head", ["mlm", "sequence", "tokens", "spans"])
def test_no_published_kind_of_checkpoint_is_refused(architecture, stored, head, tmp_path):
    shape = {
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "vocab_size": 50,
        "max_position_embeddings": 70,
    }
    config = getattr(transformers, f"{architecture}Config")(**shape)
    getattr(transformers, f"{architecture}{stored}")(config).save_pretrained(tmp_path)
    models.load_hf(str(tmp_path), head=head)


def test_an_encoder_set_up_as_a_decoder_is_refused_and_a_decoder_is_told(copy, tmp_path, tokenizer, caplog):
    bert = transformers.BertConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    bert.is_decoder = True
    transformers.BertModel(bert).save_pretrained(tmp_path / "bert")
    with pytest.raises(DataError, match="must be an encoder, got is_decoder=true"):
        models.load_hf(str(tmp_path / "bert"), head="sequence", labels=("a", "b"))
    shape = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    config = transformers.LlamaConfig(**shape, vocab_size=300, max_position_embeddings=64, pad_token_id=0)
    transformers.LlamaForCausalLM(config).save_pretrained(tmp_path / "llama")
    loaded = models.load_hf(str(tmp_path / "llama"), head="sequence", labels=("a", "b"))
    assert "is a decoder (llama): each token sees only those before it" in caplog.text
    with pytest.raises(
        DataError, match=r"must find the end of a text by the padding .* pad_token_id=0 .* and 1 of"
    ):
        models.check_padding(loaded.config, tokenizer)


def test_outputs_of_a_trained_head_are_the_labels_own(source, tokenizer, tmp_path, caplog):
    labels = ("O", "B-drug", "I-drug")
    trained = models.load_hf(str(source), head="tokens", labels=labels, seed=3)
    folder = str(models.save_hf(trained, tokenizer, tmp_path / "trained"))
    same = models.load_hf(folder, head="tokens", labels=labels)
    assert torch.equal(same.classifier.weight, trained.classifier.weight)
    assert not caplog.messages
    other = models.load_hf(folder, head="tokens", labels=("I-drug", "O", "B-drug"))
    assert torch.equal(other.classifier.weight, trained.classifier.weight[[2, 0, 1]])
    assert "they are put into the order of the task's" in caplog.text
    foreign = [
        models.load_hf(folder, head="tokens", labels=("O", "B-age", "I-age"), seed=seed) for seed in (1, 1, 2)
    ]
    assert "they are drawn anew" in caplog.text
    first, again, another = (one.classifier.weight for one in foreign)
    assert torch.equal(first, again)
    assert not torch.equal(first, another)
    assert not torch.equal(first, trained.classifier.weight)


def test_weights_of_a_type_that_counts_positions_otherwise_are_refused(copy, weights):
    with pytest.raises(DataError, match=r"got those of a bert \('bert\.'\), which counts positions otherwise"):
        models.load_hf(str(copy(replaced("longformer.", "bert.", weights))), head="mlm")


def test_quantised_weights_in_a_pickle_are_refused(copy, weights):
    whole = {name: value.to(torch.int8) for name, value in weights.items()}
    with pytest.raises(DataError, match=r"pytorch_model\.bin must hold weights in .*quantised"):
        models.load_hf(str(copy(binary=whole)), head="mlm")


def test_a_config_that_asks_for_a_look_inside_changes_nothing(copy, source):
    rows = torch.full((1, 40), 7)
    folder = copy(return_dict=False, output_hidden_states=True)
    expected, found = (models.load_hf(str(one), head="mlm")(input_ids=rows) for one in (source, folder))
    assert torch.equal(expected.logits, found.logits)
    assert found.hidden_states is None
