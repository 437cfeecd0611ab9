# Everything here works in a virtual environment that it makes itself: no ROS install, no GPU, no torch
# for the demo. On a ROS 2 machine use rosdep, colcon and ros2 launch instead (README).
#
#   make demo [SOURCE=street|video|folder|image|camera index]   a camera and the node over DDS
#   make check                     style, types, Python 3.10 and the fast tests
#   make test [PYTEST_ARGS=...]    every test
#   make bench [SCORING='cityscapes ROOT'] [PEERS=no]   speed, end to end and against peers
#   make gpu                       GPU engines, without ROS, into out/gpu/report.md
#   make colcon                    build as a ROS workspace does, into out/colcon
#   make clean                     remove the environment and what was made

PYTHON ?= python3
VENV ?= .venv
SOURCE ?= street
OUT ?= out/demo
PYTEST_ARGS ?=
# Tests that start a node wait for it most of the time: three run at once, of the others two.
TEST_PROCESSES ?= 3
SCORING ?= synthetic
PEERS ?= yes
DEMO_ARGS ?=

BIN := $(VENV)/bin
PIP := -m pip --disable-pip-version-check install -qq
PIP_INSTALL := $(BIN)/python $(PIP) --constraint .ci/constraints.txt
# Peers ask for other versions than ours: they have an environment of their own.
PEERS_BIN := $(if $(filter no,$(PEERS)),$(BIN),$(VENV)/peers/bin)
# Beside other tests torch takes up to ten times as long with two threads as with one.
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses $(TEST_PROCESSES) --dist loadfile
PACKAGING := setup.py setup.cfg pyproject.toml .ci/constraints.txt

# The environment of every ROS process started from here. A ROS installation sourced in this shell
# must not reach the wheels' own libraries. Compiled modules are kept: a node is started often.
unexport PYTHONPATH LD_LIBRARY_PATH _ROS_WHEELS_BOOTSTRAP_COMPLETE PYTHONDONTWRITEBYTECODE
export AMENT_PREFIX_PATH := $(abspath $(VENV))
export RMW_IMPLEMENTATION := rmw_fastrtps_cpp
export ROS_AUTOMATIC_DISCOVERY_RANGE := LOCALHOST
export ROS_LOG_DIR := $(abspath out/ros_log)

.PHONY: help venv demo check lint types test test-fast test-slow bench gpu colcon clean
.DELETE_ON_ERROR:

help:
	@sed -n '4,10s/^#//p' Makefile

venv: $(VENV)/.with-demo

demo: $(VENV)/.with-demo
	$(BIN)/python -m panoptic_ros.benchmark.demo '$(SOURCE)' --out '$(OUT)' $(DEMO_ARGS)

check: lint types test-fast

lint: $(VENV)/.with-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# mypy reads the package as Python 3.10 would; vermin looks for newer names in the rest. It takes the
# decode function of pycocotools for that of Python 2.
types: $(VENV)/.with-test
	$(BIN)/vermin --target=3.10- --exclude str.decode --no-tips --violations --quiet test launch setup.py
	$(BIN)/mypy

# Fast tests start no other program (marker "process", see test/support/processes.py) and take
# seconds at most (marker "slow").
FAST := not process and not slow
test: $(VENV)/.with-test
	$(PYTEST) $(PYTEST_ARGS)

test-fast: TEST_PROCESSES = 2
test-fast: $(VENV)/.with-test
	$(PYTEST) -m '$(FAST)' $(PYTEST_ARGS)

test-slow: $(VENV)/.with-test
	$(PYTEST) -m 'not ($(FAST))' $(PYTEST_ARGS)

