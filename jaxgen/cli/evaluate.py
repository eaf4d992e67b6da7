"""Commands that score generated images: `evaluate`, `nearest` and `compare`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Literal, NamedTuple

from jaxgen.cli.common import (
    SAMPLING,
    Flags,
    Sampling,
    at_least,
    check_drawn,
    command,
    named_condition,
    open_model,
    out_file,
    same_shape,
    test_split,
)
from jaxgen.errors import InputError, check, notice
from jaxgen.inputs import check_memory, is_folder, misfit, table

SAMPLES = 10_000


@command
def evaluate(
    workdir: Path | None = None,
    /,
    *,
    metrics: str | None = None,
    n: int | None = None,
    reals: str | None = None,
    fakes: str | None = None,
    held_out: str | None = None,
    references: int | None = None,
    extractor: str = "auto",
    weights: str | None = None,
    resize: Literal["tensorflow", "pytorch", "clean"] | None = None,
    lpips: Literal["alex", "vgg"] | None = None,
    epsilon: float = 1e-4,
    seed: int = 0,
    out: str | None = None,
    sampling: Flags = SAMPLING,
) -> None:
    """Score samples of a run, or any two sets of images, with the same score of held-out real images as a floor; the
    numbers and all that they depend on go to WORKDIR/evaluation.json. Samples have the conditions of the data by
    default.

    Args:
        workdir: the folder of a run; none to compare --reals and --fakes
        metrics: of fid, fid_infinity, kid, is, prdc, classes, copying, separated by commas; all that the extractor
            and the data allow but fid_infinity by default; of a run also likelihood, reconstruction, probe and ppl
        n: samples, 10,000 by default; without a run the first so many of the fakes, all by default
        reals: a folder, a .npz file or a data set as the reference set instead of the run's training data
        fakes: a folder or a .npz file instead of samples
        held_out: a folder, a .npz file or a data set (of which the test split) of real images that are not among the
            reals; the test split of the reals by default. Without any, the floor is that of two halves of the reals
        references: how many reference images, drawn by the seed; all by default. For other images than the run's give
            --reals
        extractor: inception, classifier (trained on the data set itself), classifier:NAME (on another), pixels; auto:
            the classifier for labelled grey images, else inception
        weights: the file of Inception's weights; JAXGEN_INCEPTION or the cache by default
        resize: what Inception's images are resized by: tensorflow, as in the original (by default), pytorch, as in
            pytorch-fid, clean, as in clean-fid
        lpips: the trunk of LPIPS, for reconstruction and ppl; its files from JAXGEN_ALEXNET and JAXGEN_LPIPS_ALEX (or
            VGG16 and VGG) or the cache; pixels' squared distance by default
        epsilon: the step of ppl's paths; larger in half precision
        seed: of samples and of everything that is drawn
        out: the .json file
    """
    from jaxgen.metrics import report

    at_least(1, batch=sampling.batch, n=n, references=references)
    file = out_file(out, (workdir or Path()) / "evaluation.json", ".json")
    check(
        workdir is not None or (reals is not None and fakes is not None),
        "evaluate what? Give the folder of a run, or two sets of images: --reals A --fakes B",
    )
    check(workdir is None or fakes is None, "give either the folder of a run or --fakes, not both")
    chosen = ", ".join(f"--{name}" for name in sampling.chosen()).replace("_", "-")
    check(workdir is not None or not chosen, f"{chosen}: only for samples of a run")
    names = _metrics(metrics)
    n = SAMPLES if n is None and workdir is not None else n
    request = _Request(n, references, seed, sampling, held_out, lpips, epsilon)
    sides = _of_files(str(reals), str(fakes), request) if workdir is None else _of_run(workdir, reals, request)
    found = _scored(sides, names, (extractor, weights, resize), request)
    print("\n".join([*report.headline(found.protocol), *report.table(found.scores)]))
    if workdir is not None or out is not None:
        print(report.add(file, found))


class _Request(NamedTuple):
    """The flags of an evaluation."""

    n: int | None
    references: int | None
    seed: int
    sampling: Sampling
    held_out: str | None
    lpips: str | None
    epsilon: float


class _Sides(NamedTuple):
    """reals, fakes, held_out: data sets, the last or None; protocol, cost: of the samples; trained: the model behind
    them, or None; sharding: of a call's images."""

    reals: Any
    fakes: Any
    held_out: Any
    protocol: dict[str, Any]
    cost: dict[str, Any]
    trained: Any = None
    sharding: Any = None


