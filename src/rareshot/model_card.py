"""A model card from what lies in a run's folder: what it is, how good it was measured to be, where it ends.

Markdown with the front matter that model hubs read. It says what the files say and no more: what was not measured is
called so. Mitchell et al., Model Cards for Model Reporting, FAT* 2019.
"""

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rareshot.checkpoint import load_learner, state_hash
from rareshot.data.cards import CARDS
from rareshot.data.files import read_file
from rareshot.methods import LABELS, taught_by
from rareshot.methods.pretrained import Pretrained
from rareshot.run_record import Run, read_run
from rareshot.statistics import Interval
from rareshot.tables_text import as_markdown, markdown_rows
from rareshot.trust_file import Trust, load_trust
from rareshot.types import Learner

CARD = "README.md"
SUMMARY = re.compile(r"(untrained-)?(paper|full|site)-\d{1,2}way-\d{1,4}shot(-by-image)?\.summary\.json")
"""Names of summaries, as `rareshot evaluate` writes them."""
MADE = "<!-- Made by rareshot push, and made anew by it; without this line it goes along as it is. -->"
"""In a card that was made here, by which it is told from one that somebody wrote."""
MAX_BYTES = 2**20
"""Of a summary or a card."""
LICENCES = {"CC BY 4.0": "cc-by-4.0", "CC BY-NC 4.0": "cc-by-nc-4.0"}
"""Licence of a data set → its name on model hubs; of any other the hub says `other`."""


def model_card(folder: Path) -> str:
    """The card of a finished run.

    Raises:
        FileNotFoundError: if the folder holds no run, or the run is not finished.
        ValueError: naming the file, if one is damaged.
    """
    run, learner = read_run(folder), load_learner(folder)
    trust = load_trust(folder, learner) if learner.inductive else None
    data = CARDS.get(str(run.data.get("name")))
    words = {name: data.classes.get(name, "") for name in run.data.get("common", ())} if data else {}
    seen = ", ".join(f"{name} ({words[name]})" if words.get(name) else str(name) for name in run.data.get("common", ()))
    trained = f"{data.title if data else run.data.get('name', 'not recorded')}: {seen or 'no disease of this set'}"
    if isinstance(run.method, Pretrained):
        trained, data = "ImageNet, by others; none of the images of any disease set", None
    else:
        trained = taught_by(run.method, trained)
    clients = run.data.get("clients")
    shared = {"shared by": f"{', '.join(map(str, clients))}; each kept its images"} if isinstance(clients, dict) else {}
    facts = {
        "method": LABELS.get(run.name, run.name),
        "trained on": trained,
        **shared,
        "fingerprint of the data": str(run.data.get("fingerprint", "not recorded")),
        "seed": str(run.seed),
        "scale": f"{run.scale}, images of {run.size} pixels",
        "answers": "each image by itself (inductive)"
        if learner.inductive
        else "depend on the images sent together (transductive): not for single patients; `rareshot adapt` refuses it",
        "SHA-256 of the weights": state_hash(learner.state()),
        "made with": ", ".join(f"{name} {version}" for name, version in run.versions.items()),
    }
    blocks = [
        _front_matter(run),
        MADE,
        f"# {as_markdown(facts['method'])}, a few-shot learner of rareshot",
        "Adapt it to a few images of two or more diseases that it has not seen. **For research use. Not a medical device.**",
        markdown_rows(("", ""), list(facts.items())),
        "## Use\n\n    rareshot pull SOURCE --out learner\n"
        "    rareshot adapt learner --support photographs/ --out classifier.safetensors",
        f"## Measured\n\n{_measured(folder)}",
        f"## Calibrated\n\n{_calibrated(trust)}",
        f"## Limits\n\n{_limits(run, learner)}",
        f"## Contamination\n\n{_contamination(run)}",
        f"## Licence\n\n{_licence(run, data.citation if data else '')}",
        f"## Settings\n\n{markdown_rows(('setting', 'value'), _settings(run))}",
    ]
    return "\n\n".join(blocks) + "\n"


def _front_matter(run: Run) -> str:
    # JSON texts are YAML texts, so that no name can end the front matter or add to it.
    values = {
        "license": LICENCES.get(run.licence, "other"),
        "library_name": "rareshot",
        "pipeline_tag": "image-classification",
        "tags": ["few-shot-learning", "meta-learning", "medical", "rare-diseases", run.name],
        "datasets": [str(run.data.get("name", "unknown"))],
    }
    return "\n".join(["---", *(f"{name}: {json.dumps(value)}" for name, value in values.items()), "---"])


