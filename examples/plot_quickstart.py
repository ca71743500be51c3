# %% [markdown]
# # One ball, four photographs
#
# An adversarial version of each photograph inside the set of images whose SSIM with it is at least 0.98 in every
# window and at least 0.999 on average, judged as an 8-bit file, and certified by code that shares nothing with the
# solver.

# %%
import matplotlib.pyplot as plt
import torch

import percep

model = percep.models.load("efficientnet_lite0")
photos = list(percep.data.samples(model.preprocessing).first(4))
images = torch.stack([photo.image for photo in photos])
labels = torch.tensor([photo.label for photo in photos])

# %% [markdown]
# The attack takes gradients until the saved image is adversarial; one is often enough.

# %%
attack = percep.attacks.FrankWolfe(model, floor=0.98, mean=0.999)
result = attack(images, labels)
report = percep.certify(images, result.images, floor=0.98, mean=0.999)

for image in range(len(images)):
    before, after = (model.category(int(found[image])) for found in (result.labels_before, result.labels_after))
    inside = "inside" if report.within[image] else "outside"
    gradients = int(result.gradient_calls[image])
    least, mean = float(report.min_ssim[image]), float(report.mean_ssim[image])
    print(f"{before} -> {after}: {inside}, SSIM at least {least:.4f}, {mean:.4f} on average, {gradients} gradient(s)")

# %% [markdown]
# The images, their adversarial versions, the difference amplified, and where the perceptual budget went: in
# multiples of an even share.

# %%
delta = result.images - images
spent = percep.explain.allocation_maps(result.spending, (images.shape[-2], images.shape[-1]))
amplified = (0.5 + delta * (0.5 / delta.abs().amax((1, 2, 3), keepdim=True))).clamp(0, 1)
figure, axes = plt.subplots(4, 4, figsize=(8, 8), layout="constrained")
for row, shown in enumerate((images, result.images, amplified)):
    for axis, image in zip(axes[row], shown, strict=True):
        axis.imshow(image.permute(1, 2, 0).numpy())
for axis, spending in zip(axes[3], spent, strict=True):
    drawn = axis.imshow(spending.numpy(), vmin=0, vmax=4)
figure.colorbar(drawn, ax=axes[3], label="budget, even share = 1")
for axis in axes.flat:
    axis.set_axis_off()
for row, title in enumerate(("original", "adversarial", "difference, amplified", "budget spent")):
    axes[row, 0].set_title(title, loc="left", fontsize="medium")
plt.show()
