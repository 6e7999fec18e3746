# syntax=docker/dockerfile:1.10
# The router alone, without ComfyUI. From the repository's root:
#   docker build -f provisioning/kubernetes/router.Dockerfile -t comfyui-pyrouter .
ARG BASE_IMAGE=python:3.12-slim-bookworm
FROM ${BASE_IMAGE}
ENV PIP_NO_CACHE_DIR=1 \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1
WORKDIR /opt/comfyui-pyrouter
COPY requirements.txt requirements-router.txt ./
RUN pip install -r requirements.txt -r requirements-router.txt
COPY lib lib
COPY router router
RUN useradd --uid 10001 --create-home pyrouter && install -d -o pyrouter /var/lib/pyrouter
USER 10001
ENV ROUTER_STATE_DIR=/var/lib/pyrouter
EXPOSE 8080
STOPSIGNAL SIGTERM
CMD ["python", "-m", "router"]
