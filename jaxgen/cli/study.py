"""`jaxgen study`: a human evaluation of samples, and its results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jaxgen.cli.common import SAMPLING, Flags, at_least, check_drawn, command, named_condition, open_model, out_file
from jaxgen.errors import check


@command
def study(
    workdir: Path | None = None,
    /,
    *,
    out: str | None = None,
    pages: int = 8,
    per_page: int = 16,
    seed: int = 0,
    split: str = "test",
    results: tuple[str, ...] = (),
    sampling: Flags = SAMPLING,
) -> None:
    """A page that mixes real and generated images and has participants mark the generated ones; or their results.
    With --condition, both kinds are only such images; by default the samples have the conditions of the real images,
    and those of other ones where the conditions are made of the images.

    Args:
        workdir: the folder of a run
        out: a .html; WORKDIR/study.html by default
        pages: grids of images
        per_page: images of a grid
        seed: of the samples, of the real images and of the coins that mix them; another one for participants of an
            earlier study of this data set
        split: of the data set, where the real images come from
        results: files that the page has saved: they are pooled into one error rate, and no page is written
    """
    from jaxgen import study as studies

    if results:
        _print_summary(studies.read(results))
        return
    check(workdir is not None, "give the folder of a run, to write its study, or --results FILE ... to pool answers")
    assert workdir is not None
    at_least(1, pages=pages, per_page=per_page, batch=sampling.batch)
    at_least(0, seed=seed)
    file = out_file(out, workdir / "study.html", ".html")
    run, place = open_model(workdir)
    check(len(run.experiment.data.shape) == 3, f"{run.experiment.data.name} is of points: a study shows images")
    check_drawn(run, file, pages * per_page)
    data = _with_condition(run, split, sampling.condition)
    fakes = int(studies.toss(pages, per_page, seed).sum())
    reals, given = _chosen(run, data, pages * per_page - fakes, fakes, seed)
    x = _drawn(run, seed, fakes, given, **sampling.options(run, place))
    facts = {
        "run": workdir.resolve().name,
        "experiment": run.experiment.name,
        "step": run.step,
        "averaged parameters": sampling.ema and run.state.ema is not None,
        "real images": f"{data.name} {split}",
        **{name.replace("_", " "): value for name, value in sampling.chosen().items()},
    }
    print(studies.write(file, reals, x, per_page=per_page, pages=pages, seed=seed, facts=facts))
    print("Open it in a browser, on any computer; pool the files that it saves: jaxgen study --results FILE ...")


def _with_condition(run: Any, split: str, condition: str | None) -> Any:
    """The data set's split; with a condition only the examples of it."""
    import jax
    import numpy as np

    from jaxgen import data as sets
    from jaxgen.metrics.pieces import conditions_at

    exp = run.experiment
    data = sets.other_split(exp.data, split)
    if condition is None:
        return data
    wanted = named_condition(run, condition, 1)
    own = conditions_at(exp.model.condition, data, np.arange(data.size))
    same = jax.tree.map(lambda a, b: (a == np.asarray(b)).reshape(data.size, -1).all(axis=1), own, wanted)
    found = np.flatnonzero(np.all(jax.tree.leaves(same), axis=0))
    check(len(found) > 0, f"{data.name} {split} has no image that is {condition!r}: give another --condition")
    return sets.subset(data, found)


def _chosen(run: Any, data: Any, reals: int, fakes: int, seed: int) -> tuple[Any, Any]:
    """(the real images, the conditions of the generated ones): those of the real ones; or those of others, as far as
    there are any, where conditions are made of images: else each sample would be the completion of an image shown."""
    import numpy as np

    from jaxgen.metrics.pieces import conditions_at

    check(
        reals <= data.size,
        f"this study shows {reals} real images, {data.name} {data.split} has {data.size}: give fewer --pages",
    )
    indices, model = np.random.default_rng([seed, 2]).permutation(data.size), run.experiment.model
    x = data.take(indices[:reals]).x
    if model.condition is None or fakes == 0:
        return x, None
    own = np.roll(indices, -reals) if model.condition.derived or reals == 0 else indices[:reals]
    return x, conditions_at(model.condition, data, np.resize(own, fakes))


def _drawn(run: Any, seed: int, n: int, given: Any, **options: Any) -> Any:
    import jax
    import numpy as np

    import jaxgen

    if n == 0:
        return np.zeros((0, *run.experiment.data.shape), np.uint8)
    return np.asarray(jaxgen.sample(run.experiment.model, run.state, jax.random.key(seed), n, given, **options))


def _print_summary(summary: Any) -> None:
    """A table of a study's results."""
    about = f"{summary.title} ({', '.join(f'{name} {value}' for name, value in summary.facts.items())})"
    print("".join(c if c.isprintable() else " " for c in about))  # the files come from elsewhere
    names = [score.name for score in summary.participants]
    width = max(len(name) for name in [*names, "all"])
    print(f"{'':{width}}  images  errors  error rate  95% interval    hit rate  false alarms  s an image")
    rows = summary.participants if len(names) == 1 else [*summary.participants, summary.pooled]
    for score in rows:
        low, high = score.interval
        print(
            f"{score.name:{width}}  {score.images:6,}  {score.errors:6,}  {score.error_rate:10.1%}  "
            f"{low:6.1%} to {high:5.1%} {score.hit_rate:10.1%}  {score.false_alarm_rate:12.1%}  "
            f"{score.seconds / score.images:10.1f}"
        )
    print("Guessing gives 50%. The interval (Wilson) takes the answers for independent.")
