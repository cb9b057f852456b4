from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from filmvqa.questions.sampler import EpochSampler, batch_sizes


@given(
    st.lists(st.integers(0, 6), min_size=1, max_size=60),
    st.integers(1, 5),
    st.integers(1, 20),
    st.integers(0, 3),
)
def test_questions_of_an_image_are_drawn_together_and_once(
    images: list[int], per_image: int, size: int, epoch: int
) -> None:
    of = torch.tensor(images)
    rows = torch.arange(len(images)) + 100
    sampler = EpochSampler(rows, size, 0, of, per_image)
    batches = [sampler.rows(epoch, i) for i in range(sampler.batches_per_epoch)]
    assert all(len(batch) == size for batch in batches[:-1])
    drawn = torch.cat(batches)
    assert torch.equal(drawn.sort().values, rows)
    # Each image has a run for every `per_image` questions, and one for the rest. Two groups of an
    # image may follow each other, so there may be fewer runs.
    runs = int((of[drawn - 100].diff() != 0).sum()) + 1
    assert runs <= sum(-(-images.count(i) // per_image) for i in set(images))


def test_draws_of_images_are_uniform() -> None:
    of = torch.arange(6).repeat_interleave(4)
    firsts = torch.zeros(24)
    for seed in range(1200):
        firsts[EpochSampler(torch.arange(24), 4, seed, of, 2).rows(0, 0)] += 1
    assert (firsts - 200).abs().max() < 60  # 4.6 standard deviations


@given(st.integers(1, 50), st.integers(1, 60), st.integers(0, 5), st.integers(0, 30))
def test_a_sampler_resumes_from_its_state(count: int, size: int, seed: int, steps: int) -> None:
    one = EpochSampler(torch.arange(count), size, seed)
    rows = []
    for _ in range(steps + 5):
        rows.append(one.rows(one.epoch, one.batch))
        one.advance()
    other = EpochSampler(torch.arange(count), size, seed)
    for _ in range(steps):
        other.advance()
    resumed = EpochSampler(torch.arange(count), size, seed)
    resumed.load_state_dict(other.state_dict())
    for k in range(steps, steps + 5):
        assert torch.equal(resumed.rows(resumed.epoch, resumed.batch), rows[k])
        resumed.advance()


@given(st.integers(1, 200), st.integers(2, 30), st.integers(0, 2))
def test_no_batch_is_too_small(count: int, size: int, epoch: int) -> None:
    """Each row is drawn once per epoch, in ceil(N / B) batches, or one fewer for B = 2."""
    sampler = EpochSampler(torch.arange(count), size, 0, smallest_batch=2)
    batches = [sampler.rows(epoch, i) for i in range(sampler.batches_per_epoch)]
    assert torch.equal(torch.cat(batches).sort().values, torch.arange(count))
    assert min(map(len, batches)) >= min(2, count)
    assert max(map(len, batches)) <= max(size, 3)
    assert len(batches) == -(-count // size) - (size == 2 and count % 2 == 1 and count > 1)
    plain = EpochSampler(torch.arange(count), size, 0)
    same = [torch.equal(batch, plain.rows(epoch, i)) for i, batch in enumerate(batches)]
    assert all(same[:-2])
    assert all(same) == (count % size != 1 or count == 1)


def test_the_last_two_batches_share_the_last_question() -> None:
    assert batch_sizes(129, 64, 2) == [64, 33, 32]
    assert batch_sizes(65, 64, 2) == [33, 32]
    assert batch_sizes(129, 64) == [64, 64, 1]
    assert batch_sizes(5, 2, 2) == [2, 3]
    assert batch_sizes(130, 64, 2) == [64, 64, 2]


@given(st.integers(1, 40), st.integers(2, 12), st.integers(0, 3), st.data())
def test_a_position_of_an_earlier_version_is_restored(
    count: int, size: int, epoch: int, data: st.DataObject
) -> None:
    """Exactly, except just before a last batch of one question."""
    batch = data.draw(st.integers(0, -(-count // size) - 1))
    sampler = EpochSampler(torch.arange(count), size, 0, smallest_batch=2)
    recut = sampler.load_state_dict({"epoch": epoch, "batch": batch})
    drawn = batch * size
    left = []
    while sampler.epoch == epoch:
        left.append(sampler.rows(epoch, sampler.batch))
        sampler.advance()
    num_left = sum(map(len, left))
    assert recut == abs(num_left - (count - drawn))
    assert (recut > 0) == (count % size == 1 and count > 1 and drawn == count - 1)


@given(
    st.lists(st.integers(0, 6), min_size=1, max_size=60),
    st.integers(1, 5),
    st.integers(1, 20),
    st.integers(0, 3),
)
def test_rows_in_their_order(images: list[int], per_image: int, size: int, epoch: int) -> None:
    rows = torch.arange(len(images)) + 100
    sampler = EpochSampler(rows, size, epoch, torch.tensor(images), per_image, shuffle=False)
    batches = [sampler.rows(epoch, i) for i in range(sampler.batches_per_epoch)]
    expected, left = [], list(range(len(images)))
    while left:  # the first row left, and the next rows about its image
        group = [i for i in left if images[i] == images[left[0]]][:per_image]
        left = [i for i in left if i not in group]
        expected += group
    assert (torch.cat(batches) - 100).tolist() == expected


@given(
    st.integers(1, 30),
    st.integers(1, 8),
    st.integers(1, 4),
    st.lists(st.tuples(st.integers(1, 50), st.integers(1, 30)), max_size=3),
    st.integers(0, 20),
)
def test_a_curriculum_draws_from_each_stage_in_turn(
    count: int, size: int, per_image: int, stages: list[tuple[int, int]], seed: int
) -> None:
    members = [(length, torch.arange(min(last, count))) for length, last in stages]
    images = torch.arange(count) // 3
    sampler = EpochSampler(torch.arange(count), size, seed, images, per_image, stages=members)
    drawn = []
    for epoch in range(6):
        rows = torch.cat([sampler.rows(epoch, b) for b in range(sampler.batches_per_epoch)])
        assert len(rows) == count
        drawn += rows.tolist()
    first = 0
    for length, allowed in members:
        part = drawn[first : first + length]
        first += length
        assert set(part) <= set(allowed.tolist())
        # Within an epoch all are drawn in turn, so the numbers of draws differ by at most one.
        if first <= count and len(part) == length:
            times = [part.count(row) for row in allowed.tolist()]
            assert max(times) - min(times) <= 1
    begin = -(-first // count)  # the first epoch without a stage
    for epoch in range(begin, 6):
        assert sorted(drawn[epoch * count : (epoch + 1) * count]) == list(range(count))
    plain = EpochSampler(torch.arange(count), size, seed, images, per_image)
    last = torch.cat([plain.rows(5, b) for b in range(plain.batches_per_epoch)]).tolist()
    assert begin > 5 or drawn[5 * count :] == last
