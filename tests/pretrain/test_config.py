"""What a run is, and what is refused before any worker starts."""

import pytest

from clinscale.config import differences
from clinscale.errors import ConfigError
from clinscale.pretrain import PretrainConfig, recipes

SHARDS = ["recipe.shards=/shards"]


def load(*overrides, path=None):
    return PretrainConfig.load(path, ["name=run", *SHARDS, *overrides])


@pytest.mark.parametrize(
    ("name", "pretrained", "rows", "steps", "per_gpu"),
    [
        ("clinical-longformer", "allenai/longformer-base-4096", 18, 200_000, 3),
        ("clinical-bigbird", "google/bigbird-roberta-base", 12, 300_000, 2),
    ],
)
def test_the_papers_runs_are_recipes_of_the_package(name, pretrained, rows, steps, per_gpu):
    """The figures of the model cards and of the authors' public command: reference/paper.md, section 3."""
    assert name in recipes()
    config = PretrainConfig.load(name, SHARDS)
    recipe = config.recipe
    assert (config.name, recipe.model.pretrained) == (name, pretrained)
    assert (recipe.row_tokens, recipe.rows_of_step(4096)) == (4096, rows)
    assert recipe.duration.steps(rows=10**6, rows_per_step=rows, tokens_per_row=4096) == steps
    assert rows * steps == 3_600_000, "both models read equally many sequences"
    optimizer = recipe.optimizer
    assert (optimizer.learning_rate, optimizer.schedule, optimizer.warmup_steps) == (3e-5, "linear", 10_000)
    assert (optimizer.betas, optimizer.eps, optimizer.weight_decay) == ((0.9, 0.999), 1e-8, 0.0)
    assert (recipe.masking.mask_fraction, recipe.masking.whole_words) == (0.15, False)
    assert (config.runtime.num_workers, config.runtime.micro_rows_per_gpu) == (6, per_gpu)
    assert PretrainConfig.load(name, [*SHARDS, "recipe.seed=7"]).recipe.seed == 7


def test_a_folder_of_its_name_does_not_hide_a_recipe(tmp_path, monkeypatch):
    (tmp_path / "clinical-longformer").mkdir()
    monkeypatch.chdir(tmp_path)
    assert load(path="clinical-longformer").recipe.row_tokens == 4096


def test_the_fast_recipe_is_the_papers_but_for_what_was_measured():
    paper, fast = (PretrainConfig.load(f"clinical-longformer{name}", SHARDS).plain() for name in ("", "-fast"))
    assert differences(paper, fast) == [
        "name: clinical-longformer -> clinical-longformer-fast",
        "recipe.attention_dropout: None -> 0.0",
        "recipe.masking.final_mask_fraction: unset -> 0.15",
        "recipe.masking.mask_fraction: 0.15 -> 0.3",
        "recipe.masking.schedule: unset -> linear",
    ]


def test_a_recipe_that_does_not_exist_names_the_nearest():
    with pytest.raises(ConfigError, match=r"did you mean clinical-longformer\?"):
        PretrainConfig.load("clinical-longfromer", SHARDS)


def test_a_global_batch_in_tokens_is_as_many_rows_as_fit():
    recipe = load("recipe.tokens_per_step=100000").recipe
    assert (recipe.rows_of_step(4096), recipe.rows_of_step(512)) == (24, 195)
    assert load("recipe.tokens_per_step=100").recipe.rows_of_step(4096) == 1