def _of_files(reals: str, fakes: str, request: _Request) -> _Sides:
    fake = images(fakes)
    fake = fake if request.n is None else fake._replace(size=min(request.n, fake.size))
    real = images(reals)
    protocol = {"fakes": f"{fake.size:,} images of {fake.name} {fake.split}"}
    return _Sides(real, fake, _held_out(real, request.held_out), protocol, {})


def _of_run(workdir: Path, reals: str | None, request: _Request) -> _Sides:
    from jaxgen.metrics.evaluation import samples
    from jaxgen.metrics.trained import Trained

    run, place = open_model(workdir)
    exp, flags, n = run.experiment, request.sampling, request.n or SAMPLES
    check(len(exp.data.shape) == 3, f"{workdir} draws points {exp.data.shape}, not images: it cannot be scored")
    check_memory(24 * n, f"the places and the conditions of {n:,} samples", "give a smaller --n")
    data = exp.data if reals is None else images(reals)
    test = test_split(exp.data) or (images(request.held_out, "test") if request.held_out else None)
    given = _in_turn(run, n) if flags.condition is None else named_condition(run, flags.condition, n)
    options = flags.options(run, place)
    drawn = samples(exp.model, run.state, exp.data, n, request.seed, given, **options)
    protocol = {"fakes": exp.name, "step": run.step, "ema": flags.ema, **flags.chosen()}
    own = (request.seed, flags.ema, perceptual(request.lpips, exp.data.shape), request.epsilon)
    test = None if test is None else same_shape(exp, test)
    trained = Trained(exp.model, run.state, exp.data, test, n, *own)
    cost = _cost(run, drawn, flags.batch, place.devices, options)
    return _Sides(data, drawn, _held_out(data, request.held_out), protocol, cost, trained, place.rows)


def _in_turn(run: Any, n: int) -> Any:
    """None: the conditions of the data. Where these cannot be read any more, every value of the condition in turn."""
    import numpy as np

    conditioner = run.experiment.model.condition
    if conditioner is None or not conditioner.values:
        return None
    try:
        run.experiment.data.take(np.zeros(1, np.int64))
    except InputError as error:
        notice(f"jaxgen: note: {error}; samples take every condition in turn")
        return conditioner.given(n, np.arange(n) % conditioner.values)
    return None


def perceptual(net: str | None, shape: tuple[int, ...]) -> Any:
    """(name, distance), for images as large as the trunk needs them."""
    if net is None:
        return None
    from jaxgen.metrics import weights
    from jaxgen.metrics.lpips import lpips
    from jaxgen.nets.lpips import least_size

    size = 64 if min(shape[:2]) < least_size(net) else None  # its weights were fitted at 64 pixels
    trunk = {"alex": "alexnet", "vgg": "vgg16"}[net]
    files = [weights.load(name).tensors for name in (trunk, f"lpips-{net}")]
    return f"LPIPS ({net}{', enlarged to 64' if size else ''})", lpips(*files, net=net, size=size)


