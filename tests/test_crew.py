"""The driver's side of many workers, under hundreds of invented accidents: the rows are those of one process.

Ray is replaced by `Chance`, in which any call may end next, machines come and go, and processes die; the crew and the workers
are the real ones, but for the models. tests/test_workers.py runs them in Ray.
"""

import random
from types import SimpleNamespace

import pytest

from ssd_lib.attacks import Record
from ssd_lib.experiments import Choice, answering, cluster, config_from, run_experiment, workers
from ssd_lib.experiments.cluster import Cluster, check_device, check_gpus, read_workers
from ssd_lib.experiments.crew import Job
from ssd_lib.experiments.starting import Loaded
from ssd_lib.experiments.store import Row
from ssd_lib.experiments.workers import Hired, Worker, Workers

CONFIG = config_from({"attacks": ["direct"], "defenders": ["none"], "out": "nowhere"})
SIZE = 8


class WithoutModels(Worker):
    """A worker whose models are not loaded. Its weights are `models`."""

    models = "the same"

    def __init__(self, *_):
        pass

    def load(self, config, memory, first):
        self.pair, self.config = None, config
        return Hired(Loaded({"target": self.models}, SIZE, None), {}, 0)


class Dies(Exception):
    pass


class Chance:
    """A Ray in which chance decides what ends next, and who dies. `accident` is asked with the crew before each result."""

    exceptions = SimpleNamespace(RayError=Dies, RayTaskError=type("RayTaskError", (Dies,), {}))
    __version__ = "0"

    def __init__(self, seed, accident=lambda ray, ref: False, slots=lambda ray: 3):
        self.random, self.accident, self.fit = random.Random(seed), accident, slots
        self.count, self.needs, self.ray, self.deaths, self.void = None, {"GPU": 0}, self, 0, 0
        self.alive = []

    # as a cluster

    def slots(self):
        return self.fit(self)

    def start(self, kind, *args):
        actor = SimpleNamespace(worker=WithoutModels(*args))
        for name in ("load", "ping", "answers", "prefills"):
            setattr(actor, name, SimpleNamespace(remote=lambda *args, name=name: Ref(actor, name, args)))
        self.alive.append(actor)
        return actor

    def end(self, actor):
        if actor in self.alive:
            self.alive.remove(actor)

    share = threads = reserve = lambda self, *_: 1
    close = each = lambda self: "a place"

    # as Ray

    def wait(self, refs, num_returns, timeout):
        return self.random.sample(refs, min(len(refs), self.random.randint(0, 2))), []

    def get(self, ref):
        if ref.actor in self.alive and self.accident(self, ref):
            self.deaths += 1
            self.alive.remove(ref.actor)
        if ref.actor not in self.alive:
            raise Dies("the actor died")
        return getattr(ref.actor.worker, ref.name)(*ref.args)


class Ref:
    def __init__(self, actor, name, args):
        self.actor, self.name, self.args = actor, name, args


@pytest.fixture
def fits(monkeypatch):
    """Answers without a model; how many rows of an item's batch fit into memory stands in `fits`. Polls take no time."""
    capacity: dict[str, int] = {}

    def answered(pair, records, defender, config):
        if len(records) > min(capacity.get(record.id, SIZE) for record in records):
            raise MemoryError
        return [Row(record.id, text=f"{defender.name} to {record.id}", batch_rows=len(records)) for record in records]

    monkeypatch.setattr(answering, "_answered", answered)
    monkeypatch.setattr(answering, "no_room", lambda *_: None)
    monkeypatch.setattr(answering, "_free_memory", lambda: None)  # 50 ms each
    monkeypatch.setattr(workers, "POLL", 0.0)
    return capacity


def crew_of(ray, monkeypatch):
    monkeypatch.setattr(workers, "Cluster", lambda *_: ray)
    return Workers(CONFIG, "ray", progress=False)


def batches(items, per_batch):
    records = [Record(str(item), "q", "q") for item in range(items)]
    return [
        Job(Choice("direct"), Choice(defender), records[start : start + per_batch])
        for defender in ("none", "ssd")
        for start in range(0, items, per_batch)
    ]


def written(jobs, answers):
    """What a run writes of the answers that a crew gives it: rows and sizes, in order."""
    sizes, rows = {}, []
    results = answers(jobs, lambda job: sizes.get(job.defender, SIZE))
    for job in jobs:
        found, sizes[job.defender] = next(results)
        rows.append((job.label, found, sizes[job.defender]))
    return rows


def one_process(jobs, size):
    for job in jobs:
        yield answering.answer_rows(None, job.records, job.defender, CONFIG, size(job))  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------------ equal to one process


