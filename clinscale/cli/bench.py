"""`clinscale bench`: measured against the peer in the same process."""

import typer

from clinscale.cli import bench_data, bench_models, bench_record, bench_search, bench_training
from clinscale.cli.bench_faults import faults

app = typer.Typer(
    help="Measure clinscale beside its peer, in one process, equality asserted first.", no_args_is_help=True
)
app.command("all")(bench_record.run_all)
for _verb in (
    bench_record.compare,
    bench_record.tables,
    faults,
    bench_models.attention,
    bench_models.step,
    bench_models.predict,
    bench_data.loading,
    bench_training.checkpoint,
    bench_training.zero,
    bench_training.plan,
    bench_training.pretrain,
    bench_data.corpus,
    bench_search.recipe,
    bench_search.search,
):
    app.command()(_verb)
