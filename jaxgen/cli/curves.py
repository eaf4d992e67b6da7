"""Commands that draw how something went: the records of training, and the way between an image and noise."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from jaxgen.cli.common import (
    SAMPLING,
    Flags,
    at_least,
    check_drawn,
    command,
    conditions,
    held_out,
    open_model,
    out_file,
)
from jaxgen.errors import check
from jaxgen.inputs import is_folder

MOST_PANELS = 24


@command
def plot(
    runs: tuple[Path, ...], /, *, metrics: str | None = None, seconds: bool = False, out: str | None = None
) -> None:
    """The curves of runs' records, a panel a number and a line a run: losses, and whatever else was recorded.

    Args:
        runs: folders of runs
        metrics: of the recorded numbers, separated by commas; all by default
        seconds: over the time of training instead of the steps
        out: a .png; curves.png in the folder of the run, or here for several
    """
    from jaxgen import viz

    check(len(runs) >= 1, "plot which runs? Give their folders: jaxgen plot runs/a runs/b")
    file = out_file(out, (runs[0] if len(runs) == 1 else Path()) / "curves.png", ".png")
    written = {run: _records(run) for run in runs}
    everything = dict.fromkeys(name for found in written.values() for record in found for name in record)
    names = [name for name in everything if name not in ("step", "seconds")]
    if metrics is not None:
        wanted = [word.strip() for word in metrics.split(",")]
        unknown = [name for name in wanted if name not in names]
        check(not unknown, f"--metrics {', '.join(unknown)}: recorded were {', '.join(names)}")
        names = wanted
    names = sorted(names, key=lambda name: (not name.endswith("/loss"), name == "images_per_second"))[:MOST_PANELS]
    x = "seconds" if seconds else "step"

    def curve(run: Path, name: str) -> Any:
        points = [(r[x], r[name], 0.0) for r in written[run] if name in r]
        return viz.Curve(str(run) if len(runs) > 1 else run.name, points, thin=True)

    def panel(name: str) -> Any:
        return viz.Panel(x, name, [curve(run, name) for run in runs if any(name in r for r in written[run])], log="")

    panels = [panel(name) for name in names]
    print(viz.save_panels(file, panels))


def _records(run: Path) -> list[dict]:
    from jaxgen import records

    check(is_folder(run), f"no folder {run}: give the folders of runs")
    found = records.read(run)
    check(bool(found), f"{run} has no records yet: train it first")
    return found


@command
def trajectory(
    workdir: Path,
    /,
    *,
    n: int = 4,
    frames: int = 10,
    out: str | None = None,
    seed: int = 0,
    sampling: Flags = SAMPLING,
) -> None:
    """Held-out images on their way to noise, and below each what the sampler makes of that noise, both from left to
    right: a strip and, beside it, a moving .gif. Of a model of codes the decoded codes are shown.

    Args:
        workdir: the folder of a run of a model that iterates
        n: how many images
        frames: of each way
        out: a .png; WORKDIR/trajectory.png by default
        seed: of the noise
    """
    import numpy as np

    from jaxgen import viz

    at_least(1, n=n)
    at_least(2, frames=frames)
    file = out_file(out, workdir / "trajectory.png", ".png")
    run, _ = open_model(workdir)
    iterates = run.experiment.model.process is not None
    check(iterates, f"the run in {workdir} draws its samples in one step: there is no way to draw")
    check(len(run.experiment.data.shape) == 3, f"the run in {workdir} draws points: a strip is of images")
    check_drawn(run, file, 2 * n * frames)
    given = conditions(run, sampling.condition, n)
    way = _Way(run, held_out(run, n)[0], given, frames, seed, sampling)
    there, begun = way.there()
    images = np.stack([there, way.back(begun)], axis=1)  # [frames, 2, n, ...]
    strip = images.transpose(2, 1, 0, 3, 4, 5).reshape(-1, *images.shape[3:])
    print(viz.save_picture(file, strip, frames))
    film = [viz.grid(each, n) for each in (*images[:, 0], *images[1:, 1])]
    print(viz.save_film(file.with_suffix(".gif"), film))


class _Way(NamedTuple):
    """Between images x [n, ...] and noise, as so many frames."""

    run: Any
    x: Any
    given: Any
    frames: int
    seed: int
    sampling: Any

    def there(self) -> tuple[Any, Any]:
        """([frames, n, ...], x_1): one noise in growing amounts in each image, or in its code."""
        import jax.numpy as jnp
        import numpy as np

        from jaxgen.processes import diffuse
        from jaxgen.types import normal, weights

        model = self.run.experiment.model
        trained = weights(self.run.state, self.sampling.ema)
        x0 = self.x if model.encode is None else model.encode(*trained, self.x, self.given)
        eps = normal(self._keys(), x0.shape[1:])
        way = [(diffuse(model.process, x0, eps, t), t) for t in jnp.linspace(0.0, 1.0, self.frames)]
        return np.stack([self._shown(*each) for each in way]), way[-1][0]

    def back(self, begun: Any) -> Any:
        """[frames, n, ...]: the sampler on its way from x_1, stopped after 0, ..., all of its steps."""
        import numpy as np

        import jaxgen
        from jaxgen.sampling import stopped
        from jaxgen.types import as_is

        model, options = self.run.experiment.model, self.sampling.options(self.run)
        sampler, bare = options.pop("sampler") or model.sampler, model._replace(decode=as_is)
        times, found = sampler.args[1], []
        for k in np.linspace(0, int(times.count), self.frames).round().astype(int):
            how = {"sampler": stopped(sampler, int(k)), **options}
            x = jaxgen.generate(bare, self.run.state, self._keys(), begun, self.given, **how)
            found.append(self._shown(x, times.grid[k]))
        return np.stack(found)

    def _keys(self) -> Any:
        import jax

        return jax.random.split(jax.random.key(self.seed), len(self.x))

    def _shown(self, x_t: Any, t: Any) -> Any:
        """The image of x_t, brought to the scale of the data: (alpha^2 + sigma^2)^(-1/2) x_t."""
        import jax
        import jax.numpy as jnp
        import numpy as np

        from jaxgen.types import weights

        model = self.run.experiment.model
        scale = jax.lax.rsqrt(jnp.square(model.process.alpha(t)) + jnp.square(model.process.sigma(t)))
        decode = jax.jit(model.decode)
        trained = weights(self.run.state, self.sampling.ema)
        return np.asarray(decode(*trained, self._keys(), x_t * scale, self.given))
