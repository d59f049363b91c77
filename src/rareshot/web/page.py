"""The page: which deed happens at which press. Gradio draws it."""

from collections.abc import Callable, Iterator, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from rareshot.data.parallel import cores
from rareshot.web import limits, view
from rareshot.web.deeds import Deed, Deeds, Updates
from rareshot.web.layout import lay_out
from rareshot.web.sessions import Sessions


def build(sessions: Sessions, uploads: Path, learners: Sequence[str], start: str = "") -> Any:
    """The page as Gradio's `Blocks`.

    Args:
        uploads: the folder that uploads lie in; resolved.
        learners: what a person may choose from.
        start: name of the classifier that every session begins with; empty: conditions are asked for.
    """
    import gradio as gr

    def guarded(deed: Deed, where: Any) -> Callable[..., Iterator[Updates]]:
        def run(request: gr.Request, *values: Any) -> Iterator[Updates]:
            try:
                yield from deed(sessions.of(str(request.session_hash)), *values)
            except (ValueError, OSError) as error:  # a mistake of the person's, or a full disk: said in one line
                yield {where: view.note(" ".join(str(error).split()), "bad")}

        return run

    def bind(
        event: Any, deed: Deed, where: Any, inputs: Sequence[Any], outputs: Sequence[Any], kind: str, name: str
    ) -> None:
        """Run `deed` at `event`; `kind` shares out the cores: reading, work or quick."""
        event(
            guarded(deed, where),
            list(inputs),
            list(dict.fromkeys([*outputs, where])),
            preprocess=False,
            show_progress="hidden",
            concurrency_id=kind,
            concurrency_limit=20 if kind == "quick" else cores(),
            api_name=name,
        )

    with gr.Blocks(title="rareshot", analytics_enabled=False) as page:
        parts, buttons = lay_out(gr, learners, start, sessions.start)
        deeds = Deeds(parts, gr.update, learners, uploads)
        names = [card.name for card in parts.cards]
        later = [*parts.of_learning, *parts.of_answers]
        everything = [*parts.of_support, *later, *parts.of_new]
        said, new_part = parts.support_said, [*parts.of_new, *parts.of_answers]
        for at, card in enumerate(parts.cards):
            shelf = [card.drop, card.shelf, *later]
            bind(card.drop.upload, deeds.support(at), said, [card.drop], shelf, "reading", f"support_{at + 1}")
            bind(card.empty.click, deeds.empty(at), said, [], shelf, "quick", f"empty_{at + 1}")
            bind(
                card.remove.click,
                deeds.remove(at),
                said,
                names,
                [*parts.of_support, *later],
                "quick",
                f"remove_{at + 1}",
            )
        bind(buttons["add"].click, deeds.add, said, [], parts.of_support, "quick", "add_condition")
        bind(buttons["learn"].click, deeds.learn, parts.learned, [parts.learner, *names], later, "work", "learn")
        bind(parts.check.click, deeds.check, parts.suspects, [], [], "work", "check_labels")
        bind(parts.drop.upload, deeds.new, parts.new_said, [parts.drop], new_part, "reading", "new_images")
        bind(buttons["clear"].click, deeds.clear_new, parts.new_said, [], new_part, "quick", "clear_new")
        bind(buttons["judge"].click, deeds.judge, parts.judged, [], parts.of_answers, "work", "judge")
        bind(parts.reporting.click, deeds.report, parts.report, [], [], "work", "report")
        bind(
            buttons["example"].click, deeds.example, parts.example_said, [parts.learner], everything, "work", "example"
        )
        bind(buttons["restart"].click, deeds.restart, parts.example_said, [], everything, "quick", "restart")

        def left(request: gr.Request) -> None:
            key = str(request.session_hash)
            sessions.end(key)
            page.state_holder.session_data.pop(key, None)  # Gradio would keep what it showed for an hour

        page.unload(left)
    page.queue(max_size=limits.MOST_WAITING, default_concurrency_limit=20)
    return page


def style() -> str:
    """The page's CSS."""
    return files("rareshot").joinpath("templates", "serve.css").read_text(encoding="utf-8")


def theme() -> Any:
    """Colours and the system's own fonts: nothing is asked of the network."""
    import gradio as gr

    fonts = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"]
    mono = ["ui-monospace", "Consolas", "monospace"]
    return gr.themes.Default(primary_hue="teal", neutral_hue="slate", font=fonts, font_mono=mono)
