"""A search's study: trials in a SQLite file that several processes share.

Optuna proposes values and decides which trials are pruned. The process of a trial holds a lock,
which the operating system releases when the process ends. A running trial without a lock was
killed; the next process that looks for a trial resumes it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from filmvqa.settings.effects import Effect
from filmvqa.settings.nested import differences
from filmvqa.studies.search.settings import SearchSettings, dimensions
from filmvqa.system.errors import UserError, one_line
from filmvqa.system.layout import RunLayout
from filmvqa.system.locks import folder_lock
from filmvqa.system.tables import text_table
from filmvqa.training.config_changes import config_changes
from filmvqa.training.curves import update_curves
from filmvqa.training.run import train_run
from filmvqa.training.settings import RunSettings

if TYPE_CHECKING:
    import optuna

#: A process ends after this many failed trials in a row: their values are not the cause.
MAX_FAILURES = 3
#: Seconds to wait while another process claims a trial.
_SECONDS_FOR_NEXT = 120.0


class Study:
    """A search in a folder, which contains ``study.db`` and a run's folder for each trial.

    Parameters
    ----------
    config
        The training config as plain data (``RunSettings.config``); trials differ from it only in
        their values.

    Raises
    ------
    UserError
        If Optuna is not installed, or the folder holds a search of another config or space.
    """

    def __init__(
        self, folder: str | Path, settings: SearchSettings, config: Mapping[str, Any]
    ) -> None:
        try:
            import optuna
        except ImportError as error:
            raise UserError(
                f"scripts/search.py: needs the package optuna ({one_line(error)}); run "
                "pip install 'filmvqa[search]'"
            ) from None
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._optuna = optuna
        self.folder, self.settings = Path(folder), settings
        self.dimensions = dimensions(settings.space)
        self.path = self.folder / "study.db"
        with self._locked():
            self._study = self._open()
            self._compare(config)

    def _open(self) -> optuna.Study:
        from sqlalchemy.engine import URL

        settings, pruners = self.settings, self._optuna.pruners
        pruner = pruners.NopPruner()
        if settings.prune:
            pruner = pruners.MedianPruner(settings.prune_after_trials, settings.prune_after_steps)
        address = URL.create("sqlite", database=str(self.path.absolute()))
        try:
            storage = self._optuna.storages.RDBStorage(
                address.render_as_string(), engine_kwargs={"connect_args": {"timeout": 60}}
            )
            return self._optuna.create_study(
                storage=storage, study_name="search", direction="maximize", load_if_exists=True,
                pruner=pruner,
            )  # fmt: skip
        except Exception as error:
            raise UserError(
                f"{self.path}: is no study that can be read ({one_line(error)}); move it away, or "
                "choose another run=<name>"
            ) from None

    def _compare(self, config: Mapping[str, Any]) -> None:
        """Record what is searched, or compare it with the record."""
        recorded = self._study.user_attrs
        if "space" not in recorded:
            self._study.set_user_attr("config", config)
            self._study.set_user_attr("space", self.settings.space)  # last: marks both as written
            return
        changed = config_changes(recorded["config"], config).of(Effect.RESULT, Effect.LENGTH)
        space = {"space": recorded["space"]}, {"space": self.settings.space}
        changed += [f"search.{line}" for line in differences(*space)]
        if changed:
            raise UserError(
                f"{self.folder}: holds a search of another config ({'; '.join(changed)}); choose "
                "another run=<name>"
            )

    def _locked(self) -> Any:
        return folder_lock(self.folder, "study", patience=_SECONDS_FOR_NEXT)

    def layout(self, number: int) -> RunLayout:
        """The layout of a trial's run."""
        return RunLayout(self.folder / f"trial_{number:04d}")

    @contextmanager
    def next_trial(self) -> Iterator[optuna.Trial | None]:
        """Claim a trial for this process: an interrupted one, else a new one; None if the search
        has all its trials."""
        with ExitStack() as held:
            with self._locked():
                trial = self._claim(held)
            yield trial

    def _claim(self, held: ExitStack) -> optuna.Trial | None:
        states = self._optuna.trial.TrialState
        trials = self._study.get_trials(deepcopy=False)
        for trial in trials:
            if trial.state == states.RUNNING:
                try:
                    held.enter_context(self._trial_lock(trial.number))
                except UserError:
                    continue  # another process runs it
                return self._optuna.Trial(self._study, trial._trial_id)
        if sum(trial.state != states.FAIL for trial in trials) >= self.settings.trials:
            return None
        # A seed for each trial: processes propose different values, and a search is repeatable.
        seed = int(np.random.SeedSequence([self.settings.seed, len(trials)]).generate_state(1)[0])
        self._study.sampler = self._optuna.samplers.TPESampler(seed=seed, constant_liar=True)
        new = self._study.ask()
        held.enter_context(self._trial_lock(new.number))
        return new

    def _trial_lock(self, number: int) -> Any:
        return folder_lock(self.folder, self.layout(number).folder.name)

    def values(self, trial: optuna.Trial) -> dict[str, Any]:
        """The values of a trial, by key; a resumed trial keeps its values."""
        values: dict[str, Any] = {}
        for key, dimension in self.dimensions.items():
            if isinstance(dimension, list):
                values[key] = trial.suggest_categorical(key, dimension)
                continue
            low, high = dimension.low, dimension.high
            if isinstance(low, int) and isinstance(high, int):
                values[key] = trial.suggest_int(key, low, high, log=dimension.log)
            else:
                values[key] = trial.suggest_float(key, low, high, log=dimension.log)
        return values

    def train(self, trial: optuna.Trial, settings: RunSettings) -> None:
        """Train a trial until it ends or is pruned, and record the result.

        Raises
        ------
        UserError
            If the run fails; the failure is recorded.
        """
        states, layout = self._optuna.trial.TrialState, self.layout(trial.number)
        reported = self._study.trials[trial.number].intermediate_values
        is_pruned = False

        def end_after(step: int, accuracy: float) -> bool:
            nonlocal is_pruned
            if step not in reported:
                trial.report(accuracy, step)
            is_pruned = bool(trial.should_prune())
            return is_pruned

        try:
            best_accuracy = train_run(layout.folder, settings, end_after=end_after)
            update_curves(layout)
        except Exception as error:
            trial.set_user_attr("failure", one_line(error, 1000))
            self._study.tell(trial, state=states.FAIL)
            raise
        if is_pruned:
            print(f"{layout.folder}: pruned")
            self._study.tell(trial, state=states.PRUNED)
        else:
            self._study.tell(trial, best_accuracy)

    def table(self) -> str:
        """Format the trials, best first; a pruned trial has its last accuracy."""
        rows = [["trial", *self.dimensions, "validation", "ended"]]
        trials = self._study.get_trials(deepcopy=False)
        for trial in sorted(trials, key=lambda t: -1.0 if t.value is None else t.value)[::-1]:
            accuracy = "" if trial.value is None else f"{100 * trial.value:.2f}%"
            values = [_format_value(trial.params.get(key)) for key in self.dimensions]
            name = self.layout(trial.number).folder.name
            rows.append([name, *values, accuracy, trial.state.name.lower()])
        return text_table(rows)


