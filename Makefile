# Whisper on Hailo accelerators: one target a stage, each a command of whisper-toolchain.
# A stage whose inputs have not changed does nothing; an interrupted one starts again without harm.

VARIANT    ?= tiny
ARCH       ?= hailo8
SECONDS    ?=
SEQUENCE   ?=
COMPILER   ?= auto
RECIPE     ?=
DATASET    ?=
CHECKPOINT ?=
SAMPLES    ?=
SEED       ?= 0
# Not from the environment, where LANGUAGE is what programs speak to their user.
LANGUAGE    =
PYTHON     ?= python3
DFC_PYTHON ?=
OFFLINE    ?=
JSON       ?=
APP_DIR    ?=
BUNDLE     ?=
EMULATED   ?=
AUDIO      ?=
TEXT       ?=
APP_PYTHON ?=
SPEECH     ?=
LIMIT      ?=
RUNGS      ?=
SNR        ?=
WER        ?=
A          ?=
B          ?=

VENV      := .venv
INSTALLED := $(VENV)/.installed
TOOLCHAIN := $(VENV)/bin/whisper-toolchain
INTEGRATION := $(VENV)/bin/python -m integration

# Values reach the commands quoted, so that a path with a space or a quote stays one argument.
quote   = '$(subst ','\'',$(1))'
option  = $(if $(strip $(2)),$(1) $(call quote,$(2)))
plan    = --variant $(call quote,$(VARIANT)) --arch $(call quote,$(ARCH)) $(call option,--seconds,$(SECONDS)) $(call option,--sequence,$(SEQUENCE))
dataset = $(call option,--dataset,$(DATASET))
spoken  = $(call option,--language,$(LANGUAGE))
measured = $(call option,--dataset,$(or $(strip $(SPEECH)),$(DATASET))) $(call option,--limit,$(LIMIT)) --seed $(call quote,$(SEED)) $(spoken)
compiler = --compiler $(call quote,$(COMPILER)) $(call option,--dfc-python,$(DFC_PYTHON))
offline = $(if $(filter-out 0,$(strip $(OFFLINE))),--offline)
app     = $(call option,--app,$(APP_DIR))

RIVALS    := build/benchmarks/venv/.installed

.PHONY: help all audio fetch export calibrate compile bundle demo package eval compare tune-recipe layer-noise doctor install-app validate-app uninstall-app check test bench wheels clean distclean
.NOTPARALLEL:

help:
	@echo 'make all VARIANT=tiny ARCH=hailo8   from nothing to a bundle that transcribes'
	@echo 'make test                           lint, types and tests'
	@echo
	@echo 'stages:   fetch export calibrate compile bundle demo'
	@echo 'more:     audio (LibriSpeech dev-clean), package (bundle as tar.gz), eval (word error rate on every rung; SPEECH=, LIMIT=, RUNGS=),'
	@echo '          tune-recipe (few 16-bit layers that are enough; WER=points or SNR=dB),'
	@echo '          layer-noise (which layers lose most; with the DFC a second optimisation, without it the emulated bundle'\''s list),'
	@echo '          compare A=old.json B=new.json (what changed between two evaluations),'
	@echo '          doctor (what is installed, what fits together; JSON=1 for machines),'
	@echo '          check (lint, types), bench (all benchmarks), wheels, clean (build results and bundles), distclean (everything fetched too)'
	@echo
	@echo 'in the Speech Recognition example app (APP_DIR=path, by default a clone; BUNDLE=path, by default the newest):'
	@echo '          install-app (EMULATED=1 for a bundle of the emulator), validate-app, uninstall-app'
	@echo
	@echo 'VARIANT   tiny, tiny.en, base, base.en             now: '$(call quote,$(VARIANT))
	@echo 'ARCH      hailo8, hailo8l, hailo10h                now: '$(call quote,$(ARCH))
	@echo 'SECONDS, SEQUENCE     window and decoder slots, instead of the defaults'
	@echo 'CHECKPOINT=path       your own weights             DATASET=path   your own speech'
	@echo 'COMPILER  auto, dfc, emulator  now: '$(call quote,$(COMPILER))
	@echo 'DFC_PYTHON=path    the Python that has the DFC     RECIPE=path    your own recipe'
	@echo 'SAMPLES, SEED         size and choice of the calibration set; LANGUAGE=code   what is spoken'
	@echo 'SPEECH=path           recordings for eval and tune-recipe, instead of those that calibrate'
	@echo 'AUDIO=path, TEXT=words   a recording of your own for validate-app; APP_PYTHON=path  the Python that runs the app'
	@echo 'OFFLINE=1             use only what is already here'
	@echo 'PYTHON    interpreter for .venv, 3.10 to 3.12      now: '$(call quote,$(PYTHON))

