"""Scores from nearest neighbours: precision and recall, density and coverage, copies of training images."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.metrics.estimate import Estimate, as_features, as_pair, check_width, deal, jackknife, pieces, share_of
from jaxgen.metrics.outliers import auroc
from jaxgen.types import Array, check

BLOCK, SMALL = 1024, 256  # examples a side of a block of distances; the second for small sets
FOLDS = 10
SPARE = 8  # neighbours kept beyond the k-th, so that those of one fold can be left out
TIE = 1e-6  # relative, of squared distances: rounding between d(x, y) and d(y, x)
AROUND, HALF = 50, 0.5  # n and alpha of Carlini et al. 2023


class Prdc(NamedTuple):
    """precision   share of the fakes inside the reals: nearer to some real than its k-th neighbour among the reals is
    recall      share of the reals inside the fakes, the same with their roles exchanged
    density     number of real neighbourhoods that a fake is in, over k: 1 on average for equal distributions, unbounded
    coverage    share of the reals with a fake among their k nearest: about 1 - 2^-k for equal distributions and N = M
    """

    precision: Estimate
    recall: Estimate
    density: Estimate
    coverage: Estimate


class Copying(NamedTuple):
    """nearer      P(a fake is nearer to the training set than a held-out real is): 0.5 without copying, 1 for copies,
                less than 0.5 where the fakes are farther from it than reals are
    copies      share of the fakes that are less than half as far from the nearest training example as from its 50
                nearest on average
    by_chance   the same share of held-out reals: not zero in few dimensions
    """

    nearer: Estimate
    copies: Estimate
    by_chance: Estimate


def prdc(reals: Any, fakes: Any, *, k_precision: int = 3, k_coverage: int = 5, seed: int = 0) -> Prdc:
    """Precision and recall (Kynkaanniemi et al. 2019, arXiv:1904.06991, k_precision), density and coverage
    (Naeem et al. 2020, arXiv:2002.09797, k_coverage) of features [N, D] and [M, D].

    All depend on N and M: compare at equal ones only. Errors: a tenth of the reals and of the fakes left out in turn,
    from the neighbourhoods too (`estimate.jackknife`); seed: of the folds. Every distance is computed once, in float32
    between centred features, a block at a time. InputError for sets too small for a k-th neighbour in nine tenths.
    """
    k = max(k_precision, k_coverage)
    check(min(k_precision, k_coverage) >= 1, f"k must be at least 1, it is {min(k_precision, k_coverage)}")
    reals, fakes = as_pair(reals, fakes, least=max(2 * k + 2, FOLDS))
    centre = reals.mean(axis=0, dtype=np.float64)
    real, fake = (_blocks(features, centre, _size(reals, fakes)) for features in (reals, fakes))
    real_fold, fake_fold = (deal(len(features), FOLDS, (seed, i)) for i, features in enumerate((reals, fakes)))
    near = _closest(real, real, k + SPARE, same=True)
    wide, deep = (_radii(*near, real_fold, kk) for kk in (k_precision, k_coverage))
    of_fakes = _radii(*_closest(fake, fake, k + SPARE, same=True), fake_fold, k_precision)
    pairs = _compared(real, fake, (wide, deep, of_fakes), fake_fold)
    how = f"k = {{}}; {FOLDS} folds of the reals and of the fakes left out in turn"

    def over(fold: np.ndarray, per: np.ndarray, k: int) -> Estimate:
        """per [n, 1 + FOLDS], of each example of one set: against all of the other set, and without its folds."""
        rest = [per[fold != f, 0].mean() for f in range(FOLDS)]
        error = math.hypot(jackknife(rest), _crossed(per[:, 1:], fold))
        return Estimate(float(per[:, 0].mean()), error, how.format(k))

    no_reals = [pairs.covered[real_fold != f, 1 + f].mean() for f in range(FOLDS)]
    no_fakes = np.stack([np.delete(pairs.covered_by, f, axis=1).any(axis=1) for f in range(FOLDS)], axis=1)
    error = math.hypot(jackknife(no_reals), _crossed(no_fakes, real_fold))
    return Prdc(
        over(fake_fold, pairs.inside, k_precision),
        over(real_fold, pairs.recalled, k_precision),
        over(fake_fold, pairs.count / k_coverage, k_coverage),
        Estimate(float(pairs.covered[:, 0].mean()), error, how.format(k_coverage)),
    )


def copying(train: Any, held_out: Any, fakes: Any) -> Copying:
    """Whether the fakes [M, D] lie nearer to the training examples [N, D] than held-out reals [L, D] do.

    nearer: the Mann-Whitney statistic of distances to the nearest training example, over its number of pairs (Meehan,
    Chaudhuri and Dasgupta 2020, arXiv:2004.05675, whose C_T is its z-score, cell by cell), with the error of
    `outliers.auroc`. copies: d(f, nearest) < mean of d(f, the 50 nearest) / 2 (Carlini et al. 2023, arXiv:2301.13188,
    with their alpha = 0.5 and n = 50, or all where there are fewer), with the binomial error. Both errors cover the
    draws of the fakes and of the held-out reals, at a fixed training set.
    """
    train, held_out, fakes = _three(train, held_out, fakes)
    found = [nearest(train, features, min(AROUND, len(train)))[1] for features in (fakes, held_out)]
    first = np.concatenate([d[:, 0] for d in found])
    area = auroc(-first, np.arange(len(first)) < len(fakes))
    how = f"pairs of {len(fakes)} fakes and {len(held_out)} held-out reals, {len(train)} training examples"
    copies = [d[:, 0] < HALF * d.mean(axis=1) for d in found]
    return Copying(
        Estimate(area.value, area.error, how), share_of(copies[0], "fakes"), share_of(copies[1], "held-out reals")
    )


def nearest(train: Any, queries: Any, k: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """The k nearest of `train` [N, D] of each query [M, D], nearest first: indices [M, k] and distances [M, k].

    Found by products in float32, then measured by differences, so that a copy has distance zero.
    """
    train, queries = as_features(train, "training set", least=1), as_features(queries, "queries", least=1)
    check_width(train.shape[1], queries.shape[1])
    check(1 <= k <= len(train), f"{k} neighbours of {len(train)} training examples: give 1 to {len(train)}")
    centre = train.mean(axis=0, dtype=np.float64)
    query, known = (_blocks(features, centre, _size(queries, train)) for features in (queries, train))
    _, index = _closest(query, known, k, same=False)
    distances = np.zeros(index.shape)
    for piece in pieces(len(queries), 32):
        gap = train[index[piece]] - queries[piece, None]
        distances[piece] = np.sqrt(np.einsum("nkd,nkd->nk", gap, gap))
    order = np.argsort(distances, axis=1, kind="stable")
    return np.take_along_axis(index, order, 1), np.take_along_axis(distances, order, 1)


class _Blocks(NamedTuple):
    """n features as float32 blocks [size, D], the last padded with zeros."""

    n: int
    size: int
    blocks: list[Array]


class _Pairs(NamedTuple):
    """Per fake [M, 1 + FOLDS]: whether it is inside any wide ball of a real, and in how many deep ones; per real
    [N, 1 + FOLDS]: whether it is inside a fake's ball, and whether a fake is inside its deep ball. First with all of
    the other set (for `covered`: of the reals), then without each fold of it. covered_by [N, FOLDS]: whether a fake of
    this fold is inside."""

    inside: Any
    count: Any
    recalled: Any
    covered: Any
    covered_by: Any


def _crossed(per: np.ndarray, fold: np.ndarray) -> float:
    """Standard error that the other set contributes to the mean of examples; per [n, FOLDS]: without its fold f.

    Chance pairings of one example with one fold are part of the examples' own error and would be counted twice: so not
    the squares of the effect of leaving f out, but its products between different folds of examples.
    """
    each = np.stack([per[fold == h].mean(axis=0) for h in range(FOLDS)])
    each -= each.mean(axis=1, keepdims=True)
    products = np.sum(each.sum(axis=0) ** 2 - np.sum(each**2, axis=0)) / (FOLDS * (FOLDS - 1))
    return math.sqrt(max((FOLDS - 1) / FOLDS * products, 0.0))


def _three(train: Any, held_out: Any, fakes: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    train, held_out = as_features(train, "training set"), as_features(held_out, "held-out reals")
    check_width(train.shape[1], held_out.shape[1])
    return train, held_out, as_features(fakes, "fakes")


def _size(*sets: np.ndarray) -> int:
    return SMALL if max(map(len, sets)) <= 2 * SMALL else BLOCK


def _blocks(features: np.ndarray, centre: np.ndarray, size: int) -> _Blocks:
    """Centred: ||q||^2 + ||t||^2 - 2 q . t loses as many digits as the norms are larger than the distance."""

    def block(piece: slice) -> Array:
        x = np.asarray(features[piece] - centre, np.float32)
        return jnp.asarray(np.pad(x, ((0, size - len(x)), (0, 0))))

    return _Blocks(len(features), size, [block(piece) for piece in pieces(len(features), size)])


def _squares(q: Array, t: Array) -> Array:
    """Squared distances [Q, T]; values below rounding are zero, so that a copy's is."""
    # a difference of large numbers: products rounded to TF32 or bfloat16 would change which neighbour is nearest
    norms = jnp.sum(q * q, axis=1)[:, None] + jnp.sum(t * t, axis=1)
    squares = norms - 2.0 * jnp.matmul(q, t.T, precision=jax.lax.Precision.HIGHEST)
    rounding = 2.0 * float(np.finfo(np.float32).eps) * q.shape[1] ** 0.5
    return jnp.where(squares > rounding * norms, squares, 0.0)


