import math
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from u2net3d.errors import DataError
from u2net3d.patches.loader import DomainLoader, Prefetcher, round_robin


@pytest.fixture
def make_loader(noisy_case, make_spec):
    def make(name="liver", cases=5, seed=0, share=1 / 3, **spec):
        some = [noisy_case((9, 12, 11), f"case{i}", seed=i) for i in range(cases)]
        return DomainLoader(make_spec(name=name, **spec), some, seed, share)

    return make


def same(one, other):
    return (
        torch.equal(one.image, other.image)
        and torch.equal(one.label, other.label)
        and one.domain == other.domain
    )


def test_a_step_gives_the_same_batch_in_any_order_and_after_a_restart(make_loader):
    forwards = make_loader()
    batches = {step: forwards.batch(step) for step in range(8)}
    again = make_loader()
    assert all(same(again.batch(step), batches[step]) for step in (5, 0, 7, 3, 3))


def test_another_seed_step_or_domain_gives_another_batch(make_loader):
    loader = make_loader()
    first = loader.batch(0)
    others = [loader.batch(1), make_loader(seed=1).batch(0), make_loader("heart").batch(0)]
    assert not any(torch.equal(first.image, other.image) for other in others)


def test_a_batch_has_the_promised_shape_types_and_memory_order(make_loader, noisy_case, make_spec):
    case = noisy_case((9, 12, 11), channels=2)
    for spec in (make_spec(channels=2), make_spec(channels=2, batch=1)):
        batch = DomainLoader(spec, [case], 0, 1 / 3).batch(0)
        assert batch.image.shape == (spec.plan.batch_size, 2, 8, 10, 12)
        assert batch.image.dtype == torch.float32
        assert batch.image.is_contiguous(memory_format=torch.channels_last_3d)
        assert batch.label.shape == (spec.plan.batch_size, 8, 10, 12)
        assert batch.label.dtype == torch.int64
    batch = make_loader().batch(0)
    assert batch.image.is_contiguous(memory_format=torch.channels_last_3d)


def test_labels_hold_only_known_values_and_ignored(make_loader):
    loader = make_loader()
    values = {v for step in range(20) for v in loader.batch(step).label.unique().tolist()}
    assert values == {-1, 0, 1, 2}  # the volume is smaller than the patch along W


def test_the_last_samples_of_a_batch_hold_foreground(make_case, make_spec):
    label = np.zeros((60, 60, 60))
    label[30, 30, 30] = 1
    case = make_case(label[None], label)
    spec = make_spec(patch=(16, 16, 16), batch=5)
    loader = DomainLoader(spec, [case], 0, 0.4)
    held = np.array([(loader.batch(s).label == 1).flatten(1).any(1).numpy() for s in range(30)])
    # A voxel zoomed out to 0.7 or turned may fall between the grid: few samples, not none.
    assert held[:, 3:].mean() > 0.8
    assert held[:, :3].mean() < 0.2


def test_every_case_is_seen_once_an_epoch(make_case, make_spec):
    shape = (8, 10, 12)
    # Of one grey value each, far apart: no augmentation takes one for another.
    cases = [make_case(np.full((1, *shape), 1000.0 * 4**i), np.zeros(shape)) for i in range(6)]
    loader = DomainLoader(make_spec(batch=4), cases, 0, 1 / 3)
    for epochs in range(0, 9, 3):  # 3 steps of 4 samples: 2 epochs of 6 cases
        images = torch.cat([loader.batch(epochs + i).image for i in range(3)])
        seen = [round(math.log(value / 1000, 4)) for value in images.flatten(1).mean(1).tolist()]
        assert sorted(seen[:6]) == sorted(seen[6:]) == list(range(6))


def test_a_domain_without_cases_is_refused(make_spec):
    with pytest.raises(DataError, match="liver: no case to learn from"):
        DomainLoader(make_spec(), [], 0, 1 / 3)


def test_a_broken_case_is_named(make_loader, make_case, make_spec):
    broken = make_case(np.zeros((1, 2, 2, 2)), np.zeros((20, 20, 20)), "broken7")
    with pytest.raises(DataError, match="liver, case broken7: no patch could be cut"):
        DomainLoader(make_spec(), [broken], 0, 1 / 3).batch(0)


