# ROS 2 Jazzy on x86-64 with TensorRT. Not built: see README.md beside this file.
#
#   docker build -f doc/docker/jazzy-x86_64.Dockerfile -t panoptic_ros .
#   docker run --rm --gpus all --network host --shm-size 512m panoptic_ros image_topic:=/camera/image_raw
#
# Without an NVIDIA GPU: --build-arg ENGINE=openvino, and no --gpus.
FROM ros:jazzy-ros-base

SHELL ["/bin/bash", "-o", "pipefail", "-c"]
ENV DEBIAN_FRONTEND=noninteractive PIP_BREAK_SYSTEM_PACKAGES=1 PIP_NO_CACHE_DIR=1

WORKDIR /workspace
COPY . src/panoptic_ros

# ROS and Python packages as package.xml names them, and pip for the engines.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends python3-pip \
    && rosdep update --rosdistro jazzy \
    && rosdep install --from-paths src --ignore-src -y --dependency-types=exec \
    && rm -rf /var/lib/apt/lists/*

# tensorrt: TensorRT and the CUDA runtime for drivers of CUDA 13; openvino: for the CPU.
ARG ENGINE=tensorrt
# hadolint ignore=DL3013
RUN case "$ENGINE" in \
        tensorrt) python3 -m pip install onnxruntime tensorrt-cu13 nvidia-cuda-runtime ;; \
        openvino) python3 -m pip install onnxruntime openvino ;; \
        *) echo "ENGINE is $ENGINE; expected tensorrt or openvino" >&2; exit 1 ;; \
    esac

RUN . /opt/ros/jazzy/setup.bash && colcon build --packages-select panoptic_ros

# Large images and the heap: see doc/robustness.md.
ENV FASTRTPS_DEFAULT_PROFILES_FILE=/workspace/install/panoptic_ros/share/panoptic_ros/config/fastdds.xml \
    MALLOC_ARENA_MAX=1 \
    PANOPTIC_ENGINE_CACHE=/cache
VOLUME /cache

COPY doc/docker/entrypoint.sh /entrypoint.sh
ENTRYPOINT ["/bin/bash", "/entrypoint.sh"]
CMD []
