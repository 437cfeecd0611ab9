"""The ROS 2 side: the only part of the package that imports ``rclpy`` and message types.

``messages``, ``markers`` and ``diagnostics`` turn arrays into messages and back, without a node;
``parameters`` declares what can be set; ``outputs`` are the topics of a segmented frame;
``worker`` is the one thread that owns the network, ``pipeline`` what runs on it, ``node`` the
lifecycle around it.

``executables`` are what ``ros2 run`` starts: ``node``, and ``camera`` to try it with. ``demo``
runs both, ``soak`` for long; ``recording`` makes rosbag2 recordings, and ``replay`` measures the
node on one: ``playback`` are its parts, ``replay_ends`` the recording and the node,
``replay_trials`` and ``replay_session`` what is done with them.
"""
