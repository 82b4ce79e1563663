"""The torch engine learns, clips and follows its schedule."""

import pytest
import torch
from schedulefree import AdamWScheduleFreeReference

from clinscale import models
from clinscale.engine import OptimizerConfig, TorchEngine, ZeroConfig
from clinscale.engine.optim import averaged, averaged_weights, build_optimizer, build_schedule, hidden_matrices
from clinscale.engine.zero import check_offload, deepspeed_config, import_deepspeed
from clinscale.errors import ConfigError


class Regression(torch.nn.Module):
    """y = 3x, in the shape of an HF model."""

    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(1, 1)

    def forward(self, x):
        return type("Output", (), {"loss": ((self.linear(x) - 3 * x) ** 2).mean()})


def test_training_reaches_the_answer_and_the_rate_ends_at_zero():
    torch.manual_seed(0)
    engine = TorchEngine(
        Regression(), OptimizerConfig(learning_rate=0.1, warmup_ratio=0.1, max_grad_norm=10), total_steps=200
    )
    rates = []
    for _ in range(200):
        rates.append(engine.learning_rate)
        loss = engine.forward({"x": torch.randn(16, 1)}).loss
        engine.backward(loss)
        engine.step()
    assert loss.item() < 1e-3
    assert rates[0] == 0.0
    assert max(rates) == pytest.approx(0.1)
    assert engine.learning_rate == pytest.approx(0.0, abs=1e-9)


def test_accumulated_micro_batches_equal_one_batch():
    x = torch.randn(8, 1)
    weights = []
    for parts in (1, 4):
        torch.manual_seed(1)
        engine = TorchEngine(Regression(), OptimizerConfig(learning_rate=0.1, warmup_ratio=0), total_steps=5)
        for micro in x.chunk(parts):
            engine.backward(engine.forward({"x": micro}).loss / parts)
        engine.step()
        weights.append(engine.module.linear.weight.detach().clone())
    torch.testing.assert_close(weights[0], weights[1])


def test_only_matrices_decay():
    groups = build_optimizer(Regression(), OptimizerConfig(weight_decay=0.5)).param_groups
    assert [(group["weight_decay"], len(group["params"])) for group in groups] == [(0.5, 1), (0.0, 1)]


