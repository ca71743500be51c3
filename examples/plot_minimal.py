# %% [markdown]
# # The smallest change
#
# No ball: the largest SSIM at which a saved image is misclassified, once for its mean over windows and once for its
# least value in any window.

# %%
import matplotlib.pyplot as plt
import torch

import percep

model = percep.models.load("efficientnet_lite0")
photos = list(percep.data.samples(model.preprocessing).first(2))
images = torch.stack([photo.image for photo in photos])
labels = torch.tensor([photo.label for photo in photos])

# %% [markdown]
# Twelve gradients per photograph and measure; more of them find less. Every image is judged as an 8-bit file.

# %%
answers = {
    measure: percep.attacks.MinimalPerturbation(model, measure=measure, gradients=12)(images, labels)
    for measure in ("mean", "floor")
}
for measure, smallest in answers.items():
    for image, photo in enumerate(photos):
        after = model.category(int(smallest.labels_after[image]))
        print(f"{model.category(photo.label)} -> {after}: 1 - SSIM {1 - smallest.found[image]:.1e} ({measure})")

# %% [markdown]
# What is kept decides where the change goes: an even floor spreads it, a mean lets the attack spend where it pays.

# %%
figure, axes = plt.subplots(2, 3, figsize=(8, 5.4), layout="constrained")
for row, image in enumerate(images):
    axes[row, 0].imshow(image.permute(1, 2, 0).numpy())
    for axis, (measure, smallest) in zip(axes[row, 1:], answers.items(), strict=True):
        size = (image.shape[-2], image.shape[-1])
        spent = percep.explain.allocation_maps(smallest.spending[row : row + 1], size)[0]
        drawn = axis.imshow(spent.numpy(), vmin=0, vmax=4)
        axis.set_title(f"budget of the {measure}", loc="left", fontsize="medium")
figure.colorbar(drawn, ax=axes, label="even share = 1", shrink=0.6)
for axis in axes.flat:
    axis.set_axis_off()
plt.show()
