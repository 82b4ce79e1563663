"""Cost of each change to the paper's recipe until the held-out loss that the paper's recipe ends with."""

from clinscale.bench.recipe.compare import bench_recipe
from clinscale.bench.recipe.levers import LEVERS
from clinscale.bench.recipe.results import LeverResult, RecipeRecord, SeedResult

__all__ = ["LEVERS", "LeverResult", "RecipeRecord", "SeedResult", "bench_recipe"]
