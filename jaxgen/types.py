"""The vocabulary of the package: what a game, a model, a training state and a sampler are.

A generative model is a game plus a map from noise. An autoencoder, a VAE and a diffusion model are one-player games, a
GAN has two players, a VAE/GAN three. A VAE and a GAN turn noise into an image in one step, a diffusion model iterates,
a latent diffusion model iterates and then decodes. Everything here is a pure function of arrays or of trees of arrays;
nothing learns in place.

Conventions used throughout
  images       x: [B, H, W, C], float in [-1, 1] inside a step, uint8 in [0, 255] in a data set
  points       x: [B, D], float, in the data set's own units
  keys         [B] typed PRNG keys, one an example: noise belongs to the example, not to the device, so that eight
               devices draw what one device draws
  time         t in [0, 1]; 0 is data, 1 is noise
  losses       [B], one number an example; the caller reduces
  params       {group: tree}; the groups that have a loss are the players, the others are frozen
  extra        what training carries besides parameters: {name: {collection: tree}}, such as batch statistics
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from jaxgen.errors import InputError as InputError
from jaxgen.errors import check as check

Array = jax.Array
Keys = jax.Array  # typed PRNG keys [B]
Tree = Any  # a pytree of arrays
Player = str


class Batch(NamedTuple):
    """Examples `x: [B, ...]` and their condition in the data (labels `[B]`, attributes `[B, K]`, any tree), or None."""

    x: Array
    condition: Tree = None


class Turn(NamedTuple):
    """A player's turn: what a loss knows of the step that it is part of.

    keys    [B], one an example
    step    int32 [], of the run: for warm-ups, lazy penalties, fade-ins
    gather  tree [b, ...] -> [B, ...]: the same of all the minibatch, for losses that couple examples; the identity
            unless a layout maps the batch by hand
    own     int32 [b]: the rows of `gather`'s result that are these examples
    """

    keys: Keys
    step: Array
    gather: Callable[[Tree], Tree]
    own: Array

    def split(self, n: int = 2) -> list[Turn]:
        """n turns with keys of their own, for a loss that draws more than once."""
        keys = jax.vmap(lambda key: jax.random.split(key, n))(self.keys)
        return [self._replace(keys=keys[:, i]) for i in range(n)]


def turn(keys: Keys, step: int | Array = 0) -> Turn:
    """The turn of a minibatch that lies in one piece."""
    return Turn(keys, jnp.asarray(step, jnp.int32), lambda tree: tree, jnp.arange(keys.shape[0], dtype=jnp.int32))


Loss = Callable[[Tree, Tree, Turn, Batch], tuple[Array, tuple[dict, Tree]]]
"""`loss(params, extra, turn, batch) -> (loss [B], (metrics, extra))`."""


class Sign(NamedTuple):
    """A sign that training goes wrong.

    found  (metrics of a record) -> whether they show it
    line   what it means, in words
    """

    found: Callable[[Mapping[str, float]], bool]
    line: str


class Ahead(NamedTuple):
    """What losses need of an example and frozen groups give, such as its code by an autoencoder: it is the same at
    every step, and can be computed once for a data set.

    of      (params, extra, x [B, ...]) -> what losses take in the place of x; params and extra of the frozen groups
    losses  {player: Loss}, of such minibatches: the game's own after `of`
    """

    of: Callable[[Tree, Tree, Array], Array]
    losses: Mapping[Player, Loss]


class Game(NamedTuple):
    """All that training needs to know.

    init    (key, batch: a real first minibatch) -> (params: {group: tree}, extra)
    losses  {player: Loss}: each player follows the gradient of its own loss in its own group of parameters
    check   (batch, as a data set gives it) -> None, or InputError for data that the game does not take
    signs   {name: Sign}, looked for at each record: a run that shows one says so, and goes on
    ahead   what of the losses can be computed once for a data set (`Experiment.cache`); None: nothing
    """

    init: Callable[[Array, Batch], tuple[dict[str, Tree], Tree]]
    losses: Mapping[Player, Loss]
    check: Callable[[Batch], None] = lambda batch: None
    signs: Mapping[str, Sign] = {}
    ahead: Ahead | None = None


class Prediction(NamedTuple):
    """x0: the clean sample that x_t is expected to come from; logits of the codes where these are what x_t consists of.
    fraction: v of log V = v log beta + (1 - v) log beta_tilde, V the variance of a step back in time, of models that
    learn it (Nichol and Dhariwal 2021, arXiv:2102.09672, eq. 15)."""

    x0: Array
    fraction: Array | None = None


Predict = Callable[[Array, Any], Prediction]
"""`predict(x_t, t) -> Prediction`; t: a scalar, [B] or, for models that know the mean over one, an `Interval`. For a
one-step model `x_t` is the latent and `t` is ignored."""


class Interval(NamedTuple):
    """Times from t back to r < t, in place of t: x0 is then what x_t - r's x on a straight line goes to."""

    t: Array
    r: Array