def run_search(study: Study, settings_of: Callable[[dict[str, Any]], RunSettings]) -> None:
    """Train trials until the search is complete.

    Parameters
    ----------
    settings_of
        Makes the run's settings from values by key.

    Raises
    ------
    UserError
        If a key refuses a value of its range or choices, before the first trial. If trials failed:
        after the other trials, or after ``MAX_FAILURES`` failures in a row.
    """
    for key, dimension in study.dimensions.items():
        samples = dimension if isinstance(dimension, list) else [dimension.low, dimension.high]
        for value in samples:
            settings_of({key: value})
    failures: list[str] = []
    failed_in_a_row = 0
    while failed_in_a_row < MAX_FAILURES:
        with study.next_trial() as trial:
            if trial is None:
                break
            values = study.values(trial)
            folder = study.layout(trial.number).folder
            print(f"{folder}: " + ", ".join(f"{k}={_format_value(v)}" for k, v in values.items()))
            try:
                study.train(trial, settings_of(values))
                failed_in_a_row = 0
            except UserError as error:
                failures.append(f"{folder.name}: {error}")
                failed_in_a_row += 1
                print(f"{failures[-1]}; the search continues with other trials")
    print(study.table())
    if failures:
        raise UserError(f"{len(failures)} of the search's trials failed: {' | '.join(failures)}")


def _format_value(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
