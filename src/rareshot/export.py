"""An adapted classifier as one ONNX file, for machines without torch: bytes of RGB images in, probabilities out.

    images         (n, size, size, 3) uint8, cut and resized as docs/export.md says
    probabilities  (n, way) float32, as `rareshot predict` gives them

Inside are the standardisation, the adapted weights, the support set's frozen statistics and the softmax. Adaptation is not:
the file is one adapted task. A file that does not answer as the classifier does is not written.
"""

import importlib.util
import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch

from rareshot.atomic import write_atomically
from rareshot.checkpoint import state_hash
from rareshot.export_network import deployed, kind_of
from rareshot.predict import Predictor
from rareshot.run_record import versions
from rareshot.support_set import as_float

Array = npt.NDArray[Any]
EXTRA = ("onnx", "onnxscript", "onnxruntime")
OPSET = 18
"""Of the file, low, so that programs of 2023 and later read it."""
NEAR = 1e-5
"""Largest difference of a probability from `rareshot predict`."""
SAME = 1e-6
"""Largest difference between an answer alone and in a batch."""
NOTICE = "research use, not a medical device"
NOISE = 8
BATCH = 16


def export(predictor: Predictor, file: Path) -> Path:
    """Write the classifier as an ONNX file, whole or not at all.

    Raises:
        ValueError: as `to_onnx` and `refuse_unfaithful`.
    """
    model = to_onnx(predictor)
    refuse_unfaithful(model, predictor)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(file, model)
    return file


def to_onnx(predictor: Predictor) -> bytes:
    """The model, not yet checked.

    Raises:
        ValueError: if the extra is not installed, the classifier is KNN, or torch cannot write its network.
    """
    refuse_missing()
    net = deployed(predictor)
    example = torch.zeros(2, predictor.size, predictor.size, 3, dtype=torch.uint8)
    try:
        with _quiet():
            program = torch.onnx.export(
                net,
                (example,),
                dynamo=True,
                dynamic_shapes=({0: "n"},),
                input_names=["images"],
                output_names=["probabilities"],
                opset_version=OPSET,
                external_data=False,
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        reason = str(error.__cause__ or error).strip().split("\n")[0]
        raise ValueError(f"{kind_of(predictor)} cannot be written as ONNX: {reason}") from error
    if program is None:
        raise ValueError(f"{kind_of(predictor)} cannot be written as ONNX: torch gave no program")
    model = program.model_proto
    _forget_origin(model)
    model.doc_string = NOTICE
    for key, value in facts(predictor).items():
        model.metadata_props.add(key=key, value=value)
    return cast(bytes, model.SerializeToString(deterministic=True))


def facts(predictor: Predictor) -> Mapping[str, str]:
    """What the file says of itself, in its metadata. Nothing of the photographs, nor their files' names."""
    run = predictor.bundle.run
    return {
        "rareshot": versions()["rareshot"],
        "classes": json.dumps(predictor.classes),
        "size": str(predictor.size),
        "method": run.name,
        "learner": predictor.bundle.learner,
        "learner_sha256": state_hash(predictor.bundle.state),
        "temperature": repr(predictor.bundle.temperature),
        "norm": getattr(run.method, "norm", "running"),
        "licence": run.licence or "not known",
        "notice": NOTICE,
    }


def refuse_unfaithful(model: bytes, predictor: Predictor) -> None:
    """Compare with the classifier on its support images and on noise, alone and in batches, in onnxruntime.

    Raises:
        ValueError: if a probability differs by more than 1e-5, or one alone from the same in a batch by more than 1e-6.
    """
    noise = np.random.default_rng(0).integers(0, 256, (NOISE, 3, predictor.size, predictor.size), dtype=np.uint8)
    images = torch.cat([predictor.bundle.support.images, torch.from_numpy(noise)])
    expected = torch.cat([predictor(as_float(image[None])) for image in images]).numpy()
    given = np.ascontiguousarray(images.permute(0, 2, 3, 1).numpy())
    session = _session(model)
    together = np.concatenate([_ask(session, given[at : at + BATCH]) for at in range(0, len(given), BATCH)])
    alone = np.concatenate([_ask(session, image[None]) for image in given])
    apart = float(np.abs(together - alone).max())
    off = max(float(np.abs(answers - expected).max()) for answers in (together, alone))
    way_out = "nothing was written; `rareshot predict` gives the right answers"
    if not apart <= SAME:  # so that NaN is refused, too
        raise ValueError(
            f"the model's answers alone and in a batch differ by {apart:.1e}, more than {SAME:.0e}: {way_out}"
        )
    if not off <= NEAR:
        raise ValueError(
            f"the model's answers differ from the classifier's by {off:.1e}, more than {NEAR:.0e}: {way_out}"
        )


def refuse_missing() -> None:
    """Refuse to begin without the extra.

    Raises:
        ValueError: naming it.
    """
    missing = [name for name in EXTRA if importlib.util.find_spec(name) is None]
    if missing:
        raise ValueError(f"export needs the extra, {', '.join(missing)} is missing: pip install 'rareshot[onnx]'")


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide what the exporter says of its own parts; nothing a caller could do."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _forget_origin(model: Any) -> None:
    """Take out the lines of source, with this machine's paths, that the exporter notes beside every node."""
    graph = model.graph
    del graph.value_info[:]
    for part in (*graph.node, *graph.input, *graph.output, *graph.initializer, graph, *model.functions):
        del part.metadata_props[:]
        part.doc_string = ""
    for function in model.functions:
        for node in function.node:
            del node.metadata_props[:]


def _session(model: bytes) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _ask(session: Any, images: Array) -> Array:
    return np.asarray(session.run(["probabilities"], {"images": images})[0])
