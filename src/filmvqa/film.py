"""The FiLM layer (Perez et al., AAAI 2018, section 2, equation 2)."""

from __future__ import annotations

from torch import Tensor


def film(x: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
    """Scale and shift every feature: FiLM(F_{i,c} | γ_{i,c}, β_{i,c}) = γ_{i,c} F_{i,c} + β_{i,c}.

    Parameters
    ----------
    x
        Features (N, C), or feature maps (N, C, ...). All positions of a map share γ and β.
    gamma, beta
        Scale and shift, each (N, C).

    Returns
    -------
    Tensor
        The modulated features, with the shape of x.

    Raises
    ------
    ValueError
        If gamma or beta is not (N, C), with the N and C of x. They are never broadcast.
    """
    if gamma.shape != x.shape[:2] or beta.shape != x.shape[:2]:
        raise ValueError(
            f"gamma {tuple(gamma.shape)} and beta {tuple(beta.shape)} must be "
            f"{tuple(x.shape[:2])} for features {tuple(x.shape)}"
        )
    shape = (*x.shape[:2], *(1,) * (x.dim() - 2))
    return gamma.view(shape) * x + beta.view(shape)
