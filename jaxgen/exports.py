"""A trained model for other programs: its weights as safetensors under torch's names, and its sampler as StableHLO.

  model.safetensors   {name: array}, such as "generator.Dense_0.weight", laid out as torch's layers have them
  sampler.jax         what `jax.export` wrote: call(weights, bits, condition) -> images, for any number of them
  about.json          what is to be given, and what comes out

    import numpy as np
    from jax import export
    from safetensors.numpy import load_file

    sampler = export.deserialize(bytearray(open("sampler.jax", "rb").read()))
    bits = np.random.randint(2**32, size=(16, 4), dtype=np.uint32)
    images = sampler.call(load_file("model.safetensors"), bits)  # of a model of classes also labels, int32 [16]

A run whose model was made in Python, not by an experiment's file, keeps such a folder, from which it is loaded.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from jaxgen.conditions import labels
from jaxgen.data import Dataset
from jaxgen.data.described import DESCRIPTION, describe, stand_in
from jaxgen.files import atomically
from jaxgen.inputs import count, is_file, is_folder, read_json, table
from jaxgen.types import (
    Array,
    Average,
    Conditioner,
    Game,
    InputError,
    Keys,
    Model,
    Predict,
    Prediction,
    Sampler,
    TrainState,
    Tree,
    check,
    weights,
)

WEIGHTS, SAMPLER, ABOUT = "model.safetensors", "sampler.jax", "about.json"
KEPT = "exported"  # the folder of a run that keeps its sampler
PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
_TORCH = {"kernel": "weight", "scale": "weight", "embedding": "weight", "mean": "running_mean", "var": "running_var"}


# --- weights -------------------------------------------------------------------------------------------------------


class _Place(NamedTuple):
    """Of an array in a safetensors file: its name there, and how torch lays it out, with the way back."""

    name: str
    there: Callable[[Any], Any]
    back: Callable[[Any], Any]


def save_weights(state: TrainState, path: str | Path, ema: bool = True) -> Path:
    """The weights to predict with (averaged ones, where there are any and `ema`) as a safetensors file.

    Names are the paths of modules, joined by dots, with torch's for the last part; a kernel [H, W, I, O] becomes
    [O, I, H, W], that of a transposed convolution [I, O, H, W] and reversed in space, of a dense layer [O, I].
    """
    from safetensors.numpy import save

    named = _named(weights(state, ema))
    content = save({name: np.ascontiguousarray(array) for name, array in named.items()})
    return atomically(Path(path), lambda tmp: tmp.write_bytes(content))


def load_weights(state: TrainState, path: str | Path) -> TrainState:
    """`state` with the weights of a file that `save_weights` wrote, or that has its names and shapes; averages begin
    there too. InputError for a file that is none, and for names and shapes that are not the state's."""
    wanted, found = weights(state), read_weights(path)
    places, arrays = _places(wanted), []
    unknown = sorted(set(found) - {place.name for place in places})
    check(not unknown, f"{path} has {_few(unknown)}, which this model has not: give the weights of the same networks")
    for place, leaf in zip(places, jax.tree.leaves(wanted), strict=True):
        check(place.name in found, f"{path} has no {place.name}: give the weights of the same networks")
        shape = jax.eval_shape(place.there, jax.eval_shape(_plain, leaf)).shape
        array = found[place.name]
        check(array.shape == shape, f"{place.name} is {list(array.shape)} in {path}, {list(shape)} in this model")
        arrays.append(_of_plain(jnp.asarray(place.back(array)), leaf))
    params, extra = jax.tree.unflatten(jax.tree.structure(wanted), arrays)
    average = None
    if state.ema is not None:
        average = Average({player: params[player] for player in state.ema.params}, extra)
    own = jax.tree.map(jnp.copy, (params, extra)) if average is not None else (params, extra)
    return state._replace(params={**state.params, **own[0]}, extra=own[1], ema=average)