all: demo

$(INSTALLED): requirements.lock runtime/pyproject.toml toolchain/pyproject.toml
	@$(call quote,$(PYTHON)) -c 'import sys; v = sys.version_info; sys.exit(not (3, 10) <= v < (3, 13) and f"PYTHON={sys.executable} is {v.major}.{v.minor}: use Python 3.10, 3.11 or 3.12, as in make PYTHON=python3.11")'
	@rm -f $@
	$(call quote,$(PYTHON)) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --requirement requirements.lock
	$(VENV)/bin/python -m pip install --quiet --no-deps --no-build-isolation --editable runtime --editable toolchain
	@touch $@

audio: $(INSTALLED)
	@$(TOOLCHAIN) audio $(offline)

fetch: $(INSTALLED)
	@$(TOOLCHAIN) fetch $(plan) $(call option,--checkpoint,$(CHECKPOINT)) $(dataset) $(compiler) $(offline)

export: fetch
	@$(TOOLCHAIN) export $(plan) $(dataset)

calibrate: export
	@$(TOOLCHAIN) calibrate $(plan) $(dataset) $(call option,--samples,$(SAMPLES)) --seed $(call quote,$(SEED)) $(spoken)

compile: calibrate
	@$(TOOLCHAIN) compile $(plan) $(compiler) $(call option,--recipe,$(RECIPE))

bundle: compile
	@$(TOOLCHAIN) bundle $(plan)

demo: bundle
	@$(TOOLCHAIN) demo $(plan) $(dataset)

package: $(INSTALLED)
	@$(TOOLCHAIN) package $(plan)

eval: bundle
	@$(TOOLCHAIN) evaluate $(plan) $(measured) $(call option,--rungs,$(RUNGS)) $(call option,--dfc-python,$(DFC_PYTHON))

tune-recipe: calibrate
	@$(TOOLCHAIN) tune-recipe $(plan) $(measured) $(call option,--snr,$(SNR)) $(call option,--wer,$(WER)) $(call option,--recipe,$(RECIPE))

layer-noise: calibrate
	@$(TOOLCHAIN) layer-noise $(plan) $(compiler) $(call option,--recipe,$(RECIPE))

compare: $(INSTALLED)
	$(if $(and $(strip $(A)),$(strip $(B))),,$(error name two evaluations, as in make compare A=old.json B=new.json))
	@$(TOOLCHAIN) evaluate --compare $(call quote,$(A)) $(call quote,$(B)) $(call option,--rungs,$(RUNGS))

doctor: $(INSTALLED)
	@$(TOOLCHAIN) doctor $(plan) $(call option,--dfc-python,$(DFC_PYTHON)) $(if $(filter-out 0,$(strip $(JSON))),--json)

install-app: $(INSTALLED)
	@$(INTEGRATION) install $(app) $(call option,--bundle,$(BUNDLE)) $(if $(filter-out 0,$(strip $(EMULATED))),--emulated) $(offline)

validate-app: $(INSTALLED)
	@$(INTEGRATION) validate $(app) $(call option,--bundle,$(BUNDLE)) $(call option,--audio,$(AUDIO)) $(call option,--text,$(TEXT)) $(call option,--app-python,$(APP_PYTHON)) $(offline)

uninstall-app: $(INSTALLED)
	@$(INTEGRATION) uninstall $(app)

check: $(INSTALLED)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

# Two tests at a time: torch's idle threads must not spin on the core that the other one needs.
test: check
	OMP_WAIT_POLICY=passive $(VENV)/bin/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

$(RIVALS): benchmarks/requirements.txt $(INSTALLED)
	$(VENV)/bin/python -m venv build/benchmarks/venv
	build/benchmarks/venv/bin/python -m pip install --quiet --only-binary=:all: --requirement benchmarks/requirements.txt
	@touch $@

bench: $(RIVALS)
	$(MAKE) demo VARIANT=tiny.en ARCH=hailo8
	-$(MAKE) export VARIANT=base ARCH=hailo8
	$(VENV)/bin/python benchmarks/bench.py $(call option,--speech,$(DATASET))

wheels: $(INSTALLED)
	$(VENV)/bin/python -m build --no-isolation --wheel --outdir dist runtime
	$(VENV)/bin/python -m build --no-isolation --wheel --outdir dist toolchain

clean:
	rm -rf build dist artifacts/whisper-* runtime/build toolchain/build

distclean: clean
	rm -rf $(VENV) */*.egg-info .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis
	rm -rf third_party/whisper third_party/whisper.partial third_party/downloads third_party/Hailo-Application-Code-Examples* audio/LibriSpeech audio/registry-sample
