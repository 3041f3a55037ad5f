PYTHON ?= python3
# cpu or gpu: which ONNX Runtime `make serve` installs
EXTRA ?= cpu
VENV := .venv
TRAIN_VENV := .venv-train
TORCH := .torch
OPENVINO := .openvino
BENCH_VENV := .venv-bench
BENCH_TORCH_VENV := .venv-bench-torch
CUDA_VENV := .venv-cuda-test
AUDIT_VENV := .venv-audit
EXPORT_VENV ?= .venv-export
# The export environment can serve on a CPU as it is; onnxruntime-gpu must not be installed over onnxruntime.
SERVE_VENV := $(if $(filter cpu,$(EXTRA)),$(EXPORT_VENV),.venv-gpu)
DEMO := model_export/demo_checkpoint
DEMO_MODELS := $(patsubst %,models/%/manifest.json,sentiment masked-token next-sentence)
DEMO_VARIANTS_cpu := cpu-fp32
DEMO_VARIANTS_gpu := cpu-fp32,cuda-fp16,cuda-fp32
EXPORT_DEMO = $(EXPORT_VENV)/bin/python -m model_export export --checkpoint $(DEMO) --variants $(DEMO_VARIANTS_$(EXTRA))

.DEFAULT_GOAL := help
.PHONY: help
help:
	@sed -n 's/^## //p' $(MAKEFILE_LIST)

## make serve       install, export the demo models if they are not there, serve them on port 8000 (EXTRA=gpu for a GPU)
.PHONY: serve
serve: $(SERVE_VENV)/installed $(EXPORT_VENV)/installed $(DEMO_MODELS)
	$(SERVE_VENV)/bin/python -m app $(ARGS)

models/sentiment/manifest.json: TASK := classify
models/masked-token/manifest.json: TASK := fill-mask
models/next-sentence/manifest.json: TASK := next-sentence
$(DEMO_MODELS): $(DEMO)/model.safetensors | $(EXPORT_VENV)/installed
	$(EXPORT_DEMO) --task $(TASK) --output $(@D)

## make export      export a checkpoint of yours: CHECKPOINT=folder-or-hub-id NAME=my-model (ARGS="--task classify" where it has several heads)
.PHONY: export
export: $(EXPORT_VENV)/installed
	@[ -n "$(CHECKPOINT)" ] && [ -n "$(NAME)" ] || { echo 'Say what to export and its name: make export CHECKPOINT=folder-or-hub-id NAME=my-model' >&2; exit 2; }
	$(EXPORT_VENV)/bin/python -m model_export export --checkpoint "$(patsubst ~/%,$(HOME)/%,$(CHECKPOINT))" --output "models/$(NAME)" $(ARGS)

## make audit       how scores of models/NAME change with names, pronouns, places and dialect: NAME=sentiment (ARGS="--templates mine.toml")
.PHONY: audit
audit: $(AUDIT_VENV)/installed
	@[ -n "$(NAME)" ] || { echo 'Say which of models/ to audit: make audit NAME=sentiment' >&2; exit 2; }
	$(AUDIT_VENV)/bin/python -m model_export audit "models/$(NAME)" $(ARGS)

IS_NEW_ENOUGH := -c 'import sys; sys.exit(sys.version_info < (3, 11))'
# $(call install,FLAGS): install the first prerequisite. An environment of an older Python, or without pip, is made again.
define install
@{ $(@D)/bin/python $(IS_NEW_ENOUGH) && $(@D)/bin/python -m pip --version; } >/dev/null 2>&1 || { \
	$(PYTHON) $(IS_NEW_ENOUGH) || { echo "This needs Python 3.11 or newer, and $(PYTHON) is $$($(PYTHON) --version 2>&1)." \
	"Name another: make $(MAKECMDGOALS) PYTHON=python3.13" >&2; exit 1; }; \
	$(PYTHON) -m venv --clear $(@D); }
@echo "Installing $< into $(@D), once; on a slow connection this takes minutes"
$(if $(BEFORE),$(@D)/bin/python -m pip install --disable-pip-version-check $(BEFORE))
$(@D)/bin/python -m pip install --disable-pip-version-check $(1) -r $<
@touch $@
endef

VENVS := $(EXPORT_VENV) $(AUDIT_VENV) .venv-gpu $(VENV) $(CUDA_VENV) $(TRAIN_VENV)
$(EXPORT_VENV)/installed: requirements/export.txt
$(AUDIT_VENV)/installed: requirements/audit.txt
.venv-gpu/installed: requirements/gpu.txt
$(VENV)/installed: requirements/dev.txt
$(CUDA_VENV)/installed: requirements/cuda-test.txt
$(TRAIN_VENV)/installed: requirements/train.txt
# A pinned plain `torch` is a small CPU build where an index offers one.
$(TRAIN_VENV)/installed: BEFORE := torch==2.13.0
$(VENVS:=/installed):
	$(call install,--require-hashes)

# An environment whose Python has been removed from the machine is installed again.
$(VENVS:=/installed): %/installed: %/bin/python
$(VENVS:=/bin/python): ;