def read_weights(path: str | Path) -> dict[str, np.ndarray]:
    """{name: array} of a safetensors file; InputError for one that is not there or damaged."""
    from safetensors.numpy import load

    check(is_file(path), f"there is no file {path}: give a .safetensors file")
    try:
        return load(Path(path).read_bytes())
    except Exception as error:  # its own error, and what a damaged header leads to
        raise InputError(f"{path} is damaged or no safetensors file ({_reason(error)})") from None


def _few(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def _reason(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _named(tree: Tree) -> dict[str, np.ndarray]:
    return {
        place.name: np.asarray(place.there(_plain(leaf)))
        for place, leaf in zip(_places(tree), jax.tree.leaves(tree), strict=True)
    }


def _places(tree: Tree) -> list[_Place]:
    """The place of each leaf of (params, extra), in their order."""
    paths = [_words(path) for path, _ in jax.tree.leaves_with_path(tree)]
    short = [_short(words) for words in paths]
    # two arrays of one name, as a kernel and a scale in one module, keep the names that they have here
    names = [new if short.count(new) == 1 else ".".join(words) for new, words in zip(short, paths, strict=True)]
    leaves = jax.tree.leaves(tree)
    return [_Place(n, *_layout(words, np.ndim(leaf))) for n, words, leaf in zip(names, paths, leaves, strict=True)]


def _words(path: Any) -> list[str]:
    words = [str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", key)))) for key in path]
    return ["extra", *words[1:]] if words[0] == "1" else words[1:]


def _short(words: list[str]) -> str:
    """As a torch module would call it: statistics of a batch stand beside the weights of their layer."""
    if words[0] == "extra" and "batch_stats" in words:
        words = [word for word in words[1:] if word != "batch_stats"]
    return ".".join([*words[:-1], _TORCH.get(words[-1], words[-1])])


def _layout(words: list[str], rank: int) -> tuple[Callable, Callable]:
    """(to torch's layout, back)."""
    if words[-1] != "kernel" or rank not in (2, 4):
        return _same, _same
    if rank == 2:
        return _transposed, _transposed
    if any(word.startswith("ConvTranspose") for word in words[-2:-1]):
        return lambda a: a[::-1, ::-1].transpose(2, 3, 0, 1), lambda a: a.transpose(2, 3, 0, 1)[::-1, ::-1]
    return lambda a: a.transpose(3, 2, 0, 1), lambda a: a.transpose(2, 3, 1, 0)


def _same(a: Any) -> Any:
    return a


def _transposed(a: Any) -> Any:
    return a.T


def _plain(leaf: Any) -> Any:
    """An array of numbers: of keys their data."""
    return jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf


def _of_plain(array: Array, leaf: Any) -> Array:
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(array, impl=jax.random.key_impl(leaf))
    return array.astype(leaf.dtype)


# --- the sampler ---------------------------------------------------------------------------------------------------


def export_model(model: Model, state: TrainState, folder: str | Path, data: Dataset, ema: bool = True) -> Path:
    """Write the three files of this module into `folder`: the model's own sampler, without guidance.

    The sampler is lowered image by image and mapped over them, for any number of images, and for all of `PLATFORMS`.
    bits: uint32 [n, 4], all that is random in an image. A condition of a few values is given as labels int32 [n], -1
    for none where the model has that; any other as {name: array [n, ...]}.
    """
    folder, tree = Path(folder), weights(state, ema)
    check(isinstance(model, Model), "only what draws samples can be exported: this is no generative model")
    if is_folder(folder):
        strangers = sorted(p.name for p in folder.iterdir() if p.name not in (WEIGHTS, SAMPLER, ABOUT))
        check(not strangers, f"{folder} holds other files ({_few(strangers)}): give a new folder")
    exported = _lowered(model, tree)
    save_weights(state, folder / WEIGHTS, ema)
    atomically(folder / SAMPLER, lambda tmp: tmp.write_bytes(exported.serialize()))
    condition = model.condition
    about = {
        "step": int(state.step),
        "data": describe(data.name, data),
        "values": 0 if condition is None else condition.values,
        "empty": condition is not None and condition.empty is not None,
        "condition": {n: {"shape": list(s), "dtype": str(d)} for n, (s, d) in _parts(condition).items()},
    }
    atomically(folder / ABOUT, lambda tmp: tmp.write_text(json.dumps(about, indent=1) + "\n"))
    return folder


def _lowered(model: Model, tree: Tree) -> Any:
    n = export.symbolic_shape("n")[0]
    shapes = {name: jax.ShapeDtypeStruct(a.shape, a.dtype) for name, a in _named(tree).items()}
    given: list = [shapes, jax.ShapeDtypeStruct((n, 4), jnp.uint32)]
    condition = model.condition
    if condition is not None and condition.values:
        given.append(jax.ShapeDtypeStruct((n,), jnp.int32))
    elif condition is not None:
        given.append({name: jax.ShapeDtypeStruct((n, *s), d) for name, (s, d) in _parts(condition).items()})
    return export.export(jax.jit(_drawing(model, tree)), platforms=PLATFORMS)(*given)


def _drawing(model: Model, like: Tree) -> Callable[..., Array]:
    """(weights, bits [n, 4], condition) -> images [n, ...]: what `sampling.sample` computes of the same keys."""
    places, structure = _places(like), jax.tree.structure(like)
    leaves = jax.tree.leaves(like)
    condition_of = _conditions(model.condition)

    def one(named: Mapping[str, Array], bits: Array, given: Any = None) -> Array:
        arrays = [_of_plain(p.back(named[p.name]), leaf) for p, leaf in zip(places, leaves, strict=True)]
        params, extra = jax.tree.unflatten(structure, arrays)
        own, walk = (jax.random.wrap_key_data(half)[None] for half in jnp.split(bits, 2))
        condition = None if given is None else jax.tree.map(lambda a: a[None], condition_of(given))
        noise = model.prior(params, extra, own, condition)
        x0 = model.sampler(walk, model.predict(params, extra, condition), noise)
        return model.decode(params, extra, walk, x0, condition)[0]

    return lambda named, bits, *given: jax.vmap(lambda *row: one(named, *row))(bits, *given)


def _conditions(conditioner: Conditioner | None) -> Callable[[Any], Tree]:
    """From what an exported sampler is given for an image to the model's condition."""
    if conditioner is not None and conditioner.values:
        table = conditioner.given(conditioner.values, np.arange(conditioner.values))
        if conditioner.empty is not None:  # the last row, which -1 names
            table = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), table, conditioner.empty(1))
        return lambda label: jax.tree.map(lambda a: a[label], table)
    structure = None if conditioner is None else jax.tree.structure(conditioner.blank(1))
    return lambda parts: jax.tree.unflatten(structure, [parts[name] for name in _parts(conditioner)])


def _parts(conditioner: Conditioner | None) -> dict[str, tuple[tuple[int, ...], Any]]:
    """{name: (shape, dtype)} of a condition's arrays for one image, of one that is not among a few values."""
    if conditioner is None or conditioner.values:
        return {}
    named = jax.tree.leaves_with_path(conditioner.blank(1))
    return {".".join(_words((None, *path))) or "value": (a.shape[1:], a.dtype) for path, a in named}


# --- reading it back -----------------------------------------------------------------------------------------------


def exported_in(folder: str | Path) -> Path | None:
    """Where in a run's folder, or in that folder itself, an exported model lies; None where there is none."""
    return next((p for p in (Path(folder), Path(folder) / KEPT) if is_file(p / ABOUT)), None)


def load_exported(folder: str | Path) -> tuple[Model, TrainState, Dataset]:
    """(model, state, data) of a folder that `export_model` wrote: a model that draws the same samples, and no more: it
    has no solver to choose, no guidance and no latents. The data set is read at its first use.

    InputError for a folder that is none, and for files that are damaged.
    """
    folder = Path(folder)
    wrong, remedy = "is damaged", "export the run again"
    about = read_json(folder / ABOUT, _FORM, wrong, remedy)
    check(is_file(folder / SAMPLER), f"{folder} has no {SAMPLER}: {remedy}")
    try:
        exported = export.deserialize(bytearray((folder / SAMPLER).read_bytes()))
    except Exception as error:
        raise InputError(f"{folder / SAMPLER} is damaged, or too old for this JAX ({_reason(error)})") from None
    arrays = {name: jnp.asarray(a) for name, a in read_weights(folder / WEIGHTS).items()}
    state = TrainState(jnp.asarray(about["step"], jnp.int32), jax.random.key(0), {"model": arrays}, {}, {}, None)
    data = _data(about["data"])
    return _model(exported, _conditioner(about)), state, data


def _dtype(what: str, value: Any) -> str:
    return "" if value in ("float32", "int32", "uint32", "bool") else f"{what} is no type of numbers"


_FORM = {
    "step": int,
    "data": DESCRIPTION,
    "values": count,
    "empty": bool,
    "condition": table({"shape": [count], "dtype": _dtype}),
}


def _data(description: Mapping[str, Any]) -> Dataset:
    from jaxgen import data

    options = description["options"]
    return stand_in(description, lambda: data.load(description["given"], description["split"], **options))


def _model(exported: Any, condition: Conditioner | None) -> Model:
    def prior(params: Tree, extra: Tree, keys: Keys, given: Tree) -> Array:
        return jax.random.key_data(keys)

    def predict(params: Tree, extra: Tree, given: Tree) -> Predict:
        arguments = () if given is None else (given,)

        def images(bits: Array, t: Array) -> Prediction:
            try:
                return Prediction(exported.call(params["model"], bits, *arguments))
            except ValueError as error:  # other files than were written together
                reason = _reason(error)[:200]
                raise InputError(f"{WEIGHTS}, {SAMPLER} and {ABOUT} do not fit ({reason}): export again") from None

        return images

    nothing = Game(lambda key, batch: ({}, {}), {})
    return Model(nothing, prior, predict, _exported_sampler, condition=condition)


def _sample_bits(keys: Keys, predict: Predict, noise: Array) -> Array:
    check(noise.dtype == jnp.uint32, "an exported model draws samples of keys, it has no latents: load the run itself")
    bits = jnp.concatenate([noise, jax.random.key_data(keys)], axis=1)
    return predict(bits, jnp.ones(())).x0


_exported_sampler: Sampler = jax.tree_util.Partial(_sample_bits)


def _conditioner(about: Mapping[str, Any]) -> Conditioner | None:
    """The conditioner of labels, where -1 may be none; or of named arrays."""
    values = about["values"]
    parts = {name: (tuple(part["shape"]), part["dtype"]) for name, part in about["condition"].items()}
    if values:
        return _of_labels(values, about["empty"])
    if not parts:
        return None

    def given(n: int, value: Any) -> Tree:
        check(isinstance(value, dict) and set(value) == set(parts), f"give a dictionary of {', '.join(parts)}")
        return {name: jnp.broadcast_to(jnp.asarray(value[name], d), (n, *s)) for name, (s, d) in parts.items()}

    def refused(*_: Any) -> Any:
        raise InputError(f"an exported model takes its condition in Python, as a dictionary of {', '.join(parts)}")

    blank = lambda n: {name: jnp.zeros((n, *s), d) for name, (s, d) in parts.items()}  # noqa: E731
    return Conditioner(given, refused, lambda batch: None, blank, None, refused)


def _of_labels(classes: int, empty: bool) -> Conditioner:
    plain = labels(classes)

    def given(n: int, value: Any) -> Array:
        value = np.asarray(value)
        none = value == -1 if empty else np.zeros(value.shape, bool)
        found = plain.given(n, np.where(none, 0, value) if none.any() else value)
        return jnp.where(jnp.asarray(none), -1, found)

    return plain._replace(given=given, empty=(lambda n: jnp.full(n, -1, jnp.int32)) if empty else None)
