"""Trust region: the natural gradient and the line search that TRPO takes instead of clipping.

    maximize L(theta)  subject to  KL(pi_old, pi_theta) <= delta

To second order the KL is (1/2) s^T F s, with F the Fisher matrix (the Hessian of the KL at pi_old), so
the step is along x = F^-1 g. F is never built: a product F v costs two gradients.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.sparse.linalg import cg
from jax.typing import ArrayLike

from surefoot.functional.masking import require_between

Scalar = Callable[[jax.Array], jax.Array]

_RESIDUAL = (
    1e-5  # of conjugate gradient, relative to the gradient's norm: sb3-contrib's 1e-10, squared
)


class NaturalGradient(NamedTuple):
    """Attributes: `direction` [P], x = (F + damping I)^-1 g; `curvature` [], x^T (F + damping I) x."""

    direction: jax.Array
    curvature: jax.Array


class LineSearch(NamedTuple):
    """What a line search found.

    Attributes:
        params: [P], the accepted point, or where it began if none was.
        fraction: [] of the full step that was accepted; 0: none.
        kl: [] at `params`, in nats.
        improvement: [] of the objective.
    """

    params: jax.Array
    fraction: jax.Array
    kl: jax.Array
    improvement: jax.Array


def fisher_vector_product(
    kl: Scalar, params: jax.Array, vector: jax.Array, *, damping: ArrayLike = 0.0
) -> jax.Array:
    """Product of the Fisher matrix with a vector, as a derivative of the KL's gradient.

        (F + damping I) v,    F = d^2 KL / d theta^2

    Source: Schulman et al. 2015, arXiv 1502.05477, appendix C.1; Pearlmutter 1994.

    Args:
        kl: params [P] -> [], the mean KL from the old policy, which is least (0) at `params`.
        params: [P].
        vector: [P].
        damping: added to the diagonal, at least 0.

    Returns:
        [P].
    """
    _, product = jax.jvp(jax.grad(kl), (params,), (vector,))
    return product + damping * vector


def natural_gradient(
    kl: Scalar,
    params: jax.Array,
    gradient: jax.Array,
    *,
    cg_steps: int = 15,
    damping: ArrayLike = 0.1,
) -> NaturalGradient:
    """Natural gradient by conjugate gradient on Fisher-vector products.

        x = (F + damping I)^-1 g

    Source: Schulman et al. 2015, arXiv 1502.05477, appendix C; defaults: sb3-contrib's TRPO.

    Args:
        kl: params [P] -> [], the mean KL from the old policy, which is least (0) at `params`.
        params: [P].
        gradient: [P], of the objective to maximize.
        cg_steps: products at most, at least 1; fewer when the residual is small.
        damping: added to the diagonal of the Fisher matrix, at least 0.

    Returns:
        The direction and its curvature. A gradient of zero gives a direction of zero.

    Raises:
        ValueError: `cg_steps` or `damping` is out of range.
    """
    require_between("cg_steps", cg_steps, 1, math.inf)
    require_between("damping", damping, 0.0, math.inf)

    def product(vector: jax.Array) -> jax.Array:
        return fisher_vector_product(kl, params, vector, damping=damping)

    direction, _ = cg(product, gradient, tol=_RESIDUAL, maxiter=cg_steps)
    return NaturalGradient(direction, direction @ product(direction))


def trust_region_scale(curvature: ArrayLike, *, max_kl: ArrayLike) -> jax.Array:
    """Length of the longest step along a direction that the quadratic model of the KL allows.

        (1/2) (c x)^T F (c x) = delta,    c = sqrt(2 delta / x^T F x)

    Source: Schulman et al. 2015, arXiv 1502.05477, appendix C.

    Args:
        curvature: [], x^T F x.
        max_kl: delta in nats, at least 0.

    Returns:
        []; 0 where the curvature is not positive (there is no direction to go).

    Raises:
        ValueError: `max_kl` is negative.
    """
    require_between("max_kl", max_kl, 0.0, math.inf)
    curvature = jnp.asarray(curvature)
    goes = curvature > 0.0
    safe = jnp.where(goes, curvature, 1.0)
    return jnp.where(goes, jnp.sqrt(2.0 * max_kl / safe), 0.0)


def line_search(
    objective: Scalar,
    kl: Scalar,
    params: jax.Array,
    step: jax.Array,
    *,
    max_kl: ArrayLike,
    tries: int = 10,
    shrink: float = 0.8,
) -> LineSearch:
    """Backtracking line search: the first shrunken step that improves inside the KL ball.

        theta + shrink^j * step,  j = 0, 1, ...:  L > L(theta) and KL <= delta

    Source: Schulman et al. 2015, arXiv 1502.05477, appendix C; defaults: sb3-contrib's TRPO.

    Args:
        objective: params [P] -> [], to maximize.
        kl: params [P] -> [], the mean KL from the policy at `params`.
        params: [P], where the search begins.
        step: [P], the full step.
        max_kl: delta in nats, at least 0.
        tries: points looked at, at least 1.
        shrink: factor from one to the next, in (0, 1).

    Returns:
        The accepted point; `params` itself, with fraction, kl and improvement 0, if none was. A point
        where the objective or the KL is NaN is never accepted.

    Raises:
        ValueError: `max_kl`, `tries` or `shrink` is out of range.
    """
    require_between("max_kl", max_kl, 0.0, math.inf)
    require_between("tries", tries, 1, math.inf)
    require_between("shrink", shrink, 0.0, 1.0)
    start = objective(params)
    nothing = LineSearch(params, *(jnp.zeros((), params.dtype),) * 3)

    def goes_on(state: tuple[jax.Array, LineSearch]) -> jax.Array:
        tried, found = state
        return (tried < tries) & (found.fraction == 0.0)

    def look(state: tuple[jax.Array, LineSearch]) -> tuple[jax.Array, LineSearch]:
        tried, found = state
        fraction = jnp.asarray(shrink, params.dtype) ** tried
        point = params + fraction * step
        here = LineSearch(point, fraction, kl(point), objective(point) - start)
        accepted = (here.improvement > 0.0) & (here.kl <= max_kl)
        found = jax.tree.map(lambda new, old: jnp.where(accepted, new, old), here, found)
        return tried + 1, found

    _, found = jax.lax.while_loop(goes_on, look, (jnp.zeros((), jnp.int32), nothing))
    return found
