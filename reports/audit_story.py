"""What an audit found, told in sentences: places, causes, what follows from them in training."""

from collections.abc import Sequence

from parity.auditing.result import AuditResult
from parity.auditing.unfinished import Unfinished
from parity.claims import Claim
from parity.judging.alone import IDENTITY as ALONE
from parity.localise import Localisation
from parity.measurements import Matching
from parity.trace import module_of
from reports.precision_place import less_exact

SHOWN = 3  # targets of a changed matching that are listed
STAGES = {
    "train_costs": "matching costs",
    "train_matching": "matching",
    "train_losses": "losses",
    "train_losses_extreme": "losses of extreme outputs",
    "train_replica_losses": "losses of replicas",
    "train_gradients_pairing": "gradients that are lost",
    "train_gradients": "gradients",
    "train_gradients_isolated": "gradients of single modules",
    "train_step_gradients": "gradients of the step",
    "train_update": "update",
    "train_task": "the Model Garden's task",
    "train_dropout": "forward pass with dropout",
    "train_dropout_draws": "dropout masks of the step",
    "train_schedule": "learning rate",
    "train_applied": "learning rate and clip of the optimizer",
    "train_applied_float32": "optimizer in float32",
    "train_reduction": "reduction over replicas",
    "train_shares": "gradients of replicas",
}


PREDICTIONS = "the predictions"
"""What a matching inherits its difference from, where it is right itself."""


def in_training(result: AuditResult) -> list[Claim]:
    """The claims on a training step that say where they fail."""
    return [one for one in result.failing if one.id.startswith("train_") and one.place]


def told(result: AuditResult) -> list[str]:
    """An audit's failure in lines: what fails, where it begins, own errors, likely causes."""
    failed = result.failing
    lines = [f"{len(failed)} of {len(result.claims)} claims fail:"]
    lines += [f"- {one.title}" for one in failed]
    places = result.localisations
    if result.first_divergence is not None:
        lines += ["", f"The tensors differ first at {result.first_divergence}."]
    if places:
        lines += _largest(result)
        lines.append(_count(len(places)))
        lines += alike(places)
    weights = [one for one in failed if one.id == "weights" and one.place]
    changed = [str(name) for one in weights for name in getattr(one.measured, "found", ())]
    for number, one in enumerate(places, 1):
        lines += ["", *_place(number, one, changed)]
    if weights:
        texts = "; ".join(one.cause or one.place.text for one in weights)
        lines += ["", f"Weights that come back otherwise: {texts}."]
    for one in failed:
        if one.id.startswith("extreme_") and one.place:
            cause = f": {one.cause}" if one.cause else ""
            lines += ["", f"On extreme inputs: {one.place.text}{cause}."]
        if one.id == ALONE and one.place:
            lines += ["", f"Alone, in bfloat16: {one.place.text}: {one.cause}."]
    training = in_training(result)
    if training:
        lines += ["", "In the training step:"]
        for one in training:
            lines += _stage(one, places)
    found = None if places else less_exact(result)
    if found is not None:
        lines += [
            "",
            f"Up to there all agree to rounding in float64: the function is the same. {found.key} "
            f"is {found.cause}.",
            "Look there for a product or a sum in a lower precision (bfloat16, TF32), for a "
            "formula that cancels digits, and for what an execution does otherwise.",
        ]
    elif not places and not training and not any(one.id == ALONE for one in failed):
        lines += ["", "No module differs when it is run alone on the reference's tensors."]
    return lines


def told_unfinished(found: Unfinished) -> list[str]:
    """What an audit that was ended had found, in lines."""
    lines = ["This audit was ended before its result was written. Until then it had found:"]
    lines += [f"- {text}" for text in found.told]
    if found.differing is None:
        lines.append("- nothing was compared yet")
    else:
        lines.append(f"- {len(found.differing)} tensors that differ in float64")
    lines += alike(found.places)
    for number, one in enumerate(found.places, 1):
        lines += ["", *_place(number, one, [])]
    return [*lines, "", f"Measure it again: {found.command}"]


