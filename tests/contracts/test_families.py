"""What every family must keep; a family that is added inherits all of it, and needs its golden loss below."""

import ast
import copy
import pickle
from pathlib import Path

import pytest
import torch
import transformers

import clinscale
from clinscale import models
from clinscale.errors import ConfigError, DataError
from clinscale.predict import collate
from clinscale.pretrain import PretrainConfig
from clinscale.tasks import Window

GOLDEN = {"longformer": 5.7259589733403, "bigbird": 5.739118661783374, "modernbert": 5.712794584572424}
"""Masked-language loss of each tiny model from seed 0 on the same rows, in fp64: what a change of its numbers moves."""

PACKAGE = Path(clinscale.__file__).parent


class Vocabulary:
    """Of 300 tokens, with RoBERTa's special ones."""

    pad_token_id, cls_token_id, sep_token_id = 1, 0, 2

    def get_vocab(self):
        return {"last": 299}


def tiny(family, attention="exact", **changes):
    dropouts = {name: 0.0 for names in models.FAMILIES[family].dropout_fields for name in names}
    config = models.ModelConfig(family=family, size="tiny", hf_overrides=dropouts, **changes)
    return models.build(config, Vocabulary(), seed=0, attention=attention).double()


@pytest.fixture(scope="module", params=list(models.FAMILIES))
def family(request):
    return models.FAMILIES[request.param]


@pytest.fixture(scope="module")
def kept(family):
    """The tiny model as HF made it; copied by those who change it."""
    return tiny(family.name, "hf").eval()


@pytest.fixture
def hf(kept):
    return copy.deepcopy(kept)


@pytest.fixture(scope="module")
def folder(family, kept, tmp_path_factory):
    """The tiny model as a plain HF folder."""
    folder = tmp_path_factory.mktemp(family.name)
    copy.deepcopy(kept).float().save_pretrained(folder)
    return folder


def rows(length=200):
    draw = torch.Generator().manual_seed(1)
    ids = torch.randint(5, 300, (2, length), generator=draw)
    labels = torch.where(torch.rand(2, length, generator=draw) < 0.15, ids, -100)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}


def gradients(model, **inputs):
    model.zero_grad(set_to_none=True)
    loss = model(**inputs).loss
    loss.backward()
    return float(loss.detach()), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def test_it_is_found_by_both_names_and_names_itself(family, hf):
    assert models.family_named(family.name) is models.family_named(family.model_type) is family
    assert models.family_of(hf.config.model_type) == family.name
    assert hf.config.model_type == family.model_type


def test_its_loss_is_what_it_has_always_been(family, hf):
    ours = models.set_attention(models.prepare_for_mlm(hf), "exact", evaluation_pattern="hf")
    with torch.no_grad():
        assert float(ours(**rows(400)).loss) == pytest.approx(GOLDEN[family.name], rel=1e-9)


def test_the_cheaper_step_is_hfs_and_freezes_what_hf_gives_no_gradient_to(hf):
    hf.float().train()  # HF's Longformer has gradients that are no numbers in fp64
    ours = models.prepare_for_mlm(copy.deepcopy(hf))
    their_loss, theirs = gradients(hf, **rows())
    my_loss, mine = gradients(ours, **rows())
    assert my_loss == pytest.approx(their_loss, rel=1e-6)
    assert mine.keys() == theirs.keys()
    assert {name for name, p in ours.named_parameters() if not p.requires_grad}.isdisjoint(mine)
    for name, grad in theirs.items():
        torch.testing.assert_close(mine[name], grad, rtol=0, atol=1e-6)


@pytest.mark.parametrize("train", [True, False])
def test_documents_in_a_row_answer_as_each_alone(hf, train):
    ours = models.set_attention(models.prepare_for_mlm(hf), "exact").train(train)
    lengths = (40, 150, 7)
    whole = {name: tensor[:1, : sum(lengths)] for name, tensor in rows().items()}
    alone = [
        {name: tensor[:, sum(lengths[:at]) : sum(lengths[: at + 1])] for name, tensor in whole.items()}
        for at in range(len(lengths))
    ]
    segments = torch.arange(1, 4).repeat_interleave(torch.tensor(lengths))[None]
    padding = {"input_ids": Vocabulary.pad_token_id, "labels": -100}
    whole = {
        name: torch.nn.functional.pad(tensor, (0, 5), value=padding.get(name, 0)) for name, tensor in whole.items()
    }
    one = torch.tensor(1)
    my_loss, mine = gradients(
        ours, **whole, segment_ids=torch.nn.functional.pad(segments, (0, 5)), num_items_in_batch=one
    )
    parts = [gradients(ours, **part, num_items_in_batch=one) for part in alone]
    assert my_loss == pytest.approx(sum(loss for loss, _ in parts), rel=1e-6)
    for name, grad in mine.items():
        separate = sum(grads.get(name, torch.zeros_like(grad)) for _, grads in parts)
        torch.testing.assert_close(grad, separate, rtol=0, atol=1e-5 * max(1.0, float(separate.abs().max())))


def test_plain_transformers_reads_its_folder_and_answers_the_same(family, hf, folder):
    plain = transformers.AutoModelForMaskedLM.from_pretrained(folder, dtype=torch.float64).eval()
    back = models.load_hf(str(folder), head="mlm").double().eval()
    batch = {name: tensor for name, tensor in rows().items() if name != "labels"}
    with torch.no_grad():
        torch.testing.assert_close(back(**batch).logits, plain(**batch).logits, rtol=0, atol=1e-5)
        torch.testing.assert_close(
            models.set_attention(hf, "exact")(**batch).logits, plain(**batch).logits, rtol=0, atol=1e-5
        )
        assert torch.equal(pickle.loads(pickle.dumps(back))(**batch).logits, back(**batch).logits)


