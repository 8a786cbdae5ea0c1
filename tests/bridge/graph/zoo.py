"""Classifiers in plain PyTorch, small enough for seconds."""

import torch
import torch.nn.functional as F
from torch import nn


class LeNet(nn.Module):
    """Convolutions with biases, Tanh, average pools."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 6, 5, padding=2), nn.Tanh(), nn.AvgPool2d(2), nn.Conv2d(6, 8, 3), nn.Tanh(), nn.MaxPool2d(2)
        )
        self.classifier = nn.Sequential(nn.Flatten(), nn.Linear(8 * 3 * 3, 16), nn.Tanh(), nn.Linear(16, 5))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.features(images))


class VGG(nn.Module):
    """VGG-11 with normalisation, all channels divided by sixteen."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for step in (4, "pool", 8, "pool", 16, 16, "pool", 32, 32, "pool", 32, 32):
            if isinstance(step, int):
                layers += [nn.Conv2d(channels, step, 3, padding=1), nn.BatchNorm2d(step), nn.ReLU(inplace=True)]
                channels = step
            else:
                layers.append(nn.MaxPool2d(2, 2))
        self.features = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d((2, 2))
        self.classifier = nn.Sequential(nn.Linear(32 * 4, 24), nn.ReLU(True), nn.Dropout(dropout), nn.Linear(24, 5))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.classifier(torch.flatten(self.pool(self.features(images)), 1))


class ResidualBlock(nn.Module):
    """A block as of torchvision's ResNet-18, whose shortcut is normalised after the block."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        shortcut = [nn.Conv2d(channels_in, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)]
        self.downsample = nn.Sequential(*shortcut) if stride > 1 else None

    def forward(self, inputs):
        outputs = self.relu(self.bn1(self.conv1(inputs)))
        outputs = self.bn2(self.conv2(outputs))
        outputs += inputs if self.downsample is None else self.downsample(inputs)
        return self.relu(outputs)


class ResNet(nn.Module):
    """Two residual blocks, and two dense layers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 1, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
        self.blocks = nn.Sequential(ResidualBlock(8, 8, 1), ResidualBlock(8, 16, 2))
        self.head = nn.Sequential(nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 5))

    def forward(self, images):
        return self.head(self.blocks(self.stem(images)).mean((2, 3)))


class DenseLayer(nn.Module):
    def __init__(self, channels: int, growth: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm2d(channels), nn.Conv2d(channels, 2 * growth, 1, bias=False)
        self.norm2, self.conv2 = nn.BatchNorm2d(2 * growth), nn.Conv2d(2 * growth, growth, 3, padding=1, bias=False)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        outputs = self.conv2(F.relu(self.norm2(self.conv1(F.relu(self.norm1(inputs))))))
        return torch.cat([inputs, outputs], 1)


class DenseNet(nn.Module):
    """Two dense blocks of two layers with a transition between them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.block1 = nn.Sequential(DenseLayer(8, 4), DenseLayer(12, 4))
        self.transition = nn.Sequential(nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 8, 1, bias=False), nn.AvgPool2d(2))
        self.block2 = nn.Sequential(DenseLayer(8, 4), DenseLayer(12, 4))
        self.norm, self.classifier = nn.BatchNorm2d(16), nn.Linear(16, 5)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        outputs = F.relu(self.norm(self.block2(self.transition(self.block1(self.stem(images))))))
        return self.classifier(F.adaptive_avg_pool2d(outputs, 1).flatten(1))


class InvertedResidual(nn.Module):
    def __init__(self, channels_in: int, channels: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = channels_in * expansion
        self.residual = stride == 1 and channels_in == channels
        self.layers = nn.Sequential(
            nn.Conv2d(channels_in, hidden, 1, bias=False),
            nn.BatchNorm2d(hidden),
            nn.ReLU6(),
            nn.Conv2d(hidden, hidden, 3, stride, 1, groups=hidden, bias=False),
            nn.BatchNorm2d(hidden),
            nn.ReLU6(),
            nn.Conv2d(hidden, channels, 1, bias=False),
            nn.BatchNorm2d(channels),
        )

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return inputs + self.layers(inputs) if self.residual else self.layers(inputs)


class MobileNetV2(nn.Module):
    """Inverted residuals: depthwise convolutions and ReLU6."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2, 1, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU6(),
            InvertedResidual(8, 8, 1, 2),
            InvertedResidual(8, 12, 2, 3),
            InvertedResidual(12, 12, 1, 3),
        )
        self.classifier = nn.Sequential(nn.Dropout(0.0), nn.Linear(12, 5))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.features(images).mean([2, 3]))


