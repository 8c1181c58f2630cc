"""Exercise 4: the divergence that a student learns from its teacher with.

A label says which word was hidden: "bank". A teacher says more: "bank" 60 %, "shore" 30 %, "river"
8 %. The student learns to give the same distribution. How far its distribution p is from the
teacher's q is the Kullback-Leibler divergence,

    KL(q || p) = sum over the vocabulary of q (log q - log p)

which is 0 if they are equal. Both distributions are *softened*: the logits of both are divided by a
temperature T before the softmax, so that the small probabilities, which say what the teacher
confuses with what, count more. Softening makes the gradient smaller by about T^2, so the divergence
is multiplied by T^2; otherwise every change of the temperature would change the weight of this term
against the other two.

The mean is over the tokens that count. Padding does not.

Fill in `kl_loss` and run the check: `python examples/exercises/4_distillation_loss.py`

In the library: `kl_divergence` in minilm/losses/elementary.py; `distillation_terms` in
minilm/losses/triple.py adds the other two terms.
References: Hinton et al. 2015, section 2; Sanh et al. 2019, section 2.
"""

import torch
from checking import equal, explain, require, require_tensor, run
from torch import Tensor

from minilm.losses.elementary import cross_entropy, kl_divergence


def kl_loss(
    student_logits: Tensor, teacher_logits: Tensor, mask: Tensor, temperature: float
) -> Tensor:
    """The divergence of a student's softened predictions from its teacher's, times T^2.

    Args:
        student_logits, teacher_logits: (B, S, V).
        mask: (B, S) bool: True where there is a token, False where there is padding.
        temperature: T, divides the logits of both.

    Returns:
        The mean over all tokens of the batch, in nats; a scalar. 0 if there is no token.
    """
    raise NotImplementedError("Write the body of kl_loss(): about four lines.")


def check(kl_loss):
    """Compares with the library, and with what the usual mistakes give."""
    torch.manual_seed(0)
    texts, length, vocabulary, temperature = 3, 6, 11, 2.5
    student = torch.randn(texts, length, vocabulary, dtype=torch.float64)
    teacher = 2 * torch.randn(texts, length, vocabulary, dtype=torch.float64)
    lengths = torch.tensor([[6], [2], [3]])
    mask = torch.arange(length) < lengths
    student[~mask] += 3 * torch.randn(texts * length - 11, vocabulary)  # padding says anything

    found = kl_loss(student.clone(), teacher.clone(), mask, temperature)
    require_tensor("kl_loss(...)", found, ())

    def kl(p: Tensor, q: Tensor, t: float = 1.0) -> Tensor:
        """The divergence itself: mean over the tokens, times t^2."""
        return kl_divergence(p[mask], q[mask], t).mean()

    wanted, t = kl(student, teacher, temperature), temperature
    tokens = int(mask.sum())
    probs = [(logits[mask] / t).softmax(-1) for logits in (student, teacher)]
    entropy = -(probs[1] * probs[1].log()).sum(-1).mean()
    everything = kl_divergence(student.flatten(0, 1), teacher.flatten(0, 1), t)
    masked_sum = wanted * tokens
    mistakes = {
        "T squared is missing: with T = 2.5 the gradient is 6 times too small. Multiply by "
        "temperature ** 2.": wanted / t**2,
        "The divergence is multiplied by T. Multiply by T squared.": wanted / t,
        "The divergence is divided by T squared. Multiply by it.": wanted / t**4,
        "The mean is unmasked: it runs over padding, too.": everything.mean(),
        "The mean is unmasked: it runs over padding, too; and T squared is missing.": (
            everything.mean() / t**2
        ),
        "Padding is left out of the sum, but not of the number it is divided by. Divide by the "
        "number of tokens.": masked_sum / (texts * length),
        "Divided by the number of texts (reduction='batchmean' of three axes). Divide by the "
        "number of tokens.": masked_sum / texts,
        "This is the sum over all tokens. Take the mean.": masked_sum,
        "Divided by the vocabulary, too (reduction='mean'). The divergence is a sum over the "
        "vocabulary; the mean is over the tokens alone.": wanted / vocabulary,
        "Divided by the vocabulary, too (reduction='mean'), and T squared is missing.": wanted
        / vocabulary
        / t**2,
        "Student and teacher are swapped: this is KL(p || q). The teacher's distribution is the "
        "one that weights. (F.kl_div takes the student's first, the teacher's second.)": kl(
            teacher, student, t
        ),
        "Student and teacher are swapped, and T squared is missing.": kl(teacher, student, t)
        / t**2,
        "Only the teacher is softened. Divide the logits of both by T.": kl(
            student * t, teacher, t
        ),
        "Only the student is softened. Divide the logits of both by T.": kl(
            student, teacher * t, t
        ),
        "The logits are multiplied by T. Divide them.": kl(student * t, teacher * t) * t**2,
        "The temperature is not used in the softmax, only as a factor.": kl(student, teacher)
        * t**2,
        "The temperature is not used.": kl(student, teacher),
        "This is a cross-entropy: sum of -q log p. It is not 0 for equals; log q is missing.": (
            wanted + entropy * t**2
        ),
        "F.kl_div was given probabilities of the student. It wants their logarithms "
        "(F.log_softmax).": (probs[1] * (probs[1].log() - probs[0])).sum(-1).mean() * t**2,
        "The sign is wrong: q (log q - log p) is positive in sum.": -wanted,
        "This is the cross-entropy of the teacher's first choice. Use its whole distribution.": (
            cross_entropy(student[mask], teacher[mask].argmax(-1)).mean()
        ),
    }
    explain(found, wanted, mistakes, "kl_loss(...)")

    none = kl_loss(student, teacher, torch.zeros_like(mask), temperature)
    require(
        bool(torch.isfinite(none)),
        "Without any token the loss is 0 / 0 = NaN. Divide by at least 1, so that it is 0.",
    )
    require(equal(none, torch.zeros(())), "Without any token the loss must be 0.")
    learner = student.clone().requires_grad_()
    loss = kl_loss(learner, teacher, mask, temperature)
    require(
        loss.requires_grad,
        "No gradient reaches the student's logits: is there a detach(), item() or no_grad()?",
    )
    loss.backward()


if __name__ == "__main__":
    run(check, kl_loss)