@pytest.mark.parametrize(
    ("head", "labels"), [("sequence", ("no", "yes")), ("tokens", ("O", "B-x")), ("spans", ())]
)
def test_a_head_learns_and_padding_changes_no_answer(head, labels, family, folder):
    model = models.load_hf(str(folder), head=head, labels=labels, unpad=True, dropout=0.0).double().eval()
    ids = [0, *range(5, 20), 2, 2, *range(30, 60), 2]
    window = Window(input_ids=ids, offsets=[(0, 0)] * len(ids), global_mask=[1, *[0] * (len(ids) - 1)], targets={})
    block = family.padding_block(model.config)
    whole = -(-len(ids) // block) * block if block else 0
    short = collate([window], pad_token_id=1, family=family.name, least_length=whole)
    padded = collate([window], pad_token_id=1, family=family.name, least_length=64)
    assert ("global_attention_mask" in short) == family.uses_global_mask
    name = "start_logits" if head == "spans" else "logits"
    with torch.no_grad():
        answer, other = model(**short)[name], model(**padded)[name]
    shared = (slice(None), slice(len(ids))) if head != "sequence" else (slice(None),)
    torch.testing.assert_close(other[shared], answer[shared], rtol=0, atol=1e-5)
    model.train()(**short)[name].sum().backward()
    assert any(parameter.grad is not None for parameter in model.base_model.parameters())


def test_dropout_is_set_where_the_family_keeps_it(family, folder):
    config = models.load_hf(str(folder), head="sequence", dropout=0.3, attention_dropout=0.2).config
    hidden, attention = family.dropout_fields
    assert [getattr(config, name) for name in hidden] == [0.3] * len(hidden)
    assert [getattr(config, name) for name in attention] == [0.2] * len(attention)


def test_a_size_reads_what_it_says_and_no_more(family):
    assert {"base", "tiny"} <= family.sizes.keys()
    model = tiny(family.name, max_tokens=192).eval()
    assert models.max_tokens_of(model.config) == 192
    with torch.no_grad():
        model(input_ids=torch.full((1, 192), 7))
    with pytest.raises(DataError, match="192 positions"):
        model(input_ids=torch.full((1, 193), 7))


def test_its_arithmetic_grows_with_the_row_and_with_the_head(family, hf):
    short, long = (models.train_flops_per_token(hf.config, tokens, head_share=0.15) for tokens in (64, 1024))
    assert 0 < short < long < models.train_flops_per_token(hf.config, 1024, head_share=1.0)
    assert family.attended_pairs(hf.config, 1) == hf.config.num_hidden_layers


@pytest.mark.parametrize("kind", ["Bert", "Roberta"])
def test_what_is_not_pretrained_is_one_sentence_before_anything_starts(kind, tmp_path):
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 16}
    config = getattr(transformers, f"{kind}Config")(vocab_size=300, **shape)
    getattr(transformers, f"{kind}ForMaskedLM")(config).save_pretrained(tmp_path)
    values = {"name": "x", "recipe": {"shards": "nowhere", "model": {"pretrained": str(tmp_path)}}}
    sentence = rf"must be of a family that clinscale pretrains \(.*\), got {kind.lower()} for model\.pretrained="
    with pytest.raises(ConfigError, match=sentence):
        PretrainConfig.parse(values, source="test")
    model = models.load_hf(str(tmp_path), head="mlm")
    with pytest.raises(ConfigError, match="clinscale pretrains"):
        models.prepare_for_mlm(model)
    with pytest.raises(ConfigError, match="clinscale pretrains"):
        models.train_flops_per_token(model.config, 64, head_share=1.0)


def test_a_family_that_is_not_known_names_the_nearest():
    with pytest.raises(
        ConfigError, match=r"must be one of longformer, bigbird, modernbert, got 'longfromer'; did you mean longf"
    ):
        models.ModelConfig(family="longfromer")


def test_an_encoder_without_a_limit_or_without_that_dropout_is_one_sentence():
    plain = models.family_named("xlnet")
    with pytest.raises(DataError, match="xlnet model must say max_position_embeddings"):
        plain.max_tokens(transformers.PretrainedConfig())
    with pytest.raises(ConfigError, match=r"hidden_dropout_prob, which a xlnet model does not have, got 0\.1"):
        plain.dropout_values(transformers.PretrainedConfig(), hidden=0.1, attention=None)


def test_names_of_families_are_compared_in_their_own_room_only():
    names = {name for family in models.FAMILIES.values() for name in (family.name, family.model_type)} | {
        "roberta"
    }
    found = []
    for path in PACKAGE.rglob("*.py"):
        text = path.read_text()
        if PACKAGE / "models" / "families" in path.parents or not any(
            name in text for name in names | {"transformers."}
        ):
            continue
        for node in ast.walk(ast.parse(text)):
            sides = [node.left, *node.comparators] if isinstance(node, ast.Compare) else []
            sides += node.args[1:] if isinstance(node, ast.Call) and ast.unparse(node.func) == "isinstance" else []
            for part in (part for side in sides for part in ast.walk(side)):
                is_name = isinstance(part, ast.Constant) and part.value in names
                is_class = isinstance(part, ast.Attribute) and ast.unparse(part).startswith("transformers.")
                if is_name or is_class:
                    found.append(f"{path.relative_to(PACKAGE)}:{node.lineno}")
    assert not found
