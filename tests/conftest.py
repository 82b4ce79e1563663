"""Fixtures shared by all rooms: a small tokenizer, one Ray and one MLflow server for all tests that need them."""

import collections
import contextlib
import functools
import gc
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import hypothesis
import psutil
import pytest

sys.path.append(str(Path(__file__).with_name("forked")))
import forked_ray

# with `sitecustomize.py` there
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (sys.path[-1], os.environ.get("PYTHONPATH"))))

# a busy machine's wall clock is no fault of an example; more of them: `pytest --hypothesis-profile nightly`
hypothesis.settings.register_profile("ci", deadline=None, print_blob=True)
hypothesis.settings.register_profile("nightly", deadline=None, max_examples=2000, print_blob=True)
hypothesis.settings.load_profile("ci")

gc.set_threshold(10_000, 20, 50)  # millions of objects die by their counts: a twelfth less CPU
# before torch is imported: tiny models gain nothing from threads, and on a busy machine threads wait for each other
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["CLINSCALE_RUN_KEYS"] = str(Path(tempfile.gettempdir()) / f"clinscale-tests-keys-{os.getuid()}")
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # hundreds of processes would compile what they import
# Ray gives the processes of a node 30 s to come up and a worker 60, which two busy cores do not always keep
os.environ.setdefault("RAY_agent_register_timeout_ms", "180000")
os.environ.setdefault("RAY_worker_register_timeout_seconds", "180")
# a shell starts background jobs deaf to Ctrl-C, and so would be what the tests start and interrupt
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # which `nohup` makes it deaf to


TOGETHER = {
    "ray": (
        "tests/cli/test_demo.py",
        "tests/sweep/test_run.py",
        "tests/sweep/test_nodes.py",
        "tests/pretrain/test_run.py",
        "tests/finetune/test_group.py",
        "tests/predict/test_workers.py",
        "tests/runtime/",
        "tests/corpus/test_parts.py",
        "tests/bench/test_corpus.py",
        "tests/bench/test_recipe.py",
        "tests/bench/search/test_noop.py",
        "tests/test_telemetry.py",
        "tests/forked/",
    ),
    "ray up": ("tests/launch/test_up.py",),
    "slurm": ("tests/launch/test_slurm.py",),
    "loopback": ("tests/launch/test_preflight.py", "tests/launch/test_submit.py"),
    "team": (
        "tests/registry/test_real_server.py",
        "tests/predict/test_pyfunc.py",
        "tests/promotion/test_promote.py",
    ),
    "faults": ("tests/bench/faults/",),
    "tune": ("tests/cli/test_tune.py",),
}
"""Files that share a Ray or a server, or are longer than others, the longest first; with `-n 3` three Rays run at most.

Their nodes start one after another (`runtime.one_start_at_a_time`), which two cores need.
"""


def together(nodeid):
    """What a test shares: a key of `TOGETHER`, or its file."""
    shared = (name for name, files in TOGETHER.items() if nodeid.startswith(files))
    return next(shared, nodeid.partition("::")[0])


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """For `pytest -n`: tests of one file share its fixtures, and some files a Ray."""
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            return together(nodeid)

    return ByFile(config, log)


def pytest_ignore_collect(collection_path, config):
    """With `-m "this or that"`, files that have none of these markers are not imported, which takes half a minute."""
    expression = config.getoption("markexpr")
    names = expression.split(" or ")
    if collection_path.suffix == ".py" and all(name.isidentifier() for name in names):
        text = collection_path.read_text()
        return None if any(f"mark.{name}" in text for name in names) else True
    return None


def pytest_collection_modifyitems(items):
    """The longest begin."""
    order = {name: place for place, name in enumerate(TOGETHER)}
    items.sort(key=lambda item: order.get(together(item.nodeid), len(order)))


def pytest_collection_finish(session):
    """What is imported stays, so the collector looks at it no more; what is selected starts Ray: workers are forks."""
    gc.collect()
    gc.freeze()
    if any(item.get_closest_marker(name) for item in session.items for name in ("ray", "cluster")):
        session.config.add_cleanup(forked_ray.begin())


minutes = collections.Counter()
"""By room, in the process that reports."""


def pytest_runtest_logreport(report):
    minutes[report.nodeid.split("/")[1].partition("::")[0]] += report.duration / 60


def pytest_terminal_summary(terminalreporter):
    """What each room costs, so that a change that makes one dearer is seen in its own run."""
    if sum(minutes.values()) > 1:
        dear = [f"{room} {spent:.1f}" for room, spent in minutes.most_common() if spent >= 0.05]
        terminalreporter.write_line(f"minutes of each room: {', '.join(dear)}; {sum(minutes.values()):.1f} in all")


