"""The smallest budget: closed forms on linear models, that nothing cheaper was missed, and unusual models."""

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor, nn

from percep import InputError, Program, SSIMBall, Window, certify, solve
from percep.attacks import AttackStatus, MinimalPerturbation, quantise
from percep.attacks.cost import Cost
from percep.attacks.criteria import margin
from percep.solvers.conjugate_gradients import conjugate_gradients
from tests.attacks.test_frank_wolfe import Linear, Moody, saved
from tests.support.references import photograph

LABEL = torch.tensor([0])


def gradient_of(model: Linear, x: Tensor) -> Tensor:
    return (model.weight[1] - model.weight[0]).reshape(x.shape)


def cheapest(x: Tensor, gradient: Tensor, lead: float) -> float:
    """`lead^2 / (2 <g, M^-1 g>)`, the least `<d, M d> / 2` with `<g, d> = lead`: the mean ball's closed form."""
    quadratic = Cost.of_reference(x, Window.gaussian(), "mean").quadratic(torch.zeros_like(x))
    solution, _ = conjugate_gradients(quadratic.product, quadratic.preconditioner, gradient, 1e-10, 1000)
    return lead**2 / (2 * float((gradient * solution).sum()))


@pytest.mark.parametrize("lead", [0.05, 0.3])
def test_the_closed_form_of_the_mean_ball(lead):
    x = saved(dtype=torch.float64)
    model = Linear(x, 2, lead)
    exact = cheapest(x, gradient_of(model, x), lead)
    result = MinimalPerturbation(model, gradients=40, levels=None)(x, LABEL)
    assert result.status == (AttackStatus.ADVERSARIAL,)
    # The quadratic form is exact to first order in the perturbation's own variance.
    assert 1 - float(result.found) == pytest.approx(exact, rel=1e-2)
    assert float(result.found) <= float(result.missed) <= 1


@pytest.mark.slow("a conic solver, and sixty gradients with a program each")
@pytest.mark.parametrize("floor", [0.95, 0.99])
def test_the_floor_of_the_exact_program(floor):
    x = saved(dtype=torch.float64)[:, :1, :16, :16].contiguous()
    gradient = gradient_of(Linear(x), x)
    program = Program(SSIMBall(x, floor=floor), gradient)
    reach = float(solve(program, "oracle", tol=1e-6).objective)
    result = MinimalPerturbation(Linear(x, 2, reach), measure="floor", gradients=60, levels=None)(x, LABEL)
    assert result.success.tolist() == [True]
    # The program splits the floor between S1 and S2 in advance, so the search may need less, and never 1% more.
    assert 1 - float(result.found) <= 1.01 * (1 - floor)
    # In an image above a floor neither factor is below it, which bounds from the other side what any can gain.
    wide = solve(Program(SSIMBall(x, floor=float(result.found) ** 2), gradient), tol=1e-3)
    assert float(wide.bound) >= reach


@pytest.mark.slow("whole searches, over many gradients")
def test_eight_bits_cost_little_where_a_perturbation_is_dense_and_are_what_files_hold():
    x = saved(3)
    lead = 60.0
    model = Linear(x[:1], 3, lead)
    labels = model(x).argmax(1)
    result = MinimalPerturbation(model, gradients=30)(x, labels)
    floats = MinimalPerturbation(model, gradients=30, levels=None)(x, labels)
    assert result.success.tolist() == floats.success.tolist() == [True] * 3
    torch.testing.assert_close(result.images, quantise(result.images), rtol=0, atol=0)
    assert model(result.images).argmax(1).tolist() == result.labels_after.tolist()
    certificate = certify(x, result.images)
    assert certificate.mean_ssim.tolist() == result.mean_ssim.tolist() == result.found.tolist()
    assert bool((1 - result.found <= 1.3 * (1 - floats.found)).all())


@pytest.mark.slow("whole searches, over many gradients")
def test_a_targeted_search_and_the_k_best_classes():
    x = saved()
    model = Linear(x, 5, lead=0.5)
    for target in (1, 4):
        result = MinimalPerturbation(model, gradients=20)(x, LABEL, torch.tensor([target]))
        assert result.labels_after.tolist() == [target] and result.success.tolist() == [True]
    costs = []
    for top_k in (1, 2, 3):
        result = MinimalPerturbation(model, gradients=40, top_k=top_k)(x, LABEL)
        best = model(result.images).topk(top_k, 1).indices[0].tolist()
        assert result.success.tolist() == [True] and 0 not in best
        costs.append(1 - float(result.found))
    assert costs[0] < costs[1] < costs[2]


