"""Learning rate schedules."""

import keras


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