# Only `make test-torch` sees what is installed for training: the other tests show that nothing else needs it. Of these packages
# the rest is there.
$(TORCH)/installed: $(TRAIN_VENV)/installed
	rm -rf $(TORCH)
	$(TRAIN_VENV)/bin/python -m pip install --quiet --target $(TORCH) --no-deps sentence-transformers==6.2.0 captum==0.8.0
	@touch $@

# A folder of its own, with only what OpenVINO itself is: 180 MB that the other tests do without.
$(OPENVINO)/installed: pyproject.toml $(VENV)/installed
	rm -rf $(OPENVINO)
	$(VENV)/bin/python -m pip install --quiet --target $(OPENVINO) --no-deps openvino==2026.4.1 openvino-telemetry==2025.2.0
	@touch $@

# A worker a core; those that end first take tests over from the others. ARGS="-n 0" runs all in one process.
PARALLEL := -n auto --maxprocesses 8 --dist worksteal

## make test-fast   the quick tests of app and model_export: under a minute
.PHONY: test-fast
test-fast: $(VENV)/installed
	$(VENV)/bin/python -m pytest $(PARALLEL) -m "not torch and not cuda and not slow" tests/app tests/model_export $(ARGS)

## make test        every test that needs no torch; those of the alerts need Prometheus (monitoring/install-prometheus.sh)
.PHONY: test
test: $(VENV)/installed
	$(VENV)/bin/python -m pytest $(PARALLEL) -m "not torch and not cuda" $(ARGS)

## make test-torch  compare with transformers, sentence-transformers and torch, live; and train
.PHONY: test-torch
test-torch: $(TORCH)/installed $(VENV)/installed
	PYTHONPATH=$(CURDIR)/$(TORCH):$$(echo $(CURDIR)/$(TRAIN_VENV)/lib/python*/site-packages) $(VENV)/bin/python -m pytest $(PARALLEL) -m torch $(ARGS)

## make openvino-test  the fp32 graph in OpenVINO: its answers and those in bf16, where the processor multiplies it
.PHONY: openvino-test
openvino-test: $(OPENVINO)/installed
	PYTHONPATH=$(CURDIR)/$(OPENVINO) $(VENV)/bin/python -m pytest tests/app/runtime/test_openvino.py $(ARGS)

## make cuda-test   the GPU's ONNX Runtime and this server on a simulated GPU: what runs where, in what memory, with what answers
.PHONY: cuda-test
cuda-test: $(CUDA_VENV)/installed
	LD_LIBRARY_PATH=$$($(CUDA_VENV)/bin/python tests/cuda/simulator/build.py) $(CUDA_VENV)/bin/python -m pytest -m cuda $(ARGS)

## make container-test  build the images, bring the whole stack up, use it, stop it (needs root or a Docker engine)
.PHONY: container-test
container-test:
	deploy/container_test/run.sh

$(BENCH_VENV)/installed: benchmarks/requirements-peers.txt
	$(call install,--require-hashes)

# No hashes: torch has other builds on other machines.
$(BENCH_TORCH_VENV)/installed: benchmarks/requirements-torch.txt
	$(call install)

## make bench       measure this server and its peers; writes benchmarks/results
.PHONY: bench
bench: $(BENCH_VENV)/installed $(BENCH_TORCH_VENV)/installed $(EXPORT_VENV)/installed
	$(EXPORT_VENV)/bin/python -m benchmarks $(ARGS)

## make gpu-check   is it right and how fast on this machine's GPU: tables, no network (ARGS="--parts parity" for one part)
.PHONY: gpu-check
gpu-check: .venv-gpu/installed $(EXPORT_VENV)/installed
	.venv-gpu/bin/python -m benchmarks.gpu_check --export-python $(EXPORT_VENV)/bin/python $(ARGS)

## make ray-test    serve on a Ray cluster of this machine, and compare with the plain server
.PHONY: ray-test
ray-test:
	deploy/ray/test.sh

## make client-test the clients that docs/clients.md lists, unmodified, against this server; in environments of their own
.PHONY: client-test
client-test: $(VENV)/installed
	tests/clients/run.sh $(ARGS)

## make format      ruff's fixes and layout
.PHONY: format
format: $(VENV)/installed
	$(VENV)/bin/ruff check --fix
	$(VENV)/bin/ruff format

## make lock        pin what pyproject.toml, deploy/ray and the tests of clients ask for (ARGS="--upgrade" for the newest)
.PHONY: lock
lock: $(VENV)/installed
	requirements/lock.sh $(ARGS)
	deploy/ray/lock.sh $(ARGS)
	tests/clients/lock.sh $(ARGS)

## make dashboards  write Grafana's dashboards from their Python
.PHONY: dashboards
dashboards: $(VENV)/installed
	$(VENV)/bin/python -m monitoring.grafana.generate

## make check       ruff, mypy --strict, import contracts
.PHONY: check
check: $(VENV)/installed
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports
