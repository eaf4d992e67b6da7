"""The command line: thin functions over the library, one a command."""

from __future__ import annotations

import difflib
import os
import re
import sys
import traceback
from collections.abc import Callable, Sequence

from jaxgen import __version__, compile_cache, trust
from jaxgen.cli import curves, draw, evaluate, export, info, latents, measure, restore, study
from jaxgen.cli.join import leave_together
from jaxgen.cli.train import execute, train
from jaxgen.errors import InputError, check

USAGE = """usage: jaxgen COMMAND ...

  train EXPERIMENT        train an experiment, by name or by file, or go on with it; its keywords are flags
  sample WORKDIR          a picture (or .npz) of new samples of a run
  interpolate WORKDIR     a picture of walks between samples
  traverse WORKDIR        a picture of walks along single latent dimensions
  manifold WORKDIR        a picture of the plane of two latent dimensions
  arithmetic WORKDIR      a picture of test images as an attribute is added to their codes
  analogy WORKDIR         a picture of averaged latents: having - lacking + plain
  turn WORKDIR            a picture of samples as they turn into a class
  directions WORKDIR      a picture of walks along directions that nobody chose (GANSpace, SeFa)
  mix WORKDIR             a picture of a StyleGAN's mixed styles
  invert WORKDIR          a picture of given images and the samples nearest to them, found by descent
  truncation WORKDIR      precision against recall as samples are truncated
  reconstruct WORKDIR     a picture of data, encoded and decoded
  trajectory WORKDIR      a picture and a film of images on their way to noise, and of samples on their way from it
  restore WORKDIR         a picture of images filled in, enlarged, coloured or deblurred by a diffusion model
  vary WORKDIR            a picture of variations of images, noised and drawn again
  encode WORKDIR          a picture (or .npz) of the codes of data
  denoise WORKDIR         a picture of noisy data, encoded and decoded, and how much that helps
  evaluate WORKDIR        scores of samples: FID, KID, IS, precision, recall, ...; or --reals A --fakes B
  compare RUN...          a table and a figure of evaluated runs
  plot RUN...             a picture of the curves that runs have recorded
  nearest WORKDIR         a picture of samples and the training images nearest to them
  study WORKDIR           a page on which people mark the images that they take for generated
  likelihood WORKDIR      the log-likelihood of data, by importance sampling
  cluster WORKDIR         do the codes fall into the classes?
  outliers WORKDIR        does the model find what is not like its data?
  pretrain WORKDIR        classifiers with few labels that begin with the encoder
  export WORKDIR          the weights as safetensors and the sampler as StableHLO, for other programs
  list                    the experiments and the runs here
  show WORKDIR            what a run is and how far it has trained
  data list               the data sets and whether they are ready
  data prepare NAME       download and prepare a data set

jaxgen COMMAND --help lists the flags. Every command takes

  --trust     execute the code in the folder of a run that is not this user's own; read its experiment.py first

JAXGEN_TRACEBACK=1 shows where an error comes from.
"""

COMMANDS = {
    "sample": draw.sample,
    "interpolate": draw.interpolate,
    "traverse": draw.traverse,
    "manifold": draw.manifold,
    "arithmetic": draw.arithmetic,
    "analogy": latents.analogy,
    "turn": latents.turn,
    "directions": latents.directions,
    "mix": latents.mix,
    "invert": latents.invert,
    "truncation": latents.truncation,
    "reconstruct": draw.reconstruct,
    "denoise": draw.denoise,
    "trajectory": curves.trajectory,
    "restore": restore.restore,
    "vary": restore.vary,
    "encode": measure.encode,
    "evaluate": evaluate.evaluate,
    "compare": evaluate.compare,
    "plot": curves.plot,
    "nearest": evaluate.nearest,
    "study": study.study,
    "likelihood": measure.likelihood,
    "cluster": measure.cluster,
    "outliers": measure.outliers,
    "pretrain": measure.pretrain,
    "export": export.export,
    "list": info.list_,
    "show": info.show,
    "data": info.data,
}


def main(argv: Sequence[str] | None = None) -> None:
    """The entry point: exit code 0, 1 for a run that failed, 2 for a mistake in the arguments or files given."""
    _in_a_line(_dispatch, list(sys.argv[1:] if argv is None else argv))


def script(function: Callable[..., None]) -> None:
    """For the last line of a script: `function` by the arguments and flags that its signature gives, as a command is,
    with the same errors and exit codes, and --trust."""

    def called(argv: list[str]) -> None:
        compile_cache.enable()
        execute(function, argv, sys.argv[0])

    _in_a_line(called, sys.argv[1:])


def _in_a_line(function: Callable[[list[str]], None], argv: list[str]) -> None:
    """What is not a bug ends the program with one line."""
    try:
        with trust.trusting("--trust" in argv):
            function([word for word in argv if word != "--trust"])
    except InputError as error:
        if os.environ.get("JAXGEN_TRACEBACK"):
            traceback.print_exc()
        _exit(str(error), 2)
    except KeyboardInterrupt:
        _exit("interrupted", 130)
    except Exception as error:
        _known_failure(error)
        raise


def _dispatch(argv: list[str]) -> None:
    if not argv or argv[0] in ("-h", "--help"):
        print(USAGE, end="")
        return
    if argv[0] == "--version":
        print(f"jaxgen {__version__}")
        return
    command, rest = argv[0], argv[1:]
    known = ["train", *COMMANDS]
    if command not in known:
        close = difflib.get_close_matches(command, known, 1)
        hint = f" (did you mean {close[0]}?)" if close else ""
        raise InputError(f"unknown command {command!r}{hint}: choose one of {', '.join(known)}")
    compile_cache.enable()
    if command != "train":
        check(rest[:1] != [""], f"jaxgen {command} is given an empty name: give the folder of a run")
        execute(COMMANDS[command], rest, f"jaxgen {command}")
        return
    if not rest or rest[0] in ("-h", "--help"):
        print("usage: jaxgen train EXPERIMENT [flags]\n\nThe flags depend on it: jaxgen train EXPERIMENT --help")
        return
    check(not rest[0].startswith("-"), f"the experiment comes first: jaxgen train EXPERIMENT.py {rest[0]} ...")
    train(rest[0], rest[1:])


def _known_failure(error: Exception) -> None:
    """One line for failures that are not bugs; others keep their traceback."""
    from jaxgen.checkpoint import SaveError
    from jaxgen.loop import Diverged, Gone, Stopped

    if isinstance(error, Stopped):
        leave_together()
        _exit(str(error), 130 if error.signal == 2 else 0, kind="")
    if isinstance(error, Diverged | Gone | SaveError):
        _exit(str(error), 1)
    if isinstance(error, SyntaxError):
        _exit(f"{error.filename}, line {error.lineno}: {error.msg}; mend the file", 2)
    if re.search("RESOURCE_EXHAUSTED|out of memory", str(error), re.I) or isinstance(error, MemoryError):
        _exit("the device is out of memory: give a smaller --batch, or another --layout over more devices", 2)


def _exit(message: str, code: int, kind: str = "error: ") -> None:
    sys.stderr.write(f"jaxgen: {kind}{' '.join(message.split())}\n")
    sys.stderr.flush()
    raise SystemExit(code)