@pytest.mark.slow("whole searches, over many gradients")
def test_images_of_a_batch_do_not_meet_and_results_repeat():
    x = saved(3)
    model = Linear(x[:1], 6, lead=1.0)
    labels = model(x).argmax(1)
    attack = MinimalPerturbation(model, gradients=45)
    together, again = attack(x, labels), attack(x, labels)
    assert torch.equal(together.images, again.images)
    for i in range(3):
        alone = attack(x[i : i + 1], labels[i : i + 1])
        torch.testing.assert_close(alone.images[0], together.images[i], rtol=0, atol=0)
        assert alone.gradient_calls[0] == together.gradient_calls[i]


class Counting(nn.Module):
    """Counts passes and the images in them."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.forwards, self.backwards = inner, 0, 0
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        self.forwards += len(images)
        logits = self.inner(images)
        if logits.requires_grad:
            logits.register_hook(lambda gradient: setattr(self, "backwards", self.backwards + len(gradient)))
        return logits


@pytest.mark.parametrize("budget", [1, 2, 7, 33])
def test_the_budget_is_kept_and_the_counters_are_right(budget):
    x = saved(2)
    model = Counting(Linear(x[:1], 4, lead=0.5))
    labels = model.inner(x).argmax(1)
    result = MinimalPerturbation(model, gradients=budget)(x, labels)
    assert int(result.gradient_calls.max()) <= budget
    assert model.backwards == int(result.gradient_calls.sum())
    assert model.forwards == int(result.gradient_calls.sum() + result.forward_calls.sum())


def test_a_gradient_of_the_user_s_is_followed_and_the_model_decides_success():
    x = saved()
    model = Linear(x, 2, lead=0.5)
    calls = []

    def expectation(images: Tensor, labels: Tensor, targets: Tensor | None) -> tuple[Tensor, Tensor]:
        calls.append(len(images))
        inputs = images.requires_grad_()
        with torch.enable_grad():
            logits = torch.stack([model(inputs), model(inputs * 0.999)]).mean(0)
            values = logits[:, 1] - logits[:, 0]
            (gradient,) = torch.autograd.grad(values.sum(), inputs)
        return values, gradient

    result = MinimalPerturbation(model, gradients=15, gradient=expectation)(x, LABEL)
    assert result.success.tolist() == [True] and result.gradient_calls.tolist() == [sum(calls)]
    assert int(model(result.images).argmax(1)) == 1


def test_one_odd_image_harms_no_other():
    x = saved().repeat(4, 1, 1, 1)
    x[1], x[2] = 0.0, 1.0
    x[3, 0, 0, 0] = torch.nan
    model = Moody(x[:1])
    labels = model(x).nan_to_num().argmax(1)
    result = MinimalPerturbation(model, gradients=10)(x, labels)
    assert result.status == (AttackStatus.ADVERSARIAL, *(AttackStatus.NOT_FINITE,) * 3)
    assert result.success.tolist() == [True, False, False, False] and torch.isfinite(result.images).all()
    assert torch.isnan(result.found[1:]).all()
    others = MinimalPerturbation(model, gradients=10)(x[[0, 3, 1, 2]], labels[[0, 3, 1, 2]])
    torch.testing.assert_close(others.images[0], result.images[0], rtol=0, atol=0)
    alone = MinimalPerturbation(model, gradients=10)(x[:1], labels[:1])
    # Up to rounding, which depends on the size of a batch on some CPUs: a grey level of a pixel here and there.
    torch.testing.assert_close(alone.images[0], result.images[0], rtol=0, atol=1.01 / 255)
    assert float((alone.images[0] != result.images[0]).float().mean()) < 0.01


@pytest.mark.parametrize(
    "model",
    [
        lambda images: torch.tensor([[1.0, 0.0]]).expand(len(images), 2),
        lambda images: images.sum() * 0 + torch.tensor([[1.0, 0.0]]).expand(len(images), 2),
        lambda images: images.flatten(1)[:, :2].round() * 0 + torch.tensor([[1.0, 0.0]]),
    ],
    ids=["ignores its input", "constant", "masked"],
)
@pytest.mark.parametrize("measure", ["mean", "floor"])
def test_models_without_a_gradient_say_so(model, measure):
    x = saved(2)
    result = MinimalPerturbation(model, measure, gradients=5)(x, torch.tensor([0, 0]))
    assert result.status == (AttackStatus.NO_GRADIENT,) * 2 and result.success.tolist() == [False] * 2
    torch.testing.assert_close(result.images, x, rtol=0, atol=0)
    assert result.missed.tolist() == [1.0, 1.0]


def test_goals_that_are_met_already():
    x = saved()
    model = Linear(x)
    for labels, targets in ((torch.tensor([1]), None), (LABEL, LABEL)):
        result = MinimalPerturbation(model)(x, labels, targets)
        assert result.status == (AttackStatus.ALREADY_ADVERSARIAL,) and result.gradient_calls.tolist() == [0]
        torch.testing.assert_close(result.images, x, rtol=0, atol=0)
        assert result.found.tolist() == [1.0]


@pytest.mark.slow("whole searches, over many gradients")
def test_black_white_and_flat_images_are_searched_too():
    x = torch.stack([torch.zeros(3, 16, 16), torch.ones(3, 16, 16), torch.full((3, 16, 16), 102 / 255)])
    x = torch.cat([x, quantise(photograph(3, 16).float())])
    model = Linear(x[3:], 2, lead=0.2)
    labels = model(x).argmax(1)
    for measure in ("mean", "floor"):
        result = MinimalPerturbation(model, measure, gradients=60)(x, labels)
        assert bool(result.certified.all()) and result.success[3]
        assert (model(result.images).argmax(1) != labels).tolist() == result.success.tolist()


def test_an_empty_batch():
    x = saved()[:0]
    result = MinimalPerturbation(Linear(saved()))(x, torch.zeros(0, dtype=torch.int64))
    assert result.images.shape == x.shape and result.status == ()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"measure": "median"}, "measure"), ({"gradients": 0}, "gradients"), ({"top_k": 0}, "top_k")],
)
def test_bad_settings_are_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        MinimalPerturbation(Linear(saved()), **arguments)


def test_bad_calls_are_refused():
    x = saved()
    model = Linear(x)
    with pytest.raises(InputError, match="multiples of 1/255"):
        MinimalPerturbation(model)(x * 0.999, LABEL)
    with pytest.raises(InputError, match=r"\[0, 1\]"):
        MinimalPerturbation(model)(2 * x, LABEL)
    with pytest.raises(InputError, match=r"labels must be class indices in \[0, 2\]"):
        MinimalPerturbation(model)(x, torch.tensor([3]))
    with pytest.raises(InputError, match="top_k must be below"):
        MinimalPerturbation(model, top_k=3)(x, LABEL)
    with pytest.raises(InputError, match="train mode"):
        MinimalPerturbation(Linear(x).train())(x, LABEL)


def confident(count: int = 4) -> tuple[Tensor, Tensor]:
    """Noise images `(count, 1, 16, 16)` and the weights of four classes, far apart on them."""
    generator = torch.Generator().manual_seed(0)
    x = quantise(torch.rand(count, 1, 16, 16, generator=generator))
    return x, torch.randn(4, 256, generator=generator)


SQUASHED = {
    "softmax": lambda logits: logits.softmax(1),
    "sigmoid": torch.sigmoid,
    "tanh": lambda logits: torch.tanh(logits / 4),
}


@pytest.mark.slow("whole searches, over many gradients")
@pytest.mark.parametrize(
    ("squash", "scale", "dtype"),
    [
        ("softmax", 3, torch.float32),
        ("softmax", 30, torch.float64),  # certain to all digits, with a gradient left in the logarithms
        ("softmax", 300, torch.float32),  # without any gradient at the references
        ("sigmoid", 1, torch.float32),
        ("tanh", 3, torch.float64),
    ],
)
def test_answers_on_saturating_outputs_are_those_on_logits_to_a_factor_of_two(squash, scale, dtype):
    x, weight = confident()
    x, weight = quantise(x.to(dtype)), weight.to(dtype)

    def logits(images: Tensor) -> Tensor:
        return scale * (images - 0.5).flatten(1) @ weight.T

    def squashed(images: Tensor) -> Tensor:
        return SQUASHED[squash](logits(images))

    labels = logits(x).argmax(1)
    plain = MinimalPerturbation(logits, gradients=40)(x, labels)
    result = MinimalPerturbation(squashed, gradients=40)(x, labels)
    assert plain.success.all() and result.success.all()
    assert bool((1 - result.found <= 2 * (1 - plain.found)).all())
    assert int(result.gradient_calls.max()) <= 40


class Staircase(nn.Module):
    """Logits of a linear model in steps: a gradient on the ramps, none on the treads or beyond `flat` of the lead."""

    def __init__(self, x: Tensor, flat: float, tread: float) -> None:
        super().__init__()
        self.inner, self.flat, self.tread = Linear(x, 3, 1.0), flat, tread
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        logits = self.inner(images).clamp(-self.flat, self.flat)
        steps = (logits / self.tread).floor() * self.tread
        return steps + (2 * (logits - steps)).clamp(0, self.tread)


@pytest.mark.slow("whole searches, over many gradients")
@settings(max_examples=6, deadline=None)
@given(st.floats(0.2, 2.0), st.floats(0.05, 0.6), st.integers(1, 12), st.sampled_from([256, 16, None]))
def test_no_answer_is_worse_than_a_bisection_of_its_own_ray(flat, tread, gradients, levels):
    x = quantise(saved(2)[..., :16, :16].contiguous(), levels)
    model = Staircase(x[:1], flat, tread)
    labels = model(x).argmax(1)
    result = MinimalPerturbation(model, gradients=gradients, levels=levels)(x, labels)
    assert int(result.gradient_calls.max()) <= gradients
    low, high = torch.zeros(2), torch.ones(2)
    for _ in range(14):
        middle = (low + high) / 2
        images = quantise(x + middle[:, None, None, None] * (result.images - x), levels)
        adversarial = model(images).argmax(1) != labels
        low, high = torch.where(adversarial, low, middle), torch.where(adversarial, middle, high)
    images = quantise(x + high[:, None, None, None] * (result.images - x), levels)
    bisected = 1 - certify(x, images).mean_ssim
    better = (model(images).argmax(1) != labels) & result.success
    assert bool((1 - result.found <= 1.001 * bisected)[better].all())


@pytest.mark.slow("whole searches, over many gradients")
def test_a_point_without_a_gradient_is_not_the_end():
    x = saved(2)
    model = Staircase(x[:1], 1.0, 2.0)
    labels = model(x).argmax(1)

    def broken(images: Tensor) -> Tensor:
        """NaN where the image is far from its reference, as where half precision overflows."""
        logits = model(images)
        far = (images - x[:1]).flatten(1).norm(dim=1, keepdim=True) > 2
        return torch.where(far, torch.nan, logits)

    result = MinimalPerturbation(broken, gradients=30)(x[:1], labels[:1])
    assert result.status == (AttackStatus.ADVERSARIAL,)
    assert 1 - float(result.found) <= 2 * (1 - float(MinimalPerturbation(model.inner)(x[:1], labels[:1]).found))


def margins_of(networks: list[nn.Module], scale: float):
    """An ensemble's sum of margins and its gradient, in units of its own."""

    def gradient(images: Tensor, labels: Tensor, targets: Tensor | None) -> tuple[Tensor, Tensor]:
        inputs = images.requires_grad_()
        values = sum(margin(network(inputs), labels, targets) for network in networks)
        return scale * values.detach(), scale * torch.autograd.grad(values.sum(), inputs)[0]

    return gradient


