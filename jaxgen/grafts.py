"""Runs that begin with what others have learned: all of another run's parameters, or some groups of them, by path."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxgen import training
from jaxgen.runs import load_run
from jaxgen.types import Average, Game, TrainState, Tree, check, weights

Donor = str | Path | TrainState
Start = Donor | Mapping[str, Donor] | None
"""The folder of a run, or a trained state in Python, all of whose parameters a new one begins with; or {group: such},
for those groups alone."""
STATE = "a state in Python"


class Graft(NamedTuple):
    """What a state begins with instead of its own: {group: tree} of parameters and of `extra`."""

    params: dict[str, Tree]
    extra: dict[str, Tree]


def parse(text: str) -> Start:
    """ "RUN", or "GROUP=RUN,GROUP=RUN"."""
    if "=" not in text or os.path.lexists(text):
        return text
    pairs = [word.partition("=") for word in text.split(",")]
    good = all(group.strip() and run.strip() for group, _, run in pairs)
    check(good, f"--start {text}: give the folder of a run, or GROUP=RUN for each group, separated by commas")
    return {group.strip(): run.strip() for group, _, run in pairs}


def resolved(start: Start) -> Any:
    """`start` as a run's settings note it: absolute paths, and "" for none."""
    if isinstance(start, Mapping):
        return {group: resolved(donor) for group, donor in start.items()}
    return STATE if isinstance(start, TrainState) else os.path.realpath(start) if start else ""


def load(start: Start, shapes: TrainState) -> Graft:
    """The trees that a state of these shapes begins with, averaged ones where there are any. InputError for runs whose
    networks are others.

    All of a run: its parameters and its `extra` have to be those of the new one. One group g: the donor's groups that
    are in it, where they fit (an autoencoder under a latent model, without the critic that it was trained with; a
    student that becomes a teacher, without its own), else the donor's own group of that name; with the part of `extra`
    that belongs to them, where both have it.
    """
    check(bool(start), "nothing is given to start from: give the folder of a run")
    if not isinstance(start, Mapping):
        name, state = _donor(start)  # type: ignore[arg-type]
        params, extra = weights(state)
        same = _fits((params, extra), (shapes.params, shapes.extra))
        check(same, f"the parameters of {name} do not fit: start from a run of the same networks")
        return Graft(params, extra)
    unknown = sorted(set(start) - set(shapes.params))
    check(
        not unknown, f"there is no group {', '.join(unknown)} to start with a run: this one has {_list(shapes.params)}"
    )
    parts = {group: _group(group, path, shapes) for group, path in start.items()}
    return Graft(
        {group: params for group, (params, _) in parts.items()},
        {group: extra for group, (_, extra) in parts.items() if extra is not None},
    )


def apply(state: TrainState, game: Game, graft: Graft) -> TrainState:
    """A fresh state with the graft's trees in it, placed as its own are; averages begin there too."""
    params = {**state.params, **{g: _placed(tree, state.params[g]) for g, tree in graft.params.items()}}
    extra = state.extra
    if graft.extra:
        extra = {**state.extra, **{g: _placed(tree, state.extra[g]) for g, tree in graft.extra.items()}}
    average: Average | None = None if state.ema is None else training.first_average(game, params, extra)
    return state._replace(params=params, extra=extra, ema=average)


def _donor(donor: Donor) -> tuple[str, TrainState]:
    """(what it is called, its state)."""
    if isinstance(donor, TrainState):
        return "the given state", donor
    run = load_run(donor, "one" if jax.process_count() == 1 else "data")
    trained = bool(run.experiment.optimizers)
    check(
        trained, f"the run in {donor} was made in Python and keeps its sampler alone: start from its state, in Python"
    )
    return run.experiment.name, run.state


def _group(group: str, donor: Donor, shapes: TrainState) -> tuple[Tree, Tree]:
    """(parameters, part of extra or None) that a group begins with."""
    name, state = _donor(donor)
    params, extra = weights(state)
    wanted = shapes.params[group]
    named = _named(params, wanted)
    if _fits(named, wanted):
        own = shapes.extra.get(group) if isinstance(shapes.extra, Mapping) else None
        return named, _extra(_named(extra, own), group, shapes)
    check(group in params and _fits(params[group], wanted), _misfit(group, name, params, wanted))
    return params[group], _extra(extra.get(group) if isinstance(extra, Mapping) else None, group, shapes)


def _named(tree: Tree, wanted: Tree) -> Tree:
    """The parts of a dictionary that another one has, too; anything else as it is."""
    if not (isinstance(tree, Mapping) and isinstance(wanted, Mapping)):
        return tree
    return {name: part for name, part in tree.items() if name in wanted}


def _extra(extra: Tree, group: str, shapes: TrainState) -> Tree:
    own = shapes.extra.get(group) if isinstance(shapes.extra, Mapping) else None
    return extra if own is not None and extra is not None and _fits(extra, own) else None


def _fits(tree: Tree, wanted: Tree) -> bool:
    """Whether two trees have one structure and arrays of the same shapes and dtypes."""
    if jax.tree.structure(tree) != jax.tree.structure(wanted):
        return False
    pairs = zip(jax.tree.leaves(tree), jax.tree.leaves(wanted), strict=True)
    return all((a.shape, a.dtype) == (b.shape, b.dtype) for a, b in pairs)


def _misfit(group: str, name: str, params: Mapping[str, Tree], wanted: Tree) -> str:
    """What is there and what is needed, in one line: the first array that differs, or the groups."""
    start = f"the group {group} cannot begin with the run of {name}"
    whose = f"{name}'s group {group}" if group in params else f"{name}'s groups {_list(params)}"
    theirs, ours = _arrays(params.get(group, params)), _arrays(wanted)
    for path in sorted(set(theirs) | set(ours)):
        if theirs.get(path) != ours.get(path):
            there, here = theirs.get(path, "not there"), ours.get(path, "not there")
            return f"{start}: {path} is {there} in {whose}, {here} in {group}; give a run of the same networks"
    return f"{start}, which has {whose}; give a run of the same networks"


def _arrays(tree: Tree) -> dict[str, str]:
    named = jax.tree.leaves_with_path(tree)
    return {jax.tree_util.keystr(p, simple=True, separator="/"): f"{a.dtype}{list(a.shape)}" for p, a in named}


def _list(groups: Mapping[str, Tree]) -> str:
    return ", ".join(groups)


def _placed(tree: Tree, own: Tree) -> Tree:
    """A copy of `tree` where the arrays of `own` lie: the donor's arrays stay its own when these are donated."""
    return jax.tree.map(lambda a, b: jax.device_put(jnp.copy(a), b.sharding), tree, own)
