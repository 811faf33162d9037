"""The length of a training, and its learning rates."""

from typing import NamedTuple

import keras


class Length(NamedTuple):
    """The length of a phase of a training: epochs, and the steps of each."""

    epochs: int
    steps_per_epoch: int

    @property
    def steps(self) -> int:
        """The steps of the whole phase."""
        return self.epochs * self.steps_per_epoch


def limit_epochs(
    steps_per_epoch: int, max_steps: int | None, *epochs: int, min_steps: int = 0
) -> list[Length]:
    """Gives large data sets fewer epochs and small ones longer epochs, and prints so.

    Args:
        steps_per_epoch: The number of batches.
        max_steps: Largest number of steps of the whole training, or None.
        *epochs: The epochs of each phase. All phases are changed alike.
        min_steps: Least number of steps of the whole training; ignored if `max_steps`
            is less. Defaults to 0.

    Returns:
        The length of each phase. Epochs have fewer steps where `max_steps` is less than
        an epoch, and more, of repeated batches, where `min_steps` needs them.
    """
    total = sum(epochs) * steps_per_epoch
    if 0 < total < min_steps <= (max_steps or min_steps):
        steps = -(-min_steps // sum(epochs))
        print(
            f"every epoch has the training data {steps / steps_per_epoch:.3g} times: "
            f"it has {steps_per_epoch} batches, and --min-steps is {min_steps}"
        )
        return [Length(number, steps) for number in epochs]
    if max_steps is None or total <= max_steps:
        return [Length(number, steps_per_epoch) for number in epochs]
    lengths = []
    for number in epochs:
        steps = max(1, number * steps_per_epoch * max_steps // total)
        whole = min(number, max(1, steps // steps_per_epoch))
        lengths.append(Length(whole, min(steps, steps_per_epoch)))
    limited = sum(length.steps for length in lengths) / steps_per_epoch
    print(
        f"trains {limited:.3g} epochs instead of {sum(epochs)}: an epoch has "
        f"{steps_per_epoch} steps, and --max-steps is {max_steps}"
    )
    return lengths


def warm_up_and_decay(
    learning_rate: float, steps: int
) -> keras.optimizers.schedules.LearningRateSchedule:
    """Returns a schedule that rises during the first tenth and falls along a cosine.

    Args:
        learning_rate: The highest learning rate.
        steps: The number of steps of the whole training.
    """
    warmup_steps = max(1, steps // 10)
    return keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=0.0,
        warmup_target=learning_rate,
        warmup_steps=warmup_steps,
        decay_steps=max(1, steps - warmup_steps),
    )
