"""What disturbances take of a policy's return: sensors and actuators that err, bodies that are others, bits that flip,
observations that somebody chose.

``kinds`` is the table of disturbances; ``run`` measures policies under them. It needs Gymnasium, ``attacks`` torch.
"""
