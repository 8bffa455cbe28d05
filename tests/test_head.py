"""The head on a processor gives what TRL's gives, forward and back."""

import pytest
import torch
from trl.kernels import ChunkedLogProbFunction

from finetune_core import head
from finetune_core.head import Head

OUTPUTS = ("log_probs", "entropy", "is_top1")


def both(hidden, weight, targets, **options):
    """(TRL's five outputs and its gradient, ours)."""
    asked = {"bias": None, "scaling": 1.0, "capped": None} | options
    found = []
    for function in (ChunkedLogProbFunction, Head):
        states = hidden.clone().requires_grad_()
        outputs = function.apply(
            states, weight, asked["bias"], targets, 1.0, 64, asked["capped"], asked["scaling"], OUTPUTS
        )
        outputs[0].backward(torch.linspace(-1, 2, len(targets)))
        found.append((*(made if made is None else made.detach() for made in outputs), states.grad))
    return found


@pytest.mark.parametrize("tile", [2**23, 3 * 150])
def test_it_gives_the_numbers_and_the_gradient_of_trl_s(monkeypatch, tile):
    monkeypatch.setattr(head, "HEAD_SCORES", tile)
    torch.manual_seed(0)
    hidden, weight, targets = torch.randn(10, 16), torch.randn(150, 16), torch.randint(0, 150, (10,))
    targets[3:6] = (hidden[3:6] @ weight.t()).argmax(-1)
    theirs, ours = both(hidden, weight, targets)
    assert 3 <= ours[4].sum() < 10
    for one, other in zip(theirs, ours, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_in_bfloat16_it_is_nearer_to_the_truth_than_trl_s_or_as_near():
    torch.manual_seed(0)
    hidden, weight, targets = torch.randn(40, 64), torch.randn(3000, 64) / 4, torch.randint(0, 3000, (40,))
    truth, _ = both(hidden.bfloat16().double(), weight.bfloat16().double(), targets)
    theirs, ours = both(hidden.bfloat16(), weight.bfloat16(), targets)
    for place in (0, 1, 5):
        off = [(found[place].double() - truth[place]).abs().mean().item() for found in (theirs, ours)]
        assert off[1] <= 1.1 * off[0]


def test_a_hopeless_target_has_a_log_probability_all_the_same():
    hidden, weight = torch.tensor([[30.0, 0.0]]), torch.tensor([[10.0, 0.0], [-10.0, 0.0], [0.0, 1.0]])
    theirs, ours = both(hidden, weight, torch.tensor([1]))
    assert float(ours[0]) == float(theirs[0]) == -600.0 and ours[5].isfinite().all()


def test_of_equal_scores_the_first_comes_first():
    weight = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    _, ours = both(torch.tensor([[1.0, 0.0], [1.0, 0.0]]), weight, torch.tensor([0, 1]))
    assert ours[4].tolist() == [True, False]


def test_a_batch_in_which_nothing_is_trained_gives_nothing():
    given = torch.randn(0, 4).bfloat16(), torch.randn(9, 4).bfloat16(), torch.empty(0, dtype=torch.long)
    theirs, ours = both(*given)
    for place in (0, 1, 4, 5):
        assert len(ours[place]) == 0 and ours[place].dtype == theirs[place].dtype


@pytest.mark.parametrize(
    "options, ours",
    [({}, True), ({"bias": torch.ones(9)}, False), ({"scaling": 0.5}, False), ({"capped": 30.0}, False)],
)
def test_what_is_unusual_is_left_to_trl(monkeypatch, options, ours):
    used = []
    kept = head._LogProbs.apply
    monkeypatch.setattr(head._LogProbs, "apply", lambda *given: used.append(1) or kept(*given))
    theirs, mine = both(torch.randn(5, 4), torch.randn(9, 4), torch.tensor([0, 1, 2, 3, 4]), **options)
    assert bool(used) == ours
    torch.testing.assert_close(theirs[0], mine[0])


def test_a_head_that_is_trained_gets_its_gradient():
    weight = torch.randn(9, 4, requires_grad=True)
    Head.apply(torch.randn(5, 4), weight, None, torch.arange(5), 1.0, 64, None, 1.0, OUTPUTS)[0].sum().backward()
    assert weight.grad.abs().sum() > 0
