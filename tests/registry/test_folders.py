import json
import pickle

import pytest

from clinscale import registry
from clinscale.errors import RegistryError


def edit_json(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def pickled(folder):
    (folder / "model.pkl").write_bytes(pickle.dumps({}))


def torch_weights(folder):
    (folder / "pytorch_model.bin").write_bytes(b"weights")


def code(folder):
    (folder / "modeling_own.py").write_text("print('run me')")


def remote_code(folder):
    edit_json(folder / "config.json", auto_map={"AutoModel": "modeling_own.Model"})


def nested_remote_code(folder):
    edit_json(folder / "tokenizer_config.json", inner=[{"auto_map": {"AutoTokenizer": ["own.Tokenizer", None]}}])


def pipeline_code(folder):
    edit_json(folder / "config.json", custom_pipelines={"own": {"impl": "own.Pipeline"}})


def adapter(folder):
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "somebody/else"}')


def link(folder):
    (folder / "vocab.txt").symlink_to("/etc/hostname")


def subfolder(folder):
    (folder / "checkpoint-10").mkdir()


def hidden(folder):
    (folder / ".secret.json").write_text("{}")


def disguised_pickle(folder):
    (folder / "model.safetensors").write_bytes(pickle.dumps({"weight": [1.0]}))


def broken_config(folder):
    (folder / "config.json").write_text("{")


def bottomless_config(folder):
    (folder / "config.json").write_text('{"a":' * 20_000 + "1" + "}" * 20_000)


def no_weights(folder):
    (folder / "model.safetensors").unlink()


def no_config(folder):
    (folder / "config.json").unlink()


def index_elsewhere(folder):
    index = {"weight_map": {"weight": "../other/model.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def index_of_pickles(folder):
    index = {"weight_map": {"weight": "model.safetensors"}}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))


def index_of_nothing(folder):
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": ["model.safetensors"]}))


def index_of_numbers(folder):
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"weight": [1]}}))


def endless_number(folder):
    (folder / "config.json").write_text('{"layers": ' + "9" * 5000 + "}")


def packages_of_a_stranger(folder):
    (folder / "requirements.txt").write_text("# fine\ntorch==2.13.0\n--index-url http://elsewhere\n")


def package_by_url(folder):
    (folder / "requirements.txt").write_text("torch @ https://elsewhere/torch.whl\n")


def unknown_package(folder):
    (folder / "requirements.txt").write_text("torch==2.13.0\ntorhc==1.0\n")


def twins(folder):
    (folder / "Config.json").write_text("{}")


def kernel_of_the_hub(folder):
    edit_json(folder / "config.json", attn_implementation="somebody/attention")


def kernel_in_a_part(folder):
    edit_json(folder / "config.json", text_config={"_attn_implementation": "somebody/attention"})


def weights_elsewhere(folder):
    edit_json(folder / "config.json", transformers_weights="../other.safetensors")


SPOILT = [
    (unknown_package, r"requirements\.txt line 2 names a package that no model of clinscale needs"),
    (twins, r"Config\.json and config\.json differ by case alone"),
    (kernel_of_the_hub, r"names code to run \(attn_implementation\)"),
    (kernel_in_a_part, r"names code to run \(_attn_implementation\)"),
    (weights_elsewhere, r"names weights elsewhere \(transformers_weights\)"),
    (pickled, r"model\.pkl is not allowed"),
    (torch_weights, r"pytorch_model\.bin is not allowed"),
    (code, r"modeling_own\.py is not allowed"),
    (remote_code, r"config\.json names code to run \(auto_map\)"),
    (nested_remote_code, r"tokenizer_config\.json names code to run"),
    (pipeline_code, "custom_pipelines"),
    (adapter, r"adapter_config\.json is not allowed"),
    (link, r"vocab\.txt is a link or a folder"),
    (subfolder, "checkpoint-10 is a link or a folder"),
    (hidden, r"'\.secret\.json' is not plain"),
    (disguised_pickle, r"model\.safetensors is not a safetensors file"),
    (broken_config, r"config\.json is not valid JSON"),
    (bottomless_config, r"config\.json is not valid JSON"),
    (endless_number, r"config\.json is not valid JSON"),
    (index_of_nothing, "points at files that are not in the folder"),
    (index_of_numbers, "points at files that are not in the folder"),
    (no_weights, "no HF folder with safetensors"),
    (no_config, "no HF folder with safetensors"),
    (index_elsewhere, "points at files that are not in the folder"),
    (packages_of_a_stranger, r"requirements\.txt line 3 is no NAME==VERSION"),
    (package_by_url, r"requirements\.txt line 1 is no NAME==VERSION"),
    (index_of_pickles, r"pytorch_model\.bin\.index\.json"),
]


@pytest.mark.parametrize(("spoil", "message"), SPOILT, ids=[spoil.__name__ for spoil, _ in SPOILT])
def test_an_unsafe_folder_is_refused_by_both_ends(hf_folder, spoil, message):
    spoil(hf_folder)
    with pytest.raises(RegistryError, match=message):
        registry.folder_digest(hf_folder)


def test_a_folder_that_is_not_there_is_said(tmp_path):
    with pytest.raises(RegistryError, match="is not a folder"):
        registry.folder_digest(tmp_path / "nowhere")


def test_the_digest_names_content_not_place(hf_folder, saved_model):
    before = registry.folder_digest(hf_folder)
    assert before == registry.folder_digest(saved_model)
    edit_json(hf_folder / "config.json", note="changed")
    assert registry.folder_digest(hf_folder) != before


def test_sharded_weights_are_welcome(hf_folder):
    (hf_folder / "model.safetensors").rename(hf_folder / "model-00001-of-00001.safetensors")
    index = {"metadata": {}, "weight_map": {"weight": "model-00001-of-00001.safetensors"}}
    (hf_folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert registry.folder_digest(hf_folder)


def test_known_packages_pass_with_hashes_and_in_any_spelling(hf_folder):
    lines = [f"torch==2.13.0 --hash=sha256:{'0' * 64} --hash=sha256:{'1' * 64}", "Typing_Extensions==4.1"]
    (hf_folder / "requirements.txt").write_text("\n".join(["# fine", *lines, "nvidia-cublas-cu12==12.1"]) + "\n")
    assert registry.folder_digest(hf_folder)