class SqueezeExcite(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Conv2d(channels, channels // 4, 1), nn.Conv2d(channels // 4, channels, 1)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        scale = F.hardsigmoid(self.fc2(F.silu(self.fc1(inputs.mean((2, 3), keepdim=True)))))
        return inputs * scale


class SENet(nn.Module):
    """A residual block with grouped convolutions, squeeze-and-excitation, and a group norm."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 16, 3, padding=1), nn.GroupNorm(4, 16)
        self.conv1, self.bn1 = nn.Conv2d(16, 16, 3, padding=1, groups=4, bias=False), nn.BatchNorm2d(16)
        self.conv2, self.bn2 = nn.Conv2d(16, 16, 3, padding=2, dilation=2, bias=False), nn.BatchNorm2d(16)
        self.excite, self.fc = SqueezeExcite(16), nn.Linear(16, 5)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        outputs = F.hardswish(self.norm(self.stem(images)))
        inner = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(outputs)))))
        outputs = F.relu(outputs + self.excite(inner))
        return self.fc(F.max_pool2d(outputs, 3, 2, 1).mean((2, 3)))


class LayerNorm2d(nn.LayerNorm):
    def forward(self, input: torch.Tensor) -> torch.Tensor:
        outputs = F.layer_norm(input.permute(0, 2, 3, 1), self.normalized_shape, self.weight, self.bias, self.eps)
        return outputs.permute(0, 3, 1, 2)


class StochasticDepth(nn.Module):
    """Drops whole samples of a branch, as torchvision's does in mode `row`."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        if not self.training or self.p == 0:
            return inputs
        noise = torch.empty([inputs.shape[0]] + [1] * (inputs.ndim - 1), dtype=inputs.dtype).bernoulli_(1 - self.p)
        return inputs * noise.div_(1 - self.p)


class ConvNeXtBlock(nn.Module):
    def __init__(self, channels: int, drop: float) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(channels, channels, 5, padding=2, groups=channels)
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.pwconv1, self.pwconv2 = nn.Linear(channels, 4 * channels), nn.Linear(4 * channels, channels)
        self.gamma = nn.Parameter(0.1 * torch.ones(channels))
        self.drop = StochasticDepth(drop)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        outputs = self.norm(self.dwconv(inputs).permute(0, 2, 3, 1))
        outputs = self.gamma * self.pwconv2(F.gelu(self.pwconv1(outputs)))
        return inputs + self.drop(outputs.permute(0, 3, 1, 2))


class ConvNeXt(nn.Module):
    """Two stages: LayerNorm, GELU, layer scale, stochastic depth."""

    def __init__(self, width: int = 8, classes: int = 5, drop: float = 0.0) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, width, 2, 2), LayerNorm2d(width, eps=1e-6))
        self.stage1 = ConvNeXtBlock(width, drop)
        self.down = nn.Sequential(LayerNorm2d(width, eps=1e-6), nn.Conv2d(width, 2 * width, 2, 2))
        self.stage2 = ConvNeXtBlock(2 * width, drop)
        self.norm, self.head = nn.LayerNorm(2 * width, eps=1e-6), nn.Linear(2 * width, classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        outputs = self.stage2(self.down(self.stage1(self.stem(images))))
        return self.head(self.norm(outputs.mean([-2, -1])))


class ViT(nn.Module):
    """Patches, a class token, learnt positions, PyTorch's own encoder layers before the norm."""

    def __init__(self, size: int = 16, width: int = 16, classes: int = 5, dropout: float = 0.0, depth: int = 2) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, width, 4, 4)
        self.token = nn.Parameter(0.02 * torch.randn(1, 1, width))
        self.position = nn.Parameter(0.02 * torch.randn(1, (size // 4) ** 2 + 1, width))
        layer = nn.TransformerEncoderLayer(
            width, 4, 2 * width, dropout, activation="gelu", batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, depth, nn.LayerNorm(width), enable_nested_tensor=False)
        self.head = nn.Linear(width, classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        patches = self.patch(images).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(images.shape[0], -1, -1), patches], 1) + self.position
        return self.head(self.encoder(tokens)[:, 0])


class MixerBlock(nn.Module):
    def __init__(self, patches: int, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.tokens = nn.Sequential(nn.Linear(patches, 12), nn.GELU(approximate="tanh"), nn.Linear(12, patches))
        self.channels = nn.Sequential(nn.Linear(width, 24), nn.Mish(), nn.Linear(24, width))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        outputs = inputs + self.tokens(self.norm1(inputs).transpose(1, 2)).transpose(1, 2)
        return outputs + self.channels(self.norm2(outputs))


class Mixer(nn.Module):
    """An MLP-Mixer on patches cut out by views and permutations."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(3 * 16, 16)
        self.blocks = nn.Sequential(MixerBlock(16, 16), MixerBlock(16, 16))
        self.norm, self.head = nn.LayerNorm(16), nn.Linear(16, 5)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        batch, channels, height, width = images.shape
        patches = images.reshape(batch, channels, height // 4, 4, width // 4, 4).permute(0, 2, 4, 3, 5, 1)
        return self.head(self.norm(self.blocks(self.embed(patches.reshape(batch, 16, -1)))).mean(1))


class TextClassifier(nn.Module):
    """Embedding with a padding word, attention that leaves padding out, and a masked mean."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.embedding = nn.Embedding(30, 16, padding_idx=0)
        self.register_buffer("places", torch.arange(10))
        self.position = nn.Embedding(10, 16)
        self.attention = nn.MultiheadAttention(16, 4, dropout=dropout, batch_first=True)
        self.norm = nn.LayerNorm(16)
        self.head = nn.Linear(16, 5)

    def forward(self, words: torch.Tensor) -> torch.Tensor:
        padding = words == 0
        tokens = self.embedding(words) + self.position(self.places)
        seen, _ = self.attention(tokens, tokens, tokens, key_padding_mask=padding, need_weights=False)
        outputs = self.norm(tokens + seen)
        kept = (~padding).unsqueeze(-1).to(outputs.dtype)
        return self.head((outputs * kept).sum(1) / kept.sum(1).clamp(min=1))


class TableMLP(nn.Module):
    """For rows of a table: BatchNorm1d, Tanh, dropout, and an average of its weights' norms."""

    def __init__(self, dropout: float = 0.0, features: int = 12, classes: int = 5) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(features, 24),
            nn.BatchNorm1d(24),
            nn.Tanh(),
            nn.Dropout(dropout),
            nn.Linear(24, 16),
            nn.BatchNorm1d(16, momentum=0.3),
            nn.Tanh(),
            nn.Dropout(dropout),
            nn.Linear(16, classes),
        )

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return self.layers(rows)


def convnext(classes: int) -> nn.Module:
    """A ConvNeXt for photographs of 16 x 16 pixels."""
    return ConvNeXt(24, classes, drop=0.1)


def vit(classes: int) -> nn.Module:
    """A ViT for photographs of 16 x 16 pixels."""
    return ViT(16, 48, classes, dropout=0.1, depth=3)
