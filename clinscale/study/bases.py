"""The base models of a study: as they are, converted, or pretrained further without the tasks' test documents."""

import contextlib
import dataclasses
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from clinscale import corpus, models, registry
from clinscale.config import fingerprint
from clinscale.errors import ConfigError, DataError, RegistryError
from clinscale.hub import is_hub_name
from clinscale.pretrain import has_trained, pretrain
from clinscale.runfolder import check_unchanged
from clinscale.study.grid import StudyTask, is_asked
from clinscale.study.protocol import Protocol
from clinscale.sweep import SweepConfig, SweepProgress

Event = Callable[[str], None]
"""Called with a sentence on the step that begins."""


@dataclass(frozen=True)
class Watch:
    """Displays of a study's long steps: opened for each step, they give the function that is called as it goes on."""

    steps: Callable[[str], AbstractContextManager[Callable[[int, int | None, dict[str, float]], None]]]
    """Display of a corpus or a base in the making, by its title: called with what is done, of how much, and metrics."""
    search: Callable[[SweepConfig], AbstractContextManager[Callable[[SweepProgress], None]]]
    """Display of one search."""


@contextlib.contextmanager
def _unwatched(_: object) -> Iterator[Callable[..., None]]:
    yield lambda *progress: None


UNWATCHED = Watch(_unwatched, _unwatched)
"""Nothing is shown."""