def _count(places: int) -> str:
    if places == 1:
        return (
            "One place has an error of its own; every other module in which something differs "
            "computes what the reference does when it is run alone: there it is inherited."
        )
    return (
        f"{places} places have errors of their own, each found with the others' results replaced "
        "by the reference's; what differs elsewhere is inherited."
    )


def alike(places: Sequence[Localisation]) -> list[str]:
    """A line for each cause that several places have: how many, what, and where."""
    found: dict[str, list[str]] = {}
    for one in places:
        if one.explanations and one.explanations[0].exact:
            found.setdefault(one.explanations[0].generic, []).append(one.path)
    lines = []
    for cause, paths in found.items():
        if len(paths) > 1:
            last = dict.fromkeys(path.rpartition(".")[2] for path in paths)
            where = ", ".join(f"`*.{name}`" for name in last)
            lines.append(f"{len(paths)} \N{MULTIPLICATION SIGN} {cause}, at {where}.")
    return lines


def _place(number: int, one: Localisation, changed: list[str]) -> list[str]:
    what = (
        "computes something else than the reference"
        if one.kind == "own"
        else "connects modules, all of which may be right, in another way"
    )
    lines = [f"{number}. {one.path} {what}; it shows at {one.edge}."]
    lines += [f"   {text.strip()}" for text in one.evidence.splitlines()[1:2]]
    explained = [each for each in one.explanations if each.exact]
    nearest = one.explanations
    own = [name for name in changed if name.rpartition(".")[0] == one.path]
    if own:
        lines.append(f"   Its weights are not the reference's: {', '.join(own)}.")
    if explained:
        which = "This explains" if len(explained) == 1 else "Each of these explains"
        lines.append(f"   {which} the port's result to rounding:")
        lines += [f"   - {each.text}" for each in explained]
        if not any(each.complete for each in explained):
            lines.append(
                "   That explains this tensor, not all that the module returns: look for another."
            )
    elif nearest:
        lines.append("   No mistake that was tried explains all of it; nearest:")
        lines += [f"   - {each}" for each in nearest]
    elif not own:
        lines.append("   No mistake that was tried explains it.")
    return lines


def _largest(result: AuditResult) -> list[str]:
    """Where the difference is largest, if that is not where it is made."""
    key, gap = result.float64.worst_tap, result.float64.worst_gap
    if module_of(key) in {one.path for one in result.localisations}:
        return []
    return [f"They differ most at {key}, by {gap:.2g}, but are not made wrong there."]


def _stage(one: Claim, places: Sequence[Localisation]) -> list[str]:
    """Where a stage of the training step fails, and whether it is at fault itself."""
    name, place = STAGES.get(one.id, one.id), one.place
    cause = f": {one.cause}" if one.cause else ""
    if not place.inherited:
        known = [number for number, other in enumerate(places, 1) if other.path == place.part]
        if known:
            return [f"- {name}: a consequence of place {known[0]}, {place.part}{cause}"]
        return [f"- {name}: {place.text}{cause}"]
    lines = [f"- {name}: a consequence, {place.text}{cause}"]
    if isinstance(one.measured, Matching):
        lines += _changed_pairs(one.measured)
        if place.part == PREDICTIONS:
            lines.append(
                "  Given the reference's predictions, the port matches as the reference does: "
                "the matching is not the cause."
            )
    return lines


def _changed_pairs(measured: Matching) -> list[str]:
    """The targets that have another query than in the reference, by layer and image."""
    lines = []
    for one in measured.places:
        ours = next((pairs for way, pairs in one["differing"].items() if "in place" in way), None)
        if ours is None:
            continue
        queries = {target: query for query, target in ours}
        changed = [
            f"target {target} has query {queries.get(target, 'none')} instead of {query}"
            for query, target in sorted(one["pairs"], key=lambda pair: pair[1])
            if queries.get(target) != query
        ]
        more = f" and {len(changed) - SHOWN} more" if len(changed) > SHOWN else ""
        lines.append(f"  {one['place']}: {'; '.join(changed[:SHOWN])}{more}")
    return lines
