"""What a run decides by the clock is decided once: a stopped run goes on with it, and so do all processes."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from catflap.artifacts.dataset import Dataset, Photos
from catflap.artifacts.folder import write_atomically
from catflap.progress import Progress
from catflap.training.heads.features import open_extractor
from catflap.training.heads.head import log_loss
from catflap.training.loop.settings import GOOD_HEAD, LoopSettings
from catflap.training.networks.backbone import PACKAGED, check_sees, load_backbone
from catflap.training.networks.network import Network
from catflap.training.networks.slim import slimmed
from catflap.training.plan import Plan
from catflap.training.processes import broadcast, is_first_process
from catflap.training.recipes import Loop, Trained, Tuning
from catflap.training.search.candidates import candidates
from catflap.training.search.clock import TimeBudget, check_time, seconds_of_features
from catflap.training.search.halving import Pick, Tune, search
from catflap.training.search.random_start import epochs_from_scratch, or_from_scratch, suits_random_start


@dataclass(frozen=True)
class RunDecisions:
    """What a run has decided so far, in a file beside the Checkpoint to be; a stopped run finds it there.

    `made_from` is the hash of plan and dataset: a file of another run is not read. Of many processes, on
    devices such as `device`, the first one decides, and the others do the same.
    """

    path: Path
    made_from: str
    device: str = "cpu"

    def keep(self, what: str, decide: Callable[[], Any]) -> Any:
        """A decision, a JSON value: what the stopped run decided, or else what is decided now."""
        kept = broadcast(self._kept(), self.device)
        if what not in kept:
            kept[what] = broadcast(decide(), self.device)
            if is_first_process():
                text = json.dumps({"made_from": self.made_from, "kept": kept}, allow_nan=False)
                write_atomically(self.path, text.encode())
        return kept[what]

    def _kept(self) -> dict[str, Any]:
        with suppress(OSError, ValueError, KeyError, TypeError):
            found = json.loads(self.path.read_bytes())
            if found["made_from"] == self.made_from:
                return dict(found["kept"])
        return {}


def pick(
    plan: Plan,
    dataset: Dataset,
    device: str,
    progress: Progress,
    clock: TimeBudget | None,
    decisions: RunDecisions,
    loop: Loop,
) -> Pick:
    """The backbone and frame that a plan names, or that its search picks or has picked before a stop.

    Raises Refused when a search finds none, and when there is no time for the features.
    """
    photos = dataset.photos("train")
    if not plan.searches:
        named = load_backbone(plan.backbone or PACKAGED, pretrained=plan.recipe != "scratch")
        check_sees(named, dataset.frame)
        body = slimmed(named, photos, dataset.frame, device=device, progress=progress)
        if clock:
            extractor = open_extractor(body, dataset.frame, device=device)
            pace = broadcast(seconds_of_features(extractor, photos, device), device)
            check_time(clock, extractor, pace, body.name, dataset)
        return Pick(0, body, dataset.frame, [])
    found, made = candidates(dataset, plan.trials), list[Pick]()

    def decide() -> dict[str, Any]:
        tune = _tuner(decisions, loop) if plan.explores else None
        random_start = clock is not None and plan.recipe is None and suits_random_start(dataset)
        made.append(search(dataset, found, plan.kept_limits, device, progress, clock, tune, random_start))
        kept = ("number", "recipe", "trials", "passes", "known", "learnt")
        return {name: getattr(made[0], name) for name in kept}

    decided = decisions.keep("pick", decide)
    if made:
        return made[0]
    name, _, frame = found[decided["number"]]
    body = slimmed(load_backbone(name), photos, frame, device=device, progress=progress)
    before, learnt = decided.get("passes", 0) - decided.get("known", 0), decided.get("learnt", 0)
    return Pick(
        decided["number"], body, frame, decided["trials"], decided["recipe"], learnt=learnt, before=before
    )


def tuning_of(
    plan: Plan, chosen: Pick, seen: Dataset, clock: TimeBudget | None, decisions: RunDecisions
) -> Tuning:
    """What follows the head of a pick: the epochs of the plan, or those that fit, or did before a stop.

    `seen` is the Dataset in the frame of the pick.
    """

    def epochs(network: Network, accuracy: float) -> float:
        if plan.recipe == "head":
            return 0
        if clock is None:
            return plan.rounds if "finetune" in (plan.recipe, chosen.recipe) else 0
        if chosen.may_start_from_scratch and accuracy < GOOD_HEAD:
            return 0  # a random start sees as much, and learns it sooner
        fitting: float = decisions.keep("epochs", lambda: clock.epochs(network, seen))
        return fitting if fitting >= 1 or accuracy < GOOD_HEAD else 0  # a good head gains nothing by a part

    return Tuning(epochs, surely=plan.recipe == "finetune")


def try_from_scratch(
    head: Trained, dataset: Dataset, seed: int, clock: TimeBudget, decisions: RunDecisions, loop: Loop
) -> Trained:
    """The better of a poor head and as many epochs from a random start as fit, or did before a stop."""
    right = head.logits.argmax(1) == dataset.photos("validation").labels
    if right.mean() >= GOOD_HEAD:
        return head
    epochs: float = decisions.keep("epochs from a random start", lambda: epochs_from_scratch(clock, dataset))
    return or_from_scratch(head, dataset, epochs, seed, loop)


def _tuner(decisions: RunDecisions, loop: Loop) -> Tune:
    """What fine-tunes the candidates of a search, each once, whatever is stopped between them."""

    def tune(
        number: int, network: Network, settings: LoopSettings, seen: Dataset, part: Photos
    ) -> tuple[float, float]:
        def decide() -> tuple[float, float]:
            logits, _ = loop(network, settings, seen, part)
            labels = seen.photos("validation").labels
            return log_loss(logits, labels), float((logits.argmax(1) == labels).mean())

        loss, accuracy = decisions.keep(f"candidate {number}, fine-tuned", decide)
        return loss, accuracy

    return tune
