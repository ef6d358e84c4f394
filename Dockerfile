# syntax=docker/dockerfile:1
# The service with the demo models; further models are loaded at run time (docs/configuration.md).
FROM python:3.11-slim-bookworm AS build
WORKDIR /src
RUN python -m venv /opt/serve-app
ENV PATH=/opt/serve-app/bin:$PATH
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY serve_app ./serve_app
RUN pip install --no-cache-dir -c constraints.txt '.[siglip]'

FROM python:3.11-slim-bookworm
# KubeRay's readiness probes run bash and wget.
RUN apt-get update \
 && apt-get install --no-install-recommends -y bash wget \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --create-home --uid 1000 serve
COPY --from=build /opt/serve-app /opt/serve-app
ENV PATH=/opt/serve-app/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    RAY_USAGE_STATS_ENABLED=0
USER serve
WORKDIR /home/serve
COPY --chown=serve serve_config.yaml ./
EXPOSE 8000
HEALTHCHECK --start-period=60s CMD wget -q -O /dev/null http://127.0.0.1:8000/readyz || exit 1
# It wants SIMILARITY_API_KEYS, or SIMILARITY_OPEN=true where only trusted people reach the port.
CMD ["serve-app", "serve", "--host", "0.0.0.0"]
