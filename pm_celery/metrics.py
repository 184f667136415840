"""Metrics for Prometheus: a collector that reads sums, lags and open letters when it is asked.

Register it beside your own, where one process of a deployment exposes it: all of them would tell the same ::

    from prometheus_client import REGISTRY
    from pm_celery.metrics import PmCeleryCollector

    REGISTRY.register(PmCeleryCollector())

Or let Prometheus scrape ``pm_celery.urls``. Needs the extra ``prometheus``.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator

from pm_celery.extras import remedy

try:
    from prometheus_client import CollectorRegistry
    from prometheus_client.exposition import choose_encoder
    from prometheus_client.metrics_core import (
        CounterMetricFamily,
        GaugeMetricFamily,
        HistogramMetricFamily,
        Metric,
    )
    from prometheus_client.registry import Collector
except ModuleNotFoundError as missing:
    raise ModuleNotFoundError(
        f"pm_celery.metrics needs the library prometheus-client. Run: {remedy('prometheus')}",
        name=missing.name,
    ) from missing

from pm_celery import clock, tallies
from pm_celery.conf import get_settings
from pm_celery.models import LetterGroup, Pause
from pm_celery.models.instances import InstanceStatus
from pm_celery.operations.health import Health, health

__all__ = ["PmCeleryCollector", "exposition"]

_OUTCOMES = frozenset({tallies.HANDLED, "skipped", "unmatched"})
_STATUSES = frozenset(InstanceStatus.values)
_COUNTERS = {
    tallies.BEGAN: ("instances_begun", "Process instances that began"),
    tallies.RUN_FAILED: ("runs_failed", "Runs of handlers and command handlers that raised"),
    tallies.DIED: ("dead_letters", "Dead letters that were opened"),
    tallies.UNKNOWN: ("unknown_messages", "Looks at messages that no release knew"),
}
_DURATIONS = {
    tallies.HANDLER: ("handler_duration_seconds", "How long handlers ran", "handler"),
    tallies.COMMAND: ("command_duration_seconds", "How long command handlers ran", "command"),
}
_ASKED = _STATUSES | _OUTCOMES | _COUNTERS.keys() | _DURATIONS.keys() | {tallies.OPEN}

Sums = list[tallies.Counted]


class PmCeleryCollector(Collector):
    """Asks the database each time; as many statements however many rows there are."""

    def describe(self) -> Iterable[Metric]:
        """Nothing, so that registering it asks no database."""
        return []

    def collect(self) -> Iterator[Metric]:
        """What is known now. Where the database cannot be read, that alone."""
        found = health()
        yield GaugeMetricFamily(
            "pm_celery_healthy", "1 where nothing grave is wrong", value=float(found.is_ok)
        )
        if not found.is_readable:
            return
        sums: dict[str, Sums] = defaultdict(list)
        for counted in tallies.ever(_ASKED):
            sums[counted.what].append(counted)
        yield from _now(found)
        yield _instances(sums)
        yield _messages(sums)
        for what, (name, text) in _COUNTERS.items():
            yield _counter(name, text, sums[what])
        yield _open_letters(sums[tallies.OPEN])
        yield _paused()
        for what, (name, text, label) in _DURATIONS.items():
            yield _histogram(name, text, label, sums[what])


def exposition(accept: str) -> tuple[bytes, str]:
    """Our metrics alone in the format that an Accept header asks for, and the format's content type."""
    registry = CollectorRegistry()
    registry.register(PmCeleryCollector())
    encode, content_type = choose_encoder(accept)
    return encode(registry), content_type


def _now(found: Health) -> Iterator[Metric]:
    lag = GaugeMetricFamily(
        "pm_celery_lag_seconds", "How late the longest overdue row is", labels=["of"]
    )
    for of in ("inbox", "outbox", "timers"):
        lag.add_metric([of], getattr(found.lags, of))
    yield lag
    if found.last_tick is not None:
        yield GaugeMetricFamily(
            "pm_celery_last_tick_timestamp_seconds",
            "When Beat's tick last ran",
            value=found.last_tick.timestamp(),
        )
    now = clock.now()
    sign = GaugeMetricFamily(
        "pm_celery_worker_sign_age_seconds",
        "How long ago a worker of the last hour was last seen",
        labels=["worker"],
    )
    for seen in found.workers:
        sign.add_metric([seen.worker], max(0.0, (now - seen.at).total_seconds()))
    yield sign


def _instances(sums: dict[str, Sums]) -> Metric:
    metric = GaugeMetricFamily(
        "pm_celery_instances", "Process instances that are there", labels=["process", "status"]
    )
    processes = sorted({found.process for status in _STATUSES for found in sums[status]})
    for status in sorted(_STATUSES):
        # Also where there are none: a series that comes and goes cannot be compared.
        counts = dict.fromkeys(processes, 0) | _by_process(sums[status])
        for process, count in counts.items():
            metric.add_metric([process, status], count)
    return metric


def _messages(sums: dict[str, Sums]) -> Metric:
    metric = CounterMetricFamily(
        "pm_celery_messages",
        "Messages that were handled, skipped, or found no instance",
        labels=["process", "outcome"],
    )
    for outcome in sorted(_OUTCOMES):
        for process, count in _by_process(sums[outcome]).items():
            metric.add_metric([process, outcome], count)
    return metric


def _counter(name: str, text: str, sums: Sums) -> Metric:
    metric = CounterMetricFamily(f"pm_celery_{name}", text, labels=["process"])
    for process, count in _by_process(sums).items():
        metric.add_metric([process], count)
    return metric


def _open_letters(sums: Sums) -> Metric:
    metric = GaugeMetricFamily(
        "pm_celery_dead_letters_open", "Dead letters that are open", labels=["process", "place"]
    )
    groups = LetterGroup.objects.using(get_settings().database)
    places = dict(groups.filter(pk__in={found.detail for found in sums}).values_list("pk", "place"))
    counts: dict[tuple[str, str], int] = defaultdict(int)
    for found in sums:
        counts[found.process, places.get(found.detail, "")] += found.count
    for labels, count in sorted(counts.items()):
        metric.add_metric(labels, count)
    return metric


def _paused() -> Metric:
    metric = GaugeMetricFamily(
        "pm_celery_process_paused", "1 for a paused process", labels=["process"]
    )
    rows = Pause.objects.using(get_settings().database).filter(resumed_at=None)
    for process in rows.order_by("process").values_list("process", flat=True):
        metric.add_metric([process], 1)
    return metric


def _histogram(name: str, text: str, label: str, sums: Sums) -> Metric:
    metric = HistogramMetricFamily(f"pm_celery_{name}", text, labels=["process", label])
    series: dict[tuple[str, str], Sums] = defaultdict(list)
    for found in sums:
        series[found.process, found.detail].append(found)
    bounds = [*map(str, tallies.BOUNDS), "+Inf"]
    for labels, found_here in sorted(series.items()):
        counts = dict.fromkeys(range(len(bounds)), 0)
        for found in found_here:
            counts[found.bucket] += found.count
        # Prometheus' buckets hold those of all before them.
        buckets, total = [], 0
        for number, bound in enumerate(bounds):
            total += counts[number]
            buckets.append((bound, total))
        metric.add_metric(labels, buckets, sum(found.seconds for found in found_here))
    return metric


def _by_process(sums: Sums) -> dict[str, int]:
    counts: dict[str, int] = defaultdict(int)
    for found in sums:
        counts[found.process] += found.count
    return dict(sorted(counts.items()))