def _cost(run: Any, drawn: Any, batch: int, devices: int, options: dict[str, Any]) -> dict[str, Any]:
    """Of one sample: network evaluations, and time in a call of `batch` that is compiled already."""
    import numpy as np

    from jaxgen import sampling
    from jaxgen.nets.network import parameter_count

    size = -(-min(batch, drawn.size) // devices) * devices
    index = np.minimum(np.arange(size), drawn.size - 1)
    drawn.take(index)
    began = time.perf_counter()
    drawn.take(index)
    seconds = (time.perf_counter() - began) / size
    return {
        "network_evaluations": sampling.evaluations(run.experiment.model, run.state, **options),
        "seconds_a_sample": float(f"{seconds:.3g}"),
        "batch": size,
        "parameters": {player: parameter_count(tree) for player, tree in run.state.params.items()},
    }


def _scored(
    sides: _Sides, names: list[str] | None, extractor: tuple[str, str | None, str | None], request: _Request
) -> Any:
    """An `evaluation.Evaluation` of the metrics of those names, by default of all that extractor and data allow."""
    from jaxgen.metrics import evaluation

    of_model = names is not None and all(evaluation.MODEL in evaluation.METRICS[name].needs for name in names)
    chosen = None if of_model else evaluation.extractor_for(extractor[0], sides.reals, *extractor[1:])
    found = evaluation.evaluate(
        sides.reals,
        sides.fakes,
        chosen,
        names,
        held_out=sides.held_out,
        trained=sides.trained,
        references=request.references,
        seed=request.seed,
        batch=request.sampling.batch,
        sharding=sides.sharding,
    )
    return found._replace(protocol={**found.protocol, **sides.protocol}, cost=sides.cost)


def _metrics(metrics: str | None) -> list[str] | None:
    from jaxgen.metrics.evaluation import METRICS

    if metrics is None:
        return None
    names = [word.strip() for word in metrics.split(",")]
    unknown = [name for name in names if name not in METRICS]
    check(not unknown, f"unknown metric {', '.join(unknown)!r}: choose of {', '.join(METRICS)}")
    return names


def images(name: str, split: str = "train") -> Any:
    """All images of a folder or a .npz file, or that split of a data set by its name."""
    from jaxgen import data as sets

    if is_folder(name):
        return sets.load(f"folder:{name}", "all", size=None, channels=None, labels=False)
    return sets.load(name, "all" if name.endswith(".npz") else split)


def _held_out(data: Any, name: str | None) -> Any:
    """The held-out images of that name, by default the test split of a data set whose training split is the reference
    set; None where there are none."""
    if name is not None:
        return images(name, "test")
    return test_split(data) if data.split == "train" else None


@command
def nearest(
    workdir: Path,
    /,
    *,
    n: int = 10,
    neighbours: int = 9,
    extractor: str = "auto",
    weights: str | None = None,
    seed: int = 0,
    out: str | None = None,
    sampling: Flags = SAMPLING,
) -> None:
    """A picture of samples, each with its nearest training images in an extractor's features to its right: are they
    copies? `jaxgen evaluate --metrics copying` measures how often. Samples have the conditions of the data by default.

    Args:
        workdir: the folder of a run
        n: samples, a row each
        neighbours: training images of a row
        extractor: as in jaxgen evaluate
        weights: the file of Inception's weights
        seed: of the samples
        out: a .png; WORKDIR/nearest.png by default
    """
    import numpy as np

    from jaxgen import viz
    from jaxgen.data import in_memory
    from jaxgen.metrics.evaluation import extractor_for, samples
    from jaxgen.metrics.features import extract, pieces
    from jaxgen.metrics.neighbours import nearest as find

    at_least(1, n=n, neighbours=neighbours, batch=sampling.batch)
    file = out_file(out, workdir / "nearest.png", ".png")
    run, place = open_model(workdir)
    check_drawn(run, file, n * (1 + neighbours))
    data = run.experiment.data
    chosen = extractor_for(extractor, data, weights)
    given = None if sampling.condition is None else named_condition(run, sampling.condition, n)
    fakes = samples(run.experiment.model, run.state, data, n, seed, given, **sampling.options(run, place))
    options = {"batch": sampling.batch, "sharding": place.rows}
    shown = next(pieces(fakes, np.arange(n), place.devices * -(-n // place.devices)))[:n]
    reals = extract(chosen, data, keep=True, **options).vectors
    index, _ = find(reals, extract(chosen, in_memory("samples", "shown", shown), **options).vectors, neighbours)
    x = next(pieces(data, index.ravel(), index.size))
    print(viz.save_picture(file, viz.beside([shown], x), 1 + neighbours))


@command
def compare(runs: tuple[Path, ...], /, *, metric: str = "fid", out: str = "comparison.png") -> None:
    """Evaluated runs in one table and one figure: score against training time and against network evaluations a sample.

    Args:
        runs: folders of runs that `jaxgen evaluate` has scored the same way; several evaluations of one are several
            points
        metric: the score that is drawn
        out: a .png; the table goes beside it as .csv
    """
    from jaxgen import records, viz
    from jaxgen.metrics import report

    check(len(runs) >= 1, "compare which runs? Give their folders: jaxgen compare runs/a runs/b")
    file = out_file(out, Path(out), ".png")
    rows, points, curves = [], {}, {}
    evaluations = {run: _with(run, metric) for run in runs}
    report.comparable([e for found in evaluations.values() for e in found])
    for run, found in evaluations.items():
        written = records.read(run)
        curves[run.name] = [(r["seconds"], r[f"score/{metric}"]) for r in written if f"score/{metric}" in r]
        for e in found:
            point = _Point(run.name, e, _seconds(written, e.protocol["step"]), e.scores[metric])
            points.setdefault(run.name, []).append(point)
            rows.append(point.row())
    first = next(iter(evaluations.values()))[0].protocol
    print(
        f"{first.get('extractor', 'the model')}: {first['samples']:,} samples against {first.get('reals', 'nothing')}"
    )
    names = _Point.columns(metric)
    print("\n".join(report.columns([names, *rows])))
    print(viz.save_table(file.with_suffix(".csv"), [names, *rows]))
    print(viz.save_panels(file, _panels(metric, points, curves)))


class _Point(NamedTuple):
    """One evaluation of a run."""

    run: str
    evaluation: Any
    seconds: float
    score: Any

    @staticmethod
    def columns(metric: str) -> tuple[str, ...]:
        about = ("run", "step", "training", "parameters", "evaluations", "a sample")
        return (*about, metric, "real images", "at their number", *_OTHERS)

    def row(self) -> tuple[str, ...]:
        from jaxgen.metrics.report import at_their_number, floor, number

        e = self.evaluation
        others = [number(e.scores[name].estimate) if name in e.scores else "" for name in _OTHERS]
        size = sum(e.cost["parameters"].values())
        return (
            self.run,
            str(e.protocol["step"]),
            f"{self.seconds:.0f} s",
            f"{size:,}",
            str(e.cost["network_evaluations"]),
            f"{1000 * e.cost['seconds_a_sample']:.3g} ms",
            number(self.score.estimate),
            floor(self.score),
            at_their_number(self.score),
            *others,
        )


_OTHERS = ("precision", "recall", "coverage", "copying")


def _with(run: Path, metric: str) -> list:
    """The evaluations of a run that have the metric."""
    from jaxgen.metrics import report

    check(is_folder(run), f"no folder {run}: give the folders of runs")
    found = [e for e in report.read(run / "evaluation.json") if metric in e.scores and "step" in e.protocol]
    check(bool(found), f"{run} has no {metric} yet: jaxgen evaluate {run} first")
    wrong = next((w for e in found if (w := misfit({**e.protocol, **e.cost}, _COMPARED))), "")
    check(not wrong, f"{run}'s evaluation is damaged ({wrong}): jaxgen evaluate {run} again, into a new file")
    return found


_COMPARED = {
    "step": int,
    "samples": int,
    "parameters": table(int),
    "network_evaluations": float,
    "seconds_a_sample": float,
}


def _seconds(written: list[dict], step: int) -> float:
    """How long a run had trained at a step."""
    return max((r["seconds"] for r in written if r["step"] <= step), default=float("nan"))


def _panels(metric: str, points: dict[str, list[_Point]], curves: dict[str, list]) -> list:
    from jaxgen.viz import Curve, Panel

    everything = [p for each in points.values() for p in each]
    real = next((p.score for p in everything if p.score.floor is not None), None)
    floor = None if real is None else (f"real images ({real.floor_images:,})", real.floor.value)

    def drawn(x: Any) -> list:
        return [
            Curve(name, [(x(p), p.score.value, p.score.estimate.error) for p in each]) for name, each in points.items()
        ]

    thin = [Curve(name, [(x, y, 0.0) for x, y in each], thin=True) for name, each in curves.items() if each]
    return [
        Panel("training time, s (thin: scores while training)", metric, drawn(lambda p: p.seconds) + thin, floor),
        Panel("network evaluations a sample", metric, drawn(lambda p: p.evaluation.cost["network_evaluations"]), floor),
    ]
