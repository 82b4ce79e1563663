"""The causal mask of both families: what it computes, and that nothing ahead of a token reaches it."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from clinscale import models
from clinscale.errors import ConfigError
from clinscale.models.attention import exact, global_queries
from clinscale.models.attention.patterns import LongformerPattern

NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
LENGTHS = {"longformer": (20, 150), "bigbird": (20, 144, 300)}
"""Shorter than a window, and several; read whole, the most that is, and in blocks, random ones among them."""
CASES = [(family, length) for family, lengths in LENGTHS.items() for length in lengths]


def build(family, tokenizer):
    config = models.ModelConfig(family=family, size="tiny", hf_overrides=NO_DROPOUT)
    return models.prepare_for_mlm(models.build(config, tokenizer, seed=0), has_global_tokens=True).train()


def batch_of(model, length, *, has_globals):
    """A whole row and a padded one, whose labels are the next tokens."""
    draw = torch.Generator().manual_seed(length)
    ids = torch.randint(5, model.config.vocab_size, (2, length), generator=draw)
    mask = torch.ones_like(ids)
    ids[1, length - 6 :], mask[1, length - 6 :] = model.config.pad_token_id, 0
    labels = torch.full_like(ids, -100)
    labels[:, :-1] = torch.where(mask[:, 1:] > 0, ids[:, 1:], -100)
    batch = {"input_ids": ids, "attention_mask": mask, "labels": labels}
    if has_globals:
        batch["global_attention_mask"] = torch.zeros_like(ids)
        batch["global_attention_mask"][:, [0, length // 2]] = 1
    return batch


def answers(model, batch):
    """Logits, loss and gradients."""
    model.zero_grad(set_to_none=True)
    with models.looking_back(model):
        loss = model(**batch).loss
        loss.backward()
        with torch.no_grad():
            logits = model(**{name: one for name, one in batch.items() if name != "labels"}).logits
    return logits, loss.detach(), {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


def times_seen(pattern, document):
    """(H or 1, rows, rows): of the pattern as masked-language modelling has it, what is at or before the query."""
    whole = replace(pattern, causal=False)
    if isinstance(pattern, LongformerPattern):
        return torch.from_numpy(np.tril(whole.sees(document))[None].astype(int))
    return torch.from_numpy(np.tril(whole.times(document)))


def softmax_over(times_HQK, query_HQD, key_HKD, value_HKD):
    """Dense: every key as often as it is seen; zeros where there is none."""
    scores_HQK = query_HQD @ key_HKD.transpose(1, 2) * query_HQD.shape[-1] ** -0.5
    weights_HQK = times_HQK * (scores_HQK - scores_HQK.amax(-1, keepdim=True).detach()).exp()
    return weights_HQK @ value_HKD / weights_HQK.sum(-1, keepdim=True).clamp(min=1e-30)


def dense(query_THD, key_THD, value_THD, pattern, *, dropout):
    parts = torch.zeros_like(query_THD)
    for document in pattern.documents:
        rows = slice(document.start, document.start + document.rows)
        of_rows = (x_THD[rows].transpose(0, 1) for x_THD in (query_THD, key_THD, value_THD))
        answer_HRD = softmax_over(times_seen(pattern, document), *of_rows)
        parts = torch.cat([parts[: rows.start], answer_HRD.transpose(0, 1), parts[rows.stop :]])
    return parts


def dense_globals(module, hidden_TE, local_TE, documents, dropout):
    """A global token asks, with its own projections, for all at or before it."""
    for document in documents:
        hidden_LE = hidden_TE[document.tokens]
        query_HLD, key_HLD, value_HLD = (
            project(hidden_LE).view(len(hidden_LE), module.num_heads, -1).transpose(0, 1)
            for project in (module.query_global, module.key_global, module.value_global)
        )
        behind_LL = torch.ones(len(hidden_LE), len(hidden_LE)).tril()
        answer_LE = softmax_over(behind_LL, query_HLD, key_HLD, value_HLD).transpose(0, 1).flatten(1)
        rows_G = document.tokens.start + document.global_G
        local_TE = local_TE.index_copy(0, rows_G, answer_LE[document.global_G])
    return local_TE


@pytest.mark.parametrize(("family", "length"), CASES)
def test_outputs_and_gradients_are_those_of_a_dense_mask(family, length, tokenizer, monkeypatch):
    model = build(family, tokenizer)
    batch = batch_of(model, length, has_globals=family == "longformer")
    logits, loss, gradients = answers(model, batch)
    used = []
    monkeypatch.setattr(
        exact.tiles, "attend", lambda *qkv, dropout: used.append(qkv[3]) or dense(*qkv, dropout=dropout)
    )
    monkeypatch.setattr(global_queries, "with_global_rows", dense_globals)
    wanted_logits, wanted_loss, wanted = answers(model, batch)
    assert used
    assert all(pattern.causal for pattern in used)
    is_token = batch["attention_mask"].bool()
    torch.testing.assert_close(logits[is_token], wanted_logits[is_token], rtol=0, atol=1e-5)
    torch.testing.assert_close(loss, wanted_loss, rtol=0, atol=1e-5)
    assert gradients.keys() == wanted.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, wanted[name], rtol=0, atol=1e-5, msg=name)


@pytest.mark.parametrize(
    ("family", "length", "has_globals"), [(*case, False) for case in CASES] + [("longformer", 150, True)]
)
def test_no_token_ahead_changes_a_bit_of_an_answer(family, length, has_globals, tokenizer):
    model = build(family, tokenizer)
    batch = batch_of(model, length, has_globals=has_globals)
    del batch["labels"]

    def logits_of(batch):
        with torch.no_grad(), models.looking_back(model):
            return model(**batch).logits

    before = logits_of(batch)
    for at in (1, length // 2, length - 7):
        changed = batch | {"input_ids": batch["input_ids"].clone()}
        changed["input_ids"][:, at] = (changed["input_ids"][:, at] + 1).clamp(min=5) % model.config.vocab_size
        after = logits_of(changed)
        assert torch.equal(after[:, :at], before[:, :at])
        assert not torch.equal(after[:, at], before[:, at])
    with torch.no_grad():
        ahead = model(**batch).logits - model(**changed).logits
    assert ahead[0, length - 8].any(), "without the mask it does"


@pytest.mark.parametrize("family", ["longformer", "bigbird"])
def test_documents_of_a_row_answer_as_each_alone(family, tokenizer):
    model, lengths = build(family, tokenizer).double(), (40, 300, 7, 150)
    draw = torch.Generator().manual_seed(3)
    notes = [torch.randint(5, model.config.vocab_size, (1, length), generator=draw) for length in lengths]
    padding = torch.full((1, 9), model.config.pad_token_id)
    segments = torch.arange(1, 5).repeat_interleave(torch.tensor(lengths))
    row = {
        "input_ids": torch.cat([*notes, padding], 1),
        "segment_ids": torch.nn.functional.pad(segments[None], (0, 9)),
    }
    row["attention_mask"] = row["segment_ids"].sign()
    with torch.no_grad(), models.looking_back(model):
        together = model(**row).logits[0, : sum(lengths)]
        alone = [model(input_ids=note, attention_mask=torch.ones_like(note)).logits[0] for note in notes]
    torch.testing.assert_close(together, torch.cat(alone), rtol=0, atol=1e-12)


def test_a_model_that_cannot_look_back_is_refused(tokenizer):
    for family, attention, message in (
        ("modernbert", "exact", "which modernbert does not have"),
        ("longformer", "hf", r"set runtime\.attention=exact or recipe\.causal=null"),
    ):
        config = models.ModelConfig(family=family, size="tiny")
        model = models.prepare_for_mlm(models.build(config, tokenizer, seed=0, attention=attention))
        with pytest.raises(ConfigError, match=message), models.looking_back(model):
            pass
    model = build("bigbird", tokenizer)
    ids = torch.full((1, 32), 7)
    before = model(input_ids=ids).logits
    with pytest.raises(ConfigError, match="because attentions are asked for"), models.looking_back(model):
        model(input_ids=ids, output_attentions=True)
    assert torch.equal(model(input_ids=ids).logits, before), "behind it all is as it was"
