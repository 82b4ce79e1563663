"""What a bench says must be true: equal first, counted right, and never a claim about two copies of one thing."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
import torch
import transformers

from clinscale import bench, models
from clinscale.bench import attention, measure, step
from clinscale.bench.encoders import batch_of, model_of, pair, without_dense_probabilities
from clinscale.errors import ClinscaleError, ConfigError

SMALL = {"tokens": 1024, "hidden_size": 64, "vocab_size": 512, "repeats": 1}


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("family", bench.FAMILIES)
def test_attention_names_every_ratio_and_what_was_asked_of_it(family):
    record = bench.bench_attention(**SMALL, families=(family,))
    names = {
        "longformer": {"longformer_module", "classification_module", "mlm_head"},
        "bigbird": {"bigbird_module", "bigbird_mlm_head"},
    }[family]
    assert {f"{name}_{precision}" for name in names for precision in ("fp32", "bf16")} <= record.ratios.keys()
    assert ("bigbird_module_fp32_vs_no_dense" in record.ratios) == (family == "bigbird")
    assert record.equal is True
    assert record.surroundings.machine.threads == torch.get_num_threads()
    assert list(record.plain()) == ["what", "machine", "versions", "load", "ratios", "equal", "details"]
    for found in record.ratios.values():
        assert list(found.plain()) == ["median", "min", "max", "asked"]
        assert 0 < found.min <= found.median <= found.max


@pytest.mark.slow
def test_step_measures_both_precisions_roof_and_memory():
    record = bench.bench_step(**SMALL, layers=(1,), families=("bigbird",))
    assert {
        "bigbird_step_1_layers_fp32",
        "bigbird_step_1_layers_bf16",
        "bigbird_step_bf16_over_fp32",
        "bigbird_roof_fraction_fp32",
        "bigbird_step_peak_memory",
    } <= record.ratios.keys()
    assert 0 < record.ratios["bigbird_roof_fraction_fp32"].max < 1
    assert record.details["bigbird_step_1_layers_bf16"]["tokens_per_s"] > 0


def test_a_model_that_differs_is_never_timed():
    hf, ours = pair("longformer", layers=1, tokens=1024, dropout=0.0, device="cpu", hidden_size=64)
    with torch.no_grad():
        ours.longformer.encoder.layer[0].attention.self.value.bias += 0.01
    shape = {"rows": 1, "tokens": 1024, "device": "cpu"}
    modules = [attention._Module(model, **shape, has_global=False) for model in (hf, ours)]
    with pytest.raises(ClinscaleError, match="differ by"):
        attention._compare("x", modules, torch.float32, repeats=1, device="cpu")
    steps = [step.TrainingStep(model, precision="fp32", **shape) for model in (hf, ours)]
    with pytest.raises(ClinscaleError, match="differ by"):
        step._assert_equal("x", steps, "fp32")


def test_the_peer_is_plain_hugging_face():
    hf, ours = pair("bigbird", layers=1, tokens=1024, dropout=0.0, device="cpu", hidden_size=64)
    assert not [module for module in hf.modules() if "forward" in vars(module)]
    assert "forward" in vars(ours.bert.encoder)


def test_bigbird_without_its_dense_probabilities_is_the_same_attention():
    model = model_of("bigbird", "hf", layers=1, tokens=1024, dropout=0.0, hidden_size=64)
    work = attention._Module(model, rows=1, tokens=1024, device="cpu", has_global=False)
    before = work.run()
    without_dense_probabilities(work.module)
    with_dense, without = before, work.run()
    assert all(map(torch.equal, with_dense, without))


def test_saved_bytes_counts_each_memory_once_and_no_parameters():
    linear = torch.nn.Linear(256, 256)
    x = torch.randn(64, 256, requires_grad=True)
    assert measure.saved_bytes(lambda: linear(x).exp()) == 2 * 64 * 256 * 4  # the input, and exp's own result


def test_runs_alternate_and_the_first_of_each_does_not_count():
    order = []
    times = measure.side_by_side(lambda: order.append("a"), lambda: order.append("b"), repeats=3, device="cpu")
    assert order == ["a", "b"] * 4
    assert len(times.a_s) == len(times.b_s) == 3


@pytest.mark.parametrize(
    ("config", "share", "millions"),
    [
        (transformers.LongformerConfig(vocab_size=50265), 1.0, 799.7),
        (transformers.LongformerConfig(vocab_size=50265), 0.15, 599.8),
        (transformers.BigBirdConfig(), 1.0, 814.0),
        (transformers.BigBirdConfig(), 0.15, 613.7),
    ],
)
def test_arithmetic_of_base_models_by_hand(config, share, millions):
    """Worked out by hand from the shapes: 4,096 tokens, 12 layers of width 768."""
    assert models.train_flops_per_token(config, 4096, head_share=share) / 1e6 == pytest.approx(millions, abs=0.1)


@pytest.mark.parametrize(("option", "value"), [("tokens", 600), ("tokens", 512), ("hidden_size", 100)])
def test_shapes_that_cannot_be_measured_are_refused(option, value):
    with pytest.raises(ConfigError, match=f"{option} must be a multiple"):
        bench.bench_attention(**(SMALL | {option: value}))


def test_about_one_token_in_seven_is_masked():
    model = model_of("longformer", "hf", layers=1, tokens=1024, dropout=0.0, hidden_size=64)
    labels = batch_of(model, rows=4, tokens=1024, device="cpu")["labels"]
    assert (labels != -100).float().mean() == pytest.approx(0.15, abs=0.02)


@pytest.mark.slow
def test_it_runs_where_only_torch_and_transformers_are():
    """As on a borrowed GPU machine: no Ray, DeepSpeed, MLflow or Optuna."""
    code = """
import sys
for absent in ("ray", "deepspeed", "mlflow", "optuna", "datasets"):
    sys.modules[absent] = None
sys.argv = ["clinscale", "bench", "attention", "--tokens", "1024", "--hidden-size", "64", "--repeats", "1"]
sys.argv += ["--family", "bigbird", "--precision", "fp32", "--json"]
from clinscale.cli.main import main
main()
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout)["equal"] is True


def test_an_interruption_ends_the_fresh_process():
    others = set(multiprocessing.active_children())

    def interrupt():
        while not set(multiprocessing.active_children()) - others:
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, signal.default_int_handler)  # SIGINT may be ignored where tests run
    try:
        threading.Thread(target=interrupt, daemon=True).start()
        with pytest.raises(KeyboardInterrupt):
            measure.in_fresh_process(time.sleep, 3600)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert set(multiprocessing.active_children()) == others
