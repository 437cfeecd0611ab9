# ROS 2 Jazzy on a Jetson with JetPack 7 (Ubuntu 24.04, CUDA 13). Not built: see README.md beside this file.
#
#   docker build -f doc/docker/jetson-jetpack7.Dockerfile -t panoptic_ros .
#   docker run --rm --runtime nvidia --network host --shm-size 512m panoptic_ros image_topic:=/camera/image_raw
#
# The base image has TensorRT 10.13 for Python 3.12, the version of JetPack 7.0.
FROM nvcr.io/nvidia/tensorrt:25.08-py3

SHELL ["/bin/bash", "-o", "pipefail", "-c"]
ENV DEBIAN_FRONTEND=noninteractive LANG=C.UTF-8 PIP_BREAK_SYSTEM_PACKAGES=1 PIP_NO_CACHE_DIR=1

# The ROS 2 package source, as docs.ros.org installs it.
ARG ROS_APT_SOURCE=1.3.0
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates curl \
    && curl -fsSL -o /tmp/ros2-apt-source.deb \
        "https://github.com/ros-infrastructure/ros-apt-source/releases/download/${ROS_APT_SOURCE}/ros2-apt-source_${ROS_APT_SOURCE}.noble_all.deb" \
    && apt-get install -y --no-install-recommends /tmp/ros2-apt-source.deb \
    && apt-get update \
    && apt-get install -y --no-install-recommends \
        python3-colcon-common-extensions \
        python3-pip \
        python3-rosdep \
        ros-jazzy-ros-base \
    && rm -rf /var/lib/apt/lists/* /tmp/ros2-apt-source.deb

WORKDIR /workspace
COPY . src/panoptic_ros

RUN apt-get update \
    && rosdep init \
    && rosdep update --rosdistro jazzy \
    && rosdep install --from-paths src --ignore-src -y --dependency-types=exec \
    && rm -rf /var/lib/apt/lists/*

# hadolint ignore=DL3013
RUN python3 -m pip install onnxruntime

RUN . /opt/ros/jazzy/setup.bash && colcon build --packages-select panoptic_ros

# Large images and the heap: see doc/robustness.md.
ENV FASTRTPS_DEFAULT_PROFILES_FILE=/workspace/install/panoptic_ros/share/panoptic_ros/config/fastdds.xml \
    MALLOC_ARENA_MAX=1 \
    PANOPTIC_ENGINE_CACHE=/cache
VOLUME /cache

COPY doc/docker/entrypoint.sh /entrypoint.sh
ENTRYPOINT ["/bin/bash", "/entrypoint.sh"]
CMD []
