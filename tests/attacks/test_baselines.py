"""Other libraries' attacks behind percep's interface: their strength against closed forms, and right counts."""

import sys
from importlib.metadata import version

import pytest
import torch
from torch import Tensor, nn

from percep import InputError, UnavailableError, certify
from percep.attacks import AttackStatus
from percep.attacks.baselines import BASELINES, Baseline
from tests.support.moods import Moods
from tests.support.references import photograph

SIZE = 16
LABEL = torch.tensor([2])
MINIMAL_LINF = ("fgsm", "pgd_linf", "apgd")
MINIMAL_L2 = ("pgd_l2", "ddn", "cw", "fmn", "apgd_l2", "alma_l2")
UNTARGETED_ONLY = ("fgsm", "apgd", "apgd_l2")

pytestmark = pytest.mark.usefixtures("one_thread")


class Planes(nn.Module):
    """Classes with planes between them, the last ahead of class k by `leads[k]` on a reference; counts its passes.

    Logits steepen towards a plane, so that FMN's linear estimate of it ends behind it; otherwise it ends on it.
    """

    def __init__(self, x: Tensor, leads: tuple[float, ...] = (3.0, 40.0)) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(7)
        self.weight = nn.Parameter(torch.randn(1 + len(leads), x[0].numel(), generator=generator))
        self.leads = torch.tensor((*leads, 0.0))
        self.center = x[:1].flatten(1)
        self.forwards = self.backwards = 0
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        self.forwards += 1
        straight = (images.flatten(1) - self.center) @ self.weight.T - self.leads
        logits = straight - straight[:, -1:]
        logits = logits - 0.2 * (1 - logits.clamp(max=0).exp())
        if images.requires_grad:
            logits.register_hook(self.count)
        return logits

    def count(self, gradient: Tensor) -> None:
        self.backwards += 1

    def distance(self, dual: float, other: int = 0) -> float:
        """From the reference to class `other`, in the norm that `dual` is the dual of."""
        return float(self.leads[other] / (self.weight[other] - self.weight[-1]).detach().norm(p=dual))


def soft(count: int = 1) -> Tensor:
    """Photographs far from black and white, so that the pixel range does not interfere."""
    return torch.cat([0.3 + 0.4 * photograph(3 + i, SIZE, dtype=torch.float32) for i in range(count)])


@pytest.mark.slow("every attack of the other libraries is run")
@pytest.mark.parametrize("name", MINIMAL_L2)
def test_l2_attacks_reach_the_plane_that_separates_two_classes(name):
    x = soft()
    model = Planes(x)
    result = Baseline(name, model)(x, LABEL)
    assert result.status == (AttackStatus.ADVERSARIAL,)
    assert 0.999 < float((result.images - x).norm()) / model.distance(2) < 1.05


@pytest.mark.parametrize("name", MINIMAL_LINF)
def test_linf_attacks_find_the_least_epsilon(name):
    x = soft()
    model = Planes(x)
    result = Baseline(name, model)(x, LABEL)
    assert result.status == (AttackStatus.ADVERSARIAL,)
    assert 0.999 < float((result.images - x).abs().max()) / model.distance(1) < 1.03


@pytest.mark.slow("every attack of the other libraries is run")
@pytest.mark.parametrize("name", BASELINES)
def test_counts_are_the_models_own_and_the_budget_is_used_up(name):
    x = soft(2)
    model = Planes(x)
    model.part = nn.Identity().eval()
    result = Baseline(name, model, gradients=40)(x, LABEL.repeat(2))
    assert int(result.gradient_calls.sum()) == model.backwards
    assert int(result.forward_calls.sum()) == model.forwards - model.backwards
    assert result.gradient_calls.tolist() == ([1, 1] if name == "fgsm" else [40, 40])
    assert model.weight.grad is None and not model.part.training


