# syntax=docker/dockerfile:1.7
# Serves a vision-language judge with vLLM behind the OpenAI API. Build from the root of the repository:
#     docker build -f deploy/docker/judge.Dockerfile -t flexgym-judge .
# Append @sha256:... to the base image for builds that are the same for years.
FROM python:3.11.14-slim-bookworm AS build

ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/flexgym
COPY deploy/docker/judge.txt /tmp/versions.txt
RUN /opt/flexgym/bin/pip install --requirement /tmp/versions.txt
COPY . /src
RUN /opt/flexgym/bin/pip install --no-deps /src \
    && /opt/flexgym/bin/pip check

FROM python:3.11.14-slim-bookworm

# vLLM compiles kernels when it starts.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --no-install-recommends --yes g++ libc6-dev \
    && rm -rf /var/lib/apt/lists/*
RUN groupadd --gid 10001 flexgym \
    && useradd --uid 10001 --gid flexgym --create-home flexgym \
    && install --directory --owner flexgym --group flexgym /cache
COPY --from=build /opt/flexgym /opt/flexgym

ENV PATH=/opt/flexgym/bin:$PATH \
    HF_HOME=/cache/huggingface \
    XDG_CACHE_HOME=/cache \
    VLLM_NO_USAGE_STATS=1 \
    PYTHONUNBUFFERED=1 \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 10001:10001
WORKDIR /home/flexgym
VOLUME ["/cache"]
EXPOSE 8080
STOPSIGNAL SIGTERM
# Loading and compiling a judge of 8B parameters takes minutes.
HEALTHCHECK --start-period=15m --interval=15s --timeout=5s --retries=4 \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8080/health', timeout=4)"]
ENTRYPOINT ["flexgym", "judge", "serve", "--host", "0.0.0.0", "--port", "8080", "--api-key-env", "JUDGE_API_KEY"]
CMD ["CodeGoat24/UnifiedReward-Flex-qwen3vl-8b"]
