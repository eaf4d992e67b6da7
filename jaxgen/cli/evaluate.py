"""Commands that score generated images: `evaluate` and `compare`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Literal, NamedTuple

from jaxgen.cli.asked import at_least, named, open_run, out_file
from jaxgen.cli.draw import sampler_of
from jaxgen.errors import check

SAMPLES = 10_000


def evaluate(
    workdir: Path | None = None,
    /,
    *,
    metrics: str | None = None,
    n: int | None = None,
    reals: str | None = None,
    fakes: str | None = None,
    references: int | None = None,
    extractor: str = "auto",
    weights: str | None = None,
    resize: Literal["tensorflow", "pytorch", "clean"] | None = None,
    lpips: Literal["alex", "vgg"] | None = None,
    epsilon: float = 1e-4,
    condition: str | None = None,
    guidance: float | None = None,
    sampler: str | None = None,
    sampler_steps: int | None = None,
    seed: int = 0,
    batch: int = 64,
    ema: bool = True,
    out: str | None = None,
) -> None:
    """Score samples of a run, or any two sets of images, beside what real images score at that number; the numbers and
    all that they depend on go to WORKDIR/evaluation.json.

    Args:
        workdir: the folder of a run; none to compare --reals and --fakes
        metrics: of fid, fid_infinity, kid, is, prdc, classes, copying, separated by commas; all that the extractor
            allows but fid_infinity by default; of a run also likelihood, reconstruction, probe and ppl
        n: samples, 10,000 by default; without a run the first so many of the fakes, all by default
        reals: a folder, a .npz file or a data set instead of what the run was trained on
        fakes: a folder or a .npz file instead of samples
        references: reference images; all by default
        extractor: inception, classifier (trained on the data set itself), classifier:NAME (on another), pixels; auto:
            the classifier for labelled grey images, else inception
        weights: the file of Inception's weights; JAXGEN_INCEPTION or the cache by default
        resize: what Inception's images are resized by: tensorflow, as in the original (by default), pytorch, as in
            pytorch-fid, clean, as in clean-fid
        lpips: the trunk of LPIPS, for reconstruction and ppl; its files from JAXGEN_ALEXNET and JAXGEN_LPIPS_ALEX (or
            VGG16 and VGG) or the cache; pixels' squared distance by default
        epsilon: the step of ppl's paths; larger in half precision
        condition: a label for all samples; those of the data by default
        guidance: classifier-free guidance scale
        sampler: ddim or ddpm, for a model that iterates
        sampler_steps: steps of that sampler
        seed: of samples and of everything that is drawn
        batch: images a call, over all devices
        ema: use the averaged parameters
        out: the .json file
    """
    at_least(1, batch=batch, **{k: v for k, v in {"n": n, "references": references}.items() if v is not None})
    file = out_file(out, (workdir or Path()) / "evaluation.json", ".json")
    check(
        workdir is not None or (reals is not None and fakes is not None),
        "evaluate what? Give the folder of a run, or two sets of images: --reals A --fakes B",
    )
    check(workdir is None or fakes is None, "give either the folder of a run or --fakes, not both")
    options = {"condition": condition, "guidance": guidance, "sampler": sampler, "sampler_steps": sampler_steps}
    given = {name: value for name, value in options.items() if value is not None}
    check(workdir is not None or not given, f"--{', --'.join(given)}: only for samples of a run".replace("_", "-"))
    chosen = _metrics(metrics, of_run=workdir is not None)
    ask = _Ask(SAMPLES if n is None and workdir is not None else n, references, seed, batch, ema, given, lpips, epsilon)
    sides = _of_files(str(reals), str(fakes), ask) if workdir is None else _of_run(workdir, reals, ask)
    found = _scored(sides, chosen, (extractor, weights, resize), ask)
    print("\n".join(_told(found)))
    if workdir is not None or out is not None:
        from jaxgen.metrics import report

        print(report.add(file, found))


class _Ask(NamedTuple):
    """What was asked for; given: of the samples."""

    n: Any
    references: int | None
    seed: int
    batch: int
    ema: bool
    given: dict[str, Any]
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


def _of_files(reals: str, fakes: str, ask: _Ask) -> _Sides:
    fake = images(fakes)
    fake = fake if ask.n is None else fake._replace(size=min(ask.n, fake.size))
    real = images(reals)
    return _Sides(real, fake, _held_out(real), {"fakes": f"{fake.size:,} images of {fake.name} {fake.split}"}, {})


def _of_run(workdir: Path, reals: str | None, ask: _Ask) -> _Sides:
    from jaxgen.metrics.evaluation import samples
    from jaxgen.metrics.trained import Trained

    run, place = open_run(workdir)
    exp, given = run.experiment, ask.given
    check(len(exp.data.shape) == 3, f"{workdir} draws points {exp.data.shape}, not images: there is nothing to see")
    data = exp.data if reals is None else images(reals)
    held_out = _held_out(data)
    sampler = sampler_of(run, given.get("sampler"), given.get("sampler_steps"))
    options = {"sampler": sampler, "guidance": given.get("guidance")}
    told = None if "condition" not in given else named(exp.model, exp.data.classes, given["condition"], ask.n)
    where = {"ema": ask.ema, "sharding": place.rows}
    drawn = samples(exp.model, run.state, exp.data, ask.n, ask.seed, told, **where, **options)
    protocol = {"fakes": exp.name, "step": run.step, "ema": ask.ema, **given}
    seen = (ask.seed, ask.ema, _lpips(ask.lpips, exp.data.shape), ask.epsilon)
    trained = Trained(exp.model, run.state, exp.data, _held_out(exp.data) or exp.data, ask.n, *seen)
    cost = _cost(run, drawn, ask.batch, place.devices, options)
    return _Sides(data, drawn, held_out, protocol, cost, trained, place.rows)


def _lpips(net: str | None, shape: tuple[int, ...]) -> Any:
    """(name, distance), for images as large as the trunk needs them."""
    if net is None:
        return None
    from jaxgen.losses.perceptual import lpips
    from jaxgen.metrics import weights
    from jaxgen.nets.lpips import least_size

    size = 64 if min(shape[:2]) < least_size(net) else None  # its weights were fitted at 64 pixels
    trunk = {"alex": "alexnet", "vgg": "vgg16"}[net]
    files = [weights.load(name).tensors for name in (trunk, f"lpips-{net}")]
    return f"LPIPS ({net}{', enlarged to 64' if size else ''})", lpips(*files, net=net, size=size)


def _cost(run: Any, drawn: Any, batch: int, devices: int, options: dict) -> dict[str, Any]:
    """What a sample takes: evaluations of the network, and time in a call of `batch` that is compiled already."""
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


def _scored(sides: _Sides, chosen: list[str] | None, eyes_of: tuple[str, str | None, str | None], ask: _Ask) -> Any:
    """An `evaluation.Evaluation` of the chosen metrics; of all, as far as the extractor allows, where none is."""
    from jaxgen.metrics import evaluation, trained

    looks = [name for name in chosen or () if name in trained.LOOKS]
    scores = trained.look(sides.trained, looks) if looks else {}
    found = evaluation.Evaluation({}, {"reals": sides.reals.name, "samples": ask.n, "seed": ask.seed})
    if chosen is None or len(looks) < len(chosen):
        chosen = None if chosen is None else [name for name in chosen if name not in looks]
        eyes = evaluation.extractor_for(eyes_of[0], sides.reals, *eyes_of[1:])
        options = {"seed": ask.seed, "batch": ask.batch, "sharding": sides.sharding, "references": ask.references}
        found = evaluation.evaluate(sides.reals, sides.fakes, eyes, chosen, held_out=sides.held_out, **options)
    return evaluation.Evaluation({**found.scores, **scores}, {**found.protocol, **sides.protocol}, sides.cost)


def _told(found: Any) -> list[str]:
    from jaxgen.metrics import report

    p = found.protocol
    what = f"{p['samples']:,} samples of {p['fakes']}, step {p['step']}," if "step" in p else p["fakes"]
    return [f"{p.get('extractor', 'the model itself')}: {what} against {p['reals']}", *report.table(found.scores)]


def _metrics(metrics: str | None, of_run: bool) -> list[str] | None:
    from jaxgen.metrics.evaluation import METRICS
    from jaxgen.metrics.trained import LOOKS

    if metrics is None:
        return None
    chosen, known = [word.strip() for word in metrics.split(",")], [*METRICS, *(LOOKS if of_run else ())]
    unknown = [word for word in chosen if word not in known]
    check(not unknown, f"unknown metric {', '.join(unknown)!r}: choose of {', '.join(known)}")
    return chosen


def images(name: str) -> Any:
    """A folder, a .npz file or a data set by its name, all images of it, as they are."""
    from jaxgen import data as sets

    if Path(name).is_dir():
        return sets.load(f"folder:{name}", "all", size=None, channels=None, labels=False)
    return sets.load(name, "all" if name.endswith(".npz") else "train")


def _held_out(data: Any) -> Any:
    """The test split of a data set whose training split is the reference, or None where there is none."""
    from jaxgen import data as sets
    from jaxgen.errors import InputError

    if data.split != "train":
        return None
    try:
        return sets.other_split(data, "test")
    except InputError:
        return None


def nearest(
    workdir: Path,
    /,
    *,
    n: int = 10,
    neighbours: int = 9,
    extractor: str = "auto",
    weights: str | None = None,
    seed: int = 0,
    batch: int = 64,
    ema: bool = True,
    out: str | None = None,
) -> None:
    """A picture of samples, each with the training images that are nearest to it in an extractor's codes to its right:
    are they copies? `jaxgen evaluate --metrics copying` says how often.

    Args:
        workdir: the folder of a run
        n: samples, a row each
        neighbours: training images of a row
        extractor: as in jaxgen evaluate
        weights: the file of Inception's weights
        seed: of the samples
        batch: images a call, over all devices
        ema: use the averaged parameters
        out: a .png; WORKDIR/nearest.png by default
    """
    import numpy as np

    from jaxgen import viz
    from jaxgen.data import in_memory
    from jaxgen.metrics.evaluation import extractor_for, samples
    from jaxgen.metrics.features import extract, pieces
    from jaxgen.metrics.neighbours import nearest as find

    at_least(1, n=n, neighbours=neighbours, batch=batch)
    file = out_file(out, workdir / "nearest.png", ".png")
    run, place = open_run(workdir)
    data = run.experiment.data
    eyes = extractor_for(extractor, data, weights)
    fakes = samples(run.experiment.model, run.state, data, n, seed, ema=ema, sharding=place.rows)
    see = {"batch": batch, "sharding": place.rows}
    shown = next(pieces(fakes, np.arange(n), place.devices * -(-n // place.devices)))[:n]
    reals, drawn = extract(eyes, data, keep=True, **see), extract(eyes, in_memory("samples", "shown", shown), **see)
    index, _ = find(reals.codes, drawn.codes, neighbours)
    x = next(pieces(data, index.ravel(), index.size))
    print(viz.save_picture(file, viz.beside([shown], x), 1 + neighbours))


def compare(runs: tuple[Path, ...], /, *, metric: str = "fid", out: str = "comparison.png") -> None:
    """Evaluated runs in one table and one figure: score against training time and against network evaluations a sample.

    Args:
        runs: folders of runs that `jaxgen evaluate` has scored alike; several evaluations of one are several points
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
        seen = records.read(run)
        curves[run.name] = [(r["seconds"], r[f"score/{metric}"]) for r in seen if f"score/{metric}" in r]
        for e in found:
            point = _Point(run.name, e, _seconds(seen, e.protocol["step"]), e.scores[metric])
            points.setdefault(run.name, []).append(point)
            rows.append(point.row())
    first = next(iter(evaluations.values()))[0]
    print(f"{first.protocol['extractor']}: {first.protocol['samples']:,} samples against {first.protocol['reals']}")
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
        return ("run", "step", "training", "parameters", "evaluations", "a sample", metric, "real images", *_OTHERS)

    def row(self) -> tuple[str, ...]:
        from jaxgen.metrics.report import number

        e, s = self.evaluation, self.score
        floor = "" if s.floor is None else f"{number(s.floor, s.floor_error)} ({s.floor_images:,})"
        others = [number(e.scores[n].value, e.scores[n].error) if n in e.scores else "" for n in _OTHERS]
        size = sum(e.cost["parameters"].values())
        cost = (f"{size:,}", str(e.cost["network_evaluations"]), f"{1000 * e.cost['seconds_a_sample']:.3g} ms")
        return (
            self.run,
            str(e.protocol["step"]),
            f"{self.seconds:.0f} s",
            *cost,
            number(s.value, s.error),
            floor,
            *others,
        )