def test_domains_take_turns_each_with_its_own_count(make_loader):
    loaders = [make_loader("liver"), make_loader("heart"), make_loader("spleen")]
    batches = list(round_robin(loaders, 4, 9))
    assert [b.domain for b in batches] == ["heart", "spleen", "liver", "heart", "spleen"]
    expected = [loaders[t % 3].batch(t // 3) for t in range(4, 9)]
    assert all(same(*pair) for pair in zip(batches, expected, strict=True))


def test_reading_ahead_changes_neither_order_nor_bits(make_loader):
    loaders = [make_loader("liver"), make_loader("heart")]
    with Prefetcher(round_robin(loaders, 0, 9), ahead=2) as ahead:
        read = list(ahead)
        assert list(ahead) == []  # over stays over
    plain = list(round_robin(loaders, 0, 9))
    assert all(same(*pair) for pair in zip(read, plain, strict=True))


def test_reading_ahead_stops_at_the_number_asked_for(make_loader):
    loader, made, enough = make_loader(), [], threading.Event()

    def batches():
        for step in range(100):
            made.append(step)
            if len(made) == 3:
                enough.set()
            yield loader.batch(step)

    with Prefetcher(batches(), ahead=3) as ahead:
        assert enough.wait(10)
        next(ahead)
    assert len(made) <= 5  # 3 ready, 1 for the one taken, 1 for the place that closing frees


def test_an_error_in_the_thread_reaches_the_consumer_with_the_case_after_the_good_batches(
    make_loader, make_case, make_spec
):
    broken = make_case(np.zeros((1, 2, 2, 2)), np.zeros((20, 20, 20)), "broken7")
    loaders = [make_loader("liver"), DomainLoader(make_spec(name="heart"), [broken], 0, 1 / 3)]
    with Prefetcher(round_robin(loaders, 0, 6)) as ahead:
        assert next(ahead).domain == "liver"
        with pytest.raises(DataError, match="heart, case broken7"):
            next(ahead)
        with pytest.raises(StopIteration):
            next(ahead)


def test_closing_stops_the_thread_even_while_it_waits_for_room(make_loader):
    loader = make_loader()
    ahead = Prefetcher((loader.batch(step) for step in range(1000)), ahead=1)
    next(ahead)
    ahead.close()
    ahead.close()
    assert "u2net3d-patches" not in {thread.name for thread in threading.enumerate()}
    with pytest.raises(StopIteration):
        next(ahead)


TASKS = Path("/proc/self/task")


@pytest.mark.skipif(not TASKS.exists(), reason="threads are counted in /proc")
def test_the_thread_that_reads_ahead_has_no_team_of_its_own(noisy_case, make_spec):
    # Two teams of torch on the same cores would wait for each other in every operator.
    case, spec = noisy_case((38, 44, 50)), make_spec(patch=(40, 40, 40))
    loader, counted = DomainLoader(spec, [case], 0, 1 / 3), []

    def work():
        counted.append(len(list(TASKS.iterdir())))
        for step in range(12):
            loader.batch(step)
        counted.append(len(list(TASKS.iterdir())))

    usual = torch.get_num_threads()
    torch.set_num_threads(3)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    torch.set_num_threads(usual)
    assert counted[0] == counted[1]


def test_a_margin_shows_what_lies_around_the_patch_and_its_label(noisy_case, make_spec):
    case, margin = noisy_case((9, 12, 11)), (2, 0, 3)
    spec = make_spec()
    wide = spec.model_copy(update={"plan": spec.plan.model_copy(update={"margin": margin})})
    plain, batch = (DomainLoader(each, [case], 0, 1 / 3).batch(0) for each in (spec, wide))
    assert batch.image.shape == (3, 1, 12, 10, 18)
    assert batch.label.shape == (3, 12, 10, 18)
    inner = (slice(None), slice(2, -2), slice(None), slice(3, -3))
    alike = [
        torch.equal(batch.label[inner][n], plain.label[n]) for n in range(3)
    ]  # but for samples that were turned or zoomed about the middle
    assert any(alike)
