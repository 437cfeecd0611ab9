"""The ROS 2 node. Only this package and the benchmarks import ``rclpy`` and message types.

``node`` is the lifecycle, ``session`` what exists while it is configured, ``pipeline`` the way of
an image to published topics, ``worker`` its two threads. ``frame`` is the record of one image,
``scene`` estimates its 3D part, ``outputs`` is the table of topics, ``publishing`` publishes them.
``parameters`` is the table of parameters, ``node_parameters`` declares them. ``inputs`` are depth
and transforms, ``messages`` converts between messages and arrays.

``camera`` is a second node that publishes images; ``executables`` is what ``ros2 run`` starts.
"""