@pytest.fixture(scope="session")
def fork_workers():
    """Opens a session of two workers that are forks of one process with everything imported."""
    from clinscale import runtime

    modules = ("clinscale.engine.preload", "clinscale.pretrain", "clinscale.finetune", "clinscale.sweep")
    modules = (*modules, "sklearn.metrics")  # which a worker imports when it scores for the first time
    return functools.partial(runtime.fork_session, *modules, num_cpus=2)


@pytest.fixture
def forks(fork_workers):
    """Such a session."""
    with fork_workers() as cluster:
        yield cluster


@pytest.fixture(scope="session")
def tokenizer():
    """A byte-level BPE with RoBERTa's special tokens and layout, trained on a few invented sentences."""
    import tokenizers
    import transformers
    from tokenizers import decoders, models, pre_tokenizers, processors, trainers

    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    backend = tokenizers.Tokenizer(models.BPE(unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    sentences = [
        "Patient admitted with chest pain and shortness of breath.",
        "Metoprolol 25 mg was given twice daily for atrial fibrillation.",
        "Chest radiograph shows no acute cardiopulmonary process.",
        "What dose of metoprolol was given to the patient?",
    ] * 20
    backend.train_from_iterator(
        sentences,
        trainers.BpeTrainer(
            vocab_size=500, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
        ),
    )
    backend.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<s>",
        cls_token="<s>",
        pad_token="<pad>",
        eos_token="</s>",
        sep_token="</s>",
        unk_token="<unk>",
        mask_token="<mask>",
    )


@pytest.fixture(scope="session")
def mlflow_database(tmp_path_factory):
    """An empty MLflow database; making its schema takes seconds, copying it does not."""
    from clinscale import registry

    home = tmp_path_factory.mktemp("mlflow")
    registry.connect(f"sqlite:///{home / 'mlflow.db'}")
    return home / "mlflow.db"


@pytest.fixture
def tracking(mlflow_database, tmp_path, monkeypatch):
    """A fresh tracking database of the test's own, below `tmp_path`."""
    from clinscale import registry

    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"):
        monkeypatch.delenv(name, raising=False)
    shutil.copy(mlflow_database, tmp_path / "mlflow.db")
    return registry.connect(home=tmp_path)


@pytest.fixture(scope="session")
def demo_data(tmp_path_factory):
    """The folder of the demo's invented data, a tenth of its size."""
    from clinscale.synthetic import write_demo_data

    folder = tmp_path_factory.mktemp("demo-data")
    write_demo_data(folder, scale=0.1)
    return folder


@pytest.fixture(scope="session")
def shards(tmp_path_factory, demo_data):
    """A ShardSet of the demo's notes."""
    from clinscale.corpus import CorpusConfig, SourceConfig, build_shards

    notes = SourceConfig(uri=str(demo_data / "notes" / "notes.jsonl.gz"), id_column="id")
    config = CorpusConfig(sources=(notes,), vocab_size=1024, validation_fraction=0.15)
    return build_shards(config, str(tmp_path_factory.mktemp("shards") / "notes"))


@pytest.fixture(scope="session")
def base_models(tmp_path_factory, shards):
    """Folders of two untrained tiny base models, by family."""
    from clinscale import corpus, models

    tokenizer = corpus.load_tokenizer(str(shards.tokenizer_dir))
    folder = tmp_path_factory.mktemp("bases")
    return {
        family: str(
            models.save_hf(
                models.build(models.ModelConfig(family=family, size="tiny"), tokenizer, seed=0),
                tokenizer,
                folder / family,
            )
        )
        for family in ("longformer", "bigbird")
    }


@pytest.fixture(scope="session")
def ray_cluster():
    """One local Ray of two CPUs for all tests of the `ray` tier; it leaves no process behind."""
    from clinscale.runtime import ray_session

    before = set(psutil.Process().children(recursive=True))
    with ray_session(num_cpus=2) as cluster:
        of_ray = set(psutil.Process().children(recursive=True)) - before
        yield cluster
    _, alive = psutil.wait_procs(of_ray, timeout=120)
    assert not alive


@pytest.fixture(scope="session")
def clinscale(tmp_path_factory):
    """`clinscale(*arguments, cwd=..., **environment)` -> CompletedProcess, as a shell runs it; `warm.py` says how."""
    folder = tmp_path_factory.mktemp("commands")
    inherited = forked_ray.clean_environment()
    inherited["HF_HUB_OFFLINE"] = "1"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    warm = subprocess.Popen(
        [sys.executable, Path(__file__).with_name("warm.py")], env=inherited, text=True, bufsize=1, **pipes
    )

    def run(*arguments, cwd=folder, **environment):
        said = {name: folder / name for name in ("stdout", "stderr")}
        for path in said.values():
            path.write_text("")
        asked = {"arguments": [*map(str, arguments)], "cwd": str(cwd), "environment": inherited | environment}
        warm.stdin.write(json.dumps(asked | {name: str(path) for name, path in said.items()}) + "\n")
        code = int(warm.stdout.readline())
        return subprocess.CompletedProcess(arguments, code, *(path.read_text() for path in said.values()))

    yield run
    warm.stdin.close()
    assert warm.wait() == 0


class TeamServer:
    """What `clinscale cluster mlflow` serves on a PostgreSQL, in processes of its own."""

    def __init__(self, folder, database, password_file):
        from clinscale import registry

        self.port = free_port()
        self.folder = registry.ServerFolder(folder / "home" / "server")
        self.log = folder / "server.log"
        self.password_file = password_file
        self.passwords = {}
        self.uri = f"http://127.0.0.1:{self.port}"
        self._home = folder / "home"
        self._database = database
        self._process = None

    def start(self):
        command = [
            sys.executable,
            "-m",
            "clinscale",
            "cluster",
            "mlflow",
            "--home",
            self._home,
            "--port",
            self.port,
        ]
        command += ["--database", self._database, "--database-password-file", self.password_file]
        past = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("ab") as log:
            self._process = subprocess.Popen([str(part) for part in command], stdout=log, stderr=log)
        for _ in range(1600):
            said = self.log.read_bytes()[past:].decode()
            if "MLflow answers at" in said:
                break
            assert self._process.poll() is None, said
            time.sleep(0.2)
        else:
            raise AssertionError(said)
        self.passwords["admin"] = self.folder.account().password

    def stop(self):
        self._process.terminate()
        assert self._process.wait(timeout=60) == 0
        assert not self.processes()

    def kill(self, processes=None):
        """SIGKILL to all of it at once, as a power cut does; to find its `processes` takes a busy machine a while."""
        for process in processes or self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        self._process.wait()

    def restart(self):
        if self._process.poll() is None:
            self.kill()
        self.start()

    def processes(self):
        import psutil

        try:
            own = psutil.Process(self._process.pid)
            return [own.pid, *(child.pid for child in own.children(recursive=True))]
        except psutil.NoSuchProcess:
            return []

    def user(self, name, role):
        """A user of that name and role, made on first use."""
        from clinscale import registry

        with self.login("admin") as tracking:
            password = self.passwords.setdefault(name, secrets.token_urlsafe(12))
            registry.set_user(tracking, name, role, password)

    @contextlib.contextmanager
    def login(self, name, password=None):
        """MLflow's variables name that user while the block runs; the server as that user sees it."""
        from clinscale import registry

        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("MLFLOW_TRACKING_USERNAME", name)
            patch.setenv("MLFLOW_TRACKING_PASSWORD", password or self.passwords[name])
            patch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "60")  # a busy machine's first answer takes a while
            yield registry.connect(self.uri)


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.fixture(scope="session")
def postgres():
    """A PostgreSQL of our own on loopback: `(URI without password, file of the password)`."""
    programs = next(iter(sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)), None)
    if programs is None:
        pytest.skip("no PostgreSQL is installed; apt-get install postgresql runs this test")
    import psycopg

    folder = Path(tempfile.mkdtemp(prefix="clinscale-postgres-"))  # pytest's folders are closed to other users
    account = {}
    if os.getuid() == 0:  # PostgreSQL refuses to run as root
        shutil.chown(folder, "postgres", "postgres")
        account = {"user": "postgres", "group": "postgres", "extra_groups": []}

    def run(program, *arguments):
        log = folder / "programs.log"
        with log.open("ab") as stream:
            ended = subprocess.run(
                [programs / program, *arguments], cwd=folder, stdout=stream, stderr=stream, check=False, **account
            )
        assert ended.returncode == 0, log.read_text()

    port, secret = free_port(), folder / "password"
    secret.write_text("it's 100%:@/?#[] safe")
    secret.chmod(0o644)
    run("initdb", "-D", folder / "data", "-U", "clinscale", "--auth=scram-sha-256", f"--pwfile={secret}")
    secret.chmod(0o600)
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder} -c fsync=off"
    run("pg_ctl", "-D", folder / "data", "-l", folder / "postgres.log", "-w", "-o", options, "start")
    try:
        login = {"user": "clinscale", "password": secret.read_text(), "host": "127.0.0.1", "port": port}
        with psycopg.connect(dbname="postgres", autocommit=True, **login) as connection:
            connection.execute("CREATE DATABASE mlflow")
        yield f"postgresql://clinscale@127.0.0.1:{port}/mlflow", secret
    finally:
        run("pg_ctl", "-D", folder / "data", "-m", "immediate", "stop")
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def team_server(postgres, tmp_path_factory):
    """A `TeamServer` that runs; tests that stop it start it again."""
    server = TeamServer(tmp_path_factory.mktemp("team"), *postgres)
    server.start()
    try:
        yield server
        server.stop()
    finally:
        server.kill()