bench: $(VENV)/.with-bench $(if $(filter no,$(PEERS)),,$(VENV)/.with-peers)
	$(BIN)/python -m panoptic_ros.benchmark.demo street --out out/bench/640x480 --size 640x480 --no-points
	$(BIN)/python -m panoptic_ros.benchmark.demo street --out out/bench/1280x720 --size 1280x720 --no-points
	$(BIN)/python -m panoptic_ros.benchmark.node_speed --json out/bench/frame_path.json
	$(BIN)/python -m panoptic_ros.benchmark.depth_speed --json out/bench/depth.json
	rm -rf out/bench/street
	$(BIN)/python -m panoptic_ros make-bag street --seconds 4 --rate 15 --out out/bench/street
	$(BIN)/python -m panoptic_ros.cli.replay_benchmark out/bench/street --seconds 3 --out out/bench/replay
	$(PEERS_BIN)/python test/peers/tracking.py street-lite --limit 30 --json out/bench/tracking.json
	$(PEERS_BIN)/python test/peers/scoring.py $(SCORING) --json out/bench/scoring.json
	$(PEERS_BIN)/python test/peers/scoring.py $(SCORING) --scale 3 --images 20 --json out/bench/scoring_large.json
	$(PEERS_BIN)/python test/peers/networks.py --json out/bench/peers.json
	$(if $(filter no,$(PEERS)),,PYTHONPATH=.:test $(PEERS_BIN)/python test/importing/speed.py --json out/bench/families.json)

# Without ROS, and without an installation: GPU_PYTHON is any Python with the runtime's packages.
GPU_PYTHON ?= $(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON))
GPU_ARGS ?=
GPU_TESTS := test/engines/tensorrt/test_gpu.py test/engines/test_onnxruntime_gpu.py
# CUDA and the engines often lie in folders that only these variables name.
gpu: export PYTHONPATH := $(PYTHONPATH)
gpu: export LD_LIBRARY_PATH := $(LD_LIBRARY_PATH)
gpu:
	rm -rf out/gpu
	$(GPU_PYTHON) -m panoptic_ros gpu-report --out out/gpu $(GPU_ARGS); status=$$?; \
		test -f out/gpu/report.md || exit $$status; \
		$(GPU_PYTHON) -m pytest -q -m gpu -p no:cacheprovider $(GPU_TESTS) > out/gpu/tests.txt || status=$$?; \
		{ echo; echo '## Tests on the GPU'; echo; sed 's/^/    /' out/gpu/tests.txt; } >> out/gpu/report.md; \
		cat out/gpu/report.md; exit $$status

colcon: $(VENV)/.with-test
	$(BIN)/colcon --log-base out/colcon/log build --base-paths . \
		--build-base out/colcon/build --install-base out/colcon/install

clean:
	rm -rf $(VENV) out build install log panoptic_ros.egg-info

# Stamps make a second run instant; they are remade when the packaging changes.
$(BIN)/python:
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; v >= (3, 10) or sys.exit(f"panoptic_ros needs Python 3.10 or newer, $(PYTHON) is {v[0]}.{v[1]}; name another: make PYTHON=python3.12 ...")' \
		|| { command -v $(PYTHON) >/dev/null || echo 'panoptic_ros needs Python 3.10 or newer and finds no $(PYTHON); name one: make PYTHON=/path/to/python3 ...' >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
		echo 'the virtual environment could not be made; on Debian and Ubuntu: apt install python3-venv' >&2; exit 1; }
	@echo 'made $(VENV) with '"$$($(BIN)/python --version)"

$(VENV)/.with-demo: $(BIN)/python $(PACKAGING)
	@echo 'installing the runtime and ROS 2 (about a minute the first time) ...'
	$(PIP_INSTALL) --editable '.[ros]'
	@touch $@

$(VENV)/.with-bench: $(VENV)/.with-demo
	$(PIP_INSTALL) --editable '.[ros,bench]'
	@touch $@

$(VENV)/.with-peers: $(BIN)/python $(PACKAGING) .ci/peers.txt
	@echo 'installing what the package is compared with (some GB; make bench PEERS=no does without) ...'
	$(PYTHON) -m venv $(VENV)/peers
	$(VENV)/peers/bin/python $(PIP) -r .ci/peers.txt --editable '.[bench]'
	$(VENV)/peers/bin/python $(PIP) --no-deps norfair==2.3.0 panopticapi-lite==0.2.0
	@touch $@

$(VENV)/.with-test: $(VENV)/.with-demo
	@echo 'installing the training and test tools (some minutes the first time) ...'
	$(PIP_INSTALL) --editable '.[ros,train,import,large,cluster,dev]'
	$(PIP_INSTALL) --no-deps timm # its torchvision would have to fit the build of torch
	@touch $@
