# %% [markdown]
# # Derivatives of a program
#
# The answer of a program is a function of its data, and `SSIMBallLayer` differentiates it. Here the mean SSIM is
# learned at which a perturbation has a given size, by Newton's method through the layer.

# %%
import matplotlib.pyplot as plt
import torch

import percep

generator = torch.Generator().manual_seed(0)
coarse = torch.rand(1, 1, 4, 4, generator=generator, dtype=torch.float64)
image = 0.25 + 0.5 * torch.nn.functional.interpolate(coarse, 16, mode="bicubic").clamp(0, 1)
pull = torch.randn(image.shape, generator=generator, dtype=torch.float64)
layer = percep.SSIMBallLayer(proximal=0.01, tol=1e-8)


def size(mean: torch.Tensor) -> torch.Tensor:
    """Root mean square of the perturbation that gains most at a mean SSIM."""
    return layer(image, pull, mean=mean).square().mean().sqrt()


# %% [markdown]
# The derivative of the size by the mean, by one adjoint solve and by a central difference.

# %%
mean = torch.tensor(0.999, dtype=torch.float64, requires_grad=True)
(slope,) = torch.autograd.grad(size(mean), mean)
with torch.no_grad():
    difference = (size(mean + 1e-5) - size(mean - 1e-5)) / 2e-5
print(f"derivative {slope:.3f}, central difference {difference:.3f}")

# %% [markdown]
# Newton's method on `size(mean) = 0.01`, that is two and a half grey levels.

# %%
tangents = []
for step in range(4):
    value = size(mean)
    (slope,) = torch.autograd.grad(value, mean)
    tangents.append((mean.item(), value.item(), slope.item()))
    print(f"step {step}: mean SSIM {mean.item():.5f}, size {value.item():.5f}")
    mean = (mean - (value - 0.01) / slope).detach().requires_grad_()

# %%
levels = torch.linspace(0.993, 0.9998, 40, dtype=torch.float64)
with torch.no_grad():
    sizes = [size(level).item() for level in levels]
plt.figure(figsize=(6, 4), layout="constrained")
plt.plot(levels, sizes, color="black", label="size of the answer")
for at, value, slope in tangents[:3]:
    around = torch.tensor([at - 0.001, at + 0.0005])
    plt.plot(around, value + slope * (around - at), label=f"tangent at {at:.4f}")
plt.axhline(0.01, color="grey", linewidth=0.8)
plt.xlabel("mean SSIM")
plt.ylabel("root mean square")
plt.legend()
plt.show()
