"""PyTorch factories of a user, and files with their weights."""

from pathlib import Path

import torch
from torch import nn
from torch.export import Dim


def classifier(channels: int = 4, classes: int = 3, side: int = 8) -> nn.Module:
    """A small network with normalisation, dropout and a bare parameter."""
    return _Classifier(channels, classes, side)


def wider() -> nn.Module:
    return _Classifier(6, 3)


def wide() -> nn.Module:
    return _Classifier(4, 7)


def fails() -> nn.Module:
    raise ValueError("no such size\nand more")


def nothing() -> int:
    return 3


def strange(pixels: int = 64) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(pixels, 3), _Strange())


def words() -> nn.Module:
    return nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(20, 3))


def decides() -> nn.Module:
    return _Decides()


def save_weights(path: Path, channels: int = 4) -> None:
    """A trained network's weights; here they are fresh."""
    torch.manual_seed(1)
    torch.save(_Classifier(channels, 3).state_dict(), path)


def save_program(path: Path, batch: int | None) -> None:
    """The same network as an exported program, for batches of any size or of one."""
    torch.manual_seed(1)
    sizes = ({0: Dim("sample", min=2)},) if batch is None else None
    example = torch.zeros(batch or 2, 1, 8, 8)
    torch.export.save(torch.export.export(_Classifier(4, 3).eval(), (example,), dynamic_shapes=sizes), path)


class _Classifier(nn.Module):
    def __init__(self, channels: int, classes: int, side: int = 8) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, channels, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(channels)
        self.scale = nn.Parameter(torch.ones(channels, 1, 1))
        self.drop = nn.Dropout(0.1)
        self.head = nn.Linear(channels * (side // 2) ** 2, classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        outputs = nn.functional.max_pool2d(torch.relu(self.norm(self.conv(images))), 2) * self.scale
        return self.head(self.drop(outputs.flatten(1)))


class _Strange(nn.Module):
    def forward(self, logits: torch.Tensor) -> torch.Tensor:
        return torch.special.gammaln(logits.abs() + 1)


class _Decides(nn.Module):
    """The data tell which layer comes next."""

    def __init__(self) -> None:
        super().__init__()
        self.bright, self.dark = nn.Linear(36, 3), nn.Linear(36, 3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        rows = images.flatten(1)
        return self.bright(rows) if rows.mean() > 0 else self.dark(rows)
