"""Speed of face synthesis: a training step beside PyTorch, the input, and the device.

    python -m benchmarks.face_synthesis

The step is that of a GAN of the default settings with random weights, without the
gradient penalty of every sixteenth step. PyTorch, if it is installed, trains the same
networks with the same augmentation and optimizer, in turns. The edge bundle is the
released one, if there is one.
"""

import importlib.util
import os
import tempfile
from pathlib import Path

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["KERAS_BACKEND"] = "tensorflow"

import numpy as np
import tensorflow as tf

from apps.common.images import encode_png
from apps.face_synthesis.config import Config
from apps.face_synthesis.data import Examples, make_batches
from apps.face_synthesis.model import (
    BETA_1,
    BETA_2,
    LOWEST_RESOLUTION,
    MAX_WIDENING,
    SLOPE,
    build_model,
)
from apps.face_synthesis.train import compile_model
from benchmarks.measure import bundle_start, median_seconds, median_seconds_in_turns

RELEASED = Path("saved_models/face_synthesis")
CONFIG = Config("random", gradient_penalty=0.0)
NUM_IMAGES = 512
BATCHES = 50


def main():
    """Prints the tables."""
    images = np.random.default_rng(0).integers(0, 256, (NUM_IMAGES, 64, 64, 3), "uint8")
    model = build_model(config=CONFIG, num_values=0)
    compile_model(model, CONFIG, 1)
    data = tf.constant(images[: CONFIG.batch_size]), tf.zeros((CONFIG.batch_size, 0))
    step = tf.function(lambda: model.train_step(data)["loss"])
    ways = {"this application": lambda: step().numpy()}
    if importlib.util.find_spec("torch"):
        ways["PyTorch"] = torch_step(images[: CONFIG.batch_size])
    seconds = median_seconds_in_turns(list(ways.values()), repetitions=10)
    print(f"  {'a GAN step':20} {'ms':>8} {'images/s':>10} {'time ratio':>11}")
    for name, each in zip(ways, seconds, strict=True):
        speed, ratio = CONFIG.batch_size / each, each / seconds[-1]
        print(f"  {name:20} {1000 * each:8.0f} {speed:10.1f} {ratio:11.2f}")

    input_seconds = seconds_of_input(images)
    print(f"  {'input of a step':20} {1000 * input_seconds:8.1f}")
    print(f"  its part of a step: {input_seconds / seconds[0]:.1%}")
    if (RELEASED / "edge/run.py").exists():
        measure_device()


def seconds_of_input(images):
    """Returns the time of one batch of cached, shuffled images."""
    names = [f"{i}.png" for i in range(len(images))]
    examples = Examples(names, list(map(encode_png, images)), [()] * len(images), ())
    nothing = np.zeros((len(images), 0), "float32")
    batches = make_batches(examples, nothing, CONFIG, training=True)
    list(batches)  # Decodes the images.
    iterator = iter(batches.repeat())
    return (
        median_seconds(lambda: [next(iterator) for _ in range(BATCHES)], repetitions=5)
        / BATCHES
    )