def test_whatever_ends_first_and_whoever_dies_the_rows_are_those_of_one_process(fits, monkeypatch):
    died = asked_again = 0
    for seed in range(300):
        rng = random.Random(seed)
        jobs = batches(rng.randint(1, 60), SIZE)
        fits |= {str(item): rng.choice([1, 2, 3, 5, 8, 8, 8, 8]) if rng.random() < 0.1 else 8 for item in range(60)}
        expected, asked = written(jobs, one_process), []

        def accident(ray, ref, rng=rng, asked=asked):
            asked.append(ref.name)
            if rng.random() > 0.1 or crew_losses() > 1:
                return False
            for other in rng.sample(ray.alive, rng.randint(0, len(ray.alive))):  # a whole machine, idle workers too
                if other is not ref.actor:
                    ray.alive.remove(other)
            return True

        ray = Chance(seed, slots=lambda ray, rng=rng: rng.randint(1, 5))
        crew = crew_of(ray, monkeypatch)
        ray.accident, losses = accident, crew.losses

        def crew_losses(losses=losses, crew=crew):
            return max([*losses.values(), crew.failed_loads], default=0)

        assert written(jobs, crew.answers) == expected, f"seed {seed}"
        assert all(hand.actor in ray.alive for hand in crew.idle) or ray.deaths, "nobody is lost without a death"
        crew.close()
        assert ray.alive == [], "nobody is left behind"
        died += ray.deaths
        asked_again += asked.count("answers") - len(jobs)
    assert died > 300 and asked_again > died, "deaths and smaller sizes both made batches be asked again"


def test_results_wait_for_their_turn_and_only_so_many_are_asked_ahead(fits, monkeypatch):
    jobs, answered = batches(600, 1), []

    def accident(ray, ref):
        if ref.name == "answers":
            answered.append(int(ref.args[0][0].id))
        return False

    ray = Chance(0, accident)
    first = []
    last = {"wait": lambda refs, **_: (sorted(refs, key=lambda ref: ref in first)[:1], [])}  # the first batch ends last
    ray.__dict__.update(last)
    crew = crew_of(ray, monkeypatch)
    ask = crew._ask
    monkeypatch.setattr(crew, "_ask", lambda hand, method, task: (ask(hand, method, task), first.extend(
        ref for ref, (_, each) in crew.running.items() if each and each.place == 0)))  # fmt: skip
    results = crew.answers(jobs, lambda job: SIZE)
    assert next(results)[0][0].item == "0"
    assert answered[-1] == 0 and len(answered) == workers.AHEAD * 3
    crew.close()


# ------------------------------------------------------------------------------------------------ what ends a run


def test_a_batch_that_kills_three_workers_in_a_row_is_named(fits, monkeypatch):
    ray = Chance(0, lambda ray, ref: ref.name == "answers" and ref.args[0][0].id == "4")
    crew, done = crew_of(ray, monkeypatch), []
    results = crew.answers(batches(8, 2), lambda job: SIZE)
    with pytest.raises(RuntimeError, match=r"3 workers in a row died over one batch \(direct · none: items 4, 5\)"):
        for rows, _ in results:
            done.append(rows)
    assert len(done) == 2 and ray.deaths == 3
    crew.close()


def test_loading_that_kills_three_workers_in_a_row_is_said(fits, monkeypatch):
    with pytest.raises(RuntimeError, match="3 workers in a row died while they loaded the pair: Dies: the actor died"):
        crew_of(Chance(0, lambda ray, ref: ref.name == "load"), monkeypatch)


def test_a_cluster_without_room_says_how_to_go_on(fits, monkeypatch):
    ray = Chance(0)
    crew = crew_of(ray, monkeypatch)
    ray.fit = lambda ray: 0
    ray.accident = lambda ray, ref: True
    with pytest.raises(RuntimeError, match="no machine of the cluster has a place for a worker any more"):
        next(crew.answers(batches(8, 2), lambda job: SIZE))


def test_other_weights_on_one_worker_are_an_error(fits, monkeypatch):
    crew = crew_of(Chance(0), monkeypatch)
    monkeypatch.setattr(WithoutModels, "models", "others")
    with pytest.raises(ValueError, match="the weights of the target are not the same on all workers"):
        list(crew.answers(batches(60, 2), lambda job: SIZE))


def test_what_a_worker_raises_is_raised_here(fits, monkeypatch):
    def fails(ray, ref):
        if ref.name == "answers":
            error = Chance.exceptions.RayTaskError()
            error.cause, error.ip = OSError("no model at runs/draft"), "10.0.0.7"
            raise error

    crew = crew_of(Chance(0, fails), monkeypatch)
    with pytest.raises(OSError, match=r"^no model at runs/draft \(a worker at 10.0.0.7\)$"):
        next(crew.answers(batches(4, 2), lambda job: SIZE))