def _measured(folder: Path) -> str:
    rows = []
    for file in sorted(file for file in folder.iterdir() if SUMMARY.fullmatch(file.name)):
        try:
            told = json.loads(read_file(file, limit=MAX_BYTES))
            drawn = ", images drawn" if told["by_image"] else ""
            what = f"{told['protocol']}{drawn}{', before training' if told['run']['untrained'] else ''}"
            of = f"{', '.join(told['data']['rare'])} of {told['data']['name']}"
            setting = (what, f"{int(told['way'])}-way", f"k = {int(told['shot'])}", of)
            found = [told["metrics"]["auc"]] if "metrics" in told else []
            found += [told["auc_over_lesions"]] if "auc_over_lesions" in told else []
            cells = [(setting, Interval(**each)) for each in found]
            cells += [
                (
                    (*setting[:3], " and ".join(pair["classes"]) + (f", {pair['site']}" if pair["site"] else "")),
                    Interval(**pair["auc"]),
                )
                for pair in told["pairs"]
            ]
            rows += [(*words, _percent(auc.mean), _bounds(auc), auc.kind) for words, auc in cells]
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            raise ValueError(f"{file} is no sound summary ({error!r}); remove it and evaluate again") from error
    if not rows:
        return "Not measured: no evaluation lies beside this learner."
    header = ("protocol", "way", "k", "judged on", "AUC in %", "95 % interval", "the interval is")
    return f"{markdown_rows(header, rows)}\n\nIntervals say over what they are; none of one run speaks of other training seeds."


def _calibrated(trust: Trust | None) -> str:
    if trust is None:
        return "Not calibrated: probabilities are as the method gives them."
    rows = [
        (str(way), str(k), f"{value:.2f}", f"{limits[k]:.2f}" if k in limits else "none")
        for way, found in sorted(trust.temperatures.items())
        for limits in (trust.thresholds.get(way, {}),)
        for k, value in sorted(found.items())
    ]
    of = f" of {as_markdown(trust.hospital)} alone" if trust.hospital else ""
    told = f"From held-out lesions of the common classes{of}; {trust.episodes} tasks for each temperature."
    return f"{told}\n\n{markdown_rows(('classes', 'k', 'temperature', 'suspects below log odds'), rows)}"


def _limits(run: Run, learner: Learner) -> str:
    limits = [
        "Classes outside those that it is adapted to are not considered: an image of something else gets one of their names.",
        f"It sees the centre square of an image at {run.size} pixels.",
        "Other cameras, skin tones and organs than those of its data are outside of what was measured.",
        "The fewer images a class, the more the answers hang on them.",
    ]
    if not learner.inductive:
        limits.append("Transductive: one patient's answer depends on the other patients' images.")
    return "\n".join(f"- {limit}" for limit in limits)


def _contamination(run: Run) -> str:
    if isinstance(run.method, Pretrained):
        return (
            "Its backbone was trained on ImageNet by others. Whether images that you test on were among those is not known: "
            "take figures on public images with care."
        )
    begun = getattr(run.method, "imagenet", False)
    weights = "ImageNet's weights" if begun else "random weights"
    text = f"Trained from {weights} on the images named above and no others. "
    if begun or getattr(run.method, "beside_imagenet", False):
        text += "ImageNet's part was made by others: whether images that you test on were among its is not known. "
    common = as_markdown(", ".join(map(str, run.data.get("common", ()))))
    return f"{text}Figures on those images, or on sets that hold them, with these classes ({common}), say nothing."


def _licence(run: Run, citation: str) -> str:
    if isinstance(run.method, Pretrained):
        return (
            "Its weights are those of the package that the extra `pretrained` installs, under that package's licence; they were "
            "made from ImageNet's images, whose terms are ImageNet's."
        )
    theirs = " ImageNet has a part in it too, whose terms are ImageNet's." if taught_by(run.method, "") else ""
    if not run.licence:
        return (
            "That of the images it was trained on, which is not known here: ask who holds them before you pass it on."
            f"{theirs}"
        )
    return f"That of the images it was trained on: {as_markdown(run.licence)}. Cite {as_markdown(citation)}.{theirs}"


def _settings(run: Run) -> list[tuple[str, str]]:
    method: Mapping[str, Any] = run.to_json()["method"]
    return [(name, json.dumps(value)) for name, value in method.items()]


def _bounds(auc: Interval) -> str:
    return "none" if math.isnan(auc.low) else f"{_percent(auc.low)} to {_percent(auc.high)}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"
