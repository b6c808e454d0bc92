# syntax=docker/dockerfile:1
#
# Two images from one file:
#   docker build --target producer -t genqueue-producer .    scripts, gateway and dashboard; no torch
#   docker build --target worker   -t genqueue-worker .      torch with CUDA, from PyPI
# Settings come from GENQUEUE_… variables and a mounted file (GENQUEUE_CONFIG), models from a mounted folder; nothing
# secret is built in.

ARG PYTHON_VERSION=3.11

FROM python:${PYTHON_VERSION}-slim AS base
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
RUN useradd --uid 10001 --create-home genqueue
WORKDIR /app
# On SIGTERM a worker ends or puts back its job, within shutdown_grace_s and engine_stop_s: the container's stop
# time-out has to be above their sum.
STOPSIGNAL SIGTERM

# What both images are built from. The folders are empty here, so that an edited source file does not install
# gigabytes of dependencies again.
FROM base AS build
RUN python -m venv /opt/venv
WORKDIR /src
COPY constraints.txt LICENSE pyproject.toml README.md ./
RUN mkdir producer worker

FROM build AS build-producer
RUN --mount=type=cache,target=/root/.cache/pip pip install --constraint constraints.txt '.[dashboard,gateway]'
COPY producer producer
COPY worker worker
RUN --mount=type=cache,target=/root/.cache/pip pip install --no-deps --force-reinstall .

FROM build AS build-worker
RUN --mount=type=cache,target=/root/.cache/pip pip install --constraint constraints.txt '.[worker]'
COPY producer producer
COPY worker worker
RUN --mount=type=cache,target=/root/.cache/pip pip install --no-deps --force-reinstall .

FROM base AS producer
COPY --from=build-producer /opt/venv /opt/venv
USER 10001
CMD ["genqueue", "--help"]

FROM base AS worker
# Compiled and tuned kernels outlive the container where a volume is mounted there that its user can write to.
ENV HF_HUB_OFFLINE=1 \
    TORCHINDUCTOR_CACHE_DIR=/var/cache/genqueue
RUN install --directory --owner=10001 /var/cache/genqueue
# The decode step is compiled at the worker's start: Triton needs a C compiler, and a worker on a CPU a C++ one.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install --yes --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*
COPY --from=build-worker /opt/venv /opt/venv
USER 10001
CMD ["genqueue-worker", "--help"]