def test_the_global_batch_need_not_divide_over_workers():
    assert load("recipe.rows_per_step=18", "runtime.num_workers=[1, 4]").runtime.least_workers == 1
    load("recipe.rows_per_step=7", "runtime.num_workers=3", "runtime.micro_rows_per_gpu=2")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("recipe.precision=fp16", r"fp16 needs GPUs, .*bf16"),
        ("recipe.optimizer.name=muon", r"needs whole matrices, .*set runtime\.zero\.stage=0"),
        (
            "recipe.optimizer.name=schedule_free",
            r"an average that zero\.stage=2 would .*set runtime\.zero\.stage=0",
        ),
        ("recipe.optimizer.name=adam", r"did you mean adamw\?"),
        ("runtime.num_workers=[4, 2]", r"\[least, most\], got \(4, 2\)"),
        ("runtime.num_workers=0", "at least 1"),
        ("runtime.cpus_per_worker=0", "above 0, got 0"),
        ("recipe.row_per_step=8", r"did you mean rows_per_step\?"),
        ("recipe.masking.schedule=lniear", r"did you mean linear\?"),
        ("recipe.masking.shedule=linear", r"did you mean schedule\?"),
        ("recipe.masking.final_mask_fraction=1.2", r"final_mask_fraction is a share between 0 and 1, got 1\.2"),
        ("recipe.short_rows.row_token=128", r"did you mean row_tokens\?"),
        ("recipe.short_rows.share=1", "less than 1"),
        ("recipe.short_rows.row_tokens=8", "greater than or equal to 16"),
        ("recipe.canaries.cuont=1", r"did you mean count\?"),
        ("recipe.canaries.repeats=0", "greater than or equal to 1"),
        ("runtime.zero.stge=1", r"did you mean stage\?"),
        ("recipe.row_tokens=0", "greater than or equal to 8"),
        ("recipe.model.max_tokens=-1", "greater than or equal to 8"),
        ("recipe.seed=-1", "greater than or equal to 0"),
        ("runtime.log_every_steps=0", "greater than or equal to 1"),
        ("runtime.checkpoint_every_steps=0", "greater than or equal to 1"),
    ],
)
def test_what_cannot_work_is_refused_at_once(override, message):
    with pytest.raises(ConfigError, match=message):
        load(override)


def test_rising_stairs_of_masks_do_not_meet_the_spike_guard():
    """The guard would skip each step behind a rise, without end."""
    rising = ["recipe.masking.schedule=steps", "recipe.masking.final_mask_fraction=0.3"]
    with pytest.raises(ConfigError, match=r"schedule=steps must fall .*set schedule=linear or spike_guard=null"):
        load(*rising)
    assert load(*rising, "recipe.spike_guard=null").recipe.masking.mean_fraction == pytest.approx(0.225)
    assert load(*rising, "recipe.masking.mask_fraction=0.5").recipe.spike_guard


def test_notes_apart_need_the_exact_attention():
    with pytest.raises(ConfigError, match=r"documents_apart needs runtime\.attention=exact, got hf"):
        load("recipe.documents_apart=true", "runtime.attention=hf")


def test_a_causal_phase_comes_first_and_needs_an_attention_that_can_look_back_alone():
    def phases(total_steps, share):
        recipe = load(f"recipe.causal.share={share}").recipe
        return [recipe.is_causal(step, total_steps) for step in range(total_steps)]

    assert phases(8, 0.25) == [True] * 2 + [False] * 6
    assert phases(3, 0.99) == [True, True, False], "the last step always masks"
    assert phases(1, 0.99) == [False]
    assert not load().recipe.is_causal(0, 8)
    assert "causal" not in load().plain()["recipe"]
    assert PretrainConfig.parse(load("recipe.causal.share=0.5").plain(), source="test") == load(
        "recipe.causal.share=0.5"
    )
    for overrides, message in (
        (["share=1"], "less than 1"),
        (["steps=10"], "share"),
        (["share=0.5", "recipe.model.family=modernbert"], "which modernbert does not have"),
        (["share=0.5", "runtime.attention=hf"], r"recipe.causal needs runtime\.attention=exact, got hf"),
        (["share=0.5", "runtime.gpus_per_worker=1"], r"recipe.causal on GPUs .*attention_dropout=0, got None"),
    ):
        with pytest.raises(ConfigError, match=message):
            load(f"recipe.causal.{overrides[0]}", *overrides[1:])


def test_notes_apart_on_gpus_need_attention_without_dropout():
    on_gpus = ("recipe.documents_apart=true", "runtime.gpus_per_worker=1")
    with pytest.raises(ConfigError, match=r"recipe\.attention_dropout=0, got None"):
        load(*on_gpus)
    assert load(*on_gpus, "recipe.attention_dropout=0").recipe.attention_dropout == 0


def test_fp16_is_allowed_on_gpus():
    assert load("recipe.precision=fp16", "runtime.gpus_per_worker=1").recipe.precision == "fp16"


def test_short_rows_come_first_and_end_where_their_share_of_the_steps_does():
    def lengths(total_steps, *overrides):
        recipe = load(*overrides).recipe
        return [recipe.row_tokens_at(at, row_tokens=4096, total_steps=total_steps) for at in range(total_steps)]

    short = "recipe.short_rows.row_tokens=512"
    assert lengths(4) == [4096] * 4
    assert lengths(4, short) == [512] * 2 + [4096] * 2
    assert lengths(10, short, "recipe.short_rows.share=0.9") == [512] * 9 + [4096]
    assert lengths(3, short, "recipe.short_rows.share=0.9") == [512, 512, 4096], "the last step is never short"
    assert lengths(1, short) == [4096]
    for wrong in (500, 4096, 8192):
        with pytest.raises(ConfigError, match=rf"must divide rows of 4096 tokens, got {wrong}; 512 divides 4096"):
            lengths(4, f"recipe.short_rows.row_tokens={wrong}")


