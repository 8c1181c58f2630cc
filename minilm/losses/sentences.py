"""What a student's sentence vectors and token states are compared with: those of its teacher."""

from __future__ import annotations

from torch import Tensor

from minilm.losses.elementary import cosine_distance


def cosine_distances(student: Tensor, teacher: Tensor) -> Tensor:
    """The sum of 1 - cosine over pairs of vectors, of texts or of tokens.

    Args:
        student: (N, H).
        teacher: (N, H) of the same texts or tokens; gets no gradient.

    Returns:
        A float32 scalar, from 0 (all directions are equal) to 2 N; 0 for N = 0. A vector of zeros
        has the cosine 0 with every other.

    Example:
        >>> a = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
        >>> cosine_distances(a, torch.tensor([[3.0, 0.0], [1.0, 0.0]])).item()
        1.0

    References: Reimers and Gurevych 2020, "Making Monolingual Sentence Embeddings Multilingual
        using Knowledge Distillation", section 2 (vectors of a student that imitates a teacher's);
        Sanh et al. 2019, section 3 (the cosine of token states).
    """
    return cosine_distance(student, teacher.detach().to(student.dtype)).sum
