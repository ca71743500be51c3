from pytorch_grad_cam import GradCAMPlusPlus
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget


def gradcam_plus_plus(model, images, labels):
    with GradCAMPlusPlus(model, [model.network.layer4]) as maps:
        return maps(images.requires_grad_(), [ClassifierOutputTarget(label) for label in labels])