_OTHERS = ("precision", "recall", "coverage", "copying")


def _with(run: Path, metric: str) -> list:
    """The evaluations of a run that have the metric."""
    from jaxgen.metrics import report

    check(run.is_dir(), f"no folder {run}: give the folders of runs")
    found = [e for e in report.read(run / "evaluation.json") if metric in e.scores and "step" in e.protocol]
    check(bool(found), f"{run} has no {metric} yet: jaxgen evaluate {run} first")
    return found


def _seconds(seen: list[dict], step: int) -> float:
    """How long a run had trained at a step."""
    return max((r["seconds"] for r in seen if r["step"] <= step), default=float("nan"))


def _panels(metric: str, points: dict[str, list[_Point]], curves: dict[str, list]) -> list:
    from jaxgen.viz import Curve, Panel

    everything = [p for each in points.values() for p in each]
    real = next((p.score for p in everything if p.score.floor is not None), None)
    floor = None if real is None else (f"real images ({real.floor_images:,})", real.floor)

    def drawn(x: Any) -> list:
        return [Curve(name, [(x(p), p.score.value, p.score.error) for p in each]) for name, each in points.items()]

    thin = [Curve(name, [(x, y, 0.0) for x, y in each], thin=True) for name, each in curves.items() if each]
    return [
        Panel("training time, s (thin: scores while training)", metric, drawn(lambda p: p.seconds) + thin, floor),
        Panel("network evaluations a sample", metric, drawn(lambda p: p.evaluation.cost["network_evaluations"]), floor),
    ]