def test_a_recipe_without_short_rows_is_the_recipe_it_was_before_there_were_any():
    assert "short_rows" not in load().plain()["recipe"]
    assert load("recipe.short_rows=null").recipe.fingerprint() == load().recipe.fingerprint()
    short = load("recipe.short_rows.row_tokens=128")
    assert short.recipe.fingerprint() != load().recipe.fingerprint()
    assert PretrainConfig.parse(short.plain(), source="test") == short


def test_small_batches_come_first_and_on_their_share_of_the_tokens():
    def rows(total_steps, *overrides):
        batches = load("recipe.rows_per_step=8", *overrides).batches(4096)
        found = [batches.rows_at(step, total_steps) for step in range(total_steps)]
        assert [batches.rows_before(step, total_steps) for step in range(total_steps + 1)] == [
            sum(found[:step]) for step in range(total_steps + 1)
        ]
        return found

    runtime = ("runtime.num_workers=2", "runtime.micro_rows_per_gpu=1")
    small = (*runtime, "recipe.small_batches.rows_per_step=2")
    assert rows(3, *runtime) == [8, 8, 8]
    found = rows(70, *small, "recipe.small_batches.share=0.4")
    assert found == [2] * 51 + [8] * 19
    assert sum(found[:51]) / sum(found) == pytest.approx(0.4, abs=0.01)
    assert rows(1, *small) == [8], "the last step is never small"
    assert rows(2, *small, "recipe.small_batches.share=0.99") == [2, 8]
    in_tokens = ("recipe.tokens_per_step=33000", "recipe.small_batches.tokens_per_step=9000")
    assert rows(4, *runtime, *in_tokens) == rows(4, *small)
    whole = load("recipe.rows_per_step=8", *runtime, "recipe.duration=16384000tokens").recipe
    assert whole.steps(rows=0, row_tokens=4096) == 500
    cut = load("recipe.rows_per_step=8", *small, "recipe.duration=16384000tokens")
    steps = cut.recipe.steps(rows=0, row_tokens=4096)
    assert steps == 875
    assert cut.batches(4096).rows_before(steps, steps) == pytest.approx(4000, abs=8), "as many tokens as without"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["rows_per_step=8"], r"smaller than the global batch of 8 rows of 4096 tokens, got 8 rows; lower it"),
        (["rows_per_step=3"], r"divide by runtime.num_workers=2 times runtime.micro_rows_per_gpu=2, got 3 rows"),
        (["rows_per_step=6"], r"take a multiple of 4 rows"),
        (["rows_per_step=2", "tokens_per_step=2"], r"either rows_per_step or tokens_per_step, got 2 and 2"),
        (["share=0.5"], r"either rows_per_step or tokens_per_step, got None and None"),
        (["rows_per_step=2", "share=1"], "less than 1"),
    ],
)
def test_small_batches_that_cannot_be_are_refused(overrides, message):
    runtime = ("recipe.rows_per_step=8", "runtime.num_workers=2", "runtime.micro_rows_per_gpu=2")
    with pytest.raises(ConfigError, match=message):
        load(*runtime, *(f"recipe.small_batches.{override}" for override in overrides)).batches(4096)


def test_a_recipe_without_small_batches_is_the_recipe_it_was_before_there_were_any():
    plain = load().plain()["recipe"]
    assert "small_batches" not in plain
    assert not {"schedule_unit", "warmup_tokens"} & plain["optimizer"].keys()
    small = load("recipe.small_batches.rows_per_step=6")
    assert small.recipe.fingerprint() != load().recipe.fingerprint()
    assert PretrainConfig.parse(small.plain(), source="test") == small


def test_a_recipe_without_canaries_is_the_recipe_it_was_before_there_were_any():
    assert "canaries" not in load().plain()["recipe"]
    assert load("recipe.canaries=null").recipe.fingerprint() == load().recipe.fingerprint()
    planted = load("recipe.canaries.count=3")
    assert planted.recipe.fingerprint() != load().recipe.fingerprint()
    assert PretrainConfig.parse(planted.plain(), source="test") == planted
    assert (planted.recipe.canaries.count, planted.recipe.canaries.repeats) == (3, 4)
