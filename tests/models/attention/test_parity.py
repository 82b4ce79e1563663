"""The exact attention against plain Hugging Face: every logit, the loss, every gradient, and which have none."""

import copy

import pytest
import torch
import transformers

from clinscale import models
from clinscale.errors import DataError

VOCABULARY = 99
HIDDEN = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
PAD = {"longformer": 1, "bigbird": 0}
LONGFORMER_LENGTHS = (8, 16, 61, 200)  # shorter than the window, a multiple, odd, several windows
BIGBIRD_LENGTHS = (
    64,
    88,
    89,
    96,
    200,
    1024,
)  # full, at and above the threshold of 88, blocks or not, the paper's plan


def build(family, *, std=None, dtype=torch.float32, head="ForMaskedLM", **changes):
    torch.manual_seed(0)
    shape = {"vocab_size": VOCABULARY, "pad_token_id": PAD[family], **HIDDEN, **NO_DROPOUT}
    if family == "longformer":
        shape |= {"attention_window": [8, 16], "max_position_embeddings": 1200, "sep_token_id": 2}
        name = "Longformer"
    else:
        shape |= {"block_size": 8, "num_random_blocks": 3, "max_position_embeddings": 1024, "sep_token_id": 2}
        name = "BigBird"
    config = getattr(transformers, f"{name}Config")(**(shape | changes))
    model = getattr(transformers, f"{name}{head}")(config)
    for parameter in model.parameters():
        if std and parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=std)
    return model.to(dtype).eval()


