"""Contrastive: InfoNCE against a plain double loop."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from cocoa.objectives import Contrastive, ContrastiveOptions


def unit(count: int, seed: int) -> Tensor:
    return functional.normalize(torch.randn(count, 8, generator=torch.Generator().manual_seed(seed)), dim=-1)


def objective(temperature: float = 0.02) -> Contrastive:
    return Contrastive(ContrastiveOptions(temperature=temperature))


def slow_loss(queries: Tensor, candidates: Tensor, content: Tensor, temperature: float) -> float:
    total = 0.0
    for i in range(len(queries)):
        right = float(queries[i].double() @ candidates[i].double()) / temperature
        others = [j for j in range(len(candidates)) if j == i or content[j] != content[i]]
        scores = [float(queries[i].double() @ candidates[j].double()) / temperature for j in others]
        top = max(scores)
        total += top + math.log(sum(math.exp(score - top) for score in scores)) - right
    return total


@pytest.mark.parametrize(("num_queries", "num_hard"), [(5, 0), (5, 3), (1, 0)])
def test_vectors_that_say_nothing_cost_the_log_of_the_number_of_candidates(num_queries: int, num_hard: int) -> None:
    count = num_queries + num_hard
    loss = objective().loss(torch.zeros(num_queries, 8), torch.zeros(count, 8), torch.arange(count))
    assert loss.count == num_queries
    assert float(loss.sum) / num_queries == pytest.approx(math.log(count), abs=1e-6)


@pytest.mark.parametrize("temperature", [0.02, 0.5])
@pytest.mark.parametrize("num_hard", [0, 4])
@pytest.mark.parametrize("seed", range(3))
def test_the_loss_is_the_double_loops(seed: int, num_hard: int, temperature: float) -> None:
    queries, candidates = unit(6, seed), unit(6 + num_hard, 100 + seed)
    content = torch.randint(0, 5, (6 + num_hard,), generator=torch.Generator().manual_seed(seed))
    assert len(content.unique()) < len(content), "some contents are the same"
    loss = objective(temperature).loss(queries, candidates, content)
    expected = slow_loss(queries, candidates, content, temperature)
    assert float(loss.sum) == pytest.approx(expected, rel=1e-6, abs=1e-6 / temperature)


def test_a_candidate_equal_to_the_target_is_no_negative_of_it() -> None:
    queries, candidates = unit(3, 0), unit(4, 1)
    candidates[2] = candidates[0]
    content = torch.tensor([7, 1, 7, 2])
    with_copy = objective().loss(queries[:1], candidates[[0, 1, 2, 3]], content)
    without_copy = objective().loss(queries[:1], candidates[[0, 1, 3]], content[[0, 1, 3]])
    assert torch.equal(with_copy.sum, without_copy.sum)
    counted = objective().loss(queries[:1], candidates, torch.arange(4))
    assert float(counted.sum) > float(with_copy.sum) + 0.1


def test_only_equal_candidates_cost_nothing() -> None:
    loss = objective().loss(unit(3, 0), unit(3, 1), torch.tensor([5, 5, 5]))
    assert (float(loss.sum), loss.count) == (0.0, 3)


def test_gradient_pulls_a_query_to_its_target_and_away_from_the_rest() -> None:
    queries, candidates = unit(4, 0).requires_grad_(), unit(6, 1).requires_grad_()
    content = torch.tensor([0, 1, 2, 0, 4, 5])
    objective(0.5).loss(queries, candidates, content).sum.backward()
    scores = (queries @ candidates.T / 0.5).detach()
    scores[0, 3] = scores[3, 0] = float("-inf")
    error = scores.softmax(1)
    error[torch.arange(4), torch.arange(4)] -= 1
    assert torch.allclose(queries.grad, error @ candidates.detach() / 0.5, atol=1e-6)
    assert torch.allclose(candidates.grad, error.T @ queries.detach() / 0.5, atol=1e-6)


def test_an_equal_candidate_gets_no_gradient_from_that_query() -> None:
    candidates = unit(3, 1).requires_grad_()
    objective().loss(unit(1, 0), candidates, torch.tensor([0, 0, 2])).sum.backward()
    assert not candidates.grad[1].any()
    assert candidates.grad[0].any()
    assert torch.isfinite(candidates.grad).all()


def test_half_precision_vectors_are_scored_in_full() -> None:
    queries, candidates = unit(4, 0).bfloat16(), unit(4, 1).bfloat16()
    loss = objective().loss(queries, candidates, torch.arange(4))
    assert loss.sum.dtype == torch.float32
    assert torch.equal(loss.sum, objective().loss(queries.float(), candidates.float(), torch.arange(4)).sum)
