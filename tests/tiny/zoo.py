"""A tiny model of every family that has no experiment of its own here: on images of 8x8, or on points in the plane."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import optax
from flax import linen as nn

from jaxgen import Experiment, data, families, sampling
from jaxgen.conditions import labels, text
from jaxgen.data import noise
from jaxgen.losses import adversarial as games
from jaxgen.losses import augmentation, evidence, heads, penalties
from jaxgen.losses.denoising import discrete, easy, low_discrepancy, optimal
from jaxgen.losses.likelihood import bernoulli
from jaxgen.nets import network, with_encoder
from jaxgen.nets.codes import CodeTransformer, PixelCNN, flat_posterior, of_flat
from jaxgen.nets.conv import ConvDecoder, ConvEncoder, DCGANCritic, DCGANGenerator, PatchCritic
from jaxgen.nets.dit import DiT
from jaxgen.nets.heads import AutoencoderCritic
from jaxgen.nets.layers import Conv, Dense
from jaxgen.nets.minibatch import MinibatchDiscrimination, MinibatchStd
from jaxgen.nets.mlp import MLP, MLPDenoiser
from jaxgen.nets.norms import Referenced, VirtualBatchNorm
from jaxgen.nets.resnet import ResNetCritic, ResNetGenerator
from jaxgen.nets.style import Mapping, StyleCritic, StyleSynthesis2, styles
from jaxgen.nets.text import TextEncoder
from jaxgen.nets.weights import spectral
from jaxgen.processes import absorbing as masking
from jaxgen.processes import cosine
from jaxgen.processes import flow as straight
from jaxgen.types import Batch, Model, Seen

SHAPE = (8, 8, 1)
WORDS = ("a", "one", "two", "thick")


def mlp_vae(objective=None):
    return families.vae(network(MLP((8,), (32,))), network(MLP(SHAPE, (32,))), 4, objective=objective)


def conv_vae():
    encoder, decoder = ConvEncoder(8, width=4, hidden=64), ConvDecoder(SHAPE, width=4, hidden=64)
    return families.vae(network(encoder), network(decoder), 4)


def wae_mmd():
    return families.wae_mmd(network(MLP((4,), (32,))), network(MLP(SHAPE, (32,))), 4)


def factor_vae():
    encoder, decoder, critic = network(MLP((8,), (32,))), network(MLP(SHAPE, (32,))), network(MLP((), (32,)))
    return families.factor_vae(encoder, decoder, critic, 4, gamma=2.0)


def gan():
    generator, critic = DCGANGenerator(SHAPE, width=4), DCGANCritic(width=8)
    return families.gan(network(generator), network(critic), 8)


def zoo_gan(critic, **options):
    return families.gan(network(DCGANGenerator(SHAPE, width=4)), network(critic), 8, **options)


def began():
    """Of an objective with a state."""
    critic = AutoencoderCritic(ConvEncoder(8, width=4, hidden=32), ConvDecoder(SHAPE, width=4, hidden=32), 1)
    return zoo_gan(critic, objective=heads.began(0.7, rate=0.1))


class ReferenceCritic(nn.Module):
    """Of power iterations and a reference batch."""

    @nn.compact
    def __call__(self, x, condition=None, train=False):
        h = nn.leaky_relu(VirtualBatchNorm(8)(Conv(8, 4, 2, weight=spectral)(x)))
        return Dense(1, weight=spectral)(h.reshape(h.shape[0], -1))[:, 0]


def ada():
    """Of an adaptive augmentation and a lazy penalty besides."""
    paid = (penalties.lazy(penalties.r1(0.1), 2),)
    changes = augmentation.adaptive(augmentation.shift, images=400, every=2, start=0.5)
    critic = Referenced(ReferenceCritic(), 8)
    return zoo_gan(critic, objective=games.relativistic(), penalties=paid, augmentation=changes)


class MinibatchCritic(nn.Module):
    """Of layers that see all of a minibatch."""

    @nn.compact
    def __call__(self, x, condition=None, train=False):
        h = MinibatchStd()(nn.leaky_relu(Conv(8, 4, 2)(x))).reshape(x.shape[0], -1)
        return Seen(Dense(1)(MinibatchDiscrimination(4, 2)(h))[:, 0], h)


def minibatch():
    objective = heads.feature_matching(games.smoothed(games.non_saturating()))
    return zoo_gan(MinibatchCritic(), objective=objective)


def big():
    """BigGAN's: a label in every block, with part of the noise."""
    generator = ResNetGenerator(SHAPE, 8, 8, 4, classes=3, shared=8, skip=True, attention=8, weight=spectral)
    critic = ResNetCritic(8, 8, 4, 1, classes=3)
    options = {"objective": games.hinge(), "condition": labels(3)}
    return families.gan(network(generator), network(critic), 8, **options)


