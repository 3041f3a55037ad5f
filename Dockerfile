# Three images from one file: `cpu` and `gpu` serve, `export` makes the bundles they serve.
#
#   docker build --target cpu .
#   docker build --target gpu .       CUDA comes from the nvidia-* wheels, the driver from the host's container toolkit
#   docker build --target export .
#
# Any image with Python 3.11 or newer as `python` serves as the base.
ARG PYTHON_IMAGE=python:3.13.15-slim-trixie
# What the labels of an image say; a test holds the version to that of the code.
ARG VERSION=0.1.0 REVISION=unknown

# What the three images share: where things are, and whom they run as. ONNX Runtime's packages report to their maker unless
# they are told not to before they load.
FROM ${PYTHON_IMAGE} AS base
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    ORT_DISABLE_TELEMETRY=1
RUN groupadd --gid 10001 bert \
    && useradd --uid 10001 --gid bert --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin bert \
    && install --directory --owner=bert --group=bert /models /tuning
WORKDIR /srv/bert

# One environment per image. The lock is mounted, not copied, and the cache of pip stays on the builder: a change of the
# code reuses these layers, a change of one pin downloads one wheel.
FROM base AS installer
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
RUN python -m venv --without-pip /opt/venv

FROM installer AS cpu-packages
RUN --mount=type=cache,target=/root/.cache/pip --mount=type=bind,source=requirements/cpu.txt,target=/tmp/cpu.txt \
    pip --python /opt/venv/bin/python install --only-binary :all: --require-hashes --requirement /tmp/cpu.txt

FROM installer AS gpu-packages
RUN --mount=type=cache,target=/root/.cache/pip --mount=type=bind,source=requirements/gpu.txt,target=/tmp/gpu.txt \
    pip --python /opt/venv/bin/python install --only-binary :all: --require-hashes --requirement /tmp/gpu.txt

FROM installer AS export-packages
RUN --mount=type=cache,target=/root/.cache/pip --mount=type=bind,source=requirements/export.txt,target=/tmp/export.txt \
    pip --python /opt/venv/bin/python install --only-binary :all: --require-hashes --requirement /tmp/export.txt

# Compiled once here: a read-only container cannot keep bytecode. Unchecked, as the sources never change in an image.
FROM installer AS code
COPY app app
COPY deploy/healthcheck.py deploy/healthcheck.py
COPY LICENSE LICENSE
RUN python -m compileall -q --invalidation-mode unchecked-hash app deploy

FROM code AS export-code
COPY model_export model_export
COPY deploy/fill_models.py deploy/fill_models.py
RUN python -m compileall -q --invalidation-mode unchecked-hash model_export deploy

FROM base AS server
ENV BERT_HOST=:: BERT_PORT=8000 BERT_MODELS=/models BERT_TUNING_CACHE_DIR=/tuning
USER 10001:10001
EXPOSE 8000
# Readiness, not liveness: an engine that will not come back ends the process by itself, and what waits for "healthy" (the
# start order of compose, a rolling update) waits for a server that answers.
HEALTHCHECK --interval=5s --timeout=3s --start-period=120s --retries=3 CMD ["python", "-I", "-S", "deploy/healthcheck.py"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["python", "-m", "app"]

FROM base AS export
COPY --from=export-packages /opt/venv /opt/venv
COPY --from=export-code /srv/bert /srv/bert
# The hub's cache: a volume of compose, so that a checkpoint is downloaded once.
RUN install --directory --owner=bert --group=bert /cache
ENV HF_HOME=/cache
USER 10001:10001
ENTRYPOINT ["python", "-m", "model_export"]
ARG VERSION REVISION
LABEL org.opencontainers.image.title="bert-inference-service-export" \
      org.opencontainers.image.description="Turn a BERT checkpoint into a bundle to serve" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"

FROM server AS gpu
COPY --from=gpu-packages /opt/venv /opt/venv
COPY --from=code /srv/bert /srv/bert
# What the container toolkit puts into the container; without them it adds no driver.
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
ARG VERSION REVISION
LABEL org.opencontainers.image.title="bert-inference-service" \
      org.opencontainers.image.description="Serve fine-tuned BERT models over HTTP, on GPU" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"

# Last, so that it is what a build without --target makes.
FROM server AS cpu
COPY --from=cpu-packages /opt/venv /opt/venv
COPY --from=code /srv/bert /srv/bert
ARG VERSION REVISION
LABEL org.opencontainers.image.title="bert-inference-service" \
      org.opencontainers.image.description="Serve fine-tuned BERT models over HTTP, on CPU" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