class Encoder(torch.nn.Module):
    """Embeddings, a layer, a norm and a head, in the shape of an HF model."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.base_model = torch.nn.Sequential(
            torch.nn.Embedding(9, 4), torch.nn.Linear(4, 6), torch.nn.LayerNorm(6)
        )
        self.base_model.append(torch.nn.Linear(6, 6, bias=False).requires_grad_(False))
        self.head = torch.nn.Linear(6, 2)

    def forward(self, x):
        return type("Output", (), {"loss": self.head(self.base_model(x)).square().mean()})


MUON = OptimizerConfig(name="muon", learning_rate=0.1, weight_decay=0.01, schedule="constant_with_warmup")


def test_muon_updates_the_matrices_of_the_layers_and_adamw_all_else():
    engine, alone = TorchEngine(Encoder(), MUON, total_steps=8), Encoder()
    hidden = alone.base_model[1].weight
    rest = [one for one in alone.parameters() if one is not hidden and one.requires_grad]
    muon = torch.optim.Muon([hidden], lr=0, weight_decay=0.01, adjust_lr_fn="match_rms_adamw")
    matrices = {"params": [one for one in rest if one.ndim == 2], "weight_decay": 0.01}
    vectors = {"params": [one for one in rest if one.ndim == 1], "weight_decay": 0.0}
    adamw = torch.optim.AdamW([matrices, vectors], lr=0, fused=True)
    batch = {"x": torch.arange(9)}
    for step in range(8):
        if step == 4:  # a checkpoint in the middle
            state, engine = engine.state_dict(), TorchEngine(Encoder(), MUON, total_steps=8)
            engine.load_state_dict(state)
        engine.backward(engine.forward(batch).loss)
        rate = engine.learning_rate
        engine.step()
        alone(**batch).loss.backward()
        torch.nn.utils.clip_grad_norm_(alone.parameters(), 1.0)
        for part in (muon, adamw):
            for group in part.param_groups:
                group["lr"] = rate
            part.step()
            part.zero_grad()
    assert rate == 0.1
    assert not torch.equal(hidden, Encoder().base_model[1].weight)
    expected = alone.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in engine.module.state_dict().items())


@pytest.mark.parametrize("family", ["longformer", "bigbird"])
def test_muon_takes_the_matrices_of_all_layers_and_nothing_else(family, base_models):
    model = models.prepare_for_mlm(models.load_hf(base_models[family], head="mlm"))
    taken = {id(one) for one in hidden_matrices(model)}
    names = {name for name, one in model.named_parameters() if id(one) in taken}
    layers = {name for name, one in model.named_parameters() if ".layer." in name and one.ndim == 2}
    assert names == {name for name in layers if model.get_parameter(name).requires_grad}
    assert len(names) == 6 * model.config.num_hidden_layers
    groups = build_optimizer(model, MUON).param_groups
    assert sum(len(group["params"]) for group in groups) == sum(one.requires_grad for one in model.parameters())


def test_muon_is_refused_where_matrices_are_divided():
    MUON.check_stage(0)
    for stage in (1, 2, 3):
        OptimizerConfig().check_stage(stage)
        with pytest.raises(ConfigError, match=rf"needs whole matrices, and zero\.stage={stage} divides them"):
            MUON.check_stage(stage)


FREE = OptimizerConfig(name="schedule_free", learning_rate=0.1, weight_decay=0.01, warmup_steps=4)


def test_schedule_free_trains_as_its_library_and_is_judged_by_the_average():
    """The library's reference keeps the average itself, in place of computing it from what it trains."""
    engine, alone = TorchEngine(Encoder(), FREE, total_steps=8), Encoder()
    trained = [one for one in alone.parameters() if one.requires_grad]
    matrices = {"params": [one for one in trained if one.ndim == 2], "weight_decay": 0.01}
    vectors = {"params": [one for one in trained if one.ndim == 1], "weight_decay": 0.0}
    reference = AdamWScheduleFreeReference([matrices, vectors], lr=0, foreach=False)
    reference.train()
    batch = {"x": torch.arange(9)}
    for step in range(8):
        if step == 3:  # a checkpoint in the middle
            state, engine = engine.state_dict(), TorchEngine(Encoder(), FREE, total_steps=8)
            engine.load_state_dict(state)
        engine.backward(engine.forward(batch).loss)
        for group in reference.param_groups:
            group["lr"] = engine.learning_rate
        engine.step()
        alone(**batch).loss.backward()
        torch.nn.utils.clip_grad_norm_(alone.parameters(), 1.0)
        reference.step()
        reference.zero_grad()
    assert engine.learning_rate == 0.1, "the rate stays"
    optimizer = engine._optimizer
    of_trained = [averaged(one, state["z"], beta1=0.9) for one, state in optimizer.state.items() if "z" in state]
    before = {name: one.clone() for name, one in engine.module.state_dict().items()}
    torch.testing.assert_close(before, dict(alone.state_dict()))
    reference.eval()
    with averaged_weights(optimizer):
        torch.testing.assert_close(dict(engine.module.state_dict()), dict(alone.state_dict()))
        judged = [one for group in optimizer.param_groups for one in group["params"]]
        assert all(map(torch.equal, judged, of_trained))
    assert all(torch.equal(one, before[name]) for name, one in engine.module.state_dict().items())