def style():
    """StyleGAN2's: two networks that are one player, a mean of styles and one of path lengths."""
    generator = network(Mapping(8, 2)), network(StyleSynthesis2(SHAPE, 4, 8))
    options = {"path_length": families.PathLength(every=2), "layers": styles(SHAPE)}
    return families.style_gan(*generator, network(StyleCritic(4, 8)), 8, **options)


def vq():
    encoder, decoder = network(MLP((2, 2, 3), (64,))), network(MLP(SHAPE, (64,)))
    return families.vq_vae(encoder, decoder, families.vq(4, 3), network(PixelCNN(4, 4, layers=1)), (2, 2))


def diffusion():
    process = cosine()
    sampler = sampling.iterate(sampling.ddpm(process), sampling.uniform(5))
    denoiser = network(MLPDenoiser(64, 1, classes=3))
    return families.diffusion(denoiser, process, (2,), sampler=sampler, condition=labels(3), prediction="v")


def flow():
    """Of times and a coupling that see all of a minibatch."""
    process = straight(clip=np.inf)
    sampler = sampling.iterate(sampling.euler(process), sampling.uniform(5))
    values = {"times": low_discrepancy(), "coupling": optimal, "prediction": "velocity"}
    return families.diffusion(network(MLPDenoiser(64, 1)), process, (2,), sampler=sampler, **values)


def written():
    """Of words and of dropout: a DiT that attends to a text."""
    process = cosine()
    encoder, denoiser = TextEncoder(len(WORDS), 8, 1, 2, dropout=0.2), DiT(4, 8, 1, 2, dropout=0.2)
    both, sampler = with_encoder(network(denoiser), network(encoder)), sampling.ddim(process)
    condition, sampler = text(WORDS, 3), sampling.iterate(sampler, sampling.uniform(4), clip=1.0)
    return families.diffusion(both, process, SHAPE, sampler=sampler, condition=condition, prediction="v")


def consistency():
    """Of pairs that come nearer as the run goes on, with a frozen teacher."""
    parts = {"prediction": "velocity", "teacher": flow(), "pairs": easy(8), "times": discrete(4), "huber": 1.0}
    return families.consistency(network(MLPDenoiser(64, 1)), straight(clip=np.inf), (2,), **parts)


def nets(*outputs: int):
    """Perceptrons with so many outputs, the last of an image."""
    return [*(network(MLP((out,) if out else (), (32,))) for out in outputs), network(MLP(SHAPE, (32,)))]


def adversarial():
    encoder, critic, decoder = nets(4, 0)
    return families.adversarial_autoencoder(encoder, decoder, critic, 4)


def latent(outer, size):
    process = cosine(clip=np.inf)
    sampler = sampling.iterate(sampling.ddim(process), sampling.uniform(5))
    codes = families.diffusion(network(MLPDenoiser(32, 1)), process, (size,), sampler=sampler, prediction="v")
    return families.latent(outer, codes)


def kl(p):
    encoder, decoder = network(MLP((2, 2, 4), (32,))), network(MLP(SHAPE, (32,)))
    return families.vae(flat_posterior(encoder), of_flat(decoder, (2, 2, 2)), 8, likelihood=p)


def codes(p):
    encoder, decoder = network(MLP((2, 2, 3), (64,))), network(MLP(SHAPE, (64,)))
    return families.quantised(encoder, decoder, families.vq(4, 3), (2, 2), likelihood=p)


def sharpened(make):
    """Of a weight that sees all of a minibatch, and batch statistics of a critic of patches."""
    return families.sharpened(make, network(PatchCritic(4, halvings=1)), start=2)


def absorbing():
    """Of codes of which some are masked, beside the autoencoder that gives them."""
    sampler = sampling.iterate(sampling.unmask(masking(4)), sampling.uniform(4))
    inner = families.absorbing(network(CodeTransformer(4, 8, 1, 2)), 4, (2, 2), sampler=sampler)
    return families.latent(codes(None), inner, train=True)


def ladder():
    up, down = [network(MLP((2 * z + d,), (32,))) for z, d in ((6, 8), (4, 0))], [network(MLP((12,), (32,)))]
    return families.hierarchical_vae(up, down, network(MLP(SHAPE, (32,))), (6, 4))


