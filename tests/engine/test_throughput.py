"""Speed is that of training."""

from clinscale.engine import ThroughputMeter, throughput


def test_the_time_of_an_evaluation_does_not_count(monkeypatch):
    clock = iter([10.0, 12.0, 100.0, 102.0, 105.0])
    monkeypatch.setattr(throughput.time, "monotonic", lambda: next(clock))
    meter = ThroughputMeter()  # what comes before the first step does not count either
    meter.run()
    meter.run()
    meter.add(300)
    meter.pause()
    meter.pause()
    meter.run()
    meter.add(100)
    assert meter.tokens_per_second() == 400 / 4.0