def test_prefills_come_in_order(fits, monkeypatch):
    monkeypatch.setattr(workers, "beginnings", lambda pair, records, tokens: [f"{r.id}:{tokens}" for r in records])
    parts = [job.records for job in batches(30, 4)[:8]]
    with crew_of(Chance(1), monkeypatch) as crew:
        assert list(crew.prefills(parts, 6)) == [[f"{record.id}:6" for record in part] for part in parts]


# ------------------------------------------------------------------------------------------------ how many, and where


def cluster_of(monkeypatch, nodes, workers: int | str = "ray", gpus=None, device=None):
    ray = SimpleNamespace(
        is_initialized=lambda: True, nodes=lambda: [{"Alive": alive, "Resources": node} for alive, node in nodes]
    )
    monkeypatch.setattr(cluster, "imported", lambda: ray)
    return Cluster(workers, gpus, device)


GPUS, CPUS = (True, {"CPU": 32.0, "GPU": 8.0}), (True, {"CPU": 4.0, "memory": 16e9})
GONE = (False, {"CPU": 32.0, "GPU": 8.0})


@pytest.mark.parametrize(
    ("nodes", "options", "gpus", "slots"),
    [
        ([GPUS, GPUS, GONE], {}, 1, 16),
        ([GPUS, CPUS], {}, 1, 8),
        ([GPUS], {"gpus": 2}, 2, 4),
        ([GPUS], {"gpus": 0.5}, 0.5, 16),
        ([GPUS], {"gpus": 0.3}, 0.3, 24),  # three on each GPU
        ([GPUS, CPUS], {"gpus": 0}, 0, 36),
        ([GPUS], {"device": "cpu"}, 0, 32),
        ([CPUS, CPUS], {}, 0, 8),
        ([GPUS], {"workers": 4}, 1, 4),
        ([GPUS], {"workers": 12}, 0.5, 12),  # more workers than GPUs: two share one
        ([CPUS], {"workers": 3}, 0, 3),
    ],
)
def test_as_many_workers_as_fit(nodes, options, gpus, slots, monkeypatch):
    there = cluster_of(monkeypatch, nodes, **options)
    assert there.needs["GPU"] == gpus and there.slots() == slots


def test_workers_without_a_gpu_are_as_many_as_memory_holds(monkeypatch):
    there = cluster_of(monkeypatch, [CPUS])
    there.reserve(int(7e9))
    assert there.slots() == 2
    assert cluster_of(monkeypatch, [CPUS], 2).share() == 0.5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gpus": 16}, "no machine has 1 CPU and 16 GPU for a worker: there is 32 CPU, 8 GPU"),
        ({"workers": 9, "gpus": 1}, "9 workers of 1 CPU and 1 GPU do not fit: there is 32 CPU, 8 GPU"),
        ({"gpus": 1.5}, "give a whole number, or a part of one GPU"),
        ({"gpus": -1}, "give a whole number, or a part of one GPU"),
        ({"device": "cuda:1"}, "many workers get their GPUs from Ray: give 'cuda', or leave it out"),
        ({"device": "cpu", "gpus": 1}, "contradict each other"),
    ],
)
def test_what_does_not_fit_is_said_before_a_worker_is_started(options, message, monkeypatch):
    with pytest.raises(ValueError, match=message):
        cluster_of(monkeypatch, [GPUS], **options)


def test_a_number_or_ray():
    assert [read_workers(each) for each in (1, "4", " 8 ", "ray", "ray:10.0.0.1:6379")] == [
        1, 4, 8, "ray", "ray:10.0.0.1:6379",
    ]  # fmt: skip
    for wrong in (0, -1, "0", "two", "1.5", "ray:", "Ray", "", "rays"):
        with pytest.raises(ValueError, match="give N"):
            read_workers(wrong)
    for gpus in (None, 0, 0.25, 4):
        check_gpus(gpus)
    check_device("cuda", 1)
    check_device(None, 0)


def test_workers_and_what_they_exclude(tmp_path):
    config = config_from({"attacks": ["direct"], "defenders": ["none"], "out": tmp_path})
    for options, message in [
        ({"workers": 2, "pair": object()}, "many workers load the pair themselves"),
        ({"gpus_per_worker": 0.5}, "gpus_per_worker is for many workers"),
        ({"workers": "many"}, "workers='many'"),
    ]:
        with pytest.raises(ValueError, match=message):
            run_experiment(config, **options)


def test_without_ray_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    config = config_from({"attacks": ["direct"], "defenders": ["none"], "out": tmp_path})
    with pytest.raises(ImportError, match=r"many workers need ray .*pip install 'ssd_lib\[cluster\]'"):
        run_experiment(config, workers=2)
