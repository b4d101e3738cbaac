# syntax=docker/dockerfile:1.7
# Trains on NVIDIA GPUs, alone or as any node of a Ray cluster. CUDA comes with PyTorch's wheels; the host needs a driver
# for CUDA 13 and the NVIDIA container toolkit. Build from the root of the repository:
#     docker build -f deploy/docker/trainer.Dockerfile -t flexgym-trainer .
# Append @sha256:... to the base image for builds that are the same for years.
FROM python:3.11.14-slim-bookworm AS build

ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/flexgym
COPY deploy/docker/trainer.txt /tmp/versions.txt
RUN /opt/flexgym/bin/pip install --requirement /tmp/versions.txt
COPY . /src
RUN /opt/flexgym/bin/pip install --no-deps /src \
    && /opt/flexgym/bin/pip check

FROM python:3.11.14-slim-bookworm

# wget is used by the probes of KubeRay, gcc by Triton.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --no-install-recommends --yes gcc libc6-dev wget \
    && rm -rf /var/lib/apt/lists/*
RUN groupadd --gid 10001 flexgym \
    && useradd --uid 10001 --gid flexgym --create-home flexgym \
    && install --directory --owner flexgym --group flexgym /runs /cache
COPY --from=build /opt/flexgym /opt/flexgym
COPY --chmod=755 deploy/docker/train deploy/docker/stop-training deploy/docker/wait-for-head /usr/local/bin/

ENV PATH=/opt/flexgym/bin:$PATH \
    HF_HOME=/cache/huggingface \
    XDG_CACHE_HOME=/cache \
    RAY_AUTH_MODE=token \
    RAY_USAGE_STATS_ENABLED=0 \
    PYTHONUNBUFFERED=1 \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 10001:10001
WORKDIR /home/flexgym
VOLUME ["/runs", "/cache"]
STOPSIGNAL SIGTERM
CMD ["flexgym", "--help"]