@pytest.mark.slow("every attack of the other libraries is run")
@pytest.mark.parametrize("name", BASELINES)
def test_the_result_is_what_the_model_and_the_certificate_say(name):
    x = soft(2)
    model = Planes(x, leads=(1.0, 2.0))
    result = Baseline(name, model, gradients=100)(x, model(x).argmax(1))
    assert result.success.tolist() == result.certified.tolist() == [True, True]
    assert model(result.images).argmax(1).tolist() == result.labels_after.tolist() != result.labels_before.tolist()
    certificate = certify(x, result.images)
    assert certificate.within.tolist() == [True, True]
    assert certificate.mean_ssim.tolist() == result.mean_ssim.tolist()
    assert certificate.min_ssim.tolist() == result.min_ssim.tolist()
    assert result.gap.isnan().all()
    assert result.spending.shape == x.shape and bool((result.spending.flatten(1).mean(1) > 0).all())


@pytest.mark.slow("every attack of the other libraries is run")
@pytest.mark.parametrize("name", BASELINES)
def test_images_do_not_depend_on_batch_mates_and_repeat_under_a_seed(name):
    x = soft(3)
    model = Planes(x)
    labels = model(x).argmax(1)
    attack = Baseline(name, model, gradients=20)
    torch.manual_seed(5)
    together = attack(x, labels)
    for i in range(3):
        torch.manual_seed(5)
        alone = attack(x[i : i + 1], labels[i : i + 1])
        torch.testing.assert_close(alone.images[0], together.images[i], rtol=0, atol=0)
        assert alone.gradient_calls[0] == together.gradient_calls[i]


@pytest.mark.parametrize("name", ["pgd_l2", "apgd_l2"])
def test_random_starts_follow_the_seed(name):
    x = soft()
    images = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        images.append(Baseline(name, Planes(x), gradients=20)(x, LABEL).images)
    assert not torch.equal(*images)


def test_the_callers_generator_moves_on_alike_after_any_attack():
    x = soft()
    after = []
    for name in ("ddn", "pgd_l2", "apgd"):
        torch.manual_seed(1)
        Baseline(name, Planes(x), gradients=20)(x, LABEL)
        after.append(float(torch.rand(())))
    assert len(set(after)) == 1


@pytest.mark.slow("every attack of the other libraries is run")
@pytest.mark.parametrize("name", [name for name in BASELINES if name not in UNTARGETED_ONLY])
def test_targets_are_reached(name):
    x = soft()
    model = Planes(x, leads=(1.0, 1.2, 1.4))
    result = Baseline(name, model, gradients=100)(x, torch.tensor([3]), torch.tensor([2]))
    assert result.status == (AttackStatus.ADVERSARIAL,)
    assert result.labels_after.tolist() == [2]


@pytest.mark.parametrize("name", UNTARGETED_ONLY)
def test_targets_are_refused_where_the_library_takes_none(name):
    x = soft()
    library = "foolbox" if name == "fgsm" else "torchattacks"
    with pytest.raises(InputError, match=f"{name} has no targeted mode in {library} [0-9.]+"):
        Baseline(name, Planes(x))(x, LABEL, torch.tensor([1]))


class Moody(Moods, Planes):
    pass


@pytest.mark.parametrize("name", BASELINES)
def test_every_image_has_its_status(name):
    x = soft().repeat(5, 1, 1, 1)
    x[1] = 0.01
    x[2] = 0.99
    x[3, 0, 0, 0] = torch.nan
    model = Moody(x[:1])
    labels = model(x).nan_to_num().argmax(1)
    labels[4] = 0
    result = Baseline(name, model, gradients=40)(x, labels)
    unwell = (AttackStatus.NOT_FINITE,) * 3
    assert result.status == (AttackStatus.ADVERSARIAL, *unwell, AttackStatus.ALREADY_ADVERSARIAL)
    assert result.success.tolist() == [True, False, False, False, True]
    assert result.certified.tolist() == [True, True, True, False, True]
    assert result.labels_before.tolist() == [2, -1, int(labels[2]), -1, 2]
    assert result.labels_after.tolist()[1:] == [-1, int(labels[2]), -1, 2]
    assert result.gradient_calls.tolist()[1:] == [0, 1, 0, 0]
    assert result.forward_calls.tolist()[3:] == [0, 1]
    torch.testing.assert_close(result.images[[1, 2, 4]], x[[1, 2, 4]], rtol=0, atol=0)
    assert torch.isfinite(result.images).all()
    assert result.mean_ssim.isnan().tolist() == [False, False, False, True, False]