def test_schedule_free_is_refused_where_its_average_would_be_wrong():
    FREE.check_stage(0)
    for stage in (1, 2, 3):
        with pytest.raises(
            ConfigError, match=rf"an average that zero\.stage={stage} would .* set runtime\.zero\.stage=0"
        ):
            FREE.check_stage(stage)
    assert FREE.schedule == "constant_with_warmup"
    assert OptimizerConfig.parse(FREE.plain(), source="test") == FREE
    assert OptimizerConfig().schedule == "linear"
    with pytest.raises(ConfigError, match=r"got linear; set optimizer\.schedule=constant_with_warmup"):
        OptimizerConfig(name="schedule_free", schedule="linear")
    with pytest.raises(ConfigError, match=r"betas must begin with a number between 0 and 1 .*, got 0\.0"):
        OptimizerConfig(name="schedule_free", betas=(0, 0.999))


def test_a_recipe_with_adamw_is_the_recipe_it_was_before_there_was_a_choice():
    assert "name" not in OptimizerConfig(name="adamw").plain()
    assert OptimizerConfig.parse(MUON.plain(), source="test") == MUON


def test_one_key_sets_the_zero_stage():
    config = deepspeed_config(
        ZeroConfig(stage=3),
        precision="bf16",
        micro_batch_per_gpu=2,
        gradient_accumulation_steps=4,
        max_grad_norm=1.0,
    )
    assert config["zero_optimization"]["stage"] == 3
    assert config["bf16"] == {"enabled": True}
    assert config["train_micro_batch_size_per_gpu"] == 2


@pytest.mark.parametrize("wrong", [{"learning_rate": 0}, {"warmup_ratio": 1.0}, {"weight_decay": -1}])
def test_rates_out_of_range_are_refused(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        OptimizerConfig(**wrong)


@pytest.mark.skipif(torch.cuda.is_available(), reason="what is compiled on a machine without a GPU")
def test_nothing_is_compiled_at_the_first_start(monkeypatch, tmp_path):
    """A start that is killed while DeepSpeed compiles would leave a lock on which all later starts wait."""
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    import_deepspeed()
    from deepspeed.comm.torch import build_shm_op

    assert build_shm_op() is None
    assert not list(tmp_path.iterdir())


def rates(total_steps, tokens_before=None, **settings):
    optimizer = build_optimizer(torch.nn.Linear(2, 2), OptimizerConfig(learning_rate=1.0 / 8, **settings))
    config = OptimizerConfig(learning_rate=1.0 / 8, **settings)
    schedule = build_schedule(optimizer, config, total_steps, tokens_before=tokens_before)
    found = []
    for _ in range(total_steps + 1):
        found.append(8 * schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    return found


def test_warmup_stable_decay_rises_stays_and_falls():
    found = rates(100, schedule="warmup_stable_decay", warmup_ratio=0.1, decay_ratio=0.2)
    assert found[0] == 0
    assert found[10:80] == pytest.approx([1.0] * 70)
    assert found[90] == pytest.approx(0.5)
    assert found[100] == pytest.approx(0)


def test_warm_up_may_be_given_in_steps():
    assert rates(100, warmup_steps=20)[:21] == pytest.approx([step / 20 for step in range(21)])
    assert rates(100, warmup_steps=0, schedule="cosine")[0] == 1


def test_a_warm_up_that_leaves_nothing_of_the_training_is_refused():
    assert max(rates(1, warmup_ratio=0.9, decay_ratio=0.05)) == 1
    for settings in (
        {"warmup_steps": 100},
        {"warmup_steps": 85, "schedule": "warmup_stable_decay", "decay_ratio": 0.2},
    ):
        with pytest.raises(
            ConfigError, match=r"warmup_steps must be at most \d+ in a training of 100 steps, got "
        ):
            rates(100, **settings)


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant_with_warmup", "warmup_stable_decay"])
def test_a_schedule_in_tokens_keeps_its_shape_over_the_tokens_when_the_batch_grows(schedule):
    """40 steps of 100 tokens, then 80 of 200, in which the rate is what 200 steps of 100 tokens make it."""
    of_tokens = {"schedule": schedule, "schedule_unit": "tokens"}

    def before(step):
        return 100 * min(step, 40) + 200 * max(step - 40, 0)

    even = rates(200, schedule=schedule)
    assert rates(120, before, **of_tokens) == pytest.approx([even[before(step) // 100] for step in range(121)])
    assert rates(200, lambda step: 100 * step, **of_tokens) == pytest.approx(even)
    with pytest.raises(ConfigError, match="needs the tokens of each step"):
        rates(120, **of_tokens)
    early = rates(120, before, **of_tokens, warmup_tokens=2000)
    assert early[:21] == pytest.approx([step / 20 for step in range(21)])
    for wrong in ({"warmup_steps": 3}, {"warmup_tokens": 3, "schedule_unit": "steps"}):
        with pytest.raises(ConfigError, match="warmup_tokens schedule_unit=tokens"):
            OptimizerConfig(**of_tokens | wrong)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"stage": 0, "offload_optimizer": "cpu"}, r"needs zero\.stage 1, 2 or 3, got 0"),
        ({"stage": 2, "offload_param": "cpu"}, r"need zero\.stage 3, got 2"),
        ({"stage": 3, "offload_optimizer": "nvme"}, r"zero\.nvme_path is not set"),
    ],
)
def test_offload_that_cannot_work_is_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        ZeroConfig(**settings)


def test_offload_to_a_disk_that_deepspeed_cannot_use_here_is_refused(tmp_path, monkeypatch):
    # a compile that was killed leaves a lock in the user's cache, on which this one would wait for ever
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "compiled"))
    import_deepspeed()
    from deepspeed.ops.op_builder import AsyncIOBuilder

    if AsyncIOBuilder().is_compatible(verbose=False):
        pytest.skip("libaio is installed, so it can")
    with pytest.raises(ConfigError, match=r"nvme does not work on .*; install libaio-dev, .* or offload to cpu"):
        check_offload(ZeroConfig(stage=3, offload_optimizer="nvme", nvme_path=str(tmp_path)))


