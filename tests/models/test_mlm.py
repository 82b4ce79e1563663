"""The cheaper training step must be the same step."""

import copy

import pytest
import torch
import transformers

from clinscale import models
from clinscale.errors import ConfigError


@pytest.fixture(params=["longformer", "bigbird"])
def hf(request, tokenizer):
    overrides = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    config = models.ModelConfig(family=request.param, size="tiny", hf_overrides=overrides)
    return models.build(config, tokenizer, seed=0, attention="hf").train()


def batch_of(model):
    torch.manual_seed(1)
    ids = torch.randint(5, model.config.vocab_size, (2, 200))
    labels = torch.where(torch.rand(2, 200) < 0.15, ids, -100)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}


def gradients(model, **inputs):
    model.zero_grad(set_to_none=True)
    loss = model(**inputs).loss
    loss.backward()
    return loss.detach(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def test_loss_and_gradients_are_hfs(hf):
    ours, batch = models.prepare_for_mlm(copy.deepcopy(hf)), batch_of(hf)
    their_loss, theirs = gradients(hf, **batch)
    my_loss, mine = gradients(ours, **batch)
    torch.testing.assert_close(my_loss, their_loss, rtol=0, atol=1e-6)
    assert theirs.keys() == mine.keys()
    for name, grad in theirs.items():
        torch.testing.assert_close(mine[name], grad, rtol=0, atol=1e-6)


def test_what_is_frozen_is_what_hf_gives_no_gradient_to(hf):
    frozen = {n for n, p in models.prepare_for_mlm(copy.deepcopy(hf)).named_parameters() if not p.requires_grad}
    _, reached = gradients(hf, **batch_of(hf))
    assert frozen == {name for name, _ in hf.named_parameters()} - reached.keys()
    assert frozen
    if hf.config.model_type == "longformer":
        kept = models.prepare_for_mlm(copy.deepcopy(hf), has_global_tokens=True)
        assert all(p.requires_grad for p in kept.parameters())


def test_without_labels_it_answers_as_ever(hf):
    ours, batch = models.prepare_for_mlm(copy.deepcopy(hf)), batch_of(hf)
    del batch["labels"]
    assert torch.equal(ours(**batch).logits, hf(**batch).logits)


def test_the_summed_loss_divides_by_what_it_is_told(hf):
    ours, batch = models.prepare_for_mlm(hf), batch_of(hf)
    masked = int((batch["labels"] != -100).sum())
    summed = ours(**batch, num_items_in_batch=torch.tensor(1)).loss
    torch.testing.assert_close(summed / masked, ours(**batch).loss)


@pytest.mark.parametrize("attention", ["hf", "exact"])
def test_a_batch_without_a_masked_token_adds_nothing(hf, attention):
    ours, batch = models.prepare_for_mlm(models.set_attention(hf, attention)), batch_of(hf)
    batch["labels"].fill_(-100)
    blank = torch.zeros_like(batch["attention_mask"])
    blank[:, 0] = 1  # the rows that fill up a rank's share
    for attention_mask in (batch["attention_mask"], blank):
        batch["attention_mask"] = attention_mask
        for items in (torch.tensor(1), None):
            loss, grads = gradients(ours, **batch, num_items_in_batch=items)
            assert loss == 0
            learning = {name for name, parameter in ours.named_parameters() if parameter.requires_grad}
            assert grads.keys() == learning, "ZeRO waits for every gradient"
            assert all((grad == 0).all() for grad in grads.values())


def test_the_saved_folder_is_a_plain_one(hf, tokenizer, tmp_path):
    folder = models.save_hf(models.prepare_for_mlm(hf), tokenizer, tmp_path / "hf")
    plain = transformers.AutoModelForMaskedLM.from_pretrained(folder)
    assert plain.config.architectures == [type(plain).__name__]
    for name, weight in plain.state_dict().items():
        assert torch.equal(weight, hf.state_dict()[name]), name


# Documents that share a row. The tiny Longformer sees 32 tokens to either side, the tiny BigBird has blocks of 16 and
# reads notes of up to 144 tokens whole.

NOTES = {"short": (30, 61, 9), "long": (300, 161), "mixed": (40, 300, 7, 150)}


def apart(family, tokenizer, *, evaluation_pattern="hf", **overrides):
    no_dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    config = models.ModelConfig(family=family, size="tiny", hf_overrides=no_dropout | overrides)
    model = models.build(config, tokenizer, seed=0, evaluation_pattern=evaluation_pattern).double()
    return models.prepare_for_mlm(model, has_global_tokens=True)


def notes_of(model, lengths, *, with_globals):
    """One batch of one row for each note."""
    draw, notes = torch.Generator().manual_seed(2), []
    for length in lengths:
        ids = torch.randint(5, model.config.vocab_size, (1, length), generator=draw)
        labels = torch.where(torch.rand(1, length, generator=draw) < 0.2, ids, -100)
        labels[0, 1] = 7
        note = {"input_ids": ids, "labels": labels, "attention_mask": torch.ones_like(ids)}
        if with_globals:
            note["global_attention_mask"] = torch.zeros_like(ids)
            note["global_attention_mask"][0, 0] = 1
        notes.append(note)
    return notes


def packed(model, notes, row_tokens):
    """All notes in one row, a blank row and a row that holds the last note alone, with padding."""
    fill = {"input_ids": model.config.pad_token_id, "labels": -100}
    rows = {}
    for name in notes[0]:
        blank = torch.zeros_like(notes[0]["attention_mask"][:, :1]) + (fill["labels"] if name == "labels" else 1)
        rows[name] = torch.cat(
            [
                torch.nn.functional.pad(row, (0, row_tokens - row.shape[1]), value=fill.get(name, 0))
                for row in (torch.cat([note[name] for note in notes], 1), blank, notes[-1][name])
            ]
        )
    counts = [note["input_ids"].shape[1] for note in notes]
    segments = torch.zeros(3, row_tokens, dtype=torch.long)
    segments[0, : sum(counts)] = torch.arange(1, len(counts) + 1).repeat_interleave(torch.tensor(counts))
    segments[1, 0] = 1
    segments[2, : counts[-1]] = 1
    return rows | {"segment_ids": segments}


CASES = [
    ("longformer", "hf", False),
    ("longformer", "hf", True),
    ("bigbird", "hf", False),
    ("bigbird", "training", False),
]


@pytest.mark.parametrize("padding", [0, 37])
@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("lengths", NOTES.values(), ids=NOTES)
@pytest.mark.parametrize(("family", "pattern", "with_globals"), CASES)
def test_notes_in_a_row_answer_as_each_alone(family, pattern, with_globals, lengths, train, padding, tokenizer):
    model = apart(family, tokenizer, evaluation_pattern=pattern).train(train)
    notes = notes_of(model, lengths, with_globals=with_globals)
    batch = packed(model, notes, sum(lengths) + padding)
    items = torch.tensor(1)
    my_loss, mine = gradients(model, **batch, num_items_in_batch=items)
    parts = [gradients(model, **note, num_items_in_batch=items) for note in [*notes, notes[-1]]]
    torch.testing.assert_close(my_loss, sum(loss for loss, _ in parts), rtol=1e-12, atol=0)
    for name, grad in mine.items():
        alone = sum(grads.get(name, torch.zeros_like(grad)) for _, grads in parts)
        torch.testing.assert_close(grad, alone, rtol=0, atol=1e-11 * max(1.0, float(alone.abs().max())))

    del batch["labels"]
    with torch.no_grad():
        together = model(**batch).logits
        alone = [model(**{k: v for k, v in note.items() if k != "labels"}).logits[0] for note in notes]
    torch.testing.assert_close(together[0, : sum(lengths)], torch.cat(alone), rtol=0, atol=1e-12)
    torch.testing.assert_close(together[2, : lengths[-1]], alone[-1], rtol=0, atol=1e-12)


@pytest.mark.parametrize("family", ["longformer", "bigbird"])
def test_a_note_knows_nothing_of_its_neighbours(family, tokenizer):
    model = apart(family, tokenizer)
    batch = packed(model, notes_of(model, NOTES["mixed"], with_globals=False), 512)
    del batch["labels"]
    other = batch | {"input_ids": batch["input_ids"].clone()}
    other["input_ids"][0, 40:340] = 9
    with torch.no_grad():
        before, after = model(**batch).logits, model(**other).logits
        whole = [model(**(rows | {"segment_ids": None})).logits for rows in (batch, other)]
    changed = (before != after).any(-1)[0]
    assert changed[40:340].any()
    assert not changed[:40].any()
    assert not changed[340:].any()
    assert (whole[0] != whole[1]).any(-1)[0, :40].any(), "a row that is one text mixes them"
    assert torch.equal(model(**(batch | {"segment_ids": None})).logits, whole[0]), "and does so again"


@pytest.mark.parametrize("family", ["longformer", "bigbird"])
def test_documents_apart_with_checkpointed_activations_and_autocast(family, tokenizer):
    model = apart(family, tokenizer).float().train()
    batch = packed(model, notes_of(model, NOTES["mixed"], with_globals=family == "longformer"), 512)
    _, wanted = gradients(model, **batch)
    model.activation_checkpointing_enable({"use_reentrant": False})
    _, found = gradients(model, **batch)
    for name, grad in wanted.items():
        torch.testing.assert_close(found[name], grad, rtol=0, atol=1e-6)
    with torch.autocast("cpu", torch.bfloat16):
        assert model(**batch).loss.isfinite()


def test_hfs_own_attention_cannot_keep_documents_apart(hf, monkeypatch):
    from clinscale.models.attention import exact

    ours, batch = models.prepare_for_mlm(hf), batch_of(hf)
    batch["segment_ids"] = torch.ones_like(batch["input_ids"])
    with pytest.raises(ConfigError, match=r"Hugging Face's own code; set runtime\.attention=exact or"):
        ours(**batch)
    models.set_attention(ours, "exact")
    assert ours(**batch).loss.isfinite()
    monkeypatch.setattr(exact, "_backend", lambda *arguments: None)
    with pytest.raises(ConfigError, match=r"cannot run this batch"):
        ours(**batch)
