"""GET /metrics: the sums of service.metrics and current gauges in Prometheus' text format."""

from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.metadata import version
from itertools import accumulate

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client import Counter as HttpCounter
from prometheus_client import Histogram as HttpHistogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.metrics import disable_created_metrics
from prometheus_client.registry import Collector

from service.admission import Admission
from service.job_schemas import State
from service.jobs import Jobs
from service.metrics import AMOUNT, FAMILIES, SUM, Sums
from service.queue import JobQueue, make_queue
from service.store import FolderStore
from service.ttl_cache import TtlCache

MEDIA_TYPE = CONTENT_TYPE_LATEST
_CACHE_TTL_S = 1.0
# Records read per scrape; the remaining, younger jobs are counted as queued.
_MAX_RECORDS_READ = 1000
_HTTP_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0, 600.0)

# The _created series would double the number of lines, and no alert uses them.
disable_created_metrics()  # type: ignore[no-untyped-call]


class MetricsEndpoint(Collector):
    """Prometheus collector of all metrics. HTTP metrics are per process; all others are shared by the API processes."""

    def __init__(self, store: FolderStore, jobs: Jobs, queue: JobQueue, admission: Admission) -> None:
        self._store, self._jobs, self._queue, self._admission = store, jobs, queue, admission
        registry = CollectorRegistry()
        what = "Requests answered by this process."
        self._requests = HttpCounter("mmad_http_requests", what, ["route", "method", "status"], registry=registry)
        what = "Seconds from a request's header to the end of its answer."
        self._request_seconds = HttpHistogram(
            "mmad_http_request_seconds", what, ["route", "method"], buckets=_HTTP_BUCKETS_S, registry=registry
        )
        registry.register(self)
        # The metrics document.
        self.document = TtlCache(_CACHE_TTL_S, lambda: generate_latest(registry))

    def count_request(self, route: str, method: str, status: int, seconds: float) -> None:
        """Count a request; implements service.middleware.OnResponse."""
        self._requests.labels(route, method, str(status)).inc()
        self._request_seconds.labels(route, method).observe(seconds)

    def describe(self) -> Iterator[Metric]:
        """Describe nothing, so that registering the collector does not query Redis."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """Yield the summed metrics, then the current gauges."""
        sums = self._queue.meter.read()
        if sums is not None:
            yield from _sum_metrics(sums)
            depth = self._queue.meter.try_query(lambda redis: make_queue(redis).count)
            if depth is not None:
                yield GaugeMetricFamily("mmad_queue_depth", "Deliveries that wait in Redis.", value=depth)
            workers = self._queue.get_throughput().workers
            yield GaugeMetricFamily("mmad_workers", "Workers that were heard of lately.", value=workers)
        yield GaugeMetricFamily("mmad_redis_up", "Whether Redis answers this process.", value=float(sums is not None))
        yield from self._job_metrics()
        yield GaugeMetricFamily("mmad_store_free_bytes", "Room on the store's disk.", value=self._store.free_bytes())
        build = GaugeMetricFamily("mmad_build_info", "1, with the version as a label.", labels=["version"])
        build.add_metric([version("mmad")], 1.0)
        yield build

    def _job_metrics(self) -> Iterator[Metric]:
        ids = self._admission.unfinished.get()
        records = [record for job_id in ids[:_MAX_RECORDS_READ] if (record := self._jobs.read(job_id))]
        running = sum(record.state is State.RUNNING for record in records)
        queued_since = [record.changes[-1].at for record in records if record.state is State.QUEUED]
        jobs = GaugeMetricFamily("mmad_jobs", "Jobs of the store that have not ended.", labels=["state"])
        jobs.add_metric([State.QUEUED], len(queued_since) + len(ids[_MAX_RECORDS_READ:]))
        jobs.add_metric([State.RUNNING], running)
        yield jobs
        now = datetime.now(UTC)
        oldest_s = max(0.0, (now - min(queued_since, default=now)).total_seconds())
        what = "How long the job has waited that waits longest; 0 where none does."
        yield GaugeMetricFamily("mmad_oldest_waiting_seconds", what, value=oldest_s)


def _sum_metrics(sums: Sums) -> Iterator[Metric]:
    for name, family in FAMILIES.items():
        if family.buckets:
            histogram = HistogramMetricFamily(name, family.description, labels=family.labels)
            for labels, parts in sums[name].items():
                cumulative = accumulate(parts.get(bound, 0.0) for bound in family.buckets)
                histogram.add_metric(labels, list(zip(family.buckets, cumulative, strict=True)), parts.get(SUM, 0.0))
            yield histogram
            continue
        counter = CounterMetricFamily(name, family.description, labels=family.labels)
        # A counter without labels starts at 0; the label values of the others are not known in advance.
        start: dict[tuple[str, ...], dict[str, float]] = {} if family.labels else {(): {}}
        for labels, parts in (sums[name] or start).items():
            counter.add_metric(labels, parts.get(AMOUNT, 0.0))
        yield counter
