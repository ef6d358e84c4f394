# syntax=docker/dockerfile:1.7
# The service, with the demo models; further models load at run time, or are baked in.
#
#   docker build --target cpu   --build-arg TORCH_INDEX=… -t serve-app:0.1.0 .        (see below)
#   docker build --target cuda  -t serve-app:0.1.0-cuda .
#   docker build --target baked --build-arg BASE=cuda --build-context weights=FOLDER -t serve-app:0.1.0-baked .
#
# A digest in PYTHON (python@sha256:…) makes a build the same for good.
ARG PYTHON=python:3.11.14-slim-bookworm
ARG BASE=cpu

FROM ${PYTHON} AS build-cuda
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PATH=/opt/serve-app/bin:$PATH
ARG EXTRAS=siglip,transformers,remote,s3,otel
WORKDIR /src
RUN python -m venv /opt/serve-app
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY serve_app ./serve_app
# What installs is not part of what is installed. Bytecode is, or every process would compile torch and
# Ray anew, and the service start in 39 s instead of 15; by pip it would have times in it, and no two
# builds be the same.
RUN pip install --no-compile -c constraints.txt ".[${EXTRAS}]" \
 && python -m pip uninstall -y pip setuptools \
 && python -m compileall -q -j 0 -x torch/testing --invalidation-mode unchecked-hash /opt/serve-app/lib

# The same with torch from TORCH_INDEX: its wheels without CUDA are a fifth of the size. Left out, the
# package index decides, as in `build-cuda`.
FROM ${PYTHON} AS build-cpu
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PATH=/opt/serve-app/bin:$PATH
ARG EXTRAS=siglip,transformers,remote,s3,otel
ARG TORCH_INDEX
WORKDIR /src
RUN python -m venv /opt/serve-app
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY serve_app ./serve_app
RUN pip install --no-compile -c constraints.txt torch torchvision ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} \
 && pip install --no-compile -c constraints.txt ".[${EXTRAS}]" \
 && python -m pip uninstall -y pip setuptools \
 && python -m compileall -q -j 0 -x torch/testing --invalidation-mode unchecked-hash /opt/serve-app/lib

FROM ${PYTHON} AS runtime
LABEL org.opencontainers.image.title="serve-app" \
      org.opencontainers.image.description="How well does this image match this text?" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.licenses="Apache-2.0"
# KubeRay's readiness probes run bash and wget; they are the distribution's, so not pinned here.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install --no-install-recommends -y bash wget \
 && rm -rf /var/lib/apt/lists/* \
 && python -m pip uninstall -y --root-user-action=ignore pip setuptools wheel \
 && useradd --create-home --uid 1000 serve \
 && install -d -o serve -g serve /opt/models /var/lib/serve_app
ENV PATH=/opt/serve-app/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    RAY_USAGE_STATS_ENABLED=0
WORKDIR /home/serve
COPY --chown=serve serve_config.yaml ./
USER 1000:1000
EXPOSE 8000
HEALTHCHECK --start-period=90s --interval=15s --timeout=35s --retries=3 \
  CMD ["wget", "-q", "-T", "30", "-O", "/dev/null", "http://127.0.0.1:8000/readyz"]
# It wants SIMILARITY_API_KEYS, or SIMILARITY_OPEN=true where only trusted people reach the port.
CMD ["serve-app", "serve", "--host", "0.0.0.0"]

FROM runtime AS cpu
COPY --from=build-cpu /opt/serve-app /opt/serve-app

FROM runtime AS cuda
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
COPY --from=build-cuda /opt/serve-app /opt/serve-app

# Weights in the image: `--build-context weights=FOLDER` is copied to /opt/models.
FROM ${BASE} AS baked
# It is a build context, and no stage.
# hadolint ignore=DL3022
COPY --from=weights --chown=1000:1000 . /opt/models/

# The last stage is what `docker build .` makes.
FROM cpu AS default
