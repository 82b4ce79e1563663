"""`clinscale bench compare`: the ratios of one record that are worse in another, beyond their own scatter."""

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from clinscale.bench.record import Ratio
from clinscale.bench.suite import Entry, SuiteRecord

Verdict = Literal["slower", "lost", "faster", "alike", "absent"]


@dataclass(frozen=True)
class Difference:
    """One ratio in two records."""

    bench: str
    ratio: str
    before: float | None
    """Median in the first record; None where it is infinite, or not there."""
    after: float | None
    """Median in the second record."""
    change: float | None
    """Share by which it became better or, negative, worse; None without two finite figures."""
    verdict: Verdict
    """`slower` and `faster` are beyond noise; `lost` has ended without its figure in the second record; `absent` was
    measured in one record alone, or called with other options there."""
    remarks: tuple[str, ...]
    """Reasons why the comparison is a weak one: a busy machine, another machine, other versions."""

    def plain(self) -> dict[str, Any]:
        """JSON-ready."""
        return {**asdict(self), "remarks": list(self.remarks)}


def compare_records(before: SuiteRecord, after: SuiteRecord, *, tolerance: float) -> list[Difference]:
    """Every ratio of both records, the worst first.

    A ratio is worse beyond noise when its runs in `after` are all worse than all runs in `before`, and its median is by
    more than `tolerance` (the scatter between two processes that the runs of one cannot show). Two sets of five alike
    runs are apart like this once in 252 times. A bench that was called with other options is not compared.
    """
    found = []
    for name in dict.fromkeys((*before.benches, *after.benches)):
        old, new = before.benches.get(name), after.benches.get(name)
        same = old is not None and new is not None and old.command == new.command
        remarks = _remarks(old, new) if old and new else ()
        olds, news = (one.ratios if one else {} for one in (old, new))
        for ratio in dict.fromkeys((*olds, *news)):
            a, b = olds.get(ratio), news.get(ratio)
            if a and b and same:
                less_is_better = ratio in new.at_most if new else False
                found.append(_difference(name, ratio, a, b, less_is_better, tolerance, remarks))
                continue
            gone: Verdict = "lost" if new and same else "absent"
            if a:
                found.append(Difference(name, ratio, a.median, None, None, gone, remarks))
            if b:
                found.append(Difference(name, ratio, None, b.median, None, "absent", remarks))
    order = get_args(Verdict)
    return sorted(found, key=lambda one: (order.index(one.verdict), one.change or 0.0))


def _difference(
    bench: str, name: str, a: Ratio, b: Ratio, less_is_better: bool, tolerance: float, remarks: tuple[str, ...]
) -> Difference:
    (a_mid, a_low, a_high), (b_mid, b_low, b_high) = (_costs(one, less_is_better) for one in (a, b))
    change = None
    if math.isfinite(a_mid) and math.isfinite(b_mid) and b_mid > 0:
        change = a_mid / b_mid - 1
    verdict: Verdict = "alike"
    if b_low > a_high and b_mid > a_mid * (1 + tolerance):
        verdict = "slower"
    elif b_high < a_low and b_mid * (1 + tolerance) < a_mid:
        verdict = "faster"
    return Difference(bench, name, a.median, b.median, change, verdict, remarks)


def _costs(ratio: Ratio, less_is_better: bool) -> tuple[float, float, float]:
    """Median, smallest and largest cost: a ratio of which more is better costs its inverse."""
    numbers = [math.inf if one is None else one for one in (ratio.median, ratio.min, ratio.max)]
    if less_is_better:
        return numbers[0], numbers[1], numbers[2]
    middle, low, high = (math.inf if one <= 0 else 1 / one for one in numbers)
    return middle, high, low


def _remarks(old: Entry, new: Entry) -> tuple[str, ...]:
    said = [f"{which} was measured on a busy machine" for which, one in (("A", old), ("B", new)) if one.was_busy]
    a, b = old.answer or {}, new.answer or {}
    if a.get("machine") != b.get("machine"):
        said.append("other machine")
    versions = [{**one.get("versions", {})} for one in (a, b)]
    said += [
        f"{package} {versions[0].get(package, 'none')} -> {versions[1].get(package, 'none')}"
        for package in sorted({*versions[0], *versions[1]})
        if versions[0].get(package) != versions[1].get(package)
    ]
    return tuple(said)
