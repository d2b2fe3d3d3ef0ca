"""Is it well: /healthz, /readyz and /metrics, and a log of one line a job. No prompt, path, address or token in any of them.

/healthz   the server answers; open to anybody on this machine, says nothing else
/readyz    200 when a clip can be made, busy or not; else 503 and the first part that fails: loading, stalled, dead or storage
/metrics   for Prometheus; labels come from closed lists, so that the number of series does not grow
Both latter ones want the token: `authorization: {credentials_file: .../token}` in Prometheus' own settings.
"""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
import threading
import time
from collections import Counter as Tally
from collections.abc import Iterator
from logging.handlers import RotatingFileHandler
from pathlib import Path

from fastapi import FastAPI
from fastapi.responses import JSONResponse, PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric

from turbo_engine.stats import resident_bytes

from .live import Desk, Job

log = logging.getLogger("rushes.health")

ANSWER_S = 2.0              # in which an idle engine says something
LOG_BYTES, LOGS_KEPT = 1 << 20, 3
KINDS = ("preview", "render", "guest preview", "guest render", "preview by code", "render by code")      # by rank
OUTCOMES = ("done", "dropped", "failed", "no memory", "engine lost")
REASONS = ("host", "origin", "site", "token", "role", "route", "length", "type", "rate")
_SECONDS = (0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1, 1.5, 2, 3, 5, 10, 20, 60, 300)


class JobLog:
    """folder/jobs.jsonl, one JSON object a job; at most LOGS_KEPT files of LOG_BYTES."""

    def __init__(self, folder: Path):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._file = RotatingFileHandler(folder / "jobs.jsonl", maxBytes=LOG_BYTES, backupCount=LOGS_KEPT - 1, encoding="utf-8", delay=True)
        self._file.handleError = lambda record: None        # a full disk costs a line and no job

    def write(self, **facts) -> None:
        self._file.emit(logging.LogRecord("job", logging.INFO, "", 0, json.dumps(facts), None, None))

    def close(self) -> None:
        self._file.close()


class Health:
    """Watches a desk. refusals: the guard's tally by reason, to be handed over once there is a guard."""

    def __init__(self, desk: Desk, data_dir: Path):
        self._desk, self._data_dir = desk, data_dir
        self.refusals: Tally[str] = Tally()
        self._log, self._number, self._lock = JobLog(data_dir / "logs"), 0, threading.Lock()
        self.registry = CollectorRegistry()
        self._jobs = Counter("rushes_jobs", "Jobs that ended", ["kind", "outcome"], registry=self.registry)
        self._first = Histogram("rushes_first_picture_seconds", "From the start of a job to its first picture", buckets=_SECONDS, registry=self.registry)
        self._took = Histogram("rushes_clip_seconds", "From the start of a job to its clip", ["kind"], buckets=_SECONDS, registry=self.registry)
        self._step = Histogram("rushes_step_seconds", "One step of sampling", ["kind"], buckets=_SECONDS, registry=self.registry)
        for kind in KINDS:
            for outcome in OUTCOMES:
                self._jobs.labels(kind, outcome)
            self._took.labels(kind), self._step.labels(kind)
        self.registry.register(self)
        desk.on_end = self.ended

    def ended(self, job: Job, outcome: str, took_s: float) -> None:
        """A job of the desk has ended, on its worker thread."""
        kind, stage_s = KINDS[job.rank], job.stage_s or {}
        self._jobs.labels(kind, outcome).inc()
        if outcome == "done":
            self._took.labels(kind).observe(took_s)
            if job.first_picture_s is not None:
                self._first.observe(job.first_picture_s)
            if job.edit.num_steps and "denoise" in stage_s:
                self._step.labels(kind).observe(stage_s["denoise"] / job.edit.num_steps)
        with self._lock:
            self._number += 1
            self._log.write(time=round(time.time(), 3), job=self._number, generation=job.edit.generation, kind=kind, outcome=outcome,
                            took_s=round(took_s, 4), stage_s={name: round(value, 4) for name, value in stage_s.items()})

    def failing(self) -> str:
        """The first part that keeps a clip from being made; "" when none does. May take ANSWER_S."""
        if self._desk.state != "ready":
            return {"failed": "dead"}.get(self._desk.state, "loading")
        if not self._desk.engine_answers(ANSWER_S):
            return "stalled" if self._desk.state == "ready" else "loading"
        return "" if _writable(self._data_dir) else "storage"

    def collect(self) -> Iterator[Metric]:
        """What is read off when asked."""
        desk = self._desk
        refusals = CounterMetricFamily("rushes_guard_refusals", "Requests refused", labels=["reason"])
        for reason in REASONS:
            refusals.add_metric([reason], self.refusals[reason])
        yield refusals
        yield CounterMetricFamily("rushes_engine_restarts", "Engines started after the first", value=desk.engine_restarts)
        yield GaugeMetricFamily("rushes_ready", "1 when the engine is loaded", value=desk.state == "ready")
        yield GaugeMetricFamily("rushes_waiting", "Jobs asked for and not begun", value=desk.waiting)
        yield GaugeMetricFamily("rushes_pages", "Pages and callers connected", value=desk.pages)
        yield GaugeMetricFamily("rushes_disk_free_bytes", "Room in the data folder", value=shutil.disk_usage(self._data_dir).free)
        yield GaugeMetricFamily("rushes_app_memory_bytes", "Resident memory of this process, without the engine's", value=resident_bytes())
        memory = GaugeMetricFamily("rushes_engine_memory_bytes", "Of the engine: resident, and on its GPU", labels=["kind"])
        for kind, value in desk.engine_memory(ANSWER_S).items():
            memory.add_metric([kind], value)
        yield memory

    def close(self) -> None:
        self._log.close()


def add_health_routes(app: FastAPI, health: Health) -> None:
    @app.get("/healthz")
    async def alive() -> PlainTextResponse:
        return PlainTextResponse("ok")

    @app.get("/readyz")
    def ready() -> JSONResponse:
        failing = health.failing()
        return JSONResponse({"ready": not failing, "failing": failing or None}, 503 if failing else 200, headers={"Cache-Control": "no-store"})

    @app.get("/metrics")
    def metrics() -> PlainTextResponse:
        return PlainTextResponse(generate_latest(health.registry), media_type=CONTENT_TYPE_LATEST, headers={"Cache-Control": "no-store"})


def _writable(folder: Path) -> bool:
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"1")
            file.flush()
        return True
    except OSError:
        return False
