"""The GAN of face synthesis in PyTorch, for `benchmarks.face_synthesis`.

It has a process of its own, because PyTorch and TensorFlow do not go together in one.
For each line of its standard input it trains a step, and prints the loss.
"""

import itertools
import sys

import torch
from torch import nn
from torch.nn import functional

BATCH_SIZE, SIZE, FILTERS, LATENT_SIZE = 32, 64, 24, 128
LEARNING_RATE, AVERAGE_DECAY = 2e-4, 0.998
CHANNELS = 64, 128, 256, 256  # Of the mixed feature maps.
LEAKY = nn.LeakyReLU(0.2)
RESOLUTIONS = [4, 8, 16, 32, 64]
# Of EfficientNetLite0: channels, kernel size, strides and number of blocks.
STAGES = (
    (16, 3, 1, 1),
    (24, 3, 2, 2),
    (40, 5, 2, 2),
    (80, 3, 2, 3),
    (112, 5, 1, 3),
    (192, 5, 2, 4),
    (320, 3, 1, 1),
)
EXPANSION = 6
FEATURES = {3: 144, 5: 240, 11: 672, 15: 320}  # Channels of the feature maps, by block.


class Gate(nn.Module):
    """Batch normalization of twice the channels, and gates."""

    def __init__(self, channels):
        """Makes the layers."""
        super().__init__()
        self.normalization = nn.BatchNorm2d(2 * channels)

    def forward(self, x):
        """Computes the output."""
        return functional.glu(self.normalization(x), 1)


