"""Amortised attacks: a small convolutional generator trained through `percep.SSIMBallLayer`.

    python examples/generator.py --output outputs/generator

The network maps a photograph to a linear term, the layer maps that to the perturbation it asks for inside the SSIM ball
of the photograph, and the classifier's margin is differentiated through both. After training one forward pass makes an
adversarial image. It is compared with the iterated attack at the same ball, on photographs it was trained on and
on others, as 8-bit images.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import percep
from percep.attacks import quantise
from percep.attacks.criteria import achieved, margin


class Generator(nn.Module):
    """From `(B, 3, H, W)` images to linear terms of the same shape: a small U-Net, three scales down and up.

    What is smoother than a window is taken out of them: SSIM hardly charges for it, but it is seen.
    """

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        widths = (width, 2 * width, 3 * width)
        self.down = nn.ModuleList(
            block(before, after, stride=2) for before, after in zip((3, *widths), widths, strict=False)
        )
        self.deep = block(widths[-1], widths[-1])
        self.up = nn.ModuleList(
            block(deep + skip, skip) for deep, skip in zip(widths[:0:-1], widths[-2::-1], strict=True)
        )
        self.last = nn.Conv2d(width + 3, 3, 5, padding=2)
        self.window = percep.Window.gaussian()

    def forward(self, images: Tensor) -> Tensor:
        scales = [images - 0.5]
        for down in self.down:
            scales.append(down(scales[-1]))
        values = self.deep(scales.pop())
        for up in self.up:
            skip = scales.pop()
            values = up(torch.cat([F.interpolate(values, skip.shape[-2:]), skip], 1))
        full = F.interpolate(values, images.shape[-2:])
        values = self.last(torch.cat([full, scales.pop()], 1))
        return values - self.window.mean(values)


def block(before: int, after: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(before, after, 3, stride, padding=1), nn.GroupNorm(8, after), nn.ReLU())


def crops(images: Tensor) -> Tensor:
    """Each image's part at a random place and scale, mirrored or not, brought to the size of the whole."""
    parts = []
    for image in images:
        side = int(image.shape[-1] * (0.6 + 0.4 * float(torch.rand(()))))
        top, left = (int(torch.randint(length - side + 1, ())) for length in image.shape[-2:])
        part = image[None, :, top : top + side, left : left + side]
        part = F.interpolate(part, image.shape[-2:], mode="bicubic", antialias=True).clamp(0, 1)
        parts.append(part.flip(3) if torch.rand(()) < 0.5 else part)
    return torch.cat(parts)


def train(model: nn.Module, layer: percep.SSIMBallLayer, images: Tensor, steps: int, batch: int) -> Generator:
    """Raises the margin against the class that the model sees, up to 2, over random crops of the images."""
    generator = Generator()
    optimizer = torch.optim.Adam(generator.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)
    for step in range(steps):
        x = crops(images[torch.randperm(len(images))[:batch]])
        with torch.no_grad():
            labels = model(x).argmax(1)
        loss = F.relu(2 - margin(model(x + layer(x, generator(x))), labels, None)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 20 == 0 or step == steps - 1:
            print(f"step {step}: loss {loss.item():.2f}", flush=True)
    return generator


def judge(
    attack: Callable[[Tensor, Tensor], Tensor], model: nn.Module, images: Tensor, labels: Tensor, mean: float
) -> tuple[Tensor, dict[str, float]]:
    """The 8-bit images an attack makes one by one, its success inside the ball, and its seconds per image."""
    start = time.perf_counter()
    made = torch.cat([attack(x[None], label[None]) for x, label in zip(images, labels, strict=True)])
    seconds = (time.perf_counter() - start) / len(images)
    saved = quantise(made)
    within = percep.certify(images, saved, mean=mean).within
    with torch.no_grad():
        fooled = achieved(model(saved), labels, None)
    success, inside = (float(flags.double().mean()) for flags in (fooled & within, within))
    return saved, {"success": success, "within": inside, "seconds_per_image": seconds}


def picture(path: Path, rows: list[tuple[str, Tensor]]) -> None:
    columns = min(5, len(rows[0][1]))
    figure, axes = plt.subplots(len(rows), columns, figsize=(2.2 * columns, 2.3 * len(rows)), squeeze=False)
    for (title, images), line in zip(rows, axes, strict=True):
        for axis, image in zip(line, images, strict=False):
            axis.imshow(image.permute(1, 2, 0).numpy())
            axis.set_axis_off()
        line[0].set_title(title, loc="left", fontsize=9)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def run(output: Path, mean: float, steps: int, batch: int, side: int, held_out: int, most: int) -> dict:
    """Trains, compares, and writes `results.json` and `generator.jpg` into `output`."""
    torch.manual_seed(0)
    model = percep.models.load("efficientnet_lite0").eval().requires_grad_(False)
    photographs = list(percep.data.samples(model.preprocessing))[:most]
    images = torch.stack([photograph.image[:, -side:, -side:] for photograph in photographs])
    labels = model(images).argmax(1)  # what the classifier says, right or wrong, is what is to change
    layer = percep.SSIMBallLayer(mean=mean, tol=1e-2)
    start = time.perf_counter()
    generator = train(model, layer, images[held_out:], steps, batch)
    results: dict = {"mean": mean, "steps": steps, "training_seconds": time.perf_counter() - start}

    @torch.no_grad()
    def amortised(x: Tensor, _: Tensor) -> Tensor:
        return x + layer(x, generator(x))

    @torch.no_grad()
    def random(x: Tensor, _: Tensor) -> Tensor:
        return x + layer(x, torch.randn_like(x))

    def iterated(x: Tensor, own: Tensor) -> Tensor:
        return percep.attacks.FrankWolfe(model, mean=mean)(x, own).images

    attacks = {"one pass": amortised, "iterated": iterated, "random linear term": random}
    for name, part in (("trained on", slice(held_out, None)), ("held out", slice(0, held_out))):
        judged = {title: judge(attack, model, images[part], labels[part], mean) for title, attack in attacks.items()}
        made = judged["one pass"][0]
        results[name] = {"photographs": len(made)} | {title: figures for title, (_, figures) in judged.items()}
    output.mkdir(parents=True, exist_ok=True)
    (output / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    difference = made - images[:held_out]
    largest = difference.flatten(1).abs().quantile(0.999, 1).reshape(-1, 1, 1, 1)
    rows = [
        ("photographs, held out", images[:held_out]),
        ("one forward pass", made),
        ("what it adds, amplified", (0.5 + 0.4 * difference / largest).clamp(0, 1)),
    ]
    picture(output / "generator.jpg", rows)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("outputs/generator"))
    parser.add_argument("--mean", type=float, default=0.9, help="mean SSIM of the ball")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--side", type=int, default=224)
    parser.add_argument("--held-out", type=int, default=5)
    parser.add_argument("--most", type=int, default=20, help="photographs, those held out included")
    arguments = vars(parser.parse_args())
    print(json.dumps(run(**arguments), indent=1))


if __name__ == "__main__":
    main()
