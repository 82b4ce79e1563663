"""Launch files of clusters: written from a few answers, and checked before money or patients' data depend on them."""

from clinscale.launch.answers import KINDS
from clinscale.launch.check import check
from clinscale.launch.problem import Problem
from clinscale.launch.render import answers, render, write

__all__ = ["KINDS", "Problem", "answers", "check", "render", "write"]
