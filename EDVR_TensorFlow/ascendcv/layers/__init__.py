"""The layers of networks, in TensorFlow's graph mode: 1.15 and 2.x from one source."""
import common.tf  # noqa: F401 - imports TensorFlow, without the lines that it prints then