class Ensemble(nn.Module):
    """The mean of small convolutional networks' logits."""

    def __init__(self, count: int) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.members = nn.ModuleList(
                nn.Sequential(nn.Conv2d(3, 8, 5, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 14 * 14, 5))
                for _ in range(count)
            )
        self.eval().requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        return 4 * torch.stack([member(images) for member in self.members]).mean(0)


@pytest.mark.slow("whole searches, over many gradients")
@pytest.mark.parametrize("attacked", ["mean", "one"])
def test_an_ensemble_s_sum_of_margins_succeeds_where_the_model_s_own_gradient_does(attacked):
    x = saved(4)
    ensemble = Ensemble(3)
    model = ensemble if attacked == "mean" else ensemble.members[0]
    labels = model(x).argmax(1)
    plain = MinimalPerturbation(model, gradients=30)(x, labels)
    assert plain.success.all()
    results = [
        MinimalPerturbation(model, gradients=30, gradient=margins_of(list(ensemble.members), scale))(x, labels)
        for scale in (1.0, 1e3, 1e-3)
    ]
    for result in results:
        assert result.success.all() and int(result.gradient_calls.max()) <= 30
        assert bool((1 - result.found >= 0.5 * (1 - plain.found)).all())
        torch.testing.assert_close(1 - result.found, 1 - results[0].found, rtol=0.05, atol=0)


@pytest.mark.slow("whole searches, over many gradients")
def test_the_model_s_own_gradient_at_any_scale_is_as_good_as_without_one():
    x = saved(3)
    model = Ensemble(1)
    labels = model(x).argmax(1)
    plain = MinimalPerturbation(model, gradients=30)(x, labels)
    result = MinimalPerturbation(model, gradients=30, gradient=margins_of([model], 1e3))(x, labels)
    assert bool((1 - result.found <= 1.3 * (1 - plain.found)).all())


@pytest.mark.parametrize("levels", [2, 16, 256, 4096, 65536, None])
def test_every_number_of_levels_is_kept(levels):
    x = quantise(saved(dtype=torch.float64 if levels == 65536 else torch.float32), levels)
    model = Linear(x, 3, lead=0.5)
    result = MinimalPerturbation(model, gradients=15, levels=levels)(x, LABEL)
    assert result.success.tolist() == [True] and int(model(result.images).argmax(1)) != 0
    torch.testing.assert_close(result.images, quantise(result.images, levels), rtol=0, atol=0)