@pytest.mark.parametrize("name", [name for name in BASELINES if name != "perc_al"])
def test_a_model_that_only_mistakes_black_images_is_not_fooled(name):
    x = soft()

    def model(images: Tensor) -> Tensor:
        black = 2.0 * (images.flatten(1).amax(1) == 0)
        return torch.stack([black, torch.zeros_like(black), torch.ones_like(black)], 1)

    result = Baseline(name, model, gradients=20)(x, LABEL)
    assert result.status == (AttackStatus.NOT_FOUND,)
    assert result.success.tolist() == [False]
    torch.testing.assert_close(result.images, x, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("name", "module", "remedy"),
    [
        ("ddn", "foolbox", r"pip install 'percep\[baselines\]'"),
        ("apgd", "torchattacks", r"pip install 'percep\[baselines\]'"),
        ("alma_l2", "adv_lib.attacks", r"pip install 'percep\[baselines\]'.*--no-deps torchattacks adv-lib"),
    ],
)
def test_a_missing_library_is_named_with_its_remedy(monkeypatch, name, module, remedy):
    model = Planes(soft())  # made of a photograph that foolbox carries
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UnavailableError, match=remedy):
        Baseline(name, model)


def test_the_stand_in_for_visdom_is_taken_away(monkeypatch):
    for module in [module for module in sys.modules if module.partition(".")[0] in ("adv_lib", "visdom")]:
        monkeypatch.delitem(sys.modules, module)
    Baseline("fmn", Planes(soft()))
    assert "adv_lib.attacks" in sys.modules
    assert "visdom" not in sys.modules or sys.modules["visdom"].__spec__ is not None


@pytest.mark.parametrize(
    ("name", "library", "rest"),
    [
        ("ddn", "foolbox", "DDNAttack(steps=100, init_epsilon=1.0, gamma=0.05)"),
        ("apgd", "torchattacks", "APGD(norm=Linf, steps=9, loss=ce), smallest of 10 epsilons"),
        ("alma_l2", "adv-lib", "alma(distance=l2, num_steps=100, init_lr_distance=0.1, α=0.5)"),
    ],
)
def test_origin_says_whose_attack_with_which_settings(name, library, rest):
    assert Baseline(name, Planes(soft()), gradients=100).origin == f"{library} {version(library)}: {rest}"


def test_bad_settings_and_calls_are_refused():
    x, labels = soft(), LABEL
    with pytest.raises(InputError, match="unknown baseline 'pgd': choose fgsm, pgd_linf"):
        Baseline("pgd", Planes(x))
    with pytest.raises(InputError, match="gradients must be at least 20"):
        Baseline("ddn", Planes(x), gradients=19)
    attack = Baseline("ddn", Planes(x))
    with pytest.raises(InputError, match=r"\[0, 1\]"):
        attack(2 * x, labels)
    with pytest.raises(InputError, match="height 5 is too small"):
        attack(x[..., :5, :5], labels)
    with pytest.raises(InputError, match=r"alma_ssim needs sides of 11 pixels or more, got \(16, 10\)"):
        Baseline("alma_ssim", Planes(x))(x[..., :10], labels)
    with pytest.raises(InputError, match="float32"):
        attack(x.double(), labels)
    with pytest.raises(InputError, match=r"labels must be class indices in \[0, 2\]"):
        attack(x, torch.tensor([3]))
    with pytest.raises(InputError, match="targets must be integers"):
        attack(x, labels, torch.tensor([0.5]))
    with pytest.raises(InputError, match=r"\(1, K\) logits"):
        Baseline("ddn", lambda images: images.flatten(1).sum(1))(x, labels)
    with pytest.raises(InputError, match="train mode"):
        Baseline("ddn", Planes(x).train())(x, labels)
    with pytest.raises(InputError, match=r"colours.*\(B, 3, H, W\)"):
        Baseline("perc_al", Planes(x))(x[:, :1], labels)
    with pytest.raises(InputError, match="3 classes or more, this one has 2"):
        Baseline("alma_l2", Planes(x, leads=(1.0,)))(x, torch.tensor([1]))
