"""`rareshot`: the command line's door. It picks the command and turns errors into one line and an exit code.

Exit codes: 0 done · 1 training diverged · 2 a mistake of the user's, said in one line · 130 and 143 stopped by SIGINT or SIGTERM,
with everything saved.
"""

import sys
from collections.abc import Callable, Sequence

from rareshot import __version__

HELP = """rareshot: few-shot learning for rare-disease images. A research tool, not a medical device.

A few-shot learner is a function from a support set to a classifier:
fit it on common diseases, adapt it to k images of each rare one.

  rareshot demo                          the whole thing on synthetic images, no download
  rareshot data check|prepare|fetch      look at a data set, decode it once, download one
  rareshot adapt LEARNER                 a few photographs of each condition in, a classifier out
  rareshot predict CLASSIFIER IMAGES     what it says of new images
  rareshot serve                         the same two on a page in the browser
  rareshot export CLASSIFIER             the same for onnxruntime, without torch
  rareshot fit METHOD                    train on the common diseases: maml, daml, relation, finetune, ...
  rareshot federate simulate METHOD      a training that the sites of one data set share, on this machine
  rareshot federate app METHOD           the same between hospitals, whose images stay there (Flower)
  rareshot push RUN / pull SOURCE        share a learner with its model card; fetch one
  rareshot calibrate RUN                 its probabilities and warnings, by held-out common lesions
  rareshot evaluate RUN                  judge a run on the rare diseases
  rareshot compare RUN RUN               is one better than the other beyond noise?
  rareshot reproduce table1|table2|..    the paper's tables, row by row, beside its figures
  rareshot report RESULTS                the paper's tables and figures from the raw lines, as one page
  rareshot bench                         how fast, beside this machine's limit and other libraries?

Every command explains itself: rareshot fit daml --help
Exit codes: 0 done, 1 training diverged, 2 a mistake in what was asked for, 130/143 stopped (everything is saved)."""


def main(args: Sequence[str] | None = None) -> int:
    """Run one command; the exit code."""
    args = list(sys.argv[1:] if args is None else args)
    if not args or args[0] in ("-h", "--help"):
        print(HELP)
        return 0
    if args[0] == "--version":
        print(f"rareshot {__version__}")
        return 0
    from rareshot.commands.terminal import StoppedError, printable  # torch is imported only when there is work
    from rareshot.training import TrainingDivergedError

    try:
        _command(args[0])(args[1:])
    except StoppedError as stopped:
        print(
            f"rareshot: {stopped}; everything done is saved, and the same command goes on (fit: with --resume)",
            file=sys.stderr,
        )
        return stopped.exit_code
    except KeyboardInterrupt:
        print("rareshot: stopped", file=sys.stderr)
        return 130
    except TrainingDivergedError as error:
        print(f"rareshot: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # the reader of our output has left
        return 0
    except (ValueError, OSError) as error:
        print(f"rareshot: {printable(_told(error))}", file=sys.stderr)
        return 2
    except MemoryError as error:
        told = f" ({error})" if str(error) else ""
        print(f"rareshot: not enough memory{told}; take smaller images (--size) or fewer of them", file=sys.stderr)
        return 2
    return 0


def _told(error: ValueError | OSError) -> str:
    """On one line; what the system says of a file without its number."""
    if isinstance(error, FileExistsError | NotADirectoryError) and error.filename:
        told = f"{error.filename} is a file where a folder is needed; move it away, or choose another --out"
    elif isinstance(error, OSError) and error.filename and error.strerror:
        told = f"{error.filename}: {error.strerror}"
    else:
        told = str(error)
    return " ".join(told.split())


def _command(name: str) -> Callable[[Sequence[str]], None]:
    match name:
        case "demo":
            from rareshot.commands.demo import demo as command
        case "data":
            from rareshot.commands.data import data as command
        case "adapt":
            from rareshot.commands.adapt import adapt as command
        case "predict":
            from rareshot.commands.predict import predict as command
        case "serve":
            from rareshot.commands.serve import serve as command
        case "export":
            from rareshot.commands.export import export_command as command
        case "push":
            from rareshot.commands.share import push_command as command
        case "pull":
            from rareshot.commands.share import pull_command as command
        case "fit":
            from rareshot.commands.fit import fit as command
        case "federate":
            from rareshot.commands.federate import federate as command
        case "calibrate":
            from rareshot.commands.calibrate import calibrate as command
        case "evaluate":
            from rareshot.commands.evaluate import evaluate_command as command
        case "compare":
            from rareshot.commands.compare import compare as command
        case "reproduce":
            from rareshot.commands.reproduce import reproduce as command
        case "report":
            from rareshot.commands.report import report_command as command
        case "bench":
            from rareshot.commands.bench import bench as command
        case _:
            raise ValueError(f"no command {name!r}; `rareshot --help` lists them")
    return command