def m2():
    encoder, decoder = network(MLP((8,), (32,), classes=3)), network(MLP(SHAPE, (32,), classes=3))
    return families.m2(encoder, decoder, network(MLP((3,), (32,))), 4, 3, alpha=0.5)


class Critic(nn.Module):
    """Scores, and the features that a VAE/GAN compares."""

    @nn.compact
    def __call__(self, x, condition=None, train=False):
        features = nn.tanh(nn.Dense(32)(x.reshape(x.shape[0], -1)))
        return Seen(nn.Dense(1)(features)[:, 0], features)


def vae_gan():
    return families.vae_gan(network(MLP((8,), (32,))), network(MLP(SHAPE, (32,))), network(Critic()), 4)


def denoising():
    return families.denoising_autoencoder(*nets(4), 4, corruption=noise.masking(0.3))


class Kind(NamedTuple):
    """make   gives the model
    order  the turns of its players
    data   "images", those of three "classes", "labelled" ones of which some have no label, those with a "text", or
           labelled "points"
    cache  what a frozen autoencoder gives is computed once
    """

    make: Callable[[], Model]
    order: tuple[str, ...] | None = None
    data: str = "images"
    cache: bool = False


ZOO = {
    "vae": Kind(conv_vae),
    "gan": Kind(gan, ("critic", "critic", "generator")),
    "style": Kind(style),
    "vq": Kind(vq),
    "began": Kind(began),
    "ada": Kind(ada),
    "minibatch": Kind(minibatch),
    "big": Kind(big, data="classes"),
    "diffusion": Kind(diffusion, data="points"),
    "text": Kind(written, data="text"),
    "flow": Kind(flow, data="points"),
    "consistency": Kind(consistency, data="points"),
    "free_bits": Kind(lambda: mlp_vae(evidence.elbo(free_bits=0.05))),
    "info": Kind(lambda: mlp_vae(evidence.info(scale=5.0))),
    "tc": Kind(lambda: mlp_vae(evidence.tc(100, beta=3.0))),
    "factor_vae": Kind(factor_vae),
    "wae_mmd": Kind(wae_mmd),
    "autoencoder": Kind(lambda: families.autoencoder(*nets(4), 4)),
    "denoising": Kind(denoising),
    "adversarial": Kind(adversarial),
    "latent": Kind(lambda: latent(mlp_vae(), 4)),
    "cached": Kind(lambda: latent(kl(bernoulli()), 8), cache=True),
    "absorbing": Kind(absorbing),
    "sharpened": Kind(lambda: sharpened(kl), ("critic", "vae")),
    "ladder": Kind(ladder),
    "m2": Kind(m2, data="labelled"),
    "vae_gan": Kind(vae_gan, ("critic", "encoder", "decoder")),
    "low_rank": Kind(lambda: families.low_rank(mlp_vae())),
}


def examples(kind: str, shape: tuple[int, ...]) -> Batch:
    """A minibatch [*shape, ...] of noise, always the same."""
    rng = np.random.default_rng(0)
    if kind == "points":
        return Batch(rng.normal(size=(*shape, 2)).astype(np.float32), rng.integers(0, 3, shape, dtype=np.int32))
    x = rng.integers(0, 256, (*shape, *SHAPE), dtype=np.uint8)
    if kind == "text":
        return Batch(x, rng.integers(1, 1 + len(WORDS), (*shape, 3), dtype=np.int32) * np.array([1, 1, 0], np.int32))
    least = {"classes": 0, "labelled": -1}.get(kind)
    return Batch(x) if least is None else Batch(x, rng.integers(least, 3, shape, dtype=np.int32))


def experiment(*, family: str = "ladder", steps: int = 120, save_every: int = 10) -> Experiment:
    """One of them.

    Args:
        family: of `ZOO`
        steps: how long to train
        save_every: steps between checkpoints
    """
    kind = ZOO[family]
    batch, model = examples(kind.data, (256,)), kind.make()
    classes = () if batch.condition is None else WORDS if kind.data == "text" else tuple("012")
    noises = data.in_memory("noise", "train", batch.x, batch.condition, classes=classes)
    optimizers = {player: optax.adam(1e-3) for player in model.game.losses}
    every = {"log_every": 10, "sample_every": 10**6, "save_every": save_every, "cache": kind.cache}
    return Experiment(model, optimizers, noises, 16, steps, order=kind.order, ema=0.9, **every)