def measure_device():
    """Prints the time of a face on one core, and of the first one from the start."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(RELEASED / "edge/model.tflite"), num_threads=1)
    draw = interpreter.get_signature_runner("draw")
    inputs = {
        name: np.zeros(detail["shape"], "float32")
        for name, detail in draw.get_input_details().items()
    }
    milliseconds = 1000 * median_seconds(lambda: draw(**inputs), repetitions=20)
    print(f"Edge bundle, a face on one core: {milliseconds:.1f} ms")
    with tempfile.TemporaryDirectory() as folder:
        start, megabytes = bundle_start(RELEASED / "edge", 7, "--folder", folder)
    print(f"  from start to face {start:.2f} s, {megabytes:.0f} MB resident")


def torch_step(images):
    """Returns a function that trains the same networks one step in PyTorch.

    Args:
        images: uint8 `(batch, 64, 64, 3)`.
    """
    import torch
    from torch import nn
    from torch.nn import functional

    latent_size, size = CONFIG.latent_size, CONFIG.image_size
    leaky = nn.LeakyReLU(SLOPE)

    def channels_of(resolution):
        return CONFIG.filters * min(size // resolution, MAX_WIDENING)

    resolutions = [LOWEST_RESOLUTION * 2**i for i in range(5)]

    class Modulated(nn.Module):
        def __init__(self, inputs, outputs, kernel_size, demodulate=True):
            super().__init__()
            self.convolution = nn.Conv2d(
                inputs, outputs, kernel_size, padding=kernel_size // 2, bias=False
            )
            self.style = nn.Linear(latent_size, inputs)
            self.bias = nn.Parameter(torch.zeros(1, outputs, 1, 1))
            self.demodulate = demodulate

        def forward(self, x, latents):
            scale = self.style(latents) + 1
            x = self.convolution(x * scale[:, :, None, None])
            if self.demodulate:
                squares = self.convolution.weight.square().sum((2, 3))
                norm = scale.square() @ squares.T
                x = x * torch.rsqrt(norm + 1e-8)[:, :, None, None]
            return x + self.bias

    class Generator(nn.Module):
        def __init__(self):
            super().__init__()
            linear = (nn.Linear(latent_size, latent_size) for _ in range(2))
            self.mapping = nn.Sequential(*(nn.Sequential(x, leaky) for x in linear))
            widths = [channels_of(resolution) for resolution in resolutions]
            self.constant = nn.Parameter(torch.randn(1, widths[0], 4, 4))
            pairs = zip([widths[0], *widths], widths, strict=False)
            self.convolutions = nn.ModuleList(Modulated(i, o, 3) for i, o in pairs)
            self.colors = nn.ModuleList(Modulated(o, 3, 1, False) for o in widths)

        def forward(self, noise):
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
                x = leaky(convolution(x, latents))
                image = image + color(x, latents)
            return image

    class Block(nn.Module):
        def __init__(self, inputs, outputs):
            super().__init__()
            self.first = nn.Conv2d(inputs, inputs, 3, padding=1)
            self.second = nn.Conv2d(inputs, outputs, 3, stride=2, padding=1)
            self.shortcut = nn.Conv2d(inputs, outputs, 1, bias=False)

        def forward(self, x):
            shortcut = self.shortcut(functional.avg_pool2d(x, 2))
            return (leaky(self.second(leaky(self.first(x)))) + shortcut) * 0.5**0.5

    class Discriminator(nn.Module):
        def __init__(self):
            super().__init__()
            widths = [channels_of(resolution) for resolution in resolutions[-2::-1]]
            self.stem = nn.Conv2d(3, CONFIG.filters, 1)
            pairs = zip([CONFIG.filters, *widths], widths, strict=False)
            self.blocks = nn.Sequential(*(Block(i, o) for i, o in pairs))
            self.last = nn.Conv2d(widths[-1] + 1, widths[-1], 3, padding=1)
            self.features = nn.Linear(16 * widths[-1], widths[-1])
            self.score = nn.Linear(widths[-1], 1)

        def forward(self, images):
            x = self.blocks(leaky(self.stem(images)))
            deviation = (x.var(0, unbiased=False) + 1e-8).sqrt().mean()
            x = torch.cat([x, deviation.expand(len(x), 1, 4, 4)], 1)
            x = leaky(self.last(x)).flatten(1)
            return self.score(leaky(self.features(x)))[:, 0]

    def augment(x):
        batch = len(x)
        x = x + torch.rand(batch, 1, 1, 1) - 0.5
        grey = x.mean(1, keepdim=True)
        x = grey + (x - grey) * 2 * torch.rand(batch, 1, 1, 1)
        mean = x.mean((1, 2, 3), keepdim=True)
        x = mean + (x - mean) * (0.5 + torch.rand(batch, 1, 1, 1))
        places, largest = torch.arange(size), size // 8
        shifts = torch.randint(-largest, largest + 1, (2, batch, 1))
        rows, columns = (
            ((places + each)[:, :, None] == places).float() for each in shifts
        )
        x = rows[:, None] @ x @ columns[:, None].transpose(2, 3)
        centers = torch.randint(0, size + 1, (2, batch, 1))
        is_near = (2 * (places - centers) + 1).abs() < size // 2
        is_hidden = is_near[0, :, :, None] & is_near[1, :, None, :]
        return x * (~is_hidden)[:, None]

    generator, discriminator, average = Generator(), Discriminator(), Generator()
    drawing, judging = list(generator.parameters()), list(discriminator.parameters())
    optimizer = torch.optim.Adam(
        drawing + judging, CONFIG.learning_rate, betas=(BETA_1, BETA_2)
    )
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2)

    def step():
        real = pixels.float() / 127.5 - 1
        is_mirrored = torch.rand(len(real), 1, 1, 1) < 0.5
        real = augment(torch.where(is_mirrored, real.flip(3), real))
        drawn_scores = discriminator(
            augment(generator(torch.randn(len(real), latent_size)))
        )
        real_scores = discriminator(real)
        loss = functional.softplus(-drawn_scores).mean()
        other = (
            functional.softplus(drawn_scores) + functional.softplus(-real_scores)
        ).mean()
        gradients = torch.autograd.grad(loss, drawing, retain_graph=True)
        gradients += torch.autograd.grad(other, judging)
        for parameter, gradient in zip(drawing + judging, gradients, strict=True):
            parameter.grad = gradient
        optimizer.step()
        with torch.no_grad():
            for mean, parameter in zip(average.parameters(), drawing, strict=True):
                mean.lerp_(parameter, 1 - CONFIG.average_decay)
        return float(loss)

    return step


if __name__ == "__main__":
    main()