def _closest(queries: _Blocks, targets: _Blocks, k: int, *, same: bool) -> tuple[np.ndarray, np.ndarray]:
    """Squared distances and indices of the k nearest targets, [Q, k] each; same: nothing is its own neighbour."""
    found, size = [], queries.size
    for i, q in enumerate(queries.blocks):
        best = jnp.full((size, k), jnp.inf), jnp.zeros((size, k), jnp.int32)
        for j, t in enumerate(targets.blocks):
            best = _nearer(best, q, t, i * size if same else -size, j * size, targets.n)
        found.append(jax.tree.map(np.asarray, best))
    squares, index = (np.concatenate(each)[: queries.n] for each in zip(*found, strict=True))
    return squares, index


@jax.jit
def _nearer(best: tuple[Array, Array], q: Array, t: Array, row: Array, column: Array, n: Array) -> tuple[Array, Array]:
    """The best so far merged with one more block, which begins at `column` of n; the queries' block begins at `row`."""
    rows, columns = row + jnp.arange(len(q))[:, None], column + jnp.arange(len(t))
    squares = jnp.where((columns < n) & (columns != rows), _squares(q, t), jnp.inf)
    squares = jnp.concatenate([best[0], squares], axis=1)
    index = jnp.concatenate([best[1], jnp.broadcast_to(columns, (len(q), len(t)))], axis=1)
    least, at = jax.lax.top_k(-squares, best[0].shape[1])
    return -least, jnp.take_along_axis(index, at, axis=1)


