"""The paper's attack: the best first-order perturbation in the SSIM ball, iterated."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from percep.attacks.criteria import Loss, achieved, loss, margin
from percep.attacks.lattice import to_lattice
from percep.attacks.result import AttackResult, AttackStatus
from percep.ball import SSIMBall
from percep.certificate import certify
from percep.errors import InputError
from percep.program import Program, Solution
from percep.solvers import solve
from percep.ssim import ssim_losses
from percep.windows import Window


@dataclass(frozen=True)
class FrankWolfe:
    """Frank-Wolfe over the SSIM ball (Pochimireddy et al., IEEE JSTSP 2022), judged on saved 8-bit images.

    Each step takes the loss's gradient at the 8-bit image of the current perturbation, solves the linear program
    over the ball, and moves to `(1 - s) d + s d*` with `s = 2 / (t + 2)`: a convex combination, hence inside. The
    new perturbation is brought to the 8-bit lattice inside the true ball, and an image whose saved version is
    adversarial is finished. With a mean, the ellipsoid is expanded at the reference and the rounded image is
    scaled to the budget, so that the whole of it is used.

    Attributes:
        model: maps `(B, C, H, W)` images in [0, 1] to `(B, K)` logits; a module must be in eval mode.
        floor: least SSIM in any window, in (0, 1), or None.
        mean: least mean SSIM, in (0, 1), or None. At least one of floor and mean is needed.
        steps: most gradients per image.
        loss: "margin" (best other logit minus the label's) or "cross_entropy".
        window: the SSIM window, `Window.gaussian()` by default.
        tol: certified relative gap asked of each program.
    """

    model: Callable[[Tensor], Tensor]
    floor: float | None = None
    mean: float | None = None
    steps: int = 10
    loss: Loss = "margin"
    window: Window | None = None
    tol: float = 1e-2

    def __post_init__(self) -> None:
        if self.floor is None and self.mean is None:
            raise InputError("FrankWolfe needs a floor, a mean or both, each in (0, 1)")
        for name, level in (("floor", self.floor), ("mean", self.mean)):
            if level is not None and not 0 < level < 1:
                raise InputError(f"{name} must lie in (0, 1), got {level}")
        if self.steps < 1:
            raise InputError(f"steps must be at least 1, got {self.steps}")
        if self.loss not in ("margin", "cross_entropy"):
            raise InputError(f"loss must be 'margin' or 'cross_entropy', got {self.loss!r}")

    def __call__(self, images: Tensor, labels: Tensor, targets: Tensor | None = None) -> AttackResult:
        """Attacks a batch.

        Args:
            images: `(B, C, H, W)` floating point in [0, 1], multiples of 1/255 so that a saved reference is
                the reference. An image with NaN or infinity gets the status `not_finite`.
            labels: `(B,)` int64 class indices, to be left.
            targets: `(B,)` int64 class indices, to be reached; None for an untargeted attack.

        Raises:
            InputError: images outside [0, 1] or off the 8-bit lattice, labels or targets outside the model's
                classes or of a wrong shape, a module in train mode.
        """
        if isinstance(self.model, nn.Module) and self.model.training:
            raise InputError("the model is in train mode, where its answers change: call model.eval() first")
        ball = SSIMBall(images, self.floor, self.mean, self.window)
        if bool(((ball.reference * 255 - (ball.reference * 255).round()).abs() > 1e-2).any()):
            raise InputError("images must be multiples of 1/255 (8-bit): round them with percep.attacks.quantise")
        run = _Run(self, ball, labels, targets)
        for step in range(self.steps):
            if not run.advance(step):
                break
        run.judge()
        return run.result()


class _Run:
    """The state of one batch. Tensors hold every image; `active` indexes those still attacked."""

    def __init__(self, attack: FrankWolfe, ball: SSIMBall, labels: Tensor, targets: Tensor | None) -> None:
        batch, device = ball.batch, ball.reference.device
        self.attack = attack
        self.ball = ball if ball.mean is None else ball.expand(torch.zeros_like(ball.reference))
        self.labels, self.targets = labels.to(device), None if targets is None else targets.to(device)
        self.delta = torch.zeros_like(ball.reference)
        self.candidate = ball.reference.clone()
        self.best = ball.reference.clone()
        self.best_margin = torch.full((batch,), -torch.inf, dtype=ball.reference.dtype, device=device)
        self.status = [AttackStatus.NOT_FOUND if ok else AttackStatus.NOT_FINITE for ok in ball.finite.tolist()]
        self.active = torch.nonzero(ball.finite).flatten()
        self.before = torch.full((batch,), -1, dtype=torch.int64, device=device)
        self.after = self.before.clone()
        self.gap = torch.full((batch,), torch.nan, dtype=torch.float64, device=device)
        self.gradient_calls = torch.zeros(batch, dtype=torch.int64, device=device)
        self.forward_calls = torch.zeros(batch, dtype=torch.int64, device=device)
        self.solution: Solution | None = None
        for name, classes in (("labels", self.labels), ("targets", self.targets)):
            if classes is not None and (classes.shape != (batch,) or classes.dtype != torch.int64):
                raise InputError(
                    f"{name} must be int64 of shape ({batch},), got {classes.dtype} {tuple(classes.shape)}"
                )

    def advance(self, step: int) -> bool:
        """One gradient and one program for every active image; False when none is left."""
        inputs = self.candidate[self.active].requires_grad_()
        with torch.enable_grad():
            logits = self._logits(inputs)
            going = self._settle(logits.detach(), first=step == 0)
            if not bool(going.any()):
                self.active = self.active[going]
                return False
            labels, targets = self._goals()
            values = loss(self.attack.loss, logits, labels, targets)
            (gradient,) = torch.autograd.grad(values[going].sum(), inputs)
        self.gradient_calls[self.active[going]] += 1
        self.forward_calls[self.active[~going]] += 1
        finite = torch.isfinite(gradient).flatten(1).all(1)
        for image in self.active[going & ~finite].tolist():
            self.status[image] = AttackStatus.NOT_FINITE
        going &= finite
        kept = torch.nonzero(going).flatten()
        self.active, gradient = self.active[kept], gradient[kept]
        if self.solution is not None:
            self.solution = self.solution.select(kept)
        if not len(self.active):
            return False

        ball = self.ball.select(self.active)
        warm_start = self.solution if ball.floor is not None else None
        self.solution = solve(Program(ball, gradient), tol=self.attack.tol, warm_start=warm_start)
        self.gap[self.active] = self.solution.gap
        share = 2 / (step + 2)
        delta = torch.lerp(self.delta[self.active], self.solution.delta, share)
        self.delta[self.active] = delta
        self.candidate[self.active] = to_lattice(ball, delta, fill=True)
        return True

    def judge(self) -> None:
        """Looks at the last candidates, without a gradient."""
        if not len(self.active):
            return
        with torch.no_grad():
            logits = self._logits(self.candidate[self.active])
        self.forward_calls[self.active] += 1
        self.active = self.active[self._settle(logits, first=False)]

    def _logits(self, inputs: Tensor) -> Tensor:
        logits = self.attack.model(inputs)
        if logits.ndim != 2 or logits.shape[0] != inputs.shape[0]:
            raise InputError(f"the model must answer ({inputs.shape[0]}, K) logits, got {tuple(logits.shape)}")
        for name, classes in (("labels", self.labels), ("targets", self.targets)):
            if classes is not None and bool(((classes < 0) | (classes >= logits.shape[1])).any()):
                raise InputError(f"{name} must be class indices in [0, {logits.shape[1] - 1}]")
        return logits

    def _goals(self) -> tuple[Tensor, Tensor | None]:
        targets = None if self.targets is None else self.targets[self.active]
        return self.labels[self.active], targets

    def _settle(self, logits: Tensor, first: bool) -> Tensor:
        """Records what the model says of the active candidates; which of them go on."""
        labels, targets = self._goals()
        finite = torch.isfinite(logits).all(1)
        prediction = torch.where(finite, logits.argmax(1), -1)
        met = achieved(logits, labels, targets)
        value = torch.where(finite, margin(torch.nan_to_num(logits), labels, targets), -torch.inf)
        better = value > self.best_margin[self.active]
        images = self.active[better]
        self.best[images] = self.candidate[images]
        self.best_margin[images] = value[better].to(self.best_margin.dtype)
        self.after[images] = prediction[better]
        if first:
            self.before[self.active] = prediction
        done = AttackStatus.ALREADY_ADVERSARIAL if first else AttackStatus.ADVERSARIAL
        for image, ok, hit in zip(self.active.tolist(), finite.tolist(), met.tolist(), strict=True):
            if hit or not ok:
                self.status[image] = done if hit else AttackStatus.NOT_FINITE
        return finite & ~met

    def result(self) -> AttackResult:
        attack, reference = self.attack, self.ball.reference
        certificate = certify(reference, self.best, attack.floor, attack.mean, attack.window)
        certified = certificate.within & self.ball.finite
        hit = [s in (AttackStatus.ADVERSARIAL, AttackStatus.ALREADY_ADVERSARIAL) for s in self.status]
        losses = ssim_losses(reference, self.best, self.ball.window)
        nan = torch.where(self.ball.finite, 0.0, torch.nan)
        return AttackResult(
            images=self.best,
            success=torch.tensor(hit, device=reference.device) & certified,
            labels_before=self.before,
            labels_after=self.after,
            certified=certified,
            min_ssim=certificate.min_ssim + nan,
            mean_ssim=certificate.mean_ssim + nan,
            gap=self.gap,
            gradient_calls=self.gradient_calls,
            forward_calls=self.forward_calls,
            status=tuple(self.status),
            spending=losses.luminance + losses.contrast,
        )