def batch_of(family, length, *, masked="none", globals_in="none"):
    torch.manual_seed(length)
    ids = torch.randint(5, VOCABULARY, (3, length))
    mask = torch.ones(3, length, dtype=torch.long)
    if masked == "right":
        mask[1, length - length // 3 :] = 0
        ids[1, length - length // 3 :] = PAD[family]
    if masked == "holes":
        mask[0, 2:4] = mask[2, length // 2 : length // 2 + 3] = 0
    if masked == "tail":
        mask[:, length - length // 4 :] = 0
    batch = {"input_ids": ids, "attention_mask": mask}
    if globals_in != "none":
        batch["global_attention_mask"] = torch.zeros_like(ids)
        batch["global_attention_mask"][:, 0] = 1
    if globals_in == "uneven":  # the last flags a token that is padding where there is any
        batch["global_attention_mask"][0] = 0
        batch["global_attention_mask"][1, [3, length - 1]] = 1
    if globals_in == "many":  # more than the head size of 16: projected as HF does
        batch["global_attention_mask"][:2, : min(20, length)] = 1
    return batch


def labels_of(batch):
    labels = torch.where(torch.rand(batch["input_ids"].shape) < 0.2, batch["input_ids"], -100)
    labels[:, 1] = 7
    return labels


def assert_same(hf, ours, batch, *, bound=1e-5):
    """Logits at all positions, loss and gradients; the bound grows with values above one."""
    labels = labels_of(batch)
    for model in (hf, ours):
        model.zero_grad(set_to_none=True)
    theirs, mine = hf(**batch, labels=labels), ours(**batch, labels=labels)
    theirs.loss.backward()
    mine.loss.backward()
    pairs = {"logits": (theirs.logits, mine.logits), "loss": (theirs.loss, mine.loss)}
    for (name, p), q in zip(hf.named_parameters(), ours.parameters(), strict=True):
        assert (p.grad is None) == (q.grad is None), name
        if p.grad is not None:
            pairs[name] = (p.grad, q.grad)
    for name, (a, b) in pairs.items():
        difference = float((a - b).detach().abs().max()) / max(1.0, float(a.detach().abs().max()))
        assert difference <= bound, f"{name} differs by {difference}"


@pytest.mark.parametrize(("std", "train"), [(None, True), (0.3, False)])  # without dropout, training is as reading
@pytest.mark.parametrize("globals_in", ["none", "one", "uneven", "many"])
@pytest.mark.parametrize("masked", ["none", "right", "holes", "tail"])
def test_longformer_is_hfs(masked, globals_in, std, train):
    hf, ours = build("longformer", std=std), models.set_attention(build("longformer", std=std))
    for length in LONGFORMER_LENGTHS:
        batch = batch_of("longformer", length, masked=masked, globals_in=globals_in)
        assert_same(hf.train(train), ours.train(train), batch)


@pytest.mark.parametrize(("std", "train"), [(None, True), (0.3, True), (0.3, False)])
@pytest.mark.parametrize("masked", ["none", "right", "holes", "tail"])
def test_bigbird_is_hfs_whatever_came_before(masked, std, train):
    ours = models.set_attention(build("bigbird", std=std)).train(train)
    lengths = BIGBIRD_LENGTHS if masked == "right" else BIGBIRD_LENGTHS[:-1]
    for length in lengths:  # short ones first: HF's own model would stay at full attention
        assert_same(build("bigbird", std=std).train(train), ours, batch_of("bigbird", length, masked=masked))


@pytest.mark.parametrize("length", [89, 200, 1024])
@pytest.mark.parametrize("train", [True, False])
def test_bigbird_in_fp64_is_hfs_to_twelve_digits(length, train):
    hf, ours = (build("bigbird", dtype=torch.float64).train(train) for _ in range(2))
    assert_same(hf, models.set_attention(ours), batch_of("bigbird", length, masked="right"), bound=1e-12)


@pytest.mark.parametrize("family", ["longformer", "bigbird"])
def test_one_module_of_real_size(family):
    shape = {"hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 64, "num_hidden_layers": 1}
    shape |= {"attention_window": 512} if family == "longformer" else {"block_size": 64}
    hf = build(family, **shape)
    seen = []
    for model in (copy.deepcopy(hf).double(), hf, models.set_attention(copy.deepcopy(hf))):
        model.base_model.encoder.layer[0].attention.self.register_forward_hook(
            lambda module, inputs, output: seen.append(output[0])
        )
        with torch.no_grad():
            model(**batch_of(family, 1024))
    # how much fp32 rounds depends on the CPU: ours is no further from fp64 than twice what Hugging Face's is
    exact, theirs, own = seen
    assert float((exact - own).abs().max()) <= 2 * float((exact - theirs).abs().max()) <= 1e-5


@pytest.mark.parametrize("family", ["longformer", "bigbird"])
def test_in_half_precision_it_is_no_further_from_fp32_than_hf_is(family):
    shape = {"hidden_size": 128, "num_attention_heads": 4, "num_hidden_layers": 3, "attention_window": 16}
    shape = {key: value for key, value in shape.items() if family == "longformer" or key != "attention_window"}
    oracle = build(family, std=0.08, **shape)
    errors = {"hf": 0.0, "exact": 0.0}
    for length in (200, 256, 333):
        batch = batch_of(family, length, globals_in="one" if family == "longformer" else "none")
        labels = labels_of(batch)
        wanted = _logits_and_gradients(oracle, batch, labels)
        for attention in errors:
            half = models.set_attention(build(family, std=0.08, **shape), attention).bfloat16()
            found = _logits_and_gradients(half, batch, labels)
            errors[attention] += sum(
                float((a - b.float()).norm() / a.norm().clamp(min=1e-6))
                for a, b in zip(wanted, found, strict=True)
            )
    assert errors["exact"] <= 1.1 * errors["hf"]


def _logits_and_gradients(model, batch, labels):
    model.zero_grad(set_to_none=True)
    output = model.train()(**batch, labels=labels)
    output.loss.backward()
    return [output.logits, *(p.grad for p in model.parameters() if p.grad is not None and p.ndim > 1)]


@pytest.mark.parametrize("family", ["longformer", "bigbird"])
@pytest.mark.parametrize("length", [64, 200])
def test_attentions_come_from_hf_and_then_it_is_exact_again(family, length):
    # a fresh model for each call: HF installs its recorders at the first one
    batch = batch_of(family, length, globals_in="one" if family == "longformer" else "none")
    ours = models.set_attention(build(family))
    before = ours(**batch).logits
    theirs, mine = (model(**batch, output_attentions=True) for model in (build(family), ours))
    assert torch.equal(theirs.logits, mine.logits)
    assert len(theirs.attentions) == len(mine.attentions)
    assert all(map(torch.equal, theirs.attentions, mine.attentions))
    assert "forward" in vars(ours.base_model.encoder)
    assert torch.equal(ours(**batch).logits, before)


@pytest.mark.parametrize("family", ["longformer", "bigbird"])
@pytest.mark.parametrize("unpad", [False, True])
def test_hidden_states_and_other_inputs_pass_through(family, unpad):
    hf, ours = build(family), models.set_attention(build(family), unpad=unpad)
    batch = batch_of(family, 200)
    batch["token_type_ids"] = torch.zeros_like(batch["input_ids"])
    batch["position_ids"] = torch.arange(200).flip(0).expand(3, -1) + 2
    batch["inputs_embeds"] = hf.get_input_embeddings()(batch.pop("input_ids")).detach()
    theirs, mine = (model(**batch, output_hidden_states=True).hidden_states for model in (hf, ours))
    assert len(theirs) == len(mine) == 3
    for a, b in zip(theirs, mine, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", ["longformer", "bigbird"])
@pytest.mark.parametrize("use_reentrant", [False, True])
def test_activation_checkpointing_gives_the_same_gradients(family, use_reentrant):
    hf, ours = build(family).train(), models.set_attention(build(family)).train()
    ours.activation_checkpointing_enable({"use_reentrant": use_reentrant})
    assert_same(hf, ours, batch_of(family, 200, masked="right"))


@pytest.mark.parametrize("family", ["longformer", "bigbird"])
def test_without_padding_a_document_answers_as_alone(family):
    """Documents of very different lengths in one batch; BigBird's shortest see everything."""
    ours = models.set_attention(build(family), unpad=True).train()
    hf = build(family).train()
    lengths = [300, 40, 120]
    batch = batch_of(family, 300, globals_in="one" if family == "longformer" else "none")
    for row, length in enumerate(lengths):
        batch["attention_mask"][row, length:] = 0
        batch["input_ids"][row, length:] = PAD[family]
    labels = torch.where(batch["attention_mask"] == 1, batch["input_ids"], -100)
    mine = ours(**batch)
    loss = torch.nn.functional.cross_entropy(mine.logits.flatten(0, 1), labels.flatten(), reduction="sum")
    loss.backward()
    total = 0.0
    for row, length in enumerate(lengths):
        if family == "bigbird":
            hf.bert.set_attention_type("block_sparse")  # HF stays at full attention
        alone = hf(**{name: tensor[row : row + 1, :length] for name, tensor in batch.items()}).logits[0]
        torch.testing.assert_close(mine.logits[row, :length], alone, rtol=0, atol=1e-5)
        total += torch.nn.functional.cross_entropy(alone, labels[row, :length], reduction="sum")
    total.backward()
    for (name, p), q in zip(hf.named_parameters(), ours.named_parameters(), strict=True):
        if p.grad is not None:
            scale = max(1.0, float(p.grad.abs().max()))
            assert float((p.grad - q[1].grad).abs().max()) / scale <= 1e-5, name


def test_bigbird_evaluates_the_pattern_it_was_trained_on_if_told_to():
    trained = build("bigbird").train()
    ours = models.set_attention(build("bigbird"), evaluation_pattern="training").eval()
    batch = batch_of("bigbird", 200)
    torch.testing.assert_close(ours(**batch).logits, trained(**batch).logits, rtol=0, atol=1e-5)
    assert ours.config.evaluation_pattern == "training"
    assert not torch.allclose(
        models.set_attention(build("bigbird"))(**batch).logits, ours(**batch).logits, atol=1e-4
    )


def test_hfs_sticky_switch_is_there_behind_a_flag():
    from clinscale.models.attention import use_exact_attention

    hf, sticky = build("bigbird"), use_exact_attention(build("bigbird"), sticky=True)
    for length in (200, 64, 200):
        batch = batch_of("bigbird", length)
        torch.testing.assert_close(sticky(**batch).logits, hf(**batch).logits, rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", ["longformer", "bigbird"])
def test_it_goes_out_as_it_came_in(family):
    ours, batch = models.set_attention(build(family)), batch_of(family, 200)
    twin = copy.deepcopy(ours)
    with torch.no_grad():
        next(twin.base_model.encoder.parameters()).add_(1)
    assert not torch.allclose(twin(**batch).logits, ours(**batch).logits)
    assert list(ours.state_dict()) == list(build(family).state_dict())
    assert torch.equal(models.set_attention(ours, "hf")(**batch).logits, build(family)(**batch).logits)


@pytest.mark.parametrize("family", ["longformer", "bigbird"])
@pytest.mark.parametrize("head", ["ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering"])
def test_every_head_takes_it(family, head):
    hf, ours = build(family, head=head), models.set_attention(build(family, head=head))
    batch = batch_of(family, 200, masked="right", globals_in="one" if family == "longformer" else "none")
    for a, b in zip(hf(**batch).values(), ours(**batch).values(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", ["longformer", "bigbird"])
def test_a_row_longer_than_the_position_table_is_refused_with_both_numbers(family):
    model = models.set_attention(build(family, max_position_embeddings=130 if family == "longformer" else 128))
    with pytest.raises(DataError, match=r"row of 129 tokens is longer than the 128 positions"):
        model(input_ids=torch.full((1, 129), 7))


@pytest.mark.parametrize("family", ["longformer", "bigbird"])
def test_it_trains_under_autocast_with_dropout(family):
    dropout = {"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1}
    model = models.set_attention(build(family, **dropout)).train()
    batch = batch_of(family, 200)
    losses = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(**batch, labels=batch["input_ids"]).loss
        loss.backward()
        losses.append(float(loss.detach()))
    assert losses[0] == losses[1] != losses[2]
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_a_training_step_leaves_numpys_generator_alone():
    import numpy as np

    model = models.set_attention(build("bigbird")).train()
    np.random.seed(5)
    before = np.random.get_state()[1].copy()
    model(**batch_of("bigbird", 200)).logits.sum().backward()
    assert (np.random.get_state()[1] == before).all()


@pytest.mark.parametrize("family", ["longformer", "bigbird"])
@pytest.mark.parametrize("length", [40, 200])
@pytest.mark.parametrize("masked", ["none", "holes", "right"])
def test_where_a_document_is_classified_the_last_layer_is_that_of_its_first_token(family, length, masked):
    head = "ForSequenceClassification"
    hf, ours = build(family, head=head), models.set_attention(build(family, head=head), unpad=True)
    batch = batch_of(family, length, masked=masked, globals_in="one" if family == "longformer" else "none")
    if family == "bigbird" and masked == "right":  # HF's answer depends on the padding
        batch = {name: tensor[1:2, : length - length // 3] for name, tensor in batch.items()}
    computed = []
    ours.base_model.encoder.layer[-1].intermediate.register_forward_hook(
        lambda module, inputs, output: computed.append(output.shape[:-1].numel())
    )
    expected = hf(**batch).logits
    torch.testing.assert_close(ours(**batch).logits, expected, rtol=0, atol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(ours(**batch).logits, expected, rtol=0, atol=1e-5)
    assert computed[1] == len(expected) < computed[0]