def test_each_offload_is_one_key():
    offload = ZeroConfig(stage=3, offload_optimizer="cpu", offload_param="nvme", nvme_path="/local")
    found = deepspeed_config(
        offload, precision="fp16", micro_batch_per_gpu=1, gradient_accumulation_steps=1, max_grad_norm=1.0
    )
    assert found["zero_optimization"]["offload_optimizer"]["device"] == "cpu"
    assert found["zero_optimization"]["offload_param"]["nvme_path"] == "/local"
    assert (found["fp16"], found["bf16"]) == ({"enabled": True}, {"enabled": False})


class Faint(Regression):
    """A loss whose gradients fp16 rounds to zero."""

    def forward(self, x):
        return type("Output", (), {"loss": (self.linear(x).float() * 1e-8).mean()})


def test_gradients_too_small_for_fp16_are_learned_from_and_steps_too_large_for_it_are_left_out():
    torch.manual_seed(0)
    config = OptimizerConfig(learning_rate=0.1, warmup_ratio=0, schedule="constant_with_warmup")
    engine = TorchEngine(Faint(), config, total_steps=5, precision="fp16")
    before = engine.module.linear.weight.detach().clone()
    engine.backward(engine.forward({"x": torch.ones(4, 1)}).loss)
    engine.step()
    after = engine.module.linear.weight.detach().clone()
    assert not torch.equal(before, after)
    engine.backward(engine.forward({"x": torch.ones(4, 1)}).loss * 1e12)
    engine.step()
    assert torch.equal(engine.module.linear.weight, after)
    other = TorchEngine(Faint(), config, total_steps=5, precision="fp16")
    other.load_state_dict(engine.state_dict())
    assert other.state_dict()["scaler"] == engine.state_dict()["scaler"]
    assert "scaler" not in TorchEngine(Faint(), config, total_steps=5).state_dict()