Sampler = Callable[[Keys, Predict, Array], Array]
"""`sampler(keys, predict, noise) -> x_0`, a pytree: its functions are static, its numbers are traced."""

Guidance = Callable[[Callable[[Tree], Predict], Tree, Tree], Predict]
"""`guidance(predict_of, condition, given) -> Predict`, a pytree. `predict_of(condition) -> Predict`, and
`predict_of(None)` is the model's prediction without its condition; `given` is what it needs for each image."""


class Conditioner(NamedTuple):
    """What a model is conditioned on: any tree of arrays [n, ...], and what can be done with it.

    given    (n, the user's value, for one or for n) -> condition [n, ...], or InputError; given(n, given(n, v)) is
             given(n, v)
    of       (batch, in [-1, 1]) -> condition [B, ...], that of the data
    check    (batch, as a data set gives it) -> None, or InputError
    blank    (n) -> some condition of the right shapes, without meaning
    empty    (n) -> the condition that means "no condition", in training and in sampling; None: there is none,
             this model always needs one
    read     (text, n, names of the data set's classes) -> the user's value, or InputError: from the command line
    show     (condition) -> images [n, H, W, C] in [-1, 1] to draw beside samples, or None
    values   how many different values there are, 0, 1, ..., which samples take in turn by default; 0: too many to list,
             samples take those of examples
    derived  it is a function of the image itself, with no information of its own
    """

    given: Callable[[int, Any], Tree]
    of: Callable[[Batch], Tree]
    check: Callable[[Batch], None]
    blank: Callable[[int], Tree]
    empty: Callable[[int], Tree] | None
    read: Callable[[str, int, Sequence[str]], Any]
    show: Callable[[Tree], Array | None] = lambda condition: None
    values: int = 0
    derived: bool = False


class Process(NamedTuple):
    """x_t = alpha(t) x_0 + sigma(t) eps, eps ~ N(0, I), for t in [0, 1]: a pytree of numbers with static functions.

    alpha, sigma  the scales of signal and noise at time t
    time          the inverse of the log-SNR, log(alpha^2 / sigma^2) -> t
    scale         standard deviation of the noise that sampling starts with, x_1 ~ N(0, scale^2 I)
    clip          estimates of x_0 are clipped to [-clip, clip]: 1 for pixels, infinite for points and codes
    mask          of a process over codes: position by position x_t is x_0 with probability alpha(t), else the code
                  `mask`, with probability sigma(t), and estimates of x_0 are logits; None: as above
    """

    alpha: Callable[[Array], Array]
    sigma: Callable[[Array], Array]
    time: Callable[[Array], Array]
    scale: Array | float = 1.0
    clip: Array | float = 1.0
    mask: Array | None = None


class Density(NamedTuple):
    """A model's log p(x), in nats.

    log_p    (params, extra, keys [B], batch, k) -> [B, k], k draws an example
    kind     "exact": each is log p(x); "unbiased": the mean of each is log p(x); "bound": the mean of each is at most
             log p(x); "weights": the mean of their exponentials is p(x), so that the mean is the ELBO and the log of
             the mean of exponentials the importance-weighted bound
    measure  what p is, in words: "a probability of binary pixels", "a density of pixels from -1 to 1"
    check    (batch, as a data set gives it) -> None, or InputError for data that p is not meant for
    draws    as many as one compiled call should hold at once, about: examples times draws of each
    """

    log_p: Callable[[Tree, Tree, Keys, Batch, int], Array]
    kind: str
    measure: str
    check: Callable[[Batch], None] = lambda batch: None
    draws: int = 5000


