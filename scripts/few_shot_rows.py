"""What a run on few cases is asked, and the row that it leaves: a comparison's, and a trunk's."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from math import inf
from pathlib import Path
from typing import Literal

from compare_rows import Asked, Budget, Row
from pydantic import Field

from u2net3d import files
from u2net3d.errors import UsageError
from u2net3d.train.nearest import Nearest

ROWS = Path("few-shot.jsonl")
Init = Literal["fresh", "nearest", "mean", "scratch"]
INITS: tuple[Init, ...] = ("fresh", "nearest", "mean", "scratch")
OTHERS = "the others"
BUDGETS = {"time": "time", "cpu": "cpu-seconds", "steps": "steps"}  # the option of each kind


class FewAsked(Asked):
    """A domain learnt from some of its patients: on the frozen trunk of a model, or from nothing.

    init: how its bank begins, as of `add-domain`; `scratch` is a network of its own, trained as a
    whole. trunk: the training of the model that the bank is added to, None for `scratch`; base:
    what tables call the domains of that model.
    """

    init: Init
    trunk: Asked | None = None
    base: str = ""

    @property
    def key(self) -> str:
        """Names the run: equal for equal runs on equal trunks, whatever those are called."""
        run = Asked(**{name: getattr(self, name) for name in Asked.model_fields}).key
        said = {"run": run, "init": self.init, "trunk": self.trunk.key if self.trunk else None}
        return files.sha256_json(said)[:16]

    @property
    def domain(self) -> str:
        """The one that is learnt."""
        return self.domains[0]

    @property
    def stands_on(self) -> str:
        """The trunk in words: its domains, its network, and all of its budget."""
        if self.trunk is None:
            return "nothing"
        return f"{self.base}, {self.trunk.preset}, {whole_budget(self.trunk)}"


class FewRow(Row):
    """A finished run. Of one on a trunk: trunk_id; trunk_dice and trunk_steps: what the trunk's own
    training came to, on the validation volumes of its domains.

    nearest: what `--init nearest` chose of what; choice_s: what that took of the budget, counted
    as the budget is.
    """

    asked: FewAsked
    nearest: Nearest | None = None
    choice_s: float = 0.0
    trunk_id: str | None = None
    trunk_dice: dict[str, float] = Field(default_factory=dict)
    trunk_steps: int = 0

    @property
    def contestant(self) -> str:
        """What tables and pictures call the run."""
        return self.asked.init


def require_one_trunk(rows: Iterable[FewRow]) -> None:
    """Raises UsageError where rows of one trunk's training stand on two trunks.

    Trained by the clock it is never the same twice, so the spread of seeds would hold both.
    """
    found: dict[str, str] = {}
    for row in rows:
        if row.asked.trunk is not None and row.trunk_id is not None:
            first = found.setdefault(row.asked.trunk.key, row.trunk_id)
            if first != row.trunk_id:
                two = f"{first[:12]} and {row.trunk_id[:12]}"
                what = f"the trunk of {row.asked.stands_on} was trained twice: {two}"
                raise UsageError("--rows", what, "name the --work that has the first, or new rows")


def whole_budget(asked: Asked) -> Budget:
    """That of all its domains together."""
    each = asked.budget
    return each.model_copy(update={"amount": round(each.amount * len(asked.domains), 3)})


def commands(rows: Sequence[FewRow]) -> list[str]:
    """What makes these rows, typed anew, and those that are missing between them: a line a trunk.

    Runs from nothing stand in the first line of their budget. DATA is the folder of the data sets.
    """
    every = [row.asked for row in rows]
    found: dict[tuple[object, ...], list[FewAsked]] = {}
    for asked in sorted(every, key=lambda each: each.trunk is None):
        place = asked.budget, asked.device, asked.fold
        beside = [key for key in found if key[:3] == place] if asked.trunk is None else []
        found.setdefault(beside[0] if beside else (*place, asked.stands_on), []).append(asked)
    return [_command(own) for own in found.values()]


def _command(own: Sequence[FewAsked]) -> str:
    asked, trunk = own[0], own[0].trunk
    domains = dict.fromkeys(n for a in own for n in (*a.domains, *(a.trunk or a).domains))
    cases = sorted({each.cases or inf for each in own})
    words = ["scripts/few-shot", "--data", "DATA", "--domains", ",".join(domains)]
    words += ["--cases", ",".join("all" if n == inf else str(n) for n in cases)]
    words += ["--inits", ",".join(i for i in INITS if i in {each.init for each in own})]
    words += ["--seeds", ",".join(map(str, sorted({each.seed for each in own})))]
    kind = asked.budget.kind
    own_amount = duration(asked.budget.amount) if kind == "time" else f"{asked.budget.amount:g}"
    words += [f"--{BUDGETS[kind]}", own_amount]
    if trunk is not None:
        most = whole_budget(trunk).amount
        words += ["--trunk-time", f"{most:g}" if kind == "steps" else duration(most)]
    preset = next((each.preset for each in own if each.trunk is None), asked.preset)
    words += ["--preset", preset] if preset != "base" else []
    named = "" if asked.base == OTHERS else asked.base
    if trunk is not None and (named or trunk.preset != preset):
        words += ["--trunks", named + trunk.preset.removeprefix(preset)]
    words += ["--threads", str(asked.budget.threads)] if asked.budget.threads else []
    words += ["--fold", str(asked.fold)] if asked.fold else []
    return shlex.join(words + (["--device", asked.device] if asked.device != "cpu" else []))


def duration(seconds: float) -> str:
    """As it is typed: 4m, 90s."""
    return f"{seconds / 60:g}m" if seconds >= 60 else f"{seconds:g}s"
