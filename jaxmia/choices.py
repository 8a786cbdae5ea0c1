"""What the configuration chooses from by name; importing it loads no framework."""

from typing import Literal

Architecture = Literal["mlp", "cnn", "resnet8", "resnet14", "resnet20", "resnet18", "resnet34", "wideresnet"]
Dihedral = Literal["identity", "hflip", "vflip", "rot180", "transpose", "rot90", "rot270", "antitranspose"]
Lowering = Literal["grouped", "unrolled", "matmul", "native"]
