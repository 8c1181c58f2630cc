"""How the learning rate changes in the course of a run: a pure function of the update's number."""

from math import cos, pi, sqrt

from minilm.training.settings import TrainingSettings


def learning_rate(update: int, settings: TrainingSettings) -> float:
    """The learning rate of one update.

    All schedules warm up linearly and let no update go to waste: the first has a rate above 0, and
    so has the last. Differs from Hugging Face and Google, whose first update has rate 0.

    * linear: falls from the full rate at the end of the warm-up to 0 after the last update.
    * cosine: falls there along half a cosine, (1 + cos(pi * progress)) / 2, slowly at first and at
      the end.
    * wsd (warm-up, stable, decay): stays at the full rate until the last `decay` of all updates,
      over which it falls as 1 - sqrt(progress). The stable part can be made longer, or be decayed
      from any of its snapshots, without a schedule that knew the end.
    * polynomial: (1 - progress) ** power, where progress counts from the first update, so that the
      rate drops onto a line that has already fallen when the warm-up ends. This is what BERT's and
      ALBERT's own code does.
    * constant: stays.

    Args:
        update: 1 for the first, `settings.steps` for the last.
        settings: `steps`, `learning_rate`, `schedule`, `warmup`, `power` and `decay`.

    References: optimization.py of google-research/bert and google-research/albert; Loshchilov and
        Hutter 2017, "SGDR", equation 5 (cosine, without restarts); Hägele et al. 2024, "Scaling
        Laws and Compute-Optimal Training Beyond Fixed Training Durations", equation 1 (wsd).
    """
    left = settings.steps - update + 1  # updates to come, with this one
    if update <= settings.warmup:
        factor = update / settings.warmup
    elif settings.schedule == "linear":
        factor = left / (settings.steps - settings.warmup)
    elif settings.schedule == "cosine":
        factor = (1 - cos(pi * left / (settings.steps - settings.warmup))) / 2
    elif settings.schedule == "wsd":
        factor = 1 - sqrt(1 - min(1.0, left / settings.decay_steps))
    elif settings.schedule == "polynomial":
        factor = (left / settings.steps) ** settings.power
    else:
        factor = 1.0
    return settings.learning_rate * factor