def _radii(squares: np.ndarray, index: np.ndarray, fold: np.ndarray, k: int) -> np.ndarray:
    """Squared distance to the k-th neighbour [n, 1 + FOLDS]: of all, and of those outside each fold; -1, an
    empty ball, for a fold's own members."""
    radii = [squares[:, k - 1]]
    for f in range(FOLDS):
        enough = np.cumsum((fold[index] != f) & np.isfinite(squares), axis=1) >= k
        at = np.where(enough.any(axis=1), enough.argmax(axis=1), squares.shape[1] - 1)
        radii.append(np.where(fold == f, -1.0, squares[np.arange(len(squares)), at]))
    return np.stack(radii, axis=1).astype(np.float32)


def _compared(
    real: _Blocks, fake: _Blocks, radii: tuple[np.ndarray, np.ndarray, np.ndarray], fake_fold: np.ndarray
) -> _Pairs:
    """All pairs of reals and fakes, a block at a time. radii: the reals' wide and deep ones, the fakes'."""

    def padded(values: np.ndarray) -> list[np.ndarray]:
        full = np.full((-len(values) % real.size, *values.shape[1:]), -1, values.dtype)
        return np.split(np.concatenate([values, full]), -(-len(values) // real.size))

    wide, deep, of_fakes, fold = (padded(each) for each in (*radii, fake_fold))
    widths = _Pairs(1 + FOLDS, 1 + FOLDS, 1 + FOLDS, 1 + FOLDS, FOLDS)
    per_fake = _Pairs(True, True, False, False, False)
    sets = [fake if is_fake else real for is_fake in per_fake]
    counts = [np.zeros((len(s.blocks), s.size, w), np.int32) for s, w in zip(sets, widths, strict=True)]
    for i, r in enumerate(real.blocks):
        for j, f in enumerate(fake.blocks):
            found = _beside(r, f, wide[i], deep[i], of_fakes[j], fold[j])
            for count, is_fake, one in zip(counts, per_fake, found, strict=True):
                count[j if is_fake else i] += np.asarray(one)
    flat = _Pairs(*(c.reshape(-1, c.shape[-1])[: s.n] for c, s in zip(counts, sets, strict=True)))
    return _Pairs(*(each > 0 for each in flat))._replace(count=flat.count)


@jax.jit
def _beside(real: Array, fake: Array, wide: Array, deep: Array, of_fakes: Array, fold: Array) -> tuple[Array, ...]:
    """A block's contribution to `_Pairs`: reals and fakes [size, D]; padded ones have radii of -1 and the fold -1."""
    squares = jnp.where(fold >= 0, _squares(real, fake) * (1.0 - TIE), jnp.inf)  # [reals, fakes]
    within = [squares <= deep[:, [f]] for f in range(1 + FOLDS)]
    return (
        jnp.stack([jnp.any(squares <= wide[:, [f]], axis=0) for f in range(1 + FOLDS)], axis=1),
        jnp.stack([jnp.sum(w, axis=0) for w in within], axis=1),
        jnp.stack([jnp.any(squares <= of_fakes[:, f], axis=1) for f in range(1 + FOLDS)], axis=1),
        jnp.stack([jnp.any(w, axis=1) for w in within], axis=1),
        jnp.stack([jnp.any(within[0] & (fold == f), axis=1) for f in range(FOLDS)], axis=1),
    )