class Generator(nn.Module):
    """The generator."""

    def __init__(self):
        """Makes the layers."""
        super().__init__()
        first, *widths = (FILTERS * min(SIZE // each, 8) for each in RESOLUTIONS)
        self.start = nn.Linear(LATENT_SIZE, 16 * 2 * first, bias=False)
        self.gate = Gate(first)
        normalize = nn.utils.parametrizations.spectral_norm
        self.blocks = nn.Sequential(
            *(
                nn.Sequential(
                    nn.Upsample(scale_factor=2),
                    normalize(nn.Conv2d(inputs, 2 * outputs, 3, padding=1, bias=False)),
                    Gate(outputs),
                )
                for inputs, outputs in zip([first, *widths], widths, strict=False)
            )
        )
        self.image = nn.Conv2d(FILTERS, 3, 3, padding=1)

    def forward(self, noise):
        """Computes the output."""
        x = self.start(noise).reshape(len(noise), -1, 4, 4)
        return torch.tanh(self.image(self.blocks(self.gate(x))))


class Block(nn.Module):
    """A block of EfficientNetLite0; the first one does not expand the channels."""

    def __init__(self, inputs, outputs, kernel_size, strides, expansion):
        """Makes the layers."""
        super().__init__()
        channels = expansion * inputs
        expand = [nn.Conv2d(inputs, channels, 1, bias=False), nn.BatchNorm2d(channels)]
        self.expand = nn.Sequential(*expand, nn.ReLU6()) if expansion > 1 else None
        self.rest = nn.Sequential(
            nn.Conv2d(
                channels,
                channels,
                kernel_size,
                strides,
                padding=kernel_size // 2,
                groups=channels,
                bias=False,
            ),
            nn.BatchNorm2d(channels),
            nn.ReLU6(),
            nn.Conv2d(channels, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.is_residual = strides == 1 and inputs == outputs

    def forward(self, x):
        """Computes the expanded input and the output."""
        expanded = self.expand(x) if self.expand else x
        output = self.rest(expanded)
        return expanded, output + x if self.is_residual else output


class Encoder(nn.Module):
    """EfficientNetLite0 up to the feature maps."""

    def __init__(self):
        """Makes the layers."""
        super().__init__()
        stem = nn.Conv2d(3, 32, 3, 2, padding=1, bias=False)
        self.stem = nn.Sequential(stem, nn.BatchNorm2d(32), nn.ReLU6())
        inputs, blocks = 32, []
        for channels, kernel_size, strides, number in STAGES:
            for i in range(number):
                expansion = EXPANSION if blocks else 1
                blocks.append(
                    Block(inputs, channels, kernel_size, 1 if i else strides, expansion)
                )
                inputs = channels
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x):
        """Computes the feature maps, from the largest to the smallest."""
        x, maps = self.stem(x), []
        for i, block in enumerate(self.blocks):
            expanded, x = block(x)
            if i in FEATURES:
                maps.append(x if i == len(self.blocks) - 1 else expanded)
        return maps


class Discriminator(nn.Module):
    """The discriminator."""

    def __init__(self):
        """Makes the layers."""
        super().__init__()
        self.encoder = Encoder()
        self.channels = nn.ModuleList(
            nn.Conv2d(width, channels, 1, bias=False)
            for width, channels in zip(FEATURES.values(), CHANNELS, strict=True)
        )
        self.above = nn.ModuleList(
            nn.Conv2d(larger, channels, 1, bias=False)
            for channels, larger in itertools.pairwise(CHANNELS)
        )
        self.strides = nn.ModuleList(
            nn.Conv2d(channels, channels, 3, padding=1, bias=False)
            for channels in CHANNELS[:-1]
        )
        for part in (self.encoder, self.channels, self.above, self.strides):
            part.requires_grad_(False)
        self.heads = nn.ModuleList(
            make_head(channels, 3 - i) for i, channels in enumerate(CHANNELS)
        )

    def train(self, mode=True):
        """Keeps the statistics of the encoder."""
        super().train(mode)
        self.encoder.eval()
        return self

    def forward(self, images):
        """Computes the scores."""
        maps = self.encoder(enlarge(images))
        scores, mixed = [], None
        for i in reversed(range(len(maps))):
            x = self.channels[i](maps[i])
            if mixed is not None:
                x = self.strides[i](x + enlarge(self.above[i](mixed)))
            mixed = x
            scores.append(self.heads[i](x).flatten(1))
        return torch.cat(scores, 1)


def make_head(channels, halvings):
    """Returns a network from a mixed feature map to scores."""
    normalize, parts = nn.utils.parametrizations.spectral_norm, []
    for kernel_size, strides in [(4, 2)] * halvings or [(3, 1)]:
        convolution = nn.Conv2d(
            channels, channels, kernel_size, strides, padding=1, bias=False
        )
        parts += [normalize(convolution), nn.BatchNorm2d(channels), LEAKY]
    score = normalize(nn.Conv2d(2 * channels, 1, 4))
    return nn.Sequential(*parts, Deviation(), score)


class Deviation(nn.Module):
    """Appends how much the channels differ over the batch."""

    def forward(self, x):
        """Computes the larger feature maps."""
        deviations = (x.var(0, correction=0) + 1e-6).sqrt().mean((1, 2))
        return torch.cat([x, deviations[:, None, None].expand_as(x)], 1)


def enlarge(x):
    """Doubles height and width."""
    return functional.interpolate(
        x, scale_factor=2, mode="bilinear", align_corners=False
    )


def augment(x):
    """Changes images at random, as `augmentation.augment` does."""
    batch = len(x)
    x = x + torch.rand(batch, 1, 1, 1) - 0.5
    grey = x.mean(1, keepdim=True)
    x = grey + (x - grey) * 2 * torch.rand(batch, 1, 1, 1)
    mean = x.mean((1, 2, 3), keepdim=True)
    x = mean + (x - mean) * (0.5 + torch.rand(batch, 1, 1, 1))
    places, largest = torch.arange(SIZE), SIZE // 8
    shifts = torch.randint(-largest, largest + 1, (2, batch, 1))
    rows, columns = (((places + each)[:, :, None] == places).float() for each in shifts)
    x = rows[:, None] @ x @ columns[:, None].transpose(2, 3)
    centers = torch.randint(0, SIZE + 1, (2, batch, 1))
    is_near = (2 * (places - centers) + 1).abs() < SIZE // 2
    is_hidden = is_near[0, :, :, None] & is_near[1, :, None, :]
    return x * (~is_hidden)[:, None]


def make_step():
    """Returns a function that trains one step, and returns the loss."""
    pixels = torch.randint(0, 256, (BATCH_SIZE, 3, SIZE, SIZE), dtype=torch.uint8)
    generator, discriminator, average = Generator(), Discriminator(), Generator()
    generator_variables, discriminator_variables = (
        list(generator.parameters()),
        [each for each in discriminator.parameters() if each.requires_grad],
    )
    optimizer = torch.optim.Adam(
        generator_variables + discriminator_variables, LEARNING_RATE, betas=(0.0, 0.99)
    )

    def step():
        real = pixels.float() / 127.5 - 1
        is_mirrored = torch.rand(len(real), 1, 1, 1) < 0.5
        real = augment(torch.where(is_mirrored, real.flip(3), real))
        generated_scores = discriminator(
            augment(generator(torch.randn(len(real), LATENT_SIZE)))
        )
        real_scores = discriminator(real)
        loss = -generated_scores.mean()
        other = (
            functional.relu(1 + generated_scores) + functional.relu(1 - real_scores)
        ).mean()
        gradients = torch.autograd.grad(loss, generator_variables, retain_graph=True)
        gradients += torch.autograd.grad(other, discriminator_variables)
        for parameter, gradient in zip(
            generator_variables + discriminator_variables, gradients, strict=True
        ):
            parameter.grad = gradient
        optimizer.step()
        with torch.no_grad():
            states = average.state_dict(), generator.state_dict()
            for mean, value in zip(*(each.values() for each in states), strict=True):
                if mean.is_floating_point():
                    mean.lerp_(value, 1 - AVERAGE_DECAY)
        return float(loss.detach())

    return step


def main():
    """Trains a step for each line that is read."""
    step = make_step()
    for _ in sys.stdin:
        print(step(), flush=True)


if __name__ == "__main__":
    main()
