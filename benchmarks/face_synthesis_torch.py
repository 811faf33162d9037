"""The GAN of face synthesis in PyTorch, for `benchmarks.face_synthesis`.

It has a process of its own, because PyTorch and TensorFlow do not go together in one.
For each line of its standard input it trains a step, and prints the loss.
"""

import sys

import torch
from torch import nn
from torch.nn import functional

BATCH_SIZE, SIZE, FILTERS, LATENT_SIZE = 32, 64, 32, 128
LEARNING_RATE, AVERAGE_DECAY = 5e-4, 0.998
LEAKY = nn.LeakyReLU(0.2)
RESOLUTIONS = [4, 8, 16, 32, 64]


def channels_of(resolution):
    """Returns the number of channels of feature maps of this height."""
    return FILTERS * min(SIZE // resolution, 8)


class Modulated(nn.Module):
    """`layers.ModulatedConv2D`."""

    def __init__(self, inputs, outputs, kernel_size, demodulate=True):
        """Makes the layers."""
        super().__init__()
        self.convolution = nn.Conv2d(
            inputs, outputs, kernel_size, padding=kernel_size // 2, bias=False
        )
        self.style = nn.Linear(LATENT_SIZE, inputs)
        self.bias = nn.Parameter(torch.zeros(1, outputs, 1, 1))
        self.demodulate = demodulate

    def forward(self, x, latents):
        """Computes the output."""
        scale = self.style(latents) + 1
        x = self.convolution(x * scale[:, :, None, None])
        if self.demodulate:
            squares = self.convolution.weight.square().sum((2, 3))
            norm = scale.square() @ squares.T
            x = x * torch.rsqrt(norm + 1e-8)[:, :, None, None]
        return x + self.bias


class Generator(nn.Module):
    """The mapping network and the generator."""

    def __init__(self):
        """Makes the layers."""
        super().__init__()
        linear = (nn.Linear(LATENT_SIZE, LATENT_SIZE) for _ in range(2))
        self.mapping = nn.Sequential(*(nn.Sequential(x, LEAKY) for x in linear))
        widths = [channels_of(resolution) for resolution in RESOLUTIONS]
        self.constant = nn.Parameter(torch.randn(1, widths[0], 4, 4))
        pairs = zip([widths[0], *widths], widths, strict=False)
        self.convolutions = nn.ModuleList(Modulated(i, o, 3) for i, o in pairs)
        self.colors = nn.ModuleList(Modulated(o, 3, 1, False) for o in widths)

    def forward(self, noise):
        """Computes the output."""
        latents = self.mapping(noise)
        x, image = self.constant.expand(len(noise), -1, -1, -1), 0
        parts = zip(self.convolutions, self.colors, strict=True)
        for i, (convolution, color) in enumerate(parts):
            if i:
                x, image = (
                    functional.interpolate(
                        each, scale_factor=2, mode="bilinear", align_corners=False
                    )
                    for each in (x, image)
                )
            x = LEAKY(convolution(x, latents))
            image = image + color(x, latents)
        return image


class Block(nn.Module):
    """A residual block of the discriminator."""

    def __init__(self, inputs, outputs):
        """Makes the layers."""
        super().__init__()
        self.first = nn.Conv2d(inputs, inputs, 3, padding=1)
        self.second = nn.Conv2d(inputs, outputs, 3, stride=2, padding=1)
        self.shortcut = nn.Conv2d(inputs, outputs, 1, bias=False)

    def forward(self, x):
        """Computes the output."""
        shortcut = self.shortcut(functional.avg_pool2d(x, 2))
        return (LEAKY(self.second(LEAKY(self.first(x)))) + shortcut) * 0.5**0.5


class Discriminator(nn.Module):
    """The discriminator."""

    def __init__(self):
        """Makes the layers."""
        super().__init__()
        widths = [channels_of(resolution) for resolution in RESOLUTIONS[-2::-1]]
        self.stem = nn.Conv2d(3, FILTERS, 1)
        pairs = zip([FILTERS, *widths], widths, strict=False)
        self.blocks = nn.Sequential(*(Block(i, o) for i, o in pairs))
        self.last = nn.Conv2d(widths[-1] + 1, widths[-1], 3, padding=1)
        self.features = nn.Linear(16 * widths[-1], widths[-1])
        self.score = nn.Linear(widths[-1], 1)

    def forward(self, images):
        """Computes the output."""
        x = self.blocks(LEAKY(self.stem(images)))
        deviation = (x.var(0, unbiased=False) + 1e-8).sqrt().mean()
        x = torch.cat([x, deviation.expand(len(x), 1, 4, 4)], 1)
        x = LEAKY(self.last(x)).flatten(1)
        return self.score(LEAKY(self.features(x)))[:, 0]


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
        list(discriminator.parameters()),
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
        loss = functional.softplus(-generated_scores).mean()
        other = (
            functional.softplus(generated_scores) + functional.softplus(-real_scores)
        ).mean()
        gradients = torch.autograd.grad(loss, generator_variables, retain_graph=True)
        gradients += torch.autograd.grad(other, discriminator_variables)
        for parameter, gradient in zip(
            generator_variables + discriminator_variables, gradients, strict=True
        ):
            parameter.grad = gradient
        optimizer.step()
        with torch.no_grad():
            for mean, parameter in zip(
                average.parameters(), generator_variables, strict=True
            ):
                mean.lerp_(parameter, 1 - AVERAGE_DECAY)
        return float(loss.detach())

    return step


def main():
    """Trains a step for each line that is read."""
    step = make_step()
    for _ in sys.stdin:
        print(step(), flush=True)


if __name__ == "__main__":
    main()
