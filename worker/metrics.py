"""What a worker tells Prometheus. Names follow OpenTelemetry's GenAI conventions where it has one."""

from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, start_http_server

from producer.contract import GenerationResult

from .engine_process.protocol import EngineInfo
from .errors import ConfigError

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
_MAX_TOKENS = 2**31
"""Of one job. What is more, or less than none, stands in a forged event of its stream."""
_TOKEN_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.25, 0.5, 1)


class Metrics:
    """The counters of one worker, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._server: WSGIServer | None = None
        self.jobs = Counter(
            "genqueue_jobs", "Jobs that ended here, by their end", ["status", "error"], registry=self.registry
        )
        self.requeued = Counter("genqueue_jobs_put_back", "Jobs put back into their queue", registry=self.registry)
        self.parked = Counter(
            "genqueue_jobs_parked",
            "Times that a job made way for one of a higher priority",
            registry=self.registry,
        )
        self.busy = Gauge("genqueue_busy", "1 while a job runs", registry=self.registry)
        self.engine_starts = Counter(
            "genqueue_engine_starts", "Starts of the engine process", registry=self.registry
        )
        self.engine = Info("genqueue_engine", "How the engine runs the model", registry=self.registry)
        self.context_length = Gauge(
            "genqueue_context_tokens", "Tokens of prompt and answer that fit", registry=self.registry
        )
        self.kv_bytes = Gauge("genqueue_kv_cache_bytes", "Size of the KV cache", registry=self.registry)
        self.cached_tokens = Counter(
            "genqueue_cached_tokens", "Prompt tokens that were in the cache already", registry=self.registry
        )
        self.input_tokens = Counter("gen_ai_usage_input_tokens", "Prompt tokens", registry=self.registry)
        self.output_tokens = Counter("gen_ai_usage_output_tokens", "Generated tokens", registry=self.registry)
        self.duration = self._histogram(
            "gen_ai_server_request_duration_seconds", "From a job being taken to its end", _SECONDS
        )
        self.first_token = self._histogram(
            "gen_ai_server_time_to_first_token_seconds", "From an attempt's beginning to its first token", _SECONDS
        )
        self.per_token = self._histogram(
            "gen_ai_server_time_per_output_token_seconds", "Decode time of a token after the first", _TOKEN_SECONDS
        )
        self.queued = self._histogram("genqueue_queued_seconds", "From being enqueued to being taken", _SECONDS)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(name, text, registry=self.registry, buckets=buckets)

    def describe_engine(self, engine: EngineInfo) -> None:
        """Say which engine has started."""
        described = engine.model_dump(include={"device", "dtype", "path", "compiled", "captured", "why"})
        self.engine.info(
            {name: str(value).lower() if value in (True, False) else value for name, value in described.items()}
        )
        self.context_length.set(engine.context_length)
        self.kv_bytes.set(engine.kv_bytes)

    def observe(self, result: GenerationResult, duration_s: float | None) -> None:
        """Count a job that has ended.  duration_s: from its being taken; None for one that never ran."""
        self.jobs.labels(result.status, result.error.code if result.error else "").inc()
        usage = result.usage
        self.input_tokens.inc(_plausible(usage.prompt_tokens))
        self.output_tokens.inc(_plausible(usage.completion_tokens))
        self.cached_tokens.inc(_plausible(usage.cached_tokens))
        if duration_s is not None:
            self.duration.observe(duration_s)
        timings = result.timings
        if timings.time_to_first_token_ms is not None:
            self.first_token.observe(timings.time_to_first_token_ms / 1000)
        if timings.tokens_per_second:
            self.per_token.observe(1 / timings.tokens_per_second)
        if timings.queued_ms is not None:
            self.queued.observe(timings.queued_ms / 1000)

    def serve(self, host: str, port: int) -> int:
        """Serve /metrics in a thread.  Returns the port, which the system chose if it was 0.

        Raises ConfigError where nothing can be served there.
        """
        try:
            self._server, _ = start_http_server(port, host, registry=self.registry)
        except OSError as error:
            raise ConfigError(
                f"metrics cannot be served at {host}:{port} ({error.strerror or error}): check metrics_host, and "
                "give each worker of a host a metrics_port of its own, or 0 for any that is free"
            ) from None
        return int(self._server.server_port)

    def close(self) -> None:
        """Stop serving, and free the port. Harmless when nothing is served."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None


def _plausible(tokens: int) -> int:
    return tokens if 0 <= tokens <= _MAX_TOKENS else 0