def as_is(params: Tree, extra: Tree, keys: Keys, x0: Array, condition: Tree) -> Array:
    """The `decode` of a model whose sampler gives the sample itself."""
    return x0


class Model(NamedTuple):
    """A generative model as pure functions: what every factory in `jaxgen.families` returns.

    game       how it is trained
    prior      (params, extra, keys [B], condition) -> noise [B, ...]
    predict    (params, extra, condition) -> Predict
    sampler    the model's default Sampler: from noise to x_0
    decode     (params, extra, keys [B], x_0, condition) -> x: `as_is` unless x_0 is a code
    encode     (params, extra, x, condition) -> x_0, the code of x, where `decode` begins; None: there is no encoder
    condition  what it is conditioned on; None: unconditional
    density    log p(x), or an estimate of it; None: there is none
    process    of a model that iterates, read by solvers chosen by name; None: one step
    """

    game: Game
    prior: Callable[[Tree, Tree, Keys, Tree], Array]
    predict: Callable[[Tree, Tree, Tree], Predict]
    sampler: Sampler
    decode: Callable[[Tree, Tree, Keys, Array, Tree], Array] = as_is
    encode: Callable[[Tree, Tree, Array, Tree], Array] | None = None
    condition: Conditioner | None = None
    density: Density | None = None
    process: Process | None = None


class Seen(NamedTuple):
    """A critic's output for images, and what those images were made with.

    score      [B]; a plain critic gives it alone
    features   [B, ...] of a hidden layer: feature matching, VAE/GAN, minibatch tricks
    logits     [B, K] of classes: ACGAN, C + 1 classes
    codes      [B, D] estimates of the generator's codes (InfoGAN), or a reconstruction (EBGAN, BEGAN)
    condition  of the images: the data's of real ones, that of the generator's input of fake ones; filled in by the game
    noise      that the images were generated from, None for real ones; filled in by the game
    """

    score: Array
    features: Array | None = None
    logits: Array | None = None
    codes: Array | None = None
    condition: Tree = None
    noise: Array | None = None


class Average(NamedTuple):
    """Exponential moving averages of the players' parameters and of the `extra` that belongs to them."""

    params: dict[Player, Tree]
    extra: Tree


class TrainState(NamedTuple):
    """Arrays only, so it donates, shards and checkpoints as it is. The data position follows from `step`."""

    step: Array
    key: Array
    params: dict[str, Tree]
    opt: dict[Player, Tree]
    extra: Tree
    ema: Average | None


class Solver(NamedTuple):
    """One step of an iterative sampler. `init(noise) -> carry`, whose first element is x_t;
    `step(keys, predict, carry, t, u) -> carry` goes from time t to time u. Both are pytrees, `jax.tree_util.Partial`.
    """

    init: Callable[[Array], tuple]
    step: Callable[[Keys, Predict, tuple, Array, Array], tuple]


def normal(keys: Keys, shape: Sequence[int], dtype: Any = jnp.float32) -> Array:
    """z ~ N(0, I), [B, *shape]: row i is drawn from keys[i] alone."""
    return jax.vmap(lambda key: jax.random.normal(key, tuple(shape), dtype))(keys)


def _one_shot(keys: Keys, predict: Predict, noise: Array) -> Array:
    return predict(noise, jnp.ones(())).x0


one_shot: Sampler = Partial(_one_shot)
"""The sampler of a model that turns noise into an image in one step."""


def weights(state: TrainState, ema: bool = True) -> tuple[Tree, Tree]:
    """(params, extra) to predict with: averages, where there are any and `ema`; frozen groups have none."""
    if not ema or state.ema is None:
        return state.params, state.extra
    return {**state.params, **state.ema.params}, state.ema.extra
