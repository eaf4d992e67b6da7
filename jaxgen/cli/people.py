"""Commands that ask people."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jaxgen.cli.asked import at_least, named, open_run, out_file
from jaxgen.cli.draw import sampler_of
from jaxgen.errors import check


def study(
    workdir: Path | None = None,
    /,
    *,
    out: str | None = None,
    pages: int = 8,
    per_page: int = 16,
    seed: int = 0,
    split: str = "test",
    condition: str | None = None,
    guidance: float | None = None,
    sampler: str | None = None,
    sampler_steps: int | None = None,
    batch: int = 64,
    ema: bool = True,
    results: tuple[str, ...] = (),
) -> None:
    """A page that mixes real and generated images and asks people which are generated; or what they answered.

    Args:
        workdir: the folder of a run
        out: a .html; WORKDIR/study.html by default
        pages: grids of images
        per_page: images of a grid
        seed: of the samples, of the real images and of the coins that mix them; another one for people who have seen
            a study of this data set
        split: of the data set, where the real images come from
        condition: a label, by number or by name, or attributes, separated by commas: only such images, of both kinds;
            by default the samples have the labels or attributes of the real images, or the halves of other ones
        guidance: classifier-free guidance scale
        sampler: ddim or ddpm, for a model that iterates
        sampler_steps: steps of that sampler
        batch: images a call, over all devices
        ema: use the averaged parameters
        results: files that the page has saved: they are pooled into one error rate, and no page is written
    """
    from jaxgen import study as studies

    if results:
        _tell(studies.read(results))
        return
    check(workdir is not None, "give the folder of a run, to write its study, or --results FILE ... to pool answers")
    assert workdir is not None
    at_least(1, pages=pages, per_page=per_page, batch=batch)
    at_least(0, seed=seed)
    file = out_file(out, workdir / "study.html", ".html")
    run, place = open_run(workdir)
    check(len(run.experiment.data.shape) == 3, f"{run.experiment.data.name} is of points: a study shows images")
    data = _such(run, split, condition)
    fakes = int(studies.toss(pages, per_page, seed).sum())
    reals, given = _chosen(run, data, pages * per_page - fakes, fakes, seed)
    options = {"guidance": guidance, "sampler": sampler_of(run, sampler, sampler_steps), "ema": ema, "batch": batch}
    x = _drawn(run, seed, fakes, given, sharding=place.rows, **options)
    asked = {"condition": condition, "guidance": guidance, "sampler": sampler, "sampler steps": sampler_steps}
    facts = {
        "run": workdir.resolve().name,
        "experiment": run.experiment.name,
        "step": run.step,
        "averaged parameters": ema and run.state.ema is not None,
        "real images": f"{data.name} {split}",
        **{name: value for name, value in asked.items() if value is not None},
    }
    print(studies.write(file, reals, x, per_page=per_page, pages=pages, seed=seed, facts=facts))
    print("Open it in a browser, on any computer; pool the files that it saves: jaxgen study --results FILE ...")


def _such(run: Any, split: str, condition: str | None) -> Any:
    """The data set's split; of it only the examples of the condition that the user named."""
    import numpy as np

    from jaxgen import data as sets
    from jaxgen.types import condition_of

    exp = run.experiment
    data = sets.other_split(exp.data, split)
    if condition is None:
        return data
    check(exp.model.condition is not None, "this run is unconditional: leave --condition out")
    wanted = named(exp.model, exp.data.classes, condition, 1)
    found = []
    for start in range(0, data.size, 1024):  # pictures that are read from storage need not be in memory at once
        rows = np.arange(start, min(start + 1024, data.size))
        own = np.asarray(condition_of(exp.model.condition, data.take(rows)))
        found.append(rows[(own == wanted).reshape(len(rows), -1).all(axis=1)])
    found = np.concatenate(found)
    check(len(found) > 0, f"{data.name} {split} has no image that is {condition!r}: give another --condition")
    return sets.subset(data, found)


def _chosen(run: Any, data: Any, reals: int, fakes: int, seed: int) -> tuple[Any, Any]:
    """(the real images, the conditions of the generated ones): those that the real ones have; but where images are
    the conditions, those of others, as long as there are any: else each image would stand beside its own half."""
    import jax
    import numpy as np

    from jaxgen.data.pipeline import normalize
    from jaxgen.types import condition_of

    check(
        reals <= data.size,
        f"this study shows {reals} real images, {data.name} {data.split} has {data.size}: give fewer --pages",
    )
    indices, model = np.random.default_rng([seed, 2]).permutation(data.size), run.experiment.model
    x = data.take(indices[:reals]).x
    if model.condition is None or fakes == 0:
        return x, None
    own = indices[:reals] if model.condition.kind != "image" and reals > 0 else np.roll(indices, -reals)
    batch = normalize(jax.tree.map(jax.numpy.asarray, data.take(np.resize(own, fakes))))
    return x, np.asarray(condition_of(model.condition, batch))


def _drawn(run: Any, seed: int, n: int, given: Any, **options: Any) -> Any:
    import jax
    import numpy as np

    import jaxgen

    if n == 0:
        return np.zeros((0, *run.experiment.data.shape), np.uint8)
    return np.asarray(jaxgen.sample(run.experiment.model, run.state, jax.random.key(seed), n, given, **options))


def _tell(summary: Any) -> None:
    """A table of a study's results."""
    about = f"{summary.title} ({', '.join(f'{name} {value}' for name, value in summary.facts.items())})"
    print("".join(c if c.isprintable() else " " for c in about))  # the files come from elsewhere
    names = [score.name for score in summary.people]
    width = max(len(name) for name in [*names, "all"])
    print(f"{'':{width}}  images  errors  error rate  95% interval    hit rate  false alarms  s an image")
    rows = summary.people if len(names) == 1 else [*summary.people, summary.whole]
    for score in rows:
        low, high = score.interval
        print(
            f"{score.name:{width}}  {score.images:6,}  {score.errors:6,}  {score.error_rate:10.1%}  "
            f"{low:6.1%} to {high:5.1%} {score.hit_rate:10.1%}  {score.false_alarm_rate:12.1%}  "
            f"{score.seconds / score.images:10.1f}"
        )
    print("50% is what guessing gives. The interval (Wilson) takes the answers for independent.")