@dataclass(frozen=True)
class Bases:
    """The bases of one protocol, and how they are made in the folder of its study."""

    protocol: Protocol
    folder: Path
    """Folder of the study, which may not be there yet."""
    tracking: registry.Tracking
    home: str | Path

    def missing(self) -> dict[str, str]:
        """The reason by base whose weights cannot be there, and that of a corpus that cannot be read."""
        failures = {}
        for name, base in self.protocol.bases.items():
            is_as_published = base.convert_to is None and base.pretrain is None
            if not is_as_published and self.place_of(name):
                continue
            try:
                self._check_weights(base.pretrained, may_be_registered=is_as_published)
            except (DataError, RegistryError) as error:
                failures[f"base {name}"] = str(error)
        try:
            self.check_corpus()
        except DataError as error:
            failures["corpus"] = str(error)
        return failures

    def _check_weights(self, name: str, *, may_be_registered: bool) -> None:
        """DataError or RegistryError where no model has that name; what the hub holds is not asked."""
        if Path(name).is_dir():
            models.check_hf_folder(name)
        elif may_be_registered and registry.is_reference(name):
            registry.resolve(self.tracking, name)
        elif not is_hub_name(name):
            pull = f"; clinscale pull {name} --out FOLDER makes a folder of a version" if "@" in name else ""
            raise DataError(f"{name} is no folder here, and no hub name (ORG/NAME); correct it{pull}")

    def check_corpus(self) -> None:
        """DataError where a base is still to be pretrained on a corpus that cannot be read."""
        wanted = [name for name, base in self.protocol.bases.items() if base.pretrain is not None]
        if self.protocol.corpus is None or all(self._registered(name) for name in wanted):
            return
        config = self.protocol.corpus_of(None)
        corpus.check_sources(config.sources, config.cleaning)

    def with_seen_tests(
        self, tasks: list[StudyTask], failures: dict[str, str]
    ) -> tuple[list[StudyTask], set[str]]:
        """The tasks, and the names of those whose test documents a ShardSet of the bases may hold.

        A task whose test documents were others when they were kept out of the corpus loses its data, and is added to
        the failures.

        Raises:
            ConfigError: a ShardSet may hold test documents, and that is not allowed.
        """
        pretrained = [name for name, base in self.protocol.bases.items() if base.pretrain is not None]
        if not pretrained:
            return tasks, set()
        built = {self._shards_of(name) for name in pretrained if self._is_settled(name)}
        kept, seen = list[StudyTask](), set[str]()
        for place in [self.protocol.shards] if self.protocol.shards else sorted(map(str, built)):
            kept_out = set(corpus.open_shards(place).manifest.leakage)
            judged = [task for task in tasks if task.data or self.protocol.shards]
            if now := {task.name for task in judged if not {task.name, task.config.name} & kept_out} - seen:
                seen |= now
                if not self.protocol.allow_seen_tests:
                    advice = (
                        "build it with --leakage TASK=PATH, give corpus in place of shards,"
                        if self.protocol.shards
                        else "drop these tasks, begin anew under another name,"
                    )
                    raise ConfigError(
                        f"ShardSet {place} was built without keeping out the test documents of "
                        f"{', '.join(sorted(now))}; {advice} or set allow_seen_tests=true, "
                        "which the league table then says"
                    )
        for task in tasks:
            try:
                if task.data and built and task.name not in seen:
                    check_unchanged(
                        self.folder, _tests_of(task), fingerprint(task.data.texts("test")), records=False
                    )
            except DataError as error:
                failures[f"task {task.name}"] = str(error)
                task = dataclasses.replace(task, data=None)
            kept.append(task)
        return kept, seen

    def _sharing_shards(self, name: str) -> list[str]:
        """The bases that are pretrained on the same ShardSet of the corpus, as they begin from one source."""
        source = self.protocol.bases[name].pretrained
        return [
            other
            for other, base in self.protocol.bases.items()
            if base.pretrain is not None and base.pretrained == source
        ]

    def _shards_of(self, name: str) -> Path:
        """The ShardSet of the corpus that a base is pretrained on."""
        return self.folder / "shards" / self._sharing_shards(name)[0]

    def _is_settled(self, name: str) -> bool:
        """Whether a base has been pretrained on that ShardSet, which then stays as it is."""
        return (
            self.protocol.shards is None
            and any(
                has_trained(f"{self.protocol.name}-{other}", home=self.home)
                for other in self._sharing_shards(name)
            )
            and corpus.is_shard_set(self._shards_of(name))
        )

    def asked(self, tasks: Sequence[StudyTask]) -> list[str]:
        """The bases of models that some task is asked of, in the order of the protocol; no other is made."""
        asked = {
            arm.base for arm in self.protocol.models.values() if any(is_asked(task, arm.kinds) for task in tasks)
        }
        return [name for name in self.protocol.bases if name in asked]

    def place_of(self, name: str) -> str | None:
        """Reference by which a finished base is fetched; None where it is still to be made."""
        base = self.protocol.bases[name]
        if base.pretrain is not None:
            return self._registered(name)
        if base.convert_to is None:
            return base.pretrained
        converted = self._converted(name)
        return str(converted) if (converted / "config.json").is_file() else None

    def _registered(self, name: str) -> str | None:
        """The version of a base that has been pretrained; None where it is still to be."""
        version = registry.find_version(self.tracking, f"{self.protocol.name}-{name}@champion")
        return version.label if version else None

    def _converted(self, name: str) -> Path:
        """HF folder of a base that is converted; it appears whole."""
        return self.folder / "bases" / name

    def make(self, name: str, tasks: list[StudyTask], *, say: Event, watch: Watch) -> str:
        """The base as fine-tuning fetches it: a folder, or a version of the registry."""
        base = self.protocol.bases[name]
        if base.pretrain is not None:
            shards = self.protocol.shards or (
                str(self._shards_of(name)) if self._is_settled(name) else self._build_corpus(name, tasks, watch)
            )
            config = self.protocol.pretraining(name, shards)
            with watch.steps(f"Pretraining {name}") as on_progress:
                done = pretrain(
                    config, tracking=self.tracking, home=self.home, on_progress=on_progress, on_event=say
                )
            return done.version.label
        made = self.place_of(name)
        if base.convert_to is None:
            try:
                self._check_weights(base.pretrained, may_be_registered=True)
            except RegistryError as error:  # of this base alone
                raise DataError(str(error)) from None
        if base.convert_to is not None and (source := models.model_fingerprint(base.pretrained)):
            check_unchanged(self.folder, f"model {base.pretrained}", source)
        if made is not None:
            return made
        say(f"converting {name} to {base.convert_to}")
        converted = self._converted(name)
        for left in converted.parent.glob(f".{name}.*"):  # by a start that was killed
            shutil.rmtree(left, ignore_errors=True)
        models.convert_to_folder(base.model, corpus.load_tokenizer(base.pretrained), converted)
        return str(converted)

    def _build_corpus(self, name: str, tasks: list[StudyTask], watch: Watch) -> str:
        """A ShardSet in the tokens of the base, without the test documents of the tasks."""
        source = self.protocol.bases[name].pretrained
        missing = [task.name for task in tasks if task.data is None]
        if missing and not self.protocol.allow_seen_tests:
            raise DataError(
                f"the test documents of {', '.join(missing)} cannot be kept out of the corpus, as their data cannot be "
                "read; give their data, drop the tasks, or set allow_seen_tests=true"
            )
        texts = {task.name: task.data.texts("test") for task in tasks if task.data}
        with watch.steps(f"Notes of the corpus in the tokens of {source}") as on_progress:
            place = corpus.build_shards(
                self.protocol.corpus_of(source),
                str(self._shards_of(name)),
                test_texts=texts,
                on_progress=lambda notes: on_progress(notes, None, {}),
            ).uri
        for task in tasks:
            if task.data:
                check_unchanged(self.folder, _tests_of(task), fingerprint(texts[task.name]), is_new=True)
        return place


def _tests_of(task: StudyTask) -> str:
    """Name under which the fingerprint of a task's test documents is recorded that are not in the corpus."""
    return f"the test documents of {task.name}, which were kept out of the corpus,"
